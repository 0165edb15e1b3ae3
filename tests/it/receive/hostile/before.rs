//! What peers do instead of asking for an association, and what is wrong with how they ask: state 2 of PS3.8 table
//! 9-10.

use super::super::scu::{CT, EXPLICIT};
use super::bytes::*;
use super::script::{AA1, Answer, ECHOED, Row, State, Step, UNEXPECTED, row, steps};

/// A sound request is answered, and the association can be used.
const USABLE: [Answer; 3] = [Answer::Accept, ECHOED, Answer::Released];

const CALLED_UNKNOWN: Answer = Answer::Reject(1, 1, 7);
const CALLING_UNKNOWN: Answer = Answer::Reject(1, 1, 3);
const CONTEXT_UNKNOWN: Answer = Answer::Reject(1, 1, 2);
/// No message fits into such a PDU; the Standard has no reason for it.
const NO_ROOM: Answer = Answer::Reject(1, 1, 1);
const VERSION_UNKNOWN: Answer = Answer::Reject(1, 2, 2);

pub fn rows() -> Vec<Row> {
    [out_of_order(), lies(), items(), contexts(), user_information(), titles()].into_iter().flatten().collect()
}

/// The request, C-ECHO, and the release.
fn used(request: Vec<u8>) -> Vec<u8> {
    [request, echo(), short(RELEASE_RQ)].concat()
}

fn sta2(name: &'static str, bytes: Vec<u8>, answer: Answer) -> Row {
    let rule = if answer == AA1 { "AA-1" } else { "9.3.4" };
    row(State::Sta2, name, bytes, &[answer], rule)
}

fn accepted(name: &'static str, request: Vec<u8>, rule: &'static str) -> Row {
    row(State::Sta2, name, used(request), &USABLE, rule)
}

fn out_of_order() -> Vec<Row> {
    let half = request()[..100].to_vec();
    vec![
        sta2("A-ASSOCIATE-AC from a requestor", accept(), AA1),
        sta2("A-ASSOCIATE-RJ from a requestor", reject(), AA1),
        sta2("P-DATA-TF before an association", echo(), AA1),
        sta2("A-RELEASE-RQ before an association", short(RELEASE_RQ), AA1),
        sta2("A-RELEASE-RP before an association", short(RELEASE_RP), AA1),
        row(State::Sta2, "A-ABORT before an association", short(ABORT), &[], "AA-2"),
        row(State::Sta2, "A-ABORT of source 9, reason 9", pdu(ABORT, &[0, 0, 9, 9]), &[], "AA-2"),
        sta2("PDU type 00H", pdu(0, &[0; 4]), AA1),
        sta2("PDU type 08H", pdu(8, &[0; 4]), AA1),
        sta2("PDU type FFH", pdu(0xFF, &[0; 4]), AA1),
        sta2("a TLS hello on the plain port", vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3], AA1),
        sta2("an HTTP request", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(), AA1),
        sta2("binary noise", (0..2048_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8 | 8).collect(), AA1),
        row(
            State::Sta2,
            "two requests in one segment",
            [request(), request()].concat(),
            &[Answer::Accept, UNEXPECTED],
            "AA-8",
        ),
        row(State::Sta2, "A-ABORT behind the request", [request(), short(ABORT)].concat(), &[Answer::Accept], "AA-3"),
        steps(
            State::Sta2,
            "end of the stream within the request",
            vec![Step::Send(half), Step::HalfClose],
            &[],
            "AA-5",
        ),
    ]
}

