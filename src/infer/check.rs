//! The rules of a model card: each part of the card becomes its domain type, or faults.
//!
//! Neighbours: `card` (the mirror), `manifest` (calls these in turn and checks the weight file). Tests are those of
//! `manifest`: one row per rule. Left out: files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::domain::{
    Code, Contract, Finding, Group, ModelOutputs, Precision, Purpose, is_private_scheme, is_public_scheme,
};

use super::card::{Aggregation, AggregationCard, Card, Format, InputCard, OutputCard, PrecisionCard, Provenance};
use super::manifest::{CardFault, Weights};
use super::scope::Scope;

/// Clinical models have up to some hundred outputs.
const COLUMNS_MAX: usize = 4096;

/// The top level of the race categories in CDC Race and Ethnicity (CDCREC).
const CDCREC: [(&str, &str); 5] = [
    ("1002-5", "American Indian or Alaska Native"),
    ("2028-9", "Asian"),
    ("2054-5", "Black or African American"),
    ("2076-8", "Native Hawaiian or Other Pacific Islander"),
    ("2106-3", "White"),
];

/// Scores that move further are those of another model.
const SCORE_TOLERANCE_MAX: f64 = 0.1;

/// Characters of a contract's label: an algorithm parameter of a report has 64, `contract=` among them.
const CONTRACT_LABEL_MAX: usize = 55;

pub(super) const NAME_RULE: &str =
    "use 1 to 64 letters, digits, dots, hyphens and underscores, starting with a letter or digit";

pub(super) struct Faults {
    pub(super) card: PathBuf,
    pub(super) list: Vec<CardFault>,
}

impl Faults {
    pub(super) fn add(&mut self, key: impl Into<String>, problem: impl Into<String>, remedy: impl Into<String>) {
        let (key, problem, remedy) = (key.into(), problem.into(), remedy.into());
        self.list.push(CardFault { card: self.card.clone(), key, problem, remedy });
    }

    /// What was made, or its fault into the list.
    pub(super) fn take<T>(&mut self, made: Result<T, [String; 3]>) -> Option<T> {
        made.map_err(|[key, problem, remedy]| self.add(key, problem, remedy)).ok()
    }
}

pub(super) fn check_names(dir: &Path, card: &Card, faults: &mut Faults) {
    let folder = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    if !is_name(&card.name) {
        faults.add("name", format!("{:?} is not a package name", card.name), NAME_RULE);
    } else if folder.file_name().is_some_and(|f| f != card.name.as_str()) {
        let problem = format!("{:?} differs from the folder {}", card.name, folder.display());
        faults.add("name", problem, "name the folder after the model");
    }
    if !is_name(&card.version) || card.version.len() > 16 {
        faults.add("version", format!("{:?} is not a version", card.version), "use up to 16 characters such as 1.2.0");
    }
    if !is_text(&card.manufacturer, 64) {
        faults.add("manufacturer", "is empty, too long or not printable", "use 1 to 64 printable ASCII characters");
    }
}

/// The contract that an `[input]` section asks for, or what is wrong with it.
pub fn contract_of(input: &InputCard) -> Result<Contract, String> {
    let mut faults = Faults { card: PathBuf::new(), list: Vec::new() };
    let contract = contract(input, &mut faults);
    match (contract, faults.list.first()) {
        (Some(contract), None) => Ok(contract),
        (_, fault) => Err(fault.map_or(String::new(), |f| format!("{}: {}; {}", f.key, f.problem, f.remedy))),
    }
}

/// The first rule that a card breaks on its own, whatever its folder and weight file are.
pub fn fault_of(card: &Card) -> Option<String> {
    let mut faults = Faults { card: PathBuf::new(), list: Vec::new() };
    // A folder without a name: any name fits.
    check_names(Path::new("/"), card, &mut faults);
    let contract = contract(&card.input, &mut faults);
    weights(card, contract.as_ref(), &mut faults);
    let (_, column_of) = outputs(&card.output, card.purpose, &mut faults);
    shares(&card.output, &mut faults);
    columns(&card.output, &column_of, card.purpose, &mut faults);
    check_aggregation(&card.aggregation, card.purpose, &mut faults);
    if let Err(list) = Scope::new(card.scope.clone()) {
        list.into_iter().for_each(|(key, problem, remedy)| faults.add(key, problem, remedy));
    }
    check_precisions(&card.precision, &mut faults);
    check_provenance(&card.provenance, &mut faults);
    faults.list.first().map(|f| format!("{}: {}; {}", f.key, f.problem, f.remedy))
}

