//! `probe`: the paper's rows on phantoms and on the authors' own posteriors, killed, shared out and gone on with.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::{phantoms, reference_python, root, run, run_ok, shared, sidelight, wait_for};

/// A cohort of frontal phantoms, with a few columns that sites have.
fn cohort(folder: &Path, patients: u32) -> PathBuf {
    let files = folder.join("phantoms");
    phantoms(&files, "biased", patients, 31);
    let mut reader = csv::Reader::from_path(files.join("labels.csv")).expect("labels");
    let headers = reader.headers().expect("a header").clone();
    let at = |name: &str| headers.iter().position(|h| h == name).expect("a column");
    let path = files.join("cohort.csv");
    let mut writer = csv::Writer::from_path(&path).expect("writable");
    let mut head: Vec<&str> = headers.iter().collect();
    head.push("split");
    writer.write_record(&head).expect("writable");
    let parts = ["train", "test", "test", "train", "validation", "test"];
    let frontal = reader.records().map(|r| r.expect("a row")).filter(|r| &r[at("view")] == "PA");
    for (record, part) in frontal.zip(parts.iter().cycle()) {
        let record = record.iter().chain([*part]);
        writer.write_record(record).expect("writable");
    }
    writer.flush().expect("writable");
    path
}

fn probe(rows: &[&str], cohort: &Path, out: &Path, more: &[&str]) -> Command {
    let mut command = sidelight(&["probe", "run"]);
    command.args(rows).arg("--cohort").arg(cohort).arg("--out").arg(out).args(more);
    command.arg("--config").arg(root().join("conf/demo.toml"));
    // Which images share a batch moves scores by a rounding.
    command.args(["--set", "models.deterministic=true", "--set", "models.threads=1"]);
    command
}

fn figures(out: &Path) -> Vec<Value> {
    let metrics: Value = serde_json::from_slice(&fs::read(out.join("metrics.json")).expect("metrics")).expect("JSON");
    metrics["figures"].as_array().expect("a list").clone()
}

#[test]
fn the_catalogue_has_29_rows() {
    let listed: Value = serde_json::from_str(&run_ok(&mut sidelight(&["probe", "list", "--json"]))).expect("JSON");
    let numbers: Vec<u64> = listed.as_array().expect("a list").iter().filter_map(|r| r["number"].as_u64()).collect();
    assert_eq!(numbers, (1..=29).collect::<Vec<u64>>());
    let text = run_ok(&mut sidelight(&["probe", "list"]));
    assert!(text.contains("patches") && text.contains("frozen-features"), "{text}");
}

#[test]
fn the_authors_posteriors_give_their_figures() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let out = folder.path().join("run");
    let table = shared().join("oracle/chexpert_race_posteriors.csv");
    run_ok(sidelight(&["probe", "run", "detection", "--predictions"]).arg(table).arg("--out").arg(&out));
    let found: BTreeMap<String, [f64; 3]> = figures(&out)
        .iter()
        .filter(|f| f["quantity"] == "race-auc")
        .map(|f| {
            let e = &f["estimate"];
            let number = |name: &str| e[name].as_f64().expect("a number");
            (f["of"].as_str().expect("a group").to_owned(), [number("value"), number("lower"), number("upper")])
        })
        .collect();
    // experiments.md, "A real oracle", to the fourth digit.
    for (group, expected) in
        [("Asian", [0.9755, 0.9735, 0.9776]), ("Black", [0.9806, 0.9779, 0.9832]), ("White", [0.9737, 0.9719, 0.9754])]
    {
        let own = found[group];
        assert!(own.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-4), "{group}: {own:?}");
    }
    let page = fs::read_to_string(out.join("report.html")).expect("a page");
    assert!(page.contains("0.9806") && page.contains("CXP, Black 0.98 (0.977 to 0.983)"), "figures beside the paper's");
    assert!(fs::read(out.join("plots/01-detection-1.png")).expect("a plot").starts_with(b"\x89PNG"));
    // A row that needs images says so.
    let refused =
        run(sidelight(&["probe", "run", "noise", "--predictions", "x.csv", "--out"]).arg(folder.path().join("x")));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("noise needs images: give --cohort"));
}

