//! Which further cells of a table with told margins are not told, so that a small one cannot be had by subtracting.
//!
//! Rows and columns are the nodes of a graph, cells its edges. Numbers of hidden cells can change without any told sum
//! noticing exactly along its cycles, up in one cell and down in the next, so a small cell is safe where a cycle of hidden
//! cells lets it rise to [`PATIENTS_MIN`] (Cox 1980; Kelly, Golden & Assad 1992). The cheapest such cycle is looked for.
//! Left out: what cells hold.

use crate::stats::PATIENTS_MIN;

/// What the search asks of cells.
pub(super) struct Grid<'a> {
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// By row, then column.
    pub(super) hidden: &'a [bool],
    /// What it costs to hide a cell that is told.
    pub(super) cost: &'a [f64],
    /// What is moved, in studies.
    pub(super) moved: &'a [usize],
    /// What makes up for it within the cell, where the sum of both is told.
    pub(super) against: Option<&'a [usize]>,
}

impl Grid<'_> {
    /// The cells of the cheapest cycle through `cell`, which rises; `None` where there is no cycle.
    pub(super) fn cycle(&self, cell: usize) -> Option<Vec<usize>> {
        let step = PATIENTS_MIN.saturating_sub(self.moved[cell]).max(1);
        let can_rise = |at: usize| self.against.is_none_or(|against| against[at] >= step);
        let can_fall = |at: usize| self.moved[at] >= step;
        if !can_rise(cell) {
            return None;
        }
        let (from, to) = (cell / self.columns, self.rows + cell % self.columns);
        let nodes = self.rows + self.columns;
        let mut cost = vec![f64::INFINITY; nodes];
        let mut came: Vec<Option<(usize, usize)>> = vec![None; nodes];
        let mut done = vec![false; nodes];
        cost[from] = 0.0;
        loop {
            let open = (0..nodes).filter(|node| !done[*node] && cost[*node].is_finite());
            let node = open.min_by(|a, b| cost[*a].total_cmp(&cost[*b]))?;
            if node == to {
                break;
            }
            done[node] = true;
            // Out of a row a cell falls, out of a column one rises.
            let is_row = node < self.rows;
            let others = if is_row { self.rows..nodes } else { 0..self.rows };
            for other in others {
                let (row, column) = if is_row { (node, other) } else { (other, node) };
                let at = row * self.columns + column - self.rows;
                let can = if is_row { can_fall(at) } else { can_rise(at) };
                let price = cost[node] + if self.hidden[at] { 1e-6 } else { 1.0 + self.cost[at] };
                if at != cell && can && price < cost[other] {
                    (cost[other], came[other]) = (price, Some((node, at)));
                }
            }
        }
        let mut cells = vec![cell];
        let mut node = to;
        while let Some((before, at)) = came[node] {
            cells.push(at);
            node = before;
        }
        Some(cells)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_cell_takes_the_cheapest_rectangle_that_can_give_enough() {
        let moved = [3, 50, 40, 20, 30, 90, 60, 9, 70];
        let cost: Vec<f64> = moved.iter().map(|n| *n as f64).collect();
        let mut hidden = [false; 9];
        hidden[0] = true;
        let grid = |hidden, against| Grid { rows: 3, columns: 3, hidden, cost: &cost, moved: &moved, against };
        let mut found = grid(&hidden, None).cycle(0).unwrap();
        found.sort_unstable();
        // Rows 0 and 1, columns 0 and 1: 3 + 50 + 20 + 30; by row 2 column 1 it would cost 60 in place of 20.
        assert_eq!(found, [0, 1, 3, 4]);
        // What is hidden anyhow costs nothing.
        let mut more = hidden;
        (more[2], more[6], more[8]) = (true, true, true);
        let mut found = grid(&more, None).cycle(0).unwrap();
        found.sort_unstable();
        assert_eq!(found, [0, 2, 6, 8]);
        // Where the sum within each cell is told, what rises has to have enough of the other.
        let against = [20, 20, 20, 20, 0, 20, 20, 20, 20];
        let found = grid(&hidden, Some(&against)).cycle(0).unwrap();
        assert!(!found.contains(&4), "{found:?}");
        assert_eq!(grid(&hidden, Some(&[0; 9])).cycle(0), None);
        assert_eq!(Grid { rows: 1, columns: 3, hidden: &hidden[..3], ..grid(&hidden, None) }.cycle(0), None);
    }
}
