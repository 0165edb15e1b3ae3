//! The catalogue of own reports: who is in it, and how it is asked.

use super::*;
use crate::dicom::{Bounds, DataSet, Encoding, Key, VR, file_meta};

/// A report file: meta, then a few elements of its header.
fn file(report: &Report, patient: &str) -> Vec<u8> {
    let mut file = file_meta(&report.sop_class, &report.sop_instance, &uid("1.2.840.10008.1.2.1"), None);
    let rows = [
        (0x0008_0018_u32, b"UI", report.sop_instance.to_string()),
        (0x0008_0060, b"CS", "SR".into()),
        (0x0010_0010, b"PN", patient.into()),
        (0x0020_000d, b"UI", report.study.to_string()),
        (0x0020_000e, b"UI", report.series.to_string()),
    ];
    for (tag, vr, mut value) in rows {
        if value.len() % 2 == 1 {
            value.push(' ');
        }
        file.extend_from_slice(&((tag >> 16) as u16).to_le_bytes());
        file.extend_from_slice(&(tag as u16).to_le_bytes());
        file.extend_from_slice(vr);
        file.extend_from_slice(&(value.len() as u16).to_le_bytes());
        file.extend_from_slice(value.as_bytes());
    }
    file
}

/// Receives, scores and reports `study`; both forms, the withheld one under `report`.
async fn reported(store: &Store, study: &str, report: &str, patient: &str, second: i64) {
    put(store, &format!("{study}.9"), second).await;
    score_all(store, study, second).await;
    report_again(store, study, report, patient, second).await;
}

async fn report_again(store: &Store, study: &str, report: &str, patient: &str, second: i64) {
    let mut reports = [
        outgoing(study, report, Disclosure::Withheld, &[]),
        outgoing(study, &format!("{report}.7"), Disclosure::Probabilities, &[]),
        outgoing(study, &format!("{report}.8"), Disclosure::Withheld, &[]),
    ];
    // A map beside its report: a Secondary Capture.
    reports[2].variants.iter_mut().for_each(|map| map.sop_class = uid("1.2.840.10008.5.1.4.1.1.7"));
    for report in reports.iter_mut().flat_map(|r| &mut r.variants) {
        report.file = file(report, patient);
    }
    let claim = claim(store, study, second).await;
    assert!(matches!(close_with(store, &claim, &reports, second).await, Closed::As(_)));
}

fn key(tag: u32, vr: VR, text: &str) -> Key {
    Key::parse(tag, vr, text).unwrap()
}

/// SOP Instance UIDs of every page.
async fn all(store: &Store, keys: &[Key]) -> Vec<String> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = store.catalog(keys, after, ()).await.unwrap();
        found.extend(page.reports.iter().map(|r| r.sop_instance.to_string()));
        match page.next {
            Some(next) => after = Some(next),
            None => return found,
        }
    }
}

#[tokio::test]
async fn the_catalogue_holds_current_withheld_reports_and_nothing_else() {
    let (_dir, store) = fresh().await;
    reported(&store, "1.1", "2.1", "DOE^JANE", 0).await;
    reported(&store, "1.2", "2.2", "ROE^RICHARD", 1).await;
    assert_eq!(all(&store, &[]).await, ["2.2", "2.1"], "the newest first, the preferred class only");
    let page = store.catalog(&[key(SOP_INSTANCE, VR::UI, "2.1")], None, ()).await.unwrap();
    let variants: Vec<_> = page.reports[0].variants.iter().map(|v| v.sop_instance.as_str()).collect();
    assert_eq!(variants, ["2.1", "2.1.2"]);
    assert_eq!(store.report_bytes(&page.reports[0].variants[1]).await.unwrap()[128..132], *b"DICM");

    store.requeue(&uid("1.1"), at(5)).await.unwrap();
    score_all(&store, "1.1", 5).await;
    report_again(&store, "1.1", "2.3", "DOE^JANE", 6).await;
    assert_eq!(all(&store, &[]).await, ["2.3", "2.2"], "the replaced report is gone from it");
    assert!(all(&store, &[key(SOP_INSTANCE, VR::UI, "2.1")]).await.is_empty());
    assert!(all(&store, &[key(SOP_INSTANCE, VR::UI, "2.3.7")]).await.is_empty(), "disclosed, by its very UID");
    assert!(all(&store, &[key(SOP_INSTANCE, VR::UI, "2.3.8")]).await.is_empty(), "a map is no report");
}

const SOP_INSTANCE: u32 = 0x0008_0018;

