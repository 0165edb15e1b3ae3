//! Clinical models that are not run in this process: what their cards say instead of a weight file.
//!
//! A model server that speaks the Open Inference Protocol v2 is asked image by image (`[server]`, asked by `remote`).
//! Such a package is identified by the digest of its card: of everything in it that can change a number. Where the
//! server stands, how it is asked and how long it is waited for are no part of that, so that moving it makes no other
//! model of it and no profile stale. Neighbours: `card` (the rest of the file), `manifest`, `product` (`[result]`). Left
//! out: the network.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::{ServiceUrl, span};
use crate::domain::Digest;

use super::card::{Card, Format};
use super::check::Faults;
use super::product::{Product, product};

/// Where the clinical results of a package come from, if not from this process.
#[derive(Debug, Clone, PartialEq)]
pub enum Elsewhere {
    Server(Box<Server>),
    /// A product that scores images on its own.
    Product(Box<Product>),
}

/// `[server]` of a card: a model behind the Open Inference Protocol v2 (KServe, Triton, MLServer), over HTTP.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerCard {
    /// The root of the server; `/v2/models/…` is put behind it.
    pub url: String,
    /// The model's name there.
    pub model: String,
    /// Its version there. Without one the server chooses, and nobody here notices when it chooses another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The name of the input tensor.
    pub input: String,
    /// The names of the output tensors; their columns, one after the other, are those of `[output]`.
    pub outputs: Vec<String>,
    #[serde(default)]
    pub shape: Shape,
    /// For one request and its answer.
    #[serde(default = "timeout")]
    pub timeout: String,
    /// Further attempts of a request that failed for a reason that passes: no connection, no answer, 429, 502 to 504.
    #[serde(default = "retries")]
    pub retries: u32,
    /// Images in one request.
    #[serde(default = "batch_max")]
    pub batch_max: usize,
    /// How long an image waits for company.
    #[serde(default = "batch_delay")]
    pub batch_delay: String,
    /// Requests at a time.
    #[serde(default = "requests_max")]
    pub requests_max: usize,
    /// After so many failures in a row the server is left alone…
    #[serde(default = "failures_max")]
    pub failures_max: u32,
    /// …for so long; then one request finds out.
    #[serde(default = "pause")]
    pub pause: String,
    /// How long an image waits for a server that does not answer. After that it goes on without its score, and the
    /// study's report says that the result is missing.
    #[serde(default = "wait")]
    pub wait: String,
    /// A file with a bearer token, relative to the card.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// An environment variable with a bearer token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_variable: Option<String>,
    /// A PEM file with the authorities that vouch for the server's certificate, relative to the card; without it those
    /// that this machine trusts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorities: Option<PathBuf>,
}

/// How the values of n images of c channels are laid out in the input tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// `[n, c, side, side]`.
    #[default]
    Nchw,
    /// `[n, side, side, c]`.
    Nhwc,
    /// `[n, c · side · side]`, in the order of NCHW.
    Flat,
}

/// A model server, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    pub url: ServiceUrl,
    pub model: String,
    pub version: Option<String>,
    pub input: String,
    pub outputs: Vec<String>,
    pub shape: Shape,
    pub timeout: Duration,
    pub retries: u32,
    pub batch_max: usize,
    pub batch_delay: Duration,
    pub requests_max: usize,
    pub failures_max: u32,
    pub pause: Duration,
    pub wait: Duration,
    pub token: Option<Token>,
    pub authorities: Option<PathBuf>,
}

/// Where a bearer token is; it is read for each request, so that a new one counts at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    File(PathBuf),
    Variable(String),
}

fn timeout() -> String {
    "10s".into()
}

fn retries() -> u32 {
    2
}

fn batch_max() -> usize {
    8
}

fn batch_delay() -> String {
    "5ms".into()
}

fn requests_max() -> usize {
    1
}

fn failures_max() -> u32 {
    5
}

fn pause() -> String {
    "30s".into()
}

fn wait() -> String {
    "15m".into()
}

const SECOND: Duration = Duration::from_secs(1);

