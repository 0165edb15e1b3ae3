//! Tests of the store against a real folder and a real index, and what they share.

mod activity;
mod catalog;
mod commitments;
mod confirmations;
mod destinations;
mod evidence;
mod facts;
mod folder;
mod intake;
mod kill;
mod labels;
mod late;
mod outbox;
mod recovery;
mod results;
mod retention;
mod studies;

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::assemble::Closing;
use crate::config::Late;
use crate::domain::{
    AeTitle, Assessment, ClosedBy, Code, Contract, DigestOf, Direction, Disclosed, Disclosure, Finding,
    FindingAssessment, ImageScore, InstanceHeader, Level, ModelIdentity, Probability, Purpose, Refusal, RefusalCode,
    Report, StudyState, Timestamp,
};

const LEASE: Duration = Duration::from_secs(60);
const CR: &str = "1.2.840.10008.5.1.4.1.1.1";
const SR: &str = "1.2.840.10008.5.1.4.1.1.88.34";
const FALLBACK_SR: &str = "1.2.840.10008.5.1.4.1.1.88.33";

fn settings(dir: &Path) -> config::Store {
    config::Store {
        data_dir: dir.to_owned(),
        free_bytes_min: 0,
        free_percent_min: 0,
        objects_kept: None,
        reports_kept: None,
        posteriors_kept: None,
        evidence_kept: None,
    }
}

async fn open(dir: &Path) -> Store {
    Store::open(&settings(dir)).await.unwrap()
}

/// An empty store in a folder that goes with it.
pub(super) async fn fresh() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    (dir, store)
}

/// The folder as a kill at this instant would leave it: a copy, without its lock.
fn as_after_a_kill(dir: &Path) -> TempDir {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let target = to.join(entry.file_name());
            match entry.file_type().unwrap().is_dir() {
                true => copy(&entry.path(), &target),
                // The index's log goes when its last connection has closed, which may be now.
                false => match fs::copy(entry.path(), target) {
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                    copied => drop(copied.unwrap()),
                },
            }
        }
    }
    let after = tempfile::tempdir().unwrap();
    copy(dir, after.path());
    after
}

/// Every file below a folder, relative, sorted.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found.sort();
    found
}

/// The stored file of an object.
fn place(dir: &Path, instance: &str) -> PathBuf {
    let mut found = files(&dir.join("spool"));
    found.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&format!("{instance}.")));
    assert_eq!(found.len(), 1, "{instance}: {found:?}");
    found.remove(0)
}

/// The file of an object, whose name ends with its arrival.
fn object(dir: &Path, instance: &str) -> PathBuf {
    let named = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with(&format!("{instance}."));
    files(&dir.join("spool")).into_iter().find(named).expect("the object is kept")
}

pub(super) fn uid(text: &str) -> Uid {
    Uid::parse(text).unwrap()
}

/// Seconds into the tests' day.
pub(super) fn at(second: i64) -> Timestamp {
    Timestamp::from_timestamp(1_700_000_000 + second, 0).unwrap()
}

fn received(instance: &str, calling: &str, second: i64) -> ReceivedInstance {
    ReceivedInstance {
        sop_class: uid(CR),
        sop_instance: uid(instance),
        transfer_syntax: uid("1.2.840.10008.1.2.1"),
        calling: AeTitle::parse(calling).unwrap(),
        called: AeTitle::parse("SIDELIGHT").unwrap(),
        peer: IpAddr::V4(Ipv4Addr::LOCALHOST),
        received_at: at(second),
        study: None,
    }
}

impl Store {
    /// As [`Arrival`] does, for what a test wrote by itself.
    async fn commit(&self, upload: Upload, received: &ReceivedInstance) -> Result<Accepted, StoreError> {
        let uid = received.sop_instance.clone();
        let sealed = blocking(move || upload.seal(&uid)).await?;
        self.commit_sealed(sealed, received).await
    }
}

async fn commit(store: &Store, received: &ReceivedInstance, data: &[u8]) -> Result<Accepted, StoreError> {
    let mut upload = store.begin()?;
    upload.write_meta(b"META")?;
    upload.write_dataset(data)?;
    store.commit(upload, received).await
}

/// Receives an object from `MODALITY`.
async fn put(store: &Store, instance: &str, second: i64) -> Accepted {
    commit(store, &received(instance, "MODALITY", second), instance.as_bytes()).await.unwrap()
}

fn header(study: &str, instance: &str) -> InstanceHeader {
    InstanceHeader {
        study: uid(study),
        series: uid(&format!("{study}.1")),
        sop_instance: uid(instance),
        sop_class: uid(CR),
        transfer_syntax: uid("1.2.840.10008.1.2.1"),
        modality: "CR".into(),
        body_part: "CHEST".into(),
        view: None,
        manufacturer: String::new(),
        model_name: String::new(),
        rows: 8,
        columns: 8,
        frames: 1,
        bits_allocated: 16,
        bits_stored: 12,
        photometric: "MONOCHROME2".into(),
        has_pixels: true,
        image: Default::default(),
        copied: [(
            0x0010_0010,
            crate::domain::Attribute {
                vr: "PN".into(),
                value: crate::domain::AttributeValue::Bytes(b"DOE^JANE".to_vec()),
            },
        )]
        .into(),
    }
}

