//! C-GET as a provider, of the node's own reports (PS3.4 C.4.3): each is sent by C-STORE on the peer's association.
//!
//! A report exists in up to three SOP classes; the first that the peer takes as a storage provider (role selection) is
//! sent, in its withheld form only. Neighbours: `query` has the matching, `dialogue` listens meanwhile.

use tracing::{error, info, warn};

use super::query::{IDENTIFIER_BOUNDS, PAGE, REPORT_BOUNDS, filter};
use super::{Association, End, Violation};
use crate::dicom::{
    Command, CommandField, DataSet, DataSetError, Encoding, Query, QueryRq, Reply, Request, Response, STUDY_ROOT_GET,
    Status, StatusCategory, StoreRq, SubOperations, file_data_set,
};
use crate::domain::{Report, Uid};
use crate::store::{Store, StoreError};

/// Most reports of one retrieval.
const REPORTS_MAX: usize = 1000;

/// Failed SOP Instance UID List (0008,0058).
const FAILED_LIST: u32 = 0x0008_0058;

/// A retrieval that is under way.
struct Retrieval<'a> {
    id: u8,
    request: &'a QueryRq,
    counts: SubOperations,
    failed: Vec<Uid>,
    cancelled: bool,
}

impl Association {
    pub(super) async fn get(
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
        let query =
            match read.and_then(|identifier| Query::parse_retrieval(&identifier).map_err(|fault| fault.to_string())) {
                Ok(query) => query,
                Err(fault) => {
                    warn!(%fault, "a retrieval was not understood");
                    return self.refuse(id, request, Status::DATA_SET_MISMATCH, fault).await;
                }
            };
        let reports = match listed(store, &query).await {
            Ok(Some(reports)) => reports,
            Ok(None) => {
                let comment = format!("more than {REPORTS_MAX} reports: ask for fewer at once");
                return self.refuse(id, request, Status::TOO_MANY_MATCHES, comment).await;
            }
            Err(cause) => {
                error!(%cause, "the reports could not be listed");
                let comment = "the reports could not be listed".to_owned();
                return self.refuse(id, request, Status::CANNOT_UNDERSTAND, comment).await;
            }
        };
        let counts = SubOperations { remaining: u16::try_from(reports.len()).ok(), ..SubOperations::default() };
        let mut retrieval = Retrieval { id, request, counts, failed: Vec::new(), cancelled: false };
        for report in reports {
            if retrieval.cancelled || self.is_cancelled(request.message_id).await? {
                retrieval.cancelled = true;
                break;
            }
            self.send_report(&mut retrieval, store, report, &query.instances).await?;
            if retrieval.counts.remaining > Some(0) {
                let pending = retrieval.reply(Status::PENDING, None, false);
                self.tell(id, &pending.encode(), None).await?;
            }
        }
        self.conclude(retrieval, encoding).await
    }

    async fn conclude(&mut self, mut retrieval: Retrieval<'_>, encoding: Encoding) -> Result<(), End> {
        let SubOperations { remaining, completed, failed, warning } = retrieval.counts;
        let status = match () {
            () if retrieval.cancelled => Status::CANCEL,
            () if failed + warning == 0 => Status::SUCCESS,
            () if completed + warning == 0 => Status::NO_SUB_OPERATION,
            () => Status::SUB_OPERATIONS_FAILED,
        };
        info!(completed, failed, warning, %status, "a retrieval ended");
        // Remaining sub-operations are told of what was cancelled only (PS3.7 9.1.3.1.6).
        retrieval.counts.remaining = remaining.filter(|_| retrieval.cancelled);
        let list = (!retrieval.failed.is_empty()).then(|| {
            let uids: Vec<&str> = retrieval.failed.iter().map(Uid::as_str).collect();
            let mut set = DataSet::default();
            set.put(FAILED_LIST, b"UI", uids.join("\\"));
            set.encode(encoding)
        });
        let reply = retrieval.reply(status, None, list.is_some());
        self.tell(retrieval.id, &reply.encode(), list.as_deref()).await
    }

