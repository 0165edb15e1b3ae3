//! Peers that break the protocol: a table of misbehaviours with the answer that each deserves, and ten thousand
//! mutations of a conversation that must neither stop nor crash the door.

mod before;
mod bytes;
mod messages;
mod script;
mod silence;
mod within;

use std::fmt::Write as _;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dicom_ul::pdu::{PDataValue, PDataValueType, Pdu, write_pdu};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sidelight::dicom::{EchoRq, Status, StoreRq};

use sidelight::receive::Drained;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::scu::{CT, Door, EXPLICIT, PATIENCE, Scu, association_rq, uid};
use crate::support::compare_with_docs;
use bytes::p_data;
use script::Row;

fn encoded(pdu: Option<Pdu>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(pdu) = pdu {
        write_pdu(&mut bytes, &pdu).expect("a pdu that can be written");
    }
    bytes
}

/// The node's timers in this test. The one after the last PDU is the node's own (`LINGER_MAX`, 2 s).
const TIMER: Duration = Duration::from_secs(4);

/// No timer has expired before this; a peer sees the beginning of the shortest one somewhat late.
const TIMER_MIN: Duration = Duration::from_millis(1500);

fn all_rows() -> Vec<Row> {
    [before::rows(), within::rows(), messages::rows(), silence::rows()].into_iter().flatten().collect()
}

/// Every row at once, while a peer that does nothing wrong stores on two associations.
#[tokio::test(flavor = "multi_thread")]
async fn every_misbehaviour_is_answered_by_the_state_table_and_disturbs_nobody() {
    let door = Door::open(|setup| {
        (setup.node.negotiation_timeout, setup.node.idle_timeout) = (TIMER, TIMER);
        (setup.node.associations_max, setup.node.object_bytes_max) = (512, 1 << 20);
    })
    .await;
    let stop = CancellationToken::new();
    let mut sound = JoinSet::new();
    for root in ["1.2.4", "1.2.5"] {
        sound.spawn(store_until(stop.clone(), door.port, root));
    }
    let resident_before = resident_mb();
    let mut peers = JoinSet::new();
    for row in all_rows() {
        let port = door.port;
        peers.spawn(async move {
            let played = timeout(PATIENCE, row.play(port, TIMER_MIN)).await;
            (row.name, played.unwrap_or_else(|_| Err(format!("no end within {PATIENCE:?}"))), row.stored())
        });
    }
    let (mut faults, mut stored) = (Vec::new(), 0);
    for (name, played, objects) in peers.join_all().await {
        stored += objects;
        faults.extend(played.err().map(|fault| format!("{name}: {fault}")));
    }
    assert!(faults.is_empty(), "{} faults: {faults:#?}", faults.len());

    stop.cancel();
    let sent: usize = sound.join_all().await.iter().sum();
    assert!(sent >= 50, "a sound peer stored {sent} objects only");
    // One row sends an object twice.
    assert_eq!(door.files("spool").len(), stored - 1 + sent, "what was acknowledged is there, and nothing else");
    door.wait_for("no temporary file stays", |door| door.files("incoming").is_empty()).await;
    door.wait_for("no connection stays", |door| connections(door.port) == 0).await;
    let resident = resident_mb();
    assert!(resident < resident_before + 100, "{resident_before} MB before, {resident} MB after");
    let mut scu = Scu::connect(door.port).await;
    scu.send_bytes(&[bytes::request(), bytes::echo()].concat()).await;
    assert!(matches!(scu.receive().await, Some(Pdu::AssociationAC(_))));
    assert_eq!(scu.response().await.status, Status::SUCCESS, "the node answers");
    drop(scu);
    assert_eq!(door.close().await, Drained::All);
}

/// Stores small objects one after the other until it is told to stop; how many. Each must succeed.
async fn store_until(stop: CancellationToken, port: u16, root: &str) -> usize {
    let mut scu = Scu::associate(port, &[(CT, EXPLICIT)]).await;
    let mut sent = 0;
    while !stop.is_cancelled() {
        let data_set = vec![u8::try_from(sent % 251).expect("a byte"); 20_000];
        assert_eq!(scu.store(1, CT, &format!("{root}.{sent}"), &data_set).await, 0, "object {sent}");
        sent += 1;
    }
    assert!(scu.release().await);
    sent
}

/// Connections of a port on this machine that are not closed on both sides.
fn connections(port: u16) -> usize {
    let local = format!("0100007F:{port:04X}");
    let table = fs::read_to_string("/proc/self/net/tcp").expect("Linux");
    let states = table.lines().skip(1).filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        (words.next()? == local).then(|| words.nth(1))?
    });
    // 01 established, 08 close wait
    states.filter(|state| ["01", "08"].contains(state)).count()
}

fn resident_mb() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
}

#[test]
fn the_table_of_misbehaviours_is_the_one_in_the_docs() {
    let rows = all_rows();
    let mut names: Vec<_> = rows.iter().map(|row| row.name).collect();
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "a name twice");
    let mut text = HEAD.replace("{count}", &rows.len().to_string());
    for (number, row) in rows.iter().enumerate() {
        let Row { state, name, rule, .. } = row;
        let _ = writeln!(text, "| {} | {state} | {name} | {} | {rule} |", number + 1, row.answer());
    }
    compare_with_docs("hostile-peers.md", &text);
}

