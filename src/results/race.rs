//! What patients say of themselves: race in the categories of OMB, several of one person, and ethnicity.
//!
//! "Unknown" and "asked, and declined" are answers and not categories, and neither is the same as nothing being said.
//! Nothing here was inferred by a model. Neighbours: `csv` and `fhir` read it, `store` keeps it. Left out: what a group
//! of the race model means (its card).

use std::collections::BTreeSet;

/// Unknown, and asked but not answered, in HL7 v3 NullFlavor, as US Core writes them.
pub const UNKNOWN: &str = "UNK";
pub const DECLINED: &str = "ASKU";

/// Codes of CDC Race and Ethnicity (CDCREC) and their names: the categories of OMB Directive 15 (1997), and one that
/// registration systems have beside them.
const RACES: [(&str, &str); 6] = [
    ("1002-5", "American Indian or Alaska Native"),
    ("2028-9", "Asian"),
    ("2054-5", "Black or African American"),
    ("2076-8", "Native Hawaiian or Other Pacific Islander"),
    ("2106-3", "White"),
    ("2131-1", "Other Race"),
];
const ETHNICITIES: [(&str, &str); 2] = [("2135-2", "Hispanic or Latino"), ("2186-5", "Not Hispanic or Latino")];
const NO_CATEGORY: [(&str, &str); 2] = [(UNKNOWN, "unknown"), (DECLINED, "declined")];

/// Categories of one person; there are so many in the code system.
const CATEGORIES_MAX: usize = RACES.len();

/// What one person says.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct SelfReport {
    /// Categories, or one of [`UNKNOWN`] and [`DECLINED`]; empty: nothing is said.
    pub race: BTreeSet<String>,
    pub ethnicity: Option<String>,
}

/// A group of the race model: its key, and the category that it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupName {
    pub key: String,
    pub code: String,
}

/// To which of the race model's groups somebody belongs by what they say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing<'a> {
    Group(&'a str),
    /// Several categories: no one group is theirs.
    Several,
    /// A category that the race model has no group for.
    Other,
    Unknown,
    Declined,
    /// Nothing is said.
    Missing,
}

impl Standing<'_> {
    /// Why there is no group, in a few words; `None` where there is one.
    pub fn why_none(self) -> Option<&'static str> {
        match self {
            Standing::Group(_) => None,
            Standing::Several => Some("several self-reported groups"),
            Standing::Other => Some("self-reported group is none of the race model's"),
            Standing::Unknown => Some("self-reported group is unknown"),
            Standing::Declined => Some("self-reported group was asked for and declined"),
            Standing::Missing => Some("no self-reported group"),
        }
    }
}

impl SelfReport {
    /// Race in these categories. An error where one that says that there is none stands beside others, or none is given.
    pub fn of_race(categories: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let race: BTreeSet<String> = categories.into_iter().collect();
        if race.len() > 1 && [UNKNOWN, DECLINED].iter().any(|none| race.contains(*none)) {
            return Err("its race is unknown or declined, and a category too".into());
        }
        match race.len() {
            0 => Err("it names no category of race".into()),
            1..=CATEGORIES_MAX => Ok(Self { race, ethnicity: None }),
            _ => Err(format!("it names more than {CATEGORIES_MAX} categories of race")),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.race.is_empty() && self.ethnicity.is_none()
    }

    /// Whether the other one says another thing of what both say something of.
    pub fn contradicts(&self, other: &Self) -> Option<&'static str> {
        let races = !self.race.is_empty() && !other.race.is_empty() && self.race != other.race;
        let ethnicities = self.ethnicity.is_some() && other.ethnicity.is_some() && self.ethnicity != other.ethnicity;
        match (races, ethnicities) {
            (true, _) => Some("self-reported group"),
            (_, true) => Some("self-reported ethnicity"),
            _ => None,
        }
    }

