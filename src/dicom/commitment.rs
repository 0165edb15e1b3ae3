//! The data sets of storage commitment (PS3.4 Annex J): what is asked, and what is reported.
//!
//! Both are read and written, since the node is asked and asks. Neighbours: `receive` and `deliver`, on either side.
//! Left out: the judgement, which is the store's.

use crate::domain::Uid;

use super::Status;
use super::dataset::{Bounds, DataSet, DataSetError, Encoding, Tag};
use super::services::EventReportRq;
use super::sop_classes::STORAGE_COMMITMENT_INSTANCE;

/// The action of a request for commitment (PS3.4 J.3.2.1).
pub const REQUEST_COMMITMENT: u16 = 1;

/// What a request may cost. A reference takes some 160 bytes and three elements.
pub const COMMITMENT_BOUNDS: Bounds = Bounds { bytes_max: 2 << 20, elements_max: 45_000, depth_max: 3 };

/// The information of an N-ACTION-RQ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitmentRq {
    pub transaction: Uid,
    /// At least one.
    pub references: Vec<SopReference>,
}

/// An instance that is referred to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SopReference {
    pub sop_class: Uid,
    pub sop_instance: Uid,
}

/// A reference and its outcome: success, or the Failure Reason (0008,1197).
pub type CommitmentOutcome = (SopReference, Status);

/// The information of an N-EVENT-REPORT-RQ: what became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitmentRs {
    pub transaction: Uid,
    /// At least one.
    pub outcomes: Vec<CommitmentOutcome>,
}

/// Why information is no request for commitment, or no report of one; the texts go to the peer as Error Comment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommitmentFault {
    #[error("Transaction UID missing or invalid")]
    Transaction,
    #[error("Referenced SOP Sequence missing or empty")]
    NoReferences,
    #[error("item {0} of a sequence of references lacks a valid UID")]
    Reference(usize),
}

const TRANSACTION_UID: Tag = 0x0008_1195;
const FAILURE_REASON: Tag = 0x0008_1197;
const FAILED_SOP_SEQUENCE: Tag = 0x0008_1198;
const REFERENCED_SOP_SEQUENCE: Tag = 0x0008_1199;
const REFERENCED_SOP_CLASS: Tag = 0x0008_1150;
const REFERENCED_SOP_INSTANCE: Tag = 0x0008_1155;

impl CommitmentRq {
    pub fn parse(information: &DataSet) -> Result<Self, CommitmentFault> {
        let transaction = information.uid(TRANSACTION_UID).ok_or(CommitmentFault::Transaction)?;
        let items = information.items(REFERENCED_SOP_SEQUENCE).filter(|items| !items.is_empty());
        let references = references(items.ok_or(CommitmentFault::NoReferences)?).collect::<Result<_, _>>()?;
        Ok(Self { transaction, references })
    }

    /// What a report of successes says is what a request asks: the same attributes (PS3.4 tables J.3-1 and J.3-2).
    pub fn information(&self) -> DataSet {
        let outcomes: Vec<_> = self.references.iter().map(|r| (r.clone(), Status::SUCCESS)).collect();
        commitment_report(&self.transaction, &outcomes).1
    }
}

impl CommitmentRs {
    /// Reads a whole message, whose information has arrived as far as it was taken.
    ///
    /// # Errors
    /// The status of the answer, and its Error Comment.
    pub fn read(
        event: &EventReportRq,
        information: Result<Vec<u8>, DataSetError>,
        encoding: Encoding,
    ) -> Result<Self, (Status, String)> {
        if event.sop_instance.as_ref().map(Uid::as_str) != Some(STORAGE_COMMITMENT_INSTANCE) {
            return Err((Status::NO_SUCH_SOP_INSTANCE, "not the well-known instance of storage commitment".into()));
        }
        if !matches!(event.event_type, Some(1 | 2)) {
            return Err((Status::NO_SUCH_EVENT, "event types 1 and 2 report storage commitment".into()));
        }
        let read = information.and_then(|bytes| DataSet::parse(&bytes, encoding, COMMITMENT_BOUNDS));
        let set = read.map_err(|fault| (fault_status(&fault), fault.to_string()))?;
        Self::parse(&set).map_err(|fault| (Status::INVALID_ARGUMENT, fault.to_string()))
    }