const HEAD: &str = "\
# Hostile peers

What the node answers to {count} misbehaviours of a peer, as data in `tests/it/receive/hostile/`. The test
`every_misbehaviour_is_answered_by_the_state_table_and_disturbs_nobody` acts them all out at once, while sound peers
store; this table is written from the same data (`SIDELIGHT_BLESS=1`).

State: where the association stands in PS3.8 table 9-10, from the acceptor's side (2: no request yet; 6: data transfer;
13: about to close). Rule: the action of that table, or the section that says what is answered. A-ABORT names source and
reason (PS3.8 table 9-26), A-ASSOCIATE-RJ result, source and reason (table 9-21), a response its status. States 3 and 8
last no time that a peer can see: what comes then is judged in state 6 or 13. The answers that follow a harmless oddity
(C-ECHO-RSP, A-RELEASE-RP) show that the association is usable. A timer is `node.negotiation_timeout` in state 2,
`node.idle_timeout` in state 6, two seconds in state 13.

| # | State | Misbehaviour | Answer | Rule |
|---|---|---|---|---|
";

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_mutated_conversations_neither_crash_nor_stop_the_door() {
    const CONVERSATIONS: u64 = 10_000;
    const AT_ONCE: u64 = 50;
    let panics = Arc::new(AtomicUsize::new(0));
    let (count, default_hook) = (panics.clone(), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |info| {
        // A task that panics ends quietly; a test of another room that fails is not counted here.
        let in_a_test = info.location().is_some_and(|at| at.file().contains("tests/"));
        count.fetch_add(usize::from(!in_a_test), Ordering::Relaxed);
        default_hook(info);
    }));
    // A mutation that makes the door wait for more bytes ends with the connection, which each peer closes.
    let door = Arc::new(Door::open(|setup| setup.node.object_bytes_max = 1 << 16).await);
    let mut peers = JoinSet::new();
    for seed in 0..AT_ONCE {
        let port = door.port;
        peers.spawn(async move {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            for _ in 0..CONVERSATIONS / AT_ONCE {
                let mut scu = Scu::connect(port).await;
                scu.try_send_bytes(&mutated_conversation(&mut rng)).await;
                while scu.receive().await.is_some() {}
            }
        });
    }
    while let Some(ended) = peers.join_next().await {
        ended.expect("answers are well-formed and end");
    }
    assert_eq!(panics.load(Ordering::Relaxed), 0);
    let mut scu = Scu::associate(door.port, &[(CT, EXPLICIT)]).await;
    assert_eq!(scu.store(1, CT, "1.2.3.4.5", &[1; 1000]).await, 0, "the door still works");
    door.wait_for("no temporary file stays", |door| door.files("incoming").is_empty()).await;
}

/// A sound conversation (request, C-ECHO, C-STORE, release) with some bytes changed, cut, doubled or inserted, mostly
/// behind the association request, since most of the code is there.
fn mutated_conversation(rng: &mut ChaCha8Rng) -> Vec<u8> {
    let command = |bytes: Vec<u8>| p_data(1, 3, &bytes);
    let two_in_one = Pdu::PData {
        data: [
            (PDataValueType::Command, StoreRq::new(2, uid(CT), uid("1.2.3")).encode()),
            (PDataValueType::Data, vec![5; 200]),
        ]
        .map(|(value_type, data)| PDataValue { presentation_context_id: 1, value_type, is_last: true, data })
        .to_vec(),
    };
    let mut pdus = [
        encoded(Some(association_rq("PACS", &[(CT, EXPLICIT), ("1.2.840.10008.1.1", "1.2.840.10008.1.2")]))),
        command(EchoRq { message_id: 1, has_data_set: false }.encode()),
        command(StoreRq::new(2, uid(CT), uid("1.2.3")).encode()),
        p_data(1, 0, &[1; 300]),
        p_data(1, 2, &[2; 300]),
        encoded(Some(two_in_one)),
        vec![0x05, 0, 0, 0, 0, 4, 0, 0, 0, 0],
    ];
    if rng.random_bool(0.2) {
        let (a, b) = (rng.random_range(1..pdus.len()), rng.random_range(1..pdus.len()));
        pdus.swap(a, b);
    }
    let first = if rng.random_bool(0.3) { 0 } else { pdus[0].len() };
    let mut bytes = pdus.concat();
    for _ in 0..rng.random_range(1..6) {
        let at = rng.random_range(first..bytes.len());
        match rng.random_range(0..10) {
            0 => bytes.truncate(at.max(first + 1)),
            1 => bytes.insert(at, rng.random()),
            2 => drop(bytes.remove(at)),
            3 => bytes.splice(at..at, vec![0xff; 4]).for_each(drop),
            4 => bytes.extend_from_within(at..),
            _ => bytes[at] = rng.random(),
        }
        if bytes.len() <= first {
            break;
        }
    }
    bytes
}
