//! Models as others supply them: torchxrayvision's networks by their templates, the supplier's own answers, precisions, and
//! what a model knows. PyTorch (of the distribution) computes what is expected.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::Scene;
use crate::support::{element, phantoms, reference_python, root, run, run_ok};

/// Runs a script of PyTorch's, with its own libraries; what it prints.
fn torch(arguments: &[&Path]) -> String {
    let python = std::env::var_os("SIDELIGHT_TORCH_PYTHON").unwrap_or_else(|| "/usr/bin/python3".into());
    run_ok(Command::new(python).args(arguments).env_remove("LD_LIBRARY_PATH"))
}

fn frontal(files: &[PathBuf]) -> &PathBuf {
    files.iter().find(|f| element(f, "ViewPosition") == "PA").expect("a frontal image")
}

/// What the TorchScript file says of what the package sees of the image.
fn pytorchs(scene: &Scene, network: &str, package: &str, image: &Path) -> Vec<f64> {
    let npy = scene.path("seen.npy");
    run_ok(scene.command(&["normalise", "--contract", package]).arg("--npy").arg(&npy).arg(image));
    let script = scene.path("ask.py");
    let code = "import json, sys, numpy, torch\nseen = torch.from_numpy(numpy.load(sys.argv[2]))[None]\n\
                print(json.dumps(torch.jit.load(sys.argv[1]).double()(seen.double())[0].tolist()))\n";
    fs::write(&script, code).expect("writable");
    serde_json::from_str(&torch(&[&script, &scene.path(network), &npy])).expect("JSON")
}

/// Weights of torchxrayvision's shapes, with the shipped cards: brought in, held against PyTorch's answers, and used.
#[test]
fn torchxrayvisions_models_come_in_by_their_templates_and_answer_as_pytorch_does() {
    let scene = Scene::new();
    let reference = root().join("tests/reference/torchvision_logits.py");
    torch(&[&reference, scene.folder.path(), Path::new("xrv-race"), Path::new("xrv-densenet121")]);
    for (name, weights, network) in [
        ("xrv-race", "xrv-race.safetensors", "xrv-race"),
        ("xrv-race-torchscript", "xrv-race.pt", "xrv-race"),
        ("xrv-densenet121-all", "xrv-densenet121.safetensors", "xrv-densenet121"),
    ] {
        let card = root().join(format!("models/templates/{name}.toml"));
        run_ok(scene.command(&["model", "add", "--golden"]).arg("--card").arg(card).arg(scene.path(weights)));
        let expected = scene.path(&format!("{network}.golden.safetensors"));
        let said = run_ok(scene.command(&["model", "golden", name]).arg("--from").arg(&expected));
        assert!(said.contains("are those of") && said.contains("over 6 images"), "{said}");
        let verified = run_ok(&mut scene.command(&["model", "verify", name, "--require-golden", "--json"]));
        let verified: Value = serde_json::from_str(&verified).expect("JSON");
        let golden = &verified[0]["golden"];
        assert_eq!((&golden["images"], &golden["device"]), (&6.into(), &"cpu-fp32".into()), "{verified}");
        assert!(golden["spread"].as_f64().expect("a number") > 0.05, "{verified}");

        // Another order of the outputs is found out, and the golden values stay.
        let card = scene.path(&format!("models/{name}/model.toml"));
        let before = fs::read_to_string(&card).expect("a card");
        let wrong = scene.path(&format!("{network}.wrong.safetensors"));
        let refused = run(scene.command(&["model", "golden", name]).arg("--from").arg(&wrong));
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(refused.status.code() == Some(1) && said.contains("does not answer as"), "{said}");
        assert_eq!(fs::read_to_string(&card).expect("a card"), before);
    }
    let other = scene.path("xrv-densenet121.golden.safetensors");
    let refused = run(scene.command(&["model", "golden", "xrv-race"]).arg("--from").arg(&other));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("the card's contract asks for [2 to 64, 3, 320, 320]"), "{said}");

    let images = phantoms(&scene.path("phantoms"), "biased", 1, 85);
    let image = frontal(&images);
    let logarithms = pytorchs(&scene, "xrv-race.pt", "xrv-race", image);
    let logits = pytorchs(&scene, "xrv-densenet121.pt", "xrv-densenet121-all", image);
    for race in ["xrv-race", "xrv-race-torchscript"] {
        let mut command = scene.command(&["analyse", "--json", "--with-posteriors", "--set", "risk.profile="]);
        command.args(["--config", "conf/demo.toml", "--set", "models.clinical=xrv-densenet121-all"]);
        command.arg("--set").arg(format!("models.race={race}")).arg("--out").arg(scene.path("out")).arg(image);
        let result: Value = serde_json::from_str(&run_ok(&mut command)).expect("JSON");
        let study = &result["studies"][0];
        for (group, logarithm) in ["Asian", "Black", "White"].iter().zip(&logarithms) {
            let found = study["race"][group].as_f64().expect("a posterior");
            assert!((found - logarithm.exp()).abs() < 1e-4, "{race}, {group}: {found} {logarithms:?}");
        }
        let findings = study["findings"].as_array().expect("findings");
        assert_eq!(findings.len(), 18);
        for (finding, logit) in findings.iter().zip(&logits) {
            let (found, expected) = (finding["score"].as_f64().expect("a score"), 1.0 / (1.0 + (-logit).exp()));
            assert!((found - expected).abs() < 1e-4, "{finding}: {expected}");
        }
    }
}

