//! Command sets and data sets that are not what they should be: answered with a status where the message can be told,
//! with an abort where it cannot (PS3.7 section 9, Annexes C and E).

use super::super::scu::CT;
use super::bytes::*;
use super::script::{Answer, ECHOED, Row, State, UNSPECIFIED, echoed, row, stored};
use sidelight::dicom::CommandField;

pub fn rows() -> Vec<Row> {
    [elements(), operations(), statuses(), uids()].into_iter().flatten().collect()
}

/// The association ends: not even what is asked can be told.
fn ends(name: &'static str, command: Vec<u8>) -> Row {
    row(State::Sta6, name, p_data(1, LAST_COMMAND, &command), &[UNSPECIFIED], "PS3.7 6.3")
}

/// Answered, and the association is usable afterwards.
fn answered(name: &'static str, bytes: Vec<u8>, answers: &[Answer], rule: &'static str) -> Row {
    let answers = [answers, &[ECHOED, Answer::Released]].concat();
    row(State::Sta6, name, [bytes, echo(), short(RELEASE_RQ)].concat(), &answers, rule)
}

/// A C-STORE with this command set, and a data set of 4 bytes.
fn storing(command: &Command) -> Vec<u8> {
    [command.on(1), p_data(1, LAST_DATA, &[1, 2, 3, 4])].concat()
}

fn elements() -> Vec<Row> {
    let store = |instance: &[u8]| Command::store(instance);
    let raw = |command: &Command| command.0.concat();
    let lying = |length: u32, command: Command| [element(0, 0, &length.to_le_bytes()), raw(&command)].concat();
    let sent = |command: Vec<u8>| [p_data(1, LAST_COMMAND, &command), p_data(1, LAST_DATA, &[1; 4])].concat();
    let falling = Command(store(b"1.2.3.30").0.into_iter().rev().collect());
    let rule = "PS3.7 6.3.1";
    vec![
        ends(
            "a command that claims 4 GiB",
            [element(0, 0, &[0; 4]), element_claiming(0, 2, u32::MAX, b"1.2")].concat(),
        ),
        ends("a command that ends within an element header", [raw(&Command::echo(1)), vec![0, 0, 0]].concat()),
        ends(
            "a command that ends within a value",
            raw(&Command::echo(1).and(element_claiming(0, 0x1000, 64, b"1.2.3"))),
        ),
        ends("an element of group 0002", raw(&Command::echo(1).and(element(2, 0x0010, b"1.2.840.10008.1.2 ")))),
        ends("an element of group 0008", raw(&Command::echo(1).and(element(8, 0x0018, b"1.2.3 ")))),
        ends("an element twice", raw(&store(b"1.2.3 ").and(us(0x0110, 8)))),
        ends("no command field", store(b"1.2.3 ").without(FIELD).bytes()),
        ends("no message id", store(b"1.2.3 ").without(MESSAGE_ID).bytes()),
        ends("no data set type", store(b"1.2.3 ").without(DATA_SET_TYPE).bytes()),
        ends("a command field of 0 bytes", store(b"1.2.3 ").with(FIELD, element(0, 0x0100, &[])).bytes()),
        ends("a message id of 1 byte", store(b"1.2.3 ").with(MESSAGE_ID, element(0, 0x0110, &[1])).bytes()),
        ends("a message id of 4 bytes", store(b"1.2.3 ").with(MESSAGE_ID, element(0, 0x0110, &[1; 4])).bytes()),
        ends("a command set in Explicit VR", [&[0, 0, 0, 1][..], b"US", &[2, 0, 0x30, 0]].concat()),
        ends("noise for a command", vec![0xA5; 200]),
        answered("no group length", sent(raw(&store(b"1.2.3.31"))), &[stored(0)], rule),
        answered("a group length of 0", sent(lying(0, store(b"1.2.3.32"))), &[stored(0)], rule),
        answered("a group length of 2^32-1", sent(lying(u32::MAX, store(b"1.2.3.33"))), &[stored(0)], rule),
        answered("elements in falling order", storing(&falling), &[stored(0)], rule),
        answered(
            "an element that nobody knows",
            storing(&store(b"1.2.3.34").and(element(0, 0x7777, b"?"))),
            &[stored(0)],
            rule,
        ),
        answered(
            "an element of 20,000 bytes",
            storing(&store(b"1.2.3.35").and(element(0, 0x0902, &[b'x'; 20_000]))),
            &[stored(0)],
            rule,
        ),
        answered("a value of odd length", storing(&store(b"1.2.3")), &[stored(0)], rule),
    ]
}

fn operations() -> Vec<Row> {
    let field = |field| Command::echo(1).with(FIELD, us(0x0100, field));
    let other = |field| Answer::Response(CommandField(field), 0x0211);
    let store_field = |field| Command::store(b"1.2.3 ").with(FIELD, us(0x0100, field));
    let cancel = Command(vec![us(0x0100, 0x0FFF), us(0x0120, 7), us(0x0800, 0x0101)]);
    vec![
        ends("C-STORE-RSP from the requestor", store_field(0x8001).bytes()),
        ends("C-ECHO-RSP that nobody asked for", field(0x8030).bytes()),
        ends("a response to an operation that does not exist", field(0xFABC).bytes()),
        answered("C-CANCEL-RQ out of the blue", cancel.on(5), &[], "PS3.7 9.3.2.3"),
        answered(
            "C-CANCEL-RQ without a message id",
            Command(vec![cancel.0[0].clone(), cancel.0[2].clone()]).on(5),
            &[],
            "PS3.7 9.3.2.3",
        ),
        answered("C-MOVE-RQ, which is not offered", storing(&store_field(0x0021)), &[other(0x8021)], "PS3.7 C.5.21"),
        answered("N-CREATE-RQ, which is not offered", storing(&store_field(0x0140)), &[other(0x8140)], "PS3.7 C.5.21"),
        answered("an operation that does not exist", field(0x7ABC).on(1), &[other(0xFABC)], "PS3.7 C.5.21"),
    ]
}