    /// One sub-operation, in the first class that the peer takes; `named` instances only, where there are any.
    async fn send_report(
        &mut self,
        retrieval: &mut Retrieval<'_>,
        store: &Store,
        report: i64,
        named: &[Uid],
    ) -> Result<(), End> {
        retrieval.counts.remaining = retrieval.counts.remaining.map(|remaining| remaining.saturating_sub(1));
        let variants = match store.published_report_files(report).await {
            Ok(variants) => variants,
            Err(cause) => {
                error!(report, %cause, "a report that was asked for cannot be read");
                retrieval.counts.failed += 1;
                return Ok(());
            }
        };
        let wanted: Vec<&Report> =
            variants.iter().filter(|v| named.is_empty() || named.contains(&v.sop_instance)).collect();
        let Some((context, data_set, variant)) = wanted.iter().find_map(|variant| {
            let (context, encoding) = self.report_context(&variant.sop_class)?;
            Some((context, encoded(&variant.file, encoding)?, *variant))
        }) else {
            retrieval.counts.failed += 1;
            retrieval.failed.extend(wanted.first().map(|variant| variant.sop_instance.clone()));
            return Ok(());
        };
        self.message_id = self.message_id.wrapping_add(1);
        let message_id = self.message_id;
        let command = StoreRq::new(message_id, variant.sop_class.clone(), variant.sop_instance.clone()).encode();
        self.tell(context, &command, Some(&data_set)).await?;
        let status = loop {
            match self.next_command().await? {
                (_, Command::Response(response))
                    if response.field == CommandField::C_STORE_RSP && response.responded_to == message_id =>
                {
                    break response.status;
                }
                (_, Command::Response(response)) if self.commitments.expects(&response) => {
                    self.reported(&response, store).await;
                }
                (_, Command::Request(Request::Cancel { responded_to })) => {
                    retrieval.cancelled |= responded_to == Some(retrieval.request.message_id);
                }
                _ => return Err(End::Violation(Violation::CommandUnexpected)),
            }
        };
        match status.category() {
            StatusCategory::Success => retrieval.counts.completed += 1,
            StatusCategory::Warning => retrieval.counts.warning += 1,
            _ => {
                warn!(report, %status, "a peer did not take the report that it asked for");
                retrieval.counts.failed += 1;
                retrieval.failed.push(variant.sop_instance.clone());
            }
        }
        Ok(())
    }

    /// A context on which the peer is a provider of this class.
    fn report_context(&self, class: &Uid) -> Option<(u8, Encoding)> {
        self.contexts.iter().find_map(|(id, context)| {
            let fits = context.roles.scp && context.abstract_syntax == *class;
            Encoding::of(&context.transfer_syntax).filter(|_| fits).map(|encoding| (*id, encoding))
        })
    }

    /// Ends a retrieval before its first sub-operation.
    async fn refuse(&mut self, id: u8, request: &QueryRq, status: Status, comment: String) -> Result<(), End> {
        let counts = SubOperations::default();
        let retrieval = Retrieval { id, request, counts, failed: Vec::new(), cancelled: false };
        self.tell(id, &retrieval.reply(status, Some(comment), false).encode(), None).await
    }
}

impl Retrieval<'_> {
    fn reply(&self, status: Status, comment: Option<String>, has_data_set: bool) -> Reply {
        let response = Response {
            field: CommandField::C_GET_RQ.response(),
            responded_to: self.request.message_id,
            sop_class: Uid::parse(STUDY_ROOT_GET.uid).ok(),
            sop_instance: None,
            status,
            comment,
        };
        Reply { response, sub_operations: Some(self.counts), has_data_set }
    }
}

/// The reports that are asked for; `None`: too many.
async fn listed(store: &Store, query: &Query) -> Result<Option<Vec<i64>>, StoreError> {
    let (mut ids, mut after) = (Vec::new(), 0);
    loop {
        let page = store.published_reports(&filter(query), after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(Some(ids)) };
        after = last.id;
        ids.extend(page.iter().map(|report| report.id));
        if ids.len() > REPORTS_MAX {
            return Ok(None);
        }
    }
}

/// The data set of a report's file; ours are in Explicit VR Little Endian.
fn encoded(file: &[u8], encoding: Encoding) -> Option<Vec<u8>> {
    let data_set = file_data_set(file)?;
    match encoding {
        Encoding::ExplicitLittleEndian => Some(data_set.to_vec()),
        Encoding::ImplicitLittleEndian => {
            let set = DataSet::parse(data_set, Encoding::ExplicitLittleEndian, REPORT_BOUNDS).ok()?;
            Some(set.encode(encoding))
        }
    }
}
