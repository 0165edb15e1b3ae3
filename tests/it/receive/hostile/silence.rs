//! Peers that say nothing, say it slowly, or are gone: every wait of the node has an end (the ARTIM timer of PS3.8 9.2,
//! `node.negotiation_timeout`, and `node.idle_timeout`).

use super::bytes::*;
use super::script::{Answer, End, Row, State, Step, UNSPECIFIED, steps, stored};

pub fn rows() -> Vec<Row> {
    [silent(), slow(), gone()].into_iter().flatten().collect()
}

fn in_command() -> Vec<u8> {
    p_data(1, COMMAND, &Command::store(b"1.2.3 ").bytes()[..20])
}

fn in_data_set(instance: &str) -> Vec<u8> {
    [begun(instance), p_data(1, DATA, &[1; 30_000])].concat()
}

fn silent() -> Vec<Row> {
    let before = |name, bytes: Vec<u8>| steps(State::Sta2, name, vec![Step::Send(bytes)], &[], "AA-2").ends(End::Timer);
    let within = |name, bytes: Vec<u8>| {
        steps(State::Sta6, name, vec![Step::Send(bytes)], &[UNSPECIFIED], "idle timeout").ends(End::Timer)
    };
    let after = |name, bytes: Vec<u8>, answer| {
        steps(State::Sta13, name, vec![Step::Send(bytes), Step::Read], &[answer], "AA-2").ends(End::Timer)
    };
    vec![
        before("silence after connecting", vec![]),
        before("silence within a PDU header", request()[..3].to_vec()),
        before("silence after a PDU header", request()[..6].to_vec()),
        before("silence within a request", request()[..100].to_vec()),
        within("silence in an association", vec![]),
        within("silence within the header of P-DATA-TF", echo()[..4].to_vec()),
        within("silence within P-DATA-TF", echo()[..40].to_vec()),
        within("silence within a command", in_command()),
        within("silence between command and data set", begun("1.2.3.60")),
        within("silence within a data set", in_data_set("1.2.3.60")),
        after("silence after the release", short(RELEASE_RQ), Answer::Released),
        after("silence after an abort", short(RELEASE_RP), Answer::Abort(2, 2)),
        steps(
            State::Sta2,
            "silence after a rejection",
            vec![Step::Send(request_with(|r| r.version = 2)), Step::Read],
            &[Answer::Reject(1, 2, 2)],
            "AA-2",
        )
        .ends(End::Timer),
    ]
}

fn slow() -> Vec<Row> {
    let bytewise = |bytes: &[u8]| Step::Drip(bytes.chunks(1).map(<[u8]>::to_vec).collect());
    let within = |name, script| steps(State::Sta6, name, script, &[UNSPECIFIED], "idle timeout").ends(End::Timer);
    let long = pdu(P_DATA_TF, &pdv(1, DATA, &[7; 1000]));
    let fragments = (0..1000).map(|_| p_data(1, DATA, &[7])).collect();
    let empty = (0..1000).map(|_| p_data(1, COMMAND, &[])).collect();
    vec![
        steps(State::Sta2, "a request byte by byte, slowly", vec![bytewise(&request())], &[], "AA-2").ends(End::Timer),
        within("P-DATA-TF byte by byte, slowly", vec![bytewise(&long)]),
        within("a data set in one PDU, slowly", vec![Step::Send(begun("1.2.3.61")), bytewise(&long)]),
        within(
            "a data set in fragments of one byte, slowly",
            vec![Step::Send(begun("1.2.3.61")), Step::Drip(fragments)],
        ),
        within("a command in fragments of 0 bytes, slowly", vec![Step::Drip(empty)]),
        steps(
            State::Sta6,
            "requests without end, whose answers are never read",
            vec![Step::Flood(echo().repeat(100))],
            &[],
            "idle timeout",
        )
        .ends(End::Timer),
    ]
}

fn gone() -> Vec<Row> {
    let reset = |state, name, bytes| steps(state, name, vec![Step::Send(bytes)], &[], "AA-4").ends(End::Reset);
    let half_closed = |name, bytes| steps(State::Sta6, name, vec![Step::Send(bytes), Step::HalfClose], &[], "AA-4");
    vec![
        reset(State::Sta2, "reset after connecting", vec![]),
        reset(State::Sta2, "reset within a request", request()[..100].to_vec()),
        reset(State::Sta6, "reset in an association", vec![]),
        reset(State::Sta6, "reset within a command", in_command()),
        reset(State::Sta6, "reset within a data set", in_data_set("1.2.3.62")),
        half_closed("end of the stream in an association", vec![]),
        half_closed("end of the stream within a PDU", echo()[..40].to_vec()),
        half_closed("end of the stream within a data set", in_data_set("1.2.3.63")),
        steps(
            State::Sta6,
            "end of the stream after a whole message",
            vec![Step::Send(store("1.2.3.64")), Step::HalfClose],
            &[stored(0)],
            "AA-4",
        ),
    ]
}
