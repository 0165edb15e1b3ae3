//! What holds of a study as a whole: which scores count, what is lacking, why there is no answer.
//!
//! Pure. Neighbours: `analyse` asks. Left out: the assessment itself (`assess`).

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::{
    ClinicalResult, Given, ImageScore, IndReason, InstanceHeader, Purpose, ReadyStudy, Refusal, RefusalCode,
    ScoredInstance, StudyResult, StudyScore, Uid,
};
use crate::infer::{Elsewhere, Package};
use crate::pixels::{self, Frames};
use crate::results::settle;

use super::scorers::Unscored;

/// The race model, and the clinical packages of these names; without names, all.
pub(super) fn asked<'a>(packages: &'a [Package], clinical: &[String]) -> Vec<&'a Package> {
    let named = |p: &Package| clinical.is_empty() || clinical.contains(&p.identity.name);
    packages.iter().filter(|p| p.purpose == Purpose::Race || named(p)).collect()
}

pub(super) fn is_purpose(score: &StudyScore, purpose: Purpose, packages: &[Package]) -> bool {
    packages.iter().any(|p| p.purpose == purpose && p.identity.key() == score.model.key())
}

/// The scores of an image by the packages that had something to say of it: means over its frames. An image counts whole
/// or not at all for a package. Without a clinical score it is refused, for the reason of the first clinical package;
/// not so where one of them runs elsewhere, whose result may be missing or (`awaited`) still to come.
pub(super) fn kept(
    packages: &[&Package],
    outputs: Vec<Result<Vec<Vec<f64>>, Unscored>>,
    instance: &Uid,
    awaited: bool,
) -> Result<Vec<ImageScore>, Refusal> {
    let (mut scores, mut clinical, mut first_refusal) = (Vec::new(), awaited, None);
    for (package, outputs) in packages.iter().zip(outputs) {
        let is_clinical = package.purpose == Purpose::Clinical;
        clinical |= package.elsewhere.is_some();
        match outputs.map(|outputs| mean_of_frames(&outputs)) {
            Ok(None) => {}
            Ok(Some(outputs)) => {
                clinical |= is_clinical;
                let (model, contract) = (package.identity.key(), package.contract.digest());
                scores.push(ImageScore { instance: instance.clone(), model, contract, outputs });
            }
            Err(Unscored::Refused(refusal)) => {
                tracing::warn!(model = package.identity.name, %refusal, "a model has no score of an image");
                if is_clinical {
                    first_refusal.get_or_insert(refusal);
                }
            }
            Err(Unscored::Unavailable { cause, .. }) => {
                tracing::warn!(model = package.identity.name, cause, "an image goes on without a model server's score");
            }
        }
    }
    match first_refusal {
        Some(refusal) if !clinical => Err(refusal),
        _ => Ok(scores),
    }
}

/// The images of the study that the package may see.
fn in_scope(package: &Package, study: &ReadyStudy) -> Vec<Uid> {
    let admitted = |i: &&ScoredInstance| i.refusal.is_none() && admits(package, &i.header).is_ok();
    study.instances.iter().filter(admitted).map(|i| i.header.sop_instance.clone()).collect()
}

/// The scores without those of a model server that lacks one of an image which its model may see: it is asked for each,
/// and what it said of some of them is not the study's.
pub(super) fn whole(scores: Vec<StudyScore>, packages: &[&Package], study: &ReadyStudy) -> Vec<StudyScore> {
    let is_whole = |score: &StudyScore| {
        let package = packages.iter().find(|p| p.identity.key() == score.model.key() && p.elsewhere.is_some());
        package.is_none_or(|package| in_scope(package, study).iter().all(|image| score.images.contains(image)))
    };
    scores.into_iter().filter(is_whole).collect()
}

/// What the study has of the clinical packages that run elsewhere and of which `scores` holds nothing. Only packages
/// that may see an image of it count.
pub(super) fn results(packages: &[&Package], study: &ReadyStudy, scores: &[StudyScore]) -> Vec<StudyResult> {
    let lacking = |package: &&&Package| !scores.iter().any(|s| s.model.key() == package.identity.key());
    let result = |package: &Package| {
        let elsewhere = package.elsewhere.as_ref()?;
        let images = in_scope(package, study);
        if images.is_empty() {
            return None;
        }
        let (given, images) = match elsewhere {
            // Every attempt to ask the server for a score of some image failed.
            Elsewhere::Server(_) => (vec![Given::Absent(IndReason::Failed); package.findings().len()], images),
            Elsewhere::Product(product) => {
                let key = package.key();
                let own: Vec<ClinicalResult> = study.results.iter().filter(|r| r.model == key).cloned().collect();
                let named: BTreeSet<&Uid> = own.iter().flat_map(|r| &r.said).flat_map(|s| &s.images).collect();
                let given = settle(&own, package.findings(), &images, product.settle);
                let about: Vec<Uid> = images.iter().filter(|i| named.contains(i)).cloned().collect();
                (given, if about.is_empty() { images } else { about })
            }
        };
        let findings = package.findings().iter().cloned().zip(given).collect();
        Some(StudyResult { model: package.identity.clone(), findings, images })
    };
    packages.iter().filter(lacking).filter_map(|package| result(package)).collect()
}