/// Where the package's results come from; `None` for one that is run here, and after a fault.
pub(super) fn elsewhere(dir: &Path, card: &Card, faults: &mut Faults) -> Option<Elsewhere> {
    if card.format.is_in_process() {
        strangers(card, faults, &[]);
        return None;
    }
    strangers(card, faults, &[if card.format.is_result() { "result" } else { "server" }]);
    if card.purpose != crate::domain::Purpose::Clinical {
        let remedy = "use format torchscript or safetensors: the audit needs its own instrument";
        faults.add("format", "a race model is run in this process", remedy);
    }
    let held = [("file", !card.file.is_empty()), ("architecture", card.architecture.is_some())];
    for (key, _) in held.into_iter().filter(|(_, given)| *given) {
        faults.add(key, "is given for a model that is not run in this process", "remove it: there is no weight file");
    }
    // What would be taken for granted and is not done: a scored image's calibration, a device's precision.
    let study_level = card.format.is_result();
    let held = [
        ("precision", !card.precision.is_empty()),
        ("golden", card.golden.is_some()),
        ("ood", card.ood.is_some()),
        ("calibration", study_level && card.calibration.is_some()),
        ("aggregation.weights", study_level && !card.aggregation.weights.is_empty()),
    ];
    for (key, _) in held.into_iter().filter(|(_, given)| *given) {
        faults.add(
            key,
            "is given for a model that is not run in this process",
            "remove it: nothing here would follow it",
        );
    }
    match card.format {
        Format::OpenInference => match &card.server {
            Some(server) => check_server(dir, server, faults).map(|server| Elsewhere::Server(Box::new(server))),
            None => {
                faults.add("server", "is missing", "add [server] with url, model, input and outputs");
                None
            }
        },
        Format::ResultSr | Format::ResultCsv => product(card, faults).map(|p| Elsewhere::Product(Box::new(p))),
        Format::TorchScript | Format::Safetensors => None,
    }
}

/// Sections that belong to other formats than the card's.
fn strangers(card: &Card, faults: &mut Faults, own: &[&str]) {
    let given = [("server", card.server.is_some()), ("result", card.result.is_some())];
    for (key, _) in given.into_iter().filter(|(key, given)| *given && !own.contains(key)) {
        let remedy = "remove it, or set format: [server] is of open-inference, [result] of result-sr and result-csv";
        faults.add(key, "is given for a model of another format", remedy);
    }
}

/// The digest that identifies a package that is not run here: of the card without comments, address and pace, and
/// without what is told of the model or asked of the sender alone.
pub(super) fn identity(card: &Card) -> Digest {
    /// Keys that change no number.
    const KEPT_OUT: [(&str, &[&str]); 2] = [
        ("result", &["wait"]),
        (
            "server",
            &[
                "url",
                "timeout",
                "retries",
                "batch_max",
                "batch_delay",
                "requests_max",
                "failures_max",
                "pause",
                "wait",
                "token_file",
                "token_variable",
                "authorities",
            ],
        ),
    ];
    let mut table = toml::Table::try_from(card).unwrap_or_default();
    ["provenance", "manufacturer", "device_uid"].iter().for_each(|key| drop(table.remove(*key)));
    for (section, keys) in KEPT_OUT {
        if let Some(section) = table.get_mut(section).and_then(toml::Value::as_table_mut) {
            keys.iter().for_each(|key| drop(section.remove(*key)));
            if let Some(from) = section.get_mut("from").and_then(toml::Value::as_table_mut) {
                from.remove("ae_titles");
            }
        }
    }
    Digest::of(serde_json::to_string(&sorted(&toml::Value::Table(table))).unwrap_or_default().as_bytes())
}

/// The same value with the keys of every table in order, whatever order the libraries keep.
fn sorted(value: &toml::Value) -> serde_json::Value {
    match value {
        toml::Value::Table(table) => {
            let mut keys: Vec<&String> = table.keys().collect();
            keys.sort();
            serde_json::Value::Array(
                keys.into_iter().map(|key| serde_json::json!([key, sorted(&table[key])])).collect(),
            )
        }
        toml::Value::Array(list) => serde_json::Value::Array(list.iter().map(sorted).collect()),
        other => serde_json::json!(other.to_string()),
    }
}

