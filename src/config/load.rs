//! Brings the layers together: defaults ← TOML file ← environment ← flags.
//!
//! Each layer is held against the known keys of `raw` and stripped of what is unknown or of the wrong shape
//! (each a fault), so that only clean layers are merged (crate `config`); `validate` judges the result.
//! A file is untrusted: its size, its structure and its nesting are bounded before and while it is parsed.
//! Left out: reading the environment of the process anywhere but in [`environment`].

use std::io::Read;
use std::path::Path;

use ::config::{Map, Source, Value, ValueKind};

use super::Config;
use super::fault::{ConfigError, Fault, Faults, Problem, nearest, printable, quoted, shortened, unknown, whole};
use super::raw::{Entry, Raw};
use super::validate::{Need, validate};
use super::walk::{FILE_BYTES_MAX, Known, on_large_stack, parse_file, parse_list};

/// What the names of our environment variables begin with.
const PREFIX: &str = "SIDELIGHT__";

/// The valid configuration out of `file`, `environment` (as of [`environment`]; other programs' variables are
/// ignored) and `overrides` (dotted key and value, later ones win), for commands that analyse nothing.
///
/// Relative paths are taken from the current directory, whichever layer they come from.
///
/// # Errors
/// Every fault of every layer and every contradiction between keys. If the file cannot be read or is not TOML,
/// the values of the other layers are not judged, since what the file says is missing.
pub fn load(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    overrides: &[(String, String)],
) -> Result<Config, ConfigError> {
    load_for(Need::AnyCommand, file, environment, overrides)
}

/// As [`load`], for commands that analyse studies: a configuration that names no model is a fault too.
pub fn load_to_serve(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    overrides: &[(String, String)],
) -> Result<Config, ConfigError> {
    load_for(Need::Serve, file, environment, overrides)
}

/// The variables of this process that are meant for the configuration. Bytes that are not UTF-8 become U+FFFD,
/// which no key accepts.
pub fn environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .filter(|(name, _)| name.starts_with(PREFIX))
        .collect()
}

/// Where each value of the merged configuration came from.
#[derive(Debug, Default)]
pub(super) struct Origins(Map<String, Value>);

impl Origins {
    /// The fault of `key`, told with where its value came from.
    pub(super) fn fault(&self, key: &str, entry: Option<&Entry>, problem: Problem) -> Fault {
        let (origin, given) = self.find(key);
        let value = entry.filter(|e| given || **e != Entry::Text(String::new())).map(|e| shortened(&shown(e)));
        Fault { key: key.to_owned(), value, origin, problem: problem.what, remedy: problem.remedy }
    }

    /// The origin of `key`, or of the list element that lacks it, and whether there is a value.
    fn find(&self, key: &str) -> (String, bool) {
        let mut origin = None;
        let mut table = &self.0;
        let mut parts = key.split('.').peekable();
        while let Some(part) = parts.next() {
            let (name, index) = match part.strip_suffix(']').and_then(|p| p.split_once('[')) {
                Some((name, index)) => (name, index.parse::<usize>().ok()),
                None => (part, None),
            };
            let mut value = table.get(name);
            if let (Some(i), Some(Value { kind: ValueKind::Array(items), .. })) = (index, value) {
                value = items.get(i);
            }
            let Some(value) = value else {
                return (origin.unwrap_or_else(|| "default".to_owned()), false);
            };
            origin = value.origin().map(str::to_owned).or(origin);
            match &value.kind {
                ValueKind::Table(inner) if parts.peek().is_some() => table = inner,
                _ => break,
            }
        }
        (origin.unwrap_or_else(|| "default".to_owned()), true)
    }
}

fn load_for(
    need: Need,
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    overrides: &[(String, String)],
) -> Result<Config, ConfigError> {
    let known = Known::new();
    let mut faults = Faults::default();
    let from_file = match file.map(|path| file_layer(path, &known, &mut faults)) {
        None => Some(Layer::default()),
        Some(layer) => layer,
    };
    let from_environment = environment_layer(environment, &known, &mut faults);
    let from_flags = flag_layer(overrides, &known, &mut faults);
    let config = from_file.and_then(|from_file| {
        let layers = [Layer::defaults(&known), from_file, from_environment, from_flags];
        let (raw, origins) = merge(layers, &mut faults)?;
        validate(&raw, need, &origins, &mut faults)
    });
    match (config, faults.into_error()) {
        (Some(config), None) => Ok(config),
        (_, Some(error)) => Err(error),
        (None, None) => Err(whole("configuration", "could not be built", "report this as a bug").into()),
    }
}

/// The mirror of the merged layers.
fn merge(layers: [Layer; 4], faults: &mut Faults) -> Option<(Raw, Origins)> {
    let builder = layers.into_iter().fold(::config::Config::builder(), |b, layer| b.add_source(layer));
    let merged = builder.build().and_then(|c| Ok((Origins(c.collect()?), c.try_deserialize::<Raw>()?)));
    match merged {
        Ok((origins, raw)) => Some((raw, origins)),
        Err(error) => {
            faults.push(whole("configuration", &format!("cannot be merged: {error}"), "write plain values"));
            None
        }
    }
}

/// One layer, clean: only known keys, each in the right shape.
#[derive(Debug, Clone, Default)]
struct Layer(Map<String, Value>);

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ::config::ConfigError> {
        Ok(self.0.clone())
    }
}

