//! PDUs and fragments that break an association, or seem to: states 6 and 13 of PS3.8 table 9-10.

use super::bytes::*;
use super::script::{
    AA1, Answer, ECHOED, INVALID, Row, State, Step, UNEXPECTED, UNEXPECTED_PARAMETER, UNRECOGNISED, UNSPECIFIED, row,
    steps, stored,
};

pub fn rows() -> Vec<Row> {
    [out_of_order(), lies(), fragments(), within_a_message(), sound(), after_the_end()].into_iter().flatten().collect()
}

fn ends(name: &'static str, bytes: Vec<u8>, answer: Answer) -> Row {
    row(State::Sta6, name, bytes, &[answer], "AA-8")
}

fn out_of_order() -> Vec<Row> {
    vec![
        ends("a second A-ASSOCIATE-RQ", request(), UNEXPECTED),
        ends("A-ASSOCIATE-AC from the requestor", accept(), UNEXPECTED),
        ends("A-ASSOCIATE-RJ from the requestor", reject(), UNEXPECTED),
        ends("A-RELEASE-RP that nobody asked for", short(RELEASE_RP), UNEXPECTED),
        row(State::Sta6, "A-ABORT between messages", short(ABORT), &[], "AA-3"),
        row(State::Sta6, "A-ABORT of an unknown source and reason", pdu(ABORT, &[0, 0, 7, 77]), &[], "AA-3"),
        ends("a PDU type that does not exist", pdu(8, &[0; 4]), UNRECOGNISED),
        ends("a PDU of zeros", vec![0; 64], UNRECOGNISED),
        ends("an HTTP request in an association", b"POST / HTTP/1.1\r\n\r\n".to_vec(), UNRECOGNISED),
    ]
}

fn lies() -> Vec<Row> {
    let value = pdv(5, LAST_COMMAND, &Command::echo(1).bytes());
    vec![
        ends("P-DATA-TF that claims 2^32-1 bytes", pdu_claiming(P_DATA_TF, u32::MAX, &value), INVALID),
        ends("P-DATA-TF a byte longer than agreed", pdu_claiming(P_DATA_TF, (1 << 18) + 1, &value), INVALID),
        ends("P-DATA-TF that ends within its value", pdu_claiming(P_DATA_TF, value.len() as u32 - 1, &value), INVALID),
        ends("P-DATA-TF of 0 bytes", pdu(P_DATA_TF, &[]), INVALID),
        ends("A-RELEASE-RQ of 0 bytes", pdu(RELEASE_RQ, &[]), INVALID),
        ends("A-RELEASE-RQ of 8 bytes", pdu(RELEASE_RQ, &[0; 8]), INVALID),
        ends("A-RELEASE-RQ that claims 2^32-1 bytes", pdu_claiming(RELEASE_RQ, u32::MAX, &[0; 4]), INVALID),
        ends("A-ABORT that claims 2^32-1 bytes", pdu_claiming(ABORT, u32::MAX, &[0; 4]), INVALID),
        ends("a value of 0 bytes", pdu(P_DATA_TF, &[0; 4]), INVALID),
        ends("a value of 1 byte", pdu(P_DATA_TF, &[0, 0, 0, 1, 5]), INVALID),
        ends("a value longer than its PDU", pdu(P_DATA_TF, &pdv_claiming(99, 5, LAST_COMMAND, &[0; 8])), INVALID),
        ends(
            "a value that claims 2^32-1 bytes",
            pdu(P_DATA_TF, &pdv_claiming(u32::MAX, 5, LAST_COMMAND, &[])),
            INVALID,
        ),
        ends("three bytes behind the last value", pdu(P_DATA_TF, &[&value, &[0, 0, 0][..]].concat()), INVALID),
    ]
}

