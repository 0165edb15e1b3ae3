//! Which numbers of a table group × level are told: none from which a cell of 1–10 patients follows.
//!
//! Counts are told in steps, each a split of the one before: studies; events among them; misses among the events, false
//! alarms among the others. A rate is told only with both its counts, since a fraction gives them away. At each step
//! lines (groups, levels) whose own totals are small are taken together, with one more if need be, and left out; in the
//! rest small cells are hidden with a cycle of others (`cycles`). Margins that are told never change to protect a cell, so
//! tables of several dimensions that share them are as safe together as each is alone: they can be completed independently
//! of each other. Left out: differences between reports of different months or queries.

use serde::Serialize;

use super::cycles::Grid;
use super::dataset::Row;
use super::performance::{Cell, Confusion, counted_by};
use crate::stats::PATIENTS_MIN;

/// A step in which counts are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Studies,
    Events,
    Misses,
    Alarms,
}

const STEPS: [Step; 4] = [Step::Studies, Step::Events, Step::Misses, Step::Alarms];

/// What is told of a block. Nothing is, unless the step before is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Told {
    pub studies: bool,
    pub events: bool,
    pub misses: bool,
    pub alarms: bool,
}

/// Lines that are told on their own, by step and line; and whether the total of all is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lines {
    pooled: [Vec<bool>; 4],
    whole: [bool; 4],
}

impl Step {
    fn before(self) -> Option<Self> {
        match self {
            Self::Studies => None,
            Self::Events => Some(Self::Studies),
            Self::Misses | Self::Alarms => Some(Self::Events),
        }
    }

    /// What the step splits into.
    fn parts(self, of: &Confusion) -> Vec<Cell> {
        match self {
            Self::Studies => vec![of.all],
            Self::Events => vec![of.events, of.non_events],
            Self::Misses => vec![of.true_positive, of.false_negative],
            Self::Alarms => vec![of.false_positive, of.true_negative],
        }
    }

    fn is_small(self, of: &Confusion) -> bool {
        self.parts(of).iter().any(|part| (1..PATIENTS_MIN).contains(&part.patients))
    }

    /// Atoms that a small part of this step is made of.
    fn atoms(self) -> &'static [usize] {
        match self {
            Self::Studies | Self::Events => &[0, 1, 2, 3],
            Self::Misses => &[0, 1],
            Self::Alarms => &[2, 3],
        }
    }

    /// Atoms that may fall where this one rises, so that the sums which were told before stay.
    fn against(self, atom: usize) -> Option<Vec<usize>> {
        match self {
            Self::Studies => None,
            Self::Events => Some(if atom < 2 { vec![3, 2] } else { vec![0, 1] }),
            Self::Misses | Self::Alarms => Some(vec![atom ^ 1]),
        }
    }
}

impl Told {
    fn of(is: [bool; 4]) -> Self {
        let [studies, events, misses, alarms] = is;
        Self { studies, events: studies && events, misses: studies && events && misses, alarms: events && alarms }
    }
}

fn atom(of: &Confusion, atom: usize) -> usize {
    [of.true_positive, of.false_negative, of.false_positive, of.true_negative][atom].studies
}

impl Lines {
    /// `line` of each row, `0..lines`; `never`: those that are not told whatever they hold (studies without a group).
    pub(super) fn of(rows: &[Row], line: &dyn Fn(&Row) -> usize, never: &[bool]) -> Self {
        let whole = counted_by(rows, 1, |_| 0)[0];
        let own = counted_by(rows, never.len(), line);
        let mut lines = Self { pooled: [never, never, never, never].map(<[bool]>::to_vec), whole: [true; 4] };
        for step in STEPS {
            let before = step.before().map(|s| (lines.whole[s as usize], lines.pooled[s as usize].clone()));
            let (is_whole, mut pooled) = before.unwrap_or((true, never.to_vec()));
            let is_whole = is_whole && !step.is_small(&whole);
            pooled.iter_mut().zip(&own).for_each(|(pooled, own)| *pooled |= !is_whole || step.is_small(own));
            // Where the whole is not told no line is.
            while pooled.contains(&false) {
                let sum = counted_by(rows, 2, |row| usize::from(pooled[line(row)]))[1];
                // Whoever knows that one of two is small knows that it is what is left of 11 to 21.
                let small = |part: usize| {
                    let is_small = |own: &Confusion| (1..PATIENTS_MIN).contains(&step.parts(own)[part].patients);
                    own.iter().any(is_small)
                };
                let least = |part| if small(part) { 2 * PATIENTS_MIN } else { PATIENTS_MIN };
                if step.parts(&sum).iter().enumerate().all(|(at, part)| !(1..least(at)).contains(&part.patients)) {
                    break;
                }
                let open = (0..own.len()).filter(|at| !pooled[*at] && own[*at].all.studies > 0);
                let Some(next) = open.min_by_key(|at| own[*at].all.studies) else { break };
                pooled[next] = true;
            }
            (lines.whole[step as usize], lines.pooled[step as usize]) = (is_whole, pooled);
        }
        lines
    }

    /// What is told of the total.
    pub(super) fn whole(&self) -> Told {
        Told::of(self.whole)
    }

    /// What is told of a line.
    pub(super) fn line(&self, line: usize) -> Told {
        Told::of(STEPS.map(|step| !self.pooled[step as usize][line]))
    }

