//! The configuration as its users meet it: files, variables and flags in, a `Config` or every fault out.

mod hostile;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::raw::Raw;
use super::*;

type Pairs<'a> = &'a [(&'a str, &'a str)];

/// A file's text, and the keys that are at fault in it.
type Row = (String, &'static [&'static str]);

fn conf(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conf").join(name)
}

fn absolute(path: &str) -> PathBuf {
    std::env::current_dir().unwrap().join(path)
}

fn owned(pairs: Pairs<'_>) -> Vec<(String, String)> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn load_bytes(toml: &[u8], environment: Pairs<'_>, flags: Pairs<'_>) -> Result<Config, ConfigError> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(toml).unwrap();
    load(Some(file.path()), owned(environment), &owned(flags))
}

pub(super) fn load_text(toml: &str) -> Result<Config, ConfigError> {
    load_bytes(toml.as_bytes(), &[], &[])
}

/// The keys at fault, in the order in which they are told.
pub(super) fn keys(result: Result<Config, ConfigError>) -> Vec<String> {
    result.err().map(|e| e.faults.into_iter().map(|f| f.key).collect()).unwrap_or_default()
}

/// Dotted key and default of every key that holds one value, those of list elements included.
fn leaves() -> Vec<(String, toml::Value)> {
    fn walk(path: &str, table: &toml::Table, into: &mut Vec<(String, toml::Value)>) {
        for (key, value) in table {
            let full = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            match value.as_table().or_else(|| value.as_array()?.first()?.as_table()) {
                Some(inner) => walk(&full, inner, into),
                None => into.push((full, value.clone())),
            }
        }
    }
    let mut found = Vec::new();
    walk("", &Raw::schema(), &mut found);
    found
}

/// The lists of tables.
const LISTS: [&str; 6] = ["aliases", "sources", "destinations", "web_clients", "web_users", "study.required"];

/// The list of tables that a key stands in, and its name there.
fn list_of(key: &str) -> Option<(&str, &str)> {
    key.rsplit_once('.').filter(|(list, _)| LISTS.contains(list))
}

const SOURCE: &str = "[[sources]]\nae_title = \"S\"\n";
const DESTINATION: &str = "[[destinations]]\nname = \"d\"\nae_title = \"D\"\nhost = \"h\"\nport = 104\naudit = true\n";

#[test]
fn the_defaults_are_safe_and_valid() {
    let config = load(None, [], &[]).unwrap();
    assert_eq!(config.node.ae_title.as_str(), "SIDELIGHT");
    assert_eq!(config.node.listen.map(|a| a.to_string()).as_deref(), Some("0.0.0.0:11112"));
    assert_eq!((config.node.listen_tls, &config.tls.certificate), (None, &None));
    assert_eq!(config.node.mode, Mode::Shadow);
    assert_eq!(config.node.pdu_bytes_max, 1 << 18);
    assert_eq!(config.node.object_bytes_max, 2 << 30);
    assert_eq!(config.store.data_dir, absolute("data"));
    assert_eq!(config.store.objects_kept, Some(Duration::from_secs(30 * 86_400)));
    assert_eq!(config.store.reports_kept, None);
    assert_eq!(config.web.listen.map(|a| a.to_string()).as_deref(), Some("127.0.0.1:8104"));
    assert!(!config.web.dicomweb && config.web.clients.is_empty());
    let (quiet_period, cap) = (Duration::from_secs(60), Duration::from_secs(5400));
    assert_eq!(config.study, StudyRules { quiet_period, cap, late: Late::Replace, required: Vec::new() });
    let (retry_first, retry_max) = (Duration::from_secs(30), Duration::from_secs(600));
    let give_up_after = Duration::from_secs(14 * 86_400);
    assert_eq!(config.delivery, Delivery { retry_first, retry_max, give_up_after, tries_min: 10 });
    assert_eq!((config.models.race, config.models.clinical.len(), config.risk.profile), (None, 0, None));
    assert_eq!((config.sources.len(), config.destinations.len()), (0, 0));
    assert_eq!(config.pixels.samples_max, 268_435_456);
}

#[test]
fn the_documented_file_equals_the_defaults() {
    assert_eq!(load(Some(&conf("sidelight.toml")), [], &[]), load(None, [], &[]));
}

