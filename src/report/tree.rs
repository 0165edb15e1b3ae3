//! The content tree: TID 1500 with one TID 1501 group per finding, by value only.
//!
//! One function per container, in the order of the document. Neighbours: `content` holds the items, `codes` the
//! concepts, `numbers` the decimal strings. Left out: the header, and anything that is not in the assessment.

use uuid::Uuid;

use super::codes::{self, Concept, private};
use super::content::{Item, Relation};
use super::numbers::{self, Range};
use super::write::plain;
use super::{Context, LIMITATIONS, MANUFACTURER, MODEL_NAME, PHANTOMS_ONLY, ReportError};
use crate::domain::{
    DigestOf, Direction, Disclosed, Disclosure, FindingAssessment, FindingEvidence, GroupEstimate, InstanceHeader,
    Interval, Level, LineKind, ModelIdentity, Uid,
};

/// Namespace of tracking UIDs (UUIDv5).
const TRACKING_NAMESPACE: Uuid = Uuid::from_u128(0x7f1c_56a2_3d0b_4b7e_9a51_c2e8_04d6_b913);
/// Characters of free text in a whole report beyond which algorithm parameters are stated once per model only.
const TEXT_MAX: usize = 8000;
/// With more images than this the image library alone says what was measured.
const SOURCES_MAX: usize = 100;
/// Confidence level of every range, percent.
const CONFIDENCE_LEVEL: &str = "95";

/// Why a model is named in a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Clinical,
    Audit,
}

/// A model as the report names it: every text plain ASCII within VR LO, the same wherever it appears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Algorithm {
    pub role: Role,
    pub name: String,
    pub version: String,
    pub manufacturer: String,
    pub device_uid: Uid,
    pub parameters: Vec<String>,
}

/// How often the parameters of an algorithm are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parameters {
    Everywhere,
    /// With the first finding of each model.
    Once,
}

/// The whole tree.
///
/// # Errors
/// [`ReportError`] where the assessment lacks or contradicts what the level demands.
pub(super) fn build(context: &Context) -> Result<Item, ReportError> {
    let tree = document(context, Parameters::Everywhere)?;
    if tree.text_length() <= TEXT_MAX {
        return Ok(tree);
    }
    document(context, Parameters::Once)
}

impl Role {
    /// Contribution Description (0018,A003).
    pub(super) fn description(self) -> &'static str {
        match self {
            Role::Clinical => "Clinical AI model",
            Role::Audit => "Audit model",
        }
    }
}

impl Algorithm {
    /// # Errors
    /// [`ReportError::Model`] if name, version or manufacturer is empty.
    pub(super) fn new(
        role: Role,
        model: &ModelIdentity,
        profile: Option<&str>,
        further: &[String],
    ) -> Result<Self, ReportError> {
        let text = |field: &str, value: &str| match plain(value, 64) {
            text if text.is_empty() => Err(ReportError::Model(format!("{field} of model {:?} is empty", model.name))),
            text => Ok(text),
        };
        let mut parameters = Vec::new();
        if model.digest_of == DigestOf::Card {
            parameters.push(format!("card={}", model.weights.short()));
        } else if !model.contract.is_empty() {
            parameters.push(format!("weights={}", model.weights.short()));
        }
        if !model.contract.is_empty() {
            parameters.push(plain(&format!("contract={}", model.contract), 64));
            parameters.extend(further.iter().map(|p| plain(p, 64)));
        }
        parameters.extend(profile.map(|p| plain(&format!("profile={p}"), 64)));
        Ok(Self {
            role,
            name: text("name", &model.name)?,
            version: text("version", &model.version)?,
            manufacturer: text("manufacturer", &model.manufacturer)?,
            device_uid: model.device_uid.clone(),
            parameters,
        })
    }

    /// TID 4019 rows that every measurement carries.
    fn identification(&self) -> [Item; 2] {
        [
            Item::text(Relation::HasConceptMod, codes::ALGORITHM_NAME, &self.name),
            Item::text(Relation::HasConceptMod, codes::ALGORITHM_VERSION, &self.version),
        ]
    }