    /// Which group of the race model is theirs. Ethnicity does not count: the model's groups are races.
    pub fn standing<'a>(&self, groups: &'a [GroupName]) -> Standing<'a> {
        let mut said = self.race.iter().map(String::as_str);
        match (said.next(), said.next()) {
            (None, _) => Standing::Missing,
            (Some(_), Some(_)) => Standing::Several,
            (Some(UNKNOWN), None) => Standing::Unknown,
            (Some(DECLINED), None) => Standing::Declined,
            (Some(one), None) => {
                let mut fitting = groups.iter().filter(|g| g.code == one || g.key == one);
                match (fitting.next(), fitting.next()) {
                    (Some(group), None) => Standing::Group(&group.key),
                    _ => Standing::Other,
                }
            }
        }
    }

    /// With the categories of these groups in place of their keys, as imports before had them.
    pub fn in_categories(mut self, groups: &[GroupName]) -> Self {
        let category = |said: String| match groups.iter().find(|g| g.key == said) {
            Some(group) => group.code.clone(),
            None => said,
        };
        self.race = self.race.into_iter().map(category).collect();
        self
    }
}

/// The category of race that a code or a name of it stands for; or that it is unknown or declined.
pub fn race_category(text: &str) -> Option<&'static str> {
    named(text, &RACES)
}

/// The same for ethnicity.
pub fn ethnicity_category(text: &str) -> Option<&'static str> {
    named(text, &ETHNICITIES)
}

fn named(text: &str, of: &[(&'static str, &'static str)]) -> Option<&'static str> {
    let is = |(code, name): &&(&'static str, &'static str)| *code == text || name.eq_ignore_ascii_case(text);
    of.iter().chain(&NO_CATEGORY).find(is).map(|(code, _)| *code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(race: &[&str]) -> Result<SelfReport, String> {
        SelfReport::of_race(race.iter().map(|r| (*r).to_owned()))
    }

    #[test]
    fn several_unknown_declined_and_missing_are_four_things() {
        let group = |key: &str, code: &str| GroupName { key: key.into(), code: code.into() };
        let groups = [group("Black", "2054-5"), group("White", "2106-3")];
        let rows = [
            (vec!["2106-3"], Standing::Group("White")),
            (vec!["White"], Standing::Group("White")),
            (vec!["2054-5", "2106-3"], Standing::Several),
            (vec!["2106-3", "2028-9"], Standing::Several),
            (vec!["2028-9"], Standing::Other),
            (vec!["UNK"], Standing::Unknown),
            (vec!["ASKU"], Standing::Declined),
        ];
        for (race, expected) in rows {
            let standing = report(&race).unwrap().standing(&groups);
            assert_eq!(standing, expected, "{race:?}");
            assert_eq!(standing.why_none().is_none(), matches!(standing, Standing::Group(_)), "{race:?}");
        }
        assert_eq!(SelfReport::default().standing(&groups), Standing::Missing);
        assert!(report(&["UNK", "2106-3"]).unwrap_err().contains("and a category too"));
        assert!(report(&[]).unwrap_err().contains("no category"));
        assert_eq!(report(&["Black"]).unwrap().in_categories(&groups), report(&["2054-5"]).unwrap());
        assert_eq!(report(&["Martian"]).unwrap().in_categories(&groups), report(&["Martian"]).unwrap());
    }

    #[test]
    fn categories_have_codes_and_names() {
        let rows = [("2106-3", Some("2106-3")), ("white", Some("2106-3")), ("Unknown", Some("UNK")), ("x", None)];
        for (text, expected) in rows {
            assert_eq!(race_category(text), expected, "{text}");
        }
        assert_eq!(ethnicity_category("Hispanic or Latino"), Some("2135-2"));
        assert_eq!(ethnicity_category("declined"), Some("ASKU"));
        assert_eq!(ethnicity_category("2106-3"), None, "a race is no ethnicity");
    }

    #[test]
    fn what_says_nothing_of_a_thing_contradicts_nobody_in_it() {
        let both = SelfReport { ethnicity: Some("2135-2".into()), ..report(&["2106-3"]).unwrap() };
        let ethnicity = |code: &str| SelfReport { ethnicity: Some(code.into()), ..SelfReport::default() };
        assert_eq!(both.contradicts(&report(&["2106-3"]).unwrap()), None);
        assert_eq!(both.contradicts(&ethnicity("2135-2")), None);
        assert_eq!(both.contradicts(&ethnicity("2186-5")), Some("self-reported ethnicity"));
        assert_eq!(both.contradicts(&report(&["UNK"]).unwrap()), Some("self-reported group"));
    }
}
