//! Which rules hold for a study: pure functions of the configuration and of what the index knows of the study, the
//! AE title that sent its first object and the one that was called.
//!
//! The quiet period is that of the source, else that of the called alias, else `study.quiet_period`: how a sender
//! behaves is a fact, how long an alias waits is a wish. Neighbours: `serve` asks. Left out: models and peers.

use std::time::Duration;

use crate::domain::AeTitle;

use super::{Alias, Config, Destination};

impl Config {
    /// The alias that was called; `None` for the node's own title, and for one that is no longer configured.
    pub fn alias(&self, called: Option<&AeTitle>) -> Option<&Alias> {
        self.node.aliases.iter().find(|alias| Some(&alias.ae_title) == called)
    }

    /// How long a study must have been quiet to be complete.
    pub fn quiet_period(&self, source: &AeTitle, called: Option<&AeTitle>) -> Duration {
        let of_source = self.sources.iter().find(|s| s.ae_title == *source).and_then(|s| s.quiet_period);
        let of_alias = || self.alias(called).and_then(|alias| alias.quiet_period);
        of_source.or_else(of_alias).unwrap_or(self.study.quiet_period)
    }

    /// The clinical packages that are audited for what was sent to this title; empty: all.
    pub fn clinical(&self, called: Option<&AeTitle>) -> &[String] {
        self.alias(called).map_or(&[], |alias| &alias.clinical)
    }

    /// The destinations of reports on studies that were sent to this title.
    pub fn destinations_of(&self, called: Option<&AeTitle>) -> impl Iterator<Item = &Destination> {
        let named = self.alias(called).map_or(&[][..], |alias| &alias.destinations);
        self.destinations.iter().filter(move |d| named.is_empty() || named.contains(&d.name))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::load;

    fn title(text: &str) -> AeTitle {
        AeTitle::parse(text).unwrap()
    }

    fn config() -> Config {
        let toml = r#"
            models.clinical = ["chest", "breast"]
            models.race = "race"
            [study]
            quiet_period = "60s"
            [[sources]]
            ae_title = "CT1"
            quiet_period = "5s"
            [[sources]]
            ae_title = "PACS"
            [[aliases]]
            ae_title = "CHEST"
            quiet_period = "20s"
            clinical = ["chest"]
            destinations = ["research"]
            [[aliases]]
            ae_title = "OLDNAME"
            [[destinations]]
            name = "archive"
            ae_title = "A"
            host = "h"
            port = 104
            audit = true
            [[destinations]]
            name = "research"
            ae_title = "R"
            host = "h"
            port = 104
            audit = true
        "#;
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, toml.as_bytes()).unwrap();
        load(Some(file.path()), [], &[]).unwrap()
    }

    #[test]
    fn the_quiet_period_is_the_sources_else_the_aliass_else_the_studys() {
        let rows = [
            ("CT1", Some("CHEST"), 5),
            ("CT1", Some("SIDELIGHT"), 5),
            ("PACS", Some("CHEST"), 20),
            ("GONE", Some("CHEST"), 20),
            ("PACS", Some("OLDNAME"), 60),
            ("PACS", Some("SIDELIGHT"), 60),
            ("PACS", Some("FORGOTTEN"), 60),
            ("PACS", None, 60),
        ];
        for (source, called, expected) in rows {
            let called_title = called.map(title);
            let got = config().quiet_period(&title(source), called_title.as_ref());
            assert_eq!(got, Duration::from_secs(expected), "{source} to {called:?}");
        }
    }

    #[test]
    fn an_alias_narrows_models_and_destinations_and_an_empty_list_does_not() {
        let config = config();
        let rows: [(Option<&str>, &[&str], &[&str]); 4] = [
            (Some("CHEST"), &["chest"], &["research"]),
            (Some("OLDNAME"), &[], &["archive", "research"]),
            (Some("SIDELIGHT"), &[], &["archive", "research"]),
            (None, &[], &["archive", "research"]),
        ];
        for (called, models, destinations) in rows {
            let called = called.map(title);
            assert_eq!(config.clinical(called.as_ref()), models, "{called:?}");
            let names: Vec<_> = config.destinations_of(called.as_ref()).map(|d| d.name.as_str()).collect();
            assert_eq!(names, destinations, "{called:?}");
        }
    }
}
