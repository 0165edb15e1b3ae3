//! One study, from files to reports, without any policy of where they come from or go to.
//!
//! The node and the offline commands share this room, so that both give the same answer. It holds what a study
//! needs: the decode workers, the models on their device, the profile. Left out: storing, sending, and the
//! question whether a study is complete.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::assess::{self, AssessInput, Profile, RiskSettings};
use crate::config::Config;
use crate::domain::{
    Assessment, Contract, Digest, Disclosure, FindingAssessment, ImageScore, IndReason, InstanceHeader, ModelIdentity,
    ModelInput, Purpose, ReadyStudy, Refusal, RefusalCode, Report, ScoredInstance, StudyScore, Timestamp, Uid,
};
use crate::infer::{self, Engine, EngineOptions, InferError, Package};
use crate::pixels::{self, Frames, Workers};
use crate::report::{self, Completion, Observer, Predecessor, ReportOptions, SrClass};

mod race_prior;
mod scored;

pub use race_prior::{RacePrior, STUDIES_MIN};
pub use scored::posterior;
use scored::{Scored, scored};

/// What reading, decoding and scoring one instance gave.
#[derive(Debug, Clone, Default)]
pub struct Read {
    /// Absent where not even the header could be read.
    pub header: Option<InstanceHeader>,
    pub pixel_digest: Option<Digest>,
    pub scores: Vec<ImageScore>,
    /// Set where no model scored the instance, with the reason.
    pub refusal: Option<Refusal>,
}

/// What a complete study comes to.
#[derive(Debug, Clone)]
pub enum Conclusion {
    Assessed {
        assessment: Box<Assessment>,
        /// Aggregated scores, the race model's first where there is one.
        scores: Vec<StudyScore>,
        /// The instances that at least one model scored.
        analysed: Vec<Uid>,
        /// False where an image in scope could not be read.
        complete: bool,
    },
    Refused(Refusal),
}

/// What a report needs to know besides the study.
#[derive(Debug, Clone)]
pub struct ReportContext {
    pub disclosure: Disclosure,
    /// The variants of the report that this one replaces: each names the one of its own SOP class.
    pub predecessors: Vec<Predecessor>,
    /// Why the report is not complete, in at most 64 characters: the study was closed before it had fallen quiet, lacks
    /// something, or is partly unreadable.
    pub partial: Option<String>,
    pub now: Timestamp,
}

/// Why a report is partial where the study is not to blame.
pub const NOT_ALL_AUDITED: &str = "Not every image of the study could be audited";

/// Everything that is loaded once and serves every study.
pub struct Analyser {
    workers: Workers,
    engine: Engine,
    packages: Vec<Package>,
    audit: ModelIdentity,
    profile: Option<Profile>,
    race_prior: Option<RacePrior>,
    risk: RiskSettings,
    observer: Observer,
}

impl Analyser {
    /// Loads models and profile, warms the device up and starts the decode workers.
    ///
    /// `executable` is this program, started again for each worker; `device_uid` identifies the installation in
    /// reports.
    pub fn start(config: &Config, executable: PathBuf, device_uid: Uid) -> anyhow::Result<Self> {
        let models = &config.models;
        anyhow::ensure!(
            !models.clinical.is_empty(),
            "models.clinical names no model: name the deployed model's package, there is nothing to audit without one"
        );
        let race = models.race.iter().filter(|_| config.risk.per_study_inference);
        let names: Vec<String> = race.chain(&models.clinical).cloned().collect();
        let packages = infer::load_all(&models.dir, &names)?;
        for (name, package) in names.iter().zip(&packages) {
            let expected = if models.clinical.contains(name) { Purpose::Clinical } else { Purpose::Race };
            anyhow::ensure!(
                package.purpose == expected,
                "model {name} has the purpose {:?}, the configuration uses it as {expected:?}",
                package.purpose
            );
        }
        let audit = packages
            .iter()
            .find(|p| p.purpose == Purpose::Race)
            .map_or_else(|| report::own_identity(&device_uid), |p| p.identity.clone());
        let profile = config.risk.profile.as_deref().map(read_profile).transpose()?;
        let race_prior = models.race_prior.as_deref().map(|path| RacePrior::of(path, &packages)).transpose()?;
        let engine = Engine::start(packages.clone(), EngineOptions::from(models))?;
        Ok(Self {
            workers: Workers::start(&config.pixels, executable),
            engine,
            packages,
            audit,
            profile,
            race_prior,
            risk: RiskSettings::from(&config.risk),
            observer: Observer {
                device_uid,
                name: config.node.name.clone(),
                serial_number: config.node.serial_number.clone(),
            },
        })
    }

