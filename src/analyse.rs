//! One study, from files to reports, without any policy of where they come from or go to.
//!
//! The node and the offline commands share this room, so that both give the same answer. It holds what a study
//! needs: the decode workers, the models on their device, the profile (`profiles`). Left out: storing, sending, and the
//! question whether a study is complete. `explain` makes maps, `evidence` asks models of changed images, `labelled` puts
//! stored scores together for a fit, `scorers` is what scores images, `scored` what that is for a study, `product` what others say of
//! them, `study` what holds of a study as a whole.

mod evidence;
mod explain;
mod facts;
mod gradients;
mod labelled;
mod product;
mod profiles;
mod race_prior;
mod reports;
mod scored;
mod scorers;
mod study;

pub use evidence::read_evidence;
pub use explain::Explained;
pub use facts::complete_facts;
pub use gradients::{GradientOptions, LabelledImage, Pair};
pub use labelled::{group_names, labelled};
pub use profiles::{
    candidate_path, previous_path, read_profile, read_trusted, read_whole, replace_profile, signature_path, write_whole,
};
pub use race_prior::{RacePrior, STUDIES_MIN};
pub use scored::posterior;
pub use scorers::Scorers;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use anyhow::Context;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::assemble::ResultWait;
use crate::assess::{self, AssessInput, Profile, RiskSettings};
use crate::config::Config;
use crate::domain::{
    AeTitle, Assessment, ClinicalResult, Contract, Digest, Disclosure, Evidence, FindingAssessment, ImageScore,
    IndReason, InstanceHeader, ModelIdentity, Precision, Purpose, ReadyStudy, Refusal, RefusalCode, Report,
    ScoredInstance, StudyFacts, StudyScore, Timestamp, Uid,
};
use crate::infer::{self, Company, ModelState, Package};
use crate::pixels::{self, Frames, Workers};
use crate::report::{self, Completion, Observer, Predecessor, Related, ReportOptions, SrClass};

use scored::{Scored, scored};
use scorers::{Asked, Verdict, verdict, waits};
use study::{
    admits, asked, frames_seen, in_slice_order, is_loss, is_missing, is_purpose, kept, lacks_a_score,
    nothing_to_analyse, patient_mismatch, race_of, scores_images, whole,
};

/// What reading, decoding and scoring one instance gave.
#[derive(Debug, Clone, Default)]
pub struct Read {
    /// Absent where not even the header could be read.
    pub header: Option<InstanceHeader>,
    pub pixel_digest: Option<Digest>,
    pub scores: Vec<ImageScore>,
    /// Set where no model scored the instance, with the reason.
    pub refusal: Option<Refusal>,
    /// A model server cannot be asked now, or a device has no memory left: the object is to be read again after so long.
    /// Says nothing of the object.
    pub later: Option<Duration>,
    /// What a clinical product says in this object, with the refusal `clinical-result`.
    pub results: Vec<ClinicalResult>,
    /// Keys of the packages of products that may see this image, and whose result comes elsewhere.
    pub awaited: Vec<String>,
    /// A model failed at the image, which another attempt may change. What else is here holds if it does not.
    pub failed: Option<Refusal>,
}

/// How an object is read.
#[derive(Debug, Clone, Default)]
pub struct ReadOptions<'a> {
    /// The clinical packages that are asked; empty: all.
    pub clinical: &'a [String],
    /// The AE title that sent the object; a file that a person names has none.
    pub sender: Option<&'a AeTitle>,
    /// How long the object has waited for model servers: after as long as a card allows it goes on without that one.
    pub waited: Duration,
    /// What the node died of while it read this object shares no batch.
    pub company: Company,
    /// What [`Analyser::headers`] found before.
    pub header: Option<InstanceHeader>,
}

