//! The Open Inference Protocol against a real MLServer, whose model is a few lines of NumPy: in time, late, missing, twice,
//! and an answer that contradicts the card.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::road::check_report;
use crate::support::{Node, Pacs, element, free_port, reference_python, run, run_ok, sidelight, storescu, wait_for};

const LIMIT: Duration = Duration::from_secs(90);

/// Two numbers of each image that anybody can compute again; the sizes of the batches are written to `batches`. While a file `strange` lies beside it, what it says of an
/// image that is not blank is no probability.
const RUNTIME: &str = r#"
import os
import numpy as np
from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

class Means(MLModel):
    async def load(self) -> bool:
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        given = payload.inputs[0]
        images = np.array(given.data, dtype=np.float64).reshape(given.shape)
        assert images.shape[1:] == (1, 128, 128), images.shape
        with open("batches", "a") as batches:
            batches.write(f"{len(images)}\n")
        scores = np.stack([images.mean(axis=(1, 2, 3)), images.std(axis=(1, 2, 3))], axis=1)
        if os.path.exists("strange"):
            scores[scores[:, 0] > 0] += 1
        output = ResponseOutput(name="scores", shape=list(scores.shape), datatype="FP64", data=scores.ravel().tolist())
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=[output])
"#;

/// MLServer as a process of its own. Killed when dropped.
struct ModelServer {
    child: Child,
    port: u16,
}

impl ModelServer {
    /// `SIDELIGHT_MLSERVER` is the program `mlserver`, set up by `scripts/test`.
    fn start(folder: &Path, port: u16) -> Self {
        let program = std::env::var_os("SIDELIGHT_MLSERVER")
            .expect("SIDELIGHT_MLSERVER names the program mlserver; scripts/test sets it up");
        fs::create_dir_all(folder).expect("writable");
        let settings = json!({
            "host": "127.0.0.1", "http_port": port, "grpc_port": free_port(), "metrics_port": free_port(),
            "parallel_workers": 0, "load_models_at_startup": true,
        });
        let model = json!({
            "name": "chest", "implementation": "means.Means", "parameters": {"version": "3"},
            "inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, 1, 128, 128]}],
            "outputs": [{"name": "scores", "datatype": "FP64", "shape": [-1, 2]}],
        });
        for (name, text) in [
            ("settings.json", settings.to_string()),
            ("model-settings.json", model.to_string()),
            ("means.py", RUNTIME.to_owned()),
        ] {
            fs::write(folder.join(name), text).expect("writable");
        }
        let log = fs::File::create(folder.join("log")).expect("writable");
        let child = Command::new(program)
            .arg("start")
            .arg(folder)
            .current_dir(folder)
            .env("PYTHONPATH", folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("mlserver starts");
        let server = Self { child, port };
        let ready = || server.get("/v2/models/chest/versions/3/ready").is_some_and(|answer| answer.contains("200 OK"));
        wait_for("MLServer is ready", LIMIT, ready);
        server
    }

    fn get(&self, path: &str) -> Option<String> {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    }
}

impl Drop for ModelServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Mean and standard deviation of what the contract makes of the image, by NumPy.
fn expected(file: &Path, folder: &Path) -> Vec<f64> {
    let npy = folder.join("one.npy");
    run_ok(sidelight(&["normalise"]).arg(file).args(["--contract", "minmax-unit", "--size", "128", "--npy"]).arg(&npy));
    let script = "import numpy, sys; a = numpy.load(sys.argv[1]).astype('float64'); print(a.mean(), a.std())";
    let told = run_ok(Command::new(reference_python()).args(["-c", script]).arg(&npy));
    told.split_whitespace().map(|v| v.parse().expect("a number")).collect()
}

fn assessment(node: &Node, study: &str) -> Value {
    node.json(&["studies", "show", study])["assessment"].clone()
}

#[test]
fn a_model_server_scores_what_the_node_normalised_and_its_silence_is_told() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let mut files = frontals(folder.path(), 5, 41);
    let strange = files.pop().expect("five images");
    let port = free_port();
    let sections = format!(
        "[input]\ncontract = \"minmax-unit\"\nsize = 128\n[server]\nurl = \"http://127.0.0.1:{port}\"\nmodel = \"chest\"\n\
         version = \"3\"\ninput = \"image\"\noutputs = [\"scores\"]\nbatch_delay = \"3s\"\nwait = \"3s\"\npause = \"500ms\"\nretries = 1\n\
         failures_max = 2\n"
    );
    let models = models(folder.path(), &[("served", &card("served", "open-inference", &sections))]);
    let server = ModelServer::start(&folder.path().join("mlserver"), port);
    let pacs = Pacs::start(&folder.path().join("pacs"));
    let data = folder.path().join("data");
    let text = configuration(&data, pacs.port, &models, "served");
    let config = data.with_extension("toml");
    fs::write(&config, text).expect("writable");
    let verified = run_ok(sidelight(&["model", "verify", "served", "--config"]).arg(&config));
    assert!(verified.contains(&format!("ok on http://127.0.0.1:{port}")), "{verified}");