    /// The model packages in use, the race model first where there is one.
    pub fn packages(&self) -> &[Package] {
        &self.packages
    }

    /// Whether scores under this key are race posteriors, which have their own retention.
    pub fn is_race(&self, model_key: &str) -> bool {
        self.packages.iter().any(|p| p.purpose == Purpose::Race && p.identity.key() == model_key)
    }

    /// Names of the devices that the models run on, e.g. `cpu`, `cuda:0,cuda:1`.
    pub fn device(&self) -> &str {
        self.engine.device()
    }

    /// Resolves when no image can be scored any more, which is a fault of the node.
    pub async fn ended(&self) {
        self.engine.ended().await;
    }

    /// Reads, decodes and scores one file. Whatever is wrong with it becomes a refusal. `clinical` names the clinical
    /// packages that are asked; empty: all.
    ///
    /// # Errors
    /// Only faults of the node itself (the engine is gone), after which the instance should be tried again.
    pub async fn read(&self, file: &Path, clinical: &[String]) -> anyhow::Result<Read> {
        let header = match self.workers.read_header(file).await {
            Ok(header) => header,
            Err(refusal) => return Ok(Read { refusal: Some(refusal), ..Read::default() }),
        };
        let mut read = Read { header: Some(header.clone()), ..Read::default() };
        let admitted = match self.admitted(&header, clinical) {
            Ok(admitted) => admitted,
            Err(refusal) => {
                read.refusal = Some(refusal);
                return Ok(read);
            }
        };
        let mut contracts: Vec<Contract> = Vec::new();
        for package in &admitted {
            if !contracts.contains(&package.contract) {
                contracts.push(package.contract.clone());
            }
        }
        let mut outputs: Vec<Result<Vec<Vec<f64>>, Refusal>> = vec![Ok(Vec::new()); admitted.len()];
        let mut frames = Vec::new();
        let mut parts = self.workers.parts(file, &contracts, Frames::default());
        while let Some(part) = parts.next().await {
            let part = match part {
                Ok(part) => part,
                Err(refusal) => {
                    read.refusal = Some(refusal);
                    return Ok(read);
                }
            };
            for (package, outputs) in admitted.iter().zip(&mut outputs) {
                let place = contracts.iter().position(|c| *c == package.contract);
                let inputs = place.and_then(|place| part.inputs.get(place).cloned()).unwrap_or_else(|| Ok(Vec::new()));
                self.score(package, inputs, outputs).await?;
            }
            frames.extend(part.frames);
            if outputs.iter().all(Result::is_err) {
                break;
            }
        }
        match kept(&admitted, outputs, &header.sop_instance) {
            Ok(scores) => {
                read.pixel_digest = Some(pixels::pixel_digest(&frames));
                read.scores = scores;
            }
            Err(refusal) => read.refusal = Some(refusal),
        }
        Ok(read)
    }

