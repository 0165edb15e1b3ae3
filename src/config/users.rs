//! The keys of pages for people: where they may be, who may log in, and how long that lasts.
//!
//! Pages that the network reaches are encrypted and ask who somebody is; a configuration in which one of both is missing
//! is refused. Neighbours: `validate` calls this by `web`. Left out: what a password file holds, which `web` reads, and
//! what a role may see (`web::pages`).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::parse::{self, Parsed, choice, missing};
use super::raw::{Entry, Raw};
use super::validate::{Check, DAY, PEERS_MAX, collect_all};

/// What somebody may see and do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    Viewer,
    Auditor,
    Operator,
    Admin,
}

/// A person who may log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebUser {
    /// Unique name, typed at the login and told in the activity log.
    pub name: String,
    /// Holds the argon2id hash of the password, as `sidelight users hash` prints it.
    pub password_file: PathBuf,
    /// At least one, none twice.
    pub roles: Vec<Role>,
}

impl Role {
    pub const ALL: [Role; 4] = [Role::Viewer, Role::Auditor, Role::Operator, Role::Admin];

    pub fn as_str(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Auditor => "auditor",
            Role::Operator => "operator",
            Role::Admin => "admin",
        }
    }
}

type People = (bool, Vec<WebUser>, Duration, Duration);

const MINUTE: Duration = Duration::from_secs(60);

impl Check<'_> {
    /// `[web]` and `[[web_users]]` as far as they are of pages; the addresses are those of the two web listeners.
    pub(super) fn pages(
        &mut self,
        raw: &Raw,
        listen: Option<SocketAddr>,
        listen_tls: Option<SocketAddr>,
    ) -> Option<People> {
        let pages = self.get("web.pages", &raw.web.pages, parse::switch);
        let idle = self.get("web.session_idle", &raw.web.session_idle, parse::duration(MINUTE..=DAY));
        let whole = self.get("web.session_max", &raw.web.session_max, parse::duration(MINUTE..=30 * DAY));
        if let (Some(idle), Some(whole)) = (idle, whole)
            && idle > whole
        {
            let what = "is longer than web.session_max, which would end every session before".to_owned();
            self.contradiction("web.session_idle", &raw.web.session_idle, what, "write a shorter time");
        }
        let users = self.web_users(raw);
        if pages == Some(true) {
            self.pages_closed_to_the_network(raw, listen, listen_tls);
        }
        Some((pages?, users?, idle?, whole?))
    }

    fn pages_closed_to_the_network(&mut self, raw: &Raw, listen: Option<SocketAddr>, listen_tls: Option<SocketAddr>) {
        let of_the_network = |address: SocketAddr| !address.ip().to_canonical().is_loopback();
        let refuse = |check: &mut Self, what: &str, remedy: &str| {
            check.contradiction("web.pages", &raw.web.pages, what.to_owned(), remedy);
        };
        match (listen, listen_tls) {
            // What is wrong with an address is told with its own key.
            (None, None) if parse::listen_if_given(&raw.web.listen) == Ok(None) => {
                let what = "is true, and web.listen and web.listen_tls are off";
                refuse(self, what, "give web.listen_tls an address and port");
            }
            (Some(address), None) if of_the_network(address) => {
                let what = "is true, and the network reaches web.listen, which has no TLS";
                let remedy = "give web.listen_tls an address and port, or set web.listen = \"127.0.0.1:8104\" for this \
                              machine alone";
                refuse(self, what, remedy);
            }
            (_, Some(address)) if of_the_network(address) && raw.web_users.is_empty() => {
                let what = "is true, and the network reaches web.listen_tls, where nobody could be asked to log in";
                refuse(
                    self,
                    what,
                    "list people under [[web_users]]; `sidelight users hash` makes their password files",
                );
            }
            _ => {}
        }
    }

    fn web_users(&mut self, raw: &Raw) -> Option<Vec<WebUser>> {
        if !self.few_enough("web_users", raw.web_users.len()) {
            return None;
        }
        let mut seen = BTreeMap::new();
        collect_all(raw.web_users.iter().take(PEERS_MAX).enumerate().map(|(i, user)| {
            let key = |name: &str| format!("web_users[{i}].{name}");
            let name = self.get(&key("name"), &user.name, parse::name);
            if let Some(name) = &name
                && let Some(first) = seen.insert(name.clone(), i)
            {
                let what = format!("is the name of web_users[{first}] too");
                self.contradiction(&key("name"), &user.name, what, "give each person a name of their own");
            }
            let password_file = self.get(&key("password_file"), &user.password_file, password_file);
            let roles = self.get(&key("roles"), &user.roles, parse::list(Role::ALL.len(), role));
            if roles.as_ref().is_some_and(Vec::is_empty) {
                let remedy = r#"write ["viewer"], ["auditor"], ["operator"], ["admin"] or several of them"#;
                self.contradiction(&key("roles"), &user.roles, "allows nothing".to_owned(), remedy);
            }
            let mut roles = roles?;
            roles.sort_unstable();
            roles.dedup();
            Some(WebUser { name: name?, password_file: password_file?, roles })
        }))
    }
}