    /// Parses what [`commitment_report`] writes. The event type is not asked: the sequences say the same. A failure
    /// without a reason is a processing failure.
    pub fn parse(information: &DataSet) -> Result<Self, CommitmentFault> {
        let transaction = information.uid(TRANSACTION_UID).ok_or(CommitmentFault::Transaction)?;
        let committed = information.items(REFERENCED_SOP_SEQUENCE).unwrap_or_default();
        let failed = information.items(FAILED_SOP_SEQUENCE).unwrap_or_default();
        let mut outcomes = Vec::with_capacity(committed.len() + failed.len());
        for reference in references(committed) {
            outcomes.push((reference?, Status::SUCCESS));
        }
        for (reference, item) in references(failed).zip(failed) {
            let reason = match item.bytes(FAILURE_REASON) {
                // A reason that says success contradicts where it stands.
                Some(&[low, high]) if (low, high) != (0, 0) => Status(u16::from_le_bytes([low, high])),
                _ => Status::PROCESSING_FAILURE,
            };
            outcomes.push((reference?, reason));
        }
        match outcomes.is_empty() {
            true => Err(CommitmentFault::NoReferences),
            false => Ok(Self { transaction, outcomes }),
        }
    }
}

/// What is answered to information that cannot be read.
pub fn fault_status(fault: &DataSetError) -> Status {
    match fault {
        DataSetError::TooLong(_) | DataSetError::TooMany(_) => Status::RESOURCE_LIMITATION,
        _ => Status::INVALID_ARGUMENT,
    }
}

fn references(items: &[DataSet]) -> impl Iterator<Item = Result<SopReference, CommitmentFault>> {
    items.iter().enumerate().map(|(index, item)| {
        let uids = item.uid(REFERENCED_SOP_CLASS).zip(item.uid(REFERENCED_SOP_INSTANCE));
        let (sop_class, sop_instance) = uids.ok_or(CommitmentFault::Reference(index + 1))?;
        Ok(SopReference { sop_class, sop_instance })
    })
}

