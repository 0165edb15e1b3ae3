//! The commands, as a person at a terminal uses them: exit codes, tables, JSON, files.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::{Pacs, dicom_files, element, free_port, phantoms, root, run, run_ok, shared, sidelight};

fn json(command: &mut Command) -> Value {
    let text = run_ok(command);
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn exit_codes_tell_done_from_failed_from_wrong_use() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let config = folder.path().join("bad.toml");
    fs::write(&config, "[node]\nae_title = \"SEVENTEEN_LETTERS\"\nlisten = 104\nsurprise = 1\n").expect("writable");
    let config = config.display().to_string();
    let rows: &[(&[&str], i32, &[&str])] = &[
        (&["--help"], 0, &["serve", "analyse", "Exit codes"]),
        (&["version"], 0, &["0.1.0"]),
        (&["no-such-command"], 2, &["no-such-command"]),
        (&["analyse"], 2, &["PATH"]),
        (&["check", "--config", &config], 2, &["node.ae_title", "node.listen", "node.surprise"]),
        (&["echo", "NOBODY@127.0.0.1:9"], 1, &["cannot be reached"]),
        (&["profile", "show", "/nonexistent/profile.json"], 1, &["/nonexistent/profile.json"]),
        (&["studies", "list", "--set", "store.data_dir=/nonexistent/data"], 1, &["there is no index"]),
        (&["normalise", "Cargo.toml", "--contract", "minmax-unit", "--png", "/dev/null"], 1, &["malformed"]),
    ];
    for (arguments, code, words) in rows {
        let output = run(&mut sidelight(arguments));
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(*code), "{arguments:?}: {text}");
        for word in *words {
            assert!(text.contains(word), "{arguments:?} does not say {word:?}: {text}");
        }
    }
}

#[test]
fn check_names_what_is_not_ready() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let pacs = Pacs::start(&folder.path().join("pacs"));
    let config = folder.path().join("node.toml");
    let write = |port: u16, listen: &str| {
        let text = format!(
            "[node]\nlisten = \"{listen}\"\n[web]\nlisten = \"\"\n[store]\ndata_dir = \"{}\"\n[models]\ndir = \"models\"\n\
             race = \"demo-race\"\nclinical = [\"demo-clinical\"]\n[risk]\nprofile = \"models/demo-profile.json\"\n\
             profile_age_max = \"never\"\n\
             [[sources]]\nae_title = \"PACS\"\n[[destinations]]\nname = \"archive\"\nkind = \"dimse\"\n\
             ae_title = \"PACS\"\nhost = \"127.0.0.1\"\nport = {port}\naudit = true\ntimeout = \"3s\"\n",
            folder.path().join("data").display()
        );
        fs::write(&config, text).expect("writable");
    };
    write(pacs.port, &format!("127.0.0.1:{}", free_port()));
    let items = json(sidelight(&["check", "--network", "--json", "--config"]).arg(&config));
    assert!(items.as_array().expect("a list").iter().all(|i| i["ok"] == true), "{items}");

    // What is no fault and worth a remark.
    let (passcode, text) = (folder.path().join("passcode"), fs::read_to_string(&config).expect("written"));
    fs::write(&passcode, "secret").expect("writable");
    fs::set_permissions(&passcode, fs::Permissions::from_mode(0o644)).expect("our own");
    let source = format!("username = \"u\"\npasscode_file = \"{}\"\ncommitment = true\n", passcode.display());
    fs::write(&config, text.replace("[[destinations]]", &format!("{source}[[destinations]]"))).expect("writable");
    let items = json(sidelight(&["check", "--json", "--config"]).arg(&config));
    let remark = |what: &str| {
        let of = items.as_array().expect("a list").iter().find(|i| i["what"] == what);
        of.and_then(|i| i["note"].as_str().filter(|_| i["ok"] == true)).unwrap_or_default().to_owned()
    };
    assert!(remark("commitment of source PACS").contains("commitment_to"), "{items}");
    let note = remark("sources[0].passcode_file");
    assert!(note.starts_with("everybody on this machine may read or change it (mode 644)"), "{items}");

    // A port that is taken, a peer that is gone.
    write(free_port(), &format!("127.0.0.1:{}", pacs.port));
    let output = run(sidelight(&["check", "--network", "--json", "--config"]).arg(&config));
    assert_eq!(output.status.code(), Some(1));
    let items: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let failed: Vec<&str> = items
        .as_array()
        .expect("a list")
        .iter()
        .filter(|i| i["ok"] == false)
        .filter_map(|i| i["what"].as_str())
        .collect();
    assert_eq!(failed, ["node.listen", "destination archive"]);
}

