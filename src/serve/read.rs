//! Reads, decodes and scores what arrived.
//!
//! What has to wait for its turn is asked for its study meanwhile: a study is closed only once nothing unread could belong
//! to it, and would otherwise wait for everything that its sender sent before then.
//!
//! Neighbours: `analyse` does it, `store` hands out the objects and takes what they came to. Left out: what a fault
//! of an object is, which the workers say.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use chrono::Utc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use super::watchdog::Loop;
use super::{ATTEMPTS_MAX, IDLE, INTERRUPTIONS_MAX, LEASE, Node};
use crate::analyse::{Read, ReadOptions};
use crate::domain::{InstanceHeader, Purpose, Refusal, RefusalCode, Timestamp, Uid};
use crate::infer::Company;
use crate::store::{PendingInstance, Reading};

/// Objects whose headers are kept until their turn comes, a few kilobytes each.
const HEADERS_MAX: usize = 1024;
/// Objects that are asked for their study before it is looked again at which there are.
const NAMELESS_AT_ONCE: usize = 64;
/// Objects that cannot say it; where there are more, others wait until some of them were read.
const SECRETIVE_MAX: usize = 4096;

/// Headers of objects that wait to be read, by the object's file, which no other object has.
#[derive(Default)]
pub(super) struct Headers(Mutex<HashMap<PathBuf, InstanceHeader>>);

impl Headers {
    fn take(&self, file: &Path) -> Option<InstanceHeader> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(file)
    }

    fn keep(&self, headers: Vec<(PathBuf, InstanceHeader)>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that are read first came first; who finds none reads it again.
        let room = HEADERS_MAX.saturating_sub(kept.len());
        kept.extend(headers.into_iter().take(room));
    }
}

/// Objects that keep the secret of their study until they are read.
#[derive(Default)]
struct Secretive(HashSet<Uid>);

impl Secretive {
    /// How many more may be asked.
    fn room(&self) -> usize {
        NAMELESS_AT_ONCE.min(SECRETIVE_MAX.saturating_sub(self.0.len()))
    }

    /// How many objects without a name are looked for, to find as many as may be asked behind those that were.
    fn limit(&self) -> u32 {
        u32::try_from(self.0.len() + self.room()).unwrap_or(u32::MAX)
    }

    /// Those that are to be asked. What is nameless no more is forgotten.
    fn others(&mut self, nameless: Vec<(Uid, PathBuf)>) -> (Vec<Uid>, Vec<PathBuf>) {
        let room = self.room();
        let (known, others): (Vec<_>, Vec<_>) = nameless.into_iter().partition(|(object, _)| self.0.contains(object));
        self.0 = known.into_iter().map(|(object, _)| object).collect();
        others.into_iter().take(room).unzip()
    }
}

impl Node {
    /// Asks what waits for its turn for its study.
    pub(super) async fn naming_loop(self: Arc<Self>) {
        let mut secretive = Secretive::default();
        while !self.cancel.is_cancelled() {
            let nameless = match self.store.nameless(secretive.limit()).await {
                Ok(nameless) => nameless,
                Err(error) => {
                    self.trouble("looking for objects that wait", &error).await;
                    continue;
                }
            };
            let (objects, files) = secretive.others(nameless);
            if objects.is_empty() {
                self.pause(&self.backlog, IDLE).await;
                continue;
            }
            let headers = self.analyser.headers(files.clone()).await;
            if headers.is_empty() {
                self.trouble("asking objects for their studies", &"no decode worker answers").await;
            }
            let (mut named, mut kept) = (Vec::new(), Vec::new());
            for ((object, file), header) in objects.into_iter().zip(files).zip(headers) {
                match header {
                    Ok(header) => {
                        named.push((object, header.study.clone()));
                        kept.push((file, header));
                    }
                    Err(_) => {
                        secretive.0.insert(object);
                    }
                }
            }
            let files: Vec<PathBuf> = kept.iter().map(|(file, _)| file.clone()).collect();
            self.headers.keep(kept);
            let waiting = match self.store.name_studies(&named).await {
                Ok(waiting) => waiting,
                Err(error) => {
                    self.trouble("noting the studies of objects", &error).await;
                    Vec::new()
                }
            };
            // Whose reading has begun meanwhile fetches no header any more.
            let waits = waiting.into_iter().chain(std::iter::repeat(false));
            files.iter().zip(waits).filter(|(_, waits)| !waits).for_each(|(file, _)| drop(self.headers.take(file)));
        }
    }

