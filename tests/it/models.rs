//! Packages as a site brings them in: added, verified against golden values, several at once.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::{dicom_files, phantoms, root, run, run_ok, sidelight};

/// A folder of packages with copies of the demo models' and a card that has no weights yet.
struct Scene {
    folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        for name in ["demo-race", "demo-clinical"] {
            let to = folder.path().join("models").join(name);
            fs::create_dir_all(&to).expect("writable");
            for file in fs::read_dir(root().join("models").join(name)).expect("there") {
                let path = file.expect("there").path();
                fs::copy(&path, to.join(path.file_name().expect("a file"))).expect("copied");
            }
        }
        let card = fs::read_to_string(root().join("models/demo-clinical/model.toml")).expect("a card");
        let card: String = card.split("[golden]").next().expect("a card").to_owned();
        let pinned = |line: &&str| ["file =", "sha256 =", "device_uid ="].iter().any(|key| line.starts_with(key));
        let card: String = card.lines().filter(|l| !pinned(l)).map(|l| format!("{l}\n")).collect();
        let card = card.replace("key = \"p", "key = \"second_p").replace("0.8006", "0.7");
        fs::write(folder.path().join("card.toml"), card).expect("writable");
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = sidelight(arguments);
        command.arg("--set").arg(format!("models.dir={}", self.path("models").display()));
        command.args(["--set", "models.device=cpu"]);
        command
    }

    fn add(&self, weights: &Path, card: &Path) -> Command {
        let mut command = self.command(&["model", "add", "--golden", "--name", "second"]);
        command.arg("--card").arg(card).arg(weights);
        command
    }

    /// Exit code and JSON of `model verify second`.
    fn verify(&self) -> (Option<i32>, Value) {
        let output = run(&mut self.command(&["model", "verify", "second", "--json"]));
        (output.status.code(), serde_json::from_slice(&output.stdout).expect("JSON"))
    }
}

#[test]
fn a_weight_file_becomes_a_package_that_is_known_again() {
    let scene = Scene::new();
    let weights = root().join("models/demo-clinical/weights.pt");
    let said = run_ok(&mut scene.add(&weights, &scene.path("card.toml")));
    for word in ["second@1.0.0#", "ran on cpu", "second_pneumothorax", "Device UID 2.25.", "models.clinical names it"] {
        assert!(said.contains(word), "{word:?} in {said}");
    }
    let (code, verified) = scene.verify();
    assert_eq!(code, Some(0), "{verified}");
    assert!(verified[0]["golden"]["difference"].as_f64().expect("a number") < 1e-6, "{verified}");
    assert_eq!(verified[0]["golden"]["device"], "cpu-fp32");

    // A change of one answer is found out: by its hash, and by itself when the hash is that of the changed file.
    let dir = scene.path("models/second");
    let golden = the_file(&dir, "golden-");
    let text = fs::read_to_string(&golden).expect("written");
    let mut values: Value = serde_json::from_str(&text).expect("JSON");
    let answer = values["cases"][0]["outputs"][0].as_f64().expect("a number");
    values["cases"][0]["outputs"][0] = (answer + if answer < 0.5 { 0.01 } else { -0.01 }).into();
    let changed = serde_json::to_string(&values).expect("JSON");
    fs::write(&golden, &changed).expect("writable");
    let (code, verified) = scene.verify();
    assert!(
        code == Some(1) && verified[0]["outcome"].as_str().expect("text").contains("sha256: golden-"),
        "{verified}"
    );
    let hash = |text: &str| sidelight::domain::Digest::of(text.as_bytes()).to_string();
    let card = fs::read_to_string(dir.join("model.toml")).expect("a card");
    fs::write(dir.join("model.toml"), card.replace(&hash(&text), &hash(&changed))).expect("writable");
    let (code, verified) = scene.verify();
    assert_eq!(code, Some(1), "{verified}");
    assert!((verified[0]["golden"]["difference"].as_f64().expect("a number") - 0.01).abs() < 1e-5, "{verified}");
    let table = run(&mut scene.command(&["model", "verify"]));
    assert!(String::from_utf8_lossy(&table.stdout).contains("DIFFERENT on cpu-fp32"));
    run_ok(&mut scene.command(&["model", "golden", "second"]));
    assert_eq!(scene.verify().0, Some(0));

    let again = run(&mut scene.add(&weights, &scene.path("card.toml")));
    assert!(String::from_utf8_lossy(&again.stderr).contains("is there already"), "{again:?}");
}

/// The only file below `dir` whose name begins so.
fn the_file(dir: &Path, start: &str) -> PathBuf {
    let found: Vec<PathBuf> = fs::read_dir(dir).expect("there").map(|e| e.expect("there").path()).collect();
    let begins = |p: &&PathBuf| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(start));
    let [file] = found.iter().filter(begins).collect::<Vec<_>>().try_into().expect("one file");
    file.clone()
}

