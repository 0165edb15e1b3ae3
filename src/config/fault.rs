//! What is wrong with a configuration, said so that the person at the keyboard can put all of it right at once.
//!
//! `load`, `parse` and `validate` add to [`Faults`]; the caller of [`super::load`] gets a [`ConfigError`].
//! Left out: printing, which is the command line's.

use std::fmt;

/// One fault: where, what was found, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Dotted key, e.g. `study.quiet_period` or `destinations[0].port` (counted from 0); the file's name if the
    /// file as a whole cannot be read.
    pub key: String,
    /// The value as TOML, shortened; `None` if there is none.
    pub value: Option<String>,
    /// Where the value comes from: file and line, environment variable, flag, or `default`.
    pub origin: String,
    /// The rule that it breaks.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

/// Every fault of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// In the order in which they were found, at least one, at most [`FAULTS_MAX`].
    pub faults: Vec<Fault>,
    /// How many more there are.
    pub left_out: usize,
}

/// So many faults are kept, the others are counted: a hostile file must not grow the answer without bound.
pub const FAULTS_MAX: usize = 200;

/// Collects faults.
#[derive(Debug, Default)]
pub(super) struct Faults {
    list: Vec<Fault>,
    left_out: usize,
}

/// Why a value is refused, before it is known where the value stood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(super) what: String,
    pub(super) remedy: String,
}

impl Problem {
    pub(super) fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what, self.remedy)
    }
}

impl Faults {
    pub(super) fn push(&mut self, fault: Fault) {
        if self.is_full() {
            self.left_out += 1;
        } else {
            self.list.push(fault);
        }
    }

    /// Whether further faults are only counted, so that nobody needs to search for their remedies.
    pub(super) fn is_full(&self) -> bool {
        self.list.len() >= FAULTS_MAX
    }

    /// Takes over what `other` found.
    pub(super) fn extend(&mut self, other: Faults) {
        self.left_out += other.left_out;
        other.list.into_iter().for_each(|fault| self.push(fault));
    }

    /// The error, if there is any fault.
    pub(super) fn into_error(self) -> Option<ConfigError> {
        (!self.list.is_empty()).then_some(ConfigError { faults: self.list, left_out: self.left_out })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        if let Some(value) = &self.value {
            write!(f, " = {value}")?;
        }
        if !self.origin.is_empty() {
            write!(f, " ({})", self.origin)?;
        }
        write!(f, ": {}; {}", self.problem, self.remedy)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.faults.len() + self.left_out {
            1 => write!(f, "the configuration has 1 fault")?,
            n => write!(f, "the configuration has {n} faults")?,
        }
        for fault in &self.faults {
            write!(f, "\n  {fault}")?;
        }
        if self.left_out > 0 {
            write!(f, "\n  and {} more", self.left_out)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

impl From<Fault> for ConfigError {
    fn from(fault: Fault) -> Self {
        Self { faults: vec![fault], left_out: 0 }
    }
}

/// `text` in quotes, control characters escaped, at most 80 characters of it.
pub(super) fn quoted(text: &str) -> String {
    let short: String = text.chars().take(80).collect();
    let dots = if short.len() < text.len() { "…" } else { "" };
    format!("{short:?}{dots}")
}

pub(super) fn unknown(key: String, value: String, origin: String, meant: Option<&str>) -> Fault {
    let remedy = match meant {
        Some(name) => format!("did you mean {name}?"),
        None => "remove it; conf/sidelight.toml lists every key".to_owned(),
    };
    Fault { key, value: Some(value), origin, problem: "is not a known key".to_owned(), remedy }
}

pub(super) fn whole(key: &str, what: &str, remedy: &str) -> Fault {
    Fault {
        key: key.to_owned(),
        value: None,
        origin: String::new(),
        problem: what.to_owned(),
        remedy: remedy.to_owned(),
    }
}

/// A key as it may be shown: short, quoted unless it is a bare key.
pub(super) fn printable(key: &str) -> String {
    let bare = key.len() <= 80 && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-' || b == b'.');
    if bare { key.to_owned() } else { quoted(key) }
}

/// At most 160 characters of `text`.
pub(super) fn shortened(text: &str) -> String {
    match text.char_indices().nth(160) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The candidate that `written` was probably meant to be: few letters away, or the same last part.
pub(super) fn nearest<'a>(written: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if written.len() > 64 {
        return None;
    }
    let last = |key: &str| key.rsplit('.').next().map(str::to_owned);
    let allowed = (written.len() / 4).clamp(1, 3);
    candidates
        .map(|c| (if last(c) == last(written) { 1 } else { distance(written, c) }, c))
        .filter(|(d, _)| *d <= allowed)
        .min_by_key(|(d, _)| *d)
        .map(|(_, c)| c)
}

/// Insertions, deletions, replacements and swaps of neighbours between two short texts (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let differs = usize::from(a[i - 1] != b[j - 1]);
            let mut cost = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + differs);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                cost = cost.min(before[j - 2] + 1);
            }
            row.push(cost);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_finds_the_key_that_was_meant() {
        let known = ["node.listen", "node.ae_title", "web.listen", "store.data_dir", "study.quiet_period"];
        let rows = [
            ("node.listn", Some("node.listen")),
            ("node.ae_tilte", Some("node.ae_title")),
            ("study.data_dir", Some("store.data_dir")),
            ("data_dir", Some("store.data_dir")),
            ("study.quiet_perod", Some("study.quiet_period")),
            ("pacs.password", None),
            ("", None),
        ];
        for (written, expected) in rows {
            assert_eq!(nearest(written, known.into_iter()), expected, "{written}");
        }
    }

    #[test]
    fn the_list_of_faults_is_bounded_and_says_how_many_are_left_out() {
        let mut faults = Faults::default();
        for i in 0..FAULTS_MAX + 7 {
            faults.push(Fault {
                key: format!("k{i}"),
                value: None,
                origin: String::new(),
                problem: "p".into(),
                remedy: "r".into(),
            });
        }
        let error = faults.into_error().unwrap();
        assert_eq!((error.faults.len(), error.left_out), (FAULTS_MAX, 7));
        let text = error.to_string();
        assert!(text.starts_with("the configuration has 207 faults\n  k0: p; r\n"), "{text}");
        assert!(text.ends_with("\n  and 7 more"), "{text}");
    }

    #[test]
    fn a_quoted_value_is_short_and_holds_no_control_character() {
        assert_eq!(quoted("a\u{1b}[2J\n"), r#""a\u{1b}[2J\n""#);
        assert_eq!(quoted(&"x".repeat(1000)).chars().count(), 83);
    }
}