fn lies() -> Vec<Row> {
    let sound = Request::sound().content();
    let with_last_item = |item: &[u8]| pdu(ASSOCIATE_RQ, &[&sound, item].concat());
    let user = |sub_item: Vec<u8>| request_with(|r| r.rest = vec![item(0x50, &sub_item)]);
    let inner = context_of(9, &[item_claiming(0x30, 0xFFFF, b"1.2")]);
    vec![
        sta2("a request that claims 2^32-1 bytes", pdu_claiming(ASSOCIATE_RQ, u32::MAX, &sound), AA1),
        sta2("a request that claims a byte more than 256 KiB", pdu_claiming(ASSOCIATE_RQ, (1 << 18) + 1, &sound), AA1),
        sta2("a request without content", pdu(ASSOCIATE_RQ, &[]), AA1),
        sta2("a request that ends within its fixed fields", pdu(ASSOCIATE_RQ, &sound[..67]), AA1),
        sta2(
            "a request that claims a byte less than it has",
            pdu_claiming(ASSOCIATE_RQ, sound.len() as u32 - 1, &sound),
            AA1,
        ),
        sta2("an item that claims 65535 bytes", with_last_item(&item_claiming(0x20, 0xFFFF, &[9, 0, 0, 0])), AA1),
        sta2("an unknown item that claims 65535 bytes", with_last_item(&item_claiming(0x77, 0xFFFF, &[])), AA1),
        sta2("an item header of 3 bytes", with_last_item(&[0x20, 0, 0]), AA1),
        sta2("a sub-item longer than its presentation context", request_with(|r| r.contexts.push(inner)), AA1),
        sta2("a presentation context of 0 bytes", request_with(|r| r.contexts.push(item(0x20, &[]))), AA1),
        sta2(
            "user information longer than the PDU",
            request_with(|r| r.rest = vec![item_claiming(0x50, 0xFFFF, &max_length(1))]),
            AA1,
        ),
        sta2("a sub-item longer than the user information", user(item_claiming(0x52, 0xFFFF, b"1.2.3")), AA1),
        sta2("a maximum length of 2 bytes", user(item(0x51, &[0, 1])), AA1),
        sta2("a maximum length of 8 bytes", user(item(0x51, &[0; 8])), AA1),
        sta2("a role selection whose UID claims 65535 bytes", user(item(0x54, &[0xFF, 0xFF, b'1', 1, 1])), AA1),
        sta2("an extended negotiation whose UID claims 65535 bytes", user(item(0x56, &[0xFF, 0xFF, b'1', 1])), AA1),
        sta2("a user identity whose name claims 65535 bytes", user(item(0x58, &[1, 0, 0xFF, 0xFF, b'a', 0, 0])), AA1),
        sta2(
            "a user identity whose passcode claims 65535 bytes",
            user(item(0x58, &[2, 0, 0, 1, b'a', 0xFF, 0xFF])),
            AA1,
        ),
    ]
}

fn items() -> Vec<Row> {
    let unknown = item(0x77, b"a later edition");
    let mut in_context = Request::sound();
    in_context.contexts[2] =
        context_of(5, &[item(0x30, VERIFICATION.as_bytes()), item(0x4F, b"?"), item(0x40, IMPLICIT.as_bytes())]);
    let application = |names: &[&[u8]]| {
        let items: Vec<_> = names.iter().map(|name| item(0x10, name)).collect();
        request_with(|r| r.application_context = items.concat())
    };
    let version = |version| request_with(|r| r.version = version);
    let dicom: &[u8] = b"1.2.840.10008.3.1.1.1";
    let bytewise = Step::Drip(request().chunks(1).take(3).map(<[u8]>::to_vec).collect());
    let rest = Step::Send(used(request()[3..].to_vec()));
    vec![
        accepted("an unknown item", request_with(|r| r.rest.push(unknown.clone())), "9.3.1"),
        accepted(
            "an unknown item before all others",
            request_with(|r| r.application_context.splice(..0, unknown).for_each(drop)),
            "9.3.1",
        ),
        accepted("an unknown sub-item in a presentation context", in_context.bytes(), "9.3.1"),
        accepted("items in falling order", request_with(|r| r.contexts.insert(0, r.rest.remove(0))), "9.3.1"),
        accepted("reserved bytes that are not zero", request_with(|r| r.reserved = [0xFF; 32]), "9.3.2"),
        steps(State::Sta2, "a request in pieces of one byte", vec![bytewise, rest], &USABLE, "AE-6"),
        sta2("no application context", application(&[]), AA1),
        sta2("two application contexts", application(&[dicom, dicom]), AA1),
        sta2("another application context", application(&[b"1.2.840.10008.3.1.1.9"]), CONTEXT_UNKNOWN),
        sta2("an application context of 0 bytes", application(&[b""]), CONTEXT_UNKNOWN),
        sta2("protocol version 2 alone", version(2), VERSION_UNKNOWN),
        sta2("no protocol version", version(0), VERSION_UNKNOWN),
        accepted("every protocol version", version(0xFFFF), "9.3.2"),
    ]
}

