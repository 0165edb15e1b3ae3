//! A tree on binned columns, for what `forest` and `boosting` ask: classification and regression in one.
//!
//! A tree splits where the squared error of its targets falls most; with a target of 0 or 1 for each class that is Gini's
//! impurity (Breiman et al. 1984). Thresholds lie between neighbouring values; a column of more than 256 values has them
//! at its quantiles (as LightGBM and scikit-learn's histogram trees). Left out: pruning, smallest leaves, missing values.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::Table;

const BINS_MAX: usize = 256;

/// Where each column is cut: a value is in the first bin whose cut it does not exceed, else in the last.
pub(super) struct Cuts(Vec<Vec<f64>>);

/// The bin of each row, column after column.
pub(super) struct Codes(Vec<Vec<u8>>);

/// What a tree is grown from. Cells are rows that count `weight` times.
pub(super) struct Growth<'a> {
    pub(super) codes: &'a Codes,
    /// Cell after cell, `width` sums of targets over the rows that the cell stands for.
    pub(super) sums: &'a [f64],
    pub(super) width: usize,
    pub(super) weight: &'a [f64],
    /// Levels of splits.
    pub(super) depth: usize,
    /// Columns tried at each node; more where all of them are constant there.
    pub(super) tried: usize,
}

pub(super) struct Tree {
    /// The root first, children behind their parent.
    nodes: Vec<Node>,
    /// Of each node, as in [`Growth`].
    sums: Vec<f64>,
    weight: Vec<f64>,
}

/// `left` and `left + 1` are the children; 0 has none.
#[derive(Clone, Copy, Default)]
struct Node {
    column: usize,
    bin: u8,
    left: usize,
}

#[derive(Clone, Copy)]
struct Split {
    column: usize,
    bin: u8,
    gain: f64,
}

impl Cuts {
    pub(super) fn of(table: &Table, rows: &[usize]) -> Self {
        let cut = |column: usize| -> Vec<f64> {
            let mut values: Vec<f64> = rows.iter().map(|row| table.design.row(*row)[column]).collect();
            values.sort_by(f64::total_cmp);
            let mut distinct = values.clone();
            distinct.dedup();
            if distinct.len() <= BINS_MAX {
                return distinct.windows(2).map(|pair| between(pair[0], pair[1])).collect();
            }
            let above = |value: f64| distinct.get(distinct.partition_point(|v| *v <= value)).copied();
            let at = |part: usize| values[part * values.len() / BINS_MAX - 1];
            let quantile = |part: usize| above(at(part)).map(|next| between(at(part), next));
            let mut cuts: Vec<f64> = (1..BINS_MAX).filter_map(quantile).collect();
            cuts.dedup();
            cuts
        };
        Self((0..table.design.columns()).map(cut).collect())
    }

    pub(super) fn codes(&self, table: &Table, rows: &[usize]) -> Codes {
        let code = |(column, cuts): (usize, &Vec<f64>)| {
            let bin = |row: &usize| cuts.partition_point(|cut| *cut < table.design.row(*row)[column]) as u8;
            rows.iter().map(bin).collect()
        };
        Codes(self.0.iter().enumerate().map(code).collect())
    }
}

/// The middle, or the lower value where there is none between.
fn between(lower: f64, upper: f64) -> f64 {
    let middle = lower + (upper - lower) / 2.0;
    if middle < upper { middle } else { lower }
}

