//! C-GET as a provider, of the node's own reports (PS3.4 C.4.3): each is sent by C-STORE on the peer's association.
//!
//! A report exists in up to three SOP classes; the first that the peer takes as a storage provider (role selection) is
//! sent, in its withheld form only. Neighbours: `query` has the search, `dialogue` listens meanwhile.

use tracing::{error, info, warn};

use super::query::{Search, Stop, reply};
use super::{Association, End, Violation};
use crate::dicom::{
    Command, CommandField, DataSet, DataSetError, Encoding, Key, Query, QueryLevel, QueryRq, Reply, Request, Status,
    StatusCategory, StoreRq, SubOperations, tag,
};
use crate::domain::Uid;
use crate::store::{ReportVariant, Store, StoreError};

/// Most reports of one retrieval.
const REPORTS_MAX: usize = 1000;

/// Failed SOP Instance UID List (0008,0058).
const FAILED_LIST: u32 = 0x0008_0058;

/// A retrieval that is under way.
struct Retrieval<'a> {
    id: u8,
    request: &'a QueryRq,
    /// Whether instances are named: each goes as itself, and in no other class.
    by_instance: bool,
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
        let (level, encoding, reports) = match self.listed(id, request, identifier, store).await {
            Ok(listed) => listed,
            Err(stop) => {
                let (status, comment) = stop.told(Status::TOO_MANY_MATCHES)?;
                let last = reply(CommandField::C_GET_RQ, request, status, comment);
                let last = Reply { sub_operations: Some(SubOperations::default()), ..last };
                return self.tell(id, &last.encode(), None).await;
            }
        };
        let counts = SubOperations { remaining: u16::try_from(reports.len()).ok(), ..SubOperations::default() };
        let by_instance = level == QueryLevel::Image;
        let mut retrieval = Retrieval { id, request, by_instance, counts, failed: Vec::new(), cancelled: false };
        for report in reports {
            if retrieval.cancelled || self.is_cancelled(request.message_id, store).await? {
                retrieval.cancelled = true;
                break;
            }
            self.send_report(&mut retrieval, store, report).await?;
            if retrieval.counts.remaining > Some(0) {
                let pending = retrieval.reply(Status::PENDING, false);
                self.tell(id, &pending.encode(), None).await?;
            }
        }
        self.conclude(retrieval, encoding).await
    }

    /// The reports that are asked for, by UID: they are read when their turn comes.
    async fn listed(
        &mut self,
        id: u8,
        request: &QueryRq,
        identifier: Result<Vec<u8>, DataSetError>,
        store: &Store,
    ) -> Result<(QueryLevel, Encoding, Vec<Uid>), Stop> {
        let mut search = self.search(id, request, identifier, Query::to_get)?;
        let mut listed = Vec::new();
        while let Some(page) = self.page(&mut search, store).await? {
            listed.extend(page.into_iter().map(|report| report.sop_instance));
            if listed.len() > REPORTS_MAX {
                return Err(Stop::TooMuch(format!("more than {REPORTS_MAX} reports: ask for fewer at once")));
            }
        }
        let Search { query, encoding, .. } = search;
        Ok((query.level, encoding, listed))
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
        let reply = retrieval.reply(status, list.is_some());
        self.tell(retrieval.id, &reply.encode(), list.as_deref()).await
    }

    /// One sub-operation.
    async fn send_report(&mut self, retrieval: &mut Retrieval<'_>, store: &Store, report: Uid) -> Result<(), End> {
        retrieval.counts.remaining = retrieval.counts.remaining.map(|remaining| remaining.saturating_sub(1));
        let sendable = self.sendable(store, &report, retrieval.by_instance).await;
        let (context, variant, data_set) = match sendable {
            Ok(Some(sendable)) => sendable,
            nothing => {
                if let Err(cause) = nothing {
                    error!(%cause, "a report that was asked for cannot be read");
                }
                retrieval.fail(report);
                return Ok(());
            }
        };
        self.message_id = self.message_id.wrapping_add(1);
        let message_id = self.message_id;
        let command = StoreRq::new(message_id, variant.sop_class.clone(), variant.sop_instance.clone()).encode();
        self.tell(context, &command, Some(&data_set)).await?;
        let status = loop {
            match self.next_command().await? {
                Command::Response(response)
                    if response.field == CommandField::C_STORE_RSP && response.responded_to == message_id =>
                {
                    break response.status;
                }
                Command::Response(response) if self.commitments.expects(&response) => {
                    self.reported(&response, store).await;
                }
                Command::Request(Request::Cancel { responded_to }) => {
                    retrieval.cancelled |= responded_to == Some(retrieval.request.message_id);
                }
                _ => return Err(End::Violation(Violation::CommandUnexpected)),
            }
        };
        match status.category() {
            StatusCategory::Success => retrieval.counts.completed += 1,
            StatusCategory::Warning => retrieval.counts.warning += 1,
            _ => {
                warn!(%status, "a peer did not take the report that it asked for");
                retrieval.fail(variant.sop_instance);
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

    /// A report in the first class that the peer takes, with the context for it. It is looked up again: what was
    /// replaced since it was listed is not sent.
    async fn sendable(
        &self,
        store: &Store,
        report: &Uid,
        by_instance: bool,
    ) -> Result<Option<(u8, ReportVariant, Vec<u8>)>, StoreError> {
        let page = store.catalog(&[Key::of_uid(tag::INSTANCE, report)], None, ()).await?;
        let mut variants = page.reports.into_iter().flat_map(|report| report.variants);
        let sendable = variants.find_map(|variant| {
            let fits = !by_instance || variant.sop_instance == *report;
            let (context, encoding) = self.report_context(&variant.sop_class).filter(|_| fits)?;
            Some((context, encoding, variant))
        });
        let Some((context, encoding, variant)) = sendable else { return Ok(None) };
        let data_set = store.report_data_set(&variant, encoding).await?;
        Ok(Some((context, variant, data_set)))
    }
}

impl Retrieval<'_> {
    fn fail(&mut self, report: Uid) {
        self.counts.failed += 1;
        self.failed.push(report);
    }

    fn reply(&self, status: Status, has_data_set: bool) -> Reply {
        let reply = reply(CommandField::C_GET_RQ, self.request, status, None);
        Reply { sub_operations: Some(self.counts), has_data_set, ..reply }
    }
}