    let node = Node::restart(&config);
    let (answered, rest) = files.split_at(2);
    let (silent, waiting) = rest.split_at(1);
    assert!(storescu(node.dicom_port, &[], answered).status.success());
    wait_for("the reports", LIMIT, || pacs.files().len() == 2);
    for file in answered {
        let study = element(file, "StudyInstanceUID");
        let assessment = assessment(&node, &study);
        let scores = expected(file, folder.path());
        let findings = assessment["findings"].as_array().expect("findings");
        assert_eq!(findings.len(), 2);
        for (finding, score) in findings.iter().zip(scores) {
            let found = finding["score"].as_f64().expect("a score");
            assert!((found - score).abs() < 1e-5, "{found} {score}");
            assert_eq!(finding["clinical"]["digest_of"], "card");
            // The profile is another model's.
            assert_eq!(finding["reasons"][0], "IND-STALE");
        }
        let of_study = |report: &PathBuf| element(report, "StudyInstanceUID") == study;
        let report = pacs.files().into_iter().find(of_study).expect("a report");
        check_report(&report, std::slice::from_ref(file));
        let dump = run_ok(Command::new("dsrdump").arg(&report));
        assert!(dump.contains("card=") && dump.contains("contract=minmax-unit"), "{dump}");
    }

    // The two images came to the server in one request, whatever study they are of.
    let batches = fs::read_to_string(folder.path().join("mlserver/batches")).expect("batches");
    assert!(batches.lines().any(|images| images == "2"), "{batches}");

    // The server is gone: the image waits for it, then goes on without its score, and the report says so.
    drop(server);
    assert!(storescu(node.dicom_port, &[], silent).status.success());
    wait_for("the third report", LIMIT, || pacs.files().len() == 3);
    let study = element(&silent[0], "StudyInstanceUID");
    for finding in assessment(&node, &study)["findings"].as_array().expect("findings") {
        assert_eq!((&finding["level"], &finding["reasons"]), (&json!("indeterminate"), &json!(["IND-FAILED"])));
        assert_eq!((&finding["score"], &finding["positive"]), (&Value::Null, &Value::Null));
    }
    let report = pacs.files().into_iter().find(|f| element(f, "StudyInstanceUID") == study).expect("a report");
    assert_eq!(element(&report, "CompletionFlag"), "PARTIAL");
    assert_eq!(element(&report, "CompletionFlagDescription"), "Missing: result of served");
    check_without_score(&report, &silent[0]);

    // With more patience the image waits until the server is back; the card's patience makes no other model of it.
    assert!(node.stop().success());
    let patient = sections.replace("wait = \"3s\"", "wait = \"10m\"");
    fs::write(models.join("served/model.toml"), card("served", "open-inference", &patient)).expect("writable");
    let node = Node::restart(&config);
    assert!(storescu(node.dicom_port, &[], waiting).status.success());
    wait_for("the server is missed", LIMIT, || node.log().contains("left alone for a while"));
    assert_eq!(pacs.files().len(), 3, "nothing is reported meanwhile");
    let _server = ModelServer::start(&folder.path().join("mlserver"), port);
    wait_for("the fourth report", LIMIT, || pacs.files().len() == 4);
    let waited = element(&waiting[0], "StudyInstanceUID");
    let scores = expected(&waiting[0], folder.path());
    let found = assessment(&node, &waited);
    let first = found["findings"][0]["score"].as_f64().expect("a score");
    assert!((first - scores[0]).abs() < 1e-5, "{first} {scores:?}");

    // It is back: what went on without it can be analysed again.
    node.command(&["studies", "requeue", &study]);
    wait_for("a report with scores", LIMIT, || assessment(&node, &study)["findings"][0]["score"].as_f64().is_some());
    let row = |study: &str| node.studies().into_iter().find(|s| s["study"] == study).expect("listed");
    assert_eq!((&row(&study)["complete"], &row(&study)["missing"]), (&json!(true), &json!([])));

    // The same image again is known; asked again, the server says the same.
    let first = element(&answered[0], "StudyInstanceUID");
    let before = assessment(&node, &first)["findings"].clone();
    assert!(storescu(node.dicom_port, &[], &answered[..1]).status.success());
    node.command(&["studies", "requeue", &first]);
    wait_for("the second report", LIMIT, || row(&first)["revision"] == 2 && row(&first)["state"] == "delivered");
    assert_eq!(assessment(&node, &first)["findings"], before);

    // An answer that contradicts the card says nothing, of that image alone.
    let marker = folder.path().join("mlserver/strange");
    fs::write(&marker, "").expect("writable");
    assert!(storescu(node.dicom_port, &[], std::slice::from_ref(&strange)).status.success());
    let study = element(&strange, "StudyInstanceUID");
    let arrived = || pacs.files().iter().any(|f| element(f, "StudyInstanceUID") == study);
    wait_for("a report without a score", LIMIT, arrived);
    for finding in assessment(&node, &study)["findings"].as_array().expect("findings") {
        assert_eq!((&finding["level"], &finding["reasons"]), (&json!("indeterminate"), &json!(["IND-FAILED"])));
    }
    assert_eq!(row(&study)["missing"], json!(["result of served"]));
    assert!(node.log().contains("no probability"), "{}", node.log());
    fs::remove_file(&marker).expect("removable");
    node.command(&["studies", "requeue", &study]);
    wait_for("a report with scores", LIMIT, || assessment(&node, &study)["findings"][0]["score"].as_f64().is_some());
}

/// All checks of the report checker but the one that demands a score of every finding.
pub fn check_without_score(report: &Path, source: &Path) {
    let checker = crate::support::shared().join("tools/check_sr.py");
    let output = run(Command::new(reference_python()).arg(checker).arg(report).arg("--source").arg(source));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("24 passed, 1 failed: M2"), "{text}");
    assert!(text.contains("score or threshold missing"), "{text}");
}
