//! Maps as people and archives get them: PNG files of `analyse`, objects that other people's tools accept, and the node's
//! road to destinations.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::road::check_report;
use crate::support::{
    Node, NodeOptions, Pacs, element, phantoms, reference_python, root, run, run_ok, sidelight, storescu, wait_for,
};

const CAPTURE: &str = "1.2.840.10008.5.1.4.1.1.7";
const PARAMETRIC_MAP: &str = "1.2.840.10008.5.1.4.1.1.30";
const GROUPS: [&str; 3] = ["asian", "black", "white"];

/// `sidelight analyse` with maps; `result.json`.
fn analyse(files: &[PathBuf], out: &Path, arguments: &[&str]) -> Value {
    let mut command = sidelight(&["analyse", "--config"]);
    command.arg(root().join("conf/demo.toml")).args(files).arg("--out").arg(out).args(arguments);
    run_ok(&mut command);
    serde_json::from_slice(&fs::read(out.join("result.json")).expect("written")).expect("JSON")
}

fn frontal(files: &[PathBuf]) -> Vec<PathBuf> {
    files.iter().filter(|f| matches!(element(f, "ViewPosition").as_str(), "PA" | "AP")).cloned().collect()
}

/// Width, height, kind and samples of a picture.
fn picture(path: &Path) -> (u32, u32, png::ColorType, Vec<u8>) {
    let file = BufReader::new(File::open(path).expect("written"));
    let mut reader = png::Decoder::new(file).read_info().expect("a picture");
    let mut bytes = vec![0; reader.output_buffer_size().expect("small")];
    let info = reader.next_frame(&mut bytes).expect("a frame");
    bytes.truncate(info.buffer_size());
    (info.width, info.height, info.color_type, bytes)
}

/// dciodvfy finds no error; pydicom and highdicom read it.
fn accepted(object: &Path) {
    let output = run(Command::new("dciodvfy").arg(object));
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(!said.contains("Error"), "{}: {said}", object.display());
    assert!(said.contains("SCImage") || said.contains("ParametricMap"), "{said}");
    let script = "import sys, pydicom\nd = pydicom.dcmread(sys.argv[1])\na = d.pixel_array\n\
                  print(a.shape, a.dtype, float(a.max()))\n\
                  if d.SOPClassUID.name.startswith('Parametric'):\n    import highdicom as hd\n    \
                  im = hd.imread(sys.argv[1])\n    print('highdicom', im.get_frames().shape)";
    let said = run_ok(Command::new(reference_python()).args(["-W", "error::UserWarning", "-c", script]).arg(object));
    assert!(said.contains("(128, 128"), "{said}");
}

fn names_no_group(path: &Path) {
    let text = run_ok(Command::new("dcmdump").arg("+L").arg(path)).to_lowercase();
    for group in GROUPS.iter().chain(&["cdcrec"]) {
        assert!(!text.contains(group), "{} holds {group}", path.display());
    }
}

