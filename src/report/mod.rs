//! Assessment to Structured Report: TID 1500, by value, in one of three SOP classes, for people and programs.
//!
//! Pure: no clock, file or socket; the time and fresh UIDs are arguments, so that the same arguments give the same
//! bytes. `tree` lays the content out, `header` copies and references, `schemes` declares what codes need, `write`
//! touches the encoding, `text` renders for people; `maps` are objects of their own beside a report, `overlay` their
//! colours. Neighbours: `domain` below, `analyse` above. Left out: who
//! receives a report (`deliver`), and reading others' reports.

mod codes;
mod content;
mod header;
mod maps;
mod numbers;
mod overlay;
mod schemes;
mod text;
mod tree;
mod write;

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, FixedOffset};

use crate::domain::{
    Assessment, Code, Digest, DigestOf, Direction, Disclosure, FindingAssessment, FindingEvidence, InstanceHeader,
    Level, ModelIdentity, Report, Uid,
};

pub use codes::{PRIVATE_CODES, PRIVATE_SCHEME};
pub use maps::{MapImage, MapObject, Related, capture, parametric_map};
pub use overlay::overlay;
pub use text::render;

use schemes::Schemes;
use tree::{Algorithm, Role};

/// Manufacturer (0008,0070) of every report; how the node knows its own.
pub const MANUFACTURER: &str = "sidelight";
/// Manufacturer's Model Name (0008,1090) of every report.
pub const MODEL_NAME: &str = "sidelight node";

/// What every report says of itself, at most 400 characters together with [`PHANTOMS_ONLY`].
const LIMITATIONS: &str = "Automated audit of an AI result; not a diagnosis, not verified by a physician. Expected \
    errors hold for all patients with this score: a flag is no evidence that this patient's result is wrong. Race is \
    a social construct, self-reported race the reference; this report does not establish the patient's race. Valid \
    only for the model versions named here.";
const PHANTOMS_ONLY: &str = "PHANTOMS ONLY, not for clinical use. ";

/// The SOP classes that can hold the tree, the preferred first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SrClass {
    Comprehensive3d,
    Comprehensive,
    Enhanced,
}

/// The installation that observed (TID 1004).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observer {
    /// One per installation, kept.
    pub device_uid: Uid,
    pub name: String,
    pub serial_number: String,
}

/// The report that this one replaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Predecessor {
    pub study: Uid,
    pub series: Uid,
    pub sop_class: Uid,
    pub sop_instance: Uid,
}

/// Completion Flag (0040,A491).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Completion {
    Complete,
    /// Something in scope was not processed; what, in at most 64 characters.
    Partial(String),
}

/// What a report needs besides the assessment and the images.
#[derive(Debug, Clone)]
pub struct ReportOptions {
    pub disclosure: Disclosure,
    pub sop_class: SrClass,
    pub observer: Observer,
    pub sop_instance: Uid,
    pub series: Uid,
    pub predecessor: Option<Predecessor>,
    pub completion: Completion,
    /// The images that each clinical model scored, by [`ModelIdentity::key`]; not stated for a model without entry.
    pub sources: BTreeMap<String, Vec<Uid>>,
    /// Algorithm parameters of every model besides weights, contract and profile, e.g. which frames were seen.
    pub parameters: Vec<String>,
    /// Objects of the node that belong to the report: its maps.
    pub related: Vec<Related>,
    /// What is known of the clinical models at this site, the same for every patient.
    pub evidence: Vec<FindingEvidence>,
    /// The moment in the node's local time; written in the time zone of the images where they name one.
    pub now: DateTime<FixedOffset>,
}

/// Why no report could be built. Every cause is a fault of the caller, a model card or the node itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    #[error("no image was analysed: a report refers to at least one")]
    NoImages,
    #[error("the assessment has no finding: a report holds at least one")]
    NoFindings,
    #[error("images of several studies in one report: build one report for each study")]
    SeveralStudies,
    #[error("finding {0} is indeterminate without a reason")]
    MissingReason(String),
    #[error("finding {finding} lacks a valid {what}")]
    Estimate { finding: String, what: &'static str },
    #[error("finding {0}: decision, direction, score, threshold and level contradict each other")]
    Contradiction(String),
    #[error("finding {0} appears twice for the same model")]
    RepeatedFinding(String),
    #[error("{0}: correct the model card")]
    Model(String),
    #[error("code ({value}, {scheme}) cannot be written: {reason}")]
    Code { value: String, scheme: String, reason: String },
    #[error("the report could not be encoded: {0}")]
    Encoding(String),
}

/// What the rooms of this stage share while one report is built.
struct Context<'a> {
    assessment: &'a Assessment,
    images: &'a [&'a InstanceHeader],
    /// The image that patient and study attributes come from.
    source: &'a InstanceHeader,
    options: &'a ReportOptions,
    audit: &'a Algorithm,
    /// The clinical model of each finding.
    clinical: &'a [Algorithm],
    procedures: &'a [Code],
}

