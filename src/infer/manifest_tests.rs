//! Tests of `manifest`: one row per fault, and the packages that other tests of this room start from.

use super::*;
use crate::domain::Code;
use crate::infer::card::Aggregation;

/// A package of two findings with a weight file that is no model, for tests that never load it.
fn write_clinical(dir: &Path, change: impl Fn(String) -> String) -> PathBuf {
    let dir = dir.join("site-chest");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("weights.pt"), b"weights").unwrap();
    let card = r#"
name = "site-chest"
version = "2.1.0"
manufacturer = "Example Imaging"
purpose = "clinical"
format = "torchscript"
file = "weights.pt"
sha256 = "HASH"
device_uid = "2.25.1"
[input]
contract = "minmax-unit"
size = 8
[output]
activation = "logits-sigmoid"
[[output.findings]]
key = "pneumothorax"
threshold = 0.5
code = { value = "36118008", scheme = "SCT", meaning = "Pneumothorax" }
site = { value = "816094009", scheme = "SCT", meaning = "Chest" }
[[output.findings]]
key = "pleural_effusion"
threshold = 0.25
code = { value = "60046008", scheme = "SCT", meaning = "Pleural effusion" }
[scope]
modalities = ["DX"]
[aggregation]
method = "max"
[provenance]
training_data = "none"
intended_use = "tests"
limits = "knows nothing"
license = "Apache-2.0"
date = "2026-01-31"
[provenance.metrics]
auc_pneumothorax = 0.5
"#;
    let card = card.replace("HASH", Digest::of(b"weights").as_str());
    std::fs::write(dir.join("model.toml"), change(card)).unwrap();
    dir
}

const RACE_OUTPUT: &str = r#"[output]
activation = "softmax"
[[output.groups]]
key = "Asian"
code = "2028-9"
[[output.groups]]
key = "White"
code = "2106-3"
"#;

/// The card above as a race model's.
fn as_race(card: String) -> String {
    let (head, rest) = card.split_once("[output]").unwrap();
    let (_, tail) = rest.split_once("[scope]").unwrap();
    let head = head.replace("\"clinical\"", "\"race\"");
    format!("{head}{RACE_OUTPUT}[scope]{}", tail.replace("\"max\"", "\"mean\""))
}

fn check(change: impl Fn(String) -> String, expected: &[(&str, &str)]) {
    let folder = tempfile::tempdir().unwrap();
    let found = match Package::load(&write_clinical(folder.path(), change)) {
        Ok(_) => Vec::new(),
        Err(error) => error.faults,
    };
    let seen: Vec<_> = found.iter().map(|f| (f.key.as_str(), f.problem.as_str())).collect();
    assert_eq!(seen.len(), expected.len(), "{seen:#?}");
    for ((key, problem), (expected_key, part)) in seen.iter().zip(expected) {
        assert!(key == expected_key && problem.contains(part), "{key}: {problem}, expected {expected_key}: {part}");
    }
    assert!(found.iter().all(|f| !f.remedy.is_empty()));
}

#[test]
fn a_complete_card_becomes_a_package() {
    let folder = tempfile::tempdir().unwrap();
    let package = Package::load(&write_clinical(folder.path(), |c| c)).unwrap();
    assert_eq!(package.key(), format!("site-chest@2.1.0#{}", Digest::of(b"weights").short()));
    assert_eq!(package.findings()[1].threshold.get(), 0.25);
    assert_eq!((package.columns, package.column_of), (2, vec![0, 1]));
    assert_eq!(package.aggregation.method, Aggregation::Max);
    let race = Package::load(&write_clinical(folder.path(), as_race)).unwrap();
    assert_eq!(race.groups()[1].code, Code::new("2106-3", "CDCREC", "White"));
    assert!(race.findings().is_empty());
}

#[test]
fn every_field_of_a_contract_can_be_overridden() {
    use crate::domain::{Filter, Fit, Mask, Orientation, ValueRange};
    let input = r#"[input]
contract = "ct-window"
size = 96
name = "own-abdomen"
version = 3
range = { policy = "hu-window", center = 40.0, width = 400.0 }
low = -1.0
high = 2.0
fit = "pad-square"
filter = "area"
orientation = "patient-orientation"
mask = ["shutter", "border"]
channels = 3
mean = [0.1, 0.2, 0.3]
std = [0.4, 0.5, 0.6]
[output]"#;
    let folder = tempfile::tempdir().unwrap();
    let change = |card: String| {
        let (head, rest) = card.split_once("[input]").unwrap();
        let (_, tail) = rest.split_once("[output]").unwrap();
        format!("{head}{input}{tail}")
    };
    let package = Package::load(&write_clinical(folder.path(), change)).unwrap();
    let expected = Contract {
        name: "own-abdomen".into(),
        version: 3,
        size: 96,
        range: ValueRange::HuWindow { center: 40.0, width: 400.0 },
        low: -1.0,
        high: 2.0,
        fit: Fit::PadSquare,
        filter: Filter::Area,
        orientation: Orientation::PatientOrientation,
        mask: vec![Mask::Shutter, Mask::Border],
        channels: 3,
        mean: vec![0.1, 0.2, 0.3],
        std: vec![0.4, 0.5, 0.6],
    };
    assert_eq!(package.contract, expected);
    assert!(package.identity.contract.ends_with(expected.digest().short()), "{}", package.identity.contract);
}