fn statuses() -> Vec<Row> {
    let class = |uid: &str| element(0, 0x0002, &even(uid.as_bytes()));
    let store = || Command::store(b"1.2.3.40");
    let no_data_set = store().with(DATA_SET_TYPE, us(0x0800, 0x0101));
    let echo_with_data = Command::echo(1).with(3, us(0x0800, 0));
    let changed = [begun("1.2.3.41"), p_data(1, LAST_DATA, &[9; 4])].concat();
    let large = [begun("1.2.3.42"), p_data(1, DATA, &[1; 60_000]).repeat(20), p_data(1, LAST_DATA, &[1])].concat();
    vec![
        answered("C-STORE without a data set", no_data_set.on(1), &[stored(0x0212)], "PS3.7 C.5.15"),
        answered(
            "C-STORE with a data set of 0 bytes",
            [store().on(1), p_data(1, LAST_DATA, &[])].concat(),
            &[stored(0xC000)],
            "PS3.4 B.2.3",
        ),
        answered(
            "C-ECHO with a data set",
            [echo_with_data.on(5), p_data(5, LAST_DATA, &[1; 64])].concat(),
            &[echoed(0x0212)],
            "PS3.7 C.5.15",
        ),
        answered("C-ECHO on a context for storage", Command::echo(1).on(1), &[echoed(0x0122)], "PS3.7 C.5.18"),
        answered(
            "C-STORE on the context of Verification",
            [store().on(5), p_data(5, LAST_DATA, &[1; 4])].concat(),
            &[stored(0xA900)],
            "PS3.4 B.2.3",
        ),
        answered(
            "C-STORE of another class than the context's",
            storing(&store().with(SOP_CLASS, class("1.2.840.10008.5.1.4.1.1.4"))),
            &[stored(0xA900)],
            "PS3.4 B.2.3",
        ),
        answered(
            "C-STORE of a class that is not accepted",
            storing(&store().with(SOP_CLASS, class(RT_DOSE))),
            &[stored(0x0122)],
            "PS3.7 C.5.18",
        ),
        answered("C-STORE without a class", storing(&store().without(SOP_CLASS)), &[stored(0x0122)], "PS3.7 C.5.18"),
        answered(
            "C-STORE with a class of 30,000 bytes",
            storing(&store().with(SOP_CLASS, class(&CT.repeat(1200)))),
            &[stored(0x0122)],
            "PS3.7 C.5.18",
        ),
        answered(
            "C-STORE without an instance",
            storing(&store().without(SOP_INSTANCE)),
            &[stored(0x0117)],
            "PS3.7 C.5.6",
        ),
        answered(
            "another object under the same UID",
            [super::bytes::store("1.2.3.41"), changed].concat(),
            &[stored(0), stored(0x0111)],
            "PS3.7 C.5.8",
        ),
        answered("an object beyond the limit of 1 MiB", large, &[stored(0xA700)], "PS3.4 B.2.3"),
    ]
}

fn uids() -> Vec<Row> {
    let uid = |name, uid: &[u8], status| answered(name, storing(&Command::store(uid)), &[stored(status)], "PS3.5 9.1");
    let longest = format!("1.2.3.{}", "5".repeat(58));
    vec![
        uid("an instance UID of `../../../etc/passwd`", b"../../../etc/passwd", 0x0117),
        uid("an instance UID of `..`", b"..", 0x0117),
        uid("an instance UID of `/etc/passwd`", b"/etc/passwd", 0x0117),
        uid("an instance UID with a backslash", b"1.2.3\\1.2.4", 0x0117),
        uid("an instance UID with a NUL byte inside", b"1.2.3\0.4", 0x0117),
        uid("an instance UID with a line break", b"1.2.3\n", 0x0117),
        uid("an instance UID with a space before it", b" 1.2.3", 0x0117),
        uid("an instance UID with digits of another script", "1.2.٣".as_bytes(), 0x0117),
        uid("an instance UID that is not UTF-8", b"1.2.\xFF\xFE", 0x0117),
        uid("an instance UID with an empty component", b"1..2", 0x0117),
        uid("an instance UID that ends with a dot", b"1.2.", 0x0117),
        uid("an instance UID of 0 bytes", b"", 0x0117),
        uid("an instance UID of NUL bytes", &[0; 64], 0x0117),
        uid("an instance UID of 65 characters", format!("{longest}5").as_bytes(), 0x0117),
        uid("an instance UID of 4,000 characters", &b"1.".repeat(2000), 0x0117),
        uid("an instance UID of 64 characters", longest.as_bytes(), 0),
        uid("an instance UID with leading zeros", b"1.2.003.050", 0),
        uid("an instance UID padded with spaces", b"1.2.3.51  ", 0),
        uid("an instance UID padded with many NUL bytes", b"1.2.3.52\0\0\0\0", 0),
    ]
}
