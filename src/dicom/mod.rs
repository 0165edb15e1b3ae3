//! The vocabulary of DICOM on the wire and at the head of a file: SOP classes, transfer syntaxes, DIMSE command
//! sets and statuses, file meta information.
//!
//! Neighbours: `domain` below; `receive` and `deliver` speak with it, `store` and `report` write what it encodes.
//! Small data sets are read here too, within bounds (`dataset`): what peers ask with, and the node's own reports
//! (`own`). Left out: sockets and associations (`receive`, `deliver`), and what peers store, which is parsed only in
//! the sandboxed workers of `pixels`. Nothing here allocates more than what it was given, within a small factor.

mod character_set;
mod command;
mod commitment;
mod dataset;
mod json;
mod matching;
mod meta;
mod own;
mod query;
mod services;
mod sop_classes;
mod status;
mod text;
mod transfer_syntaxes;

pub use command::{COMMAND_BYTES_MAX, CommandError, CommandField, CommandSet, EchoRq, Request, Response, StoreRq};
pub use commitment::{
    COMMITMENT_BOUNDS, CommitmentFault, CommitmentOutcome, CommitmentRq, CommitmentRs, REQUEST_COMMITMENT,
    SopReference, commitment_report, fault_status,
};
pub use dataset::{Bounds, DataSet, DataSetError, Encoding, Tag};
/// Value representations (PS3.5 6.2).
pub use dicom_core::VR;
pub use json::to_json;
pub use matching::{Key, KeyError, attribute_named};
pub use meta::{FileMeta, META_BYTES_MAX, MetaError, file_meta, read_meta};
pub use own::{OwnFileError, own_data_set, read_own};
pub use query::{Query, QueryFault, QueryLevel};
pub use services::{ActionRq, Command, EventReportRq, QueryRq, Reply, SubOperations};
pub use sop_classes::{
    REPORT_STORAGE, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE, STUDY_ROOT_FIND, STUDY_ROOT_GET, SopClass,
    VERIFICATION, is_storage_accepted, sop_class_name, storage_sop_classes,
};
pub use status::{Status, StatusCategory};
pub use transfer_syntaxes::{
    TransferSyntax, is_encapsulated, is_transfer_syntax_accepted, transfer_syntax_name, transfer_syntaxes,
};

/// Tags that several rooms ask for.
pub mod tag {
    use super::Tag;

    pub const STUDY: Tag = 0x0020_000D;
    pub const SERIES: Tag = 0x0020_000E;
    pub const INSTANCE: Tag = 0x0008_0018;
}

/// Identifies this implementation in associations (PS3.7 D.3.3.2) and files (PS3.10 7.1); fixed for all versions.
pub const IMPLEMENTATION_CLASS_UID: &str = "2.25.177449515442057736805616235169222658395";

/// Version of the implementation, VR SH: at most 16 characters.
pub const IMPLEMENTATION_VERSION_NAME: &str = "SIDELIGHT_0_1_0";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Uid;

    #[test]
    fn the_implementation_is_named_within_the_limits_of_its_vrs() {
        assert_eq!(Uid::parse(IMPLEMENTATION_CLASS_UID).map(String::from).as_deref(), Ok(IMPLEMENTATION_CLASS_UID));
        assert!(IMPLEMENTATION_VERSION_NAME.len() <= 16);
    }

    #[test]
    fn the_version_name_follows_the_version_of_the_crate() {
        let expected = format!("SIDELIGHT_{}", env!("CARGO_PKG_VERSION").replace('.', "_"));
        assert_eq!(IMPLEMENTATION_VERSION_NAME, expected);
    }
}
