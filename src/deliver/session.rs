//! A road to one destination, for one report after the other: an association, or requests to a DICOMweb service.
//!
//! Neighbours: `peer` and `stow` are the roads, `transcode` the encoding. Left out: which report goes when.

use std::sync::Arc;

use tracing::{info, warn};

use crate::config::{Destination, Endpoint, Mode};
use crate::dicom::Status;
use crate::domain::{AeTitle, Uid};

use super::peer::{Connection, Proposal};
use super::transcode::{self, EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN};
use super::{DeliverError, Peer, ReportFile, Sent, allowed, security, stow};
use crate::wire::Tls;

/// A destination that can be sent to.
pub struct Session {
    road: Road,
    destination: Destination,
    /// SOP classes that it was opened for, in order.
    classes: Vec<Uid>,
    /// Whether it took a report before.
    used: bool,
}

enum Road {
    Association(Connection),
    /// Each request is a connection of its own.
    Requests,
}

impl Session {
    /// Opens the road for reports like this one; an association takes at most `destination.timeout`.
    ///
    /// # Errors
    /// [`DeliverError`]. But for [`DeliverError::NotAllowed`], [`DeliverError::NothingToSend`] and
    /// [`DeliverError::File`] it says that the destination could not be reached, and nothing of the report.
    pub async fn open(
        mode: Mode,
        destination: &Destination,
        tls: &Arc<Tls>,
        calling: &AeTitle,
        alternatives: &[ReportFile<'_>],
    ) -> Result<Self, DeliverError> {
        allowed(mode, destination)?;
        if alternatives.is_empty() {
            return Err(DeliverError::NothingToSend);
        }
        let road = match &destination.endpoint {
            Endpoint::Dimse { ae_title, host, port, tls: asked } => {
                alternatives.iter().try_for_each(|a| transcode::data_set(a.file).map(drop))?;
                let peer = Peer { ae_title: ae_title.clone(), host: host.clone(), port: *port };
                let proposals = proposals(alternatives);
                Road::Association(
                    Connection::open(
                        &peer,
                        &security(&peer, asked.as_ref(), tls)?,
                        calling,
                        &proposals,
                        destination.timeout,
                    )
                    .await?,
                )
            }
            Endpoint::Stow { .. } => Road::Requests,
        };
        let classes = alternatives.iter().map(|a| a.sop_class.clone()).collect();
        Ok(Self { road, destination: destination.clone(), classes, used: false })
    }

    /// Whether it can carry these: an association is opened for the SOP classes of a report, or for that of a map.
    pub fn carries(&self, alternatives: &[ReportFile<'_>]) -> bool {
        match self.road {
            Road::Association(_) => self.classes.iter().eq(alternatives.iter().map(|a| a.sop_class)),
            Road::Requests => true,
        }
    }

    /// Sends the first of `alternatives` whose SOP class the destination accepts. Takes at most twice the destination's
    /// timeout, by STOW-RS four times for each of them.
    ///
    /// # Errors
    /// [`DeliverError`]; its [`retry`](DeliverError::retry) says whether another attempt makes sense,
    /// [`unreached`](DeliverError::unreached) whether it says anything of the report.
    pub async fn send(&mut self, alternatives: &[ReportFile<'_>]) -> Result<Sent, DeliverError> {
        let sent = match (&mut self.road, &self.destination.endpoint) {
            (Road::Association(connection), _) => store(connection, alternatives).await,
            (Road::Requests, Endpoint::Stow { url, token_file }) => {
                return stow::send(url, token_file.as_deref(), &self.destination, alternatives).await;
            }
            (Road::Requests, Endpoint::Dimse { .. }) => Err(DeliverError::NothingToSend),
        };
        self.used |= sent.is_ok();
        let destination = &self.destination.name;
        match &sent {
            Ok(Sent { status: Status::SUCCESS, .. }) => info!(destination, "report delivered"),
            Ok(Sent { status, .. }) => warn!(destination, %status, "report delivered with a remark"),
            Err(_) => {}
        }
        sent
    }

    /// Whether it took a report before: peers may end an association after each, which says nothing of the next.
    pub fn used(&self) -> bool {
        self.used
    }

    /// Releases the association, or aborts it after an error that leaves it unusable.
    pub async fn end(self, after: Option<&DeliverError>) {
        match (self.road, after) {
            (Road::Requests, _) => {}
            (Road::Association(connection), error) if error.is_none_or(DeliverError::is_orderly) => {
                connection.close().await;
            }
            (Road::Association(connection), _) => connection.abort().await,
        }
    }
}

/// By C-STORE, in Explicit VR Little Endian where the peer can, else Implicit.
async fn store(connection: &mut Connection, alternatives: &[ReportFile<'_>]) -> Result<Sent, DeliverError> {
    let proposals = proposals(alternatives);
    let peer = connection.peer().to_owned();
    let Some((chosen, context)) = connection.first_accepted(&proposals) else {
        return Err(DeliverError::NotAccepted { peer });
    };
    let index = chosen / 2;
    let alternative = &alternatives[index];
    let data_set = transcode::data_set(alternative.file)?;
    let implicit;
    let bytes = if proposals[chosen].transfer_syntax == IMPLICIT_VR_LITTLE_ENDIAN {
        implicit = transcode::to_implicit(data_set)?;
        &implicit[..]
    } else {
        data_set
    };
    let response = connection.store(context, alternative.sop_class, alternative.sop_instance, bytes).await?;
    let status = response.status;
    // The bytes under this UID never change: a duplicate is the trace of an attempt whose answer was lost.
    if !status.is_stored() && status != Status::DUPLICATE_SOP_INSTANCE {
        return Err(DeliverError::Status { peer, status, comment: response.comment });
    }
    let (sop_class, sop_instance) = (alternative.sop_class.clone(), alternative.sop_instance.clone());
    Ok(Sent { index, sop_class, sop_instance, status })
}

/// A context of its own for each pair, so that the choice among them is ours (PS3.8 9.3.2.2).
fn proposals<'a>(alternatives: &[ReportFile<'a>]) -> Vec<Proposal<'a>> {
    let pairs = |a: &ReportFile<'a>| {
        let abstract_syntax = a.sop_class.as_str();
        [EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN]
            .map(|transfer_syntax| Proposal { abstract_syntax, transfer_syntax })
    };
    alternatives.iter().flat_map(pairs).collect()
}