impl Growth<'_> {
    pub(super) fn grown(&self, rng: &mut ChaCha8Rng) -> Tree {
        let mut cells: Vec<usize> = (0..self.weight.len()).filter(|cell| self.weight[*cell] > 0.0).collect();
        let mut tree = Tree { nodes: Vec::new(), sums: Vec::new(), weight: Vec::new() };
        tree.push(self, &cells);
        let mut columns: Vec<usize> = (0..self.codes.0.len()).collect();
        let mut open = vec![(0, 0..cells.len(), 0)];
        while let Some((node, range, level)) = open.pop() {
            if level == self.depth {
                continue;
            }
            let here = &mut cells[range.clone()];
            let Some(split) = self.split(&tree, node, here, &mut columns, rng) else { continue };
            let middle = partition(here, |cell| self.codes.0[split.column][cell] <= split.bin);
            let left = tree.nodes.len();
            tree.nodes[node] = Node { column: split.column, bin: split.bin, left };
            tree.push(self, &here[..middle]);
            tree.push(self, &here[middle..]);
            let middle = range.start + middle;
            open.push((left + 1, middle..range.end, level + 1));
            open.push((left, range.start..middle, level + 1));
        }
        tree
    }

    /// The best split of the columns drawn; none where every column is constant.
    fn split(
        &self,
        tree: &Tree,
        node: usize,
        cells: &[usize],
        columns: &mut [usize],
        rng: &mut ChaCha8Rng,
    ) -> Option<Split> {
        let (total, weight) = (&tree.sums[node * self.width..(node + 1) * self.width], tree.weight[node]);
        let mut bins = vec![0.0; BINS_MAX * (self.width + 1)];
        let mut best: Option<Split> = None;
        for drawn in 0..columns.len() {
            if drawn >= self.tried && best.is_some() {
                break;
            }
            columns.swap(drawn, rng.random_range(drawn..columns.len()));
            let found = self.cut(columns[drawn], cells, (total, weight), &mut bins);
            if let Some(found) = found.filter(|found| best.is_none_or(|best| found.gain > best.gain)) {
                best = Some(found);
            }
        }
        best
    }

    /// The best cut of a column: the largest Σ left²/weight + Σ right²/weight, which the error falls by.
    fn cut(&self, column: usize, cells: &[usize], all: (&[f64], f64), bins: &mut [f64]) -> Option<Split> {
        let (codes, width) = (&self.codes.0[column], self.width);
        let (mut lowest, mut highest) = (u8::MAX, 0);
        for cell in cells {
            lowest = lowest.min(codes[*cell]);
            highest = highest.max(codes[*cell]);
        }
        if lowest >= highest {
            return None;
        }
        let stride = width + 1;
        let used = usize::from(lowest) * stride..(usize::from(highest) + 1) * stride;
        bins[used.clone()].fill(0.0);
        for &cell in cells {
            let bin = &mut bins[usize::from(codes[cell]) * stride..][..stride];
            bin[width] += self.weight[cell];
            bin.iter_mut().zip(&self.sums[cell * width..][..width]).for_each(|(bin, sum)| *bin += sum);
        }
        let (total, weight) = all;
        let (mut left, mut left_weight) = (vec![0.0; width], 0.0);
        let mut best: Option<Split> = None;
        for (bin, sums) in (lowest..highest).zip(bins[used].chunks_exact(stride)) {
            if sums[width] == 0.0 {
                continue;
            }
            left_weight += sums[width];
            left.iter_mut().zip(sums).for_each(|(left, sum)| *left += sum);
            let right_weight = weight - left_weight;
            let square = |(left, total): (&f64, &f64)| {
                left * left / left_weight + (total - left) * (total - left) / right_weight
            };
            let gain: f64 = left.iter().zip(total).map(square).sum();
            if best.is_none_or(|best| gain > best.gain) {
                best = Some(Split { column, bin, gain });
            }
        }
        best
    }
}

impl Tree {
    fn push(&mut self, growth: &Growth, cells: &[usize]) {
        let width = growth.width;
        self.nodes.push(Node::default());
        self.weight.push(cells.iter().map(|cell| growth.weight[*cell]).sum());
        let start = self.sums.len();
        self.sums.resize(start + width, 0.0);
        for cell in cells {
            let sums = &growth.sums[cell * width..][..width];
            self.sums[start..].iter_mut().zip(sums).for_each(|(all, sum)| *all += sum);
        }
    }

    pub(super) fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// The nodes that a row passes, from the root to its leaf.
    pub(super) fn path(&self, codes: &Codes, row: usize) -> impl Iterator<Item = usize> {
        let below = move |node: &usize| {
            let Node { column, bin, left } = self.nodes[*node];
            (left > 0).then(|| left + usize::from(codes.0[column][row] > bin))
        };
        std::iter::successors(Some(0), below)
    }

    /// The leaf of a row.
    pub(super) fn leaf(&self, codes: &Codes, row: usize) -> usize {
        self.path(codes, row).last().unwrap_or(0)
    }

    /// Means of the targets in a node.
    pub(super) fn means(&self, node: usize) -> impl Iterator<Item = f64> {
        let width = self.sums.len() / self.nodes.len();
        self.sums[node * width..][..width].iter().map(move |sum| sum / self.weight[node])
    }
}

/// Puts first what belongs left; returns how many do.
fn partition(cells: &mut [usize], left: impl Fn(usize) -> bool) -> usize {
    let mut middle = 0;
    for at in 0..cells.len() {
        if left(cells[at]) {
            cells.swap(at, middle);
            middle += 1;
        }
    }
    middle
}
