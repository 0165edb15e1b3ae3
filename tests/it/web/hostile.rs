//! DICOMweb under peers that are careless, slow or hostile: each gets its answer, nobody else notices.

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::*;

/// A file whose head names these; the data set is of no matter to what is tested.
fn file(sop_class: &str, syntax: &str, instance: &str, bytes: usize) -> Vec<u8> {
    let uid = |text: &str| sidelight::domain::Uid::parse(text).expect("a valid UID");
    let mut file = sidelight::dicom::file_meta(&uid(sop_class), &uid(instance), &uid(syntax), None);
    file.resize(file.len() + bytes, 0);
    file
}

const CR: &str = "1.2.840.10008.5.1.4.1.1.1";
const RT_DOSE: &str = "1.2.840.10008.5.1.4.1.1.481.2";
const EXPLICIT: &str = "1.2.840.10008.1.2.1";

fn quick(config: String) -> String {
    config.replace(
        "drain_timeout = \"5s\"",
        "drain_timeout = \"5s\"\nidle_timeout = \"1s\"\nnegotiation_timeout = \"1s\"\nobject_bytes_max = \"1MiB\"",
    )
}

#[test]
fn a_request_that_is_not_right_is_answered_and_stores_nothing() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let node = start(folder.path(), "", quick);
    let studies = "/dicomweb/studies";
    let lines = stow_lines();
    let typed = |media: &str| format!("Authorization: Bearer {TOKEN}\r\nContent-Type: {media}\r\n");
    let good = multipart(&[file(CR, EXPLICIT, "1.2.3", 100)]);
    let open = good[..good.len() - 10].to_vec();
    let field = [&b"--b1\r\nX: "[..], &[b'x'; 9_000], b"\r\n\r\n\r\n--b1--"].concat();
    let many = [b"--b1\r\nContent-Type: application/dicom\r\n\r\nx\r\n".repeat(5_000), b"--b1--".to_vec()].concat();
    let part = |media: &str, bytes: &[u8]| {
        [format!("--b1\r\nContent-Type: {media}\r\n\r\n").as_bytes(), bytes, b"\r\n--b1--\r\n"].concat()
    };
    let head = file(CR, EXPLICIT, "1.2.3", 0);
    let get = |path: &str, lines: &str| format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{lines}\r\n");
    let asking = format!("Authorization: Bearer {TOKEN}\r\n");
    let rows: Vec<(&str, Vec<u8>, u16)> = vec![
        ("no token", post(studies, &lines[lines.find('\n').expect("lines") + 1..], &good), 401),
        ("a wrong token", post(studies, &lines.replace(TOKEN, "wrong-token-0123456789012345"), &good), 401),
        ("a token that may only query", post(studies, &lines.replace(TOKEN, QUERY_TOKEN), &good), 403),
        ("no media type", post(studies, &asking, &good), 415),
        ("another media type", post(studies, &typed("application/dicom"), &good), 415),
        (
            "parts of another type",
            post(studies, &typed("multipart/related; type=\"image/png\"; boundary=b1"), &good),
            415,
        ),
        ("form data", post(studies, &typed("multipart/form-data; boundary=b1"), &good), 415),
        ("no boundary", post(studies, &typed("multipart/related; type=\"application/dicom\""), &good), 400),
        (
            "a boundary without end",
            post(
                studies,
                &typed(&format!("multipart/related; type=\"application/dicom\"; boundary={}", "b".repeat(129))),
                &good,
            ),
            400,
        ),
        ("a compressed body", post(studies, &format!("{lines}Content-Encoding: gzip\r\n"), &good), 415),
        ("XML wanted", post(studies, &format!("{lines}Accept: application/dicom+xml\r\n"), &good), 406),
        ("a path that is no UID", post("/dicomweb/studies/..%2f..%2fetc", &lines, &good), 400),
        ("an empty body", post(studies, &lines, b""), 400),
        ("no part", post(studies, &lines, b"--b1--"), 400),
        ("no closing delimiter", post(studies, &lines, &open), 400),
        ("the header of a part without end", post(studies, &lines, &field), 400),
        ("thousands of parts", post(studies, &lines, &many), 400),
        (
            "another boundary",
            post(studies, &lines, &good.iter().map(|b| if *b == b'1' { b'2' } else { *b }).collect::<Vec<_>>()),
            400,
        ),
        ("a part of another type", post(studies, &lines, &part("image/png", b"x")), 415),
        ("no DICOM file", post(studies, &lines, &part("application/dicom", &[b'x'; 300])), 409),
        ("a head that breaks off", post(studies, &lines, &part("application/dicom", &head[..200])), 409),
        ("a head without data set", post(studies, &lines, &part("application/dicom", &head)), 409),
        ("a class that is not stored", post(studies, &lines, &multipart(&[file(RT_DOSE, EXPLICIT, "1.2.3", 9)])), 409),
        (
            "a syntax that is not stored",
            post(studies, &lines, &multipart(&[file(CR, "1.2.840.10008.1.2.4.100", "1.2.3", 9)])),
            409,
        ),
        (
            "an object that is too large",
            post(studies, &lines, &multipart(&[file(CR, EXPLICIT, "1.2.3", 1_100_000)])),
            413,
        ),
        ("one that goes on and on", post(studies, &lines, &multipart(&[file(CR, EXPLICIT, "1.2.3", 9_000_000)])), 413),
        ("another method", b"DELETE /dicomweb/studies HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".to_vec(), 405),
        ("a head of 300 kB", get(studies, &format!("X: {}\r\n", "x".repeat(300_000))).into_bytes(), 431),
        ("no HTTP", b"A-ASSOCIATE\r\n\r\n".to_vec(), 400),
        ("a query without token", get(studies, "").into_bytes(), 401),
        ("an unknown key", get("/dicomweb/studies?PatientNaem=x", &asking).into_bytes(), 400),
        ("an unknown study", get("/dicomweb/studies/1.2.3", &asking).into_bytes(), 404),
        (
            "XML of metadata",
            get("/dicomweb/studies/1.2.3/metadata", &format!("{asking}Accept: application/dicom+xml\r\n")).into_bytes(),
            406,
        ),
        ("an unknown resource", get("/dicomweb/patients", &asking).into_bytes(), 404),
    ];
    for (what, request, expected) in rows {
        let answer = exchange(node.web_port, &request).unwrap_or_else(|| panic!("{what}: no answer"));
        assert_eq!(answer.status, expected, "{what}: {}", String::from_utf8_lossy(&answer.body));
        let head = answer.head.to_ascii_lowercase();
        assert_eq!(head.contains("www-authenticate: bearer"), expected == 401, "{what}: {head}");
    }
    assert_eq!(node.studies(), Vec::<Value>::new());
    assert_eq!(fs::read_dir(folder.path().join("data/incoming")).expect("readable").count(), 0);
    assert_eq!(exchange(node.web_port, &post(studies, &lines, &good)).expect("an answer").status, 200);
    assert_eq!(node.metric("sidelight_conflicts"), Some(0));
}

