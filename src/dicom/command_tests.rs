//! Tests of [`super`]: annotated bytes, round trips, and 10,000 hostile command sets.

use proptest::prelude::*;

use super::*;

/// A C-ECHO-RQ as dcmtk's echoscu sends it.
const ECHO_RQ: &[u8] = &[
    0x00, 0x00, 0x00, 0x00, 0x04, 0x00, 0x00, 0x00, 0x38, 0x00, 0x00, 0x00, // (0000,0000) group length 56
    0x00, 0x00, 0x02, 0x00, 0x12, 0x00, 0x00, 0x00, // (0000,0002) affected SOP class, 18 bytes
    b'1', b'.', b'2', b'.', b'8', b'4', b'0', b'.', b'1', b'0', b'0', b'0', b'8', b'.', b'1', b'.', b'1', 0x00, 0x00,
    0x00, 0x00, 0x01, 0x02, 0x00, 0x00, 0x00, 0x30, 0x00, // (0000,0100) command field 0030H
    0x00, 0x00, 0x10, 0x01, 0x02, 0x00, 0x00, 0x00, 0x01, 0x00, // (0000,0110) message id 1
    0x00, 0x00, 0x00, 0x08, 0x02, 0x00, 0x00, 0x00, 0x01, 0x01, // (0000,0800) no data set
];

fn uid(text: &str) -> Uid {
    Uid::parse(text).expect("a valid uid")
}

fn store_rq() -> StoreRq {
    StoreRq::new(7, uid("1.2.840.10008.5.1.4.1.1.1"), uid("1.2.3.4"))
}

#[test]
fn an_echo_request_is_read_and_written_byte_for_byte() {
    let echo = EchoRq { message_id: 1, has_data_set: false };
    assert_eq!(Request::parse(ECHO_RQ), Ok(Request::Echo(echo.clone())));
    assert_eq!(echo.encode(), ECHO_RQ);
}

#[test]
fn another_reader_understands_what_is_written() {
    let bytes = Response::to_store(&store_rq(), Status::OUT_OF_RESOURCES, Some("the disk is full".into())).encode();
    let syntax = dicom_transfer_syntax_registry::entries::IMPLICIT_VR_LITTLE_ENDIAN.erased();
    let object = dicom_object::InMemDicomObject::read_dataset_with_ts(&bytes[..], &syntax).expect("a readable set");
    let number = |tag| object.element(tag).expect("present").to_int::<u16>().expect("a number");
    let text = |tag| object.element(tag).expect("present").to_str().expect("a text").into_owned();
    let tag = |element| dicom_core::Tag(0, element);
    assert_eq!(number(tag(0x0000)) as usize, bytes.len() - 12);
    assert_eq!(number(tag(0x0100)), 0x8001);
    assert_eq!(number(tag(0x0120)), 7);
    assert_eq!(number(tag(0x0800)), 0x0101);
    assert_eq!(number(tag(0x0900)), 0xA700);
    assert_eq!(text(tag(0x0002)), "1.2.840.10008.5.1.4.1.1.1");
    assert_eq!(text(tag(0x1000)), "1.2.3.4");
    assert_eq!(text(tag(0x0902)), "the disk is full");
}

#[test]
fn what_is_malformed_is_named() {
    use CommandError::*;
    let edit = |at: usize, with: &[u8]| {
        let mut bytes = ECHO_RQ.to_vec();
        bytes[at..at + with.len()].copy_from_slice(with);
        bytes
    };
    let rows: Vec<(&str, Vec<u8>, CommandError)> = vec![
        ("too long", vec![0; COMMAND_BYTES_MAX + 1], TooLong(COMMAND_BYTES_MAX + 1)),
        ("half a header", ECHO_RQ[..15].to_vec(), TruncatedHeader(12)),
        (
            "a 4 GiB element in a few bytes",
            edit(16, &[0xff; 4]),
            TruncatedValue { element: 2, claimed: u32::MAX, remaining: 48 },
        ),
        ("a data set element", edit(12, &[0x08, 0x00]), ForeignGroup(8)),
        ("the same element twice", [&ECHO_RQ[12..38], &ECHO_RQ[12..]].concat(), Repeated(2)),
        ("no command field", ECHO_RQ[..38].to_vec(), Missing(0x0100)),
        ("no message id", [&ECHO_RQ[..48], &ECHO_RQ[58..]].concat(), Missing(0x0110)),
        ("no data set type", ECHO_RQ[..58].to_vec(), Missing(0x0800)),
        (
            "a command field of one byte",
            [&ECHO_RQ[..42], &[1, 0, 0, 0, 0x30], &ECHO_RQ[48..]].concat(),
            NotAnUnsignedShort { element: 0x0100, length: 1 },
        ),
        ("a response", edit(46, &[0x30, 0x80]), NotARequest(CommandField::C_ECHO_RSP)),
    ];
    for (name, bytes, expected) in rows {
        assert_eq!(Request::parse(&bytes), Err(expected), "{name}");
    }
    assert_eq!(Response::parse(ECHO_RQ), Err(NotAResponse(CommandField::C_ECHO_RQ)));
}

