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
    let cohort = cohort(folder.path(), 80);
    let rows = ["detection", "filters", "noise", "blur", "patches", "age-sex-strata", "acquisition", "covariates"];
    let whole = folder.path().join("whole");
    run_ok(&mut probe(&rows, &cohort, &whole, &["--mode", "as_published"]));
    let expected = metrics(&whole);
    for told in ["high-pass 100", "noise 0.1", "blur 2", "AUC of the finding", "gap of miss rates"] {
        assert!(expected.contains(told), "{told}");
    }

    let killed = folder.path().join("killed");
    let first = killed.join("parts/000000.parquet");
    killed_at(probe(&rows, &cohort, &killed, &["--mode", "as_published"]), &first);
    assert!(!killed.join("report.html").exists(), "it was killed on its way");
    let first = fs::metadata(killed.join("parts/000000.parquet")).and_then(|m| m.modified()).expect("a part");
    let refused = run(&mut probe(&rows, &cohort, &killed, &["--mode", "as_published"]));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("go on with --resume"));
    let other = run(&mut probe(&rows, &cohort, &killed, &["--resume"]));
    assert!(String::from_utf8_lossy(&other.stderr).contains("another run (another --mode)"), "what differs is named");
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
    let said = of_predictions(
        &whole,
        "o = t[(t.variant == 'original') & t.output.isin(['Asian', 'Black', 'White'])]\n\
         s = o.groupby(['image', 'model']).probability.sum()\n\
         assert abs(s - 1).max() < 1e-5, s\n\
         print(o.image.nunique(), t.variant.nunique(), sorted(t.split.unique()))",
    );
    let images = fs::read_to_string(&cohort).expect("a cohort").lines().filter(|l| l.ends_with(",test")).count();
    assert_eq!(said, format!("{images} 68 ['test']"));
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

/// The same cohort with all images for tests.
fn all_for_tests(cohort: &Path) -> PathBuf {
    let text = fs::read_to_string(cohort).expect("a cohort");
    let path = cohort.with_file_name("tests.csv");
    fs::write(&path, text.replace(",train\n", ",test\n").replace(",validation\n", ",test\n")).expect("writable");
    path
}

/// Starts a run and kills it as soon as a file is there.
fn killed_at(mut command: Command, file: &Path) {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a program");
    wait_for("the file", Duration::from_secs(120), || file.exists());
    child.kill().expect("a process");
    child.wait().expect("a process");
}

fn metrics(out: &Path) -> String {
    fs::read_to_string(out.join("metrics.csv")).expect("metrics")
}

/// What Python prints of the predictions of a run, which it has as `t`.
fn of_predictions(out: &Path, script: &str) -> String {
    let script = format!("import sys, pandas as p\nt = p.read_parquet(sys.argv[1])\n{script}");
    let said = Command::new(reference_python()).args(["-c", &script]).arg(out.join("predictions.parquet")).output();
    let said = said.expect("Python");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    String::from_utf8_lossy(&said.stdout).trim().to_owned()
}

