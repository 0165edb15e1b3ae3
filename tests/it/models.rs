//! Packages as a site brings them in: added, verified against golden values, several at once.

mod supplied;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::support::{
    Node, NodeOptions, Pacs, dicom_files, element, phantoms, reference_python, root, run, run_ok, sidelight, storescu,
    wait_for,
};

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

    // Whoever brings such a card elsewhere, under another name, hears of it; not so with the right answers.
    let supplied = |name: &str| {
        let card = fs::read_to_string(dir.join("model.toml")).expect("a card");
        let card: String = card.lines().filter(|l| !l.starts_with("device_uid")).map(|l| format!("{l}\n")).collect();
        fs::write(dir.join("supplied.toml"), card).expect("writable");
        let mut command = scene.command(&["model", "add", "--name", name]);
        run(command.arg("--card").arg(dir.join("supplied.toml")).arg(&weights))
    };
    let refused = supplied("third");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("does not answer as the golden values beside its card: DIFFERENT on cpu-fp32"), "{said}");
    assert!(!scene.path("models/third").exists());
    run_ok(&mut scene.command(&["model", "golden", "second"]));
    assert_eq!(scene.verify().0, Some(0));
    let added = supplied("third");
    assert!(added.status.success(), "{added:?}");
    run_ok(&mut scene.command(&["model", "verify", "third", "--require-golden"]));

    // What has no golden values is not verified.
    let mut plain = scene.command(&["model", "add", "--name", "plain"]);
    run_ok(plain.arg("--card").arg(scene.path("card.toml")).arg(&weights));
    assert!(run_ok(&mut scene.command(&["model", "verify", "plain"])).contains("not verified: no golden values"));
    let required = run(&mut scene.command(&["model", "verify", "plain", "--require-golden"]));
    assert_eq!(required.status.code(), Some(1));
    let path = run(&mut scene.command(&["model", "golden", "../models/plain"]));
    assert!(String::from_utf8_lossy(&path.stderr).contains("is not a package name"), "{path:?}");

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

/// From cards and the site's mix to scores, reasons and nothing else: each number against a run without them.
#[test]
fn cards_and_the_sites_mix_decide_a_studys_score() {
    let scene = Scene::new();
    run_ok(&mut scene.add(&root().join("models/demo-clinical/weights.pt"), &scene.path("card.toml")));
    let images = phantoms(&scene.path("phantoms"), "biased", 3, 82);
    let analyse = |out: &str, more: &[&str]| -> Value {
        let mut command = scene.command(&["analyse", "--json", "--disclose", "--with-posteriors"]);
        command.args(["--config", "conf/demo.toml", "--set", "models.clinical=demo-clinical,second"]).args(more);
        let text = run_ok(command.arg("--out").arg(scene.path(out)).args(&images));
        serde_json::from_str(&text).expect("JSON")
    };
    let plain = analyse("plain", &[]);
    assert!(plain["models"]["race"]["prior"].is_null());

    // A race model that is half as sure, of a site with another mix; one clinical model with a line for one finding, and
    // one to which every image is a stranger.
    let edit = |name: &str, section: &str| {
        let path = scene.path("models").join(name).join("model.toml");
        let card = fs::read_to_string(&path).expect("a card");
        fs::write(&path, format!("{card}\n{section}\n")).expect("writable");
    };
    edit("demo-race", "[calibration]\nmethod = \"temperature\"\ntemperature = 2.0");
    let line =
        "[calibration]\nmethod = \"platt\"\n[calibration.findings]\npneumothorax = { slope = 0.5, intercept = 1.0 }";
    edit("demo-clinical", line);
    edit("second", "[ood]\nmethod = \"energy\"\nthreshold = -1e6");
    let key = plain["models"]["race"]["key"].as_str().expect("a key");
    let prior = scene.path("prior.json");
    let trained = [0.2, 0.3, 0.5];
    let site = [0.6, 0.3, 0.1];
    let text = serde_json::json!({"format": 1, "race_model": key, "groups": ["Asian", "Black", "White"], "trained": trained,
        "site": site, "studies": 700, "estimated_at": "2026-01-15T00:00:00Z"});
    fs::write(&prior, text.to_string()).expect("writable");
    let changed = analyse("changed", &["--set", &format!("models.race_prior={}", prior.display())]);
    let digest = sidelight::domain::Digest::of(text.to_string().as_bytes());
    assert_eq!(changed["models"]["race"]["prior"], digest.as_str());

    let number = |value: &Value| value.as_f64().expect("a number");
    for (before, after) in
        plain["studies"].as_array().expect("a list").iter().zip(changed["studies"].as_array().unwrap())
    {
        let expected: Vec<f64> = ["Asian", "Black", "White"]
            .iter()
            .zip(trained.iter().zip(site))
            .map(|(group, (from, to))| number(&before["race"][group]).sqrt() * to / from)
            .collect();
        let sum: f64 = expected.iter().sum();
        for (group, expected) in ["Asian", "Black", "White"].iter().zip(expected) {
            let found = number(&after["race"][group]);
            assert!((found - expected / sum).abs() < 1e-5, "{group}: {found} and {}", expected / sum);
        }
        let (old, new) = (&before["findings"], &after["findings"]);
        let logit = |v: &Value| (number(v) / (1.0 - number(v))).ln();
        let expected = 1.0 / (1.0 + (-0.5 * logit(&old[0]["score"]) - 1.0).exp());
        // Images that were batched otherwise differ in the eighth digit.
        assert!((number(&new[0]["score"]) - expected).abs() < 1e-5, "{new}");
        assert!((number(&new[1]["score"]) - number(&old[1]["score"])).abs() < 1e-6, "{new}");
        let has =
            |finding: &Value, reason: &str| finding["reasons"].as_array().expect("a list").contains(&reason.into());
        // The profile was fitted without the mix: nothing of individuals. It knows nothing of the second model anyway.
        assert!(has(&new[0], "IND-STALE") && !has(&old[0], "IND-STALE"), "{old} {new}");
        assert!(has(&new[2], "IND-OOD") && has(&new[3], "IND-OOD") && !has(&new[0], "IND-OOD"), "{new}");
        assert!(new[2]["level"] == "indeterminate" && !has(&old[2], "IND-OOD"), "{old}");
    }

    // A race model that does not know the images withholds the individual part and no more.
    let card = scene.path("models/demo-race/model.toml");
    let of_race = fs::read_to_string(&card).expect("a card");
    fs::write(&card, format!("{of_race}\n[ood]\nmethod = \"energy\"\nthreshold = -1e6\n")).expect("writable");
    let strange = analyse("strange", &[]);
    for study in strange["studies"].as_array().expect("a list") {
        let reasons = study["findings"][0]["reasons"].as_array().expect("a list");
        assert!(reasons.contains(&"IND-OOD".into()) && study["findings"][0]["disclosed"].is_null(), "{study}");
    }
    // Another model's mix is refused by name.
    fs::write(&prior, text.to_string().replace(key, "other@1.0.0#000000000000")).expect("writable");
    let mut command = scene.command(&["analyse", "--config", "conf/demo.toml"]);
    command.arg("--out").arg(scene.path("refused")).arg("--set").arg(format!("models.race_prior={}", prior.display()));
    let output = run(command.args(&images));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("was estimated for other@1.0.0#"), "{said}");
}