#[test]
fn peers_that_are_silent_or_trickle_are_cut_off_and_hold_nobody_up() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let node = start(folder.path(), "", quick);
    let connect = || TcpStream::connect(("127.0.0.1", node.web_port)).expect("the node listens");
    // More than it serves at once: those behind them get their turn when these are cut.
    let mut silent: Vec<TcpStream> = (0..150).map(|_| connect()).collect();
    let begun = post("/dicomweb/studies", &stow_lines(), &[0; 1_000_000]);
    let begun = &begun[..begun.len() - 1_000_000];
    let body = multipart(&[file(CR, EXPLICIT, "1.2.9", 500_000)]);

    let start = Instant::now();
    let mut stalled = connect();
    stalled.write_all(begun).and_then(|()| stalled.write_all(&body[..100_000])).expect("taken");
    let mut trickling = connect();
    trickling.write_all(begun).expect("taken");
    let answer = std::thread::scope(|scope| {
        let mut writer = trickling.try_clone().expect("a second handle");
        scope.spawn(move || {
            // A byte now and then is no silence, and no transfer either.
            for byte in &body {
                if writer.write_all(&[*byte]).is_err() || start.elapsed() > Duration::from_secs(25) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        read_answer(&mut trickling)
    });
    assert!(answer.is_none_or(|a| a.status == 408), "cut off, with or without a word");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert_eq!(read_answer(&mut stalled).expect("an answer").status, 408);
    for stream in &mut silent {
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a valid timeout");
        let mut bytes = Vec::new();
        assert!(stream.read_to_end(&mut bytes).is_ok(), "a silent connection is closed");
    }
    let good = multipart(&[file(CR, EXPLICIT, "1.2.3", 100)]);
    let answer = exchange(node.web_port, &post("/dicomweb/studies", &stow_lines(), &good)).expect("an answer");
    assert_eq!(answer.status, 200);
    wait_for("nothing is left of what was cut off", Duration::from_secs(10), || {
        fs::read_dir(folder.path().join("data/incoming")).expect("readable").count() == 0
    });
}

#[test]
fn below_the_disk_floor_a_sender_is_asked_to_come_back() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let node = start(folder.path(), "", |c| c.replace("free_bytes_min = \"1MiB\"", "free_bytes_min = \"900TiB\""));
    let answer = stow(node.web_port, "/dicomweb/studies", &[file(CR, EXPLICIT, "1.2.3", 100)]);
    assert_eq!(answer.status, 503);
    assert!(answer.head.to_ascii_lowercase().contains("retry-after: "), "{}", answer.head);
    assert_eq!(node.studies(), Vec::<Value>::new());
}
