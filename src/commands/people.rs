//! `users hash`, `log list` and `log verify`.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use serde_json::json;
use sidelight::cli::{LogList, LogVerify};
use sidelight::config::Config;
use sidelight::domain::Digest;
use sidelight::store::{ChainHead, Store};
use sidelight::web;

use super::{print, print_json, table};

/// Longest input that may be a password.
const INPUT_BYTES_MAX: u64 = 4_096;

/// Reads a password and prints its hash.
pub fn hash() -> anyhow::Result<ExitCode> {
    let stdin = std::io::stdin();
    let password = if stdin.is_terminal() {
        let first = typed("Password: ")?;
        ensure!(first == typed("The same again: ")?, "the two are not the same");
        first
    } else {
        let mut text = String::new();
        stdin.lock().take(INPUT_BYTES_MAX).read_to_string(&mut text).context("the password is not text in UTF-8")?;
        text
    };
    let password = password.strip_suffix('\n').unwrap_or(&password);
    let password = password.strip_suffix('\r').unwrap_or(password);
    print(&web::hash_password(password)?)?;
    Ok(ExitCode::SUCCESS)
}

/// A line of the terminal, which is not shown.
fn typed(prompt: &str) -> anyhow::Result<String> {
    let stdin = std::io::stdin();
    let mut stderr = std::io::stderr();
    write!(stderr, "{prompt}")?;
    stderr.flush()?;
    let shown = tcgetattr(&stdin)?;
    let mut hidden = shown.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&stdin, OptionalActions::Flush, &hidden)?;
    let mut line = String::new();
    let read = stdin.read_line(&mut line);
    tcsetattr(&stdin, OptionalActions::Flush, &shown)?;
    writeln!(stderr)?;
    read?;
    Ok(line)
}

pub async fn list(config: &Config, options: &LogList) -> anyhow::Result<ExitCode> {
    let store = Store::attach(&config.store).await?;
    let lines = store.activity(options.before, options.limit).await?;
    if options.table.json {
        print_json(&lines)?;
    } else {
        let rows = lines.into_iter().map(|l| {
            let at = l.at.format("%Y-%m-%d %H:%M:%S").to_string();
            vec![l.number.to_string(), at, l.user, l.action, l.object, l.outcome, l.digest.short().to_owned()]
        });
        print(&table(&["number", "time (UTC)", "user", "action", "object", "outcome", "digest"], rows))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub async fn verify(config: &Config, options: &LogVerify) -> anyhow::Result<ExitCode> {
    let noted = options.noted.as_deref().map(noted).transpose()?;
    let store = Store::attach(&config.store).await?;
    let found = store.verify_activity(noted.as_ref()).await?;
    if options.table.json {
        print_json(&match &found {
            Ok(head) => json!({"whole": true, "lines": head.number, "digest": head.digest}),
            Err(fault) => json!({"whole": false, "number": fault.number, "what": fault.what}),
        })?;
        return Ok(if found.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(1) });
    }
    match found {
        Ok(head) => {
            print(&format!(
                "{} lines, each as it was written; the last one is {}:{}",
                head.number, head.number, head.digest
            ))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(fault) => {
            print(&format!("line {} {}", fault.number, fault.what))?;
            Ok(ExitCode::from(1))
        }
    }
}

/// `NUMBER:DIGEST`, as `verify` prints it.
fn noted(text: &str) -> anyhow::Result<ChainHead> {
    let parsed = text.split_once(':').and_then(|(number, digest)| {
        Some(ChainHead { number: number.parse().ok()?, digest: Digest::parse(digest).ok()? })
    });
    match parsed {
        Some(head) => Ok(head),
        None => bail!("--noted is NUMBER:DIGEST, as `sidelight log verify` prints it"),
    }
}
