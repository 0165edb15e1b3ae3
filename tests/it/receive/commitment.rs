//! Storage commitment over the wire by hand-made messages: results on the association that asks, each fault with its
//! status. With pynetdicom, and on a new association, which needs the whole node: `commitments`.

use dicom_ul::pdu::{PDataValueType, Pdu};
use sidelight::config;
use sidelight::dicom::{
    DataSet, Encoding, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE, SopReference, Status, commitment_report,
};

use super::scu::{CT, Door, EXPLICIT, Scu, source, uid};

const MR: &str = "1.2.840.10008.5.1.4.1.1.4";

pub fn element(element: u16, value: &[u8]) -> Vec<u8> {
    let length = u32::try_from(value.len()).expect("short");
    [&[0, 0], &element.to_le_bytes()[..], &length.to_le_bytes(), value].concat()
}

pub fn padded(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize(bytes.len().next_multiple_of(2), 0);
    bytes
}

/// An N-ACTION-RQ.
pub fn action(message_id: u16, class: &str, instance: &str, action_type: u16, has_data_set: bool) -> Vec<u8> {
    let data_set: u16 = if has_data_set { 1 } else { 0x0101 };
    [
        element(0x0003, &padded(class)),
        element(0x0100, &0x0130u16.to_le_bytes()),
        element(0x0110, &message_id.to_le_bytes()),
        element(0x0800, &data_set.to_le_bytes()),
        element(0x1001, &padded(instance)),
        element(0x1008, &action_type.to_le_bytes()),
    ]
    .concat()
}

/// What a request asks is what a report of successes says: the same attributes.
pub fn information(transaction: &str, references: &[(&str, &str)]) -> DataSet {
    let reference =
        |(class, instance): &(&str, &str)| SopReference { sop_class: uid(class), sop_instance: uid(instance) };
    let outcomes: Vec<_> = references.iter().map(|r| (reference(r), Status::SUCCESS)).collect();
    commitment_report(&uid(transaction), &outcomes).1
}

async fn ask(scu: &mut Scu, command: &[u8], data_set: &[u8]) -> u16 {
    scu.send_fragment(3, PDataValueType::Command, true, command).await;
    let mut fragments = data_set.chunks(16_000).peekable();
    while let Some(fragment) = fragments.next() {
        scu.send_fragment(3, PDataValueType::Data, fragments.peek().is_none(), fragment).await;
    }
    scu.response().await.status.0
}

/// Receives an N-EVENT-REPORT-RQ and answers it: event type, failures with their reasons, successes.
async fn event(scu: &mut Scu, status: u16) -> (u16, Vec<(String, u16)>, Vec<String>) {
    let (command, data_set) = (scu.part().await, scu.part().await);
    let set = dicom_object::InMemDicomObject::read_dataset_with_ts(
        &command[..],
        &dicom_transfer_syntax_registry::entries::IMPLICIT_VR_LITTLE_ENDIAN.erased(),
    )
    .expect("a command set");
    let number = |element| set.element(dicom_core::Tag(0, element)).expect("there").to_int::<u16>().expect("a number");
    assert_eq!(number(0x0100), 0x0100, "N-EVENT-REPORT-RQ");
    let bounds = sidelight::dicom::COMMITMENT_BOUNDS;
    let told = DataSet::parse(&data_set, Encoding::ExplicitLittleEndian, bounds).expect("a data set");
    let instance = |item: &DataSet| item.text(0x0008_1155).expect("a UID").to_owned();
    let failed = told.items(0x0008_1198).unwrap_or_default().iter().map(|item| {
        let reason = item.bytes(0x0008_1197).expect("a reason");
        (instance(item), u16::from_le_bytes([reason[0], reason[1]]))
    });
    let (failed, event_type) = (failed.collect(), number(0x1002));
    let committed = told.items(0x0008_1199).unwrap_or_default().iter().map(instance).collect();
    let answer = [
        element(0x0100, &0x8100u16.to_le_bytes()),
        element(0x0120, &number(0x0110).to_le_bytes()),
        element(0x0800, &0x0101u16.to_le_bytes()),
        element(0x0900, &status.to_le_bytes()),
    ];
    scu.send_fragment(3, PDataValueType::Command, true, &answer.concat()).await;
    (event_type, failed, committed)
}

async fn door() -> Door {
    let pacs = config::Source { commitment: true, ..source("PACS", &[]) };
    Door::open(|setup| setup.sources = vec![pacs]).await
}

