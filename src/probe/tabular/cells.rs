//! Rows that are alike, counted: a cell for each distinct row, with how many of each class it holds.
//!
//! Fourteen labels of 300,000 images are a few thousand cells, and a fit on cells with weights is the fit on the rows.
//! Neighbours: all learners learn from cells; `forest` draws rows and counts them by cell.

use std::cmp::Ordering;

use super::Table;

/// Distinct rows with the classes of those that have them.
pub(super) struct Cells {
    /// One row of the table for each cell.
    pub(super) rows: Vec<usize>,
    /// How many rows are like it.
    pub(super) weight: Vec<f64>,
    /// Cell after cell, how many of its rows are of each class.
    pub(super) count: Vec<f64>,
    pub(super) classes: usize,
    /// All rows.
    pub(super) total: f64,
}

impl Cells {
    pub(super) fn of(table: &Table, rows: &[usize]) -> Self {
        let compare = |a: usize, b: usize| {
            let pairs = table.design.row(a).iter().zip(table.design.row(b));
            pairs.map(|(x, y)| x.total_cmp(y)).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
        };
        let mut order = rows.to_vec();
        order.sort_by(|a, b| compare(*a, *b).then(a.cmp(b)));
        let (classes, total) = (table.classes, order.len() as f64);
        let mut cells = Self { rows: Vec::new(), weight: Vec::new(), count: Vec::new(), classes, total };
        for row in order {
            if cells.rows.last().is_none_or(|last| compare(*last, row).is_ne()) {
                cells.rows.push(row);
                cells.weight.push(0.0);
                cells.count.resize(cells.count.len() + classes, 0.0);
            }
            let cell = cells.rows.len() - 1;
            cells.weight[cell] += 1.0;
            cells.count[cell * classes + table.class[row]] += 1.0;
        }
        cells
    }

    /// The classes' shares of all rows.
    pub(super) fn shares(&self) -> Vec<f64> {
        let mut shares = vec![0.0; self.classes];
        for counts in self.count.chunks_exact(self.classes) {
            shares.iter_mut().zip(counts).for_each(|(share, count)| *share += count / self.total);
        }
        shares
    }
}