#[test]
fn analyse_writes_pictures_values_and_objects_that_others_accept() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let files = frontal(&phantoms(&folder.path().join("phantoms"), "biased", 1, 5));
    for (disclose, purposes) in [(false, 1), (true, 2)] {
        let out = folder.path().join(format!("out-{disclose}"));
        let mut arguments = vec!["--explain", "both", "--dicom", "--set", "explain.form=both"];
        if disclose {
            arguments.push("--disclose");
        }
        let result = analyse(&files[..1], &out, &arguments);
        let study = &result["studies"][0];
        let pictures = study["maps"]["pictures"].as_array().expect("a list");
        let missing = study["maps"]["missing"].as_array().expect("a list");
        // Two findings, and the groups for who may see probabilities, by two methods.
        assert_eq!(pictures.len() + missing.len(), 2 * (1 + purposes), "{study}");
        assert_eq!(pictures.iter().filter(|p| p["method"] == "occlusion").count(), 1 + purposes, "{study}");
        assert_eq!(pictures.iter().any(|p| p["target"] == "groups"), disclose, "{study}");
        for map in pictures {
            let file = |key: &str| out.join(map[key].as_str().expect("a name"));
            let (width, height, kind, _) = picture(&file("overlay"));
            assert_eq!((width, height, kind), (128, 128, png::ColorType::Rgb));
            let (width, height, kind, values) = picture(&file("values"));
            assert_eq!((width, height, kind, values.len()), (128, 128, png::ColorType::Grayscale, 2 * 128 * 128));
            let spread: BTreeSet<&[u8]> = values.chunks(2).collect();
            assert!(spread.contains(&[0u8, 0][..]) && spread.contains(&[255u8, 255][..]) && spread.len() > 9, "{map}");
        }
        let names: Vec<String> = fs::read_dir(out.join("maps"))
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .map(|n| n.to_string_lossy().to_lowercase())
            .collect();
        assert!(names.iter().all(|name| GROUPS.iter().all(|group| !name.contains(group))), "{names:?}");

        let objects: Vec<PathBuf> = study["maps"]["objects"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|o| out.join(o.as_str().unwrap()))
            .collect();
        let of_series = |number: &str| objects.iter().filter(|o| element(o, "SeriesNumber") == number).count();
        assert!(of_series("9802") >= 4 && of_series("9802") % 2 == 0, "{study}");
        assert_eq!(of_series("9803") > 0, purposes == 2, "the race model's maps go where probabilities go");
        for object in &objects {
            accepted(object);
            names_no_group(object);
            assert_eq!(element(object, "StudyInstanceUID"), element(&files[0], "StudyInstanceUID"));
            assert_eq!(element(object, "PatientID"), element(&files[0], "PatientID"));
        }
        let classes: BTreeSet<String> = objects.iter().map(|o| element(o, "SOPClassUID")).collect();
        assert_eq!(classes, BTreeSet::from([CAPTURE.to_owned(), PARAMETRIC_MAP.to_owned()]));

        let report = out.join(study["report"].as_str().expect("a name"));
        check_report(&report, &files[..1]);
        let dump = run_ok(Command::new("dcmdump").arg("+L").arg(&report));
        for object in &objects {
            assert!(dump.contains(&element(object, "SOPInstanceUID")), "the report refers to each of its maps");
        }

        // Own maps are never processed.
        let again = run(sidelight(&["analyse", "--json", "--config"])
            .arg(root().join("conf/demo.toml"))
            .args(&objects)
            .arg("--out")
            .arg(folder.path().join("again")));
        let refused: Value = serde_json::from_slice(&again.stdout).expect("JSON");
        let instances = refused["studies"][0]["instances"].as_array().expect("a list");
        assert_eq!(instances.len(), objects.len());
        assert!(instances.iter().all(|i| i["refusal"]["code"] == "own-report"), "{refused}");
    }
}

/// One that does not say what it lost: the transfer syntax does.
#[test]
fn maps_of_a_jpeg_say_what_it_lost() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let files = frontal(&phantoms(&folder.path().join("phantoms"), "biased", 1, 5));
    let jpeg = folder.path().join("jpeg.dcm");
    run_ok(Command::new("dcmcjpeg").arg("+ee").arg(&files[0]).arg(&jpeg));
    let tags = ["LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"];
    let erased = tags.iter().flat_map(|tag| ["-ea", *tag]);
    run_ok(Command::new("dcmodify").args(["-nb", "-imt"]).args(erased).arg(&jpeg));
    let out = folder.path().join("out");
    let arguments = ["--explain", "gradcam", "--dicom", "--set", "explain.form=both"];
    let result = analyse(&[jpeg], &out, &arguments);
    let objects = result["studies"][0]["maps"]["objects"].as_array().expect("a list");
    assert!(objects.len() >= 2, "{result}");
    for object in objects {
        let object = out.join(object.as_str().expect("a name"));
        accepted(&object);
        assert_eq!([element(&object, tags[0]), element(&object, tags[2])], ["01", "ISO_10918_1"]);
        assert!(element(&object, tags[1]).parse::<f64>().expect("a number") > 1.0);
    }
}

