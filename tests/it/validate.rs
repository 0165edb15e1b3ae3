//! `validate` and worlds from files, as a person at a terminal uses them.

use std::fs;

use serde_json::Value;

use crate::support::{root, run, run_ok, sidelight};

#[test]
fn validate_writes_the_same_report_twice_and_says_by_its_exit_code_what_does_not_hold() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let report = |name: &str, more: &[&str]| {
        let out = folder.path().join(name);
        let output = run(sidelight(&["validate", "--only", "reliance", "--json", "--out"]).arg(&out).args(more));
        let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let text = fs::read_to_string(out.join("README.md")).expect("a report");
        (output.status.code(), said, text)
    };
    let (code, said, text) = report("first", &[]);
    assert_eq!((code, said["seed"].as_u64()), (Some(0), Some(1)));
    assert!(text.contains("3 of 3 claims hold") && text.contains("(reliance.svg)") && text.contains("(reliance.csv)"));
    assert_eq!(report("again", &[]).2, text);
    assert_ne!(report("other", &["--seed", "2"]).2, text);
    // A view that moves neither model leaves nothing to collapse: the claim is missed, and exit code 1 says so.
    let built_in = fs::read_to_string(root().join("src/phantom/scores/worlds.toml")).expect("the built-in worlds");
    let planted = "portable = { score_shift = 0.9, race_shift = 2.0 }";
    assert!(built_in.contains(planted));
    let worlds = folder.path().join("worlds.toml");
    fs::write(&worlds, built_in.replace(planted, "")).expect("writable");
    let (code, _, text) = report("missed", &["--worlds", worlds.to_str().expect("UTF-8")]);
    assert!(code == Some(1) && text.contains("| MISS |"), "{text}");
    fs::write(&worlds, "[[world]]\nname = 3\n").expect("writable");
    let output = run(sidelight(&["validate", "--out"]).arg(folder.path().join("none")).arg("--worlds").arg(&worlds));
    assert!(output.status.code() == Some(1) && String::from_utf8_lossy(&output.stderr).contains("worlds.toml"));
}

#[test]
fn a_world_of_ones_own_makes_phantoms() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let first = folder.path().join("drift");
    let draw = |out: &std::path::Path| {
        vec![
            "--patients".into(),
            "2".into(),
            "--size".into(),
            "96x80".into(),
            "--out".into(),
            out.display().to_string(),
        ]
    };
    run_ok(sidelight(&["phantom", "--world", "drift"]).args(draw(&first)));
    let truth: Value = serde_json::from_slice(&fs::read(first.join("world.json")).expect("world.json")).expect("JSON");
    assert_eq!(truth["options"]["world"]["drift"]["month"], 12);
    // What world.json says is a world file, once it is TOML.
    let file = folder.path().join("own.toml");
    let world: toml::Value = serde_json::from_value(truth["options"]["world"].clone()).expect("TOML has all of it");
    fs::write(&file, toml::to_string(&world).expect("a table")).expect("writable");
    let second = folder.path().join("own");
    run_ok(sidelight(&["phantom", "--world-file"]).arg(&file).args(draw(&second)));
    let labels = |folder: &std::path::Path| fs::read(folder.join("labels.csv")).expect("labels");
    assert_eq!(labels(&first), labels(&second));
    fs::write(&file, "name = \"none\"\n").expect("writable");
    let output = run(sidelight(&["phantom", "--world-file"]).arg(&file).args(draw(&folder.path().join("none"))));
    assert!(output.status.code() == Some(1) && String::from_utf8_lossy(&output.stderr).contains("own.toml"));
}
