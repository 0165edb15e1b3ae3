//! One value at a time: what was written becomes a typed value, or a problem with its remedy. Pure.
//!
//! `validate` names the key and the bounds; the rules about several keys at once are there too.
//! Left out: whether a folder, host or file exists, which `sidelight check` asks.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;

use crate::domain::{AeTitle, Disclosure, Laterality, Precision, PublicKey, RequiredView, View};

use super::fault::Problem;
use super::raw::Entry;
use super::{ClientCertificates, Device, Fingerprint, Late, Mode, PrecisionChoice, Remote, TlsProfile};

pub(super) type Parsed<T> = Result<T, Problem>;

/// A machine has up to sixteen GPUs.
const DEVICES_MAX: usize = 16;

/// Any text; the other parsers start here.
pub(super) fn text(entry: &Entry) -> Parsed<&str> {
    match entry {
        Entry::Text(text) => Ok(text.trim()),
        other => Err(Problem::new(format!("is {}, not text", kind(other)), "write text in quotes")),
    }
}

/// A span of time with units, within `range`.
pub(super) fn duration(range: RangeInclusive<Duration>) -> impl Fn(&Entry) -> Parsed<Duration> {
    move |entry| {
        let written = with_unit(entry, "60s", "90m")?;
        let remedy = || Problem::new("is not a duration", r#"write a number and a unit, e.g. "500ms", "60s" or "30d""#);
        // humantime 2.4 panics where the sum of seconds overflows; ten digits cannot get there, even as years.
        if written.len() > 64 || written.bytes().filter(u8::is_ascii_digit).count() > 10 {
            return Err(remedy());
        }
        let value = humantime::parse_duration(written).map_err(|_| remedy())?;
        within(&value, &range, |d| humantime::format_duration(*d).to_string())?;
        Ok(value)
    }
}

/// A duration as it stands in a model card; else what is wrong with it, and the remedy.
pub(crate) fn span(written: &str, range: RangeInclusive<Duration>) -> Result<Duration, String> {
    duration(range)(&Entry::Text(written.to_owned())).map_err(|problem| problem.to_string())
}

/// As [`duration`], or `None` for the word `never`.
pub(super) fn duration_or(
    never: &'static str,
    range: RangeInclusive<Duration>,
) -> impl Fn(&Entry) -> Parsed<Option<Duration>> {
    move |entry| match entry {
        Entry::Text(word) if word.trim() == never => Ok(None),
        _ => duration(range.clone())(entry)
            .map(Some)
            .map_err(|problem| Problem::new(problem.what, format!("{}, or \"{never}\"", problem.remedy))),
    }
}

/// As [`duration`], or `None` for empty text.
pub(super) fn duration_if_given(range: RangeInclusive<Duration>) -> impl Fn(&Entry) -> Parsed<Option<Duration>> {
    move |entry| match entry {
        Entry::Text(text) if text.trim().is_empty() => Ok(None),
        _ => duration(range.clone())(entry).map(Some),
    }
}

/// A number of bytes with a unit, within `range`.
pub(super) fn size(range: RangeInclusive<u64>) -> impl Fn(&Entry) -> Parsed<u64> {
    move |entry| {
        let written = with_unit(entry, "512MiB", "2GiB")?;
        let value: ByteSize = written.parse().map_err(|_| {
            Problem::new("is not a size", r#"write a number and a unit, e.g. "256KiB", "512MiB" or "2GiB""#)
        })?;
        within(&value.as_u64(), &range, |bytes| ByteSize(*bytes).display().iec().to_string())?;
        Ok(value.as_u64())
    }
}

/// A whole number within `range`.
pub(super) fn integer(range: RangeInclusive<i64>) -> impl Fn(&Entry) -> Parsed<u64> {
    move |entry| {
        let Entry::Integer(value) = entry else {
            let remedy = format!("write a number from {} to {}, without quotes", range.start(), range.end());
            return Err(Problem::new(format!("is {}, not a whole number", kind(entry)), remedy));
        };
        within(value, &range, i64::to_string)?;
        u64::try_from(*value).map_err(|_| Problem::new("is negative", "write 0 or more"))
    }
}

/// As [`integer`], for counts of things in memory.
pub(super) fn count(range: RangeInclusive<i64>) -> impl Fn(&Entry) -> Parsed<usize> {
    move |entry| {
        let value = integer(range.clone())(entry)?;
        usize::try_from(value).map_err(|_| Problem::new("is too large for this machine", "write a smaller number"))
    }
}

/// A fraction strictly between 0 and 1.
pub(super) fn fraction(entry: &Entry) -> Parsed<f64> {
    let value = match entry {
        Entry::Float(value) => *value,
        Entry::Integer(value) => *value as f64,
        other => {
            return Err(Problem::new(format!("is {}, not a number", kind(other)), "write a number, e.g. 0.05"));
        }
    };
    if value > 0.0 && value < 1.0 {
        return Ok(value);
    }
    Err(Problem::new("is not between 0 and 1", "write a fraction of 1 greater than 0 and less than 1, e.g. 0.05"))
}

pub(super) fn switch(entry: &Entry) -> Parsed<bool> {
    match entry {
        Entry::Switch(on) => Ok(*on),
        other => Err(Problem::new(format!("is {}, not a switch", kind(other)), "write true or false, without quotes")),
    }
}

/// A list of at most `elements_max` elements, each of which obeys `element`; every one that does not is named.
pub(super) fn list<T>(elements_max: usize, element: impl Fn(&Entry) -> Parsed<T>) -> impl Fn(&Entry) -> Parsed<Vec<T>> {
    move |entry| {
        let Entry::List(entries) = entry else {
            return Err(Problem::new(format!("is {}, not a list", kind(entry)), r#"write a list, e.g. ["A", "B"]"#));
        };
        if entries.len() > elements_max {
            return Err(Problem::new("is too long", format!("write at most {elements_max} elements")));
        }
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        for (i, parsed) in entries.iter().map(&element).enumerate() {
            match parsed {
                Ok(value) => good.push(value),
                Err(problem) => bad.push((format!("element {} {}", i + 1, problem.what), problem.remedy)),
            }
        }
        let Some((_, remedy)) = bad.first().cloned() else {
            return Ok(good);
        };
        let what: Vec<String> = bad.into_iter().map(|(what, _)| what).collect();
        Err(Problem::new(what.join(", "), remedy))
    }
}

pub(super) fn ae_title(entry: &Entry) -> Parsed<AeTitle> {
    let written = text(entry)?;
    if written.is_empty() {
        return Err(missing("an AE title of 1 to 16 characters"));
    }
    AeTitle::parse(written).map_err(|_| {
        Problem::new("is not an AE title", "write 1 to 16 characters of printable ASCII without a backslash")
    })
}

pub(super) fn mode(entry: &Entry) -> Parsed<Mode> {
    choice(entry, &[("shadow", Mode::Shadow), ("active", Mode::Active)])
}

pub(super) fn disclosure(entry: &Entry) -> Parsed<Disclosure> {
    choice(entry, &[("withheld", Disclosure::Withheld), ("probabilities", Disclosure::Probabilities)])
}

pub(super) fn client_certificates(entry: &Entry) -> Parsed<ClientCertificates> {
    let choices = [
        ("required", ClientCertificates::Required),
        ("optional", ClientCertificates::Optional),
        ("none", ClientCertificates::None),
    ];
    choice(entry, &choices)
}

pub(super) fn tls_profile(entry: &Entry) -> Parsed<TlsProfile> {
    choice(entry, &[("bcp195", TlsProfile::Bcp195), ("bcp195-tls13", TlsProfile::Bcp195Tls13)])
}

/// The SHA-256 fingerprint of a certificate.
pub(super) fn fingerprint(entry: &Entry) -> Parsed<Fingerprint> {
    Fingerprint::parse(text(entry)?).ok_or_else(|| {
        Problem::new(
            "is not a SHA-256 fingerprint",
            "write the 64 digits of: openssl x509 -noout -fingerprint -sha256 -in FILE",
        )
    })
}

pub(super) fn public_key(entry: &Entry) -> Parsed<PublicKey> {
    let remedy = "write what `sidelight profile key` printed, 44 characters of base64";
    PublicKey::parse(text(entry)?).map_err(|_| Problem::new("is no Ed25519 public key", remedy))
}

/// An IP address with a port; names are not looked up, so that a slip never opens another interface.
pub(super) fn listen(entry: &Entry) -> Parsed<SocketAddr> {
    text(entry)?.parse().map_err(|_| {
        Problem::new(
            "is not an IP address with a port",
            r#"write e.g. "0.0.0.0:11112", "127.0.0.1:11112" or "[::]:11112"; names are not looked up here"#,
        )
    })
}

/// As [`listen`], or `None` for empty text.
pub(super) fn listen_if_given(entry: &Entry) -> Parsed<Option<SocketAddr>> {
    if text(entry)?.is_empty() {
        return Ok(None);
    }
    listen(entry).map(Some).map_err(|p| Problem::new(p.what, format!("{}; \"\" switches it off", p.remedy)))
}

pub(super) fn ip_address(entry: &Entry) -> Parsed<IpAddr> {
    text(entry)?.parse().map_err(|_| {
        Problem::new("is not an IP address", r#"write addresses, e.g. "192.0.2.7"; names and ranges are not looked up"#)
    })
}

/// The rule that `host` breaks, if any: an IP address, or a host name (RFC 1123 2.1).
pub(crate) fn host_fault(host: &str) -> Option<Problem> {
    let remedy = r#"write a host name or an IP address without a port, e.g. "pacs.example.org" or "192.0.2.7""#;
    if host.parse::<IpAddr>().is_ok() {
        return None;
    }
    let label_fits = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if host.len() > 253 || !host.split('.').all(label_fits) {
        return Some(Problem::new("is not a host name", remedy));
    }
    let numeric = host.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    numeric.then(|| Problem::new("is neither a valid IP address nor a host name", remedy))
}

pub(super) fn host(entry: &Entry) -> Parsed<String> {
    let written = text(entry)?;
    if written.is_empty() {
        return Err(missing("the host name or IP address of the peer"));
    }
    match host_fault(written) {
        Some(problem) => Err(problem),
        None => Ok(written.to_owned()),
    }
}

/// As [`host`], or `None` for empty text.
pub(super) fn host_if_given(entry: &Entry) -> Parsed<Option<String>> {
    if text(entry)?.is_empty() { Ok(None) } else { host(entry).map(Some) }
}

pub(super) fn port(entry: &Entry) -> Parsed<u16> {
    if matches!(entry, Entry::Text(text) if text.is_empty()) {
        return Err(missing("the port of the peer, e.g. 104 or 11112"));
    }
    let value = integer(1..=65535)(entry)?;
    u16::try_from(value).map_err(|_| Problem::new("is not a port", "write a number from 1 to 65535"))
}

/// A peer as `AET@host:port`, or `None` for empty text; an IPv6 address stands in brackets.
pub(super) fn remote_if_given(entry: &Entry) -> Parsed<Option<Remote>> {
    let written = text(entry)?;
    if written.is_empty() {
        return Ok(None);
    }
    let fail = || Problem::new("is not a peer", r#"write AET@host:port, e.g. "PACS@192.0.2.7:104""#);
    let (ae_title, address) = written.split_once('@').ok_or_else(fail)?;
    let (host, port) = address.rsplit_once(':').ok_or_else(fail)?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if let Some(problem) = host_fault(host) {
        return Err(problem);
    }
    let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(fail)?;
    Ok(Some(Remote { ae_title: AeTitle::parse(ae_title).map_err(|_| fail())?, host: host.to_owned(), port }))
}

/// The name of a user as it stands in the user identity negotiation, or `None` for empty text.
pub(super) fn username_if_given(entry: &Entry) -> Parsed<Option<String>> {
    let written = text(entry)?;
    if written.len() > 256 || written.chars().any(char::is_control) {
        return Err(Problem::new("is not a username", "write at most 256 bytes without control characters"));
    }
    Ok(Some(written.to_owned()).filter(|name| !name.is_empty()))
}

/// The name of a model package or of a destination: one that is safe as a folder name and in a table.
pub(super) fn name(entry: &Entry) -> Parsed<String> {
    let written = text(entry)?;
    if written.is_empty() {
        return Err(missing("a name"));
    }
    let plain = written.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if !plain || written.starts_with('.') || written.len() > 64 {
        let remedy = "write 1 to 64 letters, digits, hyphens, underscores and dots, not starting with a dot";
        return Err(Problem::new("is not a plain name", remedy));
    }
    Ok(written.to_owned())
}

/// As [`name`], or `None` for empty text.
pub(super) fn name_if_given(entry: &Entry) -> Parsed<Option<String>> {
    if text(entry)?.is_empty() { Ok(None) } else { name(entry).map(Some) }
}

/// Text for a report's device attributes (VR LO: 64 characters without backslash), kept to ASCII so that it
/// needs no Specific Character Set.
pub(super) fn label(entry: &Entry) -> Parsed<String> {
    let written = text(entry)?;
    if !(1..=64).contains(&written.len()) || !written.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'\\') {
        let remedy = "write 1 to 64 characters of printable ASCII without a backslash";
        return Err(Problem::new("cannot stand in a report", remedy));
    }
    Ok(written.to_owned())
}

/// A path, made absolute from the current directory.
pub(super) fn path(entry: &Entry) -> Parsed<PathBuf> {
    let written = text(entry)?;
    let refuse = |what| Err(Problem::new(what, "write an absolute path, or one relative to the current directory"));
    if written.is_empty() {
        return refuse("is empty");
    }
    if written.len() > 4096 || written.chars().any(|c| c.is_control() || c == '\u{fffd}') {
        return refuse("is not a usable path");
    }
    if written.starts_with('~') {
        return refuse("starts with ~, which is not expanded");
    }
    std::path::absolute(Path::new(written)).or_else(|_| refuse("cannot be resolved, the current directory is gone"))
}

/// As [`path`], or `None` for empty text.
pub(super) fn path_if_given(entry: &Entry) -> Parsed<Option<PathBuf>> {
    if text(entry)?.is_empty() { Ok(None) } else { path(entry).map(Some) }
}

/// One device, or several CUDA devices as a list or separated by commas.
pub(super) fn devices(entry: &Entry) -> Parsed<Vec<Device>> {
    let devices = match entry {
        Entry::Text(written) => {
            let parts: Vec<Entry> = written.split(',').map(|part| Entry::Text(part.trim().to_owned())).collect();
            list(DEVICES_MAX, device)(&Entry::List(parts)).map_err(|p| match written.contains(',') {
                true => p,
                false => Problem::new("is not a device", p.remedy),
            })?
        }
        _ => list(DEVICES_MAX, device)(entry)?,
    };
    let refuse = |what: &str| Err(Problem::new(what, r#"write "auto", "cpu", "cuda:0" or ["cuda:0", "cuda:1"]"#));
    if devices.is_empty() {
        return refuse("names no device");
    }
    if devices.len() > 1 && devices.iter().any(|d| matches!(d, Device::Auto | Device::Cpu)) {
        return refuse("names \"auto\" or \"cpu\" beside other devices");
    }
    if devices.iter().enumerate().any(|(i, device)| devices[..i].contains(device)) {
        return refuse("names a device twice");
    }
    Ok(devices)
}

fn device(entry: &Entry) -> Parsed<Device> {
    let number = |n: &str| n.parse::<u8>().ok().filter(|_| n.bytes().all(|b| b.is_ascii_digit()));
    match text(entry)? {
        "auto" => Ok(Device::Auto),
        "cpu" => Ok(Device::Cpu),
        "cuda" => Ok(Device::Cuda(0)),
        other => match other.strip_prefix("cuda:").and_then(number) {
            Some(index) => Ok(Device::Cuda(usize::from(index))),
            None => Err(Problem::new("is not a device", r#"write "auto", "cpu", "cuda:0" or ["cuda:0", "cuda:1"]"#)),
        },
    }
}

pub(super) fn precision(entry: &Entry) -> Parsed<PrecisionChoice> {
    let named = PrecisionChoice::Named;
    let words = [("fp32", Precision::Fp32), ("bf16", Precision::Bf16), ("fp16", Precision::Fp16)];
    let named = words.map(|(word, precision)| (word, named(precision)));
    choice(entry, &[&named[..], &[("auto", PrecisionChoice::Fastest)]].concat())
}

pub(super) fn late(entry: &Entry) -> Parsed<Late> {
    choice(entry, &[("never", Late::Never), ("always", Late::Always), ("replace", Late::Replace)])
}

/// A coded value (CS) such as a modality or a body part, in upper case; `None` for empty text.
pub(super) fn code_if_given(entry: &Entry) -> Parsed<Option<String>> {
    let written = text(entry)?.to_ascii_uppercase();
    let valid = written.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_' || b == b' ');
    if !valid || written.len() > 16 {
        return Err(Problem::new("is not a code", "write up to 16 letters and digits, e.g. \"MG\" or \"CHEST\""));
    }
    Ok((!written.is_empty()).then_some(written))
}

/// `PA`, or with a side `L-CC`.
pub(super) fn required_view(entry: &Entry) -> Parsed<RequiredView> {
    let written = text(entry)?;
    let (side, view) = match written.split_once('-') {
        Some(("L", view)) => (Some(Laterality::Left), view),
        Some(("R", view)) => (Some(Laterality::Right), view),
        _ => (None, written),
    };
    let views = [View::Pa, View::Ap, View::Frontal, View::Lateral, View::Cc, View::Mlo];
    match views.into_iter().find(|known| known.as_str() == view) {
        Some(view) => Ok(RequiredView { side, view }),
        None => Err(Problem::new(
            "is not a view",
            "write PA, AP, FRONTAL (either), LATERAL, CC or MLO, with L- or R- before it where the side matters",
        )),
    }
}

/// Directives of the kind `info` or `warn,sidelight::receive=debug`; a mistyped level is not taken for a target.
pub(super) fn log_filter(entry: &Entry) -> Parsed<String> {
    let written = text(entry)?;
    let level = |text: &str| ["off", "error", "warn", "info", "debug", "trace"].contains(&text);
    let target =
        |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_:-".contains(&b));
    let directive = |text: &str| match text.split_once('=') {
        Some((left, right)) => target(left) && level(right),
        None => level(text),
    };
    if written.len() <= 1024 && written.split(',').all(|part| directive(part.trim())) {
        return Ok(written.to_owned());
    }
    let remedy = r#"write off, error, warn, info, debug or trace, or e.g. "info,sidelight::receive=debug""#;
    Err(Problem::new("is not a log filter", remedy))
}

/// What an entry is, for "is …, not …".
fn kind(entry: &Entry) -> &'static str {
    match entry {
        Entry::Switch(_) => "a switch",
        Entry::Integer(_) | Entry::Float(_) => "a number",
        Entry::Text(_) => "text",
        Entry::List(_) => "a list",
    }
}

pub(super) fn missing(what: &str) -> Problem {
    Problem::new("is missing", format!("write {what}"))
}

/// Text with a number that carries a unit.
fn with_unit<'a>(entry: &'a Entry, one: &str, other: &str) -> Parsed<&'a str> {
    let bare = || {
        Problem::new("has no unit", format!("write the number with its unit in quotes, e.g. \"{one}\" or \"{other}\""))
    };
    if matches!(entry, Entry::Integer(_) | Entry::Float(_)) {
        return Err(bare());
    }
    let written = text(entry)?;
    if !written.is_empty() && written.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(bare());
    }
    Ok(written)
}

fn within<T: PartialOrd>(value: &T, range: &RangeInclusive<T>, show: impl Fn(&T) -> String) -> Parsed<()> {
    if range.contains(value) {
        return Ok(());
    }
    Err(Problem::new(
        "is out of bounds",
        format!("write a value from {} to {}", show(range.start()), show(range.end())),
    ))
}

pub(super) fn choice<T: Copy>(entry: &Entry, choices: &[(&str, T)]) -> Parsed<T> {
    let written = text(entry)?;
    if let Some((_, value)) = choices.iter().find(|(word, _)| *word == written) {
        return Ok(*value);
    }
    let words: Vec<String> = choices.iter().map(|(word, _)| format!("\"{word}\"")).collect();
    Err(Problem::new("is not known", format!("write {}", words.join(" or "))))
}
