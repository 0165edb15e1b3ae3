//! C-FIND as a provider, on the node's own reports (PS3.4 C.4.1), and the search with which C-GET begins too.
//!
//! A query without a UID costs a file for each report that there is. So searches are bounded in number and time, hold a
//! page of reports in memory, and look between pages and between answers whether the peer has cancelled. Neighbours:
//! `store` lists and reads, `dicom` understands and matches. What is asked for and found never reaches the log.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tracing::{error, info, warn};

use super::super::searches::{Place, Searches};
use super::{Association, End};
use crate::dicom::{
    Bounds, CommandField, DataSet, DataSetError, Encoding, Query, QueryFault, QueryRq, Reply, Response, Status,
};
use crate::store::{CatalogCursor, CatalogReport, Store, StoreError};

/// What an identifier may cost.
pub(super) const IDENTIFIER_BOUNDS: Bounds = Bounds { bytes_max: 64 << 10, elements_max: 1000, depth_max: 3 };

/// Most matches that are told; a peer that wants more than this narrows its query.
const MATCHES_MAX: u32 = 5000;

/// Longest search, with the answers to it: reports are looked at by the page, and somebody waits.
const TIME_MAX: Duration = Duration::from_secs(60);

/// A search of the catalogue that a peer asked for.
#[derive(Debug)]
pub(super) struct Search {
    pub(super) query: Query,
    pub(super) encoding: Encoding,
    message_id: u16,
    deadline: Instant,
    after: Option<CatalogCursor>,
    is_over: bool,
    /// Shared with the work on a page, which does not end where nobody waits for it any more.
    place: Arc<Place>,
}

/// Why a query or a retrieval ends before it is done.
#[derive(Debug)]
pub(super) enum Stop {
    Association(End),
    Cancelled,
    /// The right to ask was taken from the source since the association began.
    NotAllowed,
    /// What is wrong with the identifier.
    Mismatch(String),
    /// What the peer wants is more than it gets.
    TooMuch(String),
    Store(StoreError),
}

impl Association {
    pub(super) async fn find(
        &mut self,
        id: u8,
        request: &QueryRq,
        identifier: Result<Vec<u8>, DataSetError>,
        store: &Store,
    ) -> Result<(), End> {
        let (status, comment) = match self.tell_matches(id, request, identifier, store).await {
            Ok(()) => (Status::SUCCESS, None),
            Err(stop) => stop.told(Status::OUT_OF_RESOURCES)?,
        };
        self.tell(id, &reply(CommandField::C_FIND_RQ, request, status, comment).encode(), None).await
    }

    async fn tell_matches(
        &mut self,
        id: u8,
        request: &QueryRq,
        identifier: Result<Vec<u8>, DataSetError>,
        store: &Store,
    ) -> Result<(), Stop> {
        let mut search = self.search(id, request, identifier, Query::to_find)?;
        let status = match search.query.has_unsupported {
            true => Status::PENDING_WITHOUT_KEYS,
            false => Status::PENDING,
        };
        let pending = reply(CommandField::C_FIND_RQ, request, status, None);
        let pending = Reply { has_data_set: true, ..pending }.encode();
        let mut told = 0;
        while let Some(page) = self.page(&mut search, store).await? {
            for report in page {
                self.go_on(&search, store).await?;
                if told == MATCHES_MAX {
                    return Err(Stop::TooMuch(format!("more than {MATCHES_MAX} matches: narrow the query")));
                }
                told += 1;
                let answer = search.query.answer(&report.elements, &self.peer.called).encode(search.encoding);
                search.in_time(self.tell(id, &pending, Some(&answer))).await?;
            }
        }
        info!(told, level = ?search.query.level, "a query was answered");
        Ok(())
    }

    /// Begins a search, if the identifier is one that `understand` takes.
    pub(super) fn search(
        &self,
        id: u8,
        request: &QueryRq,
        identifier: Result<Vec<u8>, DataSetError>,
        understand: fn(&DataSet) -> Result<Query, QueryFault>,
    ) -> Result<Search, Stop> {
        if !self.gate.may_query(&self.peer.calling, self.peer.address) {
            return Err(Stop::NotAllowed);
        }
        let encoding = self.contexts.get(&id).and_then(|context| Encoding::of(&context.transfer_syntax));
        let encoding = encoding.ok_or_else(|| Stop::Mismatch("not an encoding that is read".into()))?;
        let set = identifier.and_then(|bytes| DataSet::parse(&bytes, encoding, IDENTIFIER_BOUNDS));
        let set = set.map_err(|fault| Stop::Mismatch(fault.to_string()))?;
        let query = understand(&set).map_err(|fault| Stop::Mismatch(fault.to_string()))?;
        Search::begin(query, encoding, request.message_id, (&self.searches, self.peer.address))
    }

    /// The next matches, which may be none; `None` after the last.
    pub(super) async fn page(
        &mut self,
        search: &mut Search,
        store: &Store,
    ) -> Result<Option<Vec<CatalogReport>>, Stop> {
        if search.is_over {
            return Ok(None);
        }
        self.go_on(search, store).await?;
        let catalog = store.catalog(&search.query.keys, search.after, Arc::clone(&search.place));
        let page = timeout_at(search.deadline, catalog).await;
        let page = page.map_err(|_| Stop::late())?.map_err(Stop::Store)?;
        (search.after, search.is_over) = (page.next, page.next.is_none());
        Ok(Some(page.reports))
    }