#[test]
fn rows_that_learn_are_the_same_whole_killed_and_gone_on_with_and_shared_out() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let cohort = cohort(folder.path(), 80);
    let rows = ["frozen-features", "covariates", "bmi"];
    let whole = folder.path().join("whole");
    run_ok(&mut probe(&rows, &cohort, &whole, &[]));
    let expected = metrics(&whole);
    assert!(expected.contains("\"features of demo-clinical, linear head\""), "{expected}");
    let models = of_predictions(
        &whole,
        "o = t[t.model.str.startswith('features') | t.model.str.startswith('covariates')]\n\
         s = o.groupby(['image', 'model']).probability.sum()\n\
         assert abs(s - 1).max() < 1e-5 and set(o.variant) == {'original'} and set(o.split) == {'test'}\n\
         print(s.groupby('model').count().to_dict())",
    );
    let tests = fs::read_to_string(&cohort).expect("a cohort").lines().filter(|l| l.ends_with(",test")).count();
    for model in ["features of demo-clinical, linear head", "covariates together, random forest"] {
        assert!(models.contains(&format!("'{model}': {tests}")), "{tests} of {models}");
    }

    let killed = folder.path().join("killed");
    let first = killed.join("features/frozen-features-1/000000.safetensors");
    killed_at(probe(&rows, &cohort, &killed, &[]), &first);
    let answer = |name: &str| killed.join(format!("answers/{name}.json"));
    assert!(!answer("frozen-features").exists(), "it was killed on its way");
    let left = killed.join("answers/x.json.67e5504410b1426f9247bb680e5fe0c8.tmp");
    fs::write(&left, "half").expect("writable");
    let time = |path: &Path| fs::metadata(path).and_then(|m| m.modified()).expect("a file");
    let (part, bmi) = (time(&first), time(&answer("bmi")));
    // An error of this attempt is not that of the next one, and what the cohort lacks stays so.
    let text = fs::read_to_string(whole.join("answers/covariates.json")).expect("an answer");
    let mut failed: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(failed["failed"], Value::Bool(false));
    (failed["failed"], failed["figures"]) = (Value::Bool(true), Value::Array(Vec::new()));
    fs::write(answer("covariates"), failed.to_string()).expect("writable");
    run_ok(&mut probe(&rows, &cohort, &killed, &["--resume"]));
    assert!(metrics(&killed) == expected, "what was killed came to other figures");
    assert_eq!((time(&first), time(&answer("bmi"))), (part, bmi), "what was done is not done again");
    assert!(!left.exists(), "what a dead process left is removed");

    let shards = ["1/2", "2/2"].map(|shard| {
        let out = folder.path().join(shard.replace('/', "-"));
        run_ok(&mut probe(&rows, &cohort, &out, &["--shard", shard]));
        assert!(!out.join("answers/frozen-features.json").exists(), "nobody has all features");
        out
    });
    let (half, merged) = (folder.path().join("half"), folder.path().join("merged"));
    let refused = run(sidelight(&["probe", "merge"]).arg(&shards[0]).arg("--out").arg(&half));
    assert!(!refused.status.success());
    run_ok(sidelight(&["probe", "merge"]).args(&shards).arg("--out").arg(&merged));
    assert!(metrics(&merged) == expected, "shards came to other figures");
    // All shards may have one folder.
    let together = folder.path().join("together");
    run_ok(&mut probe(&rows, &cohort, &together, &["--shard", "1/2"]));
    run_ok(&mut probe(&rows, &cohort, &together, &["--shard", "2/2", "--resume"]));
    run_ok(sidelight(&["probe", "report"]).arg(&together));
    assert!(metrics(&together) == expected, "shards of one folder came to other figures");
}

#[test]
fn a_training_that_was_killed_goes_on_to_the_same_network() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let cohort = cohort(folder.path(), 90);
    let recipe = recipe(folder.path(), &[("Asian", "2028-9"), ("Black", "2054-5"), ("White", "2106-3")]);
    let recipe = format!("--recipe={}", recipe.display());
    let of = |out: &Path, more: &[&str]| probe(&["bone-clip"], &cohort, out, &[&["--retrain", &recipe], more].concat());
    let (whole, killed) = (folder.path().join("whole"), folder.path().join("killed"));
    run_ok(&mut of(&whole, &[]));
    killed_at(of(&killed, &[]), &killed.join("retrain/bone-clip/checkpoint.safetensors"));
    assert!(!killed.join("retrain/models/probe-bone-clip").exists(), "it was killed on its way");
    run_ok(&mut of(&killed, &["--resume"]));
    assert!(metrics(&killed) == metrics(&whole), "what was killed came to other figures");
    let said = of_predictions(
        &whole,
        "o = t[t.model == 'trained for bone-clip']\nprint(list(o.variant.unique()), o.image.nunique() == t.image.nunique())",
    );
    assert!(said == "['bone removed'] True", "{said}");
}

#[test]
fn a_parquet_cohort_gives_what_its_csv_does() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let csv = cohort(folder.path(), 60);
    let parquet = csv.with_file_name("cohort.parquet");
    let script = "import sys, pandas as p\np.read_csv(sys.argv[1]).to_parquet(sys.argv[2])";
    let made = Command::new(reference_python()).args(["-c", script]).args([&csv, &parquet]).output().expect("Python");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let [of_csv, of_parquet] = [&csv, &parquet].map(|cohort| {
        let out = folder.path().join(cohort.extension().expect("an extension"));
        run_ok(&mut probe(&["detection", "age-sex-strata", "labels"], cohort, &out, &[]));
        metrics(&out)
    });
    assert!(of_csv.contains("detection,demo-race,AUC,Black") && of_csv.contains("labels,"), "{of_csv}");
    assert!(of_csv == of_parquet, "{of_parquet}");
}

/// A folder of models with demo-race twice, of which the second knows other names only.
fn two_race_models(folder: &Path) -> PathBuf {
    let models = folder.join("models");
    for (name, from) in [("demo-race", "demo-race"), ("race-two", "demo-race"), ("demo-clinical", "demo-clinical")] {
        fs::create_dir_all(models.join(name)).expect("a folder");
        for entry in fs::read_dir(root().join("models").join(from)).expect("a model") {
            let entry = entry.expect("a file");
            fs::copy(entry.path(), models.join(name).join(entry.file_name())).expect("a copy");
        }
    }
    let card = fs::read_dir(models.join("race-two")).expect("a model").map(|e| e.expect("a file").path());
    let card = card.into_iter().find(|path| path.extension().is_some_and(|e| e == "toml")).expect("a card");
    let text = fs::read_to_string(&card).expect("a card").replace("name = \"demo-race\"", "name = \"race-two\"");
    let text = text.replace("2.25.189794290602851850657162851151256397822", "2.25.3");
    fs::write(card, text).expect("writable");
    models
}

