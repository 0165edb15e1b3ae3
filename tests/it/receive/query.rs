//! Queries and retrievals over the wire by hand-made messages: what comes early, identifiers that make no sense, and
//! sources that lost the right to ask. With reports to be found, which needs the whole node: `query` beside this folder.

use dicom_ul::pdu::{AbortRQSource, PDataValue, PDataValueType, Pdu, write_pdu};
use sidelight::config;
use sidelight::dicom::{
    DataSet, EchoRq, Encoding, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE, STUDY_ROOT_FIND, STUDY_ROOT_GET, tag,
};

use super::commitment::{action, element, information, padded};
use super::scu::{Door, EXPLICIT, Scu, source};
use super::{IMPLICIT, VERIFICATION};

const LEVEL: u32 = 0x0008_0052;
const MESSAGE_ID: u16 = 7;

/// On these contexts: 1 FIND, 3 GET, 5 Verification.
async fn associate() -> (Door, Scu) {
    let trusted = config::Source { query: true, audit: true, ..source("PACS", &[]) };
    let door = Door::open(|setup| setup.sources = vec![trusted]).await;
    let contexts = [(STUDY_ROOT_FIND.uid, EXPLICIT), (STUDY_ROOT_GET.uid, EXPLICIT), (VERIFICATION, IMPLICIT)];
    let scu = Scu::associate(door.port, &contexts).await;
    (door, scu)
}

fn p_data(context: u8, value_type: PDataValueType, data: Vec<u8>) -> Vec<u8> {
    fragment(context, value_type, true, data)
}

fn fragment(context: u8, value_type: PDataValueType, is_last: bool, data: Vec<u8>) -> Vec<u8> {
    let value = PDataValue { presentation_context_id: context, value_type, is_last, data };
    let mut bytes = Vec::new();
    write_pdu(&mut bytes, &Pdu::PData { data: vec![value] }).expect("a pdu that can be written");
    bytes
}

/// A C-FIND-RQ or a C-GET-RQ with its identifier.
fn request(is_find: bool, identifier: &DataSet) -> Vec<u8> {
    let (context, class, field) = match is_find {
        true => (1, STUDY_ROOT_FIND, 0x0020_u16),
        false => (3, STUDY_ROOT_GET, 0x0010),
    };
    let command = [
        element(0x0002, &padded(class.uid)),
        element(0x0100, &field.to_le_bytes()),
        element(0x0110, &MESSAGE_ID.to_le_bytes()),
        element(0x0700, &[0, 0]),
        element(0x0800, &[1, 0]),
    ];
    let identifier = identifier.encode(Encoding::ExplicitLittleEndian);
    let command = p_data(context, PDataValueType::Command, command.concat());
    [command, p_data(context, PDataValueType::Data, identifier)].concat()
}

fn cancel_command(responded_to: u16) -> Vec<u8> {
    let elements = [(0x0100, 0x0FFF), (0x0120, responded_to), (0x0800, 0x0101_u16)];
    elements.map(|(tag, v)| element(tag, &v.to_le_bytes())).concat()
}

fn cancel(is_find: bool, responded_to: u16) -> Vec<u8> {
    p_data(if is_find { 1 } else { 3 }, PDataValueType::Command, cancel_command(responded_to))
}

