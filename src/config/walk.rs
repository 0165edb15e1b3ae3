//! Untrusted TOML: parsed within bounds and walked along the known keys.
//!
//! What comes out holds only known keys in the right shape; all else is a fault with the line where it stands.
//! `load` makes layers of it. Left out: whether a value is any good, which is `validate`'s.

use std::ops::Range;

use ::config::{Map, Value, ValueKind};
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::fault::{Fault, Faults, Problem, nearest, printable, quoted, shortened, unknown};
use super::raw::Raw;

/// Largest configuration file, bytes.
pub const FILE_BYTES_MAX: usize = 1 << 20;

/// Most characters that build structure (`. = { [ ,`) in a file: parsing takes up to about 1 kB for each,
/// so that loading stays below 128 MiB.
const STRUCTURE_MAX: usize = 100_000;

/// Stack for parsing TOML. The parser nests 80 levels of values with keys of 80 parts each, all dropped recursively.
const PARSE_STACK_BYTES: usize = 64 << 20;

/// The known keys.
pub(super) struct Known {
    pub(super) schema: toml::Table,
    /// Dotted key and default of everything that one variable or flag can set; not what is inside a list of tables.
    pub(super) leaves: Vec<(String, toml::Value)>,
    /// Every dotted key that can stand in a file, sections included.
    names: Vec<String>,
}

impl Known {
    pub(super) fn new() -> Self {
        let mut known = Self { schema: Raw::schema(), leaves: Vec::new(), names: Vec::new() };
        let schema = std::mem::take(&mut known.schema);
        known.add("", &schema);
        known.schema = schema;
        known
    }

    fn add(&mut self, path: &str, table: &toml::Table) {
        for (key, value) in table {
            let full = joined(path, key);
            self.names.push(full.clone());
            match (value, keys_of_each(value)) {
                (toml::Value::Table(section), _) => self.add(&full, section),
                (_, Some(element)) => self.names.extend(element.keys().map(|k| joined(&full, k))),
                (leaf, None) => self.leaves.push((full, leaf.clone())),
            }
        }
    }

    /// The shape of what `key` sets, if a variable or flag can set it.
    pub(super) fn settable(&self, key: &str) -> Option<&toml::Value> {
        let leaf = self.leaves.iter().find(|(name, _)| name == key).map(|(_, value)| value);
        leaf.or_else(|| self.schema.get(key).filter(|value| value.is_array()))
    }

    pub(super) fn settable_names(&self) -> impl Iterator<Item = &str> {
        let lists = self.schema.iter().filter(|(_, value)| value.is_array()).map(|(key, _)| key.as_str());
        self.leaves.iter().map(|(name, _)| name.as_str()).chain(lists)
    }
}

pub(super) fn parse_file(name: &str, text: &str, known: &Known) -> (Faults, Result<Map<String, Value>, Problem>) {
    let mut reader = Reader { known, place: Place::file(name, text), faults: Faults::default() };
    let parsed = intricate(text).map_or_else(|| DeTable::parse(text).map_err(|e| reader.place.syntax(&e)), Err);
    let clean = parsed.map(|table| reader.table("", &known.schema, table.get_ref()));
    (reader.faults, clean)
}

/// A list in TOML's notation, as the value of a variable or flag; `None` if its faults have been noted.
pub(super) fn parse_list(
    key: &str,
    text: &str,
    origin: &str,
    known: &Known,
) -> (Faults, Result<Option<ValueKind>, Problem>) {
    let mut reader = Reader { known, place: Place::named(origin), faults: Faults::default() };
    let parsed = intricate(text).map_or_else(|| DeValue::parse(text).map_err(|e| reader.place.syntax(&e)), Err);
    let list = parsed.map(|value| known.settable(key).and_then(|shape| reader.value(key, shape, &value)));
    (reader.faults, list)
}

