//! Deliveries to dcmtk's `storescp`, and to peers that hang, refuse or answer with a failure.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dicom_ul::association::ServerAssociationOptions;
use dicom_ul::pdu::{PDataValueType, Pdu};
use sidelight::config::{Destination, Endpoint, Mode};
use sidelight::deliver::{self, DeliverError, Peer, ReportFile, Retry, Sent};
use sidelight::dicom::{Request, Response, Status};
use sidelight::domain::{AeTitle, Disclosure, InstanceHeader, Report};
use sidelight::report::{self, ReportOptions, SrClass};
use sidelight::wire::{Security, Tls};

use super::samples::{Source, assessment, fresh_uid, options, scored};

/// A `storescp` with its folder; ended when dropped.
struct Pacs {
    process: Child,
    folder: tempfile::TempDir,
    destination: Destination,
}

impl Pacs {
    /// Starts it on a free port and waits until it takes connections.
    async fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let process = Command::new("storescp")
            .args(["-aet", "PACS", "+B", "-od"])
            .arg(folder.path())
            .args(arguments)
            .arg(port.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("dcmtk is installed");
        let mut pacs = Self { process, folder, destination: destination(port, Duration::from_secs(20)) };
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut poll = tokio::time::interval(Duration::from_millis(10));
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            assert!(pacs.process.try_wait().unwrap().is_none(), "storescp ended");
            assert!(Instant::now() < deadline, "storescp does not listen");
            poll.tick().await;
        }
        pacs
    }

    /// The only file that it received.
    fn received(&self) -> Vec<u8> {
        let files: Vec<_> = std::fs::read_dir(self.folder.path()).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!(files.len(), 1, "{files:?}");
        std::fs::read(&files[0]).unwrap()
    }
}

