//! What peers ask of a running node beside storing: its reports by C-FIND, C-GET and DICOMweb, and the commitment to
//! what they sent; each in the clear and over TLS.
//!
//! What comes of a query in detail is tested in `query`, of DICOMweb in `web`, of commitment in `commitments`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::peers::Way;
use super::secure::Certificates;
use super::{IDENTICAL, UNKNOWN, compared};
use crate::receive::scu::split;
use crate::support::orthanc::{self, Orthanc};
use crate::support::{
    Node, NodeOptions, configuration, element, free_port, phantoms, reference_python, root, run_ok, storescu, wait_for,
};

/// Service, peer, in the clear, over TLS.
pub type Row = [String; 4];

const TOKEN: &str = "token-of-the-matrix-0123456789";
const LIMIT: Duration = Duration::from_secs(60);

/// A node with a report on a study of some images.
struct Site {
    folder: PathBuf,
    certificates: Certificates,
    node: Node,
    images: Vec<PathBuf>,
    study: String,
    /// The report as it is given out first.
    report: PathBuf,
}

/// Every row; a service that a peer knows and the node does not give is a fault of the test.
pub fn asked(folder: &Path) -> Vec<Row> {
    let ports = [free_port(), free_port()];
    let site = Site::start(folder, ports);
    let mut rows = Vec::new();
    let mut row = |service: &str, peer: &str, asked: &dyn Fn(bool) -> String| {
        rows.push([service.into(), peer.into(), asked(false), asked(true)]);
    };
    row("C-FIND", "findscu", &|tls| site.findscu(tls));
    row("C-GET", "getscu", &|tls| site.getscu(tls));
    row("C-FIND, C-GET", "pynetdicom", &|tls| site.pynetdicom(tls));
    let orthancs = [false, true].map(|tls| site.orthanc(tls, ports[usize::from(tls)]));
    let of = |tls: bool| &orthancs[usize::from(tls)];
    row("C-FIND", "Orthanc", &|tls| site.orthanc_finds(of(tls)));
    row("C-GET", "Orthanc", &|tls| {
        assert!(of(tls).knows_not("/modalities/sidelight/get"), "Orthanc can pull now: add how it is done");
        UNKNOWN.into()
    });
    row("Storage Commitment, result on a new association", "Orthanc", &|tls| site.orthanc_asks(of(tls)));
    row("STOW-RS", "curl", &|tls| site.curl(tls));
    row("STOW-RS", "dicomweb-client", &|tls| site.dicomweb_stores(tls));
    row("QIDO-RS, WADO-RS", "dicomweb-client", &|tls| site.dicomweb_pulls(tls));
    assert!(site.node.stop().success());
    rows
}

impl Site {
    fn start(folder: &Path, ports: [u16; 2]) -> Self {
        fs::create_dir_all(folder).expect("writable");
        let certificates = Certificates::new(folder);
        fs::set_permissions(&certificates.node.key, fs::Permissions::from_mode(0o600)).expect("our own file");
        fs::write(folder.join("token"), TOKEN).expect("writable");
        let asking = |title: &str, more: &str| {
            format!("[[sources]]\nae_title = \"{title}\"\nhosts = [\"127.0.0.1\"]\nquery = true\naudit = true\n{more}")
        };
        let commitment = |title: &str, port: u16, tls: bool| {
            let to = format!("commitment = true\ncommitment_to = \"{title}@127.0.0.1:{port}\"\ntls = {tls}\n");
            asking(title, &to)
        };
        let extra = format!(
            "{}{}{}{}\n[[web_clients]]\nname = \"peer\"\ntoken_file = \"{}/token\"\nmay = [\"store\", \"query\"]\n\
             ae_title = \"STORESCU\"\naudit = true\n",
            certificates.node.section(&certificates.authority),
            asking("VIEWER", ""),
            commitment("ORTHANC", ports[0], false),
            commitment("ORTHANC_TLS", ports[1], true),
            folder.display(),
        );
        let data = folder.join("data");
        let options = NodeOptions {
            data_dir: &data,
            sources: &["STORESCU"],
            destinations: &[],
            quiet_period: "500ms",
            extra: &extra,
        };
        let mut text = configuration(&options);
        for section in ["[node]\n", "[web]\n"] {
            text = text.replace(section, &format!("{section}listen_tls = \"127.0.0.1:0\"\n"));
        }
        let config = folder.join("data.toml");
        fs::write(&config, text).expect("writable");
        let node = Node::restart(&config);
        let images = phantoms(&folder.join("phantoms"), "biased", 1, 61);
        let sent = storescu(node.dicom_port, &[], &images);
        assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
        wait_for("the study is reported", LIMIT, || node.studies().iter().any(|s| s["state"] == "delivered"));
        let files = fs::read_dir(data.join("reports")).expect("the node has made it");
        let mut files = files.map(|entry| entry.expect("readable").path());
        let report = files.find(|file| element(file, "SOPClassUID").ends_with(".88.34")).expect("a report");
        let study = element(&images[0], "StudyInstanceUID");
        Self { folder: folder.to_owned(), certificates, node, images, study, report }
    }