#[test]
fn a_labelled_cohort_becomes_scores_and_a_profile() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let cohort = folder.path().join("cohort");
    let files = phantoms(&cohort, "biased", 90, 51);
    let out = folder.path().join("scores");
    let demo = root().join("conf/demo.toml");
    run_ok(sidelight(&["analyse", "--with-posteriors", "--config"]).arg(&demo).arg(&cohort).arg("--out").arg(&out));
    let result: Value = serde_json::from_slice(&fs::read(out.join("result.json")).expect("written")).expect("JSON");
    let studies = result["studies"].as_array().expect("a list");
    assert_eq!(studies.len(), 90);
    assert!(studies.iter().all(|s| s["state"] == "reported" && s["race"].is_object()));
    let reports = crate::support::dicom_files(&out);
    assert_eq!(reports.len(), 90, "one report per study");
    assert_eq!(element(&reports[0], "Modality"), "SR");
    assert!(files.len() > 90, "some studies have two views");

    let profile = folder.path().join("profile.json");
    let fitted = json(
        sidelight(&["profile", "fit", "--bootstrap", "100", "--json", "--results"])
            .arg(out.join("result.json"))
            .arg("--labels")
            .arg(cohort.join("labels.csv"))
            .arg("--out")
            .arg(&profile),
    );
    // Thirty patients a group are far too few: the profile says so, and every answer will be indeterminate.
    let shown = json(sidelight(&["profile", "show", "--json"]).arg(&profile));
    assert_eq!(fitted, shown);
    for finding in shown["findings"].as_array().expect("a list") {
        assert_eq!(finding["withheld"], "IND-CELLS", "{finding}");
    }

    // Without the flag no posterior is written.
    let plain = folder.path().join("plain");
    run_ok(sidelight(&["analyse", "--config"]).arg(&demo).arg(&files[0]).arg("--out").arg(&plain));
    let text = fs::read_to_string(plain.join("result.json")).expect("written");
    assert!(!text.contains("\"race\": {\n        \"Asian\""), "{text}");
}

#[test]
fn normalise_writes_what_a_model_sees() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let files = phantoms(&folder.path().join("phantoms"), "null", 1, 61);
    let (npy, png) = (folder.path().join("seen.npy"), folder.path().join("seen.png"));
    for (contract, shape) in
        [("minmax-unit", [1, 224, 224]), ("imagenet-rgb", [3, 224, 224]), ("xrv-1024", [1, 224, 224])]
    {
        let told = json(
            sidelight(&["normalise", "--json", "--contract", contract, "--npy"])
                .arg(&npy)
                .arg("--png")
                .arg(&png)
                .arg(&files[0]),
        );
        assert_eq!(told["shape"], serde_json::json!(shape));
        let bytes = fs::read(&npy).expect("written");
        assert_eq!(&bytes[..6], b"\x93NUMPY");
        let header = String::from_utf8_lossy(&bytes[10..128]).into_owned();
        assert!(header.contains(&format!("({}, {}, {})", shape[0], shape[1], shape[2])), "{header}");
        assert_eq!(&fs::read(&png).expect("written")[..8], b"\x89PNG\r\n\x1a\n");
    }
}

/// From a model's card and an image to what the report says of them.
#[test]
fn a_report_names_contracts_and_says_what_was_not_seen() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let files = phantoms(&folder.path().join("phantoms"), "biased", 8, 62);
    let is_frontal = |f: &&PathBuf| element(f, "ViewPosition") != "LL";
    let frontal = files.iter().find(is_frontal).expect("a frontal image");
    let reports = |name: &str, images: &[&Path], models: &Path| {
        let out = folder.path().join(name);
        let set = format!("models.dir={}", models.display());
        let mut command = sidelight(&["analyse", "--config", "conf/demo.toml", "--disclose", "--set", &set, "--out"]);
        run_ok(command.arg(&out).args(images));
        let dump = |report: &PathBuf| {
            let text = fs::read_to_string(report.with_extension("txt")).expect("the same in words");
            (run_ok(Command::new("dsrdump").arg("+Pl").arg(report)) + &text, element(report, "CompletionFlag"))
        };
        dicom_files(&out).iter().map(dump).collect::<Vec<_>>()
    };
    let report = |name: &str, images: &[&Path], models: &Path| {
        let [report] = reports(name, images, models).try_into().expect("one report");
        report
    };
    let shipped = root().join("models");
    let (text, completion) = report("whole", &[frontal.as_path()], &shipped);
    for model in json(&mut sidelight(&["model", "list", "--json"])).as_array().expect("a list") {
        let contract = model["contract"].as_str().expect("a label");
        assert!(contract.contains('@') && text.contains(&format!("contract={contract}\"")), "{contract} in {text}");
    }
    assert!(!text.contains("IND-SCOPE") && completion == "COMPLETE", "{completion} {text}");

    // another image of the study whose pixels contradict its header
    let mut bytes = fs::read(frontal).expect("a phantom");
    let stored = bytes.windows(8).position(|w| w == [0x28, 0, 1, 1, b'U', b'S', 2, 0]).expect("Bits Stored");
    bytes[stored + 8] = 31;
    let instance = element(frontal, "SOPInstanceUID");
    let other = format!("{}{}", &instance[..instance.len() - 3], "777");
    for at in 0..bytes.len() - instance.len() {
        if bytes[at..].starts_with(instance.as_bytes()) {
            bytes[at..at + other.len()].copy_from_slice(other.as_bytes());
        }
    }
    let broken = folder.path().join("broken.dcm");
    fs::write(&broken, bytes).expect("writable");
    let (text, completion) = report("partial", &[frontal.as_path(), &broken], &shipped);
    assert!(completion == "PARTIAL" && !text.contains("IND-SCOPE"), "{completion} {text}");

    // a race model that takes lateral views only
    let models = folder.path().join("models");
    for name in ["demo-race", "demo-clinical"] {
        fs::create_dir_all(models.join(name)).expect("writable");
        for file in fs::read_dir(shipped.join(name)).expect("there") {
            let path = file.expect("there").path();
            fs::copy(&path, models.join(name).join(path.file_name().expect("a file"))).expect("copied");
        }
    }
    let card = models.join("demo-race/model.toml");
    let text = fs::read_to_string(&card).expect("a card");
    assert!(text.contains("views = [\"PA\", \"AP\"]"), "{text}");
    fs::write(&card, text.replace("views = [\"PA\", \"AP\"]", "views = [\"LATERAL\"]")).expect("writable");
    let images: Vec<&Path> = files.iter().filter(is_frontal).map(PathBuf::as_path).collect();
    let no_scope = |(text, _): &(String, String)| text.contains("(IND-SCOPE");
    let (seen, unseen) = (reports("all", &images, &shipped), reports("scope", &images, &models));
    assert!(seen.len() == 8 && !seen.iter().any(no_scope), "{seen:#?}");
    assert!(unseen.iter().any(no_scope), "{unseen:#?}");
    assert!(unseen.iter().all(|(_, completion)| completion == "COMPLETE"));
}