/// In place of the node's studies, 600 of a site whose mix is .6, .3, .1: of three kinds of image, each as frequent in a group
/// as `kinds` says, with the posteriors that a model gives them that was trained on .2, .3, .5.
const MIXED: &str = r#"
import json, sqlite3, sys
db = sqlite3.connect(sys.argv[1])
db.row_factory = sqlite3.Row
trained, site, kinds = [.2, .3, .5], [.6, .3, .1], [[.7, .2, .1], [.2, .6, .2], [.1, .2, .7]]
score = dict(db.execute("SELECT * FROM scores WHERE purpose = 'race'").fetchone())
instance = dict(db.execute("SELECT * FROM instances WHERE sop_instance = ?", [score["sop_instance"]]).fetchone())
study = dict(db.execute("SELECT * FROM studies WHERE study = ?", [instance["study"]]).fetchone())
db.execute("DELETE FROM scores WHERE purpose = 'race'")
def insert(table, row):
    db.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", list(row.values()))
n = 0
for kind in kinds:
    posterior = [t * k for t, k in zip(trained, kind)]
    outputs = json.dumps([p / sum(posterior) for p in posterior])
    for _ in range(round(600 * sum(s * k for s, k in zip(site, kind)))):
        n += 1
        ids = {"study": f"1.2.{n}", "sop_instance": f"1.2.{n}.1"}
        insert("studies", study | {"study": ids["study"]})
        insert("instances", instance | ids | {"header": json.dumps(json.loads(instance["header"]) | ids)})
        insert("scores", score | {"sop_instance": ids["sop_instance"], "outputs": outputs})
db.commit()
"#;

