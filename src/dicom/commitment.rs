//! The data sets of storage commitment (PS3.4 Annex J): what is asked, and what is reported.
//!
//! Neighbours: `receive` reads the request, `receive` and `deliver` send the report. Left out: the judgement, which is
//! the store's.

use crate::domain::Uid;

use super::Status;
use super::dataset::{Bounds, DataSet, Tag};

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

/// Why information is no request for commitment; the texts go to the peer as Error Comment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommitmentFault {
    #[error("Transaction UID missing or invalid")]
    Transaction,
    #[error("Referenced SOP Sequence missing or empty")]
    NoReferences,
    #[error("item {0} of Referenced SOP Sequence lacks a valid UID")]
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
        let reference = |(index, item): (usize, &DataSet)| {
            let uids = item.uid(REFERENCED_SOP_CLASS).zip(item.uid(REFERENCED_SOP_INSTANCE));
            let (sop_class, sop_instance) = uids.ok_or(CommitmentFault::Reference(index + 1))?;
            Ok(SopReference { sop_class, sop_instance })
        };
        let references = items.ok_or(CommitmentFault::NoReferences)?.iter().enumerate().map(reference);
        Ok(Self { transaction, references: references.collect::<Result<_, _>>()? })
    }
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

    /// What a report of successes says is what a request asks: the same attributes.
    fn request(instances: &[&str]) -> DataSet {
        let outcomes: Vec<_> = instances.iter().map(|i| (reference(i), Status::SUCCESS)).collect();
        commitment_report(&Uid::parse("1.2.3").unwrap(), &outcomes).1
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