/// Runs a parser of untrusted TOML where deep nesting cannot overflow the stack.
pub(super) fn on_large_stack<T: Send>(
    parse: impl FnOnce() -> (Faults, Result<T, Problem>) + Send,
) -> (Faults, Result<T, Problem>) {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("config".into()).stack_size(PARSE_STACK_BYTES);
        match thread.spawn_scoped(scope, parse).map(|running| running.join()) {
            Ok(Ok(found)) => found,
            _ => (Faults::default(), Err(Problem::new("could not be parsed", "write a simpler file"))),
        }
    })
}

/// Why `text` has more structure than any configuration needs, if so.
fn intricate(text: &str) -> Option<Problem> {
    let structure = text.bytes().filter(|b| matches!(b, b'.' | b'=' | b'{' | b'[' | b',')).count();
    (structure > STRUCTURE_MAX || text.len() > FILE_BYTES_MAX)
        .then(|| Problem::new("holds far more than a configuration does", "check that this is the configuration"))
}

/// Walks parsed TOML along the known keys.
struct Reader<'a> {
    known: &'a Known,
    place: Place<'a>,
    faults: Faults,
}

impl Reader<'_> {
    fn table(&mut self, path: &str, shape: &toml::Table, table: &DeTable<'_>) -> Map<String, Value> {
        let mut clean = Map::new();
        for (key, value) in table {
            let name = key.get_ref();
            let full = joined(path, &if name.contains('.') { quoted(name) } else { printable(name) });
            let origin = self.place.of(key.span());
            match shape.get(name.as_ref()) {
                None => {
                    let names = self.known.names.iter().map(String::as_str).filter(|_| !self.faults.is_full());
                    let meant = nearest(&without_indexes(&full), names);
                    self.faults.push(unknown(full, summary(value.get_ref()), origin, meant));
                }
                Some(shape) => {
                    if let Some(kind) = self.value(&full, shape, value) {
                        clean.insert(name.clone().into_owned(), Value::new(Some(&origin), kind));
                    }
                }
            }
        }
        clean
    }

    /// The value of a known key; `None` and a fault if it has not the shape of the default.
    fn value(&mut self, path: &str, shape: &toml::Value, value: &Spanned<DeValue<'_>>) -> Option<ValueKind> {
        match (shape, keys_of_each(shape), value.as_ref()) {
            (toml::Value::Table(section), _, DeValue::Table(table)) => {
                Some(ValueKind::Table(self.table(path, section, table)))
            }
            (toml::Value::Table(_), _, _) => {
                self.refuse(path, value, "is not a section", &format!("write [{path}] and its keys below"))
            }
            (_, Some(keys), DeValue::Array(items)) => self.elements(path, keys, items),
            (_, Some(_), _) => self.refuse(
                path,
                value,
                "is not a list of tables",
                &format!("write [[{path}]], with two brackets, per entry"),
            ),
            (_, None, DeValue::Array(items)) => {
                // Every item is asked, so that every fault is found.
                let asked: Vec<Option<Value>> = items
                    .iter()
                    .map(|item| self.scalar(path, item).map(|kind| Value::new(Some(&self.place.of(item.span())), kind)))
                    .collect();
                asked.into_iter().collect::<Option<Vec<Value>>>().map(ValueKind::Array)
            }
            _ => self.scalar(path, value),
        }
    }

    /// A list of tables; every element is asked, so that every fault is found.
    fn elements(&mut self, path: &str, keys: &toml::Table, items: &DeArray<'_>) -> Option<ValueKind> {
        let mut clean = Vec::new();
        for (i, item) in items.iter().enumerate() {
            let full = format!("{path}[{i}]");
            let origin = self.place.of(item.span());
            let table = match item.get_ref() {
                DeValue::Table(table) => Some(self.table(&full, keys, table)),
                _ => self.refuse(
                    &full,
                    item,
                    "is not a table",
                    &format!("write [[{path}]], with two brackets, per entry"),
                ),
            };
            clean.push(table.map(|table| Value::new(Some(&origin), table)));
        }
        clean.into_iter().collect::<Option<Vec<Value>>>().map(ValueKind::Array)
    }

    fn scalar(&mut self, path: &str, value: &Spanned<DeValue<'_>>) -> Option<ValueKind> {
        match value.get_ref() {
            DeValue::String(text) => Some(ValueKind::String(text.clone().into_owned())),
            DeValue::Boolean(on) => Some(ValueKind::Boolean(*on)),
            DeValue::Integer(n) => match i64::from_str_radix(n.as_str(), n.radix()) {
                Ok(n) => Some(ValueKind::I64(n)),
                Err(_) => self.refuse(path, value, "is out of bounds", "write a smaller number"),
            },
            DeValue::Float(n) => match n.as_str().parse() {
                Ok(n) => Some(ValueKind::Float(n)),
                Err(_) => self.refuse(path, value, "is not a number", "write a number, e.g. 0.05"),
            },
            DeValue::Datetime(_) => self.refuse(path, value, "is a date", "write it in quotes if it is meant as text"),
            DeValue::Array(_) => self.refuse(path, value, "holds a list within a list", "write a list of plain values"),
            DeValue::Table(_) => self.refuse(path, value, "is a section", "write one value"),
        }
    }

    fn refuse<T>(&mut self, path: &str, value: &Spanned<DeValue<'_>>, what: &str, remedy: &str) -> Option<T> {
        self.faults.push(Fault {
            key: path.to_owned(),
            value: Some(summary(value.get_ref())),
            origin: self.place.of(value.span()),
            problem: what.to_owned(),
            remedy: remedy.to_owned(),
        });
        None
    }
}