/// Effusions gather at the bottom of the lungs, in phantoms too: what the score loses most lies there.
#[test]
fn covering_an_effusion_costs_its_score_most() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let cohort = folder.path().join("phantoms");
    let files = frontal(&phantoms(&cohort, "biased", 60, 8));
    let scores = analyse(&files, &folder.path().join("scores"), &[]);
    let sure = |study: &&Value| {
        let is_sure =
            |f: &Value| f["key"] == "pleural_effusion" && f["score"].as_f64().is_some_and(|score| score > 0.8);
        study["findings"].as_array().is_some_and(|findings| findings.iter().any(is_sure))
    };
    let sure: BTreeSet<&str> =
        scores["studies"].as_array().expect("a list").iter().filter(sure).filter_map(|s| s["study"].as_str()).collect();
    let chosen: Vec<PathBuf> =
        files.into_iter().filter(|f| sure.contains(element(f, "StudyInstanceUID").as_str())).take(8).collect();
    let out = folder.path().join("out");
    let arguments = ["--explain", "occlusion", "--set", "explain.models=clinical", "--set", "explain.stride=16"];
    let result = analyse(&chosen, &out, &arguments);
    let (mut below, mut all) = (0, 0);
    for study in result["studies"].as_array().expect("a list") {
        let maps = study["maps"]["pictures"].as_array().expect("a list");
        let map = maps.iter().find(|m| m["target"] == "pleural_effusion").expect("a map");
        let (_, _, _, bytes) = picture(&out.join(map["values"].as_str().expect("a name")));
        let values = bytes.chunks(2).map(|b| u16::from_be_bytes([b[0], b[1]]));
        let at = values.enumerate().max_by_key(|(_, v)| *v).expect("values").0;
        all += 1;
        below += usize::from(at / 128 >= 64);
    }
    assert!(all >= 5, "{all} sure results only");
    assert!(below * 10 >= all * 8, "{below} of {all}");
}

#[test]
fn the_node_sends_maps_after_its_report_and_the_race_models_only_with_probabilities() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let files = frontal(&phantoms(&folder.path().join("phantoms"), "biased", 2, 12));
    let withheld = Pacs::start(&folder.path().join("withheld"));
    let disclosed = Pacs::start(&folder.path().join("disclosed"));
    let data = folder.path().join("data");
    let node = Node::start(&NodeOptions {
        data_dir: &data,
        sources: &["STORESCU"],
        destinations: &[
            ("archive", "PACS", withheld.port, true, "withheld"),
            ("research", "PACS", disclosed.port, true, "probabilities"),
        ],
        quiet_period: "1s",
        extra: "[explain]\nmethod = \"gradcam\"\nform = \"both\"\ntime_max = \"60s\"\n",
    });
    assert!(storescu(node.dicom_port, &[], &files).status.success());
    let delivered = || {
        let studies = node.studies();
        studies.len() == files.len() && studies.iter().all(|s| s["state"] == "delivered")
    };
    wait_for("every study is delivered", Duration::from_secs(120), delivered);
    // Whether maps have arrived is no part of that.
    let with_maps = |pacs: &Pacs| {
        let objects = pacs.files();
        let reports = objects.iter().filter(|o| element(o, "Modality") == "SR");
        let referred = |dump: String| dump.matches(CAPTURE).count() + dump.matches(PARAMETRIC_MAP).count();
        let named: usize = reports.map(|r| referred(run_ok(Command::new("dcmdump").args(["-Un", "+L"]).arg(r)))).sum();
        named > 0 && objects.len() >= named + files.len()
    };
    wait_for("every map is delivered", Duration::from_secs(120), || with_maps(&withheld) && with_maps(&disclosed));
    for (pacs, with_race) in [(&withheld, false), (&disclosed, true)] {
        let objects = pacs.files();
        let (reports, maps): (Vec<_>, Vec<_>) = objects.into_iter().partition(|o| element(o, "Modality") == "SR");
        assert_eq!(reports.len(), files.len());
        assert!(maps.len() >= 2 * files.len(), "{} maps", maps.len());
        assert_eq!(maps.iter().any(|m| element(m, "SeriesNumber") == "9803"), with_race);
        maps.iter().for_each(|map| {
            accepted(map);
            names_no_group(map);
        });
        let dumps: String = reports.iter().map(|r| run_ok(Command::new("dcmdump").arg("+L").arg(r))).collect();
        assert!(maps.iter().all(|map| dumps.contains(&element(map, "SOPInstanceUID"))));
        for report in &reports {
            let of_study = |f: &&PathBuf| element(f, "StudyInstanceUID") == element(report, "StudyInstanceUID");
            check_report(report, &files.iter().filter(of_study).cloned().collect::<Vec<_>>());
        }
        // Captures that come back are kept and never processed; parametric maps are not taken at all.
        let captures: Vec<PathBuf> = maps.into_iter().filter(|m| element(m, "SOPClassUID") == CAPTURE).collect();
        assert!(captures.len() >= files.len());
        let sent = storescu(node.dicom_port, &["-R"], &captures);
        assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    }
    wait_for("maps that came back are refused as own", Duration::from_secs(60), || {
        node.log().matches("a report of sidelight is kept and never processed").count() >= 2 * files.len()
    });
    assert!(delivered(), "they open no study again");
    let log = node.log().to_lowercase();
    assert!(GROUPS.iter().all(|group| !log.contains(group)));
    assert!(node.stop().success());
}
