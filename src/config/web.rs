//! The keys of HTTP: the web listener with its clients, and how a destination is reached.
//!
//! Neighbours: `validate` calls these for their sections. Left out: whether a token file is there and what it holds,
//! which the services read when they start.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::fault::Problem;
use super::parse::{self, Parsed, choice, missing};
use super::raw::{self, Entry, Raw};
use super::validate::{Check, PEERS_MAX, collect_all};
use super::{Endpoint, Mode, ServiceUrl, Web, WebClient};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Dimse,
    Stow,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Right {
    Store,
    Query,
}

impl Check<'_> {
    pub(super) fn web(&mut self, raw: &Raw) -> Option<Web> {
        let listen = self.get("web.listen", &raw.web.listen, parse::listen_if_given);
        let listen_tls = self.get("web.listen_tls", &raw.web.listen_tls, parse::listen_if_given);
        let dicomweb = self.get("web.dicomweb", &raw.web.dicomweb, parse::switch);
        if dicomweb == Some(true) && listen == Some(None) && listen_tls == Some(None) {
            let what = "is true, and web.listen and web.listen_tls are off".to_owned();
            self.contradiction("web.dicomweb", &raw.web.dicomweb, what, "give one of them an address and port");
        }
        let clients = self.web_clients(raw);
        let people = self.pages(raw, listen.flatten(), listen_tls.flatten());
        let (pages, users, session_idle, session_max) = people?;
        Some(Web {
            listen: listen?,
            listen_tls: listen_tls?,
            dicomweb: dicomweb?,
            clients: clients?,
            pages,
            users,
            session_idle,
            session_max,
        })
    }

    fn web_clients(&mut self, raw: &Raw) -> Option<Vec<WebClient>> {
        if !self.few_enough("web_clients", raw.web_clients.len()) {
            return None;
        }
        let shadow = parse::mode(&raw.node.mode) == Ok(Mode::Shadow);
        let mut seen = BTreeMap::new();
        collect_all(raw.web_clients.iter().take(PEERS_MAX).enumerate().map(|(i, client)| {
            let key = |name: &str| format!("web_clients[{i}].{name}");
            let name = self.get(&key("name"), &client.name, parse::name);
            if let Some(name) = &name
                && let Some(first) = seen.insert(name.clone(), i)
            {
                let what = format!("is the name of web_clients[{first}] too");
                self.contradiction(&key("name"), &client.name, what, "give each client a name of its own");
            }
            let token_file = self.get(&key("token_file"), &client.token_file, token_file);
            let may = self.get(&key("may"), &client.may, parse::list(2, right));
            if may.as_ref().is_some_and(Vec::is_empty) {
                let remedy = r#"write ["store"], ["query"] or both"#;
                self.contradiction(&key("may"), &client.may, "allows nothing".to_owned(), remedy);
            }
            let may = |right| may.as_ref().map(|may| may.contains(&right));
            let hosts = self.get(&key("hosts"), &client.hosts, parse::list(256, parse::ip_address));
            let ae_title = self.get(&key("ae_title"), &client.ae_title, parse::ae_title);
            let audit = self.get(&key("audit"), &client.audit, parse::switch);
            if shadow && audit == Some(false) && may(Right::Query) == Some(true) {
                let what = "lets a client see reports that is no part of the audit, and node.mode is \"shadow\"";
                let remedy = "set audit = true if it serves the audit alone, or node.mode = \"active\"";
                self.contradiction(&key("may"), &client.may, what.to_owned(), remedy);
            }
            Some(WebClient {
                name: name?,
                token_file: token_file?,
                store: may(Right::Store)?,
                query: may(Right::Query)?,
                hosts: hosts?,
                ae_title: ae_title?,
                audit: audit?,
            })
        }))
    }

    /// The keys of `destinations[i]` that its kind needs; those of the other kind are refused.
    pub(super) fn endpoint(&mut self, key: &impl Fn(&str) -> String, raw: &raw::Destination) -> Option<Endpoint> {
        let kinds = &[("dimse", Kind::Dimse), ("stow", Kind::Stow)];
        let kind = self.get(&key("kind"), &raw.kind, |entry| choice(entry, kinds))?;
        let foreign: &[(&str, &Entry)] = match kind {
            Kind::Dimse => &[("url", &raw.url), ("token_file", &raw.token_file)],
            Kind::Stow => &[
                ("ae_title", &raw.ae_title),
                ("host", &raw.host),
                ("port", &raw.port),
                ("tls", &raw.tls),
                ("certificates", &raw.certificates),
                ("tls_server_name", &raw.tls_server_name),
                ("commitment", &raw.commitment),
            ],
        };
        let unset = [Entry::from(""), Entry::from(false), Entry::List(vec![])];
        let given = foreign.iter().filter(|(_, entry)| !unset.contains(entry));
        let (other, wants) = match kind {
            Kind::Dimse => ("stow", "ae_title, host and port"),
            Kind::Stow => ("dimse", "url, which says https for TLS"),
        };
        let mut fits = true;
        for (name, entry) in given {
            let what = format!("is for destinations of kind \"{other}\"");
            let remedy = format!("leave it out, or change the kind; this one has {wants}");
            self.contradiction(&key(name), entry, what, &remedy);
            fits = false;
        }
        let endpoint = match kind {
            Kind::Dimse => {
                let ae_title = self.get(&key("ae_title"), &raw.ae_title, parse::ae_title);
                let host = self.get(&key("host"), &raw.host, parse::host);
                let port = self.get(&key("port"), &raw.port, parse::port);
                let tls = self.peer_tls(key, raw);
                Endpoint::Dimse { ae_title: ae_title?, host: host?, port: port?, tls: tls? }
            }
            Kind::Stow => {
                let url = self.get(&key("url"), &raw.url, service_url);
                let token_file = self.get(&key("token_file"), &raw.token_file, parse::path_if_given);
                if let (Some(url), Some(Some(_))) = (&url, &token_file)
                    && url.is_overheard()
                {
                    let what = "would show the token of token_file to everybody on the way".to_owned();
                    self.contradiction(&key("url"), &raw.url, what, "write https://, or leave token_file out");
                }
                Endpoint::Stow { url: url?, token_file: token_file? }
            }
        };
        fits.then_some(endpoint)
    }
}