#[test]
fn the_documented_file_shows_every_key_with_its_default() {
    let text = std::fs::read_to_string(conf("sidelight.toml")).unwrap();
    let shown: toml::Table = toml::from_str(&uncommented(&text)).unwrap();
    for (key, default) in leaves() {
        let mut value = Some(&toml::Value::Table(shown.clone())).cloned();
        for part in key.split('.') {
            // Any example of a list may show the key: a kind of destination has keys of its own.
            value = value.and_then(|v| match v.as_array() {
                Some(list) => list.iter().find_map(|item| item.get(part).cloned()),
                None => v.get(part).cloned(),
            });
        }
        let value = value.unwrap_or_else(|| panic!("conf/sidelight.toml does not show {key}"));
        if list_of(&key).is_none() {
            assert_eq!(value, default, "{key}");
            let last = key.rsplit('.').next().unwrap();
            let line = text.lines().position(|l| l.starts_with(&format!("{last} ="))).expect("shown, so on a line");
            let above = text.lines().take(line).filter(|l| !l.contains('=') || l.starts_with('#')).last();
            assert!(above.is_some_and(|l| l.starts_with('#')), "no prose above {key}");
        }
    }
}

#[test]
fn the_examples_of_the_documented_file_are_valid() {
    let text = std::fs::read_to_string(conf("sidelight.toml")).unwrap();
    let config = load_bytes(uncommented(&text).as_bytes(), &[], &[("node.mode", "active")]).unwrap();
    assert_eq!(config.sources.len(), 1);
    assert_eq!(config.sources[0].quiet_period, Some(Duration::from_secs(20)));
    let mammography = &config.study.required[0];
    assert_eq!((mammography.modality.as_deref(), mammography.views.len()), (Some("MG"), 4));
    assert!(config.sources[0].commitment_to.is_some() && config.sources[0].user.is_some());
    assert_eq!(config.node.aliases[0].destinations, ["audit-archive"]);
    let names: Vec<_> = config.destinations.iter().map(|d| (d.name.as_str(), d.audit)).collect();
    assert_eq!(names, [("audit-archive", true), ("pacs", false), ("web-archive", true)]);
}

/// Examples are commented without a space after `#`, prose with one.
fn uncommented(text: &str) -> String {
    let line = |l: &str| {
        l.strip_prefix('#').filter(|r| r.starts_with(|c: char| c == '[' || c.is_alphabetic())).map(str::to_owned)
    };
    text.lines().map(|l| line(l).unwrap_or_else(|| l.to_owned()) + "\n").collect()
}

#[test]
fn the_demo_and_shadow_files_are_ready_to_serve() {
    let demo = load_to_serve(Some(&conf("demo.toml")), [], &[]).unwrap();
    assert_eq!(demo.node.listen.map(|a| a.to_string()).as_deref(), Some("127.0.0.1:11112"));
    assert_eq!(demo.study.quiet_period, Duration::from_secs(2));
    assert_eq!(demo.models.race.as_deref(), Some("demo-race"));
    assert_eq!(demo.models.clinical, ["demo-clinical"]);
    assert_eq!(demo.models.devices, [Device::Cpu]);
    assert_eq!(demo.risk.profile, Some(absolute("models/demo-profile.json")));
    assert_eq!(demo.sources[0].ae_title.as_str(), "STORESCU");
    assert_eq!(demo.sources[0].hosts, [IpAddr::from([127, 0, 0, 1])]);
    let pacs = &demo.destinations[0];
    let ae_title = AeTitle::parse("PACS").unwrap();
    assert_eq!(pacs.endpoint, Endpoint::Dimse { ae_title, host: "127.0.0.1".into(), port: 11113, tls: None });
    assert!(pacs.audit && pacs.disclose == Disclosure::Withheld);

    let shadow = load_to_serve(Some(&conf("shadow.toml")), [], &[]).unwrap();
    assert_eq!(shadow.node.mode, Mode::Shadow);
    assert!(shadow.destinations.iter().all(|d| d.audit && d.disclose == Disclosure::Withheld));
}