#[test]
fn the_sites_mix_needs_many_studies_and_every_reading_is_logged() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let images = phantoms(&folder.path().join("phantoms"), "biased", 3, 83);
    let pacs = Pacs::start(&folder.path().join("pacs"));
    let node = Node::start(&NodeOptions {
        data_dir: &folder.path().join("data"),
        sources: &["STORESCU"],
        destinations: &[("archive", "PACS", pacs.port, true, "withheld")],
        quiet_period: "1s",
        extra: "",
    });
    assert!(storescu(node.dicom_port, &[], &images).status.success());
    wait_for("every study is delivered", Duration::from_secs(60), || {
        let studies = node.studies();
        studies.len() == 3 && studies.iter().all(|s| s["state"] == "delivered")
    });
    let out = folder.path().join("prior.json");
    let ask = |more: &[&str]| {
        let mut command = sidelight(&["profile", "prior", "--out"]);
        let output = run(command.arg(&out).args(more).arg("--config").arg(&node.config));
        assert!(output.status.code() == Some(1) && !out.exists(), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let shares = "--trained=Asian=0.2,Black=0.3,White=0.5";
    let said = ask(&[shares]);
    assert!(said.contains("3 studies have race scores of demo-race@") && said.contains("at least 500"), "{said}");
    assert_eq!(said.matches("race scores were read for an estimate of the site's mix of groups").count(), 3, "{said}");
    let said = ask(&[shares, "--studies-min", "900"]);
    assert!(said.contains("at least 900"), "{said}");
    for (more, expected) in [
        (&[][..], "does not say in what shares of the groups it was trained"),
        (&["--trained", "Asian=0.2,Black=0.3"], "is no list of shares of Asian, Black, White"),
        (&["--trained", "Asian=0.2,Black=0.3,White=0.6"], "they sum to 1.1"),
    ] {
        let said = ask(more);
        assert!(said.contains(expected) && !said.contains("race scores were read"), "{said}");
    }

    // With studies enough the mix comes out, and nothing else is told or written.
    let config = node.config.clone();
    assert!(node.stop().success());
    let index = folder.path().join("data/index.sqlite");
    run_ok(Command::new(reference_python()).args(["-c", MIXED]).arg(index));
    let mut command = sidelight(&["profile", "prior", shares, "--out"]);
    let output = run(command.arg(&out).arg("--config").arg(&config));
    let (told, logged) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && told.contains("estimated from 600 studies"), "{told}{logged}");
    assert_eq!(logged.matches("race scores were read for an estimate of the site's mix of groups").count(), 600);
    let prior: Value = serde_json::from_slice(&fs::read(&out).expect("written")).expect("JSON");
    assert_eq!((&prior["studies"], &prior["groups"]), (&600.into(), &serde_json::json!(["Asian", "Black", "White"])));
    for (found, expected) in prior["site"].as_array().expect("shares").iter().zip([0.6, 0.3, 0.1]) {
        assert!((found.as_f64().expect("a share") - expected).abs() < 1e-3, "{prior}");
    }
    // And is what `analyse` takes.
    let mut command = sidelight(&["analyse", "--json", "--config", "conf/demo.toml", "--set"]);
    command.arg(format!("models.race_prior={}", out.display())).arg("--out").arg(folder.path().join("out"));
    let result: Value = serde_json::from_str(&run_ok(command.args(&images))).expect("JSON");
    let digest = sidelight::domain::Digest::of(&fs::read(&out).expect("written"));
    assert_eq!(result["models"]["race"]["prior"], digest.as_str());
}

#[test]
fn a_model_for_each_view_gives_its_findings_where_there_is_that_view() {
    let scene = Scene::new();
    let card = fs::read_to_string(scene.path("card.toml")).expect("a card");
    assert!(card.contains("views = [\"PA\", \"AP\"]"), "{card}");
    let lateral = card.replace("views = [\"PA\", \"AP\"]", "views = [\"LATERAL\"]");
    fs::write(scene.path("card.toml"), lateral).expect("writable");
    run_ok(&mut scene.add(&root().join("models/demo-clinical/weights.pt"), &scene.path("card.toml")));
    let images = phantoms(&scene.path("phantoms"), "biased", 8, 84);
    let mut command = scene.command(&["analyse", "--json", "--config", "conf/demo.toml"]);
    command.args(["--set", "models.clinical=demo-clinical,second", "--out"]).arg(scene.path("out")).args(&images);
    let result: Value = serde_json::from_str(&run_ok(&mut command)).expect("JSON");
    let mut seen = [0, 0];
    for study in result["studies"].as_array().expect("a list") {
        let of_study = |f: &&PathBuf| Some(element(f, "StudyInstanceUID").as_str()) == study["study"].as_str();
        let has_lateral = images.iter().filter(of_study).any(|f| element(f, "ViewPosition") == "LL");
        let findings = study["findings"].as_array().expect("a list");
        let keys: Vec<_> = findings.iter().map(|f| f["key"].as_str().expect("text")).collect();
        let all = ["pneumothorax", "pleural_effusion", "second_pneumothorax", "second_pleural_effusion"];
        assert_eq!(keys, all[..if has_lateral { 4 } else { 2 }], "{study}");
        seen[usize::from(has_lateral)] += 1;
    }
    assert!(seen.iter().all(|n| *n > 0), "{seen:?}");
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
        let score = |i: usize| findings[i]["score"].as_f64().expect("a number");
        assert!((score(0) - score(2)).abs() < 1e-6 && (score(1) - score(3)).abs() < 1e-6, "{study}");
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
