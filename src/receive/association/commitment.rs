//! Storage commitment as a provider (PS3.4 Annex J), as far as it happens on the association that asks.
//!
//! A request is in the index before N-ACTION-RSP is sent. It is judged beside the association, and reported on it by
//! N-EVENT-REPORT if it is still there and quiet by then; otherwise, or if the peer does not take the report, `serve`
//! sees to it on an association of its own. Neighbours: `store` judges, `dicom` has the data sets.

use std::collections::VecDeque;
use std::time::Duration;

use chrono::Utc;
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, warn};

use super::{Association, End};
use crate::dicom::{
    ActionRq, COMMITMENT_BOUNDS, CommandField, CommitmentOutcome, CommitmentRq, DataSet, DataSetError, Encoding,
    EventReportRq, REQUEST_COMMITMENT, Response, STORAGE_COMMITMENT_INSTANCE, Status, commitment_report, fault_status,
};
use crate::domain::Uid;
use crate::store::{Store, StoreError};

/// How long a request belongs to its association. What is not reported by then goes on an association of its own.
const LEASE: Duration = Duration::from_secs(120);

/// Requests of one association that are not reported yet.
const REQUESTS_MAX: usize = 8;

type Judged = Result<(Uid, Vec<CommitmentOutcome>), StoreError>;

/// The requests of an association.
#[derive(Debug, Default)]
pub(super) struct Commitments {
    judging: VecDeque<Judging>,
    reported: Option<Reported>,
}

#[derive(Debug)]
struct Judging {
    context: u8,
    id: i64,
    /// Ends with the association: nobody here would hear of it.
    task: AbortOnDropHandle<Judged>,
}

/// An N-EVENT-REPORT-RQ that was sent and not answered.
#[derive(Debug)]
struct Reported {
    message_id: u16,
    id: i64,
}

impl Commitments {
    /// Waits until a report can be sent. Cancel-safe.
    pub(super) async fn judged(&mut self) -> Judged {
        match self.judging.front_mut() {
            Some(judging) if self.reported.is_none() => {
                (&mut judging.task).await.unwrap_or_else(|ended| Err(StoreError::Contents(ended.to_string())))
            }
            _ => std::future::pending().await,
        }
    }

    /// Whether this answers the report that was sent.
    pub(super) fn expects(&self, response: &Response) -> bool {
        let id = self.reported.as_ref().map(|reported| reported.message_id);
        response.field == CommandField::N_EVENT_REPORT_RSP && id == Some(response.responded_to)
    }

    /// The association ends: others take over.
    pub(super) async fn release(&mut self, store: &Store) {
        let reported = self.reported.take().map(|reported| reported.id);
        for id in self.judging.drain(..).map(|judging| judging.id).chain(reported) {
            if let Err(cause) = store.release_commitment(id).await {
                warn!(commitment = id, %cause, "a storage commitment was not released; its lease ends by itself");
            }
        }
    }
}

impl Association {
    /// Answers an N-ACTION-RQ, and begins to judge what it asks for.
    pub(super) async fn act(
        &mut self,
        id: u8,
        request: &ActionRq,
        information: Result<Vec<u8>, DataSetError>,
        store: &Store,
    ) -> Result<(), End> {
        let (status, comment) = match self.requested(id, request, information) {
            Err((status, comment)) => (status, Some(comment)),
            Ok(commitment) => {
                let (source, called) = (&self.peer.calling, &self.peer.called);
                match store.request_commitment(source, called, &commitment, LEASE, Utc::now()).await {
                    Ok(commitment) => {
                        self.judge(id, commitment, store);
                        (Status::SUCCESS, None)
                    }
                    Err(StoreError::OutOfRoom { .. }) => {
                        (Status::RESOURCE_LIMITATION, Some("out of disk space".to_owned()))
                    }
                    Err(StoreError::TooManyCommitments(_)) => {
                        (Status::RESOURCE_LIMITATION, Some("too many requests wait for their report".to_owned()))
                    }
                    Err(cause) => {
                        error!(%cause, "a request for storage commitment could not be recorded");
                        (Status::PROCESSING_FAILURE, Some("the request could not be recorded".to_owned()))
                    }
                }
            }
        };
        if let Some(comment) = &comment {
            warn!(%status, comment, "a request for storage commitment was refused");
        }
        let response = Response::to_commitment(CommandField::N_ACTION_RSP, request.message_id, status, comment);
        self.tell(id, &response.encode(), None).await
    }

