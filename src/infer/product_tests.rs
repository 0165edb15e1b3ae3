//! Cards of products: one row per fault.

use super::super::elsewhere::Elsewhere;
use super::super::manifest::Package;
use super::super::manifest::fixtures::write_clinical;
use super::*;

const REPORT: &str = r#"[result]
kind = "tid1500"
wait = "10m"
[result.from]
manufacturer = "Example Imaging"
ae_titles = ["VENDORAI"]
[[result.findings]]
key = "pneumothorax"
code = { value = "RID5352", scheme = "RADLEX" }
[output]
activation = "sigmoid""#;

const TABLE: &str = r#"[result]
wait = "1h"
[[result.findings]]
key = "pneumothorax"
name = "PTX"
[output]
activation = "sigmoid""#;

/// The fixtures' card with one of the sections above and this replaced.
fn load(format: &str, sections: &str, from: &str, to: &str) -> Result<Package, Vec<(String, String)>> {
    let folder = tempfile::tempdir().unwrap();
    let change = |card: String| {
        let kept = card.lines().filter(|line| !line.starts_with("file =") && !line.starts_with("sha256 ="));
        let card = kept.collect::<Vec<_>>().join("\n").replace("\"torchscript\"", &format!("\"{format}\""));
        let card = card.replacen("[input]\ncontract = \"minmax-unit\"\nsize = 8\n", "", 1);
        let card = card.replacen("[output]\nactivation = \"logits-sigmoid\"", sections, 1);
        assert!(card.contains(from), "{from} in {card}");
        card.replacen(from, to, 1)
    };
    let dir = write_clinical(folder.path(), change);
    Package::load(&dir).map_err(|e| e.faults.into_iter().map(|f| (f.key, f.problem)).collect())
}

#[test]
fn a_product_is_a_package_without_weights_and_without_a_contract() {
    let package = load("result-sr", REPORT, "", "").unwrap();
    let Some(Elsewhere::Product(product)) = &package.elsewhere else { panic!("{:?}", package.elsewhere) };
    let ProductKind::Report { rules, from } = &product.kind else { panic!("{product:?}") };
    let codes: Vec<_> = rules.findings.iter().map(|f| (f.key.as_str(), f.code.value.as_str())).collect();
    assert_eq!(codes, [("pneumothorax", "RID5352"), ("pleural_effusion", "60046008")]);
    assert_eq!((rules.probability.value.as_str(), from.ae_titles.len()), ("111012", 1));
    assert_eq!((product.wait, product.settle.combine), (Duration::from_secs(600), Combine::Max));
    assert_eq!(package.identity.contract, "");
    for (from, to) in [("10m", "20m"), ("\"VENDORAI\"", "\"VENDORAI\", \"ROUTER\"")] {
        let same = load("result-sr", REPORT, from, to).unwrap();
        assert_eq!(same.key(), package.key(), "how long it is waited for, and who sends it, makes no other model");
    }

    let package = load("result-csv", TABLE, "", "").unwrap();
    let Some(Elsewhere::Product(product)) = &package.elsewhere else { panic!("{:?}", package.elsewhere) };
    let ProductKind::Table { names, .. } = &product.kind else { panic!("{product:?}") };
    let names: Vec<_> = names.iter().map(|(name, key)| (name.as_str(), key.as_str())).collect();
    assert_eq!(names, [("PTX", "pneumothorax"), ("pleural_effusion", "pleural_effusion")]);
}

#[test]
fn every_fault_of_a_product_is_told() {
    let check = |format, sections, from, to, key: &str, problem: &str| {
        let faults = load(format, sections, from, to).expect_err(to);
        let told = matches!(faults.as_slice(), [(k, p)] if k == key && p.contains(problem));
        assert!(told, "{to}: {faults:?}");
    };
    let report = |from, to, key: &str, problem: &str| check("result-sr", REPORT, from, to, key, problem);
    report("kind = \"tid1500\"\n", "", "result.kind", "is missing");
    report("manufacturer = \"Example Imaging\"\nae_titles = [\"VENDORAI\"]", "", "result.from", "whose reports");
    report("\"10m\"", "\"soon\"", "result.wait", "duration");
    report("key = \"pneumothorax\"\ncode", "key = \"edema\"\ncode", "result.findings[0].key", "no finding");
    report("wait =", "label_only = true\nwait =", "result.label", "is missing");
    report("RADLEX\" }", "RADLEX\" }\nname = \"PTX\"", "result.findings.name", "for reports");
    report("\"sigmoid\"", "\"logits-sigmoid\"", "output.activation", "probabilities already");
    report("[result]", "[input]\ncontract = \"minmax-unit\"\nsize = 8\n[result]", "input", "its own input");
    report("threshold = 0.5", "threshold = 0.5\ncolumn = 0", "output.columns", "without columns");
    let weights = "method = \"mean\"\nweights = { PA = 2.0 }";
    report("method = \"max\"", weights, "aggregation.weights", "not run in this process");
    report("[\"VENDORAI\"]", "[\"SEVENTEEN_LETTERS\"]", "model.toml", "");
    let table = |from, to, key: &str, problem: &str| check("result-csv", TABLE, from, to, key, problem);
    table("wait =", "kind = \"tid1500\"\nwait =", "result.kind", "for a table");
    table("\"PTX\"", "\"pleural_effusion\"", "output.findings[1]", "names two findings");
    let faults = load("result-sr", "[output]\nactivation = \"sigmoid\"", "", "").unwrap_err();
    assert_eq!(faults, [("result".to_owned(), "is missing".to_owned())]);
    let faults = load("result-sr", REPORT, "tid1500", "paths").unwrap_err();
    assert_eq!(faults.len(), 2, "each finding needs a path: {faults:?}");
}