    /// Adds the model's outputs for these inputs, one by one; or the first reason why it has none for the image.
    async fn score(
        &self,
        package: &Package,
        inputs: Result<Vec<ModelInput>, Refusal>,
        outputs: &mut Result<Vec<Vec<f64>>, Refusal>,
    ) -> anyhow::Result<()> {
        let Ok(scored) = outputs else { return Ok(()) };
        let inputs = match inputs {
            Ok(inputs) => inputs,
            Err(refusal) => {
                *outputs = Err(refusal);
                return Ok(());
            }
        };
        for input in inputs {
            match self.engine.score(&package.identity.key(), input).await {
                Ok(values) => scored.push(values),
                Err(InferError::Stopped) => return Err(InferError::Stopped.into()),
                Err(error) => {
                    let failure = format!("{}: {error}", package.identity.name);
                    *outputs = Err(Refusal::new(RefusalCode::ModelFailed, failure));
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The packages in whose scope the instance is, or why there is none.
    fn admitted(&self, header: &InstanceHeader, clinical: &[String]) -> Result<Vec<&Package>, Refusal> {
        if report::is_own(header) {
            return Err(Refusal::new(RefusalCode::OwnReport, "a report of sidelight is kept and never processed"));
        }
        if header.modality == "SR" {
            return Err(Refusal::new(RefusalCode::NotAnImage, "a structured report holds no image"));
        }
        if let Some(refusal) = header.not_an_image() {
            return Err(refusal);
        }
        let mut admitted = Vec::new();
        let mut reasons = BTreeSet::new();
        for package in asked(&self.packages, clinical) {
            match admits(package, header) {
                Ok(()) => admitted.push(package),
                Err(refusal) => {
                    reasons.insert(format!("{}: {}", package.identity.name, refusal.detail));
                }
            }
        }
        // The race model alone has nothing to audit.
        if !admitted.iter().any(|p| p.purpose == Purpose::Clinical) {
            let detail = reasons.into_iter().collect::<Vec<_>>().join("; ");
            return Err(Refusal::new(RefusalCode::OutOfScope, detail));
        }
        Ok(admitted)
    }

    /// Aggregates the scores of a complete study by the race model and the `clinical` packages (empty: all), and
    /// assesses them.
    pub fn conclude(&self, study: &ReadyStudy, clinical: &[String], now: Timestamp) -> Conclusion {
        if let Some(refusal) = patient_mismatch(study) {
            return Conclusion::Refused(refusal);
        }
        let packages = asked(&self.packages, clinical);
        let Scored { scores, unknown } = scored(&packages, study, self.race_prior.as_ref());
        let race = race_of(self.packages.iter().find(|p| p.purpose == Purpose::Race), study, &scores)
            .and_then(|score| if unknown.contains(&score.model.key()) { Err(IndReason::Ood) } else { Ok(score) });
        let clinical: Vec<StudyScore> =
            scores.iter().filter(|s| is_purpose(s, Purpose::Clinical, &self.packages)).cloned().collect();
        if clinical.is_empty() {
            return Conclusion::Refused(nothing_to_analyse(study));
        }
        let prior = self.race_prior.as_ref().and_then(RacePrior::digest);
        let input =
            AssessInput { audit: &self.audit, race, clinical: &clinical, upstream: &[], unknown: &unknown, prior };
        let assessment = match assess::assess(&input, self.profile.as_ref(), &self.risk, now) {
            Ok(assessment) => assessment,
            Err(error) => return Conclusion::Refused(Refusal::new(RefusalCode::ModelFailed, error.to_string())),
        };
        let analysed: BTreeSet<Uid> = scores.iter().flat_map(|s| s.images.iter().cloned()).collect();
        let lost = |i: &ScoredInstance| i.refusal.as_ref().is_some_and(is_loss);
        // Scored before the models were changed: those numbers are not comparable, `studies requeue` makes new ones.
        let outdated = |i: &ScoredInstance| !i.scores.is_empty() && !analysed.contains(&i.header.sop_instance);
        let lacking = |i: &ScoredInstance| lacks_a_score(&packages, i);
        let complete = !study.instances.iter().any(|i| lost(i) || outdated(i) || lacking(i));
        Conclusion::Assessed {
            assessment: Box::new(assessment),
            scores,
            analysed: analysed.into_iter().collect(),
            complete,
        }
    }

    /// The assessment as a destination with this disclosure may see it ([`assess::released`]).
    pub fn released(&self, assessment: &Assessment, disclosure: Disclosure) -> Assessment {
        let delta = self.risk.delta;
        let release = |finding: &FindingAssessment| assess::released(finding, disclosure, delta);
        Assessment { findings: assessment.findings.iter().map(release).collect(), ..assessment.clone() }
    }

    /// The report in the three SOP classes that a destination may accept, the preferred first, each under its own
    /// fresh SOP Instance UID in one fresh series.
    pub fn reports(
        &self,
        assessment: &Assessment,
        scores: &[StudyScore],
        images: &[&InstanceHeader],
        context: &ReportContext,
    ) -> anyhow::Result<Vec<Report>> {
        let assessment = self.released(assessment, context.disclosure);
        let images = in_slice_order(images);
        let parameters: Vec<String> = frames_seen(&images).into_iter().collect();
        let series = fresh_uid();
        let completion = context.partial.clone().map_or(Completion::Complete, Completion::Partial);
        let variant = |class: &SrClass| {
            let predecessor = context.predecessors.iter().find(|p| p.sop_class.as_str() == class.uid());
            let options = ReportOptions {
                disclosure: context.disclosure,
                sop_class: *class,
                observer: self.observer.clone(),
                sop_instance: fresh_uid(),
                series: series.clone(),
                predecessor: predecessor.cloned(),
                completion: completion.clone(),
                sources: scores.iter().map(|s| (s.model.key(), s.images.clone())).collect(),
                parameters: parameters.clone(),
                now: context.now.with_timezone(&chrono::Local).fixed_offset(),
            };
            report::build(&assessment, &images, &options).context("the report could not be built")
        };
        SrClass::ALL.iter().map(variant).collect()
    }
}

/// A random UID under 2.25 (PS3.5 B.2).
pub fn fresh_uid() -> Uid {
    Uid::from_uuid(uuid::Uuid::new_v4())
}

/// Reads and checks a profile file.
pub fn read_profile(path: &Path) -> anyhow::Result<Profile> {
    let bytes = std::fs::read(path)
        .with_context(|| format!("profile {} cannot be read: fit one with `sidelight profile fit`", path.display()))?;
    Profile::parse(&bytes).with_context(|| format!("profile {} is not valid", path.display()))
}

/// The race model, and the clinical packages of these names; without names, all.
fn asked<'a>(packages: &'a [Package], clinical: &[String]) -> Vec<&'a Package> {
    let named = |p: &Package| clinical.is_empty() || clinical.contains(&p.identity.name);
    packages.iter().filter(|p| p.purpose == Purpose::Race || named(p)).collect()
}

fn is_purpose(score: &StudyScore, purpose: Purpose, packages: &[Package]) -> bool {
    packages.iter().any(|p| p.purpose == purpose && p.identity.key() == score.model.key())
}

/// The scores of an image by the packages that had something to say of it: means over its frames. An image counts whole
/// or not at all for a package. Without a clinical score it is refused, for the reason of the first clinical package.
fn kept(
    packages: &[&Package],
    outputs: Vec<Result<Vec<Vec<f64>>, Refusal>>,
    instance: &Uid,
) -> Result<Vec<ImageScore>, Refusal> {
    let (mut scores, mut clinical, mut first_refusal) = (Vec::new(), false, None);
    for (package, outputs) in packages.iter().zip(outputs) {
        let is_clinical = package.purpose == Purpose::Clinical;
        match outputs.map(|outputs| mean_of_frames(&outputs)) {
            Ok(None) => {}
            Ok(Some(outputs)) => {
                clinical |= is_clinical;
                let (model, contract) = (package.identity.key(), package.contract.digest());
                scores.push(ImageScore { instance: instance.clone(), model, contract, outputs });
            }
            Err(refusal) => {
                tracing::warn!(model = package.identity.name, %refusal, "a model has no score of an image");
                if is_clinical {
                    first_refusal.get_or_insert(refusal);
                }
            }
        }
    }
    match first_refusal {
        Some(refusal) if !clinical => Err(refusal),
        _ => Ok(scores),
    }
}

/// Whether a clinical package that may see the instance has no score of it, though others have: it failed on the image,
/// or was put in its place since then (`studies requeue` makes new scores).
fn lacks_a_score(packages: &[&Package], instance: &ScoredInstance) -> bool {
    let clinical = packages.iter().filter(|p| p.purpose == Purpose::Clinical);
    let mut expected = clinical.filter(|p| admits(p, &instance.header).is_ok());
    let has = |p: &Package| instance.scores.iter().any(|s| s.model == p.identity.key());
    !instance.scores.is_empty() && expected.any(|p| !has(p))
}

/// Whether the model may see the instance, and its contract can be fulfilled as far as the header tells.
fn admits(package: &Package, header: &InstanceHeader) -> Result<(), Refusal> {
    package.scope.admits(header).and_then(|()| package.contract.admits(header))
}

/// The study's race posterior, or why there is none. It must come from every image that both models may see: one of
/// other images than the clinical score would not be the posterior that the profile was fitted with.
fn race_of<'a>(
    package: Option<&Package>,
    study: &ReadyStudy,
    scores: &'a [StudyScore],
) -> Result<&'a StudyScore, IndReason> {
    let package = package.ok_or(IndReason::Off)?;
    let mut shared = study
        .instances
        .iter()
        .filter(|i| !i.scores.is_empty() && admits(package, &i.header).is_ok())
        .map(|i| &i.header.sop_instance)
        .peekable();
    if shared.peek().is_none() {
        return Err(IndReason::Scope);
    }
    let score = scores.iter().find(|s| s.model.key() == package.identity.key()).ok_or(IndReason::Failed)?;
    if shared.all(|image| score.images.contains(image)) { Ok(score) } else { Err(IndReason::Failed) }
}

