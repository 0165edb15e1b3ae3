//! Archives that call: a destination that was asked for storage commitment may answer on an association of its own.
//!
//! It calls under the title that the node calls, from the host that the node calls, or as a source of that title may.
//! Neighbours: `receive` lets it in for that and nothing else, `wire` knows its certificates. Left out: what it says.

use std::net::IpAddr;

use crate::domain::AeTitle;

use super::{Config, Endpoint, PeerTls, Source};

/// A destination that is asked for storage commitment, as a caller.
#[derive(Debug, Clone, PartialEq)]
pub struct Archive {
    /// Of the destination.
    pub name: String,
    pub ae_title: AeTitle,
    /// Host name or address.
    pub host: String,
    /// `None`: it may come in the clear.
    pub tls: Option<PeerTls>,
}

impl Config {
    pub fn archives(&self) -> Vec<Archive> {
        let archive = |destination: &super::Destination| match &destination.endpoint {
            Endpoint::Dimse { ae_title, host, tls, .. } if destination.commitment.is_some() => Some(Archive {
                name: destination.name.clone(),
                ae_title: ae_title.clone(),
                host: host.clone(),
                tls: tls.clone(),
            }),
            Endpoint::Dimse { .. } | Endpoint::Stow { .. } => None,
        };
        self.destinations.iter().filter_map(archive).collect()
    }
}

/// Everybody who may call, with the way that they have to come: the sources, then archives whose titles are no
/// source's, which may do nothing that a source may. One that is known by a host name has no `hosts` here, which says
/// nothing of where it may come from: `receive` looks its addresses up.
pub fn callers(sources: &[Source], archives: &[Archive]) -> Vec<Source> {
    let mut callers = sources.to_vec();
    for archive in archives {
        if sources.iter().any(|source| source.ae_title == archive.ae_title) {
            continue;
        }
        callers.push(Source {
            ae_title: archive.ae_title.clone(),
            hosts: archive.host.parse::<IpAddr>().into_iter().collect(),
            quiet_period: None,
            user: None,
            commitment: false,
            commitment_to: None,
            query: false,
            audit: false,
            tls: archive.tls.is_some(),
            certificates: archive.tls.as_ref().map(|tls| tls.certificates.clone()).unwrap_or_default(),
        });
    }
    callers
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::load;

    #[test]
    fn an_archive_that_is_asked_may_call_as_its_source_or_from_its_host() {
        let text = r#"
            sources = [{ae_title = "PACS", hosts = ["192.0.2.9"]}]
            [[destinations]]
            name = "pacs"
            ae_title = "PACS"
            host = "pacs.example"
            port = 104
            audit = true
            commitment = true
            [[destinations]]
            name = "audit"
            ae_title = "AUDIT"
            host = "192.0.2.20"
            port = 104
            audit = true
            commitment = true
            commitment_wait = "2s"
            [[destinations]]
            name = "other"
            ae_title = "OTHER"
            host = "192.0.2.30"
            port = 104
            audit = true
        "#;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, text).unwrap();
        let config = load(Some(file.path()), [], &[]).unwrap();
        let waits: Vec<_> = config.destinations.iter().map(|d| d.commitment.map(|wait| wait.as_secs())).collect();
        assert_eq!(waits, [Some(5), Some(2), None]);
        let archives = config.archives();
        assert_eq!(archives.iter().map(|a| a.name.as_str()).collect::<Vec<_>>(), ["pacs", "audit"]);
        let callers = callers(&config.sources, &archives);
        let shown: Vec<_> = callers.iter().map(|c| (c.ae_title.as_str(), c.hosts[0].to_string())).collect();
        assert_eq!(shown, [("PACS", "192.0.2.9".to_owned()), ("AUDIT", "192.0.2.20".to_owned())]);
    }
}