fn request(message_id: u16) -> Vec<u8> {
    action(message_id, STORAGE_COMMITMENT.uid, STORAGE_COMMITMENT_INSTANCE, 1, true)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_is_committed_and_what_is_not_is_told_with_its_reason() {
    let door = door().await;
    let mut scu = Scu::associate(door.port, &[(CT, EXPLICIT), (STORAGE_COMMITMENT.uid, EXPLICIT)]).await;
    for instance in ["1.2.1", "1.2.2", "1.2.3", "1.2.4"] {
        assert_eq!(scu.store(1, CT, instance, &[7; 5000]).await, 0);
    }
    let ask_for = |transaction: &str, references: &[(&str, &str)]| {
        information(transaction, references).encode(Encoding::ExplicitLittleEndian)
    };
    assert_eq!(ask(&mut scu, &request(9), &ask_for("1.9.1", &[(CT, "1.2.1"), (CT, "1.2.2")])).await, 0);
    assert_eq!(event(&mut scu, 0).await, (1, vec![], vec!["1.2.1".into(), "1.2.2".into()]));

    // One that changed on the disk, one that is gone, one of another class, one that never came.
    let path = |instance: &str| door.stored(instance).expect("stored");
    let mut bytes = std::fs::read(path("1.2.3")).expect("readable");
    *bytes.last_mut().expect("not empty") ^= 1;
    std::fs::write(path("1.2.3"), bytes).expect("writable");
    std::fs::remove_file(path("1.2.4")).expect("removable");
    let asked = [(CT, "1.2.1"), (CT, "1.2.3"), (CT, "1.2.4"), (MR, "1.2.2"), (CT, "1.2.5")];
    assert_eq!(ask(&mut scu, &request(10), &ask_for("1.9.2", &asked)).await, 0);
    let failed = [("1.2.3", 0x0110), ("1.2.4", 0x0110), ("1.2.2", 0x0119), ("1.2.5", 0x0112)];
    let failed = failed.map(|(instance, reason)| (instance.to_owned(), reason)).to_vec();
    assert_eq!(event(&mut scu, 0).await, (2, failed, vec!["1.2.1".into()]));

    assert_eq!(ask(&mut scu, &request(11), &ask_for("1.9.1", &[(CT, "1.2.1")])).await, 0);
    assert_eq!(event(&mut scu, 0).await, (2, vec![("1.2.1".into(), 0x0131)], vec![]), "a used transaction UID");
    assert!(scu.release().await);
    let due = door.store.due_commitment(std::time::Duration::from_secs(9), chrono::Utc::now()).await;
    assert_eq!(due.expect("the index answers"), None, "all were answered");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_make_no_sense_have_their_status_and_begin_nothing() {
    let door = door().await;
    let mut scu = Scu::associate(door.port, &[(CT, EXPLICIT), (STORAGE_COMMITMENT.uid, EXPLICIT)]).await;
    let good = information("1.9.1", &[(CT, "1.2.1")]).encode(Encoding::ExplicitLittleEndian);
    let (class, instance) = (STORAGE_COMMITMENT.uid, STORAGE_COMMITMENT_INSTANCE);
    let of = |set: DataSet| set.encode(Encoding::ExplicitLittleEndian);
    let rows = [
        ("another class", action(1, CT, instance, 1, true), good.clone(), 0x0122),
        ("another instance", action(2, class, "1.2.3", 1, true), good.clone(), 0x0112),
        ("another action", action(3, class, instance, 2, true), good.clone(), 0x0123),
        ("no data set", action(4, class, instance, 1, false), vec![], 0x0212),
        ("an empty data set", action(5, class, instance, 1, true), of(DataSet::default()), 0x0115),
        ("no references", action(6, class, instance, 1, true), of(information("1.2", &[])), 0x0115),
        ("noise", action(7, class, instance, 1, true), vec![0xff; 999], 0x0115),
        ("half of it", action(8, class, instance, 1, true), good[..good.len() / 2].to_vec(), 0x0115),
        ("4 MiB", action(9, class, instance, 1, true), vec![0; 4 << 20], 0x0213),
    ];
    for (what, command, data_set, expected) in rows {
        let status = match data_set.as_slice() {
            [] => {
                scu.send_fragment(3, PDataValueType::Command, true, &command).await;
                if what != "no data set" {
                    scu.send_fragment(3, PDataValueType::Data, true, &[]).await;
                }
                scu.response().await.status.0
            }
            data_set => ask(&mut scu, &command, data_set).await,
        };
        assert_eq!(status, expected, "{what}: {status:04X}");
    }
    let due = door.store.due_commitment(std::time::Duration::from_secs(9), chrono::Utc::now()).await;
    assert_eq!(due.expect("the index answers"), None);
    assert_eq!(scu.store(1, CT, "1.2.9", &[1; 10]).await, 0, "the association is still usable");
    assert!(scu.release().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_heard_on_the_association_that_asked_is_due_at_once() {
    let door = door().await;
    let asked = information("1.9.1", &[(CT, "1.2.1")]).encode(Encoding::ExplicitLittleEndian);
    // Refused, aborted before the answer.
    for (round, refuse) in [(1, true), (2, false)] {
        let mut scu = Scu::associate(door.port, &[(CT, EXPLICIT), (STORAGE_COMMITMENT.uid, EXPLICIT)]).await;
        assert_eq!(ask(&mut scu, &request(round), &asked).await, 0);
        if refuse {
            event(&mut scu, 0x0110).await;
            assert!(scu.release().await);
        } else {
            scu.send(&Pdu::AbortRQ { source: dicom_ul::pdu::AbortRQSource::ServiceUser }).await;
        }
        let due = async || {
            let due = door.store.due_commitment(std::time::Duration::from_secs(99), chrono::Utc::now()).await;
            due.expect("the index answers")
        };
        let wait = async {
            loop {
                if let Some(due) = due().await {
                    return due;
                }
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        let due = tokio::time::timeout(super::scu::PATIENCE, wait).await.expect("due in time");
        assert_eq!((due.source.as_str(), due.called.as_str()), ("PACS", "SIDELIGHT"));
        let (transaction, outcomes) = door.store.judge_commitment(due.id, chrono::Utc::now()).await.expect("judged");
        let reason = if round == 1 { Status::NO_SUCH_SOP_INSTANCE } else { Status::DUPLICATE_TRANSACTION };
        assert_eq!((transaction, outcomes[0].1), (uid("1.9.1"), reason));
    }
}