    fn way(&self, tls: bool) -> Way {
        match tls {
            false => Way::plain(self.node.dicom_port),
            true => Way { port: self.node.dicom_tls_port, tls: Some(self.certificates.secured("1.3")) },
        }
    }

    /// An empty folder.
    fn fresh(&self, name: &str) -> PathBuf {
        let folder = self.folder.join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("writable");
        folder
    }

    /// What the one file of a folder is, compared with the report.
    fn pulled(&self, folder: &Path) -> String {
        let files: Vec<PathBuf> = fs::read_dir(folder).expect("readable").flatten().map(|entry| entry.path()).collect();
        let [file] = &files[..] else { panic!("one report: {files:?}") };
        compared(&self.report, file)
    }

    fn findscu(&self, tls: bool) -> String {
        let out = self.fresh("found");
        let keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", "PatientID", "-k"];
        let study = format!("StudyInstanceUID={}", self.study);
        let out_text = out.display().to_string();
        let behind = [&keys[..], &[&study, "-X", "-od", &out_text]].concat();
        run_ok(&mut self.way(tls).dcmtk("findscu", &["-S", "-aet", "VIEWER", "-aec", "SIDELIGHT"], &behind));
        let files: Vec<PathBuf> = fs::read_dir(&out).expect("readable").flatten().map(|entry| entry.path()).collect();
        let [file] = &files[..] else { panic!("one study: {files:?}") };
        assert_eq!(element(file, "PatientID"), element(&self.images[0], "PatientID"));
        "found".into()
    }

    /// getscu 3.6.7 does not speak TLS.
    fn getscu(&self, tls: bool) -> String {
        if tls {
            return UNKNOWN.into();
        }
        let out = self.fresh("got");
        let (study, out_text) = (format!("StudyInstanceUID={}", self.study), out.display().to_string());
        let behind = ["-k", "QueryRetrieveLevel=STUDY", "-k", &study, "-od", &out_text, "+B"];
        run_ok(&mut self.way(false).dcmtk("getscu", &["-S", "-aet", "VIEWER", "-aec", "SIDELIGHT"], &behind));
        self.pulled(&out)
    }

    fn pynetdicom(&self, tls: bool) -> String {
        let out = self.fresh("pulled");
        let said = run_ok(self.way(tls).pynetdicom("pull").arg(&self.study).arg(&out));
        let said: Value = serde_json::from_str(&said).expect("JSON");
        assert_eq!(said, json!({"found": [self.study], "status": 0}));
        format!("found, {}", self.pulled(&out))
    }

    fn orthanc(&self, tls: bool, port: u16) -> Orthanc {
        let (title, folder) = (if tls { "ORTHANC_TLS" } else { "ORTHANC" }, self.folder.join(format!("orthanc-{tls}")));
        let mut settings = match tls {
            false => json!({}),
            true => orthanc::over_tls(&self.certificates.peer, &self.certificates.authority),
        };
        let port_of_node = self.way(tls).port;
        settings["DicomAet"] = title.into();
        settings["DicomPort"] = port.into();
        settings["DicomModalities"] =
            json!({"sidelight": {"AET": "SIDELIGHT", "Host": "127.0.0.1", "Port": port_of_node, "UseDicomTls": tls}});
        Orthanc::start(&folder, &settings, &[])
    }

    fn orthanc_finds(&self, orthanc: &Orthanc) -> String {
        let query = json!({"Level": "Study", "Query": {"StudyInstanceUID": self.study, "PatientID": ""}}).to_string();
        let answer = orthanc.post("/modalities/sidelight/query", query.as_bytes()).expect("an answer");
        let path = answer["Path"].as_str().expect("a path").to_owned();
        assert_eq!(orthanc.get(&format!("{path}/answers")).expect("a list"), json!(["0"]));
        let found = orthanc.get(&format!("{path}/answers/0/content?simplify")).expect("an answer");
        assert_eq!(found["PatientID"], element(&self.images[0], "PatientID"));
        "found".into()
    }

