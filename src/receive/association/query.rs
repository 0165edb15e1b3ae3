//! C-FIND as a provider, on the node's own reports (PS3.4 C.4.1).
//!
//! Only current reports in their withheld form are found. Reports are read a page at a time and matched one by one:
//! a query without a UID costs a file for each report that there is, and no memory. Neighbours: `dicom` matches,
//! `store` lists. What is asked for and found never reaches the log.

use tracing::{error, info, warn};

use super::{Association, End};
use crate::dicom::{
    Bounds, CommandField, DataSet, DataSetError, Encoding, Query, QueryRq, Reply, Response, STUDY_ROOT_FIND, Status,
    file_data_set, query_record,
};
use crate::store::{PublishedFilter, PublishedReport, Store};

/// What an identifier may cost.
pub(super) const IDENTIFIER_BOUNDS: Bounds = Bounds { bytes_max: 64 << 10, elements_max: 1000, depth_max: 3 };

/// What a report of our own costs at most; its content tree is deep.
pub(super) const REPORT_BOUNDS: Bounds = Bounds { bytes_max: 64 << 20, elements_max: 2_000_000, depth_max: 32 };

/// Most matches that are told; a peer that wants more than this narrows its query.
const MATCHES_MAX: u32 = 5000;

/// Reports of one page.
pub(super) const PAGE: u32 = 100;

impl Association {
    pub(super) async fn find(
        &mut self,
        id: u8,
        request: &QueryRq,
        identifier: Result<Vec<u8>, DataSetError>,
        store: &Store,
    ) -> Result<(), End> {
        let Some(encoding) = self.contexts.get(&id).and_then(|context| Encoding::of(&context.transfer_syntax)) else {
            return Ok(());
        };
        let read = identifier.and_then(|bytes| DataSet::parse(&bytes, encoding, IDENTIFIER_BOUNDS));
        let read = read.map_err(|fault| fault.to_string());
        let query = match read.and_then(|identifier| Query::parse(&identifier).map_err(|fault| fault.to_string())) {
            Ok(query) => query,
            Err(fault) => {
                warn!(%fault, "a query was not understood");
                return self.found(id, request, Status::DATA_SET_MISMATCH, Some(fault)).await;
            }
        };
        let (mut told, mut after) = (0, 0);
        loop {
            let page = match store.published_reports(&filter(&query), after, PAGE).await {
                Ok(page) => page,
                Err(cause) => {
                    error!(%cause, "the reports could not be listed");
                    let comment = Some("the reports could not be listed".to_owned());
                    return self.found(id, request, Status::CANNOT_UNDERSTAND, comment).await;
                }
            };
            let Some(last) = page.last() else { break };
            after = last.id;
            for report in &page {
                if self.is_cancelled(request.message_id).await? {
                    info!(told, "a query was cancelled");
                    return self.found(id, request, Status::CANCEL, None).await;
                }
                let Some(record) = read_record(report).await.filter(|record| query.matches(record)) else { continue };
                if told == MATCHES_MAX {
                    let comment = Some(format!("more than {MATCHES_MAX} matches: narrow the query"));
                    return self.found(id, request, Status::OUT_OF_RESOURCES, comment).await;
                }
                told += 1;
                let status = if query.has_unsupported { Status::PENDING_WITHOUT_KEYS } else { Status::PENDING };
                let answer = query.answer(&record, &self.peer.called).encode(encoding);
                let reply = reply(request, status, None, true);
                self.tell(id, &reply.encode(), Some(&answer)).await?;
            }
        }
        info!(told, level = ?query.level, "a query was answered");
        self.found(id, request, Status::SUCCESS, None).await
    }

    /// The last response of a query.
    async fn found(&mut self, id: u8, request: &QueryRq, status: Status, comment: Option<String>) -> Result<(), End> {
        self.tell(id, &reply(request, status, comment, false).encode(), None).await
    }
}

/// What the index can tell apart.
pub(super) fn filter(query: &Query) -> PublishedFilter {
    PublishedFilter { studies: query.studies.clone(), series: query.series.clone(), instances: query.instances.clone() }
}

fn reply(request: &QueryRq, status: Status, comment: Option<String>, has_data_set: bool) -> Reply {
    let response = Response {
        field: CommandField::C_FIND_RQ.response(),
        responded_to: request.message_id,
        sop_class: crate::domain::Uid::parse(STUDY_ROOT_FIND.uid).ok(),
        sop_instance: None,
        status,
        comment,
    };
    Reply { response, sub_operations: None, has_data_set }
}

/// A report of our own, as it can be asked for. One whose file is gone is not found; `fsck` and the start tell of it.
async fn read_record(report: &PublishedReport) -> Option<DataSet> {
    let file = match tokio::fs::read(&report.path).await {
        Ok(file) => file,
        Err(cause) => {
            warn!(file = %report.path.display(), %cause, "a report cannot be read");
            return None;
        }
    };
    let data_set = file_data_set(&file)?;
    match DataSet::parse(data_set, Encoding::ExplicitLittleEndian, REPORT_BOUNDS) {
        Ok(set) => Some(query_record(set)),
        Err(fault) => {
            warn!(file = %report.path.display(), %fault, "a report cannot be read");
            None
        }
    }
}
