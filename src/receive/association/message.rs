//! The place in a message, and what a command set begins (PS3.7 6.3, PS3.4 A.4, B.2, C.4, J.3).
//!
//! Neighbours: `association` feeds fragments in and acts on what is complete. Left out: answers that need a data set.

use tracing::debug;

use super::super::negotiate::Context;
use super::super::store_scp::{Transfer, without_data_set};
use super::Association;
use super::query::IDENTIFIER_BOUNDS;
use crate::dicom::{
    ActionRq, COMMITMENT_BOUNDS, CommandField, DataSetError, EchoRq, EventReportRq, QueryRq, Request, Response,
    STORAGE_COMMITMENT, STUDY_ROOT_FIND, STUDY_ROOT_GET, Status, VERIFICATION,
};
use crate::domain::Uid;
use crate::store::Store;
use crate::wire::Fragments;

/// The place in a message (PS3.7 6.3): a command set, then perhaps a data set, both on one presentation context.
#[derive(Debug)]
pub(super) enum Expecting {
    Command(Fragments),
    DataSet { context: u8, message: Box<Message> },
}

/// What becomes of the data set that is arriving.
#[derive(Debug)]
pub(super) enum Message {
    Store(Transfer),
    Gathered(Gathered),
    /// It is read and dropped, then this is answered.
    Ignored(Response),
}

/// An operation whose data set is small enough to be kept and read here.
#[derive(Debug)]
pub(super) struct Gathered {
    pub(super) operation: Operation,
    pub(super) data_set: Result<Vec<u8>, DataSetError>,
}

#[derive(Debug)]
pub(super) enum Operation {
    Find(QueryRq),
    Get(QueryRq),
    Action(ActionRq),
    Event(EventReportRq),
}

impl Association {
    /// Acts on a complete command set: an answer now, or an arriving data set that ends in one.
    pub(super) fn request(&mut self, id: u8, request: Request, store: &Store) -> Option<Response> {
        let context = self.contexts.get(&id)?;
        let (message, has_data_set) = match request {
            Request::Cancel { .. } => return None,
            Request::Echo(request) => {
                let status = echo_status(&request, context);
                if status == Status::SUCCESS {
                    self.counts.echoes += 1;
                }
                (Message::Ignored(Response::to_echo(&request, status)), request.has_data_set)
            }
            Request::Store(request) if !request.has_data_set => {
                self.counts.failed += 1;
                return Some(without_data_set(&request));
            }
            Request::Store(request) => {
                let transfer = Transfer::start(store, &self.peer, context, request, self.limits.object_bytes_max);
                (Message::Store(transfer), true)
            }
            Request::Find(rq) => {
                let asked = Asked::new(CommandField::C_FIND_RQ, rq.message_id, &rq.sop_class, rq.has_data_set);
                (asked.judge(STUDY_ROOT_FIND.uid, context, Operation::Find(rq)), asked.has_data_set)
            }
            Request::Get(rq) => {
                let asked = Asked::new(CommandField::C_GET_RQ, rq.message_id, &rq.sop_class, rq.has_data_set);
                (asked.judge(STUDY_ROOT_GET.uid, context, Operation::Get(rq)), asked.has_data_set)
            }
            Request::Action(rq) => {
                let asked = Asked::new(CommandField::N_ACTION_RQ, rq.message_id, &rq.sop_class, rq.has_data_set);
                (asked.judge(STORAGE_COMMITMENT.uid, context, Operation::Action(rq)), asked.has_data_set)
            }
            Request::Event(rq) => {
                let asked = Asked::new(CommandField::N_EVENT_REPORT_RQ, rq.message_id, &rq.sop_class, rq.has_data_set);
                (asked.judge(STORAGE_COMMITMENT.uid, context, Operation::Event(rq)), asked.has_data_set)
            }
            Request::Other { field, message_id, sop_class, has_data_set } => {
                debug!(%field, "operation not offered");
                let comment = format!("{field} is not offered here");
                let status = Status::UNRECOGNISED_OPERATION;
                (Message::Ignored(refused(field, message_id, sop_class, status, comment)), has_data_set)
            }
        };
        match message {
            Message::Ignored(response) if !has_data_set => Some(response),
            message => {
                self.expecting = Expecting::DataSet { context: id, message: Box::new(message) };
                None
            }
        }
    }
}

impl Gathered {
    pub(super) fn fragment(&mut self, bytes: &[u8]) {
        let most = match self.operation {
            Operation::Action(_) | Operation::Event(_) => COMMITMENT_BOUNDS.bytes_max,
            Operation::Find(_) | Operation::Get(_) => IDENTIFIER_BOUNDS.bytes_max,
        };
        let Ok(data_set) = &mut self.data_set else { return };
        if data_set.len() + bytes.len() > most {
            self.data_set = Err(DataSetError::TooLong(most));
        } else {
            data_set.extend_from_slice(bytes);
        }
    }
}

impl Expecting {
    pub(super) fn nothing() -> Self {
        Self::Command(Fragments::default())
    }

    /// Whether no message has begun.
    pub(super) fn is_nothing(&self) -> bool {
        matches!(self, Self::Command(fragments) if fragments.is_empty())
    }
}

/// What the command set of an operation says, whichever it is.
struct Asked {
    field: CommandField,
    message_id: u16,
    sop_class: Option<Uid>,
    has_data_set: bool,
}

impl Asked {
    fn new(field: CommandField, message_id: u16, sop_class: &Option<Uid>, has_data_set: bool) -> Self {
        Self { field, message_id, sop_class: sop_class.clone(), has_data_set }
    }

    /// An operation needs its class, on a context of that class, and a data set.
    fn judge(&self, expected: &str, context: &Context, operation: Operation) -> Message {
        let on_class = |class: &Uid| class.as_str() == expected;
        // Only a provider reports events; everything else is a user's to ask (PS3.7 D.3.3.4).
        let may = match operation {
            Operation::Event(_) => context.roles.scp,
            Operation::Find(_) | Operation::Get(_) | Operation::Action(_) => context.roles.scu,
        };
        let (status, comment) = if !self.sop_class.as_ref().is_some_and(on_class) || !on_class(&context.abstract_syntax)
        {
            (Status::SOP_CLASS_NOT_SUPPORTED, "not the SOP class of this operation and its context")
        } else if !may {
            (Status::UNRECOGNISED_OPERATION, "not in the role that was agreed for the requestor")
        } else if !self.has_data_set {
            (Status::MISTYPED_ARGUMENT, "the request announces no data set")
        } else {
            return Message::Gathered(Gathered { operation, data_set: Ok(Vec::new()) });
        };
        Message::Ignored(refused(self.field, self.message_id, self.sop_class.clone(), status, comment.into()))
    }
}

fn refused(field: CommandField, message_id: u16, sop_class: Option<Uid>, status: Status, comment: String) -> Response {
    let (field, comment) = (field.response(), Some(comment));
    Response { field, responded_to: message_id, sop_class, sop_instance: None, status, comment }
}

/// C-ECHO belongs to a Verification context and carries no data set (PS3.4 A.4, PS3.7 9.1.5).
fn echo_status(request: &EchoRq, context: &Context) -> Status {
    if request.has_data_set {
        return Status::MISTYPED_ARGUMENT;
    }
    if context.abstract_syntax.as_str() != VERIFICATION.uid {
        return Status::SOP_CLASS_NOT_SUPPORTED;
    }
    Status::SUCCESS
}
