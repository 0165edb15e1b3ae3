//! Profiles as a site keeps them: signed, checked, fitted on the index, fitted again, approved.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;
use sidelight::assess::Profile;
use sidelight::domain::Digest;

use crate::support::{Node, NodeOptions, Pacs, phantoms, root, run, run_ok, sidelight, storescu, wait_for};

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The demo profile as if it had been fitted years ago.
fn old_profile(path: &Path) {
    let demo = fs::read(root().join("models/demo-profile.json")).expect("the demo profile");
    let mut profile = Profile::parse(&demo).expect("a profile");
    profile.fitted_at = "2020-01-01T00:00:00Z".parse().expect("a time");
    profile.id = String::new();
    profile.id = format!("profile-{}", &Digest::of(&profile.to_json()).as_str()[..16]);
    fs::write(path, profile.to_json()).expect("writable");
}

fn json(command: &mut Command) -> Value {
    let text = run_ok(command);
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn with_keys_in_the_configuration_only_a_signed_profile_is_used() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (profile, key) = (folder.path().join("profile.json"), folder.path().join("site.pem"));
    old_profile(&profile);
    let public = run_ok(sidelight(&["profile", "key", "--out"]).arg(&key)).trim().to_owned();
    assert_eq!(fs::metadata(&key).expect("written").permissions().mode() & 0o777, 0o600);
    let again = run(sidelight(&["profile", "key", "--out"]).arg(&key));
    assert!(!again.status.success() && said(&again).contains("never overwritten"));
    let with_keys = |arguments: &[&str]| {
        let mut command = sidelight(arguments);
        command.args(["--config", "conf/demo.toml", "--set"]).arg(format!("risk.profile={}", profile.display()));
        command.args(["--set", "risk.profile_age_max=never"]);
        command.arg("--set").arg(format!("risk.profile_keys={public}"));
        command.arg("--set").arg(format!("store.data_dir={}", folder.path().join("data").display()));
        command.args(["--set", "node.listen=127.0.0.1:0", "--set", "web.listen="]);
        command
    };
    let check = || run(&mut with_keys(&["profile", "check"]));
    let refused = |words: &str| {
        let checked = check();
        assert!(checked.status.code() == Some(1) && said(&checked).contains(words), "{}", said(&checked));
        let served = run(&mut with_keys(&["serve"]));
        assert!(served.status.code() == Some(1) && said(&served).contains(words), "{}", said(&served));
    };
    refused("is not signed, and risk.profile_keys asks for a signature");
    run_ok(sidelight(&["profile", "sign"]).arg(&profile).arg("--key").arg(&key));
    let checked = check();
    assert!(checked.status.success() && said(&checked).contains("fits what is configured"), "{}", said(&checked));
    let text = fs::read_to_string(&profile).expect("written");
    fs::write(&profile, format!("{text}\n")).expect("writable");
    refused("the profile was changed after it was signed");
    // Without keys, as long as it is intact, anybody's will do.
    let never = "risk.profile_age_max=never";
    let mut plain = sidelight(&["profile", "check", "--config", "conf/demo.toml", "--json", "--set", never]);
    assert_eq!(json(plain.arg(&profile))["fits"], true);
    // What is deployed otherwise than it was fitted for.
    let mut stale = sidelight(&["profile", "check", "--config", "conf/demo.toml", "--set", "risk.profile_age_max=1d"]);
    let stale = run(stale.arg("--json").arg(&profile));
    assert_eq!(stale.status.code(), Some(1));
    let stale: Value = serde_json::from_slice(&stale.stdout).expect("JSON");
    assert_eq!((&stale["fits"], &stale["misfits"][0]["reason"]), (&Value::from(false), &Value::from("IND-STALE")));
}

#[test]
fn race_scores_in_files_are_used_where_an_audit_is_permitted() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let at = |name: &str| folder.path().join(name);
    let result = r#"{"format":1,"models":{"race":{"key":"r","groups":["A","B"]},"clinical":[]},"studies":[]}"#;
    fs::write(at("result.json"), result).expect("writable");
    fs::write(at("labels.csv"), "patient,study,group\np1,1.1,A\n").expect("writable");
    let fit = |more: &[&str]| {
        let mut command = sidelight(&["profile", "fit", "--config", "conf/demo.toml", "--out"]);
        command.arg(at("profile.json")).arg("--results").arg(at("result.json")).arg("--labels").arg(at("labels.csv"));
        said(&run(command.args(["--set", "risk.per_study_inference=false"]).args(more)))
    };
    assert!(fit(&[]).contains("risk.dataset_audit does not permit"), "{}", fit(&[]));
    let granted = fit(&["--set", "risk.dataset_audit=true"]);
    assert!(granted.contains("no study of result.json has a line in labels.csv"), "{granted}");
}

