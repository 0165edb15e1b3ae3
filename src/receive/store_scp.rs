//! C-STORE as a provider (PS3.4 Annex B, PS3.7 9.1.1): an object from its command set to its status.
//!
//! The data set is never parsed here. Success is answered only after `Arrival::commit` said that the object is durable
//! and indexed. Neighbours: `association` hands in the fragments; `store` keeps the object. Left out: whether the data set is what the command says, which the workers find out.

use tracing::{debug, error, warn};

use crate::dicom::{Response, Status, StoreRq, file_meta, is_storage_accepted};
use crate::domain::{Accepted, ReceivedInstance, Uid};
use crate::store::{Arrival, Store, StoreError};

use super::association::Peer;
use super::negotiate::Context;

/// Why an object was not stored. The texts go to the peer as Error Comment (at most 64 characters), so they hold
/// neither paths nor patient data.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("the request announces no data set")]
    NoDataSet,
    #[error("affected SOP class missing, invalid or not accepted here")]
    SopClassNotSupported,
    #[error("affected SOP class is not that of the presentation context")]
    SopClassMismatch,
    #[error("affected SOP instance UID missing or invalid")]
    InvalidSopInstance,
    #[error("the data set is empty")]
    EmptyDataSet,
    #[error("the object exceeds the limit of {bytes_max} bytes")]
    TooLarge { bytes_max: u64 },
    #[error("a different object with this UID exists; this one is kept aside")]
    Conflict,
    #[error("{}", comment(.0))]
    Store(StoreError),
}

/// An object on its way in. Dropping it deletes what has come.
#[derive(Debug)]
pub(super) struct Transfer {
    request: StoreRq,
    bytes: u64,
    bytes_max: u64,
    /// What was wrong first. The fragments that follow are read and dropped, so that the association stays usable.
    state: Result<(Instance, Arrival), Failure>,
}

/// The command set's claim about the object, proven to be well-formed.
#[derive(Debug, Clone)]
struct Instance {
    sop_class: Uid,
    sop_instance: Uid,
    transfer_syntax: Uid,
}

impl Failure {
    /// Cause → status, the only such table (PS3.4 table B.2-1, PS3.7 Annex C).
    pub(super) fn status(&self) -> Status {
        match self {
            Failure::NoDataSet => Status::MISTYPED_ARGUMENT,
            Failure::SopClassNotSupported => Status::SOP_CLASS_NOT_SUPPORTED,
            Failure::SopClassMismatch => Status::DATA_SET_MISMATCH,
            Failure::InvalidSopInstance => Status::INVALID_SOP_INSTANCE,
            Failure::EmptyDataSet => Status::CANNOT_UNDERSTAND,
            Failure::TooLarge { .. } => Status::OUT_OF_RESOURCES,
            // The association ends with the node: no resource of its is wanting.
            Failure::Store(StoreError::Closing) => Status::PROCESSING_FAILURE,
            // What may pass, so that the sender tries again.
            Failure::Store(cause) if cause.is_passing() => Status::OUT_OF_RESOURCES,
            // A failure and not success or a warning: the sender must not believe that this version is what the
            // node will report on, and a person on its side has to see it. PS3.7 C.5.8 names exactly this case;
            // the codes of PS3.4 B.2.3 would blame the data set or our resources, which is not true.
            Failure::Conflict => Status::DUPLICATE_SOP_INSTANCE,
            Failure::Store(_) => Status::PROCESSING_FAILURE,
        }
    }
}

impl Transfer {
    /// Judges the command and, where nothing is wrong with it, begins to take the object in.
    pub(super) fn start(store: &Store, peer: &Peer, context: &Context, request: StoreRq, bytes_max: u64) -> Self {
        let state = judge(&request, context).map(|instance| {
            let Instance { sop_class, sop_instance, transfer_syntax } = &instance;
            let meta = file_meta(sop_class, sop_instance, transfer_syntax, Some(&peer.calling));
            let arrival = store.arrive(sop_instance, meta);
            (instance, arrival)
        });
        Self { request, bytes: 0, bytes_max, state }
    }

    /// Takes the next bytes of the data set. Waits while the disk is slower than the network.
    pub(super) async fn fragment(&mut self, bytes: Vec<u8>) {
        self.bytes += bytes.len() as u64;
        let Ok((_, arrival)) = &mut self.state else { return };
        if self.bytes > self.bytes_max {
            self.state = Err(Failure::TooLarge { bytes_max: self.bytes_max });
            return;
        }
        if bytes.is_empty() {
            return;
        }
        if let Err(cause) = arrival.take(bytes).await {
            self.state = Err(Failure::Store(cause));
        }
    }

    /// Bytes of the data set so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// After the last fragment: makes the object durable and words the answer.
    pub(super) async fn finish(self, store: &Store, peer: &Peer) -> Response {
        let instance = self.request.sop_instance.as_ref().map(|uid| store.log_id(uid.as_str()));
        let outcome = match self.state {
            Ok(_) if self.bytes == 0 => Err(Failure::EmptyDataSet),
            Ok((instance, arrival)) => commit(instance, arrival, peer).await,
            Err(failure) => Err(failure),
        };
        match outcome {
            Ok(repeated) => {
                debug!(instance, bytes = self.bytes, repeated, "object stored");
                Response::to_store(&self.request, Status::SUCCESS, None)
            }
            Err(failure) => {
                let status = failure.status();
                match &failure {
                    Failure::Store(cause) => error!(instance, %status, %cause, "object not stored"),
                    Failure::Conflict => warn!(
                        instance,
                        "another object with a known SOP Instance UID was kept aside in the folder conflicts; find \
                         out which of the two is right"
                    ),
                    _ => warn!(instance, bytes = self.bytes, %status, cause = %failure, "object not stored"),
                }
                Response::to_store(&self.request, status, Some(failure.to_string()))
            }
        }
    }
}