pub(super) fn contract(input: &InputCard, faults: &mut Faults) -> Option<Contract> {
    let Some(mut contract) = Contract::preset(&input.contract, input.size) else {
        let known = Contract::PRESETS.join(", ");
        faults.add("input.contract", format!("{:?} is no preset", input.contract), format!("use one of {known}"));
        return None;
    };
    let overridden = input.range.is_some()
        || input.low.is_some()
        || input.high.is_some()
        || input.fit.is_some()
        || input.channels.is_some()
        || input.mean.is_some()
        || input.std.is_some()
        || input.filter.is_some()
        || input.orientation.is_some()
        || input.mask.is_some();
    match &input.name {
        Some(name) if Contract::PRESETS.contains(&name.as_str()) || !is_name(name) => {
            faults.add(
                "input.name",
                format!("{name:?} is a preset's name or none"),
                "give the contract a name of its own",
            );
        }
        Some(name) => name.clone_into(&mut contract.name),
        None if overridden || input.version.is_some() => {
            let problem = format!("is missing, and fields of the preset {} are overridden", input.contract);
            faults.add("input.name", problem, "give the changed contract a name of its own");
        }
        None => (),
    }
    contract.version = input.version.unwrap_or(contract.version);
    contract.range = input.range.unwrap_or(contract.range);
    contract.low = input.low.unwrap_or(contract.low);
    contract.high = input.high.unwrap_or(contract.high);
    contract.fit = input.fit.unwrap_or(contract.fit);
    contract.channels = input.channels.unwrap_or(contract.channels);
    contract.mean = input.mean.clone().unwrap_or(contract.mean);
    contract.std = input.std.clone().unwrap_or(contract.std);
    contract.filter = input.filter.unwrap_or(contract.filter);
    contract.orientation = input.orientation.unwrap_or(contract.orientation);
    contract.mask = input.mask.clone().unwrap_or(contract.mask);
    if let Some(fault) = contract.fault() {
        faults.add("input", fault, "correct the field, see domain/contract.rs for the presets");
        return None;
    }
    // with its digest at the end, which must not be cut off
    let label = contract.label().len();
    if label > CONTRACT_LABEL_MAX {
        let problem = format!("makes {label} characters in reports, {CONTRACT_LABEL_MAX} have room");
        faults.add("input.name", problem, "give the contract a shorter name");
        return None;
    }
    Some(contract)
}

pub(super) fn weights(card: &Card, contract: Option<&Contract>, faults: &mut Faults) -> Option<Weights> {
    match (card.format, card.architecture) {
        (Format::OpenInference | Format::ResultSr | Format::ResultCsv, _) => Some(Weights::Elsewhere),
        (Format::TorchScript, None) => Some(Weights::TorchScript),
        (Format::TorchScript, Some(_)) => {
            faults.add("architecture", "is given for a TorchScript file", "remove it: the file holds the network");
            None
        }
        (Format::Safetensors, None) => {
            faults.add("architecture", "is missing", "name the network, e.g. architecture = \"resnet34\"");
            None
        }
        (Format::Safetensors, Some(architecture)) => {
            if let Some(contract) = contract
                && contract.size < 32
            {
                let problem = format!("{} needs 32 pixels, not {}", architecture.as_str(), contract.size);
                faults.add("input.size", problem, "use the size that the network was trained at");
            }
            Some(Weights::Safetensors(architecture))
        }
    }
}

