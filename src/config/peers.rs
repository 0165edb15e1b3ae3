//! What is checked of `[[aliases]]`, of what a source may do besides sending objects, and of what is asked of a
//! destination besides taking reports.
//!
//! `validate` calls this and has the tools. Left out: reading a passcode file, which `receive` does at start.

use std::collections::BTreeMap;
use std::time::Duration;

use super::parse;
use super::raw::{self, Raw};
use super::validate::{Check, DAY, MILLISECOND, PEERS_MAX, collect_all, first_repeated};
use super::{Alias, Mode, Remote, User};

/// Commitment, where its result goes, query, audit.
pub(super) type Services = (bool, Option<Remote>, bool, bool);

impl Check<'_> {
    pub(super) fn aliases(&mut self, raw: &Raw) -> Option<Vec<Alias>> {
        if !self.few_enough("aliases", raw.aliases.len()) {
            return None;
        }
        let cap = parse::duration(MILLISECOND..=7 * DAY)(&raw.study.cap).ok();
        let mut seen = BTreeMap::new();
        if let Ok(own) = parse::ae_title(&raw.node.ae_title) {
            seen.insert(own, "node.ae_title".to_owned());
        }
        collect_all(raw.aliases.iter().enumerate().map(|(i, alias)| {
            let key = |name: &str| format!("aliases[{i}].{name}");
            let ae_title = self.get(&key("ae_title"), &alias.ae_title, parse::ae_title);
            if let Some(ae_title) = &ae_title
                && let Some(first) = seen.insert(ae_title.clone(), format!("aliases[{i}]"))
            {
                let what = format!("is the AE title of {first} too");
                self.contradiction(&key("ae_title"), &alias.ae_title, what, "name each further AE title once");
            }
            let quiet = self.get(&key("quiet_period"), &alias.quiet_period, quiet_period());
            let quiet_key = key("quiet_period");
            self.ordered(&quiet_key, &alias.quiet_period, quiet.flatten(), "study.cap", &raw.study.cap, cap);
            let clinical = self.subset(&key("clinical"), &alias.clinical, 16, || {
                ("models.clinical", parse::list(16, parse::name)(&raw.models.clinical).ok())
            });
            let destinations = self.subset(&key("destinations"), &alias.destinations, PEERS_MAX, || {
                let names = raw.destinations.iter().map(|d| parse::name(&d.name).ok());
                ("the names of the destinations", names.collect())
            });
            Some(Alias { ae_title: ae_title?, quiet_period: quiet?, clinical: clinical?, destinations: destinations? })
        }))
    }

    /// A list of names, each of which must be among others; those are not asked where they have faults themselves.
    fn subset(
        &mut self,
        key: &str,
        entry: &raw::Entry,
        most: usize,
        among: impl Fn() -> (&'static str, Option<Vec<String>>),
    ) -> Option<Vec<String>> {
        let names = self.get(key, entry, parse::list(most, parse::name))?;
        if let Some(twice) = first_repeated(&names) {
            self.contradiction(key, entry, format!("names {twice} twice"), "name each once");
        }
        if let (other, Some(known)) = among()
            && let Some(stranger) = names.iter().find(|name| !known.contains(name))
        {
            let what = format!("names {stranger}, which is not among {other}");
            self.contradiction(key, entry, what, "name one of those, or leave the list empty for all of them");
        }
        Some(names)
    }

    /// `Some(None)`: no user is asked for.
    pub(super) fn user(&mut self, i: usize, source: &raw::Source) -> Option<Option<User>> {
        let key = |name: &str| format!("sources[{i}].{name}");
        let username = self.get(&key("username"), &source.username, parse::username_if_given);
        let passcode_file = self.get(&key("passcode_file"), &source.passcode_file, parse::path_if_given);
        if let (Some(None), Some(Some(_))) = (&username, &passcode_file) {
            let what = "is given without a username".to_owned();
            let remedy = "write the username that the passcode belongs to";
            self.contradiction(&key("passcode_file"), &source.passcode_file, what, remedy);
        }
        let (username, passcode_file) = (username?, passcode_file?);
        Some(username.map(|username| User { username, passcode_file }))
    }

    /// What a source may ask for besides storage.
    pub(super) fn services(&mut self, i: usize, source: &raw::Source, raw: &Raw) -> Option<Services> {
        let key = |name: &str| format!("sources[{i}].{name}");
        let commitment = self.get(&key("commitment"), &source.commitment, parse::switch);
        let to = self.get(&key("commitment_to"), &source.commitment_to, parse::remote_if_given);
        let query = self.get(&key("query"), &source.query, parse::switch);
        let audit = self.get(&key("audit"), &source.audit, parse::switch);
        if let (Some(false), Some(Some(_))) = (commitment, &to) {
            let what = "is given, and the source's commitment is false".to_owned();
            let remedy = "set commitment = true, or leave commitment_to out";
            self.contradiction(&key("commitment_to"), &source.commitment_to, what, remedy);
        }
        if (query, audit) == (Some(true), Some(false)) && parse::mode(&raw.node.mode) == Ok(Mode::Shadow) {
            let what = "is true, the source is not an audit archive, and node.mode is \"shadow\"".to_owned();
            let remedy = "set audit = true if this is an audit archive, or node.mode = \"active\"";
            self.contradiction(&key("query"), &source.query, what, remedy);
        }
        Some((commitment?, to?, query?, audit?))
    }

    /// `Some(None)`: a destination is not asked for storage commitment.
    pub(super) fn commitment(
        &mut self,
        key: &impl Fn(&str) -> String,
        destination: &raw::Destination,
    ) -> Option<Option<Duration>> {
        let asked = self.get(&key("commitment"), &destination.commitment, parse::switch);
        let bounds = parse::duration(Duration::ZERO..=Duration::from_secs(600));
        let wait = self.get(&key("commitment_wait"), &destination.commitment_wait, bounds);
        Some(asked?.then_some(wait?))
    }
}

fn quiet_period() -> impl Fn(&raw::Entry) -> parse::Parsed<Option<Duration>> {
    parse::duration_if_given(MILLISECOND..=DAY)
}
