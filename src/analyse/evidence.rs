//! Answers to changed images: a battery of changes of one image of a study, scored by the race model and the clinical ones.
//!
//! Each model sees the image as its own contract makes it, changed in the same way. All changes wait together on the road
//! of what explains scores: they share batches, and whoever waits for a score goes before them. A model is asked once for
//! each change and once for the image itself, 32 times at most. The image is decoded once for all of them.
//! Neighbours: `scorers` scores, `perturb` changes. Left out: which studies (`serve`), and what the answers come to
//! (`assess`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::scorers::Scorers;
use super::{Analyser, study};
use crate::assess::finding_evidence;
use crate::domain::{
    Answers, Assessment, Change, Digest, Evidence, EvidenceLine, FindingEvidence, InstanceHeader, Interval, LineKind,
    ModelInput, Purpose, ReadyStudy, Responses, Uid,
};
use crate::infer::{InferError, Package};
use crate::perturb::{Battery, Lab, Plane, Quality};
use crate::pixels::Frames;
use crate::remote::RemoteError;

/// What a file of lines may hold.
const BYTES_MAX: u64 = 16 << 20;

impl Analyser {
    /// What the race model and each of the `clinical` packages (empty: all) that may see it say of one image of the study
    /// and of its changes, `perturbations` at most: of the images that the race model and one of them may see, that with
    /// the highest clinical score. None where there is no such image, or race is not inferred.
    ///
    /// # Errors
    /// The image is not among `files` or cannot be decoded, a model failed, or the engine is gone.
    pub async fn responses<'a>(
        &self,
        study: &'a ReadyStudy,
        files: &BTreeMap<Uid, PathBuf>,
        clinical: &[String],
        perturbations: usize,
    ) -> anyhow::Result<Option<(&'a InstanceHeader, Vec<Responses>)>> {
        let asked = study::asked(&self.packages, clinical).into_iter().filter(|p| study::scores_images(p));
        let (race, packages): (Vec<&Package>, Vec<&Package>) = asked.partition(|p| p.purpose == Purpose::Race);
        let Some(race) = race.first().copied().filter(|_| self.risk.per_study_inference) else { return Ok(None) };
        let images = study::shared(race, &packages, study);
        let Some(image) = self.most_telling(study, &images, clinical, 1).pop() else { return Ok(None) };
        let header = &image.header;
        let file = files.get(&header.sop_instance).context("its image is not kept any more")?;
        let packages: Vec<&Package> = packages.into_iter().filter(|p| study::admits(p, header).is_ok()).collect();
        let mut contracts = vec![race.contract.clone()];
        for package in &packages {
            if !contracts.contains(&package.contract) {
                contracts.push(package.contract.clone());
            }
        }
        let normalised = self.workers.normalise(file, &contracts, Frames::Middle).await;
        let normalised = normalised.map_err(|refusal| anyhow::anyhow!("{refusal}"))?;
        // Noise is the image's own, and the same in every run.
        let seed = u64::from_str_radix(&Digest::of(header.sop_instance.as_str().as_bytes()).as_str()[..16], 16)?;
        let battery = async |package: &Package| {
            let input = normalised.of_contract(&package.contract.digest()).next().cloned();
            said(&self.scorers, package, input.context("the image has no frame")?, perturbations, seed).await
        };
        let race_said = battery(race).await?;
        let mut responses = Vec::new();
        for package in packages {
            responses.push(paired(race, &race_said, package, battery(package).await?, header));
        }
        Ok(Some((header, responses)))
    }

    /// Evidence on the findings of an assessment, as the file of the configuration has it: of the models that it names,
    /// for the race model in use. Nothing where race is not inferred.
    pub fn evidence_of(&self, assessment: &Assessment) -> Vec<FindingEvidence> {
        let Some(evidence) = self.evidence.as_ref().filter(|_| self.risk.per_study_inference) else {
            return Vec::new();
        };
        if evidence.race_model != assessment.audit.key() {
            return Vec::new();
        }
        let told = |f: &crate::domain::FindingAssessment| finding_evidence(evidence, &f.clinical.key(), &f.finding.key);
        assessment.findings.iter().filter_map(told).collect()
    }
}

