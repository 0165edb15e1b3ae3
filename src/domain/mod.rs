//! The nouns of the project, parsed at the door and trusted inside.
//!
//! Everything here is plain data: no clock, file, socket or runtime. A value of one of these types is the
//! proof that whoever made it (a peer, a file, a model) was checked. Neighbours: every other room uses it,
//! it uses none. Left out: how the values are stored (`store`), sent (`dicom`, `report`) or computed.

mod assessment;
mod attribution;
mod code;
mod completeness;
mod contract;
mod evidence;
mod facts;
mod header;
mod ident;
mod key;
mod model;
mod orientation;
mod refusal;
mod result;
mod study;

pub use assessment::{
    Assessment, Direction, Disclosed, Disclosure, FindingAssessment, GroupEstimate, IndReason, Interval, Level,
};
pub use attribution::{AttributionMap, Fill, MapMethod, MapTarget};
pub use code::{Code, is_private_scheme, is_public_scheme};
pub use completeness::{ClosedBy, ImageGroup, Required, RequiredView};
pub use contract::{Contract, Filter, Fit, Mask, ModelInput, ValueRange};
pub use evidence::{Answers, Change, Control, Evidence, EvidenceLine, FindingEvidence, LineKind, Reliance, Responses};
pub use facts::{FindingScore, RacePosterior, StudyFacts};
pub use header::{Attribute, AttributeValue, Attributes, ImageFacts, InstanceHeader, Laterality, View};
pub use ident::{AeTitle, Digest, ParseError, Probability, Uid};
pub use key::PublicKey;
pub use model::{
    DigestOf, Finding, Given, Group, ImageScore, ModelIdentity, ModelOutputs, Precision, Purpose, StudyResult,
    StudyScore,
};
pub use orientation::{Orientation, Turn};
pub use refusal::{Refusal, RefusalCode};
pub use result::{
    ClinicalResult, CodeKey, FindingRule, LabelRule, ReportKind, ReportRules, ResultDevice, ResultDocument,
    ResultSource, Said,
};
pub use study::{
    Accepted, CommitmentState, DeliveryState, InstanceState, ReadyStudy, ReceivedInstance, Report, ScoredInstance,
    StudyState, Timestamp,
};