    /// Reads, decodes and scores what arrived: as many at once as there are readers, and beside them those that wait for
    /// their scores.
    pub(super) async fn read_loop(self: Arc<Self>) {
        let objects = Arc::new(Semaphore::new(self.analyser.objects_max()));
        let tasks = TaskTracker::new();
        while let Some(object) = self.permit(&objects, Loop::Reading).await
            && let Some(reader) = self.permit(self.analyser.readers(), Loop::Reading).await
        {
            if self.analyser.readers().available_permits() == 0 {
                self.backlog.notify_one();
            }
            let claimed = self.store.claim_received(1, LEASE, Utc::now()).await;
            match claimed.map(|mut claimed| claimed.pop()) {
                Ok(Some(instance)) => {
                    let node = Arc::clone(&self);
                    tasks.spawn(async move {
                        node.read(instance, reader).await;
                        drop(object);
                    });
                }
                Ok(None) => self.pause(&self.store.wake().instance_arrived, IDLE).await,
                Err(error) => self.trouble("looking for objects to read", &error).await,
            }
        }
        tasks.close();
        tasks.wait().await;
    }

    async fn read(&self, pending: PendingInstance, reader: OwnedSemaphorePermit) {
        let sop_instance = &pending.sop_instance;
        if pending.attempts > ATTEMPTS_MAX || pending.interrupted > INTERRUPTIONS_MAX {
            let refusal = Refusal::new(
                RefusalCode::WorkerDied,
                format!("given up after {} attempts and {} restarts", pending.attempts - 1, pending.interrupted),
            );
            self.save(sop_instance, Reading::Refused { header: None, refusal: &refusal }).await;
            return;
        }
        let config = self.config();
        let options = ReadOptions {
            clinical: config.clinical(Some(&pending.called)),
            sender: Some(&pending.calling),
            // Whatever the node died of while it read this one, it may have been it.
            company: if pending.interrupted > 0 { Company::Nobody } else { Company::Any },
            header: self.headers.take(&pending.path),
            waited: pending.waiting_since.and_then(|at| (Utc::now() - at).to_std().ok()).unwrap_or_default(),
        };
        let mut read = match self.read_claimed(&pending, options, reader).await {
            Ok(read) => read,
            // The claim stays: the next start lifts it, and does not count it as an attempt.
            Err(error) => return self.give_up(&format!("inference ended: {error:#}")),
        };
        // A file that is gone says nothing of the object: the same one, sent again, is read anew.
        if read.refusal.is_some() && matches!(tokio::fs::try_exists(&pending.path).await, Ok(false)) {
            read.refusal = Some(Refusal::new(RefusalCode::Lost, "its file is gone; send the object again"));
        }
        if let Some(refusal) = &read.refusal {
            let (code, detail) = (refusal.code, &refusal.detail);
            // Signals to the whole service end workers too: that says nothing of the object.
            if code == RefusalCode::WorkerDied && self.cancel.is_cancelled() {
                return;
            }
            if code == RefusalCode::WorkerUnavailable {
                self.trouble("starting a decode worker", detail).await;
                return self.release(sop_instance, false, None).await;
            }
            let fleeting = matches!(code, RefusalCode::WorkerDied | RefusalCode::ModelFailed);
            if fleeting && pending.attempts < ATTEMPTS_MAX {
                warn!(attempt = pending.attempts, %code, detail, "the object will be tried again");
                // What ended the attempt, want of memory for instance, may pass; others are read meanwhile.
                let later = Utc::now() + IDLE * pending.attempts;
                return self.release(sop_instance, true, Some(later)).await;
            }
        }
        let contradiction = read.header.as_ref().and_then(|header| {
            let detail = if header.sop_instance != *sop_instance || header.sop_class != pending.sop_class {
                "SOP class or instance UID of the data set differ from those that it was sent under"
            } else if pending.announced_study.as_ref().is_some_and(|study| *study != header.study) {
                "the data set is of another study than the one that it was stored into"
            } else {
                return None;
            };
            Some(Refusal::new(RefusalCode::Inconsistent, detail))
        });
        if let Some(after) = read.later {
            // Trouble of a server or a device is no attempt of the object's.
            let study = read.header.as_ref().filter(|_| contradiction.is_none()).map(|header| &header.study);
            let now = Utc::now();
            if let Err(error) = self.store.postpone_instance(sop_instance, study, now + after, now).await {
                self.trouble("releasing the claim of an object", &error).await;
                self.release(sop_instance, false, Some(now + after)).await;
            }
            return;
        }
        if let Some(refusal) = read.failed.as_ref().filter(|_| pending.attempts < ATTEMPTS_MAX) {
            warn!(attempt = pending.attempts, detail = refusal.detail, "the object will be tried again");
            return self.release(sop_instance, true, Some(Utc::now() + IDLE * pending.attempts)).await;
        }
        let own = match self.store.is_own_report(sop_instance).await {
            Ok(own) => own,
            Err(error) => {
                self.trouble("asking for own reports", &error).await;
                return self.release(sop_instance, false, None).await;
            }
        };
        // What is no image never opens its study again, whatever else is wrong with it.
        let refusal = match read.refusal {
            _ if own => Some(Refusal::new(RefusalCode::OwnReport, "a report of sidelight is kept and never processed")),
            Some(r) if matches!(r.code, RefusalCode::OwnReport | RefusalCode::NotAnImage) => Some(r),
            other => contradiction.or(other),
        };
        let scores: Vec<_> = read
            .scores
            .into_iter()
            .map(|s| if self.analyser.is_race(&s.model) { (s, Purpose::Race) } else { (s, Purpose::Clinical) })
            .collect();
        let reading = match (&refusal, &read.header, &read.pixel_digest) {
            (None, Some(header), Some(pixel_digest)) => {
                Reading::Scored { header, pixel_digest, scores: &scores, awaited: &read.awaited }
            }
            (Some(refusal), Some(header), _) if refusal.code == RefusalCode::ClinicalResult => {
                info!(detail = %refusal.detail, "a clinical result arrived");
                read.results.iter_mut().for_each(|result| result.received_at = pending.received_at);
                Reading::Results { header, refusal, results: &read.results }
            }
            (Some(refusal), header, _) => {
                info!(code = %refusal.code, detail = %refusal.detail, "an object is not analysed");
                Reading::Refused { header: header.as_ref(), refusal }
            }
            (None, ..) => {
                error!("an object was read without a result and without a reason; it will be tried again");
                return self.release(sop_instance, true, None).await;
            }
        };
        self.save(sop_instance, reading).await;
    }