#[test]
fn models_are_listed_verified_and_exported() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let listed = json(&mut sidelight(&["model", "list", "--json"]));
    let names: Vec<&str> = listed.as_array().expect("a list").iter().filter_map(|m| m["name"].as_str()).collect();
    assert_eq!(names, ["demo-clinical", "demo-race"]);
    assert!(listed.as_array().expect("a list").iter().all(|m| m["phantoms_only"] == true && m["fault"].is_null()));
    run_ok(&mut sidelight(&["model", "verify"]));

    // One flipped byte in the weights is noticed.
    let copy = folder.path().join("demo-race");
    fs::create_dir(&copy).expect("writable");
    for entry in fs::read_dir(root().join("models/demo-race")).expect("there") {
        let path = entry.expect("there").path();
        fs::copy(&path, copy.join(path.file_name().expect("a file"))).expect("copied");
    }
    let weights = fs::read_dir(&copy)
        .expect("there")
        .map(|e| e.expect("there").path())
        .find(|p| p.extension().is_some_and(|e| e == "pt"))
        .expect("TorchScript weights");
    let mut bytes = fs::read(&weights).expect("there");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&weights, bytes).expect("writable");
    let dir = format!("models.dir={}", folder.path().display());
    let output = run(&mut sidelight(&["model", "verify", "demo-race", "--set", &dir]));
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("sha256"), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn random_files_become_refusals_and_never_a_crash() {
    use rand::{Rng, SeedableRng};
    let folder = tempfile::tempdir().expect("temporary folder");
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(71);
    let seeds: Vec<Vec<u8>> =
        ["CT/CT_small.dcm", "MR/emri_small_RLE.dcm", "NM/JPEG-lossy.dcm", "OT/SC_rgb_jpeg_dcmtk.dcm"]
            .iter()
            .map(|f| fs::read(shared().join("corpus").join(f)).expect("the corpus is there"))
            .collect();
    let inputs = folder.path().join("inputs");
    fs::create_dir(&inputs).expect("writable");
    for n in 0..400 {
        let mut bytes = seeds[n % seeds.len()].clone();
        for _ in 0..random.random_range(1..20) {
            let at = random.random_range(132..bytes.len());
            bytes[at] = random.random();
        }
        if n % 5 == 0 {
            bytes.truncate(random.random_range(140..bytes.len()));
        }
        fs::write(inputs.join(format!("{n}.dcm")), bytes).expect("writable");
    }
    let out = folder.path().join("out");
    let demo = root().join("conf/demo.toml");
    let output = run(sidelight(&["analyse", "--config"]).arg(demo).arg(&inputs).arg("--out").arg(&out));
    // Nothing of it is a chest radiograph: no study is analysed, each file is accounted for.
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let result: Value = serde_json::from_slice(&fs::read(out.join("result.json")).expect("written")).expect("JSON");
    let in_studies: usize = result["studies"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|s| s["instances"].as_array().map_or(0, Vec::len))
        .sum();
    let unreadable = result["unreadable"].as_array().expect("a list").len();
    assert_eq!(in_studies + unreadable, 400);
    assert!(Path::new(&out).exists());
}