#[test]
fn a_candidate_that_does_not_fit_is_let_in_by_its_own_word_and_without_the_old_profile() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (profile, candidate) = (folder.path().join("profile.json"), folder.path().join("profile.json.candidate"));
    old_profile(&candidate);
    // A profile that this version cannot read.
    fs::write(&profile, "{\"format\": 1}").expect("writable");
    let own = format!("risk.profile={}", profile.display());
    let approve = |arguments: &[&str]| {
        let mut command = sidelight(&["profile", "approve", "--config", "conf/demo.toml", "--set", &own]);
        run(command.args(["--set", "risk.profile_age_max=30d"]).args(arguments))
    };
    let shown = said(&approve(&[]));
    for words in
        ["format 1, this version reads", "knows of nothing after 2020-01-01", "patients by self-reported group"]
    {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    assert!(shown.contains("approve --anyway profile-"), "{shown}");
    let stdout = String::from_utf8_lossy(&approve(&[]).stdout).into_owned();
    let id = stdout.trim().rsplit(' ').next().expect("an identifier").to_owned();
    let refused = approve(&[&id]);
    assert!(!refused.status.success() && said(&refused).contains("--anyway lets it in"), "{}", said(&refused));
    assert!(candidate.exists());
    let approved = approve(&[&id, "--anyway"]);
    assert!(approved.status.success() && !candidate.exists(), "{}", said(&approved));
    assert!(fs::read_to_string(&profile).expect("the profile").contains(&id));
}

/// The lines of a table with these columns, in any order.
fn columns(table: &Path, wanted: &[&str]) -> Vec<Vec<String>> {
    let mut reader = csv::Reader::from_path(table).expect("a table");
    let headers = reader.headers().expect("a header").clone();
    let places: Vec<usize> =
        wanted.iter().map(|w| headers.iter().position(|h| h == *w).expect("a column of the table")).collect();
    reader.records().map(|r| r.expect("a line")).map(|r| places.iter().map(|p| r[*p].to_owned()).collect()).collect()
}

