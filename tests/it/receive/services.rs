//! What is negotiated beside classes and syntaxes, tried over the wire: aliases, users, windows, roles, extended
//! negotiation; and operations that are pipelined.

use std::fs;
use std::path::Path;
use std::process::Command;

use dicom_ul::pdu::{
    AssociationAC, PDataValueType, Pdu, RequestorRoles, UserIdentity, UserIdentityType, UserVariableItem,
};
use sidelight::config;
use sidelight::dicom::{EchoRq, STUDY_ROOT_FIND, StoreRq};
use sidelight::domain::Digest;

use super::scu::{CT, Door, EXPLICIT, Scu, alias, association_rq, source, uid};
use super::{IMPLICIT, VERIFICATION};
use crate::support::{reference_python, run};

/// Proposes an association with these user items.
async fn propose(door: &Door, contexts: &[(&str, &str)], items: Vec<UserVariableItem>) -> (Scu, Option<Pdu>) {
    let mut scu = Scu::connect(door.port).await;
    let Pdu::AssociationRQ(mut request) = association_rq("PACS", contexts) else { unreachable!("a request") };
    request.user_variables.extend(items);
    scu.send(&Pdu::AssociationRQ(request)).await;
    let answer = scu.receive().await;
    (scu, answer)
}

async fn accepted(door: &Door, contexts: &[(&str, &str)], items: Vec<UserVariableItem>) -> (Scu, AssociationAC) {
    match propose(door, contexts, items).await {
        (scu, Some(Pdu::AssociationAC(answer))) => (scu, answer),
        (_, other) => panic!("no association: {other:?}"),
    }
}