/// The images of a volume from one end to the other, whatever order they came in; other images as they are.
fn in_slice_order<'a>(images: &[&'a InstanceHeader]) -> Vec<&'a InstanceHeader> {
    match pixels::slice_order(images) {
        Ok(order) => order.into_iter().map(|index| images[index]).collect(),
        Err(_) => images.to_vec(),
    }
}

/// How many frames the models saw of the image that they saw least of, if they did not see all of every image.
fn frames_seen(images: &[&InstanceHeader]) -> Option<String> {
    let of_image = |image: &&InstanceHeader| (Frames::default().of(image.frames).len() as u32, image.frames);
    let cut = images.iter().map(of_image).filter(|(seen, frames)| seen < frames);
    cut.max_by_key(|(_, frames)| *frames).map(|(seen, frames)| format!("frames={seen}/{frames}"))
}

/// Mean over the frames of one image; `None` without frames.
fn mean_of_frames(outputs: &[Vec<f64>]) -> Option<Vec<f64>> {
    let first = outputs.first()?;
    let n = outputs.len() as f64;
    Some((0..first.len()).map(|i| outputs.iter().map(|o| o[i]).sum::<f64>() / n).collect())
}

/// Whether a refusal means that something the models should have seen was lost.
fn is_loss(refusal: &Refusal) -> bool {
    !matches!(
        refusal.code,
        RefusalCode::OutOfScope | RefusalCode::OwnReport | RefusalCode::NotAnImage | RefusalCode::NoPixels
    )
}