#[test]
fn two_race_models_are_compared() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let cohort = all_for_tests(&cohort(folder.path(), 70));
    let models = format!("models.dir={}", two_race_models(folder.path()).display());
    let out = folder.path().join("run");
    let both = ["--set", &models, "--race", "demo-race", "--race", "race-two"];
    let one = run(&mut probe(&["architectures"], &cohort, &out, &both[..4]));
    assert!(String::from_utf8_lossy(&one.stderr).contains("give --race for each"));
    run_ok(&mut probe(&["architectures", "saliency", "occlusion"], &cohort, &out, &both));
    let all = figures(&out);
    let of = |row: &str, model: &str| -> Vec<Value> {
        let own = all.iter().filter(|f| f["row"] == row && f["model"] == model);
        own.map(|f| serde_json::json!([f["quantity"], f["of"], f["variant"], f["estimate"]])).collect()
    };
    for row in ["architectures", "occlusion"] {
        let first = of(row, "demo-race");
        assert!(first.len() >= 4 && first.iter().all(|f| f[3].is_object()), "{row}: {first:?}");
        assert_eq!(first, of(row, "race-two"), "the same network is told the same of under either name");
    }
    for map in ["saliency-1", "saliency-2"] {
        assert!(out.join("features").join(map).join("000000.safetensors").exists());
    }
    assert!(fs::read_to_string(out.join("plots/24-saliency-maps.svg")).expect("maps").contains("race-two"));
    assert_eq!(of_predictions(&out, "print(t.output[t.model.str.startswith('race-two')].nunique())"), "3");
}

/// A PNG of a phantom's aspect ratio, bright where `is_lung` says so of a row and a column.
fn mask(path: &Path, is_lung: impl Fn(u32, u32) -> bool) {
    let (rows, columns) = (160, 128);
    let bright = |at: u32| is_lung(at / columns, at % columns);
    let pixels: Vec<u8> = (0..rows * columns).map(|at| if bright(at) { 255 } else { 0 }).collect();
    let mut encoder = png::Encoder::new(fs::File::create(path).expect("writable"), columns, rows);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.write_header().and_then(|mut writer| writer.write_image_data(&pixels)).expect("a picture");
}

#[test]
fn lung_masks_of_a_cohort_are_used_and_one_that_cannot_be_read_takes_nothing_else() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let plain = all_for_tests(&cohort(folder.path(), 70));
    let masked = plain.with_file_name("masked.csv");
    mask(&masked.with_file_name("good.png"), |row, column| row > 30 && row < 120 && column > 20 && column < 108);
    mask(&masked.with_file_name("black.png"), |_, _| false);
    fs::write(masked.with_file_name("broken.png"), "no picture").expect("writable");
    let text = fs::read_to_string(&plain).expect("a cohort");
    let mut tests = 0;
    let lines = text.lines().enumerate().map(|(line, text)| {
        tests += usize::from(text.ends_with(",test"));
        let file = match (line, text.ends_with(",test"), tests) {
            (0, ..) => "mask",
            (_, true, 3) => "black.png",
            (_, true, 5) => "broken.png",
            (_, true, 7) => "",
            _ => "good.png",
        };
        format!("{text},{file}\n")
    });
    let lines: String = lines.collect();
    fs::write(&masked, lines).expect("writable");
    let out = folder.path().join("run");
    let ran = run(&mut probe(&["detection", "masks"], &masked, &out, &["--set", "log.filter=warn"]));
    let log = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{log}");
    assert_eq!(log.matches("the lung mask of this line of the cohort is left out").count(), 2, "{log}");
    let all = figures(&out);
    let of = |row: &str, variant: &str| -> Vec<f64> {
        let is_own = |f: &&Value| f["row"] == row && f["variant"] == variant && f["quantity"] == "race-auc";
        let own = all.iter().filter(is_own).filter(|f| f["level"] == "image");
        own.map(|f| f["estimate"]["value"].as_f64().unwrap_or(-1.0)).collect()
    };
    let (lungs, others) = (of("masks", "lungs"), of("masks", "without lungs"));
    for found in [&of("detection", "original"), &of("masks", "original"), &lungs, &others] {
        assert!(found.len() == 3 && found.iter().all(|auc| *auc >= 0.0), "{found:?}");
    }
    let counts = "print(*[t.image[t.variant == v].nunique() for v in ('original', 'lungs', 'without lungs')])";
    assert_eq!(of_predictions(&out, counts), format!("{tests} {0} {0}", tests - 3));
    assert_ne!(lungs, others, "what is left is not the same");
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
