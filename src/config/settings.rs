//! The configuration as it was merged, key by key, for people to read.
//!
//! Secrets are in files of their own, so that nothing here is one. Neighbours: `validate` makes it of the mirror, pages
//! show it. Left out: where a value came from.

use std::sync::Arc;

use super::raw::Raw;

/// A key with its value as TOML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Dotted, e.g. `study.quiet_period` or `destinations[0].port`.
    pub key: String,
    pub value: String,
    pub is_default: bool,
}

/// All keys in the order of the file. Two configurations that mean the same are equal, however they were written.
#[derive(Debug, Clone, Default)]
pub struct Settings(Arc<Vec<Setting>>);

impl PartialEq for Settings {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Settings {
    pub(super) fn of(raw: &Raw) -> Self {
        let table = |raw: &Raw| toml::Table::try_from(raw).unwrap_or_default();
        let (mut list, mut defaults) = (Vec::new(), Vec::new());
        walk("", &toml::Value::Table(table(raw)), &mut list);
        walk("", &toml::Value::Table(table(&Raw::default())), &mut defaults);
        // One entry of every list, with what each has where nothing is written.
        walk("", &toml::Value::Table(Raw::schema()), &mut defaults);
        for setting in &mut list {
            let key = of_the_first(&setting.key);
            setting.is_default = defaults.iter().any(|d| d.key == key && d.value == setting.value);
        }
        Self(Arc::new(list))
    }

    pub fn list(&self) -> &[Setting] {
        &self.0
    }

    /// What holds after a reload: of `new` what `is_taken` says, else what held before.
    pub fn reloaded(&self, new: &Self, is_taken: impl Fn(&Setting) -> bool) -> Self {
        let taken = new.0.iter().filter(|s| is_taken(s)).cloned();
        let mut list: Vec<Setting> = self.0.iter().filter(|s| !is_taken(s)).cloned().chain(taken).collect();
        // A key that is off in one of both and on in the other is there twice, or not at all.
        for setting in self.0.iter().filter(|s| is_taken(s)) {
            if !list.iter().any(|s| s.key == setting.key) && new.0.iter().any(|s| s.key == setting.key) {
                list.push(setting.clone());
            }
        }
        let place = |setting: &Setting| {
            let own = new.0.iter().position(|s| s.key == setting.key);
            own.or_else(|| self.0.iter().position(|s| s.key == setting.key)).unwrap_or(usize::MAX)
        };
        list.sort_by_key(place);
        list.dedup_by(|later, first| later.key == first.key);
        Self(Arc::new(list))
    }
}

/// `destinations[3].port` → `destinations[0].port`.
fn of_the_first(key: &str) -> String {
    let part = |part: &str| match part.split_once('[') {
        Some((name, _)) => format!("{name}[0]"),
        None => part.to_owned(),
    };
    key.split('.').map(part).collect::<Vec<_>>().join(".")
}

fn walk(path: &str, value: &toml::Value, into: &mut Vec<Setting>) {
    let joined = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match value {
        toml::Value::Table(table) => table.iter().for_each(|(key, value)| walk(&joined(key), value, into)),
        toml::Value::Array(items) if items.first().is_some_and(toml::Value::is_table) => {
            items.iter().enumerate().for_each(|(i, item)| walk(&format!("{path}[{i}]"), item, into));
        }
        leaf => into.push(Setting { key: path.to_owned(), value: leaf.to_string(), is_default: false }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::config::tests::load_text;

    #[test]
    fn every_key_is_told_with_its_value_and_whether_it_is_the_default() {
        let text = "[study]\nquiet_period = \"5s\"\n[[sources]]\nae_title = \"CT\"\nhosts = [\"127.0.0.1\"]\n";
        let config = load_text(text).unwrap();
        let find = |key: &str| config.settings.list().iter().find(|s| s.key == key).cloned().unwrap();
        let told = |key: &str| (find(key).value, find(key).is_default);
        assert_eq!(told("study.quiet_period"), ("\"5s\"".into(), false));
        assert_eq!(told("study.cap"), ("\"90m\"".into(), true));
        assert_eq!(told("sources[0].hosts"), ("[\"127.0.0.1\"]".into(), false));
        assert_eq!(told("web.pages"), ("false".into(), true));
        assert_eq!(told("sources[0].audit"), ("false".into(), true));
    }

    #[test]
    fn after_a_reload_what_was_taken_is_new_and_the_rest_is_as_before() {
        let old = load_text("study.cap = \"1h\"\nmodels.batch_max = 3\n[[sources]]\nae_title = \"CT\"\n").unwrap();
        let new = load_text("study.cap = \"2h\"\nmodels.batch_max = 4\n").unwrap();
        let merged = old.settings.reloaded(&new.settings, |s| !s.key.starts_with("models"));
        let find = |key: &str| merged.list().iter().find(|s| s.key == key).map(|s| s.value.clone());
        assert_eq!(find("study.cap").as_deref(), Some("\"2h\""));
        assert_eq!(find("models.batch_max").as_deref(), Some("3"));
        assert_eq!(find("sources[0].ae_title"), None);
        assert_eq!(merged.list().iter().filter(|s| s.key == "study.cap").count(), 1);
    }
}
