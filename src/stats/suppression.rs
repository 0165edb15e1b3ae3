//! Numbers of patients that are not told, and with them those from which they could be had by subtracting.
//!
//! Neighbours: `probe` uses it for one line of counts, `audit` has tables with margins. Left out: what the counts are of.

/// A number of patients below it, and above 0, is not told (1 to 10: the CMS cell suppression policy).
pub const PATIENTS_MIN: usize = 11;

/// Which of the numbers of patients that together make a known sum are not told: those below [`PATIENTS_MIN`], and
/// with them the next larger ones, until what is left out cannot be had by subtracting. `remainder`: patients who are
/// in the sum and in none of the numbers.
pub fn hidden(counts: &[usize], remainder: usize) -> Vec<bool> {
    let mut hidden: Vec<bool> = counts.iter().map(|count| (1..PATIENTS_MIN).contains(count)).collect();
    let has_small = hidden.contains(&true) || (1..PATIENTS_MIN).contains(&remainder);
    loop {
        let own = || counts.iter().zip(&hidden).filter(|(count, is_hidden)| **is_hidden && **count > 0);
        let cells = own().count() + usize::from(remainder > 0);
        let sum = own().map(|(count, _)| count).sum::<usize>() + remainder;
        if !has_small || (cells >= 2 && sum >= 2 * PATIENTS_MIN) {
            return hidden;
        }
        let open = (0..counts.len()).filter(|at| !hidden[*at] && counts[*at] > 0);
        let Some(next) = open.min_by_key(|at| counts[*at]) else { return hidden };
        hidden[next] = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_numbers_cannot_be_had_by_subtracting() {
        assert_eq!(hidden(&[100, 5, 40], 0), [false, true, true]);
        assert_eq!(hidden(&[100, 5, 7], 0), [true, true, true], "12 in all leave little else");
        assert_eq!(hidden(&[100, 1, 11], 0), [true, true, true], "one of both is small, so that it is 1");
        assert_eq!(hidden(&[100, 5, 17], 0), [false, true, true]);
        assert_eq!(hidden(&[100, 2, 3, 50, 20], 0), [false, true, true, false, true], "5 in all would be known");
        assert_eq!(hidden(&[100, 0, 50], 0), [false, false, false], "nobody is no small number");
        assert_eq!(hidden(&[100, 5, 40], 30), [false, true, false], "the rest of 30 hides it");
        assert_eq!(hidden(&[100, 40], 3), [false, true], "a remainder is a number too");
        assert_eq!(hidden(&[5], 0), [true]);
    }
}