fn fragments() -> Vec<Row> {
    let command = Command::store(b"1.2.3.1 ").bytes();
    vec![
        ends("a presentation context that was never proposed", Command::echo(1).on(9), INVALID),
        ends("a presentation context that was refused", Command::echo(1).on(7), INVALID),
        ends("presentation context 0", Command::echo(1).on(0), INVALID),
        ends("presentation context 255", Command::echo(1).on(255), INVALID),
        ends("a data set without a command", p_data(1, LAST_DATA, &[1; 8]), UNEXPECTED_PARAMETER),
        ends(
            "a data set within a command",
            [p_data(1, COMMAND, &command[..8]), p_data(1, DATA, &[1; 8])].concat(),
            UNEXPECTED_PARAMETER,
        ),
        ends(
            "a data set behind that of its message",
            [store("1.2.3.2"), p_data(1, LAST_DATA, &[1; 8])].concat(),
            UNEXPECTED_PARAMETER,
        )
        .after(stored(0)),
        ends(
            "a command in the place of a data set",
            [begun("1.2.3.3"), begun("1.2.3.3")].concat(),
            UNEXPECTED_PARAMETER,
        ),
        ends(
            "a command within a data set",
            [begun("1.2.3.4"), p_data(1, DATA, &[1; 8]), begun("1.2.3.4")].concat(),
            UNEXPECTED_PARAMETER,
        ),
        ends("messages on two contexts, interleaved", [begun("1.2.3.5"), echo()].concat(), UNEXPECTED_PARAMETER),
        ends("a data set on another context", [begun("1.2.3.6"), p_data(3, LAST_DATA, &[1; 8])].concat(), INVALID),
        ends(
            "a command on two contexts",
            [p_data(1, COMMAND, &command[..8]), p_data(3, LAST_COMMAND, &command[8..])].concat(),
            INVALID,
        ),
        ends("a command of 1 MiB", p_data(1, COMMAND, &[0; 32_000]).repeat(32), UNSPECIFIED),
        ends("a command of 0 bytes", p_data(1, LAST_COMMAND, &[]), UNSPECIFIED),
    ]
}

fn within_a_message() -> Vec<Row> {
    let in_command = || p_data(1, COMMAND, &Command::store(b"1.2.3.7 ").bytes()[..20]);
    let in_data_set = || [begun("1.2.3.7"), p_data(1, DATA, &[1; 30_000])].concat();
    let then = |before: Vec<u8>, after: Vec<u8>| [before, after].concat();
    let cut = |name, bytes| row(State::Sta6, name, then(bytes, short(ABORT)), &[], "AA-3");
    let released = |name, bytes| row(State::Sta6, name, then(bytes, short(RELEASE_RQ)), &[AA1], "AR-2, AA-1");
    vec![
        cut("A-ABORT within a command", in_command()),
        cut("A-ABORT between command and data set", begun("1.2.3.7")),
        cut("A-ABORT within a data set", in_data_set()),
        released("A-RELEASE-RQ within a command", in_command()),
        released("A-RELEASE-RQ between command and data set", begun("1.2.3.7")),
        released("A-RELEASE-RQ within a data set", in_data_set()),
        ends("A-ASSOCIATE-RQ within a data set", then(in_data_set(), request()), UNEXPECTED),
        ends("A-RELEASE-RP within a data set", then(in_data_set(), short(RELEASE_RP)), UNEXPECTED),
        ends("an unknown PDU within a data set", then(in_data_set(), pdu(8, &[0; 4])), UNRECOGNISED),
        ends("a length lie within a data set", then(in_data_set(), pdu_claiming(P_DATA_TF, u32::MAX, &[])), INVALID),
    ]
}

