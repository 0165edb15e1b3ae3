//! Clinical products that score images on their own: what their cards say of how a result is known and read.
//!
//! `result-sr`: the product's own Structured Reports, by `[result]` with a kind, who may say it, and the codes that it
//! uses. `result-csv`: a table that its system drops, by the names that it gives the findings. Neighbours: `elsewhere`
//! (model servers), `results` (what several results come to). Left out: reading an object (`pixels`) or a table
//! (`results`).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::span;
use crate::domain::{CodeKey, FindingRule, LabelRule, ReportKind, ReportRules, ResultSource};
use crate::results::{Combine, Correction, SettleRules};

use super::card::{Aggregation, Card, Format};
use super::check::Faults;

/// `[result]` of a card.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResultCard {
    /// How the product's report is laid out; for `result-sr`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<ReportKind>,
    /// How long a study waits for its result once its images are complete. After that it is reported without.
    #[serde(default = "wait")]
    pub wait: String,
    /// The product gives decisions and no scores. No error risk can be told of a decision alone.
    #[serde(default)]
    pub label_only: bool,
    #[serde(default)]
    pub correction: Correction,
    /// The concept of the number that is a finding's probability; (111012, DCM), Certainty of Finding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probability: Option<CodeKey>,
    /// The concept of the product's decision, where it is written, and its values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<LabelRule>,
    /// Who may say it; for `result-sr`, where something must be given.
    #[serde(default, skip_serializing_if = "ResultSource::is_empty")]
    pub from: ResultSource,
    /// Findings that the product writes otherwise than the card.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<ResultFinding>,
}

/// A finding as the product writes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResultFinding {
    /// The key of the finding in the card.
    pub key: String,
    /// Its code in the product's reports; the card's where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<CodeKey>,
    /// Concepts from the root to the item with the value; for kind `paths`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub path: Vec<CodeKey>,
    /// Its name in the product's table; the key where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// A product, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Product {
    pub kind: ProductKind,
    pub wait: Duration,
    pub settle: SettleRules,
}

/// What its results come in.
#[derive(Debug, Clone, PartialEq)]
pub enum ProductKind {
    Report {
        rules: Box<ReportRules>,
        from: Box<ResultSource>,
    },
    Table {
        /// The name of each finding in the table, and its key.
        names: Vec<(String, String)>,
        /// Versions that the card is for; empty: any.
        versions: Vec<String>,
    },
}

fn wait() -> String {
    "30m".into()
}

const CERTAINTY: (&str, &str) = ("111012", "DCM");
/// Concepts of one path.
const PATH_MAX: usize = 16;

/// The product of a card of format `result-sr` or `result-csv`; `None` after a fault.
pub(super) fn product(card: &Card, faults: &mut Faults) -> Option<Product> {
    let Some(result) = &card.result else {
        faults.add("result", "is missing", "add [result]: how the product's results are known and read");
        return None;
    };
    let before = faults.list.len();
    if !card.input.contract.is_empty() {
        faults.add("input", "is given for a product that makes its own input", "remove it");
    }
    if card.output.columns.is_some() || card.output.findings.iter().any(|f| f.column.is_some()) {
        faults.add("output.columns", "is given for a product without columns", "remove it");
    }
    if card.output.activation != super::card::Activation::Sigmoid {
        faults.add("output.activation", "results are probabilities already", "use \"sigmoid\"");
    }
    let wait = span(&result.wait, Duration::ZERO..=Duration::from_secs(7 * 86_400));
    let wait = wait.map_err(|what| faults.add("result.wait", what, "correct it")).unwrap_or_default();
    for (i, finding) in result.findings.iter().enumerate() {
        let known = card.output.findings.iter().any(|f| f.key == finding.key);
        let twice = result.findings[..i].iter().any(|f| f.key == finding.key);
        if !known || twice {
            let problem =
                format!("{} is {}", finding.key, if twice { "there twice" } else { "no finding of the card" });
            faults.add(format!("result.findings[{i}].key"), problem, "use the keys of [[output.findings]], each once");
        }
    }
    let kind = match card.format {
        Format::ResultCsv => table(card, result, faults),
        _ => report(card, result, faults),
    };
    let combine = match card.aggregation.method {
        Aggregation::Mean => Combine::Mean,
        Aggregation::Max => Combine::Max,
    };
    let settle = SettleRules { correction: result.correction, combine, label_only: result.label_only };
    (faults.list.len() == before).then_some(Product { kind, wait, settle })
}

