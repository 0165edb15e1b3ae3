//! A tree for what `forest` and `boosting` ask: classification and regression in one.
//!
//! A tree splits where the squared error of its targets falls most; with a target of 0 or 1 for each class that is Gini's
//! impurity (Breiman et al. 1984). Thresholds lie in the middle between neighbouring values of a node, as in scikit-learn;
//! what is equally good is drawn. Left out: pruning, smallest leaves, missing values.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::Table;

/// As many bins as a histogram may have however few cells there are.
const BINS_FREE: usize = 256;

/// Columns of some rows by the ranks of their values.
pub(super) struct Ranks {
    /// Column after column, the values that occur, in their order.
    values: Vec<Vec<f64>>,
    /// Column after column, the place of each row's value.
    rank: Vec<Vec<u32>>,
}

/// What a tree is grown from. Cells are rows that count `weight` times.
pub(super) struct Growth<'a> {
    pub(super) ranks: &'a Ranks,
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

/// `left`, of what does not exceed the threshold, and `left + 1` are the children; 0 has none.
#[derive(Clone, Copy, Default)]
struct Node {
    column: usize,
    threshold: f64,
    left: usize,
}

/// Between two ranks that follow each other in a node.
#[derive(Clone, Copy)]
struct Split {
    column: usize,
    lower: u32,
    upper: u32,
    gain: f64,
}

impl Ranks {
    pub(super) fn of(table: &Table, rows: &[usize]) -> Self {
        let columns = 0..table.design.columns();
        let value = |row: &usize, column: usize| table.design.row(*row)[column];
        let distinct = |column: usize| -> Vec<f64> {
            let mut values: Vec<f64> = rows.iter().map(|row| value(row, column)).collect();
            values.sort_by(f64::total_cmp);
            values.dedup();
            values
        };
        let values: Vec<Vec<f64>> = columns.clone().map(distinct).collect();
        let ranked = |column: usize| -> Vec<u32> {
            let place = |row: &usize| values[column].partition_point(|v| *v < value(row, column)) as u32;
            rows.iter().map(place).collect()
        };
        let rank = columns.map(ranked).collect();
        Self { values, rank }
    }

    /// The middle between two values, or the lower one where there is none between.
    fn between(&self, split: &Split) -> f64 {
        let [lower, upper] = [split.lower, split.upper].map(|rank| self.values[split.column][rank as usize]);
        let middle = lower + (upper - lower) / 2.0;
        if middle < upper { middle } else { lower }
    }
}

impl Growth<'_> {
    pub(super) fn grown(&self, rng: &mut ChaCha8Rng) -> Tree {
        let mut cells: Vec<usize> = (0..self.weight.len()).filter(|cell| self.weight[*cell] > 0.0).collect();
        let mut tree = Tree { nodes: Vec::new(), sums: Vec::new(), weight: Vec::new() };
        tree.push(self, &cells);
        let mut columns: Vec<usize> = (0..self.ranks.rank.len()).collect();
        let mut open = vec![(0, 0..cells.len(), 0)];
        while let Some((node, range, level)) = open.pop() {
            if level == self.depth {
                continue;
            }
            let here = &mut cells[range.clone()];
            let Some(split) = self.split(&tree, node, here, &mut columns, rng) else { continue };
            let middle = partition(here, |cell| self.ranks.rank[split.column][cell] <= split.lower);
            let left = tree.nodes.len();
            tree.nodes[node] = Node { column: split.column, threshold: self.ranks.between(&split), left };
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
        let mut best: Option<Split> = None;
        for drawn in 0..columns.len() {
            if drawn >= self.tried && best.is_some() {
                break;
            }
            columns.swap(drawn, rng.random_range(drawn..columns.len()));
            let all = (&tree.sums[node * self.width..][..self.width], tree.weight[node]);
            let found = self.cut(columns[drawn], cells, all);
            best = found.filter(|found| best.is_none_or(|best| found.gain > best.gain)).or(best);
        }
        best
    }

    /// The best cut of a column; none where it is constant.
    fn cut(&self, column: usize, cells: &[usize], all: (&[f64], f64)) -> Option<Split> {
        let (rank, width) = (&self.ranks.rank[column], self.width);
        let of = |cell: usize| (self.weight[cell], &self.sums[cell * width..][..width]);
        let lowest = cells.iter().map(|cell| rank[*cell]).min()?;
        let highest = cells.iter().map(|cell| rank[*cell]).max()?;
        let mut scan = Scan { column, all, left: vec![0.0; width], left_weight: 0.0, last: None, best: None };
        let bins = (highest - lowest) as usize + 1;
        if bins == 1 {
            return None;
        }
        if bins <= BINS_FREE.max(2 * cells.len()) {
            // Counting is faster than sorting where ranks are close.
            let mut histogram = vec![0.0; bins * (width + 1)];
            for &cell in cells {
                let bin = &mut histogram[(rank[cell] - lowest) as usize * (width + 1)..][..=width];
                let (weight, sums) = of(cell);
                bin[width] += weight;
                bin.iter_mut().zip(sums).for_each(|(bin, sum)| *bin += sum);
            }
            let filled = (lowest..).zip(histogram.chunks_exact(width + 1)).filter(|(_, bin)| bin[width] > 0.0);
            filled.for_each(|(rank, bin)| scan.pass(rank, bin[width], &bin[..width]));
        } else {
            let mut sorted: Vec<(u32, usize)> = cells.iter().map(|cell| (rank[*cell], *cell)).collect();
            sorted.sort_unstable();
            for (rank, cell) in sorted {
                let (weight, sums) = of(cell);
                scan.pass(rank, weight, sums);
            }
        }
        scan.best
    }
}

/// Goes through the ranks of a node from below, and keeps the best cut: the largest Σ left²/weight + Σ right²/weight, by which
/// the error falls.
struct Scan<'a> {
    column: usize,
    all: (&'a [f64], f64),
    left: Vec<f64>,
    left_weight: f64,
    last: Option<u32>,
    best: Option<Split>,
}

impl Scan<'_> {
    fn pass(&mut self, rank: u32, weight: f64, sums: &[f64]) {
        if let Some(lower) = self.last.filter(|last| *last < rank) {
            let right_weight = self.all.1 - self.left_weight;
            let square =
                |(left, all): (&f64, &f64)| left * left / self.left_weight + (all - left) * (all - left) / right_weight;
            let gain: f64 = self.left.iter().zip(self.all.0).map(square).sum();
            if self.best.is_none_or(|best| gain > best.gain) {
                self.best = Some(Split { column: self.column, lower, upper: rank, gain });
            }
        }
        self.last = Some(rank);
        self.left_weight += weight;
        self.left.iter_mut().zip(sums).for_each(|(left, sum)| *left += sum);
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
    pub(super) fn path(&self, row: &[f64]) -> impl Iterator<Item = usize> {
        let below = move |node: &usize| {
            let Node { column, threshold, left } = self.nodes[*node];
            (left > 0).then(|| left + usize::from(row[column] > threshold))
        };
        std::iter::successors(Some(0), below)
    }

    pub(super) fn leaf(&self, row: &[f64]) -> usize {
        self.path(row).last().unwrap_or(0)
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