fn role(entry: &Entry) -> Parsed<Role> {
    choice(entry, &Role::ALL.map(|role| (role.as_str(), role)))
}

fn password_file(entry: &Entry) -> Parsed<PathBuf> {
    let what = "the path of a file that holds the password's hash, as `sidelight users hash` prints it";
    parse::path_if_given(entry)?.ok_or_else(|| missing(what))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::tests::{keys, load_text};

    const USER: &str = "[[web_users]]\nname = \"anna\"\npassword_file = \"p\"\nroles = [\"viewer\"]\n";
    const TLS: &str = "[tls]\ncertificate = \"c\"\nkey = \"k\"\nauthorities = \"a\"\n";

    #[test]
    fn pages_that_the_network_reaches_need_tls_and_users() {
        let rows: &[(&str, bool, bool)] = &[
            ("listen = \"127.0.0.1:8104\"", false, true),
            ("listen = \"127.0.0.1:8104\"", true, true),
            ("listen = \"[::1]:8104\"", false, true),
            ("listen = \"0.0.0.0:8104\"", true, false),
            ("listen = \"[::]:8104\"", true, false),
            ("listen = \"192.0.2.1:8104\"", false, false),
            ("listen = \"\"", true, false),
            ("listen = \"\"\nlisten_tls = \"0.0.0.0:8443\"", true, true),
            ("listen = \"\"\nlisten_tls = \"0.0.0.0:8443\"", false, false),
            ("listen = \"127.0.0.1:8104\"\nlisten_tls = \"0.0.0.0:8443\"", false, false),
            ("listen = \"0.0.0.0:8104\"\nlisten_tls = \"0.0.0.0:8443\"", true, true),
            ("listen = \"\"\nlisten_tls = \"127.0.0.1:8443\"", false, true),
        ];
        for (listeners, users, allowed) in rows {
            for pages in [true, false] {
                let text = format!("[web]\npages = {pages}\n{listeners}\n{TLS}{}", if *users { USER } else { "" });
                let expected: &[&str] = if *allowed || !pages { &[] } else { &["web.pages"] };
                assert_eq!(keys(load_text(&text)), expected, "{text}");
            }
        }
    }

    #[test]
    fn a_user_has_a_name_of_their_own_a_file_and_a_role() {
        let rows: &[(String, &[&str])] = &[
            (USER.into(), &[]),
            (USER.replace("viewer", "root"), &["web_users[0].roles"]),
            (USER.replace("\"viewer\"", ""), &["web_users[0].roles"]),
            (USER.replace("\"p\"", "\"\""), &["web_users[0].password_file"]),
            (USER.replace("anna", "a\\nb"), &["web_users[0].name"]),
            (format!("{USER}{USER}"), &["web_users[1].name"]),
            ("[web]\nsession_idle = \"2h\"\nsession_max = \"1h\"".into(), &["web.session_idle"]),
        ];
        for (text, expected) in rows {
            assert_eq!(keys(load_text(text)), *expected, "{text}");
        }
        let users = load_text(&USER.replace("\"viewer\"", "\"admin\", \"viewer\", \"admin\"")).unwrap().web.users;
        assert_eq!(users[0].roles, [Role::Viewer, Role::Admin]);
    }
}