#[test]
fn a_package_is_verified_in_each_precision_that_its_card_permits() {
    let scene = Scene::new();
    run_ok(&mut scene.add(&root().join("models/demo-clinical/weights.pt"), &scene.path("card.toml")));
    let verify = |precision: &str| -> Value {
        let mut command = scene.command(&["model", "verify", "second", "--json"]);
        command.arg("--set").arg(format!("models.precision={precision}"));
        serde_json::from_str(&run_ok(&mut command)).expect("JSON")
    };
    assert_eq!(verify("bf16")[0]["golden"]["device"], "cpu-fp32", "the card does not permit it");
    let card = scene.path("models/second/model.toml");
    let text = fs::read_to_string(&card).expect("a card");
    let permitted = "\n[[precision]]\nkind = \"bf16\"\nscore_tolerance = 0.05\n";
    fs::write(&card, text + permitted).expect("writable");
    let reduced = &verify("bf16")[0]["golden"];
    assert_eq!((&reduced["device"], &reduced["tolerance"]), (&"cpu-bf16".into(), &0.05.into()), "{reduced}");
    let apart = reduced["difference"].as_f64().expect("a number");
    assert!(apart > 1e-5 && apart < 0.05, "it did compute in bf16: {reduced}");
    assert_eq!(verify("fp32")[0]["golden"]["device"], "cpu-fp32");
}

/// Sixteen features and two logits of an image.
const PAIR: &str = "import sys\nimport torch\n\n\nclass Network(torch.nn.Module):\n    def forward(self, images):\n\
                    \x20       features = torch.nn.functional.adaptive_avg_pool2d(images, 4).flatten(1)\n\
                    \x20       mean = features.mean(1, keepdim=True)\n\
                    \x20       return torch.cat([mean - 0.5, 2.0 * features[:, :1] - 1.0], 1), features\n\n\n\
                    torch.jit.script(Network()).save(sys.argv[1])\n";

/// The squared distance of an image from what the package's file says, by numpy; and a copy of an image made of noise.
const DISTANCE: &str = "import json, struct, sys, numpy\n\
seen = numpy.load(sys.argv[1])[0].astype(float)\n\
data = open(sys.argv[2], 'rb').read()\n\
n = struct.unpack('<Q', data[:8])[0]\n\
header, data = json.loads(data[8:8 + n]), data[8 + n:]\n\
of = lambda k: numpy.frombuffer(data[slice(*header[k]['data_offsets'])]).reshape(header[k]['shape'])\n\
features = seen.reshape(4, 32, 4, 32).mean(axis=(1, 3)).ravel()\n\
off = features - of('means')[0]\n\
print(off @ of('precision') @ off)\n";
const STRANGE: &str = "import sys, numpy, pydicom\n\
ds = pydicom.dcmread(sys.argv[1])\n\
for key in ('StudyInstanceUID', 'SeriesInstanceUID', 'SOPInstanceUID'):\n    setattr(ds, key, getattr(ds, key)[:50] + '.9')\n\
ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID\n\
shape = (ds.Rows, ds.Columns)\n\
halves = numpy.arange(ds.Columns) < ds.Columns // 2\n\
ds.PixelData = (numpy.broadcast_to(halves, shape) * (2 ** ds.BitsStored - 1)).astype('uint16').tobytes()\n\
ds.save_as(sys.argv[2])\n";

