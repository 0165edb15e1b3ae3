//! `train`: runs a recipe and tells what came of it.

use std::collections::BTreeMap;
use std::process::ExitCode;

use serde_json::json;
use sidelight::train::{self, Outcome, TrainOptions};

use super::{print, print_json, table};

pub fn run(options: &TrainOptions, json: bool) -> anyhow::Result<ExitCode> {
    let outcome = train::run(options, &train::bars())?;
    if json {
        print_json(&as_json(&outcome))?;
    } else {
        print(&format!("{} written, SHA-256 {}", outcome.package.key(), outcome.weights))?;
        print(&table(&["on held-out patients", "value", "95 %"], rows(&outcome.evaluation.metrics)))?;
        let settled =
            outcome.evaluation.thresholds.iter().map(|t| (format!("threshold of {}", t.key), t.threshold.get()));
        let settled: Vec<_> =
            settled.chain(outcome.evaluation.temperature.map(|t| ("temperature".to_owned(), t))).collect();
        if !settled.is_empty() {
            let rows = settled.into_iter().map(|(what, value)| vec![what, value.to_string()]);
            print(&table(&["from validation patients", "value"], rows))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn as_json(outcome: &Outcome) -> serde_json::Value {
    let evaluation = &outcome.evaluation;
    let thresholds: BTreeMap<_, _> = evaluation.thresholds.iter().map(|t| (&t.key, t.threshold.get())).collect();
    json!({
        "package": outcome.package.key(),
        "sha256": outcome.weights.as_str(),
        "epochs": outcome.epochs.len(),
        "temperature": evaluation.temperature,
        "thresholds": thresholds,
        "metrics": evaluation.metrics,
    })
}

/// Figures, each with its limits where it has some.
fn rows(metrics: &BTreeMap<String, f64>) -> Vec<Vec<String>> {
    // Rates have none, and a group may be called `lower`.
    let has_limits = |name: &str| name.starts_with("auc_");
    let limit = |name: &str, which: &str| metrics.get(&format!("{name}_{which}")).filter(|_| has_limits(name));
    let is_limit = |name: &str| {
        let of = name.strip_suffix("_lower").or_else(|| name.strip_suffix("_upper"));
        of.is_some_and(|of| has_limits(of) && metrics.contains_key(of))
    };
    let row = |(name, value): (&String, &f64)| {
        let limits = limit(name, "lower").zip(limit(name, "upper")).map(|(low, high)| format!("{low} to {high}"));
        vec![name.replace('_', " "), value.to_string(), limits.unwrap_or_default()]
    };
    metrics.iter().filter(|(name, _)| !is_limit(name)).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_stands_beside_its_limits() {
        let named = |list: &[(&str, f64)]| list.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        let metrics: BTreeMap<String, f64> =
            named(&[("auc_macro", 0.9), ("auc_macro_lower", 0.85), ("auc_macro_upper", 0.94), ("test_studies", 27.0)]);
        assert_eq!(rows(&metrics), [["auc macro", "0.9", "0.85 to 0.94"], ["test studies", "27", ""]]);
        let of_groups: BTreeMap<String, f64> =
            named(&[("fnr_mass", 0.1), ("fnr_mass_lower", 0.2), ("fnr_mass_upper", 0.3)]);
        assert_eq!(rows(&of_groups).len(), 3, "income has groups of such names");
    }
}