/// Whether a service is at this address of this machine, as far as a name or an address tells.
pub(super) fn is_at(url: &Entry, listen: SocketAddr) -> bool {
    service_url(url).is_ok_and(|url| {
        let same = url.host.parse::<IpAddr>().is_ok_and(|host| host.to_canonical() == listen.ip().to_canonical());
        let on_loopback = listen.ip().is_unspecified() || listen.ip().to_canonical().is_loopback();
        url.port == listen.port() && (same || (on_loopback && is_this_machine(&url.host)))
    })
}

/// Whether what is sent there stays on this machine.
fn is_this_machine(host: &str) -> bool {
    host.parse::<IpAddr>().map_or(host.eq_ignore_ascii_case("localhost"), |ip| ip.to_canonical().is_loopback())
}

fn right(entry: &Entry) -> Parsed<Right> {
    choice(entry, &[("store", Right::Store), ("query", Right::Query)])
}

fn token_file(entry: &Entry) -> Parsed<std::path::PathBuf> {
    parse::path_if_given(entry)?.ok_or_else(|| missing("the path of a file that holds the client's token"))
}

/// The root of a DICOMweb service.
fn service_url(entry: &Entry) -> Parsed<ServiceUrl> {
    let written = parse::text(entry)?;
    if written.is_empty() {
        return Err(missing("the root of the DICOMweb service, e.g. https://pacs.example.org/dicom-web"));
    }
    let example = r#"write e.g. "https://pacs.example.org/dicom-web" or "http://192.0.2.20:8042/dicom-web""#;
    let refuse = |what| Err(Problem::new(what, example));
    let (https, rest) = match (written.strip_prefix("https://"), written.strip_prefix("http://")) {
        (Some(rest), _) => (true, rest),
        (_, Some(rest)) => (false, rest),
        (None, None) => return refuse("is not a URL with http or https"),
    };
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    if authority.contains('@') {
        return refuse("holds a user name, which would be in every log; use token_file");
    }
    let path = path.trim_end_matches('/');
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/%".contains(&b);
    if path.len() > 1024 || !path.bytes().all(plain) {
        return refuse("has a path with a query, a fragment or characters that must be escaped");
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, "")) if host.parse::<Ipv6Addr>().is_ok() => (host, None),
            Some((host, port)) if host.parse::<Ipv6Addr>().is_ok() && port.starts_with(':') => (host, Some(&port[1..])),
            _ => return refuse("holds no IPv6 address in its brackets"),
        },
        None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    let port = match port {
        None => {
            if https {
                443
            } else {
                80
            }
        }
        Some(port) => match port.parse::<u16>() {
            Ok(number) if number > 0 && port.bytes().all(|b| b.is_ascii_digit()) => number,
            _ => return refuse("has a port that is not a number from 1 to 65535"),
        },
    };
    if host.parse::<IpAddr>().is_err()
        && let Some(problem) = parse::host_fault(host)
    {
        return Err(Problem::new(problem.what, example));
    }
    Ok(ServiceUrl { https, host: host.to_owned(), port, path: path.to_owned() })
}

impl ServiceUrl {
    /// Whether everybody on the way reads what is sent there.
    pub fn is_overheard(&self) -> bool {
        !self.https && !is_this_machine(&self.host)
    }

    /// The root of a service as it stands in a model card; else what is wrong with it.
    pub(crate) fn parse(written: &str) -> Result<Self, String> {
        service_url(&Entry::Text(written.to_owned())).map_err(|problem| problem.what)
    }
}