#[test]
fn every_fault_is_named_with_its_key() {
    let replace = |from: &'static str, to: &'static str| {
        move |card: String| {
            assert!(card.contains(from), "{from}");
            card.replacen(from, to, 1)
        }
    };
    check(replace("version", "verzion"), &[("model.toml", "unknown field `verzion`")]);
    check(replace("size = 8", "size = \"8\""), &[("model.toml", "line 12: invalid type")]);
    check(replace("file = \"weights.pt\"\n", ""), &[("file", "is missing")]);
    check(replace("0.5", "1.5"), &[("model.toml", "probability")]);
    check(replace("\"site-chest\"", "\"other\""), &[("name", "differs from the folder")]);
    check(replace("\"site-chest\"", "\"a/b\""), &[("name", "is not a package name")]);
    check(replace("2.1.0", "2.1.0#x"), &[("version", "is not a version")]);
    check(replace("Example Imaging", ""), &[("manufacturer", "is empty")]);
    check(replace("minmax-unit", "minmax"), &[("input.contract", "\"minmax\" is no preset")]);
    check(replace("size = 8", "size = 4"), &[("input", "size 4 is outside")]);
    check(replace("size = 8", "size = 8\nlow = -1"), &[("input.name", "is missing")]);
    check(replace("size = 8", "size = 8\nname = \"xrv-1024\""), &[("input.name", "is a preset's name")]);
    check(replace("size = 8", "size = 8\nname = \"own\"\nlow = 2"), &[("input", "low must be less than high")]);
    check(replace("size = 8", "size = 8\nname = \"own\"\nmean = [0.5, 0.5]"), &[("input", "mean and std need 1")]);
    let long = "size = 8\nname = \"a-contract-name-that-leaves-no-room-for-its-digest\"\nlow = -1";
    check(replace("size = 8", long), &[("input.name", "characters in reports")]);
    check(replace("\"torchscript\"", "\"safetensors\""), &[("architecture", "is missing")]);
    check(replace("\"torchscript\"", "\"safetensors\"\narchitecture = \"resnet34\""), &[("input.size", "32 pixels")]);
    check(
        replace("\"torchscript\"", "\"torchscript\"\narchitecture = \"resnet34\""),
        &[("architecture", "is given for a TorchScript file")],
    );
    check(replace("\"weights.pt\"", "\"../weights.pt\""), &[("file", "leaves the package folder")]);
    check(replace("\"weights.pt\"", "\"/etc/hostname\""), &[("file", "leaves the package folder")]);
    check(replace("\"weights.pt\"", "\"\""), &[("file", "is missing")]);
    check(replace("\"weights.pt\"", "\"lost.pt\""), &[("file", "cannot be read")]);
    check(
        |card| card.replace(Digest::of(b"weights").as_str(), Digest::of(b"others").as_str()),
        &[("sha256", "the card says")],
    );
    check(|card| card.replace(Digest::of(b"weights").as_str(), "12"), &[("model.toml", "64 hexadecimal digits")]);
    check(replace("pleural_effusion", "pneumothorax"), &[("output.findings[1].key", "occurs twice")]);
    check(replace("36118008", "36118008361180083"), &[("output.findings[0].code", "at most 16")]);
    check(
        replace("\"SCT\", meaning = \"Pneumo", "\"LOCAL\", meaning = \"Pneumo"),
        &[("output.findings[0].code", "no scheme")],
    );
    check(replace("\"Chest\"", "\"\""), &[("output.findings[0].site", "non-empty")]);
    check(replace("0.25", "0.25\ncolumn = 0"), &[("output.findings[1].column", "used twice")]);
    check(replace("0.25", "0.25\ncolumn = 2"), &[("output.findings[1].column", "beyond the 2 columns")]);
    check(replace("logits-sigmoid\"", "logits-sigmoid\"\ncolumns = 18"), &[]);
    check(replace("logits-sigmoid", "softmax"), &[("output.activation", "do not exclude one another")]);
    let bf16 = |tolerance| format!("[[precision]]\nkind = \"bf16\"\nscore_tolerance = {tolerance}\n[scope]");
    let bf16 = |tolerance| move |card: String| card.replacen("[scope]", &bf16(tolerance), 1);
    check(bf16("0.02"), &[]);
    check(bf16("0.0"), &[("precision[0].score_tolerance", "0 is not above 0")]);
    check(bf16("nan"), &[("precision[0].score_tolerance", "NaN is not above 0")]);
    check(|card| bf16("0.1")(bf16("0.1")(card)), &[("precision[1].kind", "bf16 occurs twice")]);
    check(|card| bf16("0.1")(card).replace("\"bf16\"", "\"fp32\""), &[("precision[0].kind", "held against")]);
    check(|card| bf16("0.1")(card).replace("\"bf16\"", "\"int8\""), &[("model.toml", "unknown variant")]);
    check(replace("license = \"Apache-2.0\"", "license = \" \""), &[("provenance.license", "is empty")]);
    check(replace("2026-01-31", "31.1.2026"), &[("provenance.date", "is not a date")]);
    check(replace("\"DX\"", "\"D/X\""), &[("scope.modalities", "not a modality")]);
    check(
        replace("\"clinical\"", "\"race\""),
        &[
            ("output.groups", "at least 2 groups"),
            ("output.findings", "has groups"),
            ("output.activation", "exclude one another"),
            ("aggregation.method", "is for findings"),
        ],
    );
}