#[test]
fn a_site_fits_what_its_models_know_and_a_strange_image_is_told() {
    let scene = Scene::new();
    let script = scene.path("pair.py");
    fs::write(&script, PAIR).expect("writable");
    torch(&[&script, &scene.path("pair.pt")]);
    run_ok(&mut scene.add(&scene.path("pair.pt"), &scene.path("card.toml")));
    let known = phantoms(&scene.path("phantoms"), "biased", 60, 86);
    let fit = |arguments: &[&str]| {
        let mut command = scene.command(&["model", "ood-fit"]);
        run(command.args(arguments).arg(scene.path("phantoms")))
    };
    let fitted = fit(&["second", "--method", "mahalanobis", "--percentile", "95", "--json"]);
    assert!(fitted.status.success(), "{fitted:?}");
    let fitted: Value = serde_json::from_slice(&fitted.stdout).expect("JSON");
    assert_eq!((&fitted["studies"], &fitted["frames"]), (&30.into(), &30.into()), "{fitted}");
    let threshold = fitted["ood"]["threshold"].as_f64().expect("a threshold");
    let few = fit(&["second", "--method", "mahalanobis"]);
    let said = String::from_utf8_lossy(&few.stderr);
    assert!(said.contains("30 studies are there") && said.contains("needs 100"), "{said}");
    // Of logits, for a model that has golden values already: those hold still.
    let energy = fit(&["demo-clinical", "--method", "energy", "--percentile", "90"]);
    assert!(energy.status.success() && String::from_utf8_lossy(&energy.stdout).contains("[ood] is in the card"));
    run_ok(&mut scene.command(&["model", "verify", "demo-clinical", "--require-golden"]));
    run_ok(&mut scene.command(&["model", "verify", "second", "--require-golden"]));
    assert!(fit(&["demo-clinical", "--method", "mahalanobis", "--percentile", "90"]).status.code() == Some(1));

    let image = frontal(&known);
    let strange = scene.path("strange.dcm");
    run_ok(Command::new(reference_python()).args(["-c", STRANGE]).arg(image).arg(&strange));
    let mut command = scene.command(&["analyse", "--json", "--config", "conf/demo.toml"]);
    command
        .arg("--out")
        .arg(scene.path("out"))
        .args(["--set", "models.clinical=demo-clinical,second"])
        .arg(&strange)
        .arg(image);
    let result: Value = serde_json::from_str(&run_ok(&mut command)).expect("JSON");
    let key = result["models"]["clinical"][1]["key"].as_str().expect("a key");
    let npy = scene.path("seen.npy");
    for study in result["studies"].as_array().expect("studies") {
        let is_strange = study["study"] == element(&strange, "StudyInstanceUID").as_str();
        let file = if is_strange { &strange } else { image };
        run_ok(scene.command(&["normalise", "--contract", "second"]).arg("--npy").arg(&npy).arg(file));
        let sidecar = super::the_file(&scene.path("models/second"), "ood-");
        let told = run_ok(Command::new(reference_python()).args(["-c", DISTANCE]).arg(&npy).arg(sidecar));
        let expected: f64 = told.trim().parse().expect("a number");
        let ood = &study["ood"][key];
        let score = ood["score"].as_f64().expect("a score");
        assert!((score - expected).abs() < 1e-3 * expected, "{score} {expected}");
        assert_eq!((&ood["beyond"], score > threshold), (&is_strange.into(), is_strange), "{ood}");
        assert_eq!(ood["images"][element(file, "SOPInstanceUID")], ood["score"]);
        let reasons = &study["findings"][2]["reasons"];
        assert_eq!(reasons.as_array().expect("a list").contains(&"IND-OOD".into()), is_strange, "{study}");
        assert!(study["ood"].as_object().expect("scores").len() == 2, "of both clinical models: {study}");
    }
}