/// Builds one report on `images`, every analysed instance of one study.
///
/// # Errors
/// [`ReportError`]; nothing that a patient's data alone can cause.
pub fn build(
    assessment: &Assessment,
    images: &[&InstanceHeader],
    options: &ReportOptions,
) -> Result<Report, ReportError> {
    let source = *images.first().ok_or(ReportError::NoImages)?;
    if images.iter().any(|i| i.study != source.study) {
        return Err(ReportError::SeveralStudies);
    }
    check(assessment)?;

    let audit = Algorithm::new(Role::Audit, &assessment.audit, Some(&assessment.profile), &options.parameters)?;
    let of_finding = |f: &FindingAssessment| Algorithm::new(Role::Clinical, &f.clinical, None, &options.parameters);
    let clinical = assessment.findings.iter().map(of_finding);
    let clinical = clinical.collect::<Result<Vec<_>, _>>()?;
    let algorithms = distinct(&clinical, &audit)?;
    let schemes = declare_schemes(assessment, source, options.disclosure)?;
    let procedures = header::procedures(source, &schemes);

    let context =
        Context { assessment, images, source, options, audit: &audit, clinical: &clinical, procedures: &procedures };
    let tree = tree::build(&context)?;
    let mut document = header::build(images, source, &algorithms, &schemes, options);
    tree.write_root(&mut document);

    let sop_class = Uid::parse(options.sop_class.uid()).expect("a UID of the Standard");
    Ok(Report {
        study: source.study.clone(),
        file: write::to_file(document, sop_class.as_str(), options.sop_instance.as_str())?,
        sop_class,
        sop_instance: options.sop_instance.clone(),
        series: options.series.clone(),
    })
}

/// Whether an instance is one of sidelight's own reports or maps, which the node never processes.
pub fn is_own(header: &InstanceHeader) -> bool {
    let own_map = || is_map(&header.sop_class) && header.model_name.eq_ignore_ascii_case(MODEL_NAME);
    header.manufacturer.eq_ignore_ascii_case(MANUFACTURER) && (header.modality == "SR" || own_map())
}

/// Whether maps are of this SOP class; reports are not.
pub fn is_map(sop_class: &Uid) -> bool {
    [maps::SECONDARY_CAPTURE, maps::PARAMETRIC_MAP].contains(&sop_class.as_str())
}

/// Who audits where no race model runs: the node itself, by its profile. It has neither weights nor contract.
pub fn own_identity(device_uid: &Uid) -> ModelIdentity {
    ModelIdentity {
        name: MANUFACTURER.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        manufacturer: MANUFACTURER.into(),
        weights: Digest::of(&[]),
        digest_of: DigestOf::Weights,
        contract: String::new(),
        device_uid: device_uid.clone(),
        phantoms_only: false,
    }
}

impl SrClass {
    /// In order of preference.
    pub const ALL: [SrClass; 3] = [SrClass::Comprehensive3d, SrClass::Comprehensive, SrClass::Enhanced];

    pub fn uid(self) -> &'static str {
        match self {
            SrClass::Comprehensive3d => "1.2.840.10008.5.1.4.1.1.88.34",
            SrClass::Comprehensive => "1.2.840.10008.5.1.4.1.1.88.33",
            SrClass::Enhanced => "1.2.840.10008.5.1.4.1.1.88.22",
        }
    }
}

impl Observer {
    /// Device Observer Name, never empty.
    fn name(&self) -> String {
        or_default(write::plain(&self.name, 64), MODEL_NAME)
    }

    /// Device Serial Number, never empty: the last digits of the device UID where the site set none.
    fn serial_number(&self) -> String {
        let uid = self.device_uid.as_str();
        or_default(write::plain(&self.serial_number, 64), &uid[uid.len().saturating_sub(12)..])
    }
}

fn or_default(text: String, default: &str) -> String {
    if text.is_empty() { default.to_owned() } else { text }
}

/// What must agree before anything is written.
fn check(assessment: &Assessment) -> Result<(), ReportError> {
    if assessment.findings.is_empty() {
        return Err(ReportError::NoFindings);
    }
    let mut seen = BTreeSet::new();
    for f in &assessment.findings {
        let consistent = match f.score {
            Some(score) => {
                let positive = score >= f.finding.threshold;
                let direction = if positive { Direction::FalseAlarm } else { Direction::Miss };
                f.positive == Some(positive) && f.direction == Some(direction)
            }
            None => f.direction.is_none() && f.level == Level::Indeterminate,
        };
        if !consistent {
            return Err(ReportError::Contradiction(f.finding.key.clone()));
        }
        if !seen.insert((f.clinical.key(), &f.finding.key)) {
            return Err(ReportError::RepeatedFinding(f.finding.key.clone()));
        }
    }
    Ok(())
}

/// Each model once, the clinical ones first.
fn distinct(clinical: &[Algorithm], audit: &Algorithm) -> Result<Vec<Algorithm>, ReportError> {
    let mut all: Vec<Algorithm> = Vec::new();
    for algorithm in clinical.iter().chain([audit]) {
        match all.iter().find(|a| (&a.name, &a.version) == (&algorithm.name, &algorithm.version)) {
            Some(same) if same == algorithm => {}
            Some(_) => {
                return Err(ReportError::Model(format!(
                    "two different models are both called {} {}",
                    algorithm.name, algorithm.version
                )));
            }
            None => all.push(algorithm.clone()),
        }
    }
    Ok(all)
}

fn declare_schemes(
    assessment: &Assessment,
    source: &InstanceHeader,
    disclosure: Disclosure,
) -> Result<Schemes, ReportError> {
    let mut schemes = Schemes::new(source);
    schemes.declare_private(&assessment.findings);
    header::copied_values(source).for_each(|value| schemes.declare_copied(value));
    for f in &assessment.findings {
        schemes.require(&f.finding.code)?;
        f.finding.site.iter().try_for_each(|site| schemes.require(site))?;
    }
    if disclosure == Disclosure::Probabilities {
        schemes.declare("CDCREC");
        let groups = assessment.findings.iter().flat_map(|f| &f.disclosed).flat_map(|d| &d.groups);
        groups.map(|g| &g.group.code).try_for_each(|code| schemes.require(code))?;
    }
    Ok(schemes)
}

#[cfg(test)]
mod tests;
