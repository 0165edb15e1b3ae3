//! Tests of `ood`: PyTorch's and numpy's figures, networks that give features, and cards that cannot be meant.

use super::*;
use crate::infer::manifest::fixtures::clinical_with;
use crate::infer::torch::{LoadedModel, read_script};
use crate::infer::{ManifestError, Package, reference};

fn numbers(value: &serde_json::Value) -> Vec<f64> {
    serde_json::from_value(value.clone()).unwrap()
}

fn rows(value: &serde_json::Value) -> Vec<Vec<f64>> {
    serde_json::from_value(value.clone()).unwrap()
}

fn energy(temperature: f64, threshold: f64) -> OodCard {
    OodCard::Energy { temperature, threshold }
}

fn check(ood: &Ood, logits: &[Vec<f64>], features: &[Vec<f64>], expected: &[f64]) {
    let n = logits.len().max(features.len());
    assert_eq!(n, expected.len());
    let of = |rows: &[Vec<f64>], i: usize| rows.get(i).cloned().unwrap_or_default();
    for (i, expected) in expected.iter().enumerate() {
        let found = ood.score(&of(logits, i), &of(features, i)).unwrap();
        assert!((found - expected).abs() <= 1e-9 * expected.abs().max(1.0), "{i}: {found} and {expected}");
    }
}

fn loaded(package: &Package) -> Result<LoadedModel, crate::infer::EngineError> {
    LoadedModel::load(package, &read_script(package)?, tch::Device::Cpu, crate::domain::Precision::Fp32)
}

#[test]
fn the_figures_are_pytorchs_and_numpys() {
    let (folder, cases) = reference::study_level();
    let dir = folder.path();
    let logits = rows(&cases["energy"]["logits"]);
    for (temperature, activation, key) in [
        (1.0, Activation::LogitsSoftmax, "energy"),
        (2.0, Activation::LogitsSoftmax, "energy_at_2"),
        (1.0, Activation::LogitsSigmoid, "joint_energy"),
    ] {
        let ood = Ood::new(energy(temperature, 0.0), dir, activation).unwrap();
        check(&ood, &logits, &[], &numbers(&cases["energy"][key]));
    }
    let sha256 = Digest::of(&std::fs::read(dir.join("features.safetensors")).unwrap());
    let card =
        |threshold| OodCard::Mahalanobis { file: "features.safetensors".to_owned(), sha256: sha256.clone(), threshold };
    let ood = Ood::new(card(25.0), dir, Activation::Softmax).unwrap();
    let (features, expected) = (rows(&cases["distance"]["features"]), numbers(&cases["distance"]["mahalanobis"]));
    check(&ood, &[], &features, &expected);
    // The first forty are of the cloud, the others from far away.
    assert!(expected[..40].iter().all(|d| !ood.is_beyond(*d)) && expected[40..].iter().all(|d| ood.is_beyond(*d)));
    assert!(
        ood.score(&[], &features[0][..5]).unwrap_err().to_string().contains("5 features, the card's file is for 6")
    );
    assert!(ood.score(&[], &[f64::NAN; 6]).is_err());
}

/// Mean and negative mean of the image; as a pair also the mean and the largest pixel, which are its features.
fn network(is_pair: bool) -> Vec<u8> {
    let pair = ", torch.cat([m, x.amax(1, keepdim=True)], 1)";
    reference::scripted(&format!(
        "        x = images.flatten(1)\n        m = x.mean(1, keepdim=True)\n        return torch.cat([m, -m], 1){}",
        if is_pair { pair } else { "" }
    ))
}

/// Puts the section of a sidecar file of this content before `[scope]`.
fn with_section(card: &str, sidecar: &[u8]) -> String {
    let digest = Digest::of(sidecar);
    let keys = format!("method = \"mahalanobis\"\nfile = \"ood.safetensors\"\nsha256 = \"{digest}\"\nthreshold = 2.0");
    card.replace("[scope]", &format!("[ood]\n{keys}\n[scope]"))
}

fn put_sidecar(dir: &Path, sidecar: &[u8]) {
    std::fs::create_dir_all(dir.join("site-chest")).unwrap();
    std::fs::write(dir.join("site-chest/ood.safetensors"), sidecar).unwrap();
}

#[test]
fn an_image_has_its_score_behind_its_probabilities() {
    let dir = tempfile::tempdir().unwrap();
    let weights = dir.path().join("network.pt");
    // Around (0.5, 0.5), the features of a flat grey image.
    let sidecar = safetensors_of(&[0.5, 0.5], &[4.0, 0.0, 0.0, 1.0]);
    put_sidecar(dir.path(), &sidecar);
    let load = |bytes: &[u8]| -> LoadedModel {
        std::fs::write(&weights, bytes).unwrap();
        let package = clinical_with(dir.path(), &weights, |c| with_section(&c, &sidecar));
        loaded(&package).unwrap()
    };
    let model = load(&network(true));
    model.warm_up().unwrap();
    let (grey, mut spot) = (vec![0.5_f32; 64], vec![0.5_f32; 64]);
    spot[7] = 2.5;
    let found = model.forward(&[&grey, &spot]).unwrap();
    let found: Vec<Vec<f64>> = found.into_iter().map(Result::unwrap).collect();
    assert!(found[0].len() == 3 && found[0][2].abs() < 1e-9, "{found:?}");
    let mean = 2.0_f64 / 64.0;
    assert!((found[1][2] - (4.0 * mean * mean + 4.0)).abs() < 1e-5, "{found:?}");
    let ood = model.package().ood.clone().unwrap();
    assert!(!ood.is_beyond(found[0][2]) && ood.is_beyond(found[1][2]));

    let error = load(&network(false)).warm_up().unwrap_err().to_string();
    assert!(error.contains("needs a network that returns a pair"), "{error}");
}