impl std::fmt::Display for ServiceUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{scheme}://{open}{}{close}:{}{}", self.host, self.port, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_of_a_service_is_a_plain_url() {
        let rows: &[(&str, Option<&str>)] = &[
            ("https://pacs.example.org/dicom-web", Some("https://pacs.example.org:443/dicom-web")),
            ("http://192.0.2.20:8042/dicom-web/", Some("http://192.0.2.20:8042/dicom-web")),
            ("http://h", Some("http://h:80")),
            ("http://[::1]:8042/x", Some("http://[::1]:8042/x")),
            ("http://[::1]", Some("http://[::1]:80")),
            ("", None),
            ("pacs.example.org", None),
            ("ftp://pacs.example.org", None),
            ("https://user:word@pacs.example.org", None),
            ("https://pacs.example.org/x?y", None),
            ("https://pacs.example.org/x#y", None),
            ("https://pacs.example.org/a b", None),
            ("https://pacs.example.org/\r\nX: y", None),
            ("http://h:0", None),
            ("http://h:", None),
            ("http://h:99999", None),
            ("http://h:+80", None),
            ("http://[::1]x", None),
            ("http://[::1", None),
            ("http://-h-", None),
            ("http://", None),
        ];
        for (text, expected) in rows {
            let parsed = service_url(&Entry::from(*text)).ok().map(|url| url.to_string());
            assert_eq!(parsed.as_deref(), *expected, "{text}");
        }
    }

    const CLIENT: &str = "[[web_clients]]\nname = \"c\"\ntoken_file = \"t\"\nae_title = \"C\"\nmay = [\"store\"]\n";
    const STOW: &str = "[[destinations]]\nname = \"d\"\nkind = \"stow\"\nurl = \"http://h\"\naudit = true\n";
    const DIMSE: &str = "[[destinations]]\nname = \"d\"\nae_title = \"D\"\nhost = \"h\"\nport = 104\naudit = true\n";

    /// Loads a file; the keys at fault must be these, in any order.
    fn check(toml: &str, expected: &[&str]) {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), toml).expect("writable");
        let faults = crate::config::load(Some(file.path()), [], &[]).err().map(|e| e.faults).unwrap_or_default();
        let mut found: Vec<&str> = faults.iter().map(|f| f.key.as_str()).collect();
        found.sort_unstable();
        assert_eq!(found, expected, "{toml}");
    }

    #[test]
    fn a_destination_has_the_keys_of_its_kind_and_no_others() {
        let (host, title, port) = ("destinations[0].host", "destinations[0].ae_title", "destinations[0].port");
        check(STOW, &[]);
        let token = |url: &str| format!("{}token_file = \"t\"", STOW.replace("http://h", url));
        for safe in ["https://h", "http://127.0.0.1:8042/x", "http://[::1]:8042", "http://localhost"] {
            check(&token(safe), &[]);
        }
        for open in ["http://h", "http://192.0.2.20:8042", "http://localhost.example.org"] {
            check(&token(open), &["destinations[0].url"]);
        }
        check(&format!("{STOW}commitment = true"), &["destinations[0].commitment"]);
        let own = |listen: &str, url: &str| format!("web.listen = \"{listen}\"\n{}", STOW.replace("http://h", url));
        for (listen, url, comes_back) in [
            ("127.0.0.1:8104", "http://localhost:8104/dicomweb", true),
            ("0.0.0.0:8104", "http://127.0.0.1:8104/dicomweb", true),
            ("192.0.2.1:8104", "http://192.0.2.1:8104", true),
            ("192.0.2.1:8104", "http://192.0.2.2:8104", false),
            ("127.0.0.1:8104", "http://localhost:8105/dicomweb", false),
            ("192.0.2.1:8104", "http://localhost:8104", false),
        ] {
            let keys: &[&str] = if comes_back { &["destinations[0].url"] } else { &[] };
            check(&own(listen, url), keys);
        }
        check(&format!("{DIMSE}kind = \"stow\"\nurl = \"http://h\""), &[title, host, port]);
        check(
            &format!("{DIMSE}url = \"http://h\"\ntoken_file = \"t\""),
            &["destinations[0].token_file", "destinations[0].url"],
        );
        check(&STOW.replace("http://h", "h"), &["destinations[0].url"]);
        check(&STOW.replace("url", "token_file"), &["destinations[0].url"]);
        check(&STOW.replace("audit = true", ""), &["destinations[0].audit"]);
    }

    #[test]
    fn a_client_has_a_token_a_title_and_a_right_and_sees_reports_in_shadow_mode_for_the_audit_alone() {
        let key = |name: &str| format!("web_clients[0].{name}");
        let (title, may, name, token) = (key("ae_title"), key("may"), key("name"), key("token_file"));
        let query = CLIENT.replace("store", "query");
        check(CLIENT, &[]);
        check(&format!("{query}audit = true"), &[]);
        check(&format!("node.mode = \"active\"\n{query}"), &[]);
        check(&query, &[&may]);
        check("[[web_clients]]\nmay = []", &[&title, &may, &name, &token]);
        check(&CLIENT.replace("store", "delete"), &[&may]);
        check(&format!("{CLIENT}{CLIENT}"), &["web_clients[1].name"]);
        check("web.dicomweb = true\nweb.listen = \"\"", &["web.dicomweb"]);
    }
}
