//! Peers that break the protocol: annotated bytes with the answer they deserve, and ten thousand mutations of a
//! conversation that must neither stop nor crash the door.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dicom_ul::pdu::{PDataValue, PDataValueType, Pdu, write_pdu};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sidelight::dicom::{EchoRq, StoreRq};

use super::scu::{CT, Door, EXPLICIT, Scu, association_rq, uid};

/// An A-ABORT of the service provider for this reason (PS3.8 table 9-26).
fn abort(reason: u8) -> Vec<u8> {
    vec![0x07, 0, 0, 0, 0, 4, 0, 0, 2, reason]
}

fn encoded(pdu: Option<Pdu>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(pdu) = pdu {
        write_pdu(&mut bytes, &pdu).expect("a pdu that can be written");
    }
    bytes
}

/// A P-DATA-TF PDU with one fragment. Control: 1 command, 2 last.
fn p_data(context: u8, control: u8, data: &[u8]) -> Vec<u8> {
    let item = u32::try_from(data.len() + 2).expect("a short fragment");
    let mut bytes = vec![0x04, 0];
    bytes.extend_from_slice(&(item + 4).to_be_bytes());
    bytes.extend_from_slice(&item.to_be_bytes());
    bytes.extend_from_slice(&[context, control]);
    bytes.extend_from_slice(data);
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_an_association_request_gets_no_association() {
    let door = Door::open(|_| ()).await;
    let check = async |what: &str, bytes: &[u8], expected: &[u8]| {
        let mut scu = Scu::connect(door.port).await;
        scu.send_bytes(bytes).await;
        assert_eq!(encoded(scu.receive().await), expected, "{what}");
    };
    check("a web browser", b"GET / HTTP/1.1\r\n\r\n", &abort(1)).await;
    check("a TLS hello", &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3], &abort(1)).await;
    check("a release", &[0x05, 0, 0, 0, 0, 4, 0, 0, 0, 0], &abort(2)).await;
    check("data", &p_data(1, 3, &[0; 8]), &abort(2)).await;
    check("a request of 4 GiB", &[0x01, 0, 0xff, 0xff, 0xff, 0xff], &abort(6)).await;
    check("a request without content", &[0x01, 0, 0, 0, 0, 0], &abort(6)).await;
    check("an abort", &[0x07, 0, 0, 0, 0, 4, 0, 0, 0, 0], &abort(2)).await;

    let request = encoded(Some(association_rq("PACS", &[(CT, EXPLICIT)])));
    let edit = |at: usize, value: u8| {
        let mut bytes = request.clone();
        bytes[at] = value;
        bytes
    };
    check("protocol version 2 only", &edit(7, 2), &[3, 0, 0, 0, 0, 4, 0, 1, 2, 2]).await;
    check("another application context", &edit(98, b'9'), &[3, 0, 0, 0, 0, 4, 0, 1, 1, 2]).await;
    // 6 header, 68 fixed fields, 4 + 21 application context, 4 header of the first presentation context: its id.
    check("an even presentation context id", &edit(103, 2), &abort(6)).await;
    // The length of the abstract syntax, behind the id and three reserved bytes.
    check("an item longer than the one around it", &edit(110, 0xff), &abort(6)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_an_association_ends_it_with_the_reason() {
    let door = Door::open(|_| ()).await;
    let store_rq = StoreRq::new(1, uid(CT), uid("1.2.3")).encode();
    let check = async |what: &str, pdus: &[Vec<u8>], reason: u8| {
        let mut scu = Scu::associate(door.port, &[(CT, EXPLICIT), (CT, EXPLICIT)]).await;
        scu.send_bytes(&pdus.concat()).await;
        assert_eq!(encoded(scu.receive().await), abort(reason), "{what}");
    };
    let begun = p_data(1, 3, &store_rq);
    check("a PDU type that does not exist", &[vec![0x08, 0, 0, 0, 0, 0]], 1).await;
    check("a second association request", &[encoded(Some(association_rq("PACS", &[])))], 2).await;
    check("a release within a message", &[begun.clone(), vec![0x05, 0, 0, 0, 0, 4, 0, 0, 0, 0]], 2).await;
    check("a data set without a command", &[p_data(1, 2, &[1; 8])], 5).await;
    check("a command within a data set", &[begun.clone(), p_data(1, 3, &store_rq)], 5).await;
    check("a context that was not agreed", &[p_data(5, 3, &store_rq)], 6).await;
    check("a data set on another context", &[begun.clone(), p_data(3, 2, &[1; 8])], 6).await;
    check("a command on two contexts", &[p_data(1, 1, &store_rq[..8]), p_data(3, 3, &store_rq[8..])], 6).await;
    check("a PDU longer than agreed", &[vec![0x04, 0, 0, 4, 0, 1]], 6).await;
    check("a fragment longer than its PDU", &[vec![0x04, 0, 0, 0, 0, 6, 0, 0, 0, 99, 1, 3]], 6).await;
    check("a fragment without a header", &[vec![0x04, 0, 0, 0, 0, 4, 0, 0, 0, 0]], 6).await;
    check("a command that claims 4 GiB", &[p_data(1, 3, &[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0])], 0).await;
    check("a command of 1 MiB", &vec![p_data(1, 1, &[0; 32_000]); 32], 0).await;
    check("a response", &[p_data(1, 3, &[0, 0, 0, 1, 2, 0, 0, 0, 1, 0x80])], 0).await;
    door.wait_for("no temporary file stays", |door| door.files("incoming").is_empty()).await;
    assert!(door.files("spool").is_empty());
}

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
    let mut peers = tokio::task::JoinSet::new();
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
