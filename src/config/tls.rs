//! Listeners, `[tls]`, and the keys of peers that lean on it: nothing is asked for that could never be, and nothing is
//! left open that looks protected.
//!
//! Neighbours: `validate` calls it with everything else. Left out: what is in the files, which `wire` reads.

use std::collections::{BTreeMap, BTreeSet};

use super::raw::{self, Entry, Raw};
use super::validate::{Check, PEERS_MAX};
use super::{ClientCertificates, Destination, Endpoint, Fingerprint, PeerTls, Tls, parse};

/// Most certificates that are pinned to one peer: an old and a new one for each of a few machines.
const CERTIFICATES_MAX: usize = 64;

fn is_given(entry: &Entry) -> bool {
    !matches!(parse::text(entry), Ok(""))
}

fn is_on(entry: &Entry) -> bool {
    parse::switch(entry) == Ok(true)
}

fn has_elements(entry: &Entry) -> bool {
    matches!(entry, Entry::List(list) if !list.is_empty())
}

impl Check<'_> {
    pub(super) fn tls(&mut self, raw: &raw::Tls) -> Option<Tls> {
        let certificate = self.get("tls.certificate", &raw.certificate, parse::path_if_given);
        let key = self.get("tls.key", &raw.key, parse::path_if_given);
        let authorities = self.get("tls.authorities", &raw.authorities, parse::path_if_given);
        let asked = self.get("tls.client_certificates", &raw.client_certificates, parse::client_certificates);
        let web_asked =
            self.get("tls.web_client_certificates", &raw.web_client_certificates, parse::client_certificates);
        let profile = self.get("tls.profile", &raw.profile, parse::tls_profile);
        Some(Tls {
            certificate: certificate?,
            key: key?,
            authorities: authorities?,
            client_certificates: asked?,
            web_client_certificates: web_asked?,
            profile: profile?,
        })
    }

    /// Certificates that are pinned to a peer.
    pub(super) fn certificates(&mut self, key: &str, entry: &Entry) -> Option<Vec<Fingerprint>> {
        self.get(key, entry, parse::list(CERTIFICATES_MAX, parse::fingerprint))
    }

    /// What a destination has to show; `Some(None)` where it is called in the clear.
    pub(super) fn peer_tls(
        &mut self,
        key: &impl Fn(&str) -> String,
        raw: &raw::Destination,
    ) -> Option<Option<PeerTls>> {
        let tls = self.get(&key("tls"), &raw.tls, parse::switch);
        let certificates = self.certificates(&key("certificates"), &raw.certificates);
        let server_name = self.get(&key("tls_server_name"), &raw.tls_server_name, parse::host_if_given);
        let (tls, certificates, server_name) = (tls?, certificates?, server_name?);
        let mut without = |name: &str, entry: &Entry| {
            let what = "has no effect without tls = true: reports would go out in the clear".to_owned();
            self.contradiction(&key(name), entry, what, "set tls = true for this destination");
        };
        if !tls && !certificates.is_empty() {
            without("certificates", &raw.certificates);
        }
        if !tls && server_name.is_some() {
            without("tls_server_name", &raw.tls_server_name);
        }
        Some(tls.then_some(PeerTls { certificates, server_name }))
    }

    /// Two listeners want the same port of the same address, or there is none for associations.
    pub(super) fn listeners(&mut self, raw: &Raw) {
        let all = [
            ("node.listen", &raw.node.listen),
            ("node.listen_tls", &raw.node.listen_tls),
            ("web.listen", &raw.web.listen),
            ("web.listen_tls", &raw.web.listen_tls),
        ];
        let addresses = all.map(|(_, entry)| parse::listen_if_given(entry));
        if matches!((&addresses[0], &addresses[1]), (Ok(None), Ok(None))) {
            let what = "is empty, and so is node.listen_tls: nobody could connect".to_owned();
            let remedy = "give one of them an address and a port, e.g. \"0.0.0.0:11112\"";
            self.contradiction(all[0].0, all[0].1, what, remedy);
        }
        for (i, (key, entry)) in all.iter().enumerate() {
            let Ok(Some(later)) = &addresses[i] else { continue };
            for ((other, _), address) in all.iter().zip(&addresses).take(i) {
                let Ok(Some(earlier)) = address else { continue };
                let any = earlier.ip().is_unspecified() || later.ip().is_unspecified();
                if earlier.port() != 0 && earlier.port() == later.port() && (any || earlier.ip() == later.ip()) {
                    let what = format!("wants the same port as {other} ({earlier})");
                    self.contradiction(key, entry, what, "give one of them another port");
                }
            }
        }
    }

    /// The rules that bind `[tls]`, the listener and the peers.
    pub(super) fn tls_rules(&mut self, raw: &Raw) {
        let own = &raw.tls;
        for (key, entry, other_key, other) in [
            ("tls.certificate", &own.certificate, "tls.key", &own.key),
            ("tls.key", &own.key, "tls.certificate", &own.certificate),
        ] {
            if is_given(entry) && !is_given(other) {
                self.contradiction(key, entry, format!("is given without {other_key}"), "give both, or none of them");
            }
        }
        for (key, listen) in [("node.listen_tls", &raw.node.listen_tls), ("web.listen_tls", &raw.web.listen_tls)] {
            if is_given(listen) && !is_given(&own.certificate) && !is_given(&own.key) {
                let what = "needs a certificate, and tls.certificate and tls.key name none".to_owned();
                self.contradiction(key, listen, what, &format!("name both files, or set {key} = \"\""));
            }
        }
        self.tls_clients(raw);
        self.tls_sources(raw);
        self.tls_archives(raw);
        for (i, destination) in raw.destinations.iter().take(PEERS_MAX).enumerate() {
            if is_on(&destination.tls) && !has_elements(&destination.certificates) && !is_given(&own.authorities) {
                let what = "asks for TLS, and nothing says which certificate to believe".to_owned();
                let remedy = "pin its certificate under certificates, or name the file of tls.authorities";
                self.contradiction(&format!("destinations[{i}].tls"), &destination.tls, what, remedy);
            }
        }
    }

    /// An archive that answers on an association of its own says who it is by its title, which says how it has to come.
    pub(super) fn archives_of_one_title(&mut self, raw: &[raw::Destination], destinations: &[Destination]) {
        let mut ways = BTreeMap::new();
        for (i, (raw, destination)) in raw.iter().zip(destinations).enumerate() {
            let Endpoint::Dimse { ae_title, tls, .. } = &destination.endpoint else { continue };
            if destination.commitment.is_none() {
                continue;
            }
            let way = tls.as_ref().map(|tls| tls.certificates.iter().map(|pin| pin.0).collect::<BTreeSet<_>>());
            let (first, known) = ways.entry(ae_title).or_insert_with(|| (i, way.clone()));
            if *known != way {
                let what = format!(
                    "is the AE title of destinations[{first}] too, which also has commitment = true and other tls or \
                     certificates"
                );
                let remedy = "let both have the same tls and certificates, or ask one of them only for commitment";
                self.contradiction(&format!("destinations[{i}].ae_title"), &raw.ae_title, what, remedy);
            }
        }
    }

    /// A listener that asks for certificates needs somebody who may connect.
    fn tls_clients(&mut self, raw: &Raw) {
        let (key, asked) = ("tls.web_client_certificates", &raw.tls.web_client_certificates);
        let are_asked = parse::client_certificates(asked).is_ok_and(|asked| asked != ClientCertificates::None);
        if are_asked && !is_given(&raw.web.listen_tls) {
            let what = "has no effect without web.listen_tls: web.listen asks for none".to_owned();
            self.contradiction(key, asked, what, "set web.listen_tls, or \"none\"");
        } else if are_asked && !is_given(&raw.tls.authorities) {
            let what = "asks for certificates, and nothing says which: no client with one could connect".to_owned();
            self.contradiction(key, asked, what, "name the file of tls.authorities, or set \"none\"");
        }
        if !is_given(&raw.node.listen_tls) {
            return;
        }
        let required = parse::client_certificates(&raw.tls.client_certificates) == Ok(ClientCertificates::Required);
        let anybody_pinned = raw.sources.iter().any(|source| has_elements(&source.certificates));
        if required && !is_given(&raw.tls.authorities) && !anybody_pinned {
            let what = "asks for certificates, and nothing says which: nobody could connect over TLS".to_owned();
            let remedy = "name the file of tls.authorities, pin certificates under sources, or set \"none\"";
            self.contradiction("tls.client_certificates", &raw.tls.client_certificates, what, remedy);
        }
    }

    fn tls_sources(&mut self, raw: &Raw) {
        let nobody_asked = parse::client_certificates(&raw.tls.client_certificates) == Ok(ClientCertificates::None);
        for (i, source) in raw.sources.iter().take(PEERS_MAX).enumerate() {
            let key = |name: &str| format!("sources[{i}].{name}");
            let pinned = has_elements(&source.certificates);
            if is_on(&source.tls) && !is_given(&raw.node.listen_tls) {
                let what = "asks for TLS, and node.listen_tls is empty: it could never connect".to_owned();
                self.contradiction(&key("tls"), &source.tls, what, "set node.listen_tls, e.g. \"0.0.0.0:2762\"");
            }
            let is_called = is_on(&source.tls) && is_given(&source.commitment_to);
            if is_called && !pinned && !is_given(&raw.tls.authorities) {
                let what = "is called over TLS, and nothing says which certificate to believe".to_owned();
                let remedy = "pin its certificate under certificates, or name the file of tls.authorities";
                self.contradiction(&key("commitment_to"), &source.commitment_to, what, remedy);
            }
            if pinned && parse::switch(&source.tls) == Ok(false) {
                let what = "pins certificates, which are not seen on a connection without TLS".to_owned();
                self.contradiction(&key("certificates"), &source.certificates, what, "set tls = true for this source");
            }
            if pinned && nobody_asked {
                let what =
                    "pins certificates, and tls.client_certificates is \"none\": they are not asked for".to_owned();
                let remedy = "set tls.client_certificates = \"required\" or \"optional\"";
                self.contradiction(&key("certificates"), &source.certificates, what, remedy);
            }
        }
    }

    /// An archive that was asked for storage commitment calls back, as its source if there is one.
    fn tls_archives(&mut self, raw: &Raw) {
        let nobody_asked = parse::client_certificates(&raw.tls.client_certificates) == Ok(ClientCertificates::None);
        for (i, archive) in raw.destinations.iter().take(PEERS_MAX).enumerate() {
            let Ok(title) = parse::ae_title(&archive.ae_title) else { continue };
            let has_title = |source: &raw::Source| parse::ae_title(&source.ae_title).is_ok_and(|other| other == title);
            let is_pinned = is_on(&archive.tls) && has_elements(&archive.certificates);
            if nobody_asked
                && is_pinned
                && is_on(&archive.commitment)
                && !raw.sources.iter().take(PEERS_MAX).any(has_title)
            {
                let key = format!("destinations[{i}].certificates");
                let what = "are pinned to an archive that may call back to commit, and tls.client_certificates is \
                            \"none\": they are not asked for";
                let remedy = "set tls.client_certificates = \"required\" or \"optional\"";
                self.contradiction(&key, &archive.certificates, what.to_owned(), remedy);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{keys, load_text};

    const SOURCE: &str = "[[sources]]\nae_title = \"S\"\n";
    const DESTINATION: &str =
        "[[destinations]]\nname = \"d\"\nae_title = \"D\"\nhost = \"h\"\nport = 104\naudit = true\n";
    const FILES: &str = "tls.certificate = \"c\"\ntls.key = \"k\"\ntls.authorities = \"a\"\n";

    #[test]
    fn what_could_never_connect_or_only_looks_protected_is_refused() {
        let pin = format!("certificates = [\"{}\"]\n", "ab".repeat(32));
        let listen = "node.listen_tls = \"0.0.0.0:2762\"\n";
        let rows: Vec<(String, &[&str])> = vec![
            ("node.listen = \"\"".into(), &["node.listen"]),
            (
                "node.listen_tls = \"0.0.0.0:11112\"\ntls.key = \"k\"".into(),
                &["node.listen_tls", "tls.client_certificates", "tls.key"],
            ),
            (format!("{listen}tls.authorities = \"a\""), &["node.listen_tls"]),
            (format!("{listen}{FILES}web.listen = \"127.0.0.1:2762\""), &["web.listen"]),
            ("web.listen_tls = \"0.0.0.0:8104\"".into(), &["web.listen_tls", "web.listen_tls"]),
            (format!("{FILES}tls.web_client_certificates = \"required\""), &["tls.web_client_certificates"]),
            (
                "web.listen_tls = \"[::]:443\"\ntls.certificate = \"c\"\ntls.key = \"k\"\n\
                 tls.web_client_certificates = \"optional\""
                    .into(),
                &["tls.web_client_certificates"],
            ),
            (
                "tls.profile = \"b.9\"\ntls.client_certificates = true".into(),
                &["tls.client_certificates", "tls.profile"],
            ),
            (format!("{SOURCE}tls = true"), &["sources[0].tls"]),
            (format!("{SOURCE}tls = true\ncertificates = [\"AB:CD\"]"), &["sources[0].certificates", "sources[0].tls"]),
            (format!("{SOURCE}{pin}"), &["sources[0].certificates"]),
            (
                format!("{listen}{FILES}tls.client_certificates = \"none\"\n{SOURCE}tls = true\n{pin}"),
                &["sources[0].certificates"],
            ),
            (
                format!(
                    "{listen}tls.certificate = \"c\"\ntls.key = \"k\"\ntls.client_certificates = \"none\"\n{SOURCE}\
                         tls = true\ncommitment = true\ncommitment_to = \"S@h:104\""
                ),
                &["sources[0].commitment_to"],
            ),
            (format!("{DESTINATION}tls = true"), &["destinations[0].tls"]),
            (
                format!("tls.client_certificates = \"none\"\n{DESTINATION}commitment = true\ntls = true\n{pin}"),
                &["destinations[0].certificates"],
            ),
            (
                format!("{DESTINATION}{pin}tls_server_name = \"p\""),
                &["destinations[0].certificates", "destinations[0].tls_server_name"],
            ),
            (
                format!(
                    "[[destinations]]\nname = \"d\"\nkind = \"stow\"\n\
                     url = \"https://h\"\naudit = true\ntls = true\n{pin}"
                ),
                &["destinations[0].certificates", "destinations[0].tls"],
            ),
        ];
        for (toml, expected) in rows {
            let mut found = keys(load_text(&toml));
            found.sort();
            assert_eq!(found, expected, "{toml}");
        }
    }

    #[test]
    fn archives_of_one_title_come_the_same_way() {
        let pins = |bytes: &[&str]| {
            let pins: Vec<_> = bytes.iter().map(|byte| format!("\"{}\"", byte.repeat(32))).collect();
            format!("tls = true\ncertificates = [{}]\n", pins.join(", "))
        };
        let two = |first: &str, second: &str| {
            let other = DESTINATION.replace("\"d\"", "\"other\"").replace("\"h\"", "\"elsewhere\"");
            format!("tls.authorities = \"a\"\n{DESTINATION}{first}{other}{second}")
        };
        let asked = |way: &str| format!("commitment = true\n{way}");
        let (one, both, reversed) = (pins(&["ab"]), pins(&["ab", "cd"]), pins(&["cd", "ab"]));
        for (first, second) in [("", "tls = true\n"), ("tls = true\n", &*one), (&*one, &*both), (&*one, "")] {
            let toml = two(&asked(first), &asked(second));
            assert_eq!(keys(load_text(&toml)), ["destinations[1].ae_title"], "{toml}");
            if let Err(error) = load_text(&two(&asked(first), second)) {
                panic!("one of them is not asked, and calls nobody: {error}");
            }
        }
        for (first, second) in
            [("", ""), (&*both, &*reversed), ("tls = true\n", "tls = true\ntls_server_name = \"n\"\n")]
        {
            let toml = two(&asked(first), &asked(second));
            if let Err(error) = load_text(&toml) {
                panic!("{toml}\n{error}");
            }
        }
    }

    #[test]
    fn what_sites_do_is_accepted() {
        let pin = format!("tls = true\ncertificates = [\"{}\"]\n", "ab".repeat(32));
        for toml in [
            FILES.to_owned(),
            format!("node.listen = \"\"\nnode.listen_tls = \"[::]:2762\"\n{FILES}{SOURCE}tls = true\n"),
            format!("node.listen_tls = \"[::]:2762\"\ntls.certificate = \"c\"\ntls.key = \"k\"\n{SOURCE}{pin}"),
            format!("{DESTINATION}{pin}"),
            format!("{DESTINATION}commitment = true\n{pin}"),
            format!("tls.client_certificates = \"none\"\n{DESTINATION}{pin}"),
            // It calls as a source that pins nothing.
            format!(
                "tls.client_certificates = \"none\"\n{DESTINATION}commitment = true\n{pin}{}",
                SOURCE.replace("\"S\"", "\"D\"")
            ),
            "web.listen = \"\"\nweb.listen_tls = \"[::]:8443\"\nweb.dicomweb = true\ntls.certificate = \"c\"\ntls.key = \"k\""
                .into(),
            format!("{FILES}web.listen_tls = \"[::]:8443\"\ntls.web_client_certificates = \"required\""),
            format!("tls.authorities = \"a\"\n{DESTINATION}tls = true\ntls_server_name = \"pacs.example.org\"\n"),
        ] {
            if let Err(error) = load_text(&toml) {
                panic!("{toml}\n{error}");
            }
        }
    }
}