fn image_scores(instance: &str) -> Vec<(ImageScore, Purpose)> {
    let score = |model: &str, outputs: &[f64]| ImageScore {
        instance: uid(instance),
        model: model.into(),
        contract: Contract::preset("minmax-unit", 64).unwrap().digest(),
        outputs: outputs.to_vec(),
    };
    vec![
        (score("race@1#aaaaaaaaaaaa", &[0.1, 0.2, 0.7]), Purpose::Race),
        (score("clinical@1#bbbbbbbbbbbb", &[0.1 + 0.2, 1e-17]), Purpose::Clinical),
    ]
}

/// Claims what waits and records it as scored images of `study`.
async fn score_all(store: &Store, study: &str, second: i64) {
    for pending in store.claim_received(100, LEASE, at(second)).await.unwrap() {
        let instance = pending.sop_instance.as_str();
        let reading = Reading::Scored {
            header: &header(study, instance),
            pixel_digest: &Digest::of(b"pixels"),
            scores: &image_scores(instance),
            awaited: &[],
        };
        assert!(store.save_read(&pending.sop_instance, reading, Late::Replace, at(second)).await.unwrap());
    }
}

/// Records a waiting object as refused.
async fn refuse(store: &Store, instance: &str, study: Option<&str>, code: RefusalCode, second: i64) {
    store.claim_received(100, LEASE, at(second)).await.unwrap();
    let header = study.map(|study| header(study, instance));
    let refusal = Refusal::new(code, "as the test says");
    let reading = Reading::Refused { header: header.as_ref(), refusal: &refusal };
    assert!(store.save_read(&uid(instance), reading, Late::Replace, at(second)).await.unwrap());
}

fn model(name: &str) -> ModelIdentity {
    ModelIdentity {
        name: name.into(),
        version: "1".into(),
        manufacturer: "M".into(),
        weights: Digest::of(name.as_bytes()),
        digest_of: DigestOf::Weights,
        contract: "c".into(),
        device_uid: uid("2.25.1"),
        phantoms_only: true,
    }
}

fn assessment() -> Assessment {
    let finding = FindingAssessment {
        finding: Finding {
            key: "effusion".into(),
            code: Code::new("60046008", "SCT", "Pleural effusion"),
            site: None,
            threshold: Probability::new(0.5).unwrap(),
        },
        clinical: model("clinical"),
        score: Some(Probability::new(0.25).unwrap()),
        positive: Some(false),
        direction: Some(Direction::Miss),
        level: Level::ScoreDependent,
        reasons: Vec::new(),
        expected_error: None,
        spread: None,
        disclosed: Some(Disclosed { groups: Vec::new(), excess: None, ambiguity: Some(0.5) }),
    };
    Assessment { audit: model("race"), profile: "none".into(), findings: vec![finding] }
}

fn outgoing(study: &str, report: &str, disclosure: Disclosure, destinations: &[&str]) -> OutgoingReport {
    OutgoingReport {
        variants: [SR, FALLBACK_SR]
            .iter()
            .zip([report.to_owned(), format!("{report}.2")])
            .map(|(sop_class, sop_instance)| Report {
                study: uid(study),
                sop_class: uid(sop_class),
                sop_instance: uid(&sop_instance),
                series: uid(&format!("{report}.1")),
                file: format!("report {sop_instance}").into_bytes(),
            })
            .collect(),
        disclosure,
        destinations: destinations.iter().map(|name| (*name).to_owned()).collect(),
    }
}

async fn claim(store: &Store, study: &str, second: i64) -> StudyClaim {
    let version = version(store, study).await;
    store.claim_study(&uid(study), version, LEASE, at(second)).await.unwrap().expect("the study is open and free")
}

async fn version(store: &Store, study: &str) -> i64 {
    let sql = "SELECT version FROM studies WHERE study = ?";
    sqlx::query_scalar(sql).bind(study).fetch_one(store.index().read()).await.unwrap()
}

async fn close_with(store: &Store, claim: &StudyClaim, reports: &[OutgoingReport], second: i64) -> Closed {
    let closing = Closing { complete: true, by: ClosedBy::Quiet, missing: Vec::new() };
    let older = Older::Withdrawn;
    let outcome = Outcome::Reported { assessment: &assessment(), closing: &closing, older, reports, facts: None };
    store.close_study(claim, outcome, at(second)).await.unwrap()
}

/// Claims an open study and closes it with one withheld report.
async fn report(store: &Store, study: &str, report: &str, destinations: &[&str], second: i64) {
    let claim = claim(store, study, second).await;
    let reports = [outgoing(study, report, Disclosure::Withheld, destinations)];
    assert!(matches!(close_with(store, &claim, &reports, second).await, Closed::As(_)));
}

async fn due(store: &Store, second: i64) -> Vec<Delivery> {
    store.due_deliveries(100, None, LEASE, at(second)).await.unwrap()
}

async fn delivered(store: &Store, delivery: &Delivery, second: i64) {
    store
        .delivery_succeeded(delivery.id, &delivery.sop_class, &delivery.sop_instance, false, at(second))
        .await
        .unwrap();
}

async fn show(store: &Store, study: &str) -> StudyDetail {
    store.show_study(&uid(study)).await.unwrap().expect("the study is known")
}

async fn state(store: &Store, study: &str) -> StudyState {
    show(store, study).await.study.state
}

/// UIDs of the reports that are current.
async fn current(store: &Store, study: &str) -> Vec<String> {
    let reports = show(store, study).await.reports;
    reports.into_iter().filter(|r| r.current).map(|r| r.sop_instance.to_string()).collect()
}
