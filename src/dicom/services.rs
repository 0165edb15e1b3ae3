//! The messages of query, retrieval and storage commitment: requests that are read or sent, and responses with counts
//! and data sets (PS3.7 9.1.2, 9.1.3, 10.1.1, 10.1.4).
//!
//! Neighbours: `command` has the elements and the shorter messages. Left out: their data sets (`dataset`).

use crate::domain::Uid;

use super::command::{CommandError, CommandField, CommandSet, Request, Response, data_set_type, element};
use super::{REQUEST_COMMITMENT, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE};

/// A command set, whichever way it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Request(Request),
    Response(Response),
}

/// A C-FIND-RQ or C-GET-RQ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryRq {
    pub message_id: u16,
    pub sop_class: Option<Uid>,
    /// Always true by the Standard; a peer may err.
    pub has_data_set: bool,
}

/// An N-ACTION-RQ (PS3.7 10.3.4.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActionRq {
    pub message_id: u16,
    /// Requested SOP Class and Instance UID; `None` where the peer sent none or none that is valid.
    pub sop_class: Option<Uid>,
    pub sop_instance: Option<Uid>,
    /// Action Type ID; `None` where it is absent or malformed.
    pub action_type: Option<u16>,
    pub has_data_set: bool,
}

/// An N-EVENT-REPORT-RQ (PS3.7 10.3.1.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventReportRq {
    pub message_id: u16,
    /// Affected SOP Class and Instance UID; `None` where the peer sent none or none that is valid.
    pub sop_class: Option<Uid>,
    pub sop_instance: Option<Uid>,
    /// Event Type ID, of storage commitment 1: all committed, 2: failures exist (PS3.4 J.3.3.1).
    pub event_type: Option<u16>,
    pub has_data_set: bool,
}

/// What became of the C-STORE sub-operations of a C-GET.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SubOperations {
    /// Told while the retrieval goes on, and after a cancel.
    pub remaining: Option<u16>,
    pub completed: u16,
    pub failed: u16,
    pub warning: u16,
}

/// A response with more than [`Response`] has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub response: Response,
    pub sub_operations: Option<SubOperations>,
    pub has_data_set: bool,
}

impl Command {
    /// Parses one complete command set.
    pub fn parse(bytes: &[u8]) -> Result<Self, CommandError> {
        let set = CommandSet::parse(bytes)?;
        match set.field()?.is_response() {
            true => Response::of(&set).map(Self::Response),
            false => Request::of(&set).map(Self::Request),
        }
    }
}

impl ActionRq {
    /// For the well-known instance of storage commitment (PS3.4 J.3.2.1), with a data set.
    pub fn commitment(message_id: u16) -> Self {
        Self {
            message_id,
            sop_class: Uid::parse(STORAGE_COMMITMENT.uid).ok(),
            sop_instance: Uid::parse(STORAGE_COMMITMENT_INSTANCE).ok(),
            action_type: Some(REQUEST_COMMITMENT),
            has_data_set: true,
        }
    }

    pub(super) fn of(set: &CommandSet, message_id: u16, has_data_set: bool) -> Self {
        Self {
            message_id,
            sop_class: set.uid(element::REQUESTED_SOP_CLASS),
            sop_instance: set.uid(element::REQUESTED_SOP_INSTANCE),
            action_type: set.unsigned_short(element::ACTION_TYPE).ok(),
            has_data_set,
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut set = CommandSet::default();
        set.set_uid(element::REQUESTED_SOP_CLASS, self.sop_class.as_ref());
        set.set_unsigned_short(element::COMMAND_FIELD, CommandField::N_ACTION_RQ.0);
        set.set_unsigned_short(element::MESSAGE_ID, self.message_id);
        set.set_unsigned_short(element::DATA_SET_TYPE, data_set_type(self.has_data_set));
        set.set_uid(element::REQUESTED_SOP_INSTANCE, self.sop_instance.as_ref());
        if let Some(action_type) = self.action_type {
            set.set_unsigned_short(element::ACTION_TYPE, action_type);
        }
        set.encode()
    }
}

impl EventReportRq {
    /// Of the well-known instance of storage commitment, with a data set.
    pub fn commitment(message_id: u16, event_type: u16) -> Self {
        Self {
            message_id,
            sop_class: Uid::parse(STORAGE_COMMITMENT.uid).ok(),
            sop_instance: Uid::parse(STORAGE_COMMITMENT_INSTANCE).ok(),
            event_type: Some(event_type),
            has_data_set: true,
        }
    }