impl Layer {
    fn defaults(known: &Known) -> Self {
        let lists = known.schema.iter().filter(|(_, value)| value.is_array());
        let empty = lists.map(|(key, _)| (key.clone(), Value::new(None, Vec::<Value>::new())));
        let leaves = known.leaves.iter().map(|(key, value)| (key.clone(), default_value(value)));
        Self(leaves.chain(empty).collect())
    }
}

/// The layer of a file; `None` if it cannot be read or is not TOML.
fn file_layer(path: &Path, known: &Known, faults: &mut Faults) -> Option<Layer> {
    let name = path.display().to_string();
    let (found, result) = match read(path) {
        Ok(text) => on_large_stack(|| parse_file(&name, &text, known)),
        Err(problem) => (Faults::default(), Err(problem)),
    };
    faults.extend(found);
    result.map(Layer).map_err(|p| faults.push(Fault { key: name, ..whole("", &p.what, &p.remedy) })).ok()
}

fn read(path: &Path) -> Result<String, Problem> {
    let unreadable =
        |e: std::io::Error| Problem::new(format!("cannot be read: {e}"), "check the path and its permissions");
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() > FILE_BYTES_MAX {
        return Err(Problem::new("is larger than 1 MiB", "check that this is the configuration file"));
    }
    String::from_utf8(bytes)
        .map_err(|e| Problem::new(format!("is not UTF-8 at byte {}", e.utf8_error().valid_up_to()), "save it as UTF-8"))
}

fn environment_layer(
    environment: impl IntoIterator<Item = (String, String)>,
    known: &Known,
    faults: &mut Faults,
) -> Layer {
    let variable = |key: &str| format!("{PREFIX}{}", key.to_ascii_uppercase().replace('.', "__"));
    let names: Vec<(String, &str)> = known.settable_names().map(|key| (variable(key), key)).collect();
    let mut layer = Layer::default();
    for (name, text) in environment {
        if !name.starts_with(PREFIX) {
            continue;
        }
        let origin = format!("environment {}", printable(&name));
        match names.iter().find(|(known, _)| *known == name) {
            Some((_, key)) => set(&mut layer, key, &text, origin, known, faults),
            None => {
                let key = printable(&name[PREFIX.len()..]).to_ascii_lowercase().replace("__", ".");
                let meant = nearest(&name, names.iter().map(|(known, _)| known.as_str()));
                faults.push(unknown(key, quoted(&text), origin, meant));
            }
        }
    }
    layer
}

fn flag_layer(overrides: &[(String, String)], known: &Known, faults: &mut Faults) -> Layer {
    let mut layer = Layer::default();
    for (key, text) in overrides {
        let origin = "command line".to_owned();
        if known.settable(key).is_some() {
            set(&mut layer, key, text, origin, known, faults);
        } else {
            let meant = nearest(key, known.settable_names());
            faults.push(unknown(printable(key), quoted(text), origin, meant));
        }
    }
    layer
}

/// Puts the text of a variable or flag into `layer`, in the type that `key` has.
fn set(layer: &mut Layer, key: &str, text: &str, origin: String, known: &Known, faults: &mut Faults) {
    let plain = text.trim();
    let kind = match known.settable(key) {
        Some(toml::Value::Array(_)) if plain.starts_with('[') || known.schema.contains_key(key) => {
            let (found, list) = on_large_stack(|| parse_list(key, plain, &origin, known));
            faults.extend(found);
            match list {
                Ok(list) => list,
                Err(Problem { what: problem, remedy }) => {
                    faults.push(Fault {
                        key: key.into(),
                        value: Some(quoted(text)),
                        origin: origin.clone(),
                        problem,
                        remedy,
                    });
                    None
                }
            }
        }
        Some(toml::Value::Array(_)) => {
            let words = plain.split(',').map(str::trim).filter(|word| !word.is_empty());
            Some(ValueKind::Array(words.map(|word| Value::new(Some(&origin), word)).collect()))
        }
        Some(toml::Value::Boolean(_)) => Some(plain.parse().map_or_else(|_| ValueKind::from(text), ValueKind::Boolean)),
        Some(toml::Value::Integer(_)) => Some(plain.parse().map_or_else(|_| ValueKind::from(text), ValueKind::I64)),
        Some(toml::Value::Float(_)) => Some(plain.parse().map_or_else(|_| ValueKind::from(text), ValueKind::Float)),
        _ => Some(ValueKind::from(text)),
    };
    if let Some(kind) = kind {
        layer.0.insert(key.to_owned(), Value::new(Some(&origin), kind));
    }
}

fn default_value(value: &toml::Value) -> Value {
    let kind = match value {
        toml::Value::String(text) => ValueKind::from(text.as_str()),
        toml::Value::Integer(n) => ValueKind::I64(*n),
        toml::Value::Float(n) => ValueKind::Float(*n),
        toml::Value::Boolean(on) => ValueKind::Boolean(*on),
        toml::Value::Array(items) => ValueKind::Array(items.iter().map(default_value).collect()),
        toml::Value::Datetime(_) | toml::Value::Table(_) => ValueKind::Nil,
    };
    Value::new(None, kind)
}

/// An entry in TOML's notation.
fn shown(entry: &Entry) -> String {
    match entry {
        Entry::Switch(on) => on.to_string(),
        Entry::Integer(n) => n.to_string(),
        Entry::Float(n) => n.to_string(),
        Entry::Text(text) => quoted(text),
        Entry::List(items) => format!("[{}]", items.iter().take(8).map(shown).collect::<Vec<_>>().join(", ")),
    }
}