/// Where TOML stands: a file, of which lines are counted, or something that has only a name.
struct Place<'a> {
    name: &'a str,
    /// Offsets of the line ends; `None` without lines.
    line_ends: Option<Vec<usize>>,
}

impl<'a> Place<'a> {
    fn file(name: &'a str, text: &str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i).collect();
        Self { name, line_ends: Some(ends) }
    }

    fn named(name: &'a str) -> Self {
        Self { name, line_ends: None }
    }

    fn line(&self, offset: usize) -> Option<usize> {
        self.line_ends.as_ref().map(|ends| ends.partition_point(|end| *end < offset) + 1)
    }

    fn of(&self, span: Range<usize>) -> String {
        match self.line(span.start) {
            Some(line) => format!("{} line {line}", self.name),
            None => self.name.to_owned(),
        }
    }

    fn syntax(&self, error: &toml::de::Error) -> Problem {
        let line = error.span().and_then(|span| self.line(span.start));
        let at = line.map(|line| format!(" in line {line}")).unwrap_or_default();
        Problem::new(
            format!("is not TOML{at}: {}", shortened(error.message())),
            "put the syntax right; the other values are judged then",
        )
    }
}

/// The keys of each element, if `shape` is a list of tables.
fn keys_of_each(shape: &toml::Value) -> Option<&toml::Table> {
    shape.as_array()?.first()?.as_table()
}

fn joined(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// `sources[3].hosts` → `sources.hosts`.
fn without_indexes(path: &str) -> String {
    path.split('.').map(|part| part.split('[').next().unwrap_or(part)).collect::<Vec<_>>().join(".")
}

/// A parsed value in a few characters.
fn summary(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => quoted(text),
        DeValue::Integer(n) => shortened(&n.to_string()),
        DeValue::Float(n) => shortened(n.as_str()),
        DeValue::Boolean(on) => on.to_string(),
        DeValue::Datetime(date) => date.to_string(),
        DeValue::Array(items) if items.is_empty() => "[]".to_owned(),
        DeValue::Array(_) => "[…]".to_owned(),
        DeValue::Table(_) => "{…}".to_owned(),
    }
}