#[tokio::test]
async fn keys_narrow_by_uid_and_by_what_the_file_says() {
    let (_dir, store) = fresh().await;
    reported(&store, "1.1", "2.1", "DOE^JANE", 0).await;
    reported(&store, "1.2", "2.2", "ROE^RICHARD", 1).await;
    let (study, series, name) = (0x0020_000d, 0x0020_000e, 0x0010_0010);
    let rows: &[(&[Key], &[&str])] = &[
        (&[key(study, VR::UI, "1.1")], &["2.1"]),
        (&[key(study, VR::UI, "1.1\\1.2\\1.3")], &["2.2", "2.1"]),
        (&[key(study, VR::UI, "1.1"), key(study, VR::UI, "1.2")], &[]),
        (&[key(series, VR::UI, "2.2.1")], &["2.2"]),
        (&[key(study, VR::UI, "1.1"), key(series, VR::UI, "2.2.1")], &[]),
        (&[key(name, VR::PN, "doe*")], &["2.1"]),
        (&[key(name, VR::PN, "doe*"), key(study, VR::UI, "1.2")], &[]),
        (&[key(0x0008_0061, VR::CS, "SR")], &["2.2", "2.1"]),
        (&[key(0x0008_0061, VR::CS, "CT")], &[]),
        (&[key(SOP_INSTANCE, VR::UI, "2.1.2")], &["2.1.2"]),
    ];
    for (keys, expected) in rows {
        assert_eq!(all(&store, keys).await, *expected, "{keys:?}");
    }
}

#[tokio::test]
async fn pages_join_without_gap_or_repetition() {
    let (_dir, store) = fresh().await;
    for number in 0..230 {
        reported(&store, &format!("1.{number}"), &format!("2.{number}"), "DOE^JANE", number).await;
    }
    let expected: Vec<String> = (0..230).rev().map(|n| format!("2.{n}")).collect();
    assert_eq!(all(&store, &[]).await, expected);
    let first = store.catalog(&[], None, ()).await.unwrap();
    assert!(first.next.is_some() && first.reports.len() < 230);
}

#[tokio::test]
async fn a_data_set_goes_out_in_either_encoding() {
    let (_dir, store) = fresh().await;
    reported(&store, "1.1", "2.1", "DOE^JANE", 0).await;
    let page = store.catalog(&[key(SOP_INSTANCE, VR::UI, "2.1")], None, ()).await.unwrap();
    let variant = &page.reports[0].variants[0];
    let bounds = Bounds { bytes_max: 1000, elements_max: 10, depth_max: 1 };
    for encoding in [Encoding::ExplicitLittleEndian, Encoding::ImplicitLittleEndian] {
        let bytes = store.report_data_set(variant, encoding).await.unwrap();
        let set = DataSet::parse(&bytes, encoding, bounds).unwrap();
        assert_eq!((set.text(0x0010_0010), set.text(SOP_INSTANCE)), (Some("DOE^JANE"), Some("2.1")), "{encoding:?}");
    }
}

#[tokio::test]
async fn a_report_whose_file_is_damaged_is_left_out() {
    let (dir, store) = fresh().await;
    reported(&store, "1.1", "2.1", "DOE^JANE", 0).await;
    reported(&store, "1.2", "2.2", "ROE^RICHARD", 1).await;
    fs::write(dir.path().join("reports/2.2.dcm"), b"damaged").unwrap();
    assert_eq!(all(&store, &[]).await, ["2.1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_nobody_waits_for_keeps_its_place_until_the_work_ends() {
    let (_dir, store) = fresh().await;
    reported(&store, "1.1", "2.1", "DOE^JANE", 0).await;
    let page = store.catalog(&[], None, ()).await.unwrap();
    let path = page.reports[0].variants[0].path.clone();
    std::fs::remove_file(&path).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let (place, mut freed) = tokio::sync::oneshot::channel::<()>();
    let (asked, key) = (store.clone(), key(0x0010_0010, VR::PN, "doe*"));
    let search = tokio::spawn(async move { asked.catalog(&[key], None, place).await });
    // Opening it for writing ends when somebody reads, and the reader goes on until it is closed.
    let writing = tokio::task::spawn_blocking(move || std::fs::OpenOptions::new().write(true).open(path)).await;
    search.abort();
    assert!(search.await.unwrap_err().is_cancelled());
    assert_eq!(freed.try_recv(), Err(tokio::sync::oneshot::error::TryRecvError::Empty));
    drop(writing);
    assert!(freed.await.is_err(), "dropped, and nothing was sent");
}