/// Whether it, or a part of it, is missing. One that contradicts itself is there.
pub(super) fn is_missing(result: &StudyResult) -> bool {
    result.findings.iter().any(|(_, given)| *given == Given::Absent(IndReason::Failed))
}

/// Whether a clinical package that may see the instance has no score of it, though others have: it failed on the image,
/// or was put in its place since then (`studies requeue` makes new scores).
pub(super) fn lacks_a_score(packages: &[&Package], instance: &ScoredInstance) -> bool {
    let clinical = packages.iter().filter(|p| p.purpose == Purpose::Clinical && scores_images(p));
    let mut expected = clinical.filter(|p| admits(p, &instance.header).is_ok());
    let has = |p: &Package| instance.scores.iter().any(|s| s.model == p.identity.key());
    !instance.scores.is_empty() && expected.any(|p| !has(p))
}

/// Whether images are scored by the package, here or by a server that the node asks.
pub(super) fn scores_images(package: &Package) -> bool {
    match package.elsewhere {
        None | Some(Elsewhere::Server(_)) => true,
        Some(Elsewhere::Product(_)) => false,
    }
}

/// Whether the model may see the instance, and its contract can be fulfilled as far as the header tells.
pub(super) fn admits(package: &Package, header: &InstanceHeader) -> Result<(), Refusal> {
    package.scope.admits(header)?;
    if scores_images(package) { package.contract.admits(header) } else { Ok(()) }
}

/// The study's race posterior, or why there is none. It must come from every image that both models may see: one of
/// other images than the clinical score would not be the posterior that the profile was fitted with.
pub(super) fn race_of<'a>(
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

/// The images with scores that the race model and one of the clinical packages may see.
pub(super) fn shared(race: &Package, clinical: &[&Package], study: &ReadyStudy) -> Vec<Uid> {
    let seen = |i: &&ScoredInstance| {
        let sees = |package: &Package| admits(package, &i.header).is_ok();
        !i.scores.is_empty() && sees(race) && clinical.iter().any(|package| sees(package))
    };
    study.instances.iter().filter(seen).map(|i| i.header.sop_instance.clone()).collect()
}

/// The images of a volume from one end to the other, whatever order they came in; other images as they are.
pub(super) fn in_slice_order<'a>(images: &[&'a InstanceHeader]) -> Vec<&'a InstanceHeader> {
    match pixels::slice_order(images) {
        Ok(order) => order.into_iter().map(|index| images[index]).collect(),
        Err(_) => images.to_vec(),
    }
}

/// How many frames the models saw of the image that they saw least of, if they did not see all of every image.
pub(super) fn frames_seen(images: &[&InstanceHeader]) -> Option<String> {
    let of_image = |image: &&InstanceHeader| (Frames::default().of(image.frames).len() as u32, image.frames);
    let cut = images.iter().map(of_image).filter(|(seen, frames)| seen < frames);
    cut.max_by_key(|(_, frames)| *frames).map(|(seen, frames)| format!("frames={seen}/{frames}"))
}

/// Mean over the frames of one image; `None` without frames.
pub(super) fn mean_of_frames(outputs: &[Vec<f64>]) -> Option<Vec<f64>> {
    let first = outputs.first()?;
    let n = outputs.len() as f64;
    Some((0..first.len()).map(|i| outputs.iter().map(|o| o[i]).sum::<f64>() / n).collect())
}

/// Whether a refusal means that something the models should have seen was lost.
pub(super) fn is_loss(refusal: &Refusal) -> bool {
    !matches!(
        refusal.code,
        RefusalCode::OutOfScope
            | RefusalCode::OwnReport
            | RefusalCode::NotAnImage
            | RefusalCode::ClinicalResult
            | RefusalCode::NoPixels
    )
}

/// Instances of one study must agree on the patient: Patient ID (0010,0020) and its issuer (0010,0021). Images that
/// were read count, whether or not a model of this process scored them, and what was taken as a result; products leave
/// the issuer out of their reports, which says nothing.
pub(super) fn patient_mismatch(study: &ReadyStudy) -> Option<Refusal> {
    let is_result = |i: &ScoredInstance| i.refusal.as_ref().is_some_and(|r| r.code == RefusalCode::ClinicalResult);
    type Get = fn(&InstanceHeader) -> Option<String>;
    let parts: [(Get, &str, bool); 2] = [
        (InstanceHeader::patient_id, "Patient ID (0010,0020)", false),
        (InstanceHeader::issuer_of_patient_id, "Issuer of Patient ID (0010,0021)", true),
    ];
    for (get, name, may_lack) in parts {
        let counts =
            |i: &&ScoredInstance| i.refusal.is_none() || (is_result(i) && (!may_lack || get(&i.header).is_some()));
        let values: BTreeSet<Option<String>> = study.instances.iter().filter(counts).map(|i| get(&i.header)).collect();
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
pub(super) fn nothing_to_analyse(study: &ReadyStudy) -> Refusal {
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