    /// TID 4019 in full.
    fn in_full(&self, with_parameters: bool) -> Vec<Item> {
        let mut items = self.identification().to_vec();
        items.push(Item::text(Relation::HasConceptMod, codes::ALGORITHM_MANUFACTURER, &self.manufacturer));
        if with_parameters {
            let parameter = |p: &String| Item::text(Relation::HasConceptMod, codes::ALGORITHM_PARAMETERS, p);
            items.extend(self.parameters.iter().map(parameter));
        }
        items
    }
}

fn document(context: &Context, parameters: Parameters) -> Result<Item, ReportError> {
    let observer = &context.options.observer;
    let text = |name, value: &str| Item::text(Relation::HasObsContext, name, value);
    let mut measurements = Item::container(Relation::Contains, codes::MEASUREMENTS);
    for index in 0..context.assessment.findings.len() {
        measurements = measurements.with(measurement_group(context, index, parameters)?);
    }
    let procedure = |code| Item::code(Relation::HasConceptMod, codes::PROCEDURE_REPORTED, code);
    Ok(Item::templated(Relation::Contains, codes::REPORT_TITLE, "1500")
        .with(Item::code(Relation::HasConceptMod, codes::LANGUAGE, codes::ENGLISH_US))
        .with(Item::code(Relation::HasObsContext, codes::OBSERVER_TYPE, codes::DEVICE))
        .with(Item::uid(Relation::HasObsContext, codes::OBSERVER_UID, observer.device_uid.clone()))
        .with(text(codes::OBSERVER_NAME, &observer.name()))
        .with(text(codes::OBSERVER_MANUFACTURER, MANUFACTURER))
        .with(text(codes::OBSERVER_MODEL, MODEL_NAME))
        .with(text(codes::OBSERVER_SERIAL, &observer.serial_number()))
        .with_all(context.procedures.iter().cloned().map(procedure))
        .with(image_library(context.images))
        .with(measurements)
        .with(qualitative_evaluations(context)?))
}

/// TID 1600 with exactly one group: some viewers read only the first.
fn image_library(images: &[&InstanceHeader]) -> Item {
    let modality =
        |i: &InstanceHeader| Item::code(Relation::HasAcqContext, codes::MODALITY, codes::modality(&i.modality));
    let one_modality = images.windows(2).all(|w| w[0].modality == w[1].modality);
    let mut group = Item::container(Relation::Contains, codes::IMAGE_LIBRARY_GROUP);
    if let Some(first) = images.first().filter(|_| one_modality) {
        group = group.with(modality(first));
    }
    let one_region = images.windows(2).all(|w| w[0].body_part == w[1].body_part);
    if let Some(region) = images.first().filter(|_| one_region).and_then(|i| codes::region(&i.body_part)) {
        group = group.with(Item::code(Relation::HasAcqContext, codes::TARGET_REGION, region));
    }
    let entry = |image: &&InstanceHeader| {
        let entry = Item::image(None, &image.sop_class, &image.sop_instance);
        if one_modality { entry } else { entry.with(modality(image)) }
    };
    Item::container(Relation::Contains, codes::IMAGE_LIBRARY).with(group.with_all(images.iter().map(entry)))
}

/// TID 1501 of one finding.
fn measurement_group(context: &Context, index: usize, parameters: Parameters) -> Result<Item, ReportError> {
    let f = &context.assessment.findings[index];
    let clinical = &context.clinical[index];
    let audit = context.audit;
    let first_of_model = !context.assessment.findings[..index].iter().any(|g| g.clinical == f.clinical);
    let result = match f.positive {
        Some(true) => "AI result positive",
        Some(false) => "AI result negative",
        None => "no AI result",
    };
    let tracking = format!("AI audit: {} ({result})", f.finding.code.meaning);
    let all = parameters == Parameters::Everywhere;
    let mut group = Item::templated(Relation::Contains, codes::MEASUREMENT_GROUP, "1501")
        .with(Item::text(Relation::HasObsContext, codes::TRACKING_ID, plain(&tracking, 400)))
        .with(Item::uid(Relation::HasObsContext, codes::TRACKING_UID, tracking_uid(context, f)))
        .with(Item::code(Relation::Contains, codes::FINDING, f.finding.code.clone()));
    if let Some(site) = &f.finding.site {
        group = group.with(Item::code(Relation::HasConceptMod, codes::FINDING_SITE, site.clone()));
    }
    group = group
        .with_all(audit.in_full(all || index == 0))
        .with_all(evidence_of(context, f).map(told).unwrap_or_default())
        .with_all(score_and_threshold(f, clinical, all || first_of_model))
        .with_all(estimates(context, f)?)
        .with_all(lines(context, f)?)
        .with_all(measurement_sources(context, f));
    if let Some(positive) = f.positive {
        let result = if positive { codes::POSITIVE } else { codes::NEGATIVE };
        group = group.with(Item::code(Relation::Contains, private("AIRESULT"), result));
    }
    group = group.with(Item::code(Relation::Contains, private("RDER"), private(f.level.code().0)));
    if f.level == Level::Indeterminate {
        let reason = f.reasons.first().ok_or_else(|| ReportError::MissingReason(f.finding.key.clone()))?;
        group = group.with(Item::code(Relation::Contains, private("INDREASON"), private(reason.code().0)));
    }
    Ok(group)
}