    /// Leaves the smallest line that is told out, at this step and those that follow; false where none is left.
    fn drop_smallest(&mut self, step: Step, own: &[Confusion]) -> bool {
        let open = (0..own.len()).filter(|at| !self.pooled[step as usize][*at]);
        let Some(next) = open.min_by_key(|at| own[*at].all.studies) else { return false };
        for later in STEPS {
            let mut chain = std::iter::successors(Some(later), |s| s.before());
            if chain.any(|s| s == step) {
                self.pooled[later as usize][next] = true;
            }
        }
        true
    }

    /// Places of lines in a table where those that are left out are one line, the last.
    fn places(&self, step: Step) -> (Vec<usize>, usize) {
        let pooled = &self.pooled[step as usize];
        let open = pooled.iter().filter(|p| !**p).count();
        let mut next = 0;
        let place = |is_pooled: &bool| {
            if *is_pooled {
                return open;
            }
            next += 1;
            next - 1
        };
        (pooled.iter().map(place).collect(), open + usize::from(pooled.contains(&true)))
    }
}

/// What is told of a table of two ways: columns, and cells by group, then level.
pub(super) struct TableTold {
    pub(super) columns: Lines,
    pub(super) cells: Vec<Told>,
}

/// `groups` come from the totals of groups, which all dimensions share.
pub(super) fn table(
    rows: &[Row],
    groups: &Lines,
    group: &dyn Fn(&Row) -> usize,
    level: &dyn Fn(&Row) -> usize,
    levels: usize,
) -> TableTold {
    let mut columns = Lines::of(rows, level, &vec![false; levels]);
    let own = counted_by(rows, levels, level);
    let count = groups.pooled[0].len();
    'again: loop {
        let mut hidden: [Vec<bool>; 4] = std::array::from_fn(|_| vec![false; count * levels]);
        for step in STEPS {
            let before = step.before().map(|s| hidden[s as usize].clone());
            let side = Side { step, groups, columns: &columns, levels };
            match side.hidden(rows, group, level, before.as_deref()) {
                Some(found) => hidden[step as usize] = found,
                None if columns.drop_smallest(step, &own) => continue 'again,
                None => hidden[step as usize] = vec![true; count * levels],
            }
        }
        let cells = (0..count * levels).map(|at| Told::of(STEPS.map(|step| !hidden[step as usize][at]))).collect();
        return TableTold { columns, cells };
    }
}

/// One step of a table.
struct Side<'a> {
    step: Step,
    groups: &'a Lines,
    columns: &'a Lines,
    levels: usize,
}

impl Side<'_> {
    /// Cells that are not told, by group, then level; `None` where a small one cannot be protected.
    fn hidden(
        &self,
        rows: &[Row],
        group: &dyn Fn(&Row) -> usize,
        level: &dyn Fn(&Row) -> usize,
        before: Option<&[bool]>,
    ) -> Option<Vec<bool>> {
        let (row_of, height) = self.groups.places(self.step);
        let (column_of, width) = self.columns.places(self.step);
        let cells = counted_by(rows, height * width, |row| row_of[group(row)] * width + column_of[level(row)]);
        let (row_pooled, column_pooled) =
            (&self.groups.pooled[self.step as usize], &self.columns.pooled[self.step as usize]);
        let mut hidden: Vec<bool> = cells.iter().map(|cell| self.step.is_small(cell)).collect();
        for (g, row) in row_of.iter().enumerate() {
            for (l, column) in column_of.iter().enumerate() {
                let is_hidden = before.is_some_and(|before| before[g * self.levels + l]);
                hidden[row * width + column] |= is_hidden || row_pooled[g] || column_pooled[l];
            }
        }
        // Where everything was hidden in the step before, that step's cycles protect it.
        let mut done = vec![before.is_some(); cells.len()];
        for (at, is_hidden) in before.unwrap_or_default().iter().enumerate() {
            done[row_of[at / self.levels] * width + column_of[at % self.levels]] &= *is_hidden;
        }
        self.protect(&cells, &mut hidden, done, width)?;
        let place = |at: usize| row_of[at / self.levels] * width + column_of[at % self.levels];
        Some((0..row_of.len() * self.levels).map(|at| hidden[place(at)]).collect())
    }

    /// Hides more until every small number can rise.
    fn protect(&self, cells: &[Confusion], hidden: &mut [bool], mut done: Vec<bool>, width: usize) -> Option<()> {
        let cost: Vec<f64> = cells.iter().map(|cell| cell.all.studies as f64).collect();
        let atoms: [Vec<usize>; 4] = std::array::from_fn(|k| cells.iter().map(|cell| atom(cell, k)).collect());
        while let Some(cell) = (0..cells.len()).find(|at| hidden[*at] && !done[*at]) {
            done[cell] = true;
            for &k in self.step.atoms() {
                if !(1..PATIENTS_MIN).contains(&patients(&cells[cell], k)) {
                    continue;
                }
                let grid = |against: Option<usize>| Grid {
                    rows: cells.len() / width.max(1),
                    columns: width,
                    hidden,
                    cost: &cost,
                    moved: &atoms[k],
                    against: against.map(|j| atoms[j].as_slice()),
                };
                let found = match self.step.against(k) {
                    None => grid(None).cycle(cell),
                    Some(others) => others.into_iter().find_map(|j| grid(Some(j)).cycle(cell)),
                };
                found?.into_iter().for_each(|at| hidden[at] = true);
            }
        }
        Some(())
    }
}

fn patients(of: &Confusion, atom: usize) -> usize {
    [of.true_positive, of.false_negative, of.false_positive, of.true_negative][atom].patients
}

#[cfg(test)]
mod tests;
