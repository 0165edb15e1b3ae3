//! A misbehaviour as data, and the peer that acts it out.

use std::fmt;
use std::time::{Duration, Instant};

use dicom_ul::pdu::{PDataValueType, Pdu, write_pdu};
use sidelight::dicom::{CommandField, Response};

use super::super::scu::Scu;
use super::bytes::request;

/// Where the association stands, from the acceptor's side (PS3.8 table 9-10). States 3 and 8 (a request or a release is
/// being judged) last no time that a peer can see: what comes then is read in state 6 or 13.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Connected, no A-ASSOCIATE-RQ yet.
    Sta2,
    /// Data transfer.
    Sta6,
    /// The last PDU is sent, the connection is about to close.
    Sta13,
}

pub enum Step {
    Send(Vec<u8>),
    /// The same byte by byte, with a pause after each, until the node hangs up.
    Drip(Vec<Vec<u8>>),
    /// Reads the next answer before it goes on.
    Read,
    /// Sends no more, and still reads.
    HalfClose,
    /// Sends for ever and reads nothing, until the node hangs up.
    Flood(Vec<u8>),
}

#[derive(Clone, PartialEq, Eq)]
pub enum Answer {
    Accept,
    /// Result, source, reason (PS3.8 table 9-21).
    Reject(u8, u8, u8),
    Released,
    /// Source, reason (PS3.8 table 9-26).
    Abort(u8, u8),
    Response(CommandField, u16),
    /// So many of the one before.
    Times(usize),
}

/// How the connection ends, once all answers were read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The peer closes.
    Peer,
    /// The node closes, by itself.
    Node,
    /// The node closes when a timer expires.
    Timer,
    /// The peer resets the connection without reading an answer.
    Reset,
}

pub struct Row {
    pub state: State,
    pub name: &'static str,
    pub steps: Vec<Step>,
    pub answers: Vec<Answer>,
    pub end: End,
    /// The action of PS3.8 table 9-10, or the clause that says what is answered.
    pub rule: &'static str,
}

/// Pause between the pieces of a slow peer.
pub const DRIP: Duration = Duration::from_millis(100);

pub const AA1: Answer = Answer::Abort(0, 0);
pub const UNRECOGNISED: Answer = Answer::Abort(2, 1);
pub const UNEXPECTED: Answer = Answer::Abort(2, 2);
pub const UNEXPECTED_PARAMETER: Answer = Answer::Abort(2, 5);
pub const INVALID: Answer = Answer::Abort(2, 6);
pub const UNSPECIFIED: Answer = Answer::Abort(2, 0);

/// C-ECHO succeeded: the association is usable.
pub const ECHOED: Answer = Answer::Response(CommandField::C_ECHO_RSP, 0);

pub fn stored(status: u16) -> Answer {
    Answer::Response(CommandField::C_STORE_RSP, status)
}

pub fn echoed(status: u16) -> Answer {
    Answer::Response(CommandField::C_ECHO_RSP, status)
}

/// A row that sends some bytes at once.
pub fn row(state: State, name: &'static str, bytes: Vec<u8>, answers: &[Answer], rule: &'static str) -> Row {
    steps(state, name, vec![Step::Send(bytes)], answers, rule)
}

/// A row of several steps. An abort that was read, and no answer at all, leave the closing to the node.
pub fn steps(state: State, name: &'static str, steps: Vec<Step>, answers: &[Answer], rule: &'static str) -> Row {
    let end = if answers.is_empty() { End::Node } else { End::Peer };
    Row { state, name, steps, answers: answers.to_vec(), end, rule }
}

impl Row {
    pub fn ends(self, end: End) -> Self {
        Self { end, ..self }
    }

    /// With an answer before the others.
    pub fn after(mut self, answer: Answer) -> Self {
        self.answers.insert(0, answer);
        self
    }