pub(super) fn outputs(output: &OutputCard, purpose: Purpose, faults: &mut Faults) -> (ModelOutputs, Vec<usize>) {
    let mut keys = BTreeSet::new();
    let mut check_key = |place: String, key: &str, faults: &mut Faults| {
        if !is_name(key) {
            faults.add(place, format!("{key:?} is not a key"), NAME_RULE);
        } else if !keys.insert(key.to_owned()) {
            faults.add(place, format!("{key} occurs twice"), "give each output a key of its own");
        }
    };
    match purpose {
        Purpose::Race => {
            if output.groups.len() < 2 {
                faults.add(
                    "output.groups",
                    "a race model has at least 2 groups",
                    "add [[output.groups]] in output order",
                );
            }
            if !output.findings.is_empty() {
                faults.add("output.findings", "a race model has groups", "remove them or set purpose = \"clinical\"");
            }
            if !output.activation.is_softmax() {
                let remedy = "use softmax, log-softmax or logits-softmax, whatever the network's last layer is";
                faults.add("output.activation", "groups exclude one another", remedy);
            }
            let mut codes = BTreeSet::new();
            let mut groups = Vec::new();
            for (i, group) in output.groups.iter().enumerate() {
                check_key(format!("output.groups[{i}].key"), &group.key, faults);
                let Some((value, meaning)) = CDCREC.iter().find(|(value, _)| *value == group.code) else {
                    let known: Vec<_> = CDCREC.iter().map(|(value, meaning)| format!("{value} {meaning}")).collect();
                    let problem = format!("{:?} is no CDCREC race category", group.code);
                    faults.add(format!("output.groups[{i}].code"), problem, format!("use one of {}", known.join(", ")));
                    continue;
                };
                if !codes.insert(*value) {
                    let remedy = "give each group its own code";
                    faults.add(format!("output.groups[{i}].code"), format!("{value} occurs twice"), remedy);
                }
                groups.push(Group { key: group.key.clone(), code: Code::new(value, "CDCREC", meaning) });
            }
            let columns = (0..groups.len()).collect();
            (ModelOutputs::Groups(groups), columns)
        }
        Purpose::Clinical => {
            if output.findings.is_empty() {
                faults.add(
                    "output.findings",
                    "a clinical model has findings",
                    "add [[output.findings]] in output order",
                );
            }
            if !output.groups.is_empty() {
                faults.add("output.groups", "a clinical model has findings", "remove them or set purpose = \"race\"");
            }
            if output.activation.is_softmax() {
                let remedy = "use sigmoid or logits-sigmoid, whatever the network's last layer is";
                faults.add("output.activation", "findings do not exclude one another", remedy);
            }
            let mut findings = Vec::new();
            for (i, finding) in output.findings.iter().enumerate() {
                check_key(format!("output.findings[{i}].key"), &finding.key, faults);
                let codes = [("code", Some(&finding.code)), ("site", finding.site.as_ref())];
                for (name, code) in codes {
                    let Some(code) = code else { continue };
                    let place = format!("output.findings[{i}].{name}");
                    if let Some(fault) = code.fault() {
                        faults.add(place, fault, "correct the code");
                    } else if !is_public_scheme(&code.scheme) && !is_private_scheme(&code.scheme) {
                        let problem = format!("{:?} is no scheme that readers know", code.scheme);
                        faults.add(place, problem, "use SCT, DCM, LN, UMLS, RADLEX, or a private one such as 99SITE");
                    }
                }
                findings.push(Finding {
                    key: finding.key.clone(),
                    code: finding.code.clone(),
                    site: finding.site.clone(),
                    threshold: finding.threshold,
                });
            }
            let columns = output.findings.iter().enumerate().map(|(i, f)| f.column.unwrap_or(i)).collect();
            (ModelOutputs::Findings(findings), columns)
        }
    }
}

/// The shares of the groups, where the card gives them.
pub(super) fn shares(output: &OutputCard, faults: &mut Faults) -> Option<Vec<f64>> {
    let given: Vec<f64> = output.groups.iter().filter_map(|g| g.share).collect();
    if given.is_empty() {
        return None;
    }
    let sum: f64 = given.iter().sum();
    let fits = given.len() == output.groups.len() && given.iter().all(|s| *s > 0.0) && (sum - 1.0).abs() < 1e-3;
    if !fits {
        let remedy = "give every group its share, above 0, together 1; or none of them";
        faults.add("output.groups.share", format!("{given:?} are no shares of {} groups", output.groups.len()), remedy);
        return None;
    }
    Some(given.iter().map(|s| s / sum).collect())
}