/// Answers of one package: the image's own first.
struct Said {
    names: Vec<String>,
    quality: Vec<Quality>,
    scores: Vec<Vec<f64>>,
}

/// What a package says of an input and of `count` changes of it.
async fn said(
    scorers: &Scorers,
    package: &Package,
    input: ModelInput,
    count: usize,
    seed: u64,
) -> anyhow::Result<Said> {
    let contract = package.contract.clone();
    let made = tokio::task::spawn_blocking(move || {
        let plane = Plane::of_input(&input, &contract)?;
        let battery = Battery::co_movement(count.min(Battery::CO_MOVEMENT_MAX), contract.size, seed);
        let (mut lab, mut changes) = (Lab::default(), Vec::new());
        for (name, changed) in battery.names().into_iter().zip(battery.of(&mut lab, &plane)) {
            changes.push((name, changed.quality(&plane), changed.to_input(&contract)));
        }
        Some((input, changes))
    });
    let (input, changes) = made.await?.ok_or_else(|| anyhow::anyhow!("the image does not fit its contract"))?;
    let mut inputs = vec![input];
    let (mut names, mut quality) = (Vec::new(), Vec::new());
    for (name, of, input) in changes {
        names.push(name);
        quality.push(of);
        inputs.push(input);
    }
    let scores = scorers.score_all_covered(package, inputs.into_iter()).await.map_err(|error| match error {
        RemoteError::Failed(InferError::Stopped) => anyhow::anyhow!("inference has ended"),
        error => anyhow::anyhow!("{}: {error}", package.identity.name),
    })?;
    Ok(Said { names, quality, scores })
}

/// Reads a file of `sidelight evidence`.
pub fn read_evidence(path: &Path) -> anyhow::Result<Evidence> {
    let remedy = "make one with `sidelight evidence`, or set risk.evidence.file = \"\"";
    let length = std::fs::metadata(path).with_context(|| format!("{} cannot be read: {remedy}", path.display()))?.len();
    anyhow::ensure!(length <= BYTES_MAX, "{} is larger than {BYTES_MAX} bytes: {remedy}", path.display());
    let bytes = std::fs::read(path).with_context(|| format!("{} cannot be read: {remedy}", path.display()))?;
    let evidence: Evidence =
        serde_json::from_slice(&bytes).with_context(|| format!("{} holds no evidence: {remedy}", path.display()))?;
    let format = evidence.format;
    anyhow::ensure!(format == Evidence::FORMAT, "{} has format {format}: {remedy}", path.display());
    // What a report cannot tell must not keep it from being made.
    let sound = |line: &EvidenceLine| {
        let Interval { estimate, lower, upper } = line.value;
        let largest = if line.kind == LineKind::GradientAlignment { 1.0 } else { 1e5 };
        let within = [lower, estimate, upper].iter().all(|v| v.abs() <= largest);
        within && lower <= estimate && estimate <= upper && (0.0..=1.0).contains(&line.p)
    };
    anyhow::ensure!(
        evidence.lines.iter().all(sound),
        "a line of {} has numbers that cannot be, or limits that are not around its value: {remedy}",
        path.display()
    );
    Ok(evidence)
}