    /// Acts it out; what the node did otherwise than expected.
    pub async fn play(&self, port: u16, timer: Duration) -> Result<(), String> {
        let is_deaf = self.steps.iter().any(|step| matches!(step, Step::Flood(_)));
        let mut scu = if is_deaf { Scu::connect_deaf(port).await } else { Scu::connect(port).await };
        if self.state != State::Sta2 {
            scu.send_bytes(&request()).await;
            match scu.receive().await {
                Some(Pdu::AssociationAC(_)) => {}
                other => return Err(format!("no association: {other:?}")),
            }
        }
        let mut reader = Reader { scu, command: Vec::new(), got: Vec::new() };
        let mut quiet_since = Instant::now();
        for step in &self.steps {
            match step {
                Step::Send(bytes) => reader.scu.try_send(bytes).await,
                Step::Drip(pieces) => {
                    for piece in pieces {
                        if !reader.scu.try_send(piece).await || reader.scu.hears_within(DRIP).await {
                            break;
                        }
                    }
                    true
                }
                Step::Read => reader.next().await,
                Step::HalfClose => reader.scu.half_close().await,
                Step::Flood(bytes) => {
                    while reader.scu.try_send(bytes).await {}
                    return Ok(());
                }
            };
            if !matches!(step, Step::Drip(_)) {
                quiet_since = Instant::now();
            }
        }
        if self.end == End::Reset {
            reader.scu.reset();
            return Ok(());
        }
        let expected: Vec<Answer> = self.answers.iter().flat_map(Answer::each).collect();
        while reader.got.len() < expected.len() && reader.next().await {}
        if self.end == End::Peer {
            reader.scu.half_close().await;
        }
        while reader.next().await {}
        if reader.got != expected {
            return Err(format!("{}, expected {}", list(&reader.got), list(&expected)));
        }
        let waited = quiet_since.elapsed();
        match self.end == End::Timer && waited < timer {
            true => Err(format!("closed after {waited:?}, before the timer of {timer:?}")),
            false => Ok(()),
        }
    }

    /// How many objects are acknowledged.
    pub fn stored(&self) -> usize {
        self.answers.iter().filter(|answer| **answer == stored(0)).count()
    }

    /// What the node does, in the words of the table.
    pub fn answer(&self) -> String {
        let answers = list(&self.answers);
        match (self.end, self.answers.is_empty()) {
            (End::Peer, _) => answers,
            (End::Node, true) => "closes".into(),
            (End::Node, false) => format!("{answers}, closes"),
            (End::Timer, true) => "closes when the timer expires".into(),
            (End::Timer, false) => format!("{answers}, by a timer"),
            (End::Reset, _) => "nobody is left to answer".into(),
        }
    }
}

/// Reads answers; a response in many fragments is one.
struct Reader {
    scu: Scu,
    command: Vec<u8>,
    got: Vec<Answer>,
}

impl Reader {
    /// Takes the next answer down; false once the connection is closed.
    async fn next(&mut self) -> bool {
        while let Some(pdu) = self.scu.receive().await {
            match pdu {
                Pdu::AssociationAC(_) => self.got.push(Answer::Accept),
                Pdu::ReleaseRP => self.got.push(Answer::Released),
                Pdu::PData { data } => {
                    let [value] = &data[..] else { panic!("one fragment in each PDU of the node: {data:?}") };
                    assert_eq!(value.value_type, PDataValueType::Command);
                    self.command.extend_from_slice(&value.data);
                    if !value.is_last {
                        continue;
                    }
                    let response = Response::parse(&std::mem::take(&mut self.command)).expect("a response");
                    self.got.push(Answer::Response(response.field, response.status.0));
                }
                other => {
                    let mut bytes = Vec::new();
                    write_pdu(&mut bytes, &other).expect("a PDU that was read can be written");
                    self.got.push(match bytes[..] {
                        [0x03, _, _, _, _, _, _, result, source, reason] => Answer::Reject(result, source, reason),
                        [0x07, _, _, _, _, _, _, _, source, reason] => Answer::Abort(source, reason),
                        _ => panic!("no acceptor sends {other:?}"),
                    });
                }
            }
            return true;
        }
        false
    }
}

impl Answer {
    /// The answers one by one.
    fn each(&self) -> Vec<Self> {
        match self {
            Self::Times(count) => vec![ECHOED; count - 1],
            one => vec![one.clone()],
        }
    }
}

fn list(answers: &[Answer]) -> String {
    let words: Vec<String> = answers.iter().map(Answer::to_string).collect();
    if words.is_empty() { "nothing".into() } else { words.join(", ") }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("A-ASSOCIATE-AC"),
            Self::Reject(result, source, reason) => write!(f, "A-ASSOCIATE-RJ {result}/{source}/{reason}"),
            Self::Released => f.write_str("A-RELEASE-RP"),
            Self::Abort(source, reason) => write!(f, "A-ABORT {source}/{reason}"),
            Self::Response(field, status) => write!(f, "{field} {status:04X}H"),
            Self::Times(count) => write!(f, "{count} times"),
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sta2 => "2",
            Self::Sta6 => "6",
            Self::Sta13 => "13",
        })
    }
}