fn check_server(dir: &Path, card: &ServerCard, faults: &mut Faults) -> Option<Server> {
    let before = faults.list.len();
    let url = ServiceUrl::parse(&card.url).map_err(|what| {
        faults.add(
            "server.url",
            what,
            "write e.g. \"http://192.0.2.20:8080\" or \"https://models.example.org/kserve\"",
        );
    });
    // They become parts of a path, and members of JSON.
    let plain = |text: &str| {
        !text.is_empty() && text.len() <= 128 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    let named = [("model", Some(&card.model)), ("version", card.version.as_ref())];
    for (key, text) in named.into_iter().filter_map(|(key, text)| Some((key, text?))) {
        if !plain(text) || text.chars().all(|c| c == '.') {
            let remedy = "use 1 to 128 letters, digits, dots, hyphens and underscores";
            faults.add(format!("server.{key}"), format!("{text:?} is no name of a model server"), remedy);
        }
    }
    let is_tensor = |text: &str| (1..=128).contains(&text.len()) && text.bytes().all(|b| (0x20..0x7f).contains(&b));
    if !is_tensor(&card.input) {
        faults.add(
            "server.input",
            format!("{:?} is no name of a tensor", card.input),
            "use printable ASCII characters",
        );
    }
    let unique: std::collections::BTreeSet<&String> = card.outputs.iter().collect();
    if card.outputs.is_empty() || unique.len() != card.outputs.len() || !card.outputs.iter().all(|o| is_tensor(o)) {
        let remedy = "list the names of the output tensors, each once, in the order of the findings";
        faults.add("server.outputs", "does not name the output tensors", remedy);
    }
    let counts = [
        ("retries", card.retries as usize, 0..=10),
        ("batch_max", card.batch_max, 1..=1024),
        ("requests_max", card.requests_max, 1..=64),
        ("failures_max", card.failures_max as usize, 1..=1000),
    ];
    for (key, value, range) in counts {
        if !range.contains(&value) {
            let remedy = format!("write {} to {}", range.start(), range.end());
            faults.add(format!("server.{key}"), format!("is {value}"), remedy);
        }
    }
    let mut duration = |key: &str, text: &str, range| {
        span(text, range).map_err(|what| faults.add(format!("server.{key}"), what, "correct it")).unwrap_or_default()
    };
    let timeout = duration("timeout", &card.timeout, SECOND / 10..=600 * SECOND);
    let batch_delay = duration("batch_delay", &card.batch_delay, Duration::ZERO..=10 * SECOND);
    let pause = duration("pause", &card.pause, SECOND / 10..=3600 * SECOND);
    let wait = duration("wait", &card.wait, Duration::ZERO..=7 * 86_400 * SECOND);
    let token = match (&card.token_file, &card.token_variable) {
        (Some(_), Some(_)) => {
            faults.add("server.token_variable", "is given beside token_file", "keep one of them");
            None
        }
        (Some(file), None) => Some(Token::File(dir.join(file))),
        (None, Some(variable)) => Some(Token::Variable(variable.clone())),
        (None, None) => None,
    };
    if token.is_some() && url.as_ref().is_ok_and(ServiceUrl::is_overheard) {
        let remedy = "write https://, or leave the token out";
        faults.add("server.url", "would show the token to everybody on the way", remedy);
    }
    let url = url.ok().filter(|_| faults.list.len() == before)?;
    Some(Server {
        url,
        model: card.model.clone(),
        version: card.version.clone(),
        input: card.input.clone(),
        outputs: card.outputs.clone(),
        shape: card.shape,
        timeout,
        retries: card.retries,
        batch_max: card.batch_max,
        batch_delay,
        requests_max: card.requests_max,
        failures_max: card.failures_max,
        pause,
        wait,
        token,
        authorities: card.authorities.as_ref().map(|file| dir.join(file)),
    })
}

#[cfg(test)]
#[path = "elsewhere_tests.rs"]
mod tests;