pub(super) fn columns(output: &OutputCard, column_of: &[usize], purpose: Purpose, faults: &mut Faults) -> usize {
    let columns = output.columns.unwrap_or(column_of.len());
    if columns > COLUMNS_MAX {
        faults.add(
            "output.columns",
            format!("{columns} is more than {COLUMNS_MAX}"),
            "give the network's output width",
        );
    }
    if purpose == Purpose::Race && output.columns.is_some_and(|c| c != output.groups.len()) {
        faults.add("output.columns", "every output of a race model is a group", "list all groups, remove columns");
    }
    let mut used = BTreeSet::new();
    for (i, column) in column_of.iter().enumerate() {
        if *column >= columns {
            let problem = format!("{column} is beyond the {columns} columns of the output");
            faults.add(
                format!("output.findings[{i}].column"),
                problem,
                "count from 0, set output.columns to the width",
            );
        }
        if !used.insert(column) {
            let remedy = "give each finding its own column";
            faults.add(format!("output.findings[{i}].column"), format!("{column} is used twice"), remedy);
        }
    }
    columns
}

pub(super) fn check_precisions(precisions: &[PrecisionCard], faults: &mut Faults) {
    for (i, PrecisionCard { kind, score_tolerance }) in precisions.iter().enumerate() {
        if *kind == Precision::Fp32 {
            faults.add(format!("precision[{i}].kind"), "fp32 is what others are held against", "remove the entry");
        } else if precisions[..i].iter().any(|p| p.kind == *kind) {
            let problem = format!("{} occurs twice", kind.as_str());
            faults.add(format!("precision[{i}].kind"), problem, "list each precision once");
        }
        if !(*score_tolerance > 0.0 && *score_tolerance <= SCORE_TOLERANCE_MAX) {
            let problem = format!("{score_tolerance} is not above 0 and at most {SCORE_TOLERANCE_MAX}");
            let remedy = "state how far scores move on the site's images, e.g. 0.02";
            faults.add(format!("precision[{i}].score_tolerance"), problem, remedy);
        }
    }
}

pub(super) fn check_aggregation(aggregation: &AggregationCard, purpose: Purpose, faults: &mut Faults) {
    let is_max = aggregation.method == Aggregation::Max;
    if purpose == Purpose::Race && is_max {
        faults.add("aggregation.method", "\"max\" is for findings", "use \"mean\" for groups");
    }
    if is_max && !aggregation.weights.is_empty() {
        faults.add("aggregation.weights", "a maximum has no weights", "remove them or use method = \"mean\"");
    }
    for (view, weight) in &aggregation.weights {
        if !(*weight > 0.0 && *weight <= 1000.0) {
            let remedy = "give a number above 0, at most 1000; scope.views leaves a view out";
            faults.add(format!("aggregation.weights.{}", view.as_str()), format!("{weight} is no weight"), remedy);
        }
    }
}

pub(super) fn check_provenance(provenance: &Provenance, faults: &mut Faults) {
    let texts = [
        ("training_data", &provenance.training_data),
        ("intended_use", &provenance.intended_use),
        ("limits", &provenance.limits),
        ("license", &provenance.license),
    ];
    for (key, text) in texts {
        if text.trim().is_empty() {
            faults.add(
                format!("provenance.{key}"),
                "is empty",
                "a model without it cannot be judged: write a sentence",
            );
        }
    }
    if let Some(date) = &provenance.date
        && chrono::NaiveDate::parse_from_str(date, "%Y-%m-%d").is_err()
    {
        faults.add("provenance.date", format!("{date:?} is not a date"), "write YYYY-MM-DD");
    }
}

pub(super) fn is_name(text: &str) -> bool {
    text.len() <= 64
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

fn is_text(text: &str, length_max: usize) -> bool {
    !text.trim().is_empty() && text.len() <= length_max && text.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'\\')
}