/// Strange, and allowed or harmless: nothing breaks.
fn sound() -> Vec<Row> {
    let usable = |name, bytes: Vec<u8>, before: &[Answer]| {
        let answers = [before, &[ECHOED, Answer::Released]].concat();
        row(State::Sta6, name, [bytes, echo(), short(RELEASE_RQ)].concat(), &answers, "DT-2")
    };
    let bytewise = |context, kind: u8, bytes: &[u8]| {
        let last = bytes.len() - 1;
        let piece = |(at, byte): (usize, &u8)| p_data(context, kind | if at == last { 2 } else { 0 }, &[*byte]);
        bytes.iter().enumerate().flat_map(piece).collect::<Vec<u8>>()
    };
    let command = Command::store(b"1.2.3.10").bytes();
    let odd: Vec<u8> = [1_usize, 3, 5, 7, 777, 1].iter().flat_map(|bytes| p_data(1, DATA, &vec![6; *bytes])).collect();
    let one_pdu = pdu(
        P_DATA_TF,
        &[pdv(1, LAST_COMMAND, &Command::store(b"1.2.3.12").bytes()), pdv(1, LAST_DATA, &[1; 4])].concat(),
    );
    let whole = |instance: &[u8]| {
        [pdv(1, LAST_COMMAND, &Command::store(instance).bytes()), pdv(1, LAST_DATA, &[1; 4])].concat()
    };
    let pair = pdu(P_DATA_TF, &[whole(b"1.2.3.13"), whole(b"1.2.3.14")].concat());
    let empty: Vec<u8> = [p_data(5, COMMAND, &[]), p_data(5, COMMAND, &[])].concat();
    let echoes = (0..1000).flat_map(|_| echo()).collect();
    vec![
        usable(
            "a command in fragments of one byte",
            [bytewise(1, COMMAND, &command), p_data(1, LAST_DATA, &[1; 4])].concat(),
            &[stored(0)],
        ),
        usable(
            "a data set in fragments of one byte",
            [begun("1.2.3.11"), bytewise(1, DATA, &[7; 300])].concat(),
            &[stored(0)],
        ),
        usable(
            "a data set in fragments of odd lengths",
            [begun("1.2.3.15"), odd, p_data(1, LAST_DATA, &[6])].concat(),
            &[stored(0)],
        ),
        usable("command and data set in one PDU", one_pdu, &[stored(0)]),
        usable("two messages in one PDU", pair, &[stored(0), stored(0)]),
        usable("fragments of 0 bytes", empty, &[]),
        usable("reserved bits in the message control header", p_data(5, 0xFF, &Command::echo(1).bytes()), &[ECHOED]),
        usable("1,000 requests before the first answer is read", echoes, &[ECHOED, Answer::Times(1000)]),
        usable("the same message id twice", [store("1.2.3.16"), store("1.2.3.17")].concat(), &[stored(0), stored(0)]),
        usable("the same object twice", [store("1.2.3.18"), store("1.2.3.18")].concat(), &[stored(0), stored(0)]),
    ]
}

fn after_the_end() -> Vec<Row> {
    let released = |name, after: Vec<u8>, answers: &[Answer], rule| {
        let script = vec![Step::Send(short(RELEASE_RQ)), Step::Read, Step::Send(after)];
        steps(State::Sta13, name, script, &[&[Answer::Released], answers].concat(), rule)
    };
    let aborted = |name, after: Vec<u8>, answers: &[Answer], rule| {
        let script = vec![Step::Send(short(RELEASE_RP)), Step::Read, Step::Send(after)];
        steps(State::Sta13, name, script, &[&[UNEXPECTED], answers].concat(), rule)
    };
    vec![
        released("P-DATA-TF after the release", store("1.2.3.20"), &[], "AA-6"),
        released("A-RELEASE-RQ after the release", short(RELEASE_RQ), &[], "AA-6"),
        released("A-RELEASE-RP after the release", short(RELEASE_RP), &[], "AA-6"),
        released("A-ASSOCIATE-AC after the release", accept(), &[], "AA-6"),
        released("A-ASSOCIATE-RQ after the release", request(), &[UNEXPECTED], "AA-7"),
        released("an unknown PDU after the release", pdu(8, &[0; 4]), &[UNRECOGNISED], "AA-7"),
        released("a length lie after the release", pdu_claiming(P_DATA_TF, u32::MAX, &[]), &[INVALID], "AA-7"),
        released("A-ABORT after the release", short(ABORT), &[], "AA-2"),
        aborted("P-DATA-TF after an abort", store("1.2.3.20"), &[], "AA-6"),
        aborted("A-RELEASE-RQ after an abort", short(RELEASE_RQ), &[], "AA-6"),
        aborted("A-ASSOCIATE-RQ after an abort", request(), &[UNEXPECTED], "AA-7"),
        aborted("an unknown PDU after an abort", pdu(9, &[0; 4]), &[UNRECOGNISED], "AA-7"),
        aborted("A-ABORT after an abort", short(ABORT), &[], "AA-2"),
        row(
            State::Sta13,
            "messages in one segment with the release",
            [short(RELEASE_RQ), store("1.2.3.20"), echo()].concat(),
            &[Answer::Released],
            "AA-6",
        ),
    ]
}
