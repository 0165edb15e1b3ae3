//! A client against a server that a test scripts: one line of behaviour for each request that arrives.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::{Value, json};

use super::*;
use crate::infer::Package;

/// What the server does with a request.
#[derive(Clone)]
enum Act {
    /// Two columns for each image: its mean, and one minus that.
    Right,
    Status(u16),
    /// 200 with this body.
    Body(String),
    /// Closes the connection without an answer.
    Close,
    /// Never answers.
    Silence,
    /// 500 if an image of the request has a first value above .9.
    Poisoned,
}

/// What arrived: paths, numbers of images, tokens.
type Seen = Arc<Mutex<Vec<(String, usize, Option<String>)>>>;

/// Answers the first requests as scripted and all others by the last line. Its address, and what it saw.
fn server(script: Vec<Act>) -> (String, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let seen = Seen::default();
    let (log, script) = (Arc::clone(&seen), Arc::new(script));
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (log, script) = (Arc::clone(&log), Arc::clone(&script));
            std::thread::spawn(move || serve(stream, &log, &script));
        }
    });
    (address, seen)
}

fn serve(stream: TcpStream, log: &Seen, script: &[Act]) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut out = stream;
    loop {
        let (mut line, mut length, mut token) = (String::new(), 0, None);
        reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
        let path = line.split(' ').nth(1)?.to_owned();
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).ok().filter(|n| *n > 0)?;
            let header = header.trim();
            match header.split_once(": ") {
                _ if header.is_empty() => break,
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.parse().ok()?,
                Some((name, value)) if name.eq_ignore_ascii_case("authorization") => token = Some(value.to_owned()),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let images = body["inputs"][0]["shape"][0].as_u64().unwrap_or(0) as usize;
        let nth = {
            let mut log = log.lock().unwrap();
            log.push((path, images, token));
            log.len() - 1
        };
        let act = script.get(nth).or(script.last())?.clone();
        let (status, answer) = match act {
            Act::Right => (200, right(&body, images)),
            Act::Poisoned if first_values(&body, images).iter().any(|v| *v > 0.9) => (500, "{}".to_owned()),
            Act::Poisoned => (200, right(&body, images)),
            Act::Status(status) => (status, "{}".to_owned()),
            Act::Body(body) => (200, body),
            Act::Close => return None,
            Act::Silence => {
                // until the client gives up
                let _ = reader.read(&mut [0]);
                return None;
            }
        };
        write!(out, "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{answer}", answer.len()).ok()?;
    }
}

fn data(body: &Value) -> Vec<f64> {
    let data = body["inputs"][0]["data"].as_array().cloned().unwrap_or_default();
    data.iter().filter_map(Value::as_f64).collect()
}

fn first_values(body: &Value, images: usize) -> Vec<f64> {
    let data = data(body);
    data.chunks(data.len() / images.max(1)).map(|image| image[0]).collect()
}

fn right(body: &Value, images: usize) -> String {
    let data = data(body);
    let means = data.chunks(data.len() / images.max(1)).map(|image| image.iter().sum::<f64>() / image.len() as f64);
    let rows: Vec<f64> = means.flat_map(|mean| [mean, 1.0 - mean]).collect();
    let output = json!({"name": "scores", "datatype": "FP32", "shape": [images, 2], "data": rows});
    json!({"model_name": "chest", "model_version": "3", "outputs": [output]}).to_string()
}

const CARD: &str = r#"
name = "served"
version = "1"
manufacturer = "Example Imaging"
purpose = "clinical"
format = "open-inference"
device_uid = "2.25.1"
[input]
contract = "minmax-unit"
size = 8
[server]
url = "URL"
model = "chest"
version = "3"
input = "image"
outputs = ["scores"]
timeout = "400ms"
EXTRA
[output]
activation = "sigmoid"
[[output.findings]]
key = "pneumothorax"
threshold = 0.5
code = { value = "36118008", scheme = "SCT", meaning = "Pneumothorax" }
[[output.findings]]
key = "pleural_effusion"
threshold = 0.25
code = { value = "60046008", scheme = "SCT", meaning = "Pleural effusion" }
[provenance]
training_data = "none"
intended_use = "tests"
limits = "knows nothing"
license = "Apache-2.0"
"#;

/// A package whose server is at this address, with these lines in its section.
fn package(folder: &Path, url: &str, extra: &str) -> Package {
    let folder = folder.join("served");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("model.toml"), CARD.replace("URL", url).replace("EXTRA", extra)).unwrap();
    Package::load(&folder).unwrap()
}

