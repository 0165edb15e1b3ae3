//! The users of the configuration with their password hashes, as they stand.
//!
//! Neighbours: `login` compares, `guard` asks whether a session is still that of the same user. Left out: sessions.

use anyhow::{Context as _, anyhow};
use sha2::{Digest as _, Sha256};

use crate::config::{Config, Role, WebUser, read_secret_text};

use super::password::Hash;
use super::sessions::Mark;

/// Who may log in. By default nobody.
#[derive(Debug, Default)]
pub(in crate::web) struct People {
    list: Vec<Person>,
    /// Costs as much as the others to compare with, and no password fits.
    nobody: Option<Hash>,
}

/// A user.
#[derive(Debug, Clone)]
pub(super) struct Person {
    pub(super) name: String,
    pub(super) roles: Vec<Role>,
    hash: Hash,
    /// Changes with password and roles.
    pub(super) mark: Mark,
}

const FILE_BYTES_MAX: u64 = 4_096;

impl People {
    /// Reads the password files, as far as there are pages. Blocking.
    ///
    /// # Errors
    /// With the key that is at fault.
    pub(in crate::web) fn of(config: &Config) -> anyhow::Result<Self> {
        if !config.web.pages {
            return Ok(Self::default());
        }
        let mut list = Vec::with_capacity(config.web.users.len());
        for (i, user) in config.web.users.iter().enumerate() {
            list.push(person(user).with_context(|| format!("web_users[{i}].password_file"))?);
        }
        let nobody = list.first().map(|person| person.hash.of_nobody()).transpose()?;
        Ok(Self { list, nobody })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn named(&self, name: &str) -> Option<&Person> {
        self.list.iter().find(|person| person.name == name)
    }

    /// The user with this name and password. Takes as long for a name that is nobody's. Blocking.
    pub(super) fn verified(&self, name: &str, password: &str) -> Option<&Person> {
        let person = self.named(name);
        let hash = person.map(|person| &person.hash).or(self.nobody.as_ref())?;
        let fits = hash.is_of(password);
        person.filter(|_| fits)
    }
}

fn person(user: &WebUser) -> anyhow::Result<Person> {
    let shown = user.password_file.display();
    let text = read_secret_text(&user.password_file, FILE_BYTES_MAX).map_err(|fault| anyhow!("{shown} {fault}"))?;
    let hash = Hash::parse(&text).map_err(|fault| anyhow!("{shown} {fault}"))?;
    let roles = user.roles.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(" ");
    let mark = Sha256::digest(format!("{}\n{roles}\n{}", user.name, text.trim())).into();
    Ok(Person { name: user.name.clone(), roles: user.roles.clone(), hash, mark })
}
