//! What single arguments hold: a peer, an image size, a key with its value, a study state.
//!
//! The commands that take them are in [`super`]. Left out: looking up a host or a study.

use std::fmt;
use std::str::FromStr;

use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::config::host_fault;
use crate::domain::{AeTitle, StudyState};

/// A DICOM peer as people write it: `AET@host:port`, an IPv6 address in brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerAddress {
    pub ae_title: AeTitle,
    /// Host name or address, without brackets.
    pub host: String,
    pub port: u16,
}

/// Size of an image in pixels: `640x512`, or `512` for both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageSize {
    pub rows: u32,
    pub columns: u32,
}

impl FromStr for PeerAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let shape = || "write AET@host:port, e.g. PACS@192.0.2.10:104 or PACS@[2001:db8::1]:104".to_owned();
        // An AE title may hold an @, a host cannot.
        let (title, address) = text.rsplit_once('@').ok_or_else(shape)?;
        let (host, port) = address.rsplit_once(':').ok_or_else(shape)?;
        let host = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').ok_or_else(shape)?,
            None if host.contains(':') => return Err(shape()),
            None => host,
        };
        if let Some(problem) = host_fault(host) {
            return Err(format!("the host {problem}"));
        }
        let ae_title = AeTitle::parse(title).map_err(|e| e.to_string())?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or("the port is a number from 1 to 65535")?;
        Ok(Self { ae_title, host: host.to_owned(), port })
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "{}@[{}]:{}", self.ae_title, self.host, self.port)
        } else {
            write!(f, "{}@{}:{}", self.ae_title, self.host, self.port)
        }
    }
}

impl FromStr for ImageSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (rows, columns) = text.split_once('x').unwrap_or((text, text));
        let side = |n: &str| n.parse().ok().filter(|n| (64..=4096).contains(n));
        match (side(rows), side(columns)) {
            (Some(rows), Some(columns)) => Ok(Self { rows, columns }),
            _ => Err("write rows x columns, 64 to 4096 each, e.g. 640x512 or 512".to_owned()),
        }
    }
}

pub(super) fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE, e.g. study.quiet_period=5s".to_owned()),
    }
}

pub(super) fn study_states() -> impl TypedValueParser<Value = StudyState> {
    const STATES: [StudyState; 5] =
        [StudyState::Open, StudyState::Reported, StudyState::Delivered, StudyState::Refused, StudyState::Failed];
    PossibleValuesParser::new(STATES.map(StudyState::as_str)).map(|name| {
        let state = STATES.into_iter().find(|state| state.as_str() == name);
        state.expect("only the names of states are possible values")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_read_as_people_write_it() {
        type Expected = Option<(&'static str, &'static str, u16)>;
        let rows: &[(&str, Expected)] = &[
            ("PACS@192.0.2.10:104", Some(("PACS", "192.0.2.10", 104))),
            ("PACS@pacs.example.org:11112", Some(("PACS", "pacs.example.org", 11112))),
            ("A@B@localhost:104", Some(("A@B", "localhost", 104))),
            ("PACS@[2001:db8::1]:104", Some(("PACS", "2001:db8::1", 104))),
            ("PACS@2001:db8::1:104", None),
            ("PACS@[2001:db8::1:104", None),
            ("PACS@host", None),
            ("PACS@host:0", None),
            ("PACS@host:65536", None),
            ("PACS@:104", None),
            ("@host:104", None),
            ("SEVENTEEN_LETTERS@host:104", None),
            ("PACS@ho st:104", None),
            ("PACS@999.1.1.1:104", None),
            ("host:104", None),
            ("", None),
        ];
        for (text, expected) in rows {
            let peer = text.parse::<PeerAddress>().ok();
            let found = peer.as_ref().map(|p| (p.ae_title.as_str(), p.host.as_str(), p.port));
            assert_eq!(found, *expected, "{text}");
            if let Some(peer) = peer {
                assert_eq!(peer.to_string(), *text);
            }
        }
    }

    #[test]
    fn an_image_size_is_one_side_or_both() {
        let rows = [
            ("512", Some((512, 512))),
            ("640x512", Some((640, 512))),
            ("63", None),
            ("64x4097", None),
            ("x512", None),
            ("-64", None),
            ("640x512x1", None),
        ];
        for (text, expected) in rows {
            assert_eq!(text.parse::<ImageSize>().ok().map(|s| (s.rows, s.columns)), expected, "{text}");
        }
    }
}