struct Scene {
    _folder: tempfile::TempDir,
    package: Package,
    servers: Servers,
    seen: Seen,
}

fn scene(script: Vec<Act>, extra: &str) -> Scene {
    let folder = tempfile::tempdir().unwrap();
    let (url, seen) = server(script);
    let package = package(folder.path(), &url, extra);
    let servers = Servers::start(std::slice::from_ref(&package));
    Scene { _folder: folder, package, servers, seen }
}

impl Scene {
    async fn score(&self, value: f32) -> Result<Vec<f64>, RemoteError> {
        let input = ModelInput { contract: self.package.contract.digest(), plane: vec![value; 64] };
        self.servers.score(&self.package.key(), input).await
    }

    fn requests(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

fn close(found: &[f64], expected: [f64; 2]) -> bool {
    found.len() == 2 && found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6)
}

#[tokio::test(flavor = "multi_thread")]
async fn images_of_many_callers_are_asked_in_batches_and_each_has_its_own_score() {
    let scene = Arc::new(scene(vec![Act::Right], "batch_delay = \"300ms\"\nbatch_max = 4"));
    let tasks: Vec<_> = (0..8)
        .map(|n| {
            let scene = Arc::clone(&scene);
            tokio::spawn(async move { (n, scene.score(n as f32 / 10.0).await) })
        })
        .collect();
    for task in tasks {
        let (n, scores) = task.await.unwrap();
        assert!(close(&scores.unwrap(), [f64::from(n) / 10.0, 1.0 - f64::from(n) / 10.0]), "{n}");
    }
    let seen = scene.seen.lock().unwrap().clone();
    assert_eq!(seen.iter().map(|(_, images, _)| images).sum::<usize>(), 8);
    assert!(seen.len() <= 4, "{seen:?}");
    assert!(seen.iter().all(|(path, ..)| path == "/v2/models/chest/versions/3/infer"));
}

#[tokio::test]
async fn what_passes_is_asked_again_and_what_does_not_is_not() {
    let passing = [Act::Status(503), Act::Close, Act::Right].to_vec();
    let scene = scene(passing, "retries = 2");
    assert!(close(&scene.score(0.5).await.unwrap(), [0.5, 0.5]));
    assert_eq!(scene.requests(), 3);

    for (act, status) in [(Act::Status(400), "400"), (Act::Status(500), "500")] {
        let scene = self::scene(vec![act, Act::Right], "retries = 2");
        let error = scene.score(0.5).await.unwrap_err();
        assert!(matches!(&error, RemoteError::Failed(_)) && error.to_string().contains(status), "{error}");
        assert_eq!(scene.requests(), 2, "{status}: the image, and one of zeros");
    }
}

#[tokio::test]
async fn images_that_a_server_fails_at_are_no_trouble_of_the_servers() {
    let script = [vec![Act::Status(503); 2], vec![Act::Poisoned]].concat();
    let scene = scene(script, "retries = 0\nfailures_max = 2\npause = \"300ms\"");
    let key = scene.package.key();
    for _ in 0..2 {
        assert!(matches!(scene.score(0.5).await, Err(RemoteError::Unavailable { .. })));
    }
    // The first one to ask again is a bad image: that is its own fault, and the server is asked on.
    let start = Instant::now();
    loop {
        match scene.score(0.95).await {
            Err(RemoteError::Failed(_)) => break,
            other => assert!(matches!(other, Err(RemoteError::Unavailable { .. })), "{other:?}"),
        }
        assert!(start.elapsed() < Duration::from_secs(10));
        tokio::task::yield_now().await;
    }
    assert_eq!(scene.servers.down_for(&key), None);
    for _ in 0..5 {
        assert!(matches!(scene.score(0.95).await, Err(RemoteError::Failed(_))));
    }
    assert_eq!(scene.servers.down_for(&key), None);
    assert!(close(&scene.score(0.5).await.unwrap(), [0.5, 0.5]));
}

#[tokio::test]
async fn a_server_that_fails_at_every_image_is_at_fault_itself() {
    let other_model = right(&json!({"inputs": [{"data": vec![0.5; 64]}]}), 1).replace("chest", "knee");
    let acts =
        [Act::Status(500), Act::Status(400), Act::Body("<html>maintenance</html>".into()), Act::Body(other_model)];
    for act in acts {
        let scene = scene(vec![act], "retries = 0\nfailures_max = 2");
        for _ in 0..2 {
            let error = scene.score(0.5).await.unwrap_err();
            let told = matches!(&error, RemoteError::Unavailable { cause, .. } if cause.contains("zeros too"));
            assert!(told, "{error}");
        }
        assert!(scene.servers.down_for(&scene.package.key()).is_some(), "it is left alone");
    }
}

#[tokio::test]
async fn a_server_that_does_not_answer_says_nothing_of_the_image() {
    let standing = [Act::Status(401), Act::Status(404), Act::Status(302)];
    for act in [Act::Silence, Act::Close, Act::Status(503), Act::Status(429)].into_iter().chain(standing) {
        let scene = scene(vec![act], "retries = 0");
        let error = scene.score(0.5).await.unwrap_err();
        assert!(matches!(error, RemoteError::Unavailable { .. }), "{error}");
    }
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let package = package(folder.path(), &format!("http://{free}"), "retries = 1");
    let servers = Servers::start(std::slice::from_ref(&package));
    let input = ModelInput { contract: package.contract.digest(), plane: vec![0.5; 64] };
    let error = servers.score(&package.key(), input).await.unwrap_err();
    assert!(matches!(&error, RemoteError::Unavailable { cause, .. } if cause.contains("cannot be reached")), "{error}");
    assert_eq!(servers.check().await, Ok(()), "the node starts without it");
}

#[tokio::test]
async fn a_server_that_fails_again_and_again_is_left_alone_and_found_out_about() {
    let script = [vec![Act::Status(503); 3], vec![Act::Right]].concat();
    let scene = scene(script, "retries = 0\nfailures_max = 3\npause = \"300ms\"");
    let key = scene.package.key();
    for n in 0..3 {
        assert_eq!(scene.servers.down_for(&key), None, "{n}");
        assert!(scene.score(0.5).await.is_err());
    }
    let down = scene.servers.down_for(&key).expect("it is left alone");
    assert!(down <= Duration::from_millis(300));
    let (asked, start) = (scene.requests(), Instant::now());
    let error = scene.score(0.5).await.unwrap_err();
    if start.elapsed() < down {
        assert!(matches!(error, RemoteError::Unavailable { after, .. } if after <= down), "{error}");
        assert_eq!(scene.requests(), asked, "nothing is sent meanwhile");
    }
    tokio::time::sleep(down).await;
    let mut found = scene.score(0.5).await;
    while found.is_err() && start.elapsed() < Duration::from_secs(10) {
        tokio::time::sleep(Duration::from_millis(50)).await;
        found = scene.score(0.5).await;
    }
    assert!(close(&found.unwrap(), [0.5, 0.5]));
    assert_eq!(scene.servers.down_for(&key), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_image_fails_alone() {
    let scene = Arc::new(scene(vec![Act::Poisoned], "batch_delay = \"300ms\"\nbatch_max = 3"));
    let ask = |value: f32| {
        let scene = Arc::clone(&scene);
        tokio::spawn(async move { scene.score(value).await })
    };
    let (one, bad, two) = (ask(0.25), ask(0.95), ask(0.5));
    assert!(close(&one.await.unwrap().unwrap(), [0.25, 0.75]));
    assert!(close(&two.await.unwrap().unwrap(), [0.5, 0.5]));
    assert!(matches!(bad.await.unwrap(), Err(RemoteError::Failed(InferError::BadOutput(_)))));
}

#[tokio::test]
async fn an_answer_is_believed_as_far_as_it_fits_the_question() {
    let output = |shape: Value, data: Value| {
        json!({"outputs": [{"name": "scores", "datatype": "FP32", "shape": shape, "data": data}]}).to_string()
    };
    let nested = json!({"outputs": [{"name": "scores", "datatype": "FP64", "shape": [1, 2], "data": [[0.25, 1]]}]});
    let rows: Vec<(String, Result<[f64; 2], &str>)> = vec![
        (output(json!([1, 2]), json!([0.25, 0.75])), Ok([0.25, 0.75])),
        (output(json!([1, 2, 1, 1]), json!([0.25, 0.75])), Ok([0.25, 0.75])),
        (nested.to_string(), Ok([0.25, 1.0])),
        (output(json!([2, 1]), json!([0.25, 0.75])), Err("shape [2, 1]")),
        (output(json!([1, 3]), json!([0.1, 0.2, 0.3])), Err("3 columns")),
        (output(json!([1, 2]), json!([0.25])), Err("1 values")),
        (output(json!([1, -2]), json!([0.25, 0.75])), Err("shape")),
        (output(json!([1, i64::MAX, i64::MAX]), json!([0.25])), Err("shape")),
        (output(json!([1, 2]), json!([0.25, null])), Err("no JSON of tensors")),
        (output(json!([1, 2]), json!([0.25, 12345])).replace("12345", "1e999"), Err("no JSON of tensors")),
        (output(json!([1, 2]), json!("AAAA")), Err("no JSON of tensors")),
        (output(json!([1, 2]), json!([0.25, 1.5])), Err("no probability")),
        (output(json!([1, 2]), json!([0.25, -0.5])), Err("no probability")),
        (
            r#"{"outputs": [{"name": "scores", "datatype": "FP32", "shape": [1, 2], "data": [NaN, 0.5]}]}"#.into(),
            Err("no JSON"),
        ),
        (output(json!([1, 2]), json!([0.25, 0.75])).replace("FP32", "BYTES"), Err("datatype BYTES")),
        (output(json!([1, 2]), json!([0.25, 0.75])).replace("scores", "logits"), Err("output scores once")),
        (r#"{"model_name": "other", "outputs": []}"#.into(), Err("of model other")),
        (r#"{"model_version": "4", "outputs": []}"#.into(), Err("of version 4, not 3")),
        (r#"{"outputs": []}"#.into(), Err("output scores once")),
        ("<html>".into(), Err("no JSON")),
        ("[".repeat(50_000), Err("no JSON")),
        (format!("{{\"x\": \"{}\"}}", "x".repeat(200_000)), Err("is longer than")),
    ];
    for (body, expected) in rows {
        let shown: String = body.chars().take(100).collect();
        let found = scene(vec![Act::Body(body), Act::Right], "retries = 0").score(0.5).await;
        match expected {
            Ok(values) => assert!(close(&found.unwrap(), values), "{shown}"),
            Err(part) => {
                let error = found.expect_err(&shown);
                let told = matches!(error, RemoteError::Failed(_)) && error.to_string().contains(part);
                assert!(told, "{shown}: {error}");
            }
        }
    }
}

#[tokio::test]
async fn a_description_that_contradicts_the_card_is_told_at_once() {
    let described = |change: fn(&mut Value)| {
        let mut metadata = json!({
            "name": "chest", "versions": ["2", "3"], "platform": "x",
            "inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, 1, 8, 8]}],
            "outputs": [{"name": "scores", "datatype": "FP32", "shape": [-1, 2]}],
        });
        change(&mut metadata);
        metadata.to_string()
    };
    let rows: [(String, Option<&str>); 7] = [
        (described(|_| ()), None),
        (described(|m| m["inputs"] = json!([])), None),
        (described(|m| m["versions"] = json!(["4"])), Some("no version 3")),
        (described(|m| m["name"] = json!("x")), Some("describes model x")),
        (described(|m| m["inputs"][0]["datatype"] = json!("UINT8")), Some("takes UINT8")),
        (described(|m| m["inputs"][0]["shape"] = json!([-1, 8, 8, 1])), Some("has the shape")),
        (described(|m| m["outputs"][0]["name"] = json!("y")), Some("no output scores")),
    ];
    for (body, expected) in rows {
        let scene = scene(vec![Act::Body(body), Act::Right], "");
        match (scene.servers.check().await, expected) {
            (Ok(()), None) => {}
            (Err(contradiction), Some(part)) => assert!(contradiction.to_string().contains(part), "{contradiction}"),
            (other, _) => panic!("{other:?}, expected {expected:?}"),
        }
    }
    // What is no description may be what stands before a server, or one that loads its models still.
    let passing =
        [vec![Act::Body("<html>".into())], [200, 302, 400, 401, 403, 404, 500, 503].map(Act::Status).to_vec()];
    for act in passing.concat() {
        assert_eq!(scene(vec![act], "retries = 0").servers.check().await, Ok(()), "the node starts");
    }
    let scene = scene(vec![Act::Body(described(|_| ())), Act::Status(400)], "retries = 0");
    assert_eq!(scene.servers.check().await, Ok(()));
    assert!(matches!(scene.servers.probe(&scene.package.key()).await, Err(RemoteError::Unavailable { .. })));
}

#[tokio::test]
async fn the_token_is_read_for_each_request() {
    let scene = scene(vec![Act::Right], "token_file = \"token\"");
    let missing = scene.score(0.5).await.unwrap_err();
    assert!(matches!(&missing, RemoteError::Unavailable { cause, .. } if cause.contains("token")), "{missing}");
    for token in ["one", "two"] {
        std::fs::write(scene._folder.path().join("served/token"), format!("{token}\n")).unwrap();
        scene.score(0.5).await.unwrap();
    }
    let tokens: Vec<_> = scene.seen.lock().unwrap().iter().filter_map(|(.., token)| token.clone()).collect();
    assert_eq!(tokens, ["Bearer one", "Bearer two"]);
}