#[test]
fn flags_beat_the_environment_beats_the_file_beats_the_default() {
    let file = "node.listen = \"127.0.0.1:1\"\nstudy.quiet_period = \"1s\"\nlog.json = true\nrisk.delta = 0.1\n";
    let environment = [
        ("SIDELIGHT__NODE__LISTEN", "127.0.0.1:2"),
        ("SIDELIGHT__STUDY__QUIET_PERIOD", "2s"),
        ("SIDELIGHT__STORE__RETENTION__OBJECTS", "forever"),
        ("SIDELIGHT__STORE__DATA_DIR", "/srv/sidelight"),
        ("SIDELIGHT__WEB__LISTEN", ""),
        ("SIDELIGHT__MODELS__CLINICAL", "a, b"),
        ("SIDELIGHT__MODELS__RACE", "r"),
        ("SIDELIGHT__ALIASES", r#"[{ ae_title = "X" }, { ae_title = "Y" }]"#),
        ("SIDELIGHT__SOURCES", r#"[{ ae_title = "E", hosts = ["::1"] }]"#),
        ("SIDELIGHT_CONFIG", "not ours"),
        ("PATH", "not ours"),
    ];
    let flags = [("node.listen", "127.0.0.1:3"), ("risk.delta", "0.2"), ("models.batch_max", "4")];
    let config = load_bytes(file.as_bytes(), &environment, &flags).unwrap();
    assert_eq!(config.node.listen.map(|a| a.port()), Some(3));
    assert_eq!(config.study.quiet_period, Duration::from_secs(2));
    assert!(config.log.json);
    assert_eq!(config.risk.delta, 0.2);
    assert_eq!(config.models.batch_max, 4);
    assert_eq!(config.store.objects_kept, None);
    assert_eq!(config.store.data_dir, Path::new("/srv/sidelight"));
    assert_eq!(config.web.listen, None);
    assert_eq!(config.models.clinical, ["a", "b"]);
    assert_eq!(config.node.aliases.len(), 2);
    assert_eq!(config.sources[0].ae_title.as_str(), "E");
    assert_eq!(config.node.idle_timeout, Duration::from_secs(60));
}

#[test]
fn a_fault_is_told_with_key_value_origin_and_remedy() {
    let toml = "[study]\nquiet_period = 60\n[node]\nlisten = \"localhost:11112\"\n";
    let mut file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    file.write_all(toml.as_bytes()).unwrap();
    let environment = owned(&[("SIDELIGHT__NODE__AE_TITEL", "PACS"), ("SIDELIGHT__NODE__ASSOCIATIONS_MAX", "many")]);
    let error = load(Some(file.path()), environment, &owned(&[("web.listen", "8104")])).unwrap_err();
    let told = error.to_string().replace(&file.path().display().to_string(), "site.toml");
    let expected = r#"the configuration has 5 faults
  node.ae_titel = "PACS" (environment SIDELIGHT__NODE__AE_TITEL): is not a known key; did you mean SIDELIGHT__NODE__AE_TITLE?
  node.listen = "localhost:11112" (site.toml line 4): is not an IP address with a port; write e.g. "0.0.0.0:11112", "127.0.0.1:11112" or "[::]:11112"; names are not looked up here; "" switches it off
  node.associations_max = "many" (environment SIDELIGHT__NODE__ASSOCIATIONS_MAX): is text, not a whole number; write a number from 1 to 4096, without quotes
  web.listen = "8104" (command line): is not an IP address with a port; write e.g. "0.0.0.0:11112", "127.0.0.1:11112" or "[::]:11112"; names are not looked up here; "" switches it off
  study.quiet_period = 60 (site.toml line 2): has no unit; write the number with its unit in quotes, e.g. "60s" or "90m""#;
    assert_eq!(told, expected);
}

#[test]
fn every_fault_of_a_file_is_found_at_once() {
    let with = |head: &str, tail: &str| format!("{head}\n{tail}");
    let rows: Vec<Row> = vec![
        // unknown keys, all of them, wherever they stand
        ("nodee.x = 1\nnode.lisen = \"\"\n[node.deep.er]\na = 1".into(), &["nodee", "node.lisen", "node.deep"]),
        (with(SOURCE, "hostes = []\nport = 1"), &["sources[0].hostes", "sources[0].port"]),
        // wrong shapes
        (
            "node = 5\nsources = \"x\"\ndestinations = [1, { x = 1 }, 2]".into(),
            &["node", "sources", "destinations[0]", "destinations[1].x", "destinations[2]"],
        ),
        ("[sources]\nae_title = \"X\"".into(), &["sources"]),
        ("[node.listen]\nport = 1".into(), &["node.listen"]),
        ("models.clinical = \"a\"".into(), &["models.clinical"]),
        ("models.clinical = [1, \"b\", [\"../c\"]]\nmodels.race = [\"A\"]".into(), &["models.clinical", "models.race"]),
        ("node.ae_title = 2024-01-01".into(), &["node.ae_title"]),
        ("models.threads = 99999999999999999999".into(), &["models.threads"]),
        // units
        ("study.cap = 90\nnode.object_bytes_max = 1073741824".into(), &["node.object_bytes_max", "study.cap"]),
        ("study.cap = \"90\"\nstore.free_bytes_min = \"1024\"".into(), &["store.free_bytes_min", "study.cap"]),
        ("study.cap = \"soon\"\nnode.pdu_bytes_max = \"big\"".into(), &["node.pdu_bytes_max", "study.cap"]),
        ("study.cap = \"18446744073709551615s 1000ms\"".into(), &["study.cap"]),
        ("study.cap = \"184467440737 09551615s 1000ms\"".into(), &["study.cap"]),
        (
            "study.cap = \"9999999999years\"\nstore.free_bytes_min = \"99999999EiB\"".into(),
            &["store.free_bytes_min", "study.cap"],
        ),
        // bounds
        ("node.pdu_bytes_max = \"64KiB\"".into(), &["node.pdu_bytes_max"]),
        ("node.pdu_bytes_max = \"17MiB\"".into(), &["node.pdu_bytes_max"]),
        (
            "pixels.workers = 0\nnode.associations_max = 0\nmodels.batch_max = -1".into(),
            &["node.associations_max", "models.batch_max", "pixels.workers"],
        ),
        ("risk.delta = 0".into(), &["risk.delta"]),
        ("risk.delta = 1.0".into(), &["risk.delta"]),
        ("risk.delta = nan".into(), &["risk.delta"]),
        ("risk.delta = -inf".into(), &["risk.delta"]),
        // names, hosts, paths
        ("node.ae_title = \"SEVENTEEN_LETTERS\"\nnode.name = \"Zürich\"".into(), &["node.ae_title", "node.name"]),
        ("store.data_dir = \"\"\nmodels.dir = \"~/models\"".into(), &["store.data_dir", "models.dir"]),
        ("models.race = \"../x\"".into(), &["models.race"]),
        ("models.device = \"cuda:+1\"".into(), &["models.device"]),
        ("models.device = []".into(), &["models.device"]),
        ("models.device = [\"cpu\", \"cuda:0\"]".into(), &["models.device"]),
        ("models.device = \"cuda:1, cuda:01\"".into(), &["models.device"]),
        ("models.precision = \"fp8\"".into(), &["models.precision"]),
        ("models.deterministic = true".into(), &["models.threads"]),
        ("models.deterministic = true\nmodels.threads = 2\nmodels.precision = \"auto\"".into(), &["models.precision"]),
        ("models.device = \"gpu\"\nlog.filter = \"inof\"".into(), &["models.device", "log.filter"]),
        (with(SOURCE, "hosts = [\"localhost\", \"10.0.0.0/8\"]"), &["sources[0].hosts"]),
        (
            "[[sources]]\n[[destinations]]\naudit = true".into(),
            &[
                "sources[0].ae_title",
                "destinations[0].name",
                "destinations[0].ae_title",
                "destinations[0].host",
                "destinations[0].port",
            ],
        ),
        (DESTINATION.replace("\"h\"", "\"999.1.1.1\""), &["destinations[0].host"]),
        (DESTINATION.replace("\"h\"", "\"h:104\""), &["destinations[0].host"]),
        (DESTINATION.replace("104", "0"), &["destinations[0].port"]),
        (with(DESTINATION, "kind = \"folder\""), &["destinations[0].kind"]),
        // contradictions
        (with(DESTINATION, DESTINATION), &["destinations[1].name"]),
        (with(SOURCE, SOURCE), &["sources[1].ae_title"]),
        (DESTINATION.replace("audit = true", "audit = false"), &["destinations[0].audit"]),
        (DESTINATION.replace("audit = true", ""), &["destinations[0].audit"]),
        (DESTINATION.replace("\"D\"", "\"SIDELIGHT\"").replace("104", "11112"), &["destinations[0].ae_title"]),
        (with("node.listen = \"[::]:104\"\n[[aliases]]\nae_title = \"D\"", DESTINATION), &["destinations[0].ae_title"]),
        (
            with("risk.per_study_inference = false", &with(DESTINATION, "disclose = \"probabilities\"")),
            &["destinations[0].disclose"],
        ),
        ("node.aliases = [\"OLD\"]".into(), &["node.aliases"]),
        ("[[aliases]]\nae_title = \"SIDELIGHT\"".into(), &["aliases[0].ae_title"]),
        (
            "[[aliases]]\nae_title = \"A\"\nclinical = [\"x\"]\n[[aliases]]\nae_title = \"A\"".into(),
            &["aliases[0].clinical", "aliases[1].ae_title"],
        ),
        (
            with(DESTINATION, "[[aliases]]\nae_title = \"A\"\ndestinations = [\"e\"]\nquiet_period = \"2h\""),
            &["aliases[0].destinations", "aliases[0].quiet_period"],
        ),
        (
            with("[[aliases]]\nclinical = 1", &with("destinations = [\"a\", \"a\"]", DESTINATION)),
            &["aliases[0].ae_title", "aliases[0].clinical", "aliases[0].destinations", "aliases[0].destinations"],
        ),
        (with(SOURCE, "passcode_file = \"p\""), &["sources[0].passcode_file"]),
        (with(SOURCE, "username = \"a\\u0007\""), &["sources[0].username"]),
        (with(SOURCE, "commitment_to = \"A@h:104\""), &["sources[0].commitment_to"]),
        (with(SOURCE, "commitment = true\ncommitment_to = \"h:104\""), &["sources[0].commitment_to"]),
        (with(SOURCE, "commitment = true\ncommitment_to = \"A@h:0\""), &["sources[0].commitment_to"]),
        (with(SOURCE, "commitment = true\ncommitment_to = \"A@h h:1\""), &["sources[0].commitment_to"]),
        (with(SOURCE, "query = true"), &["sources[0].query"]),
        (with(SOURCE, "query = \"yes\"\naudit = 1"), &["sources[0].audit", "sources[0].query"]),
        ("models.clinical = [\"a\"]".into(), &["models.race"]),
        ("models.clinical = [\"a\", \"a\"]\nmodels.race = \"a\"".into(), &["models.clinical", "models.race"]),
        ("web.listen = \"127.0.0.1:11112\"".into(), &["web.listen"]),
        ("study.quiet_period = \"2h\"".into(), &["study.quiet_period"]),
        (with(SOURCE, "quiet_period = \"2h\""), &["sources[0].quiet_period"]),
        ("delivery.retry_first = \"1h\"".into(), &["delivery.retry_first"]),
        ("study.late = \"sometimes\"\ndelivery.tries_min = 0".into(), &["delivery.tries_min", "study.late"]),
        ("[[study.required]]\nmodality = \"MG\"".into(), &["study.required[0].views"]),
        (
            "[[study.required]]\nviews = [\"X-CC\", \"L-SPOT\"]\nmodality = \"M/G\"\nquiet_period = \"2h\"".into(),
            &["study.required[0].views", "study.required[0].modality", "study.required[0].quiet_period"],
        ),
        (
            with(DESTINATION, "associations_max = 0\nper_minute_max = -1"),
            &["destinations[0].associations_max", "destinations[0].per_minute_max"],
        ),
        (
            "delivery.retry_max = \"1d\"\ndelivery.retry_first = \"9h\"\ndelivery.give_up_after = \"1h\"".into(),
            &["delivery.retry_first"],
        ),
        (
            "store.retention.reports = \"2d\"".into(),
            &["store.retention.objects", "store.retention.posteriors", "store.retention.evidence"],
        ),
        // a fault in one key hides no contradiction between others
        (
            with("node.drain_timeout = 1", &DESTINATION.replace("audit = true", "")),
            &["destinations[0].audit", "node.drain_timeout"],
        ),
    ];
    for (toml, expected) in rows {
        let mut found = keys(load_text(&toml));
        found.sort();
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(found, expected, "{toml}");
    }
}

#[test]
fn what_sites_really_write_is_accepted() {
    for toml in [
        "",
        "\u{feff}node.ae_title = \"A\"",
        "node.ae_title = \"  PADDED  \"",
        "node.listen = \"[::1]:104\"\nweb.listen = \"127.0.0.1:104\"",
        "node.listen = \"127.0.0.1:0\"\nweb.listen = \"127.0.0.1:0\"",
        "study.quiet_period = \"1m 30s\"\nstudy.cap = \"1.5h\"",
        "store.free_bytes_min = \"20 GB\"",
        "store.retention.objects = \"forever\"\nrisk.profile_age_max = \"never\"",
        "risk.per_study_inference = false\nmodels.clinical = [\"a\"]",
        "log.filter = \"warn,sidelight::receive=debug\"",
        "models.device = \"cuda:1, cuda:0\"\nmodels.precision = \"auto\"\nmodels.batch_max = 0",
        "models.device = [\"cuda:1\", \"cuda:0\"]\nmodels.deterministic = true\nmodels.threads = 4",
        &format!("node.mode = \"active\"\n{}", DESTINATION.replace("audit = true", "")),
        &format!("{SOURCE}query = true\naudit = true\nusername = \"anna\"\npasscode_file = \"/run/passcode\""),
        &format!("node.mode = \"active\"\n{SOURCE}query = true\ncommitment = true"),
        &format!("{SOURCE}commitment = true\ncommitment_to = \"A@[2001:db8::1]:104\""),
        &format!("{DESTINATION}[[aliases]]\nae_title = \"X\"\ndestinations = [\"d\"]\nquiet_period = \"1h\""),
        &DESTINATION.replace("\"h\"", "\"2001:db8::1\""),
        &DESTINATION.replace("\"h\"", "\"pacs-1.example.org\""),
    ] {
        if let Err(error) = load_text(toml) {
            panic!("{toml}\n{error}");
        }
    }
}

#[test]
fn every_key_refuses_what_it_cannot_use_and_names_itself() {
    for (key, default) in leaves() {
        let list = list_of(&key);
        let bad = if default.is_array() { r#"["\u0007"]"# } else { r#""\u0007""# };
        let (toml, expected) = match list {
            Some((section, name)) => (format!("[[{section}]]\n{name} = {bad}"), format!("{section}[0].{name}")),
            None => (format!("{key} = {bad}"), key),
        };
        let found = keys(load_text(&toml));
        assert!(found.contains(&expected), "{toml}: {found:?}");
    }
}

#[test]
fn every_key_has_its_environment_variable_and_its_flag() {
    for (key, default) in leaves() {
        if list_of(&key).is_some() {
            continue;
        }
        let text = match &default {
            toml::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let variable = format!("SIDELIGHT__{}", key.to_ascii_uppercase().replace('.', "__"));
        assert_eq!(load(None, owned(&[(&variable, &text)]), &[]), load(None, [], &[]), "{variable}={text}");
        assert_eq!(load(None, [], &owned(&[(&key, &text)])), load(None, [], &[]), "{key}={text}");
    }
}

#[test]
fn unknown_variables_and_flags_are_faults() {
    let environment = owned(&[
        ("SIDELIGHT__NODE__LISTN", "x"),
        ("SIDELIGHT__node__listen", "x"),
        ("SIDELIGHT__", "x"),
        ("SIDELIGHT__SOURCES", r#"["PACS"]"#),
        ("SIDELIGHT__DESTINATIONS", "[{ name = 1, colour = 2 }]\nnode.mode = 'active'"),
    ]);
    let error = load(None, environment, &owned(&[("node", "x"), ("sources[0].ae_title", "x")])).unwrap_err();
    let keys: Vec<_> = error.faults.iter().map(|f| f.key.as_str()).collect();
    assert_eq!(
        keys,
        ["node.listn", "node.listen", "", "sources[0]", "destinations", "node", "\"sources[0].ae_title\""]
    );
    assert_eq!(error.faults[0].remedy, "did you mean SIDELIGHT__NODE__LISTEN?");
}

#[test]
fn serving_needs_models_and_everything_else_does_not() {
    let error = load_to_serve(None, [], &[]).unwrap_err();
    let found: Vec<_> = error.faults.iter().map(|f| (f.key.as_str(), f.origin.as_str())).collect();
    assert_eq!(found, [("models.clinical", "default"), ("models.race", "default")]);
    let flags = owned(&[("models.clinical", "a"), ("risk.per_study_inference", "false")]);
    assert!(load_to_serve(None, [], &flags).is_ok());
}

#[test]
fn a_file_that_cannot_be_read_is_one_fault_with_its_name() {
    let rows: [(Vec<u8>, &str); 6] = [
        (b"a = \xff".to_vec(), "is not UTF-8 at byte 4"),
        (b"a = 1\n\n= 2".to_vec(), "is not TOML in line 3"),
        (b"[node]\n[node]\n".to_vec(), "is not TOML in line 2"),
        (vec![b'#'; FILE_BYTES_MAX + 1], "is larger than 1 MiB"),
        (b"a=1\n".repeat(200_000), "holds far more than a configuration does"),
        (b"a = [".to_vec(), "is not TOML"),
    ];
    for (bytes, problem) in rows {
        let error = load_bytes(&bytes, &[], &[]).unwrap_err();
        assert_eq!(error.faults.len(), 1);
        assert!(error.faults[0].problem.starts_with(problem), "{error}");
    }
    let error = load(Some(Path::new("no/such/file.toml")), [], &[]).unwrap_err();
    assert_eq!(error.faults[0].key, "no/such/file.toml");
}