fn contexts() -> Vec<Row> {
    let contexts = |contexts: Vec<Vec<u8>>| request_with(|r| r.contexts = contexts);
    let ct = |id| context(id, CT, EXPLICIT);
    let verification_last = |ids: &mut dyn Iterator<Item = u8>| {
        ids.map(|id| if id == 5 { context(5, VERIFICATION, IMPLICIT) } else { ct(id) }).collect::<Vec<_>>()
    };
    let odd = || (0..128).map(|i| 2 * i + 1);
    let tiny = |count: u32| -> Vec<Vec<u8>> { (0..count).map(|i| context((2 * i + 1) as u8, "1.2", "1.2")).collect() };
    let also = |items: &[Vec<u8>]| request_with(|r| r.contexts.push(context_of(9, items)));
    let (class, syntax) = (item(0x30, CT.as_bytes()), item(0x40, EXPLICIT.as_bytes()));
    let rule = "9.3.2.2";
    vec![
        sta2("no presentation context", contexts(vec![]), AA1),
        accepted("128 presentation contexts", contexts(verification_last(&mut odd())), rule),
        sta2("129 presentation contexts", contexts(verification_last(&mut odd().chain([1]))), AA1),
        sta2("10,000 presentation contexts in 220 kB", contexts(tiny(10_000)), AA1),
        sta2("10,000 presentation contexts of ordinary length", contexts(vec![ct(1); 10_000]), AA1),
        sta2("a presentation context id of 0", contexts(vec![ct(0)]), AA1),
        sta2("an even presentation context id", contexts(vec![ct(1), ct(2)]), AA1),
        sta2("a presentation context id twice", contexts(vec![ct(1), ct(3), ct(1)]), AA1),
        sta2("a presentation context without an abstract syntax", also(std::slice::from_ref(&syntax)), AA1),
        sta2(
            "a presentation context with two abstract syntaxes",
            also(&[class.clone(), class.clone(), syntax.clone()]),
            AA1,
        ),
        accepted("a presentation context without a transfer syntax", also(std::slice::from_ref(&class)), rule),
        accepted("a transfer syntax of 0 bytes", also(&[class.clone(), item(0x40, b"")]), rule),
        accepted(
            "an abstract syntax of 4,000 bytes of noise",
            also(&[item(0x30, &[0xE9; 4000]), syntax.clone()]),
            rule,
        ),
        accepted("an abstract syntax with path characters", also(&[item(0x30, b"../../etc/passwd"), syntax]), rule),
        accepted("2,000 transfer syntaxes", also(&[vec![class], vec![item(0x40, b"1.2.3"); 2000]].concat()), rule),
    ]
}

fn user_information() -> Vec<Row> {
    let rest = |rest: Vec<Vec<u8>>| request_with(|r| r.rest = rest);
    let user = |sub_items: &[Vec<u8>]| rest(vec![item(0x50, &sub_items.concat())]);
    let long = item(0x55, &[b'V'; 1000]);
    vec![
        sta2("user information twice", rest(vec![item(0x50, &max_length(16_384)); 2]), AA1),
        accepted("no user information", rest(vec![]), "D.1"),
        accepted("user information without a maximum length", user(&[]), "D.1"),
        accepted("a maximum length of 0", user(&[max_length(0)]), "D.1"),
        sta2("a maximum length of 1", user(&[max_length(1)]), NO_ROOM),
        sta2("a maximum length of 6, a fragment header alone", user(&[max_length(6)]), NO_ROOM),
        sta2("a maximum length of 7, with an odd fragment", user(&[max_length(7)]), NO_ROOM),
        accepted("a maximum length of 8", user(&[max_length(8)]), "D.1"),
        accepted("a maximum length of 2^32-1", user(&[max_length(u32::MAX)]), "D.1"),
        accepted("two maximum lengths", user(&[max_length(16_384), max_length(1)]), "D.1"),
        accepted("an unknown sub-item of user information", user(&[max_length(16_384), item(0x7F, b"later")]), "9.3.1"),
        accepted("an implementation version name of 1,000 bytes", user(&[max_length(16_384), long]), "D.3.3.2"),
        accepted("a role for a class that nobody proposed", user(&[item(0x54, b"\0\x031.2\x01\x01")]), "D.3.3.4"),
        accepted("a user identity of type 255", user(&[item(0x58, &[255, 1, 0, 1, b'a', 0, 0])]), "D.3.3.7"),
    ]
}

fn titles() -> Vec<Row> {
    let called = |title: &[u8]| request_with(|r| r.called = title.to_vec());
    let calling = |title: &[u8]| request_with(|r| r.calling = title.to_vec());
    vec![
        sta2("a called AE title of spaces", called(&[b' '; 16]), CALLED_UNKNOWN),
        sta2("a called AE title of NUL bytes", called(&[0; 16]), CALLED_UNKNOWN),
        sta2("a called AE title with a line break", called(b"SIDELIGHT\n      "), CALLED_UNKNOWN),
        sta2("a called AE title of 17 bytes", called(b"SIDELIGHT-SIDELIG"), AA1),
        sta2("a calling AE title of spaces", calling(&[b' '; 16]), CALLING_UNKNOWN),
        sta2("a calling AE title with a tab", calling(b"\tPACS           "), CALLING_UNKNOWN),
        sta2("a calling AE title with a backslash", calling(b"PA\\CS           "), CALLING_UNKNOWN),
        sta2("a calling AE title in another case", calling(b"pacs            "), CALLING_UNKNOWN),
        sta2("a calling AE title with path characters", calling(b"../../etc/passwd"), CALLING_UNKNOWN),
        sta2("a calling AE title in another script", calling("ПАКСПАКС".as_bytes()), CALLING_UNKNOWN),
        accepted("a calling AE title padded with NUL bytes", calling(b"PACS\0\0\0\0\0\0\0\0\0\0\0\0"), "9.3.2"),
    ]
}