#[test]
fn a_run_is_the_same_whole_killed_and_gone_on_with_and_shared_out() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let cohort = cohort(folder.path(), 130);
    let rows = ["detection", "filters", "noise", "blur", "patches", "age-sex-strata", "acquisition", "covariates"];
    let whole = folder.path().join("whole");
    run_ok(&mut probe(&rows, &cohort, &whole, &["--mode", "as_published"]));
    let metrics = |out: &Path| fs::read_to_string(out.join("metrics.csv")).expect("metrics");
    let expected = metrics(&whole);
    for told in ["high-pass 100", "noise 0.1", "blur 2", "AUC of the finding", "gap of miss rates"] {
        assert!(expected.contains(told), "{told}");
    }

    let killed = folder.path().join("killed");
    let mut child = probe(&rows, &cohort, &killed, &["--mode", "as_published"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a program");
    wait_for("the first part", Duration::from_secs(120), || killed.join("parts/000000.parquet").exists());
    child.kill().expect("a process");
    child.wait().expect("a process");
    assert!(!killed.join("report.html").exists(), "it was killed on its way");
    let first = fs::metadata(killed.join("parts/000000.parquet")).and_then(|m| m.modified()).expect("a part");
    let refused = run(&mut probe(&rows, &cohort, &killed, &["--mode", "as_published"]));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("go on with --resume"));
    let other = run(&mut probe(&rows, &cohort, &killed, &["--resume"]));
    assert!(
        String::from_utf8_lossy(&other.stderr).contains("another run (other rows)"),
        "another mode has other changes"
    );
    run_ok(&mut probe(&rows, &cohort, &killed, &["--mode", "as_published", "--resume"]));
    assert!(metrics(&killed) == expected, "what was killed came to other figures");
    let again = fs::metadata(killed.join("parts/000000.parquet")).and_then(|m| m.modified()).expect("a part");
    assert_eq!(again, first, "what was done is not done again");

    let shards = ["1/2", "2/2"].map(|shard| {
        let out = folder.path().join(shard.replace('/', "-"));
        run_ok(&mut probe(&rows, &cohort, &out, &["--mode", "as_published", "--shard", shard]));
        assert!(!out.join("report.html").exists());
        out
    });
    let merged = folder.path().join("merged");
    let half = run(sidelight(&["probe", "merge"]).arg(&shards[0]).arg("--out").arg(folder.path().join("half")));
    assert!(String::from_utf8_lossy(&half.stderr).contains("parts are missing"));
    run_ok(sidelight(&["probe", "merge"]).args(&shards).arg("--out").arg(&merged));
    assert!(metrics(&merged) == expected, "shards came to other figures");

    // Predictions are read by others.
    let script = "import sys, pandas as p\n\
                  t = p.read_parquet(sys.argv[1])\n\
                  o = t[(t.variant == 'original') & t.output.isin(['Asian', 'Black', 'White'])]\n\
                  s = o.groupby('image').probability.sum()\n\
                  assert abs(s - 1).max() < 1e-5, s\n\
                  print(len(s), t.variant.nunique(), sorted(t.split.unique()))";
    let said = Command::new(reference_python()).args(["-c", script]).arg(whole.join("predictions.parquet")).output();
    let said = said.expect("Python");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let images = fs::read_to_string(&cohort).expect("a cohort").lines().filter(|l| l.ends_with(",test")).count();
    assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), format!("{images} 68 ['test']"));
}

/// A recipe that trains for two epochs, with the groups in this order.
fn recipe(folder: &Path, groups: &[(&str, &str)]) -> PathBuf {
    let text = fs::read_to_string(root().join("models/recipes/demo-race.toml")).expect("a recipe");
    let mut recipe: toml::Table = toml::from_str(&text).expect("TOML");
    let groups: Vec<toml::Value> = groups
        .iter()
        .map(|(key, code)| {
            let pairs = [("key".to_owned(), (*key).into()), ("code".to_owned(), (*code).into())];
            toml::Value::Table(pairs.into_iter().collect())
        })
        .collect();
    recipe["output"].as_table_mut().expect("a table").insert("groups".into(), groups.into());
    recipe["training"].as_table_mut().expect("a table").insert("epochs".into(), 2.into());
    let path = folder.join("recipe.toml");
    fs::write(&path, toml::to_string(&recipe).expect("TOML")).expect("writable");
    path
}

#[test]
fn networks_are_trained_for_rows_and_what_a_cohort_lacks_is_a_note() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let cohort = cohort(folder.path(), 150);
    let groups = [("Asian", "2028-9"), ("Black", "2054-5"), ("White", "2106-3")];
    let rows = ["bone-clip", "equal-disease", "no-finding", "occlusion", "saliency", "frozen-features", "bmi", "masks"];
    let out = folder.path().join("run");
    let turned: Vec<(&str, &str)> = groups.iter().rev().copied().collect();
    let wrong = recipe(folder.path(), &turned);
    let training = |recipe: &Path| {
        let recipe = format!("--recipe={}", recipe.display());
        probe(&rows, &cohort, &out, &["--retrain", &recipe])
    };
    let refused = run(&mut training(&wrong));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("write output.groups of the recipe in that order"), "{said}");
    let right = recipe(folder.path(), &groups);
    run_ok(&mut training(&right));
    let all = figures(&out);
    let of = |row: &str, model: &str| all.iter().filter(|f| f["row"] == row && f["model"] == model).count();
    for (row, trained) in [("bone-clip", 4), ("equal-disease", 4), ("no-finding", 4), ("occlusion", 0)] {
        assert_eq!(of(row, "trained for the row"), trained, "{row}");
    }
    assert!(of("frozen-features", "features of demo-clinical, linear head") == 4 && of("occlusion", "demo-race") == 8);
    let table = fs::read_to_string(out.join("retrain/bone-clip/recipe.toml")).expect("a recipe");
    assert!(table.contains("[[data.change]]") && table.contains("kind = \"ceiling\""), "{table}");
    let page = fs::read_to_string(out.join("report.html")).expect("a page");
    assert!(page.contains("Not run: the cohort has no column bmi.") && page.contains("has a lung mask (column mask)"));
    assert!(out.join("plots/24-saliency-maps.png").exists());

    // Rows of different cohorts are no run, and an answer that is missing is no report.
    let both = run(&mut probe(&["detection", "hand"], &cohort, &folder.path().join("both"), &[]));
    assert!(String::from_utf8_lossy(&both.stderr).contains("rows detection and hand are of different cohorts"));
    fs::remove_file(out.join("answers/bone-clip.json")).expect("an answer");
    let half = run(sidelight(&["probe", "report"]).arg(&out));
    assert!(String::from_utf8_lossy(&half.stderr).contains("1 of 6 answers are missing"), "{half:?}");
}