    /// Whether the search may go on.
    async fn go_on(&mut self, search: &Search, store: &Store) -> Result<(), Stop> {
        match self.is_cancelled(search.message_id, store).await? {
            true => Err(Stop::Cancelled),
            false => search.check_time(),
        }
    }
}

impl Search {
    fn begin(
        query: Query,
        encoding: Encoding,
        message_id: u16,
        (searches, host): (&Searches, IpAddr),
    ) -> Result<Self, Stop> {
        let place = searches.begin(host);
        let place = place.ok_or_else(|| Stop::TooMuch("too many queries at once: ask again later".into()))?;
        let (deadline, place) = (Instant::now() + TIME_MAX, Arc::new(place));
        Ok(Self { query, encoding, message_id, deadline, after: None, is_over: false, place })
    }

    /// Tells a match while there is time: a peer that does not read keeps its place no longer than others. What it was
    /// sent is cut off then, so that the association is lost.
    async fn in_time(&self, telling: impl Future<Output = Result<(), End>>) -> Result<(), Stop> {
        let told = timeout_at(self.deadline, telling).await.unwrap_or(Err(End::Unread(TIME_MAX)));
        told.map_err(Stop::Association)
    }

    fn check_time(&self) -> Result<(), Stop> {
        if Instant::now() < self.deadline { Ok(()) } else { Err(Stop::late()) }
    }
}

impl From<End> for Stop {
    fn from(end: End) -> Self {
        Self::Association(end)
    }
}

impl Stop {
    fn late() -> Self {
        Self::TooMuch(format!("the search took longer than {TIME_MAX:?}: ask for less"))
    }

    /// What the last response says, where `too_much` is the service's status for that. It is logged here.
    pub(super) fn told(self, too_much: Status) -> Result<(Status, Option<String>), End> {
        match self {
            Stop::Association(end) => Err(end),
            Stop::Cancelled => {
                info!("a query or retrieval was cancelled");
                Ok((Status::CANCEL, None))
            }
            Stop::NotAllowed => {
                warn!("a query or retrieval of a source that may not ask any more (sources.query)");
                Ok((Status::NOT_AUTHORISED, Some("this AE may not query any more".into())))
            }
            Stop::Mismatch(fault) => {
                warn!(%fault, "a query or retrieval was not understood");
                Ok((Status::DATA_SET_MISMATCH, Some(fault)))
            }
            Stop::TooMuch(cause) => {
                warn!(cause, "a query or retrieval was given up");
                Ok((too_much, Some(cause)))
            }
            Stop::Store(cause) => {
                error!(%cause, "the reports could not be listed");
                Ok((Status::CANNOT_UNDERSTAND, Some("the reports could not be listed".into())))
            }
        }
    }
}

/// A response without counts and data set; the class of the request was judged.
pub(super) fn reply(field: CommandField, request: &QueryRq, status: Status, comment: Option<String>) -> Reply {
    let response = Response {
        field: field.response(),
        responded_to: request.message_id,
        sop_class: request.sop_class.clone(),
        sop_instance: None,
        status,
        comment,
    };
    Reply { response, sub_operations: None, has_data_set: false }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dicom::QueryLevel;

    fn begin(searches: &Searches) -> Result<Search, Stop> {
        let query = Query { level: QueryLevel::Study, keys: Vec::new(), has_unsupported: false };
        let host = std::net::Ipv4Addr::LOCALHOST.into();
        Search::begin(query, Encoding::ExplicitLittleEndian, 1, (searches, host))
    }

    fn told(stop: Stop) -> (u16, String) {
        let (status, comment) = stop.told(Status::OUT_OF_RESOURCES).expect("the association goes on");
        (status.0, comment.expect("a comment"))
    }

    #[test]
    fn searches_are_bounded_in_number_and_in_time() {
        let searches = Searches::new(1);
        let mut first = begin(&searches).expect("room for one");
        let (status, comment) = told(begin(&searches).expect_err("no room for a second"));
        assert!(status == 0xA700 && comment.contains("at once") && comment.len() <= 64, "{comment}");
        assert!(first.check_time().is_ok());
        first.deadline -= TIME_MAX;
        let (status, comment) = told(first.check_time().expect_err("too late"));
        assert!(status == 0xA700 && comment.contains("took longer") && comment.len() <= 64, "{comment}");
        drop(first);
        assert!(begin(&searches).is_ok());
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_loses_its_place_with_its_association() {
        let searches = Searches::new(1);
        let mut search = begin(&searches).expect("room for one");
        assert!(search.in_time(std::future::ready(Ok(()))).await.is_ok());
        search.deadline -= TIME_MAX;
        let stop = search.in_time(std::future::pending()).await.expect_err("nobody reads");
        assert!(matches!(stop, Stop::Association(End::Unread(TIME_MAX))), "{stop:?}");
    }
}