fn report(card: &Card, result: &ResultCard, faults: &mut Faults) -> ProductKind {
    let kind = result.kind.unwrap_or(ReportKind::Tid1500);
    if result.kind.is_none() {
        faults.add("result.kind", "is missing", "use \"tid1500\", \"chest-cad\" or \"paths\"");
    }
    if result.from.is_empty() {
        let remedy = "add [result.from] with manufacturer, model_name, serial_numbers, software_versions or ae_titles";
        faults.add("result.from", "does not say whose reports are the product's", remedy);
    }
    if result.label_only && result.label.is_none() {
        faults.add(
            "result.label",
            "is missing, and label_only is true",
            "name the concept of the decision and its values",
        );
    }
    let mut findings = Vec::new();
    for (i, finding) in card.output.findings.iter().enumerate() {
        let written = result.findings.iter().find(|f| f.key == finding.key);
        let own = CodeKey { value: finding.code.value.clone(), scheme: finding.code.scheme.clone() };
        let path = written.map(|f| f.path.clone()).unwrap_or_default();
        let fits = if kind == ReportKind::Paths { (1..=PATH_MAX).contains(&path.len()) } else { path.is_empty() };
        if !fits {
            let key = format!("output.findings[{i}]");
            let problem = format!("{} has a path of {} concepts in [[result.findings]]", finding.key, path.len());
            faults.add(key, problem, format!("kind \"paths\" needs 1 to {PATH_MAX} for each finding, others none"));
        }
        if written.is_some_and(|f| f.name.is_some()) {
            faults.add("result.findings.name", "is given for reports", "give a code, or use format = \"result-csv\"");
        }
        let code = written.and_then(|f| f.code.clone()).unwrap_or(own);
        findings.push(FindingRule { key: finding.key.clone(), code, path });
    }
    let certainty = CodeKey { value: CERTAINTY.0.into(), scheme: CERTAINTY.1.into() };
    let probability = result.probability.clone().unwrap_or(certainty);
    let rules = ReportRules { kind, probability, label: result.label.clone(), findings };
    ProductKind::Report { rules: Box::new(rules), from: Box::new(result.from.clone()) }
}

fn table(card: &Card, result: &ResultCard, faults: &mut Faults) -> ProductKind {
    let from = ResultSource { software_versions: Vec::new(), ..result.from.clone() };
    let of_reports = [
        ("kind", result.kind.is_some()),
        ("probability", result.probability.is_some()),
        ("label", result.label.is_some()),
        ("from", !from.is_empty()),
        ("findings", result.findings.iter().any(|f| f.code.is_some() || !f.path.is_empty())),
    ];
    for (key, _) in of_reports.into_iter().filter(|(_, given)| *given) {
        let remedy = "remove it, or use format = \"result-sr\"; of [result.from] a table knows software_versions alone";
        faults.add(format!("result.{key}"), "is given for a table", remedy);
    }
    let name = |key: &String| {
        let written = result.findings.iter().find(|f| f.key == *key).and_then(|f| f.name.clone());
        (written.unwrap_or_else(|| key.clone()), key.clone())
    };
    let names: Vec<(String, String)> = card.output.findings.iter().map(|f| name(&f.key)).collect();
    if let Some((i, (twice, _))) = names.iter().enumerate().find(|(i, (n, _))| names[..*i].iter().any(|(m, _)| m == n))
    {
        faults.add(
            format!("output.findings[{i}]"),
            format!("{twice} names two findings"),
            "give each a name of its own",
        );
    }
    ProductKind::Table { names, versions: result.from.software_versions.clone() }
}

#[cfg(test)]
#[path = "product_tests.rs"]
mod tests;