/// The answers of both, as they are kept. How an image changed is what the clinical model saw of it.
fn paired(race: &Package, race_said: &Said, package: &Package, said: Said, header: &InstanceHeader) -> Responses {
    let groups = race.groups().len();
    let findings = package.findings().len();
    // What stands behind the probabilities is none.
    let answers = |place: usize| Answers {
        race: race_said.scores[place].iter().take(groups).copied().collect(),
        clinical: said.scores[place].iter().take(findings).copied().collect(),
    };
    let change = |(at, name): (usize, String)| {
        let Quality { rms, sharpness } = said.quality[at];
        Change { name, rms, sharpness, answers: answers(at + 1) }
    };
    Responses {
        race_model: race.key(),
        groups: race.groups().iter().map(|g| g.key.clone()).collect(),
        model: package.key(),
        findings: package.findings().iter().map(|f| f.key.clone()).collect(),
        held: header.kind_of_patient().into(),
        original: answers(0),
        changes: said.names.iter().cloned().enumerate().map(change).collect(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn a_file_of_lines_is_refused_where_a_report_could_not_tell_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines.json");
        let read = |kind: &str, value: [f64; 3], p: f64, format: u32| {
            let line = serde_json::json!({
                "kind": kind, "model": "m", "finding": "f", "group": "g", "p": p, "control": "passed", "patients": 60,
                "value": {"lower": value[0], "estimate": value[1], "upper": value[2]}
            });
            let evidence = serde_json::json!({
                "format": format, "version": "0", "site": "s", "made_at": "2026-01-31T12:00:00Z", "race_model": "r",
                "lines": [line], "missing": []
            });
            std::fs::write(&path, evidence.to_string()).unwrap();
            read_evidence(&path).map(|evidence| evidence.lines.len()).map_err(|e| format!("{e:#}"))
        };
        assert_eq!(read("gradient-alignment", [-0.1, 0.2, 1.0], 0.5, 1), Ok(1));
        assert_eq!(read("co-movement", [-20.0, 3.0, 40.0], 1.0, 1), Ok(1));
        for (kind, value, p, format, expected) in [
            ("gradient-alignment", [0.0, 1.5, 2.0], 0.5, 1, "cannot be"),
            ("co-movement", [0.5, 0.2, 1.0], 0.5, 1, "limits"),
            ("co-movement", [0.0, 0.2, 1e9], 0.5, 1, "cannot be"),
            ("co-movement", [0.0, 0.2, 1.0], 1.5, 1, "cannot be"),
            ("co-movement", [0.0, 0.2, 1.0], 0.5, 2, "has format 2"),
            ("hearsay", [0.0, 0.2, 1.0], 0.5, 1, "holds no evidence"),
        ] {
            let fault = read(kind, value, p, format).unwrap_err();
            assert!(fault.contains(expected) && fault.contains("risk.evidence.file"), "{fault}");
        }
        assert!(read_evidence(&folder.path().join("none")).is_err());
    }

    /// The figure that the issue asks for: a study's battery costs each model 32 passes at most, and they share batches.
    #[test]
    fn a_battery_costs_at_most_32_passes_which_share_batches() {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
        let packages: Vec<Package> =
            ["demo-race", "demo-clinical"].map(|name| Package::load(&models.join(name)).unwrap()).into();
        let overrides = [("models.device", "cpu"), ("models.batch_max", "8"), ("risk.evidence.perturbations", "31")];
        let overrides = overrides.map(|(k, v)| (k.to_owned(), v.to_owned()));
        let config = config::load(None, [], &overrides).unwrap();
        let scorers = Scorers::start(&packages, &config.models).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        for package in &packages {
            let side = package.contract.size as usize;
            let values = (0..side * side).map(|at| ((at * 31) % 97) as f32 / 97.0).collect();
            let input = Plane::new(side, values).unwrap().to_input(&package.contract);
            let before = scorers.stats();
            let said = runtime.block_on(said(&scorers, package, input, config.risk.evidence.perturbations, 1)).unwrap();
            let after = scorers.stats();
            assert_eq!((after.inputs - before.inputs, after.errors), (32, 0));
            assert!(after.batches - before.batches <= 16, "{} batches", after.batches - before.batches);
            assert_eq!((said.names.len(), said.quality.len(), said.scores.len()), (31, 31, 32));
            assert!(said.scores.iter().all(|scores| scores.len() >= 2));
        }
    }
}