#[test]
fn a_native_network_gives_the_features_before_its_last_layer() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("resnet.safetensors");
    let mut store = tch::nn::VarStore::new(tch::Device::Cpu);
    let width = crate::infer::Width { channels: 1, columns: 2 };
    let parts = crate::infer::nets::parts(&store.root(), crate::infer::Architecture::Resnet18, width).unwrap();
    store.freeze();
    store.save(&file).unwrap();
    let image: Vec<f32> = (0..1024).map(|i| (i as f32 * 0.37).sin()).collect();
    let xs = tch::Tensor::from_slice(&image).view([1, 1, 32, 32]);
    let features =
        Vec::<f64>::try_from((parts.features)(&xs, false).unwrap().flatten(0, -1).to_kind(tch::Kind::Double)).unwrap();
    let identity: Vec<f64> = (0..512 * 512).map(|i| f64::from(u8::from(i % 513 == 0))).collect();
    let sidecar = safetensors_of(&[0.0; 512], &identity);
    put_sidecar(dir.path(), &sidecar);
    let package = clinical_with(dir.path(), &file, |c| {
        let native = c.replace("\"torchscript\"", "\"safetensors\"\narchitecture = \"resnet18\"");
        with_section(&native.replace("size = 8", "size = 32"), &sidecar)
    });
    let model = loaded(&package).unwrap();
    model.warm_up().unwrap();
    let found = model.forward(&[&image]).unwrap().remove(0).unwrap();
    let length: f64 = features.iter().map(|f| f * f).sum();
    assert!(length > 0.1 && (found[2] - length).abs() < 1e-4 * length, "{} and {length}", found[2]);
}

#[test]
fn a_card_that_cannot_be_meant_is_refused_by_key() {
    let dir = tempfile::tempdir().unwrap();
    let write = |bytes: &[u8]| {
        std::fs::write(dir.path().join("o"), bytes).unwrap();
        OodCard::Mahalanobis { file: "o".to_owned(), sha256: Digest::of(bytes), threshold: 1.0 }
    };
    let check = |card: OodCard, activation, expected: &str| {
        let [key, problem, remedy] = Ood::new(card, dir.path(), activation).unwrap_err();
        assert!(format!("{key}: {problem}").contains(expected) && !remedy.is_empty(), "{key}: {problem}");
    };
    let (soft, sig) = (Activation::LogitsSoftmax, Activation::LogitsSigmoid);
    check(energy(0.0, 1.0), soft, "ood.temperature");
    check(energy(2.0, 1.0), sig, "ood.temperature: is for groups");
    check(energy(1.0, f64::NAN), soft, "ood.threshold");
    for activation in [Activation::LogSoftmax, Activation::Softmax, Activation::Sigmoid] {
        check(energy(1.0, 1.0), activation, "ood.method: \"energy\" needs logits");
    }
    check(write(b"no"), sig, "not a safetensors file");
    check(write(&safetensors_of(&[0.0, 1.0], &[1.0])), sig, "precision is 1 by 1 where means have 2");
    check(write(&safetensors_of(&[0.0, f64::NAN], &[1.0, 0.0, 0.0, 1.0])), sig, "means has values that are not finite");
    check(write(&safetensors_of(&[], &[])), sig, "too few or too many");
    let mut gone = write(b"");
    if let OodCard::Mahalanobis { file, .. } = &mut gone {
        *file = "../o".to_owned();
    }
    check(gone, sig, "ood.file: \"../o\" leaves the package folder");
    assert!(toml::from_str::<OodCard>("method = \"energy\"\nthreshold = -3.0").is_ok());
    assert!(toml::from_str::<OodCard>("method = \"knn\"\nthreshold = 1.0").is_err());
    // The package says it with the card's other faults.
    let weights = dir.path().join("w");
    std::fs::write(&weights, b"weights").unwrap();
    let folder = clinical_with(dir.path(), &weights, |c| c).dir;
    let text = std::fs::read_to_string(folder.join("model.toml")).unwrap();
    let sections = "[ood]\nmethod = \"energy\"\nthreshold = inf\n[calibration]\nmethod = \"dirichlet\"\nweights = []\n\
                    intercept = []\n[scope]";
    std::fs::write(folder.join("model.toml"), text.replace("[scope]", sections)).unwrap();
    let ManifestError { faults } = Package::load(&folder).unwrap_err();
    let keys: Vec<_> = faults.iter().map(|f| f.key.as_str()).collect();
    assert_eq!(keys, ["calibration.method", "ood.threshold"]);
}

/// One class of `means` and a square `precision`, in double precision.
fn safetensors_of(means: &[f64], precision: &[f64]) -> Vec<u8> {
    let of = |v: &[f64]| v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let side = precision.len().isqrt();
    let (first, whole) = (means.len() * 8, (means.len() + precision.len()) * 8);
    let header = serde_json::json!({
        "means": {"dtype": "F64", "shape": [1, means.len()], "data_offsets": [0, first]},
        "precision": {"dtype": "F64", "shape": [side, side], "data_offsets": [first, whole]},
    })
    .to_string();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &of(means), &of(precision)].concat()
}