    /// Prolongs the claim for as long as reading takes: the time limit of a worker holds for each part of a long image.
    async fn read_claimed(
        &self,
        pending: &PendingInstance,
        options: ReadOptions<'_>,
        reader: OwnedSemaphorePermit,
    ) -> anyhow::Result<Read> {
        let reading = self.analyser.read(&pending.path, options, reader);
        tokio::pin!(reading);
        loop {
            tokio::select! {
                read = &mut reading => return read,
                () = tokio::time::sleep(LEASE / 4) => {
                    if let Err(error) = self.store.prolong_instance(&pending.sop_instance, LEASE, Utc::now()).await {
                        warn!(%error, "the claim of an object that is being read was not prolonged");
                    }
                }
            }
        }
    }

    async fn save(&self, sop_instance: &Uid, reading: Reading<'_>) {
        let late = self.config().study.late;
        if let Err(error) = self.store.save_read(sop_instance, reading, late, Utc::now()).await {
            self.trouble("saving what was read", &error).await;
            self.release(sop_instance, false, None).await;
        }
    }

    /// For as long as it takes: the claim would end by itself, but late. The next start lifts it too.
    async fn release(&self, sop_instance: &Uid, counted: bool, not_before: Option<Timestamp>) {
        while let Err(error) = self.store.release_instance(sop_instance, counted, not_before).await {
            if self.cancel.is_cancelled() {
                return;
            }
            self.trouble("releasing the claim of an object", &error).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(n: usize) -> (Uid, PathBuf) {
        (Uid::parse(&format!("1.2.{n}")).expect("a UID"), PathBuf::from(n.to_string()))
    }

    #[test]
    fn what_cannot_say_its_study_keeps_nothing_behind_it_from_being_asked_and_all_else_is_asked_again() {
        let nameless = |from: usize, limit: u32| (from..1000).take(limit as usize).map(file).collect::<Vec<_>>();
        let mut secretive = Secretive::default();
        // The first hundred are broken; the others are asked, and stay nameless as long as nobody notes their names.
        let mut asked = Vec::new();
        for _ in 0..4 {
            let (objects, files) = secretive.others(nameless(1, secretive.limit()));
            assert_eq!(objects.len(), files.len());
            asked = files.iter().map(|file| file.to_str().expect("a number").parse::<usize>().expect("one")).collect();
            secretive.0.extend(objects.into_iter().zip(&asked).filter(|(_, n)| **n <= 100).map(|(object, _)| object));
        }
        assert_eq!(asked, (101..165).collect::<Vec<_>>());
        // What was read meanwhile is forgotten.
        secretive.others(nameless(51, secretive.limit()));
        assert_eq!(secretive.0.len(), 50);
        secretive.0.extend((0..SECRETIVE_MAX).map(|n| file(n).0));
        assert!(secretive.room() == 0 && secretive.others(nameless(0, 1000)).0.is_empty(), "there is a limit");
    }

    #[test]
    fn headers_that_find_no_room_push_out_none_that_are_needed_before() {
        let header: InstanceHeader = serde_json::from_value(serde_json::json!({
            "study": "1.2", "series": "1.2.1", "sop_instance": "1.2.3", "sop_class": "1.2.840.10008.5.1.4.1.1.1.1",
            "transfer_syntax": "1.2.840.10008.1.2.1", "modality": "DX", "body_part": "CHEST", "view": "PA",
            "manufacturer": "", "model_name": "", "rows": 512, "columns": 512, "frames": 1, "bits_allocated": 16,
            "bits_stored": 12, "photometric": "MONOCHROME2", "has_pixels": true, "copied": {}
        }))
        .expect("a header");
        let headers = Headers::default();
        for n in 0..=HEADERS_MAX {
            headers.keep(vec![(file(n).1, header.clone())]);
        }
        let has = |n: usize| headers.take(&file(n).1).is_some();
        assert!(has(0) && has(HEADERS_MAX - 1) && !has(HEADERS_MAX));
    }
}