/// Event Type ID and information of an N-EVENT-REPORT (PS3.4 J.3.3.1): 1 where all were committed, else 2.
pub fn commitment_report(transaction: &Uid, outcomes: &[CommitmentOutcome]) -> (u16, DataSet) {
    let item = |reference: &SopReference| {
        let mut item = DataSet::default();
        item.put(REFERENCED_SOP_CLASS, b"UI", reference.sop_class.as_str());
        item.put(REFERENCED_SOP_INSTANCE, b"UI", reference.sop_instance.as_str());
        item
    };
    let (mut committed, mut failed) = (Vec::new(), Vec::new());
    for (reference, outcome) in outcomes {
        if *outcome == Status::SUCCESS {
            committed.push(item(reference));
        } else {
            let mut item = item(reference);
            item.put(FAILURE_REASON, b"US", outcome.0.to_le_bytes());
            failed.push(item);
        }
    }
    let mut information = DataSet::default();
    information.put(TRANSACTION_UID, b"UI", transaction.as_str());
    let event_type = if failed.is_empty() { 1 } else { 2 };
    // Each sequence is there if it has items (PS3.4 table J.3-2).
    if !failed.is_empty() {
        information.put_items(FAILED_SOP_SEQUENCE, failed);
    }
    if !committed.is_empty() {
        information.put_items(REFERENCED_SOP_SEQUENCE, committed);
    }
    (event_type, information)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::dicom::Encoding;

    fn reference(instance: &str) -> SopReference {
        let uid = |text: &str| Uid::parse(text).unwrap();
        SopReference { sop_class: uid("1.2.840.10008.5.1.4.1.1.2"), sop_instance: uid(instance) }
    }

    fn request(instances: &[&str]) -> DataSet {
        let references = instances.iter().map(|i| reference(i)).collect();
        CommitmentRq { transaction: Uid::parse("1.2.3").unwrap(), references }.information()
    }

    #[test]
    fn a_request_is_read_or_its_fault_is_named() {
        let read = CommitmentRq::parse(&request(&["1.1", "1.2"])).unwrap();
        assert_eq!((read.transaction.as_str(), read.references), ("1.2.3", vec![reference("1.1"), reference("1.2")]));
        assert_eq!(CommitmentRq::parse(&DataSet::default()), Err(CommitmentFault::Transaction));
        assert_eq!(CommitmentRq::parse(&request(&[])), Err(CommitmentFault::NoReferences));
        let mut broken = request(&["1.1"]);
        let mut items = broken.items(REFERENCED_SOP_SEQUENCE).unwrap().to_vec();
        items.push(DataSet::default());
        broken.put_items(REFERENCED_SOP_SEQUENCE, items);
        assert_eq!(CommitmentRq::parse(&broken), Err(CommitmentFault::Reference(2)));
        broken.put(REFERENCED_SOP_SEQUENCE, b"UN", "no items");
        assert_eq!(CommitmentRq::parse(&broken), Err(CommitmentFault::NoReferences));
        for fault in [CommitmentFault::Transaction, CommitmentFault::NoReferences, CommitmentFault::Reference(99_999)] {
            assert!(fault.to_string().len() <= 64, "{fault} is longer than an Error Comment");
        }
    }

    #[test]
    fn a_report_lists_what_is_committed_and_what_is_not_with_its_reason() {
        let outcomes = [(reference("1.1"), Status::SUCCESS), (reference("1.2"), Status::NO_SUCH_SOP_INSTANCE)];
        let (event_type, information) = commitment_report(&Uid::parse("1.2.3").unwrap(), &outcomes);
        assert_eq!(event_type, 2);
        let failed = information.items(FAILED_SOP_SEQUENCE).unwrap();
        assert_eq!(failed[0].bytes(FAILURE_REASON), Some(&[0x12, 0x01][..]));
        assert_eq!(failed[0].text(REFERENCED_SOP_INSTANCE), Some("1.2"));
        assert_eq!(information.items(REFERENCED_SOP_SEQUENCE).unwrap().len(), 1);
        assert_eq!(commitment_report(&Uid::parse("1.2.3").unwrap(), &outcomes[..1]).0, 1);
    }

    #[test]
    fn a_report_is_read_as_it_was_written_or_its_fault_is_named() {
        let (encoding, uid) = (Encoding::ImplicitLittleEndian, Uid::parse("1.2.3").unwrap());
        let outcomes = vec![
            (reference("1.1"), Status::SUCCESS),
            (reference("1.2"), Status::NO_SUCH_SOP_INSTANCE),
            (reference("1.3"), Status::CLASS_INSTANCE_CONFLICT),
        ];
        let (event_type, information) = commitment_report(&uid, &outcomes);
        let event = EventReportRq::commitment(1, event_type);
        let read = CommitmentRs::read(&event, Ok(information.encode(encoding)), encoding);
        assert_eq!(read, Ok(CommitmentRs { transaction: uid, outcomes }));

        let status = |event: &EventReportRq, bytes| CommitmentRs::read(event, bytes, encoding).unwrap_err().0;
        let whole = || Ok(information.encode(encoding));
        let foreign = EventReportRq { sop_instance: None, ..event.clone() };
        assert_eq!(status(&foreign, whole()), Status::NO_SUCH_SOP_INSTANCE);
        assert_eq!(status(&EventReportRq { event_type: Some(3), ..event.clone() }, whole()), Status::NO_SUCH_EVENT);
        assert_eq!(status(&event, Ok(b"no data set".to_vec())), Status::INVALID_ARGUMENT);
        assert_eq!(status(&event, Err(DataSetError::TooLong(1))), Status::RESOURCE_LIMITATION);
        assert_eq!(status(&event, Ok(request(&[]).encode(encoding))), Status::INVALID_ARGUMENT, "no references");

        // A failure without a reason, or with one that says success, is none the less a failure.
        for reason in [&[][..], &[0, 0], &[1, 2, 3, 4]] {
            let mut item = information.items(FAILED_SOP_SEQUENCE).unwrap()[0].clone();
            item.put(FAILURE_REASON, b"US", reason);
            let mut odd = request(&[]);
            odd.put_items(FAILED_SOP_SEQUENCE, vec![item]);
            let read = CommitmentRs::parse(&odd).unwrap();
            assert_eq!(read.outcomes, [(reference("1.2"), Status::PROCESSING_FAILURE)], "{reason:?}");
        }
    }

    #[test]
    fn ten_thousand_references_fit_and_many_more_do_not() {
        let instances =
            |count: usize| (0..count).map(|n| format!("{}{n:06}", "1.2.840.".repeat(7))).collect::<Vec<_>>();
        let encoded = |count| {
            let owned = instances(count);
            request(&owned.iter().map(String::as_str).collect::<Vec<_>>()).encode(Encoding::ExplicitLittleEndian)
        };
        let read = |bytes: &[u8]| DataSet::parse(bytes, Encoding::ExplicitLittleEndian, COMMITMENT_BOUNDS);
        assert_eq!(CommitmentRq::parse(&read(&encoded(10_000)).unwrap()).unwrap().references.len(), 10_000);
        assert!(read(&encoded(20_000)).is_err());
    }
}