#[test]
fn uids_that_are_not_valid_do_not_come_through() {
    let mut set = CommandSet::parse(&store_rq().encode()).expect("a valid set");
    set.set_text(element::AFFECTED_SOP_INSTANCE, "../../etc/passwd", 0);
    set.elements.insert(element::AFFECTED_SOP_CLASS, vec![0xff, 0xfe]);
    let Ok(Request::Store(request)) = Request::parse(&set.encode()) else { panic!("a C-STORE-RQ") };
    assert_eq!((request.sop_class.as_ref(), request.sop_instance.as_ref()), (None, None));
    let response = Response::parse(&Response::to_store(&request, Status::INVALID_SOP_INSTANCE, None).encode());
    assert_eq!(response.map(|r| (r.sop_class, r.sop_instance)), Ok((None, None)));
}

#[test]
fn operations_that_are_not_offered_keep_their_name() {
    let mut set = CommandSet::parse(&store_rq().encode()).expect("a valid set");
    set.set_unsigned_short(element::COMMAND_FIELD, 0x0021);
    let Ok(Request::Other { field, message_id, has_data_set, .. }) = Request::parse(&set.encode()) else {
        panic!("an operation that is not offered")
    };
    assert_eq!((field.to_string().as_str(), message_id, has_data_set), ("C-MOVE-RQ", 7, true));
    assert_eq!(field.response().to_string(), "C-MOVE-RSP");
    assert_eq!(CommandField(0x7001).to_string(), "command 7001H");
    set.set_unsigned_short(element::COMMAND_FIELD, 0x0FFF);
    assert_eq!(Request::parse(&set.encode()), Ok(Request::Cancel { responded_to: None }));
}

#[test]
fn an_error_comment_is_cut_to_what_its_vr_holds() {
    let comment = format!("back\\slash and é {}", "x".repeat(100));
    let response = Response::to_store(&store_rq(), Status::CANNOT_UNDERSTAND, Some(comment));
    let read = Response::parse(&response.encode()).expect("a response").comment.expect("a comment");
    assert_eq!(read.len(), 64);
    assert!(read.starts_with("back slash and   xxx"), "{read}");
    let untidy = Response { comment: Some("\u{2}\u{2} no room \u{7}\0".into()), ..response };
    assert_eq!(Response::parse(&untidy.encode()).expect("a response").comment.as_deref(), Some("no room"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn bytes_from_nowhere_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = Request::parse(&bytes);
        let _ = Response::parse(&bytes);
    }

    #[test]
    fn mutated_requests_never_panic(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = store_rq().encode();
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(cut.index(bytes.len()) + 1);
        if let Ok(set) = CommandSet::parse(&bytes) {
            prop_assert!(set.elements.values().map(Vec::len).sum::<usize>() <= bytes.len());
        }
        let _ = Request::parse(&bytes);
    }

    #[test]
    fn a_store_request_survives_the_round_trip(
        message_id in any::<u16>(),
        class in "[1-9](\\.[0-9]{1,5}){1,8}",
        instance in "[1-9](\\.[0-9]{1,5}){1,8}",
    ) {
        let request = StoreRq::new(message_id, uid(&class), uid(&instance));
        prop_assert_eq!(Request::parse(&request.encode()), Ok(Request::Store(request)));
    }

    #[test]
    fn a_response_survives_the_round_trip(id in any::<u16>(), status in any::<u16>(), comment in "[a-z][a-z ]{0,40}[a-z]") {
        let response = Response::to_store(&StoreRq { message_id: id, ..store_rq() }, Status(status), Some(comment));
        prop_assert_eq!(Response::parse(&response.encode()), Ok(response));
    }
}