/// The clinical model's own numbers. Where it gave no score none is written, and the threshold alone names the model.
fn score_and_threshold(f: &FindingAssessment, clinical: &Algorithm, with_parameters: bool) -> Vec<Item> {
    let item = |concept: Concept, percent: String| Item::percent(Relation::Contains, concept, percent);
    match f.score {
        Some(score) => {
            let (score, threshold) = numbers::score_and_threshold(score.get(), f.finding.threshold.get());
            vec![
                item(codes::CERTAINTY, score).with_all(clinical.in_full(with_parameters)),
                item(private("THRESHOLD"), threshold).with_all(clinical.identification()),
            ]
        }
        None => {
            let threshold = numbers::percent(f.finding.threshold.get());
            vec![item(private("THRESHOLD"), threshold).with_all(clinical.in_full(with_parameters))]
        }
    }
}

/// Everything that an indeterminate finding must not carry.
fn estimates(context: &Context, f: &FindingAssessment) -> Result<Vec<Item>, ReportError> {
    if f.level == Level::Indeterminate {
        return Ok(Vec::new());
    }
    let missing = |what| ReportError::Estimate { finding: f.finding.key.clone(), what };
    let (error, error_in_group) = match f.direction.ok_or_else(|| missing("direction"))? {
        Direction::Miss => (private("PMISS"), private("PMISS-GRP")),
        Direction::FalseAlarm => (private("PFALSE"), private("PFALSE-GRP")),
    };
    let ranged = |concept, interval: Option<&Interval>, what| {
        let range = interval.and_then(|i| numbers::range(i, 0, 100)).ok_or_else(|| missing(what))?;
        Ok(with_range(concept, &range).with_all(context.audit.identification()))
    };
    let mut items = vec![
        ranged(error, f.expected_error.as_ref(), "expected error")?,
        ranged(private("PSPREAD"), f.spread.as_ref(), "spread")?,
    ];
    let disclosed = f.disclosed.as_ref().filter(|_| context.options.disclosure == Disclosure::Probabilities);
    let Some(Disclosed { groups, excess, .. }) = disclosed else { return Ok(items) };
    let sum: f64 = groups.iter().map(|g| g.posterior).sum();
    if !groups.is_empty() && ((sum - 1.0).abs() > 0.004 || groups.iter().any(|g| !(0.0..=1.0).contains(&g.posterior))) {
        return Err(missing("group probabilities that sum to 1"));
    }
    let of_group = |item: Item, g: &GroupEstimate| {
        item.with(Item::code(Relation::HasConceptMod, codes::RACIAL_GROUP, g.group.code.clone()))
    };
    for g in groups {
        if let Some(interval) = &g.error {
            items.push(of_group(ranged(error_in_group, Some(interval), "error of a group")?, g));
        }
        let posterior = Item::percent(Relation::Contains, private("PRACE"), numbers::percent(g.posterior));
        items.push(of_group(posterior.with_all(context.audit.identification()), g));
    }
    if let Some(excess) = excess {
        let range = numbers::range(excess, -100, 100).ok_or_else(|| missing("excess within -1 and 1"))?;
        items.push(with_range(private("EXCESS"), &range).with_all(context.audit.identification()));
    }
    Ok(items)
}

fn evidence_of<'a>(context: &'a Context, f: &FindingAssessment) -> Option<&'a FindingEvidence> {
    let (model, finding) = (f.clinical.key(), &f.finding.key);
    context.options.evidence.iter().find(|e| e.model == model && e.finding == *finding)
}

