//! The answer of an archive that the node asked for storage commitment, on an association of the archive's own: it is
//! the requestor and the provider of the service, by role selection (PS3.4 J.3.3, PS3.7 D.3.3.4).
//!
//! Success is answered when the answer is in the index. Neighbours: `negotiate` knows who is such an archive, `store`
//! what it was asked. Left out: an answer on the association that asked, which `deliver` takes.

use tracing::{error, warn};

use super::{Association, End};
use crate::dicom::{CommandField, CommitmentRs, DataSetError, Encoding, EventReportRq, Response, Status};
use crate::store::Store;

impl Association {
    /// Takes an N-EVENT-REPORT-RQ, and answers it.
    pub(super) async fn confirmed(
        &mut self,
        id: u8,
        request: &EventReportRq,
        information: Result<Vec<u8>, DataSetError>,
        store: &Store,
    ) -> Result<(), End> {
        let (status, comment) = match self.confirm(id, request, information, store).await {
            Ok(()) => (Status::SUCCESS, None),
            Err((status, comment)) => {
                warn!(%status, comment, "a report of storage commitment was refused");
                (status, Some(comment))
            }
        };
        let response = Response::to_commitment(CommandField::N_EVENT_REPORT_RSP, request.message_id, status, comment);
        self.tell(id, &response.encode(), None).await
    }

    async fn confirm(
        &self,
        id: u8,
        request: &EventReportRq,
        information: Result<Vec<u8>, DataSetError>,
        store: &Store,
    ) -> Result<(), (Status, String)> {
        let encoding = self.contexts.get(&id).and_then(|context| Encoding::of(&context.transfer_syntax));
        let encoding = encoding.ok_or((Status::PROCESSING_FAILURE, "not an encoding that is read".to_owned()))?;
        let answer = CommitmentRs::read(request, information, encoding)?;
        match store.confirm(&self.peer.archives, &answer).await {
            Ok(true) => Ok(()),
            Ok(false) => Err((Status::INVALID_ARGUMENT, "not a Transaction UID that this archive was asked".into())),
            Err(cause) => {
                error!(%cause, "a report of storage commitment could not be recorded");
                Err((Status::PROCESSING_FAILURE, "the report could not be recorded".into()))
            }
        }
    }
}