fn identifier(keys: &[(u32, &str)]) -> DataSet {
    let mut set = DataSet::default();
    keys.iter().for_each(|(tag, value)| set.put(*tag, b"CS", *value));
    set
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_that_came_with_its_request_ends_it_and_nothing_else() {
    let (door, mut scu) = associate().await;
    let asked = identifier(&[(LEVEL, "STUDY"), (tag::STUDY, "1.2.3")]);
    for is_find in [true, false] {
        // The cancel of another message, of this one, and none.
        for (cancels, status) in [(vec![6, 8], 0x0000), (vec![6, MESSAGE_ID], 0xFE00), (vec![], 0x0000)] {
            let cancels = cancels.into_iter().map(|id| cancel(is_find, id));
            scu.send_bytes(&[request(is_find, &asked)].into_iter().chain(cancels).collect::<Vec<_>>().concat()).await;
            let response = scu.response().await;
            assert_eq!((response.responded_to, response.status.0), (MESSAGE_ID, status), "find: {is_find}");
            let echo = EchoRq { message_id: 9, has_data_set: false }.encode();
            scu.send_fragment(5, PDataValueType::Command, true, &echo).await;
            assert_eq!(scu.response().await.responded_to, 9, "the association goes on");
        }
    }
    assert!(scu.release().await);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identifier_that_makes_no_sense_is_told_what_is_wrong_with_it() {
    let (door, mut scu) = associate().await;
    let long = "1.2\\".repeat(20_000);
    let rows: &[(bool, &[(u32, &str)], &str)] = &[
        (true, &[], "Query/Retrieve Level missing, or not STUDY, SERIES or IMAGE"),
        (
            true,
            &[(LEVEL, "STUDY"), (0x0008_0020, "today")],
            "(0008,0020): a date is YYYYMMDD, a range two with a hyphen",
        ),
        (
            true,
            &[(LEVEL, "STUDY"), (tag::STUDY, "1.2*")],
            "(0020,000D): a UID is digits and dots, several with a backslash",
        ),
        (false, &[(LEVEL, "IMAGE"), (tag::STUDY, "1.2")], "a retrieval names its studies, series or instances by UID"),
        (false, &[(LEVEL, "STUDY"), (tag::STUDY, &long)], "the data set has more than 65536 bytes"),
    ];
    for (is_find, keys, comment) in rows {
        scu.send_bytes(&request(*is_find, &identifier(keys))).await;
        let response = scu.response().await;
        assert_eq!((response.status.0, response.comment.as_deref()), (0xA900, Some(*comment)));
    }
    assert!(scu.release().await);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_in_fragments_is_heard_and_half_a_command_waits_for_its_rest() {
    let (door, mut scu) = associate().await;
    let asked = identifier(&[(LEVEL, "STUDY"), (tag::STUDY, "1.2.3")]);
    let command = cancel_command(MESSAGE_ID);
    let (first, rest) = command.split_at(10);
    let [first, rest] =
        [(first, false), (rest, true)].map(|(part, last)| fragment(1, PDataValueType::Command, last, part.to_vec()));
    scu.send_bytes(&[request(true, &asked), first, rest].concat()).await;
    assert_eq!(scu.response().await.status.0, 0xFE00);

    let echo = EchoRq { message_id: 9, has_data_set: false }.encode();
    let (begin, end) = echo.split_at(8);
    let begin = fragment(5, PDataValueType::Command, false, begin.to_vec());
    scu.send_bytes(&[request(true, &asked), begin].concat()).await;
    assert_eq!(scu.response().await.status.0, 0x0000);
    scu.send_fragment(5, PDataValueType::Command, true, end).await;
    assert_eq!(scu.response().await.responded_to, 9);
    assert!(scu.release().await);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_to_a_report_does_not_hide_a_cancel_behind_it() {
    let trusted = config::Source { query: true, audit: true, commitment: true, ..source("PACS", &[]) };
    let door = Door::open(|setup| setup.sources = vec![trusted]).await;
    let contexts = [(STUDY_ROOT_FIND.uid, EXPLICIT), (STORAGE_COMMITMENT.uid, EXPLICIT), (VERIFICATION, IMPLICIT)];
    let mut scu = Scu::associate(door.port, &contexts).await;
    let asked = action(5, STORAGE_COMMITMENT.uid, STORAGE_COMMITMENT_INSTANCE, 1, true);
    let what = information("1.2.9", &[(super::scu::CT, "1.2.3.4")]).encode(Encoding::ExplicitLittleEndian);
    let asked = [p_data(3, PDataValueType::Command, asked), p_data(3, PDataValueType::Data, what)].concat();
    scu.send_bytes(&asked).await;
    assert_eq!(scu.response().await.status.0, 0x0000);
    let (_report, _information) = (scu.part().await, scu.part().await);
    // It is the first request of the node.
    let answer = [(0x0100, 0x8100), (0x0120, 1), (0x0800, 0x0101), (0x0900, 0x0000_u16)];
    let answer = answer.map(|(tag, v)| element(tag, &v.to_le_bytes())).concat();
    let query = request(true, &identifier(&[(LEVEL, "STUDY"), (tag::STUDY, "1.2.3")]));
    let answer = p_data(3, PDataValueType::Command, answer);
    scu.send_bytes(&[query, answer, cancel(true, MESSAGE_ID)].concat()).await;
    let response = scu.response().await;
    assert_eq!((response.responded_to, response.status.0), (MESSAGE_ID, 0xFE00));
    assert!(scu.release().await);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_within_a_query_ends_the_association_at_once() {
    let asked = identifier(&[(LEVEL, "STUDY"), (tag::STUDY, "1.2.3")]);
    for is_find in [true, false] {
        let (door, mut scu) = associate().await;
        let mut release = Vec::new();
        write_pdu(&mut release, &Pdu::ReleaseRQ).expect("a pdu that can be written");
        scu.send_bytes(&[request(is_find, &asked), release].concat()).await;
        assert_eq!(scu.receive().await, Some(Pdu::AbortRQ { source: AbortRQSource::ServiceUser }), "find: {is_find}");
        door.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_lost_the_right_is_told_so_on_the_association_that_it_has() {
    let (door, mut scu) = associate().await;
    let asked = identifier(&[(LEVEL, "STUDY"), (tag::STUDY, "1.2.3")]);
    let allowed = |query: bool| config::Source { query, audit: true, ..source("PACS", &[]) };
    for (query, status) in [(true, 0x0000), (false, 0x0124), (true, 0x0000)] {
        door.gate.set(&door.node, &[allowed(query)], &[]).expect("no files to read");
        for is_find in [true, false] {
            scu.send_bytes(&request(is_find, &asked)).await;
            assert_eq!(scu.response().await.status.0, status, "find: {is_find}");
        }
    }
    assert!(scu.release().await);
    door.close().await;
}