#[test]
fn a_race_card_has_codes_of_cdcrec_and_a_softmax() {
    let replace = |from: &'static str, to: &'static str| move |card: String| as_race(card).replacen(from, to, 1);
    check(replace("2028-9", "2028-8"), &[("output.groups[0].code", "is no CDCREC race category")]);
    check(replace("2028-9", "2106-3"), &[("output.groups[1].code", "2106-3 occurs twice")]);
    check(replace("\"softmax\"", "\"sigmoid\""), &[("output.activation", "groups exclude one another")]);
    check(replace("\"softmax\"", "\"softmax\"\ncolumns = 3"), &[("output.columns", "every output")]);
    check(|card| card.replace("\"clinical\"", "\"vet\""), &[("model.toml", "unknown variant")]);
}

#[test]
fn a_link_out_of_the_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let dir = write_clinical(folder.path(), |c| c);
    std::fs::write(folder.path().join("outside.pt"), b"weights").unwrap();
    std::fs::remove_file(dir.join("weights.pt")).unwrap();
    std::os::unix::fs::symlink(folder.path().join("outside.pt"), dir.join("weights.pt")).unwrap();
    let faults = Package::load(&dir).unwrap_err().faults;
    assert_eq!((faults.len(), faults[0].key.as_str()), (1, "file"));
}

#[test]
fn all_packages_are_checked_before_anything_is_said() {
    let folder = tempfile::tempdir().unwrap();
    write_clinical(folder.path(), |c| c.replace("[scope]\nmodalities = [\"DX\"]", "[scope]\nmodalities = [\"\"]"));
    let names: Vec<String> = ["site-chest", "lost", "../x", "lost"].map(str::to_owned).to_vec();
    let error = load_all(folder.path(), &names).unwrap_err();
    let keys: Vec<_> = error.faults.iter().map(|f| f.key.as_str()).collect();
    assert_eq!(keys, ["scope.modalities", "model.toml", "name", "name"]);
    assert_eq!(error.to_string().lines().count(), 4);
}

/// Packages for the tests of this room.
pub(in crate::infer) mod fixtures {
    use super::*;

    pub(in crate::infer) fn write_clinical(dir: &Path, change: impl Fn(String) -> String) -> PathBuf {
        super::write_clinical(dir, change)
    }

    pub(in crate::infer) fn clinical_package(dir: &Path) -> Package {
        Package::load(&write_clinical(dir, |c| c)).unwrap()
    }

    /// With another weight file: its bytes go into the folder and its hash into the card.
    pub(in crate::infer) fn clinical_with(dir: &Path, weights: &Path, change: impl Fn(String) -> String) -> Package {
        let bytes = std::fs::read(weights).unwrap();
        let folder =
            write_clinical(dir, |c| change(c.replace(Digest::of(b"weights").as_str(), Digest::of(&bytes).as_str())));
        std::fs::write(folder.join("weights.pt"), &bytes).unwrap();
        Package::load(&folder).unwrap()
    }

    pub(in crate::infer) fn race_with(dir: &Path, weights: &Path, change: impl Fn(String) -> String) -> Package {
        clinical_with(dir, weights, |c| change(as_race(c)))
    }
}
