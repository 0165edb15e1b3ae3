//! The raw mirror: every key that exists, in the shape of the TOML file, with its default as one would write it.
//!
//! The mirror is the single list of keys: `load` derives from it which keys and environment variables are known,
//! `validate` turns it into the valid [`super::Config`], and a test holds `conf/sidelight.toml` against it.
//! Left out: any judgement of a value; an [`Entry`] takes whatever was written.

use serde::{Deserialize, Serialize};

/// A value as it was written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Entry {
    Switch(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    List(Vec<Entry>),
}

/// Declares a section: each key with its default, then subsections with their types.
macro_rules! section {
    ($(#[$doc:meta])* $name:ident { $($key:ident = $default:expr,)* $(; $($sub:ident: $kind:ty,)*)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub(super) struct $name {
            $(pub(super) $key: Entry,)*
            $($(pub(super) $sub: $kind,)*)?
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($key: Entry::from($default),)* $($($sub: <$kind>::default(),)*)? }
            }
        }
    };
}

section! {
    /// The whole file.
    Raw {
        ;
        node: Node,
        tls: Tls,
        store: Store,
        web: Web,
        web_clients: Vec<WebClient>,
        web_users: Vec<WebUser>,
        study: Study,
        aliases: Vec<Alias>,
        sources: Vec<Source>,
        destinations: Vec<Destination>,
        delivery: Delivery,
        models: Models,
        pixels: Pixels,
        risk: Risk,
        explain: Explain,
        log: Log,
    }
}

section! {
    Node {
        ae_title = "SIDELIGHT",
        listen = "0.0.0.0:11112",
        listen_tls = "",
        mode = "shadow",
        name = "sidelight",
        serial_number = "unassigned",
        associations_max = 64,
        pdu_bytes_max = "256KiB",
        object_bytes_max = "2GiB",
        idle_timeout = "60s",
        negotiation_timeout = "10s",
        drain_timeout = "20s",
    }
}

section! {
    Tls {
        certificate = "",
        key = "",
        authorities = "",
        client_certificates = "required",
        web_client_certificates = "none",
        profile = "bcp195",
    }
}

section! {
    Store {
        data_dir = "data",
        free_bytes_min = "1GiB",
        free_percent_min = 2,
        ;
        retention: Retention,
    }
}

section! {
    Retention {
        objects = "30d",
        reports = "forever",
        posteriors = "90d",
        evidence = "90d",
    }
}

section! {
    Web {
        listen = "127.0.0.1:8104",
        listen_tls = "",
        dicomweb = false,
        pages = false,
        session_idle = "30m",
        session_max = "12h",
    }
}

section! {
    /// One `[[web_clients]]` entry; empty text stands for "not given".
    WebClient {
        name = "",
        token_file = "",
        may = EMPTY,
        hosts = EMPTY,
        ae_title = "",
        audit = false,
    }
}

section! {
    /// One `[[web_users]]` entry; empty text stands for "not given".
    WebUser {
        name = "",
        password_file = "",
        roles = EMPTY,
    }
}

section! {
    Study {
        quiet_period = "60s",
        cap = "90m",
        late = "replace",
        ;
        required: Vec<Required>,
    }
}

section! {
    /// One `[[study.required]]` entry; empty text stands for "not given".
    Required {
        modality = "",
        body_part = "",
        views = EMPTY,
        images_min = 0,
        series_min = 0,
        quiet_period = "",
        wait = false,
    }
}

section! {
    /// One `[[aliases]]` entry; empty text or an empty list stands for "as the node".
    Alias {
        ae_title = "",
        quiet_period = "",
        clinical = EMPTY,
        destinations = EMPTY,
    }
}

section! {
    /// One `[[sources]]` entry; empty text stands for "not given".
    Source {
        ae_title = "",
        hosts = EMPTY,
        quiet_period = "",
        username = "",
        passcode_file = "",
        commitment = false,
        commitment_to = "",
        query = false,
        audit = false,
        tls = false,
        certificates = EMPTY,
    }
}

section! {
    /// One `[[destinations]]` entry; empty text stands for "not given".
    Destination {
        name = "",
        kind = "dimse",
        ae_title = "",
        host = "",
        port = "",
        url = "",
        token_file = "",
        audit = false,
        disclose = "withheld",
        timeout = "30s",
        tls = false,
        certificates = EMPTY,
        tls_server_name = "",
        associations_max = 1,
        per_minute_max = 0,
        commitment = false,
        commitment_wait = "5s",
    }
}

section! {
    Delivery {
        retry_first = "30s",
        retry_max = "10m",
        tries_min = 10,
        give_up_after = "14d",
    }
}

section! {
    Models {
        dir = "models",
        race = "",
        race_prior = "",
        clinical = EMPTY,
        device = "auto",
        precision = "fp32",
        batch_max = 0,
        batch_delay = "5ms",
        threads = 0,
        deterministic = false,
    }
}

section! {
    Pixels {
        workers = 2,
        timeout = "60s",
        memory_max = "4GiB",
        samples_max = 268_435_456,
    }
}

section! {
    Risk {
        profile = "",
        profile_keys = EMPTY,
        delta = 0.05,
        per_study_inference = true,
        profile_age_max = "365d",
        dataset_audit = false,
        ;
        refit: Refit,
        evidence: Evidence,
    }
}

section! {
    Refit {
        every = "off",
        bootstrap = 1000,
    }
}

section! {
    Evidence {
        every = 0,
        perturbations = 30,
        time_max = "20s",
        file = "",
    }
}

section! {
    Explain {
        method = "off",
        models = "both",
        form = "secondary-capture",
        level_min = "any",
        images_max = 1,
        time_max = "20s",
        patch = 0,
        stride = 0,
        fill = "mean",
    }
}

section! {
    Log {
        json = false,
        filter = "info",
    }
}

impl Raw {
    /// Every known key with its default. A list of tables holds one element, which shows the keys of each.
    pub(super) fn schema() -> toml::Table {
        let one_of_each = Self {
            study: Study { required: vec![Required::default()], ..Study::default() },
            web_clients: vec![WebClient::default()],
            web_users: vec![WebUser::default()],
            aliases: vec![Alias::default()],
            sources: vec![Source::default()],
            destinations: vec![Destination::default()],
            ..Self::default()
        };
        toml::Table::try_from(&one_of_each).expect("the mirror is plain data with text keys")
    }
}

const EMPTY: Vec<Entry> = Vec::new();

impl From<bool> for Entry {
    fn from(value: bool) -> Self {
        Self::Switch(value)
    }
}

impl From<i64> for Entry {
    fn from(value: i64) -> Self {
        Self::Integer(value)
    }
}

impl From<f64> for Entry {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

impl From<&str> for Entry {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<Vec<Entry>> for Entry {
    fn from(value: Vec<Entry>) -> Self {
        Self::List(value)
    }
}