/// What a complete study comes to.
#[derive(Debug, Clone)]
pub enum Conclusion {
    Assessed {
        assessment: Box<Assessment>,
        /// Aggregated scores, the race model's first where there is one.
        scores: Vec<StudyScore>,
        /// The images that each clinical model's result is about, by [`ModelIdentity::key`].
        sources: BTreeMap<String, Vec<Uid>>,
        /// The instances that at least one model scored.
        analysed: Vec<Uid>,
        /// False where an image in scope could not be read, or a clinical result is missing.
        complete: bool,
        /// The clinical results that are missing, for people.
        missing: Vec<String>,
        /// For an audit.
        facts: Box<StudyFacts>,
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
    /// The maps that belong to the report, of [`Analyser::map_objects`] for the same disclosure.
    pub maps: Vec<Related>,
    pub now: Timestamp,
}

/// Why a report is partial where the study is not to blame.
pub const NOT_ALL_AUDITED: &str = "Not every image of the study could be audited";

/// Everything that is loaded once and serves every study.
pub struct Analyser {
    workers: Workers,
    readers: Arc<Semaphore>,
    readers_max: usize,
    scorers: Scorers,
    packages: Vec<Package>,
    audit: ModelIdentity,
    /// Replaced by a reload.
    profile: RwLock<Option<Arc<Profile>>>,
    race_prior: Option<RacePrior>,
    /// Lines that reports tell.
    evidence: Option<Evidence>,
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
        let mut packages = infer::load_all(&models.dir, &names)?;
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
        let profile = profiles::configured(&config.risk)?;
        let race_prior = models.race_prior.as_deref().map(|path| RacePrior::of(path, &packages)).transpose()?;
        let evidence = config.risk.evidence.file.as_deref().map(read_evidence).transpose()?;
        let scorers = Scorers::start(&packages, models)?;
        // Scores that were computed in another precision are others, for a profile too.
        for package in &mut packages {
            let precision = scorers.precision(package).filter(|p| *p != Precision::Fp32);
            if let Some(precision) = precision {
                package.scoring = Digest::of(format!("{} {}", package.scoring, precision.as_str()).as_bytes());
            }
        }
        let profile = profile.map(|profile| Arc::new(profile.for_cards(&cards(&packages))));
        let readers_max = config.pixels.workers + 1;
        Ok(Self {
            readers: Arc::new(Semaphore::new(readers_max)),
            readers_max,
            workers: Workers::start(&config.pixels, executable),
            scorers,
            packages,
            audit,
            profile: RwLock::new(profile),
            race_prior,
            evidence,
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

    /// What the package's model computes in; `None` where it is not run here.
    pub fn precision(&self, package: &Package) -> Option<Precision> {
        self.scorers.precision(package)
    }

    /// Whether scores under this key are race posteriors, which have their own retention.
    pub fn is_race(&self, model_key: &str) -> bool {
        self.packages.iter().any(|p| p.purpose == Purpose::Race && p.identity.key() == model_key)
    }

    /// Names of the devices that the models run on, e.g. `cpu`, `cuda:0,cuda:1`.
    pub fn device(&self) -> &str {
        self.scorers.device()
    }

    /// Resolves when no image can be scored any more, which is a fault of the node.
    pub async fn ended(&self) {
        self.scorers.ended().await;
    }

    /// How the models of this process do.
    pub fn states(&self) -> Vec<ModelState> {
        self.scorers.states()
    }

    /// False while a device has no memory for one image.
    pub fn is_sound(&self) -> bool {
        self.scorers.is_sound()
    }

    /// Permits to read, as many as there are decode workers and one more.
    pub fn readers(&self) -> &Arc<Semaphore> {
        &self.readers
    }

    /// Objects that may be under way at once: those that are read, and those that wait for their scores, so that models
    /// get full batches.
    pub fn objects_max(&self) -> usize {
        self.readers_max + self.scorers.images_max()
    }

    /// What files say of themselves, without their pixels, or why not; of as many of the first as there is time for.
    pub async fn headers(&self, files: Vec<PathBuf>) -> Vec<Result<InstanceHeader, Refusal>> {
        self.workers.read_headers(files).await
    }

    /// Reads, decodes and scores one file. Whatever is wrong with it becomes a refusal. The `reader`, one of
    /// [`Analyser::readers`], is given back as soon as the models have all of the image.
    ///
    /// # Errors
    /// Only faults of the node itself (the engine is gone), after which the instance should be tried again.
    pub async fn read(
        &self,
        file: &Path,
        mut options: ReadOptions<'_>,
        reader: OwnedSemaphorePermit,
    ) -> anyhow::Result<Read> {
        let header = match options.header.take() {
            Some(header) => header,
            None => match self.workers.read_header(file).await {
                Ok(header) => header,
                Err(refusal) => return Ok(Read { refusal: Some(refusal), ..Read::default() }),
            },
        };
        let mut read = Read { header: Some(header.clone()), ..Read::default() };
        if product::is_report(&header) {
            return self.read_report(file, header, options).await;
        }
        let admitted = match self.admitted(&header, options.clinical) {
            Ok(admitted) => admitted,
            Err(refusal) => {
                read.refusal = Some(refusal);
                return Ok(read);
            }
        };
        let (products, admitted): (Vec<&Package>, _) = admitted.into_iter().partition(|p| !scores_images(p));
        read.awaited = products.iter().map(|p| p.key()).collect();
        read.later =
            admitted.iter().filter_map(|p| self.scorers.down_for(p).filter(|_| waits(p, options.waited))).max();
        if read.later.is_some() {
            return Ok(read);
        }
        let mut contracts: Vec<Contract> = Vec::new();
        for package in &admitted {
            if !contracts.contains(&package.contract) {
                contracts.push(package.contract.clone());
            }
        }
        let coming = self.scorers.announce();
        let mut asked: Vec<Asked> = admitted.iter().map(|_| Asked::default()).collect();
        let parts = self.workers.parts(file, &contracts, Frames::default());
        let handed = self.scorers.hand_over(parts, &contracts, &admitted, options.company, &mut asked).await;
        // The models have all of it: the next object may be read meanwhile.
        drop((coming, reader));
        let mut ended = None;
        let frames = match handed {
            Ok(Ok(frames)) => frames,
            Ok(Err(refusal)) => {
                read.refusal = Some(refusal);
                return Ok(read);
            }
            Err(error) => {
                ended = Some(error);
                Vec::new()
            }
        };
        for (package, asked) in admitted.iter().zip(&mut asked) {
            ended = ended.or(asked.settle(package).await.err());
        }
        if let Some(ended) = ended {
            // What a model said of the image before its device was lost is the image's.
            read.refusal = Some(asked.iter().find_map(Asked::failure).ok_or(ended)?);
            return Ok(read);
        }
        let mut outputs: Vec<_> = asked.into_iter().map(|asked| asked.outputs).collect();
        let Verdict { later, failed } = verdict(&admitted, &mut outputs, options.waited);
        (read.later, read.failed) = (later, failed);
        if read.later.is_some() {
            return Ok(read);
        }
        match kept(&admitted, outputs, &header.sop_instance, !products.is_empty()) {
            Ok(scores) => {
                read.pixel_digest = Some(pixels::pixel_digest(&frames));
                read.scores = scores;
            }
            Err(refusal) => read.refusal = Some(refusal),
        }
        Ok(read)
    }

    /// Reads a report of a clinical product by the cards of those whose it may be.
    async fn read_report(&self, file: &Path, header: InstanceHeader, options: ReadOptions<'_>) -> anyhow::Result<Read> {
        let asked = asked(&self.packages, options.clinical);
        let products: Vec<_> = asked.into_iter().filter_map(|p| Some((p, product::report_rules(p)?))).collect();
        let mut read = Read { header: Some(header.clone()), ..Read::default() };
        if products.is_empty() {
            read.refusal = Some(Refusal::new(RefusalCode::NotAnImage, "a structured report holds no image"));
            return Ok(read);
        }
        let rules: Vec<_> = products.iter().map(|(_, (rules, _))| (*rules).clone()).collect();
        match self.workers.read_results(file, &rules).await {
            Ok(documents) => {
                let (results, refusal) = product::results_of(&products, documents, &header, options.sender);
                (read.results, read.refusal) = (results, Some(refusal));
            }
            Err(refusal) => read.refusal = Some(product::unread(refusal)),
        }
        Ok(read)
    }

    /// How long the results of these `clinical` packages (empty: all) are waited for, where a product gives them.
    pub fn result_waits(&self, clinical: &[String]) -> Vec<ResultWait> {
        asked(&self.packages, clinical).into_iter().filter_map(product::wait).collect()
    }

    /// Keys of the products' packages whose results of this study are missing, in whole or of some image; `study` needs
    /// no scores.
    pub fn results_lacking(&self, study: &ReadyStudy) -> Vec<String> {
        let products: Vec<&Package> = self.packages.iter().filter(|p| product::wait(p).is_some()).collect();
        let results = study::results(&products, study, &[]);
        results.iter().filter(|r| is_missing(r)).map(|r| r.model.key()).collect()
    }

    /// The packages in whose scope the instance is, or why there is none.
    fn admitted(&self, header: &InstanceHeader, clinical: &[String]) -> Result<Vec<&Package>, Refusal> {
        if report::is_own(header) {
            return Err(Refusal::new(RefusalCode::OwnReport, "a report of sidelight is kept and never processed"));
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
        let scores = whole(scores, &packages, study);
        let race = race_of(self.packages.iter().find(|p| p.purpose == Purpose::Race), study, &scores)
            .and_then(|score| if unknown.contains(&score.model.key()) { Err(IndReason::Ood) } else { Ok(score) });
        let clinical: Vec<StudyScore> =
            scores.iter().filter(|s| is_purpose(s, Purpose::Clinical, &self.packages)).cloned().collect();
        let results = study::results(&packages, study, &scores);
        if clinical.is_empty() && results.is_empty() {
            return Conclusion::Refused(nothing_to_analyse(study));
        }
        let prior = self.race_prior.as_ref().and_then(RacePrior::digest);
        let input = AssessInput {
            audit: &self.audit,
            race,
            clinical: &clinical,
            results: &results,
            upstream: &[],
            unknown: &unknown,
            prior,
        };
        let profile = self.profile();
        let assessment = match assess::assess(&input, profile.as_deref(), &self.risk, now) {
            Ok(assessment) => assessment,
            Err(error) => return Conclusion::Refused(Refusal::new(RefusalCode::ModelFailed, error.to_string())),
        };
        let mut sources: BTreeMap<String, Vec<Uid>> =
            scores.iter().map(|s| (s.model.key(), s.images.clone())).collect();
        sources.extend(results.iter().map(|r| (r.model.key(), r.images.clone())));
        let analysed: BTreeSet<Uid> = sources.values().flatten().cloned().collect();
        let lost = |i: &ScoredInstance| i.refusal.as_ref().is_some_and(is_loss);
        // Scored before the models were changed: those numbers are not comparable, `studies requeue` makes new ones.
        let outdated = |i: &ScoredInstance| !i.scores.is_empty() && !analysed.contains(&i.header.sop_instance);
        let lacking = |i: &ScoredInstance| lacks_a_score(&packages, i);
        let missing: Vec<String> =
            results.iter().filter(|r| is_missing(r)).map(|r| format!("result of {}", r.model.name)).collect();
        let complete = missing.is_empty() && !study.instances.iter().any(|i| lost(i) || outdated(i) || lacking(i));
        let race =
            self.packages.iter().filter(|p| p.purpose == Purpose::Race && !packages.iter().any(|q| q.key() == p.key()));
        let all: Vec<&Package> = race.chain(packages.iter().copied()).collect();
        Conclusion::Assessed {
            assessment: Box::new(assessment),
            facts: Box::new(facts::of_scores(&all, study, &scores, &unknown)),
            scores,
            sources,
            analysed: analysed.into_iter().collect(),
            complete,
            missing,
        }
    }

    /// The assessment as a destination with this disclosure may see it ([`assess::released`]).
    pub fn released(&self, assessment: &Assessment, disclosure: Disclosure) -> Assessment {
        let delta = self.risk.delta;
        let release = |finding: &FindingAssessment| assess::released(finding, disclosure, delta);
        Assessment { findings: assessment.findings.iter().map(release).collect(), ..assessment.clone() }
    }
}

/// A random UID under 2.25 (PS3.5 B.2).
pub fn fresh_uid() -> Uid {
    Uid::from_uuid(uuid::Uuid::new_v4())
}

/// By key, what in the packages' cards changes scores ([`Profile::for_cards`]).
pub fn cards(packages: &[Package]) -> BTreeMap<String, Digest> {
    packages.iter().map(|p| (p.key(), p.scoring.clone())).collect()
}

#[cfg(test)]
mod tests;