fn with_user(name: &str, passcode_file: Option<&Path>) -> config::Source {
    let user = config::User { username: name.into(), passcode_file: passcode_file.map(Path::to_owned) };
    config::Source { user: Some(user), ..source("PACS", &[]) }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_sent_to_an_alias_is_kept_with_the_title_that_was_called() {
    let door = Door::open(|setup| setup.node.aliases = vec![alias("CHEST"), alias("OLDNAME")]).await;
    for called in ["CHEST", "SIDELIGHT"] {
        let mut scu = Scu::connect(door.port).await;
        let Pdu::AssociationRQ(mut request) = association_rq("PACS", &[(CT, EXPLICIT)]) else { unreachable!() };
        request.called_ae_title = called.into();
        scu.send(&Pdu::AssociationRQ(request)).await;
        assert!(matches!(scu.receive().await, Some(Pdu::AssociationAC(_))));
        assert_eq!(scu.store(1, CT, &format!("1.2.{}", called.len()), &[1; 100]).await, 0);
    }
    let lease = std::time::Duration::from_secs(60);
    let pending = door.store.claim_received(10, lease, chrono::Utc::now()).await.expect("the index answers");
    let mut called: Vec<_> = pending.iter().map(|p| (p.sop_instance.as_str(), p.called.as_str())).collect();
    called.sort_unstable();
    assert_eq!(called, [("1.2.5", "CHEST"), ("1.2.9", "SIDELIGHT")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_user_of_a_source_is_asked_for_and_hears_that_it_was_taken() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("passcode");
    fs::write(&file, format!("sha256:{}\n", Digest::of(b"secret").as_str())).expect("writable");
    let door = Door::open(|setup| setup.sources = vec![with_user("anna", Some(&file))]).await;
    let identity = |name: &str, passcode: &str| {
        let kind = UserIdentityType::UsernamePassword;
        vec![UserVariableItem::UserIdentityItem(UserIdentity::new(true, kind, name.into(), passcode.into()))]
    };
    let (_scu, answer) = accepted(&door, &[(VERIFICATION, IMPLICIT)], identity("anna", "secret")).await;
    assert!(answer.user_variables.contains(&UserVariableItem::Unknown(0x59, vec![0, 0])), "{answer:?}");
    for items in [identity("anna", "wrong"), identity("bert", "secret"), vec![]] {
        let (mut scu, answer) = propose(&door, &[(VERIFICATION, IMPLICIT)], items).await;
        let mut bytes = Vec::new();
        dicom_ul::pdu::write_pdu(&mut bytes, &answer.expect("an answer")).expect("a pdu");
        assert_eq!(bytes, [3, 0, 0, 0, 0, 4, 0, 1, 1, 1]);
        scu.try_send_bytes(&[]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pynetdicom_names_its_user_and_is_believed_only_with_the_passcode() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("passcode");
    fs::write(&file, "pass word\n").expect("writable");
    let door = Door::open(|setup| setup.sources = vec![with_user("anna", Some(&file))]).await;
    let script = "
import sys
from pynetdicom import AE
from pynetdicom.pdu_primitives import UserIdentityNegotiation
ae = AE('PACS'); ae.add_requested_context('1.2.840.10008.1.1')
for passcode, kind in [(b'pass word', 2), (b'password', 2), (b'', 1)]:
    user = UserIdentityNegotiation()
    user.user_identity_type, user.primary_field = kind, b'anna'
    if kind == 2: user.secondary_field = passcode
    user.positive_response_requested = True
    assoc = ae.associate('127.0.0.1', int(sys.argv[1]), ae_title='SIDELIGHT', ext_neg=[user])
    said = [type(i).__name__ for i in assoc.acceptor.user_information if 'Identity' in type(i).__name__]
    print(assoc.is_established, assoc.is_rejected, said)
    if assoc.is_established: print('%04x' % assoc.send_c_echo().Status); assoc.release()
";
    let port = door.port.to_string();
    let output = tokio::task::spawn_blocking(move || run(Command::new(reference_python()).args(["-c", script, &port])));
    let output = output.await.expect("no panic");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let expected = "True False ['UserIdentityNegotiation']\n0000\nFalse True []\nFalse True []\n";
    assert_eq!(said, expected, "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_sub_item_is_answered_as_the_standard_asks() {
    let sr = "1.2.840.10008.5.1.4.1.1.88.34";
    let trusted = config::Source { query: true, audit: true, ..source("PACS", &[]) };
    let door = Door::open(|setup| setup.sources = vec![trusted]).await;
    let role =
        |class: &str, scu, scp| UserVariableItem::ScuScpRoleSelectionSubItem(class.into(), RequestorRoles { scu, scp });
    let extended =
        |class: &str, bytes: &[u8]| UserVariableItem::SopClassExtendedNegotiationSubItem(class.into(), bytes.to_vec());
    let common = UserVariableItem::Unknown(0x57, vec![0, 3, b'1', b'.', b'2', 0, 3, b'1', b'.', b'3', 0, 0]);
    let window = |value: [u8; 4]| UserVariableItem::Unknown(0x53, value.to_vec());
    let items = vec![
        window([0, 20, 0, 5]),
        role(sr, true, true),
        role(CT, true, true),
        extended(CT, &[3, 0, 0, 0, 2, 0]),
        extended(STUDY_ROOT_FIND.uid, &[1, 1, 1, 1]),
        common.clone(),
    ];
    let contexts = [(CT, EXPLICIT), (sr, EXPLICIT), (STUDY_ROOT_FIND.uid, IMPLICIT)];
    let (scu, answer) = accepted(&door, &contexts, items).await;
    let expected = [
        window([0, 1, 0, 1]),
        role(sr, true, true),
        role(CT, true, false),
        extended(CT, &[2, 0, 3, 0, 0, 0]),
        extended(STUDY_ROOT_FIND.uid, &[1, 0, 0, 0]),
    ];
    for item in &expected {
        assert!(answer.user_variables.contains(item), "{item:?} in {:?}", answer.user_variables);
    }
    // Length, implementation class and version name are the other three.
    assert_eq!(answer.user_variables.len(), expected.len() + 3, "{:?}", answer.user_variables);
    assert!(scu.release().await);
}

/// The command set of a C-STORE and its data set, without waiting for an answer.
async fn send_store(scu: &mut Scu, message_id: u16, instance: &str) {
    let command = StoreRq::new(message_id, uid(CT), uid(instance)).encode();
    scu.send_fragment(1, PDataValueType::Command, true, &command).await;
    scu.send_fragment(1, PDataValueType::Data, false, &[1; 30_000]).await;
    scu.send_fragment(1, PDataValueType::Data, true, &[message_id.to_le_bytes()[0]; 30_000]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_answered_in_their_order() {
    let door = Door::open(|_| ()).await;
    for (round, window) in [(1, None), (2, Some([0, 3, 0, 1])), (3, Some([0, 0, 0, 0]))] {
        let items = window.map(|value| UserVariableItem::Unknown(0x53, value.to_vec())).into_iter().collect();
        let (mut scu, _) = accepted(&door, &[(CT, EXPLICIT), (VERIFICATION, IMPLICIT)], items).await;
        for id in 1..=20 {
            send_store(&mut scu, id, &format!("1.{round}.{id}")).await;
        }
        // The seventh again, with other contents, and an echo behind it.
        send_store(&mut scu, 21, &format!("1.{round}.7")).await;
        let echo = EchoRq { message_id: 22, has_data_set: false }.encode();
        scu.send_fragment(3, PDataValueType::Command, true, &echo).await;
        let mut answers = Vec::new();
        for _ in 0..22 {
            let response = scu.response().await;
            answers.push((response.responded_to, response.status.0));
        }
        let expected: Vec<(u16, u16)> = (1..=20).map(|id| (id, 0)).chain([(21, 0x0111), (22, 0)]).collect();
        assert_eq!(answers, expected, "window {window:?}");
        assert_eq!(door.files("spool").len(), 20 * round);
        assert!(scu.release().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_behind_unanswered_requests_waits_for_their_answers() {
    let door = Door::open(|_| ()).await;
    let window = vec![UserVariableItem::Unknown(0x53, vec![0, 8, 0, 1])];
    let (mut scu, _) = accepted(&door, &[(CT, EXPLICIT)], window).await;
    for id in 1..=5 {
        send_store(&mut scu, id, &format!("1.2.{id}")).await;
    }
    scu.send(&Pdu::ReleaseRQ).await;
    for id in 1..=5 {
        assert_eq!(scu.response().await.responded_to, id);
    }
    assert_eq!(scu.receive().await, Some(Pdu::ReleaseRP));
    assert_eq!(door.files("spool").len(), 5);
}