    pub(super) fn of(set: &CommandSet, message_id: u16, sop_class: Option<Uid>, has_data_set: bool) -> Self {
        let sop_instance = set.uid(element::AFFECTED_SOP_INSTANCE);
        let event_type = set.unsigned_short(element::EVENT_TYPE).ok();
        Self { message_id, sop_class, sop_instance, event_type, has_data_set }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut set = CommandSet::default();
        set.set_uid(element::AFFECTED_SOP_CLASS, self.sop_class.as_ref());
        set.set_unsigned_short(element::COMMAND_FIELD, CommandField::N_EVENT_REPORT_RQ.0);
        set.set_unsigned_short(element::MESSAGE_ID, self.message_id);
        set.set_unsigned_short(element::DATA_SET_TYPE, data_set_type(self.has_data_set));
        set.set_uid(element::AFFECTED_SOP_INSTANCE, self.sop_instance.as_ref());
        if let Some(event_type) = self.event_type {
            set.set_unsigned_short(element::EVENT_TYPE, event_type);
        }
        set.encode()
    }
}

impl Reply {
    pub fn encode(&self) -> Vec<u8> {
        let mut set = self.response.set();
        set.set_unsigned_short(element::DATA_SET_TYPE, data_set_type(self.has_data_set));
        if let Some(counts) = self.sub_operations {
            if let Some(remaining) = counts.remaining {
                set.set_unsigned_short(element::REMAINING, remaining);
            }
            set.set_unsigned_short(element::COMPLETED, counts.completed);
            set.set_unsigned_short(element::FAILED, counts.failed);
            set.set_unsigned_short(element::WARNING, counts.warning);
        }
        set.encode()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use dicom_core::Tag;
    use dicom_object::InMemDicomObject;
    use dicom_transfer_syntax_registry::entries::IMPLICIT_VR_LITTLE_ENDIAN;

    use super::*;
    use crate::dicom::{EchoRq, Status};

    /// As another implementation reads it.
    fn read(bytes: &[u8]) -> InMemDicomObject {
        InMemDicomObject::read_dataset_with_ts(bytes, &IMPLICIT_VR_LITTLE_ENDIAN.erased()).unwrap()
    }

    fn number(object: &InMemDicomObject, element: u16) -> Option<u16> {
        object.element(Tag(0, element)).ok().map(|e| e.to_int().unwrap())
    }

    #[test]
    fn a_reply_tells_its_counts_and_whether_a_data_set_follows() {
        let response = Response {
            field: CommandField(0x8010),
            responded_to: 7,
            sop_class: None,
            sop_instance: None,
            status: Status::PENDING,
            comment: None,
        };
        let counts = SubOperations { remaining: Some(3), completed: 2, failed: 1, warning: 0 };
        let reply = Reply { response, sub_operations: Some(counts), has_data_set: false };
        let object = read(&reply.encode());
        let rows = [(0x0800, 0x0101), (0x0900, 0xFF00), (0x1020, 3), (0x1021, 2), (0x1022, 1), (0x1023, 0)];
        for (element, expected) in rows {
            assert_eq!(number(&object, element), Some(expected), "{element:04X}");
        }
        let done = SubOperations { remaining: None, ..counts };
        let object = read(&Reply { sub_operations: Some(done), has_data_set: true, ..reply.clone() }.encode());
        assert_eq!((number(&object, 0x1020), number(&object, 0x0800)), (None, Some(1)));
        let object = read(&Reply { sub_operations: None, ..reply }.encode());
        assert_eq!(number(&object, 0x1021), None);
    }

    #[test]
    fn an_event_report_names_the_well_known_instance() {
        let object = read(&EventReportRq::commitment(5, 2).encode());
        let text = |element| object.element(Tag(0, element)).unwrap().to_str().unwrap().into_owned();
        assert_eq!(text(0x0002).trim_end_matches('\0'), "1.2.840.10008.1.20.1");
        assert_eq!(text(0x1000).trim_end_matches('\0'), "1.2.840.10008.1.20.1.1");
        let rows = [(0x0100, 0x0100), (0x0110, 5), (0x1002, 2), (0x0800, 1)];
        for (element, expected) in rows {
            assert_eq!(number(&object, element), Some(expected), "{element:04X}");
        }
    }

    #[test]
    fn requests_of_commitment_are_read_as_they_are_written() {
        let action = ActionRq::commitment(7);
        assert_eq!(Request::parse(&action.encode()), Ok(Request::Action(action)));
        let event = EventReportRq::commitment(8, 2);
        assert_eq!(Request::parse(&event.encode()), Ok(Request::Event(event)));
        let bare =
            EventReportRq { sop_class: None, sop_instance: None, event_type: None, ..EventReportRq::commitment(9, 1) };
        assert_eq!(Request::parse(&bare.encode()), Ok(Request::Event(bare)));
    }

    #[test]
    fn a_command_is_a_request_or_a_response() {
        let echo = EchoRq { message_id: 3, has_data_set: false };
        assert_eq!(Command::parse(&echo.encode()), Ok(Command::Request(Request::Echo(echo.clone()))));
        let response = Response::to_echo(&echo, Status::SUCCESS);
        assert_eq!(Command::parse(&response.encode()), Ok(Command::Response(response)));
        assert_eq!(Command::parse(&[]), Err(CommandError::Missing(0x0100)));
    }

    #[test]
    fn requests_are_read_with_what_belongs_to_them() {
        let mut set = CommandSet::default();
        set.set_unsigned_short(element::COMMAND_FIELD, 0x0130);
        set.set_unsigned_short(element::MESSAGE_ID, 9);
        set.set_unsigned_short(element::DATA_SET_TYPE, 0);
        set.set_text(element::REQUESTED_SOP_CLASS, STORAGE_COMMITMENT.uid, 0);
        set.set_text(element::REQUESTED_SOP_INSTANCE, STORAGE_COMMITMENT_INSTANCE, 0);
        set.set_unsigned_short(element::ACTION_TYPE, 1);
        let Ok(Request::Action(action)) = Request::parse(&set.encode()) else { panic!("an action") };
        assert_eq!((action.message_id, action.action_type, action.has_data_set), (9, Some(1), true));
        assert_eq!(action.sop_class.unwrap().as_str(), STORAGE_COMMITMENT.uid);
        assert_eq!(action.sop_instance.unwrap().as_str(), STORAGE_COMMITMENT_INSTANCE);

        set.set_unsigned_short(element::COMMAND_FIELD, 0x0020);
        assert!(matches!(Request::parse(&set.encode()), Ok(Request::Find(query)) if query.message_id == 9));
        set.set_unsigned_short(element::COMMAND_FIELD, 0x0010);
        assert!(matches!(Request::parse(&set.encode()), Ok(Request::Get(query)) if query.has_data_set));
        set.set_unsigned_short(element::COMMAND_FIELD, 0x0FFF);
        set.set_unsigned_short(element::MESSAGE_ID_RESPONDED_TO, 4);
        assert_eq!(Request::parse(&set.encode()), Ok(Request::Cancel { responded_to: Some(4) }));
    }
}