/// Instances of one study must agree on the patient: Patient ID (0010,0020) and its issuer (0010,0021).
fn patient_mismatch(study: &ReadyStudy) -> Option<Refusal> {
    let identity = |tag: u32, header: &InstanceHeader| match header.copied.get(&tag).map(|a| &a.value) {
        Some(crate::domain::AttributeValue::Bytes(bytes)) => {
            String::from_utf8_lossy(bytes).trim_matches([' ', '\0']).to_owned()
        }
        _ => String::new(),
    };
    for (tag, name) in [(0x0010_0020, "Patient ID (0010,0020)"), (0x0010_0021, "Issuer of Patient ID (0010,0021)")] {
        let values: BTreeSet<String> =
            study.instances.iter().filter(|i| !i.scores.is_empty()).map(|i| identity(tag, &i.header)).collect();
        if values.len() > 1 {
            return Some(Refusal::new(
                RefusalCode::PatientMismatch,
                format!(
                    "{} different values of {name} in one study: correct it on the PACS and send again",
                    values.len()
                ),
            ));
        }
    }
    None
}

/// Why no instance was analysed: each reason with its count.
fn nothing_to_analyse(study: &ReadyStudy) -> Refusal {
    let mut reasons: BTreeMap<(RefusalCode, &str), usize> = BTreeMap::new();
    for refusal in study.instances.iter().filter_map(|i| i.refusal.as_ref()) {
        *reasons.entry((refusal.code, refusal.detail.as_str())).or_default() += 1;
    }
    if let (1, Some(((code, detail), _))) = (reasons.len(), reasons.first_key_value()) {
        return Refusal::new(*code, *detail);
    }
    let detail = reasons
        .iter()
        .take(4)
        .map(|((code, detail), n)| format!("{n} × {code}: {detail}"))
        .collect::<Vec<_>>()
        .join("; ");
    let detail = if detail.is_empty() {
        "no image has a score by the models in use: `sidelight studies requeue` analyses the study again".to_owned()
    } else {
        detail
    };
    Refusal::new(RefusalCode::NothingToAnalyse, detail)
}

#[cfg(test)]
mod tests;
