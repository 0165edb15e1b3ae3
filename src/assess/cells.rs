//! What may be told of counts of patients: none from 1 to 10, and none that would give such a one away (method.md §4).
//!
//! Neighbours: `fit` and `diagnostics` count, `show` and `diff` print. Left out: what the counts are of.

/// Cells of fewer patients than this, but some, are not told.
pub(super) const CELL_MIN: usize = 11;

pub(super) fn is_small(count: usize) -> bool {
    (1..CELL_MIN).contains(&count)
}

/// The parts of a whole that is told: small ones are hidden, and then others, the smallest first, until what is hidden
/// is of several parts and no small cell together.
pub(super) fn shown(counts: &[usize]) -> Vec<Option<usize>> {
    let mut shown: Vec<Option<usize>> = counts.iter().map(|&count| (!is_small(count)).then_some(count)).collect();
    loop {
        let hidden = || counts.iter().zip(&shown).filter(|(_, shown)| shown.is_none()).map(|(count, _)| *count);
        let safe = hidden().count() > 1 && !is_small(hidden().sum());
        // A part without anybody hides least.
        let next = shown.iter().enumerate().filter_map(|(i, count)| Some(((*count)? == 0, (*count)?, i))).min();
        match next {
            Some((.., next)) if hidden().count() > 0 && !safe => shown[next] = None,
            _ => return shown,
        }
    }
}

/// A count for people.
pub(super) fn told(count: Option<usize>) -> String {
    count.map_or_else(|| "–".to_owned(), |count| count.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_small_cell_can_be_computed_from_what_is_told() {
        let check = |counts: &[usize], expected: &[Option<usize>]| assert_eq!(shown(counts), expected, "{counts:?}");
        check(&[11, 500, 0], &[Some(11), Some(500), Some(0)]);
        // Alone, it would be the whole less the others.
        check(&[3, 500, 40], &[None, Some(500), None]);
        check(&[3, 40], &[None, None]);
        // Two that come to ten at most are a small cell themselves.
        check(&[3, 4, 500, 40], &[None, None, Some(500), None]);
        check(&[6, 7, 500], &[None, None, Some(500)]);
        check(&[10, 0, 20], &[None, Some(0), None]);
        check(&[5, 0], &[None, None]);
        check(&[], &[]);
        assert_eq!((told(None), told(Some(12))), ("–".to_owned(), "12".to_owned()));
    }
}