/// What the lines come to, and their limits, among the audit model's parameters: the private table has no concept for the
/// first, and the template states ranges in percent, which these are not.
fn told(evidence: &FindingEvidence) -> Vec<Item> {
    let limits = evidence.lines.iter().filter_map(|(kind, value)| {
        Some(format!("{} 95 % from {:.3} to {:.3}", kind.code()?, value.lower, value.upper))
    });
    let come_to = format!("reliance={} patients={}", evidence.reliance.as_str(), evidence.patients);
    let texts = std::iter::once(come_to).chain(limits);
    texts.map(|text| Item::text(Relation::HasConceptMod, codes::ALGORITHM_PARAMETERS, plain(&text, 64))).collect()
}

/// Lines of evidence on the model at this site. They are of no patient, so that they stand beside an indeterminate flag
/// too, and tell a withheld destination nothing of a group.
fn lines(context: &Context, f: &FindingAssessment) -> Result<Vec<Item>, ReportError> {
    let evidence = evidence_of(context, f).map_or(&[][..], |e| &e.lines);
    let mut items = Vec::new();
    for (kind, interval) in evidence {
        let Some(code) = kind.code() else { continue };
        let within = *kind != LineKind::GradientAlignment || (-1.0..=1.0).contains(&interval.estimate);
        let missing = || ReportError::Estimate { finding: f.finding.key.clone(), what: "line of evidence" };
        let range = numbers::plain_range(interval).filter(|_| within).ok_or_else(missing)?;
        let item = Item::number(Relation::Contains, private(code), &range.estimate);
        items.push(item.with_all(context.audit.identification()));
    }
    Ok(items)
}

/// A measurement with its uncertainty (TID 310). A range of more than 100 % says nothing and is left out.
fn with_range(concept: Concept, range: &Range) -> Item {
    let item = Item::percent(Relation::Contains, concept, &range.estimate);
    let too_wide = |text: &str| text.parse::<f64>().is_ok_and(|v| v > 100.0);
    if too_wide(&range.plus) || too_wide(&range.minus) {
        return item;
    }
    item.with(Item::percent(Relation::HasProperties, codes::RANGE_PLUS, &range.plus))
        .with(Item::percent(Relation::HasProperties, codes::RANGE_MINUS, &range.minus))
        .with(Item::percent(Relation::HasProperties, private("CILEVEL"), CONFIDENCE_LEVEL))
}

/// The images that the finding's model scored, where the caller knows them.
fn measurement_sources(context: &Context, f: &FindingAssessment) -> Vec<Item> {
    let Some(scored) = context.options.sources.get(&f.clinical.key()).filter(|s| s.len() <= SOURCES_MAX) else {
        return Vec::new();
    };
    let images = context.images.iter().filter(|i| scored.contains(&i.sop_instance));
    images.map(|i| Item::image(Some(codes::MEASUREMENT_SOURCE), &i.sop_class, &i.sop_instance)).collect()
}

fn qualitative_evaluations(context: &Context) -> Result<Item, ReportError> {
    let level = context.assessment.max_level().ok_or(ReportError::NoFindings)?;
    let disclosure = match context.options.disclosure {
        Disclosure::Withheld => private("DISCL-NO"),
        Disclosure::Probabilities => private("DISCL-YES"),
    };
    Ok(Item::container(Relation::Contains, codes::QUALITATIVE)
        .with_all(context.audit.in_full(true))
        .with(Item::code(Relation::Contains, private("RDER-MAX"), private(level.code().0)))
        .with(Item::code(Relation::Contains, private("DISCLOSURE"), disclosure))
        .with(Item::text(Relation::Contains, codes::COMMENT, limitations(context))))
}

fn limitations(context: &Context) -> String {
    let a = context.assessment;
    let phantoms_only = a.audit.phantoms_only || a.findings.iter().any(|f| f.clinical.phantoms_only);
    format!("{}{LIMITATIONS}", if phantoms_only { PHANTOMS_ONLY } else { "" })
}

/// The same for every report on this finding of this model in this study.
fn tracking_uid(context: &Context, f: &FindingAssessment) -> Uid {
    let name = [context.source.study.as_str(), &f.finding.key, &f.clinical.key()].join("\0");
    Uid::from_uuid(Uuid::new_v5(&TRACKING_NAMESPACE, name.as_bytes()))
}
