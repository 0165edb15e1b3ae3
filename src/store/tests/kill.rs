//! A process that is killed while it acknowledges objects.
//!
//! The test starts its own binary again, as a sender and store in one that says on its standard output what was
//! acknowledged, and kills it (SIGKILL) after a given number of lines.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use super::*;

/// Where the killed process stores, and the first component of its UIDs.
const DIR: &str = "SIDELIGHT_TEST_KILL_DIR";
const ROUND: &str = "SIDELIGHT_TEST_KILL_ROUND";

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_instant_loses_no_acknowledged_object() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeSet::new();
    for (round, lines) in [1, 2, 13, 40, 95].into_iter().enumerate() {
        acknowledged.extend(killed_after(dir.path(), round, lines));

        let store = open(dir.path()).await;
        let recovered = store.recovered();
        assert_eq!(recovered.missing, 0);
        let known: BTreeSet<String> = store
            .claim_received(10_000, LEASE, at(0))
            .await
            .unwrap()
            .into_iter()
            .map(|pending| {
                let expected = format!("META{}", pending.sop_instance).into_bytes();
                assert_eq!(fs::read(&pending.path).unwrap(), expected, "byte for byte");
                pending.sop_instance.to_string()
            })
            .collect();
        assert!(acknowledged.is_subset(&known), "lost: {:?}", acknowledged.difference(&known));
        assert_eq!(files(&dir.path().join("spool")).len(), known.len(), "no file without its row");
        store.close().await;
    }
    assert!(acknowledged.len() >= 1 + 2 + 13 + 40 + 95);
}

/// What a process acknowledged that was killed after so many lines.
fn killed_after(dir: &Path, round: usize, lines: usize) -> Vec<String> {
    let name = format!("{}::stores_until_it_is_killed", module_path!().split_once("::").unwrap().1);
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args([name.as_str(), "--exact", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .env(ROUND, round.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(process.stdout.take().unwrap()).lines();
    let mut acknowledged = Vec::new();
    let mut keep = |line: String| acknowledged.extend(line.strip_prefix("ack ").map(str::to_owned));
    let mut seen = 0;
    while seen < lines {
        let line = output.next().expect("the process runs until it is killed").unwrap();
        seen += usize::from(line.starts_with("ack "));
        keep(line);
    }
    process.kill().unwrap();
    process.wait().unwrap();
    // What it said before the kill arrived counts too, except a last line that is not whole.
    let mut rest: Vec<String> = output.map_while(Result::ok).collect();
    rest.pop();
    rest.into_iter().for_each(keep);
    acknowledged
}

/// Not a test of its own: the process that is killed. Does nothing in an ordinary run.
#[tokio::test(flavor = "multi_thread")]
async fn stores_until_it_is_killed() {
    let (Ok(dir), Ok(round)) = (std::env::var(DIR), std::env::var(ROUND)) else { return };
    let store = open(Path::new(&dir)).await;
    let senders: Vec<_> = (0..8)
        .map(|sender| {
            let (store, round) = (store.clone(), round.clone());
            tokio::spawn(async move {
                for number in 0..u32::MAX {
                    let instance = format!("1.{round}.{sender}.{number}");
                    put(&store, &instance, 0).await;
                    std::io::stdout().write_all(format!("\nack {instance}\n").as_bytes()).unwrap();
                }
            })
        })
        .collect();
    for sender in senders {
        sender.await.unwrap();
    }
}