impl Drop for Pacs {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

fn peer(port: u16) -> Peer {
    Peer { ae_title: AeTitle::parse("PACS").unwrap(), host: "127.0.0.1".into(), port }
}

fn destination(port: u16, timeout: Duration) -> Destination {
    Destination {
        name: "pacs".into(),
        endpoint: Endpoint::Dimse {
            ae_title: AeTitle::parse("PACS").unwrap(),
            host: "127.0.0.1".into(),
            port,
            tls: None,
        },
        audit: false,
        disclose: Disclosure::Withheld,
        timeout,
        associations_max: 1,
        per_minute_max: None,
        commitment: None,
    }
}

pub fn no_tls() -> Arc<Tls> {
    Tls::load(&crate::receive::scu::no_tls(), &[]).unwrap()
}

fn calling() -> AeTitle {
    AeTitle::parse("SIDELIGHT").unwrap()
}

/// A report in the three SOP classes, as the outbox holds it.
pub fn alternatives() -> Vec<Report> {
    let headers: Vec<InstanceHeader> = Source::both().iter().map(Source::header).collect();
    let images: Vec<&InstanceHeader> = headers.iter().collect();
    let series = fresh_uid();
    let build = |sop_class: &SrClass| {
        let options = ReportOptions { sop_class: *sop_class, series: series.clone(), ..options() };
        report::build(&assessment(vec![scored("a", 0.12)]), &images, &options).unwrap()
    };
    SrClass::ALL.iter().map(build).collect()
}

async fn send(destination: &Destination, reports: &[Report]) -> Result<Sent, DeliverError> {
    let files: Vec<ReportFile> = reports.iter().map(ReportFile::from).collect();
    deliver::send(Mode::Active, destination, &no_tls(), &calling(), &files).await
}

/// The bytes after the meta information.
pub fn data_set(file: &[u8]) -> &[u8] {
    let length = u32::from_le_bytes([file[140], file[141], file[142], file[143]]) as usize;
    &file[144 + length..]
}

/// A configuration that accepts one SOP class with these transfer syntaxes.
fn profile(folder: &Path, sop_class: &str, transfer_syntaxes: &[&str]) -> String {
    let mut text = String::from("[[TransferSyntaxes]]\n[Chosen]\n");
    for (i, ts) in transfer_syntaxes.iter().enumerate() {
        text += &format!("TransferSyntax{} = {ts}\n", i + 1);
    }
    text += &format!("[[PresentationContexts]]\n[Reports]\nPresentationContext1 = {sop_class}\\Chosen\n");
    text += "[[Profiles]]\n[Default]\nPresentationContexts = Reports\n";
    let path = folder.join("storescp.cfg");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_arrives_byte_for_byte_and_again_the_same() {
    let pacs = Pacs::start(&[]).await;
    let reports = alternatives();
    for _ in 0..2 {
        let sent = send(&pacs.destination, &reports).await.unwrap();
        assert_eq!((sent.index, sent.status), (0, Status::SUCCESS));
        assert_eq!(sent.sop_instance, reports[0].sop_instance);
        assert_eq!(data_set(&pacs.received()), data_set(&reports[0].file));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn small_pdus_carry_a_report_in_fragments() {
    let pacs = Pacs::start(&["--max-pdu", "4096"]).await;
    let reports = alternatives();
    assert!(reports[0].file.len() > 3 * 4096);
    send(&pacs.destination, &reports).await.unwrap();
    assert_eq!(data_set(&pacs.received()), data_set(&reports[0].file));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_implicit_only_peer_receives_the_same_document_re_encoded() {
    let pacs = Pacs::start(&["+xi"]).await;
    let reports = alternatives();
    let sent = send(&pacs.destination, &reports).await.unwrap();
    assert_eq!(sent.index, 0);
    let received = pacs.received();
    assert_ne!(data_set(&received), data_set(&reports[0].file));
    super::check_file("implicit", &received, &Source::both());

    // dcmtk's own conversion of what was stored agrees with it, byte for byte.
    let folder = tempfile::tempdir().unwrap();
    let (original, converted) = (folder.path().join("original.dcm"), folder.path().join("converted.dcm"));
    std::fs::write(&original, &reports[0].file).unwrap();
    let status = Command::new("dcmconv").args(["+ti", "-e"]).arg(&original).arg(&converted).status().unwrap();
    assert!(status.success());
    assert_eq!(data_set(&received), data_set(&std::fs::read(&converted).unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_without_3d_reports_receives_the_next_class_it_accepts() {
    let rows: &[(&str, &[&str], usize)] = &[
        ("ComprehensiveSRStorage", &["LittleEndianExplicit"], 1),
        ("EnhancedSRStorage", &["LittleEndianExplicit", "LittleEndianImplicit"], 2),
        ("EnhancedSRStorage", &["LittleEndianImplicit"], 2),
    ];
    for (sop_class, transfer_syntaxes, expected) in rows {
        let folder = tempfile::tempdir().unwrap();
        let file = profile(folder.path(), sop_class, transfer_syntaxes);
        let pacs = Pacs::start(&["-xf", &file, "Default"]).await;
        let reports = alternatives();
        let sent = send(&pacs.destination, &reports).await.unwrap();
        assert_eq!(sent.index, *expected, "{sop_class}");
        assert_eq!(sent.sop_instance, reports[*expected].sop_instance);
        super::check_file(sop_class, &pacs.received(), &Source::both());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_without_reports_is_named_and_tried_later() {
    let folder = tempfile::tempdir().unwrap();
    let file = profile(folder.path(), "CTImageStorage", &["LittleEndianImplicit"]);
    let pacs = Pacs::start(&["-xf", &file, "Default"]).await;
    let error = send(&pacs.destination, &alternatives()).await.unwrap_err();
    assert!(matches!(error, DeliverError::NotAccepted { .. }), "{error}");
    assert_eq!(error.retry(), Retry::Later);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejecting_peer_is_told_from_an_absent_one() {
    let pacs = Pacs::start(&["--refuse"]).await;
    let error = send(&pacs.destination, &alternatives()).await.unwrap_err();
    assert!(matches!(error, DeliverError::Rejected { .. }), "{error}");

    let port = free_port();
    let absent = destination(port, Duration::from_secs(5));
    let error = send(&absent, &alternatives()).await.unwrap_err();
    assert!(matches!(error, DeliverError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains(&format!("PACS@127.0.0.1:{port}")), "{error}");
    assert_eq!(error.retry(), Retry::Soon);

    let unknown = Endpoint::Dimse {
        ae_title: AeTitle::parse("PACS").unwrap(),
        host: "no-such-host.invalid".into(),
        port: 104,
        tls: None,
    };
    let unknown = Destination { endpoint: unknown, ..absent };
    let error = send(&unknown, &alternatives()).await.unwrap_err();
    assert!(matches!(error, DeliverError::Unreachable { .. } | DeliverError::Timeout { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_never_answers_costs_no_more_than_the_timeout() {
    let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = silent.local_addr().unwrap().port();
    let destination = destination(port, Duration::from_millis(300));
    let start = Instant::now();
    let error = send(&destination, &alternatives()).await.unwrap_err();
    assert!(matches!(error, DeliverError::Timeout { .. }), "{error}");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    let error = deliver::echo(&peer(port), &Security::Plain, &calling(), destination.timeout).await.unwrap_err();
    assert!(matches!(error, DeliverError::Timeout { .. }), "{error}");
}

/// A peer that accepts everything and answers the one C-STORE with `status`, or with silence.
async fn scripted(status: Option<Status>) -> Destination {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let options = ServerAssociationOptions::new().accept_any().promiscuous(true);
        let mut association = options.establish_async(socket).await.unwrap();
        let mut request = None;
        while let Ok(pdu) = association.receive().await {
            let Pdu::PData { data } = pdu else { break };
            for mut value in data {
                if value.value_type == PDataValueType::Command {
                    request = Request::parse(&value.data).ok();
                } else if let (true, Some(Request::Store(request)), Some(status)) = (value.is_last, &request, status) {
                    value.value_type = PDataValueType::Command;
                    value.data = Response::to_store(request, status, Some("scripted".into())).encode();
                    association.send(&Pdu::PData { data: vec![value] }).await.unwrap();
                }
            }
        }
        let _ = association.send(&Pdu::ReleaseRP).await;
    });
    destination(port, Duration::from_secs(if status.is_some() { 20 } else { 1 }))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_decides_whether_a_report_is_delivered_or_tried_again() {
    let rows = [
        (0x0000, None),
        (0xb000, None),
        (0xb007, None),
        (0x0111, None),
        (0xa700, Some(Retry::Soon)),
        (0x0110, Some(Retry::Soon)),
        (0xa900, Some(Retry::Later)),
        (0xc000, Some(Retry::Later)),
        (0x0124, Some(Retry::Later)),
    ];
    let reports = alternatives();
    for (code, expected) in rows {
        let outcome = send(&scripted(Some(Status(code))).await, &reports).await;
        match (outcome, expected) {
            (Ok(sent), None) => assert_eq!(sent.status, Status(code)),
            (Err(error @ DeliverError::Status { .. }), Some(retry)) => {
                assert_eq!(error.retry(), retry, "{error}");
                assert!(!error.to_string().contains("scripted"), "the peer's own words may name a patient: {error}");
            }
            (outcome, _) => panic!("{code:04X}: {outcome:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_takes_the_report_and_falls_silent_is_a_timeout() {
    let error = send(&scripted(None).await, &alternatives()).await.unwrap_err();
    assert!(matches!(error, DeliverError::Timeout { .. }), "{error}");
    assert_eq!(error.retry(), Retry::Soon);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_echo_says_whether_a_peer_is_there() {
    let pacs = Pacs::start(&[]).await;
    let Endpoint::Dimse { port, .. } = pacs.destination.endpoint else { panic!("a DIMSE destination") };
    let peer = peer(port);
    deliver::echo(&peer, &Security::Plain, &calling(), Duration::from_secs(20)).await.unwrap();
    let absent = Peer { port: free_port(), ..peer };
    let error = deliver::echo(&absent, &Security::Plain, &calling(), Duration::from_secs(5)).await.unwrap_err();
    assert!(matches!(error, DeliverError::Unreachable { .. }), "{error}");
}