    fn requested(
        &self,
        id: u8,
        request: &ActionRq,
        information: Result<Vec<u8>, DataSetError>,
    ) -> Result<CommitmentRq, (Status, String)> {
        if request.sop_instance.as_ref().map(Uid::as_str) != Some(STORAGE_COMMITMENT_INSTANCE) {
            return Err((Status::NO_SUCH_SOP_INSTANCE, "not the well-known instance of storage commitment".into()));
        }
        if request.action_type != Some(REQUEST_COMMITMENT) {
            return Err((Status::NO_SUCH_ACTION, "action type 1 requests storage commitment".into()));
        }
        if self.commitments.judging.len() >= REQUESTS_MAX {
            return Err((Status::RESOURCE_LIMITATION, "too many requests at once on this association".into()));
        }
        let encoding = self.contexts.get(&id).and_then(|context| Encoding::of(&context.transfer_syntax));
        let encoding = encoding.ok_or((Status::PROCESSING_FAILURE, "not an encoding that is read".to_owned()))?;
        let read = information.and_then(|bytes| DataSet::parse(&bytes, encoding, COMMITMENT_BOUNDS));
        let set = read.map_err(|fault| (fault_status(&fault), fault.to_string()))?;
        CommitmentRq::parse(&set).map_err(|fault| (Status::INVALID_ARGUMENT, fault.to_string()))
    }

    fn judge(&mut self, context: u8, id: i64, store: &Store) {
        let store = store.clone();
        let task = tokio::spawn(async move { store.judge_commitment(id, Utc::now()).await });
        self.commitments.judging.push_back(Judging { context, id, task: AbortOnDropHandle::new(task) });
    }

    /// Reports the first request that was judged.
    pub(super) async fn report(&mut self, judged: Judged, store: &Store) -> Result<(), End> {
        let Some(Judging { context, id, .. }) = self.commitments.judging.pop_front() else { return Ok(()) };
        let encoding = self.contexts.get(&context).and_then(|context| Encoding::of(&context.transfer_syntax));
        let (Ok((transaction, outcomes)), Some(encoding)) = (&judged, encoding) else {
            let cause = judged.err().map(|cause| cause.to_string());
            error!(commitment = id, cause, "a storage commitment could not be judged; it will be tried again");
            let later = Utc::now() + LEASE;
            if let Err(cause) = store.commitment_failed(id, "it could not be judged", Some(later), Utc::now()).await {
                warn!(commitment = id, %cause, "the failure could not be recorded");
            }
            return Ok(());
        };
        let (event_type, information) = commitment_report(transaction, outcomes);
        self.message_id = self.message_id.wrapping_add(1);
        let message_id = self.message_id;
        // Known as reported before it is sent: if the sending fails, the end of the association releases it.
        self.commitments.reported = Some(Reported { message_id, id });
        let command = EventReportRq::commitment(message_id, event_type).encode();
        self.tell(context, &command, Some(&information.encode(encoding))).await
    }

    /// The peer has answered the report.
    pub(super) async fn reported(&mut self, response: &Response, store: &Store) {
        let Some(Reported { id, .. }) = self.commitments.reported.take() else { return };
        let now = Utc::now();
        let recorded = match response.status.is_stored() {
            true => store.commitment_answered(id, now).await,
            false => {
                let cause = format!("the report was refused on the association that asked: {}", response.status);
                store.commitment_failed(id, &cause, Some(now), now).await
            }
        };
        if let Err(cause) = recorded {
            warn!(commitment = id, %cause, "the answer could not be recorded; the result is reported again");
        }
    }
}