#[test]
fn a_profile_of_the_index_is_that_of_the_files_and_a_refit_waits_for_a_person() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let at = |name: &str| folder.path().join(name);
    let images = phantoms(&at("phantoms"), "biased", 12, 91);
    let pacs = Pacs::start(&at("pacs"));
    let profile = at("profile.json");
    old_profile(&profile);
    let options = NodeOptions {
        data_dir: &at("data"),
        sources: &["STORESCU"],
        destinations: &[("archive", "PACS", pacs.port, true, "withheld")],
        quiet_period: "1s",
        extra: "[risk.refit]\nevery = \"1d\"\nbootstrap = 100\n",
    };
    let environment = [("SIDELIGHT__RISK__PROFILE", profile.as_path())];
    let node = Node::start_with(&options, &environment);
    assert!(storescu(node.dicom_port, &[], &images).status.success());
    wait_for("every study is delivered", Duration::from_secs(90), || {
        let studies = node.studies();
        studies.len() == 12 && studies.iter().all(|s| s["state"] == "delivered")
    });
    let config = node.config.clone();
    // The configuration comes first: an option at the end takes the argument that a caller adds.
    let command = |arguments: &[&str]| {
        let mut command = sidelight(&["--config"]);
        command.arg(&config).args(arguments);
        command
    };

    // Nothing to fit on yet.
    let none = run(command(&["profile", "fit", "--index", "--out"]).arg(at("none.json")));
    assert!(!none.status.success() && said(&none).contains("`sidelight labels import`"), "{}", said(&none));
    let labels = at("phantoms").join("labels.csv");
    let dry = json(command(&["labels", "import", "--dry-run", "--json"]).arg(&labels));
    assert_eq!((&dry["imported"]["outcomes"], &dry["imported"]["groups"]), (&24.into(), &12.into()), "{dry}");
    assert!(dry["columns_unused"].as_array().expect("a list").contains(&"sex".into()), "{dry}");
    // A stranger's line and one that contradicts another patient are told; no group or patient is.
    let rows = columns(&labels, &["patient", "study", "group", "pneumothorax"]);
    let bad = at("bad.csv");
    let line =
        |patient: &str, study: &str, group: &str, outcome: &str| format!("{patient},{study},{group},{outcome}\n");
    let (one, two) = (&rows[0], rows.iter().find(|r| r[0] != rows[0][0]).expect("several patients"));
    fs::write(
        &bad,
        [
            "patient,study,group,pneumothorax\n".to_owned(),
            line("", "1.2.3", &one[2], "1"),
            line(&two[0], &one[1], &one[2], "1"),
            line("", &one[1], "Martian", "0"),
        ]
        .concat(),
    )
    .expect("writable");
    let rejects = at("rejects.csv");
    let output = run(command(&["labels", "import"]).arg(&bad).arg("--rejects").arg(&rejects));
    assert_eq!(output.status.code(), Some(1));
    let reasons: Vec<String> = columns(&rejects, &["line", "reason"]).into_iter().map(|r| r.join(" ")).collect();
    assert_eq!(reasons.len(), 3, "{reasons:?}");
    assert!(reasons[0].starts_with("2 its study is not here") && reasons[1].starts_with("3 its study is of another"));
    assert!(reasons[2].contains("none of those of the race model"));
    let imported = run(command(&["labels", "import"]).arg(&labels));
    assert!(
        imported.status.success() && said(&imported).contains("12 studies have both by now"),
        "{}",
        said(&imported)
    );
    for text in [said(&output), said(&imported), node.log()] {
        assert!(rows.iter().all(|r| !text.contains(&r[0])), "no patient: {text}");
    }
    for text in [said(&imported), node.log()] {
        assert!(rows.iter().all(|r| !text.contains(&r[2])), "no group: {text}");
    }

    // The same profile, from the index and from files.
    let fitted = json(
        command(&["profile", "fit", "--index", "--bootstrap", "100", "--json", "--out"])
            .arg(at("index.json"))
            .arg("--diagnostics")
            .arg(at("diagnostics")),
    );
    assert!(
        at("diagnostics").join("01-pneumothorax.svg").exists() && at("diagnostics").join("calibration.csv").exists()
    );
    run_ok(command(&["analyse", "--with-posteriors"]).arg(at("phantoms")).arg("--out").arg(at("scores")));
    let mut from_files = command(&["profile", "fit", "--bootstrap", "100", "--json", "--results"]);
    from_files.arg(at("scores").join("result.json")).arg("--labels").arg(&labels).arg("--out").arg(at("files.json"));
    let from_files = json(&mut from_files);
    for key in ["patients", "studies", "group_patients", "first_date", "last_date"] {
        assert_eq!(fitted["cohort"][key], from_files["cohort"][key], "{key}");
    }
    for (a, b) in [(0, 0), (1, 1)].map(|(i, j)| (&fitted["findings"][i], &from_files["findings"][j])) {
        for key in ["finding", "model", "threshold", "studies", "withheld"] {
            assert_eq!(a[key], b[key], "{key}");
        }
        let counts =
            |f: &Value| f["groups"].as_array().unwrap().iter().map(|g| g["events"].clone()).collect::<Vec<_>>();
        assert_eq!(counts(a), counts(b));
    }
    // Both at once: the same studies, once.
    let mut both = command(&["profile", "fit", "--index", "--bootstrap", "100", "--json", "--results"]);
    both.arg(at("scores").join("result.json")).arg("--labels").arg(&labels).arg("--out").arg(at("both.json"));
    assert_eq!(json(&mut both)["cohort"]["patients"], 12);

    // At its next start the node fits again, since the profile is older than a day; nothing changes by that.
    assert!(node.stop().success());
    let node = Node::restart_with(&config, &environment);
    let candidate = at("profile.json.candidate");
    wait_for("a candidate waits", Duration::from_secs(60), || node.log().contains("the profile was fitted again"));
    let own = format!("risk.profile={}", profile.display());
    let approve = |arguments: &[&str]| run(command(&["profile", "approve"]).args(arguments).args(["--set", &own]));
    let shown = String::from_utf8_lossy(&approve(&[]).stdout).into_owned();
    assert!(shown.contains("patients: ") && shown.contains("to let it in: sidelight profile approve"), "{shown}");
    assert!(said(&approve(&["profile-0000000000000000"])).contains("look at it first"));
    let before = fs::read(&profile).expect("the profile");
    let id = shown.trim().rsplit(' ').next().expect("an identifier").to_owned();
    let approved = approve(&[&id]);
    assert!(approved.status.success() && !candidate.exists(), "{}", said(&approved));
    assert_eq!(fs::read(at("profile.json.previous")).expect("kept"), before);
    assert!(fs::read_to_string(&profile).expect("the profile").contains(&id));
    node.signal("HUP");
    wait_for("the approved profile is in force", Duration::from_secs(20), || {
        node.log().lines().any(|l| l.contains("another profile is in force") && l.contains(&id))
    });

    // Who turns out to have several groups, or to have declined, is left out and counted.
    let text = |race: &str, study: &str| format!("{study},{race}\n");
    let changed = at("changed.csv");
    fs::write(&changed, ["study,race\n".into(), text("White;Asian", &one[1]), text("declined", &two[1])].concat())
        .expect("writable");
    run_ok(command(&["labels", "import", "--replace"]).arg(&changed));
    let fitted = run(command(&["profile", "fit", "--index", "--bootstrap", "100", "--out"]).arg(at("fewer.json")));
    for words in ["several self-reported groups", "self-reported group was asked for and declined"] {
        assert!(fitted.status.success() && said(&fitted).contains(words), "{words}: {}", said(&fitted));
    }
}