#[test]
fn what_does_not_run_never_becomes_visible() {
    let scene = Scene::new();
    let card = fs::read_to_string(scene.path("card.toml")).expect("a card");
    let weights = root().join("models/demo-clinical/weights.pt");
    let check = |weights: &Path, card: &str, expected: &str| {
        fs::write(scene.path("other.toml"), card).expect("writable");
        let output = run(&mut scene.add(weights, &scene.path("other.toml")));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && said.contains(expected), "{expected:?} in {said}");
        let mut names: Vec<_> = fs::read_dir(scene.path("models")).expect("there").flatten().collect();
        names.sort_by_key(fs::DirEntry::file_name);
        let names: Vec<_> = names.iter().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        assert_eq!(names, ["demo-clinical", "demo-race"], "{said}");
    };
    // The card promises what the network does not give.
    check(&weights, &card.replace("activation = \"logits-sigmoid\"", "activation = \"sigmoid\""), "is no probability");
    check(&weights, &card.replace("[output]", "[output]\ncolumns = 7"), "its shape is [1, 2]");
    // A safetensors file that ends too early, in its header or in its numbers.
    let native = card.replace("\"torchscript\"", "\"safetensors\"\narchitecture = \"resnet18\"");
    let header = br#"{"fc.weight":{"dtype":"F32","shape":[2,512],"data_offsets":[0,4096]}}"#;
    let whole = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 4096]].concat();
    for (length, expected) in [(whole.len(), "lacks parameters of resnet18"), (200, "not a safetensors file")] {
        fs::write(scene.path("cut.safetensors"), &whole[..length]).expect("writable");
        check(&scene.path("cut.safetensors"), &native, expected);
    }
    // The beginning of a TorchScript file has no table of contents.
    let bytes = fs::read(&weights).expect("weights");
    fs::write(scene.path("cut.pt"), &bytes[..bytes.len() / 2]).expect("writable");
    check(&scene.path("cut.pt"), &card, "no weight file that is known here");
    // One whose middle is damaged has one, and does not load or run.
    let mut damaged = bytes.clone();
    let half = damaged.len() / 2;
    damaged[..half].fill(0);
    damaged[..4].copy_from_slice(&bytes[..4]);
    fs::write(scene.path("damaged.pt"), damaged).expect("writable");
    check(&scene.path("damaged.pt"), &card, "cannot be loaded");
}

#[test]
fn two_clinical_models_are_both_in_the_report() {
    let scene = Scene::new();
    run_ok(&mut scene.add(&root().join("models/demo-clinical/weights.pt"), &scene.path("card.toml")));
    let images = phantoms(&scene.path("phantoms"), "biased", 2, 81);
    let mut command = scene.command(&["analyse", "--json", "--config", "conf/demo.toml"]);
    command.args(["--set", "models.clinical=demo-clinical,second", "--out"]).arg(scene.path("out")).args(&images);
    let result: Value = serde_json::from_str(&run_ok(&mut command)).expect("JSON");
    let reports = dicom_files(&scene.path("out"));
    assert_eq!(reports.len(), 2);
    for study in result["studies"].as_array().expect("a list") {
        let findings = study["findings"].as_array().expect("a list");
        let keys: Vec<_> = findings.iter().map(|f| f["key"].as_str().expect("text")).collect();
        assert_eq!(keys, ["pneumothorax", "pleural_effusion", "second_pneumothorax", "second_pleural_effusion"]);
        // The same weights: the same scores, under the name of each model and by its own threshold.
        assert_eq!(findings[0]["score"], findings[2]["score"]);
        assert_eq!((&findings[0]["threshold"], &findings[2]["threshold"]), (&0.8006.into(), &0.7.into()));
        // The profile was fitted for the one and knows nothing of the other.
        assert_eq!(findings[2]["level"], "indeterminate", "{study}");
    }
    let card = fs::read_to_string(scene.path("models/second/model.toml")).expect("a card");
    let uid = card.lines().find_map(|l| l.strip_prefix("device_uid = ")).expect("pinned").trim_matches('"').to_owned();
    for report in &reports {
        let dump = run_ok(Command::new("dsrdump").arg("+Pl").arg(report));
        for model in ["demo-clinical", "second"] {
            let named = format!("\"Algorithm Name\")=\"{model}\"");
            assert!(dump.contains(&named), "{model} in {dump}");
        }
        let bytes = fs::read(report).expect("written");
        assert!(bytes.windows(uid.len()).any(|w| w == uid.as_bytes()), "Contributing Equipment names {uid}");
    }
}
