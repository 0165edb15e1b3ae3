//! The result of a storage commitment on an association of its own: N-EVENT-REPORT, for which the node that calls is
//! the provider of the service (role selection; PS3.4 J.3.3, PS3.7 D.3.3.4).
//!
//! Neighbours: `serve` asks for it when the association that asked for commitment is gone, and says how the peer is
//! called; `confirmation` is the other side, which asks. Left out: judging what is committed.

use std::time::Duration;

use crate::config::Remote;
use crate::dicom::{
    CommandField, CommitmentOutcome, Encoding, EventReportRq, Response, STORAGE_COMMITMENT, commitment_report,
};
use crate::domain::{AeTitle, Uid};
use crate::wire::{Call, Proposal, Requestor, Roles, Security};

const MESSAGE_ID: u16 = 1;
const EXPLICIT: &str = "1.2.840.10008.1.2.1";
const IMPLICIT: &str = "1.2.840.10008.1.2";

/// Reports to the source that asked, calling under the title that it had called.
///
/// # Errors
/// Why the source has not heard of it, for people. It may hear of it the next time.
pub async fn report_commitment(
    to: &Remote,
    security: &Security,
    calling: &AeTitle,
    transaction: &Uid,
    outcomes: &[CommitmentOutcome],
    timeout: Duration,
) -> Result<(), String> {
    let told = |cause: String| format!("{}@{}:{}: {cause}", to.ae_title, to.host, to.port);
    let proposals = [Proposal {
        abstract_syntax: STORAGE_COMMITMENT.uid,
        transfer_syntaxes: &[EXPLICIT, IMPLICIT],
        roles: Some(Roles::SCP),
    }];
    let call =
        Call { host: &to.host, port: to.port, security, calling, called: &to.ae_title, proposals: &proposals, timeout };
    let mut association = Requestor::open(&call).await.map_err(|error| told(error.to_string()))?;
    let accepted = association.accepted(0).map(|a| (a.context, a.roles.scp, a.transfer_syntax == EXPLICIT));
    let (context, encoding) = match accepted {
        Some((context, true, true)) => (context, Encoding::ExplicitLittleEndian),
        Some((context, true, false)) => (context, Encoding::ImplicitLittleEndian),
        other => {
            association.release().await;
            let cause = match other {
                None => "it does not accept storage commitment",
                Some(_) => "it does not let the caller be the provider of storage commitment (role selection)",
            };
            return Err(told(cause.to_owned()));
        }
    };
    let (event_type, information) = commitment_report(transaction, outcomes);
    let command = EventReportRq::commitment(MESSAGE_ID, event_type).encode();
    let sent = association.send(context, &command, Some(&information.encode(encoding))).await;
    let answer = match sent {
        Ok(()) => association.receive().await,
        Err(error) => Err(error),
    };
    let answer = match answer {
        Ok(message) => Response::parse(&message.command).map_err(|error| format!("its answer is damaged: {error}")),
        Err(error) => Err(error.to_string()),
    };
    match answer {
        Ok(response) if response.field != CommandField::N_EVENT_REPORT_RSP || response.responded_to != MESSAGE_ID => {
            association.abort().await;
            Err(told(format!("it answered with {} to message {}", response.field, response.responded_to)))
        }
        Ok(response) => {
            association.release().await;
            match response.status.is_stored() {
                true => Ok(()),
                false => Err(told(format!("it refused the report: {}", response.status))),
            }
        }
        Err(cause) => {
            association.abort().await;
            Err(told(cause))
        }
    }
}