    /// Orthanc asks for an image and leaves; the node calls it back.
    fn orthanc_asks(&self, orthanc: &Orthanc) -> String {
        let image = |file: &PathBuf| {
            let (meta, _) = split(file).expect("a DICOM file");
            let uid = |text: &str| text.trim_end_matches('\0').to_owned();
            json!([uid(&meta.media_storage_sop_class_uid), uid(&meta.media_storage_sop_instance_uid)])
        };
        let asked: Vec<Value> = self.images.iter().map(image).collect();
        let ask = |instances: &[Value]| {
            let body = json!({"DicomInstances": instances, "Timeout": 30}).to_string();
            let answer = orthanc.post("/modalities/sidelight/storage-commitment", body.as_bytes()).expect("accepted");
            let path = answer["Path"].as_str().expect("a path").to_owned();
            let mut told = Value::Null;
            wait_for("Orthanc hears of the commitment", LIMIT, || {
                told = orthanc.get(&path).unwrap_or_default();
                told["Status"] != "Pending"
            });
            told
        };
        let told = ask(&asked);
        assert_eq!((&told["Status"], told["Success"].as_array().map(Vec::len)), (&json!("Success"), Some(asked.len())));
        let told = ask(&[asked[0].clone(), json!([asked[0][0], "1.2.3.4"])]);
        assert_eq!(
            (&told["Status"], told["Failures"].as_array().map(Vec::len)),
            (&json!("Failure"), Some(1)),
            "{told}"
        );
        "committed; what is not there refused".into()
    }

    fn url(&self, tls: bool) -> String {
        match tls {
            false => format!("http://127.0.0.1:{}/dicomweb", self.node.web_port),
            true => format!("https://localhost:{}/dicomweb", self.node.web_tls_port),
        }
    }

    /// Images that the node has not seen: what it has it takes as sent twice, and keeps nothing of it.
    fn unseen(&self, by: &str, tls: bool, seed: u64) -> Vec<PathBuf> {
        let images = phantoms(&self.folder.join(format!("{by}-{tls}")), "biased", 1, seed + u64::from(tls));
        assert!(images.iter().all(|image| self.kept(image).is_none()), "images of their own");
        images
    }

    /// What the node keeps of an image.
    fn kept(&self, image: &Path) -> Option<PathBuf> {
        let begin = format!("{}.", element(image, "SOPInstanceUID"));
        let mut folders = vec![self.folder.join("data/spool")];
        while let Some(folder) = folders.pop() {
            for path in fs::read_dir(folder).expect("readable").map(|entry| entry.expect("readable").path()) {
                match path.file_name().expect("a name").to_string_lossy().starts_with(&begin) {
                    _ if path.is_dir() => folders.push(path),
                    true => return Some(path),
                    false => {}
                }
            }
        }
        None
    }

    /// That each is kept as it was sent; a client may write its elements in another way.
    fn assert_kept(&self, images: &[PathBuf]) {
        for image in images {
            let kept = self.kept(image).expect("what is answered as stored is there");
            let verdict = compared(image, &kept);
            assert!([IDENTICAL, "same values"].contains(&verdict.as_str()), "{verdict}");
        }
    }

    fn curl(&self, tls: bool) -> String {
        let images = self.unseen("curl", tls, 71);
        let file = fs::read(&images[0]).expect("readable");
        let body = [&b"--b1\r\nContent-Type: application/dicom\r\n\r\n"[..], &file, b"\r\n--b1--\r\n"].concat();
        let path = self.folder.join("body");
        fs::write(&path, body).expect("writable");
        let said = run_ok(
            Command::new("curl")
                .args(["--silent", "--show-error", "--fail-with-body", "--max-time", "30", "--cacert"])
                .arg(&self.certificates.authority.certificate)
                .args(["-H", &format!("Authorization: Bearer {TOKEN}")])
                .args(["-H", "Content-Type: multipart/related; type=\"application/dicom\"; boundary=b1"])
                .args(["--data-binary", &format!("@{}", path.display()), &format!("{}/studies", self.url(tls))]),
        );
        let said: Value = serde_json::from_str(&said).expect("JSON");
        assert_eq!(said["00081199"]["Value"].as_array().map(Vec::len), Some(1), "{said}");
        self.assert_kept(&images[..1]);
        "stored".into()
    }

    fn dicomweb(&self, tls: bool, arguments: &[&str]) -> Value {
        let text = run_ok(
            Command::new(reference_python())
                .env("REQUESTS_CA_BUNDLE", &self.certificates.authority.certificate)
                .arg(root().join("tests/it/web/client.py"))
                .args([&self.url(tls), TOKEN])
                .args(arguments),
        );
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    fn dicomweb_stores(&self, tls: bool) -> String {
        let images = self.unseen("dicomweb-client", tls, 81);
        let paths: Vec<&str> = images.iter().map(|f| f.to_str().expect("UTF-8")).collect();
        let stored = self.dicomweb(tls, &[&["store"], &paths[..]].concat());
        assert_eq!(stored, json!({"stored": paths.len(), "failed": []}));
        self.assert_kept(&images);
        "stored".into()
    }

    fn dicomweb_pulls(&self, tls: bool) -> String {
        let found = self.dicomweb(tls, &["search", "study", &format!("StudyInstanceUID={}", self.study)]);
        assert_eq!(found, json!([self.study]));
        let faults = self.dicomweb(tls, &["compare", &self.study, self.report.to_str().expect("UTF-8")]);
        assert_eq!(faults, json!([]));
        "found, same values".into()
    }
}