/// The answer to a C-STORE-RQ that announces no data set, so that no transfer begins.
pub(super) fn without_data_set(request: &StoreRq) -> Response {
    Response::to_store(request, Failure::NoDataSet.status(), Some(Failure::NoDataSet.to_string()))
}

/// Waits for the store. `Ok(true)` for an object that was there already.
async fn commit(instance: Instance, arrival: Arrival, peer: &Peer) -> Result<bool, Failure> {
    let received = ReceivedInstance {
        study: None,
        sop_class: instance.sop_class,
        sop_instance: instance.sop_instance,
        transfer_syntax: instance.transfer_syntax,
        calling: peer.calling.clone(),
        called: peer.called.clone(),
        peer: peer.address,
        received_at: chrono::Utc::now(),
    };
    match arrival.commit(&received).await.map_err(Failure::Store)? {
        Accepted::New => Ok(false),
        Accepted::Duplicate => Ok(true),
        Accepted::Conflict { .. } => Err(Failure::Conflict),
    }
}

fn judge(request: &StoreRq, context: &Context) -> Result<Instance, Failure> {
    // On a context on which it is the provider only, the peer has nothing to store.
    let Some(sop_class) = request.sop_class.clone().filter(|class| context.roles.scu && is_storage_accepted(class))
    else {
        return Err(Failure::SopClassNotSupported);
    };
    if sop_class != context.abstract_syntax {
        return Err(Failure::SopClassMismatch);
    }
    let Some(sop_instance) = request.sop_instance.clone() else {
        return Err(Failure::InvalidSopInstance);
    };
    Ok(Instance { sop_class, sop_instance, transfer_syntax: context.transfer_syntax.clone() })
}

/// What a peer may learn of a store error; the log has the rest.
fn comment(cause: &StoreError) -> &'static str {
    match cause {
        StoreError::OutOfRoom { .. } => "out of disk space",
        StoreError::ReadOnly(_) | StoreError::Distrusted(_) => "the disk cannot be written to",
        StoreError::Busy => "the index is locked by another process",
        StoreError::Slow(_) => "the disk is too slow",
        StoreError::Closing => "the node is shutting down",
        _ => "the object could not be stored",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn every_cause_has_its_status_and_a_comment_that_fits() {
        let full = || StoreError::OutOfRoom { dir: PathBuf::from("/data"), detail: "0 bytes are free".into() };
        let rows = [
            (Failure::NoDataSet, 0x0212),
            (Failure::SopClassNotSupported, 0x0122),
            (Failure::SopClassMismatch, 0xA900),
            (Failure::InvalidSopInstance, 0x0117),
            (Failure::EmptyDataSet, 0xC000),
            (Failure::TooLarge { bytes_max: u64::MAX }, 0xA700),
            (Failure::Conflict, 0x0111),
            (Failure::Store(full()), 0xA700),
            (Failure::Store(StoreError::ReadOnly("/data".into())), 0xA700),
            (Failure::Store(StoreError::Distrusted("sync of /data".into())), 0xA700),
            (Failure::Store(StoreError::Busy), 0xA700),
            (Failure::Store(StoreError::Closing), 0x0110),
            (Failure::Store(StoreError::Contents("x".into())), 0x0110),
        ];
        for (failure, expected) in rows {
            assert_eq!(failure.status(), Status(expected), "{failure:?}");
            assert!(failure.to_string().len() <= 64, "{failure} is longer than an Error Comment");
            assert!(!failure.to_string().contains("/data"), "{failure} tells a peer about our folders");
        }
    }

    #[test]
    fn a_command_is_judged_against_its_presentation_context() {
        let uid = |text: &str| Uid::parse(text).unwrap();
        let (ct, mr, rt_dose) =
            ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.481.2");
        let context = |scu| Context {
            abstract_syntax: uid(ct),
            transfer_syntax: uid("1.2.840.10008.1.2"),
            roles: dicom_ul::pdu::RequestorRoles { scu, scp: !scu },
        };
        let check = |class: Option<&str>, instance: Option<&str>, expected: Option<Status>| {
            let request = StoreRq {
                message_id: 1,
                sop_class: class.map(uid),
                sop_instance: instance.map(uid),
                has_data_set: true,
            };
            let not_a_user = judge(&request, &context(false)).err().map(|f| f.status());
            assert_eq!(not_a_user, Some(Status::SOP_CLASS_NOT_SUPPORTED));
            assert_eq!(judge(&request, &context(true)).err().map(|f| f.status()), expected, "{class:?} {instance:?}");
        };
        check(Some(ct), Some("1.2.3"), None);
        check(Some(mr), Some("1.2.3"), Some(Status::DATA_SET_MISMATCH));
        check(Some(rt_dose), Some("1.2.3"), Some(Status::SOP_CLASS_NOT_SUPPORTED));
        check(None, Some("1.2.3"), Some(Status::SOP_CLASS_NOT_SUPPORTED));
        check(Some(ct), None, Some(Status::INVALID_SOP_INSTANCE));
    }
}
