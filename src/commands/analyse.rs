//! `analyse`: studies from files, offline, with the node's own code.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use chrono::Utc;
use serde_json::{Value, json};
use sidelight::analyse::{
    Analyser, Conclusion, NOT_ALL_AUDITED, RacePrior, Read, ReadOptions, ReportContext, fresh_uid,
};
use sidelight::config::{Config, Explain};
use sidelight::domain::{
    Assessment, ClinicalResult, Disclosure, FindingAssessment, ModelOutputs, Purpose, ReadyStudy, Refusal, RefusalCode,
    ScoredInstance, StudyScore, Uid,
};
use sidelight::infer::{self, StudyImage};
use sidelight::report::{self, Related};
use tokio::sync::Semaphore;
use tracing::info;

use super::maps::{self, Maps};
use super::{evidence, print, print_json, progress, results, table};

/// What to analyse, and what to write.
#[derive(Debug, Clone)]
pub struct Options {
    pub paths: Vec<PathBuf>,
    pub out: PathBuf,
    /// Tables of results, each with the name of its package.
    pub results: Vec<(String, String)>,
    /// Write race posteriors into `result.json`, for `profile fit`.
    pub with_posteriors: bool,
    /// Change an image of each study and write what the models say of it, for `evidence co-movement`.
    pub evidence: bool,
    /// Write reports as a destination with `disclose = "probabilities"` would get them.
    pub disclose: bool,
    /// Write maps of what in an image speaks for a score, as `config.explain` says.
    pub explain: bool,
    /// Write them as DICOM objects too.
    pub map_objects: bool,
    pub json: bool,
}

/// A line of `result.json` and of the table.
struct StudyResult {
    value: Value,
    rows: Vec<Vec<String>>,
}

/// Writes a report per study and `result.json` into the folder `out`, and prints a table. Fails if no study at all
/// could be analysed.
pub async fn run(config: Config, options: Options) -> anyhow::Result<ExitCode> {
    let files = find_files(&options.paths)?;
    anyhow::ensure!(!files.is_empty(), "no DICOM file found: name files, or folders that hold some");
    fs::create_dir_all(&options.out).with_context(|| format!("folder {} cannot be made", options.out.display()))?;
    let executable = std::env::current_exe().context("this program's own path is not known")?;
    // The device observer of offline reports: this run, not a node.
    let starting = config.clone();
    let analyser = tokio::task::spawn_blocking(move || Analyser::start(&starting, executable, fresh_uid()))
        .await
        .context("loading the models ended early")??;
    let analyser = Arc::new(analyser);
    let read = read_all(&analyser, files).await?;

    let paths: BTreeMap<Uid, PathBuf> = read
        .iter()
        .rev()
        .filter_map(|(path, read)| Some((read.header.as_ref()?.sop_instance.clone(), path.clone())))
        .collect();
    let (mut studies, unreadable) = by_study(read);
    for (model, file) in &options.results {
        results::attach(&config, model, Path::new(file), &mut studies)?;
    }
    let mut rules = config.explain.clone();
    // A map of the race model is for those who may see its probabilities.
    rules.purposes.retain(|p| *p == Purpose::Clinical || options.disclose || options.with_posteriors);
    let bar = progress(studies.len() as u64, "assessing");
    let mut results = Vec::new();
    for study in studies {
        let mut result = conclude(&analyser, &study, &paths, &options, &rules).await?;
        if options.evidence && result.value["state"] == "reported" {
            let count = config.risk.evidence.perturbations;
            result.value["responses"] = evidence::of_study(&analyser, &study, &paths, count).await;
        }
        results.push(result);
        bar.inc(1);
    }
    bar.finish_and_clear();
    if options.with_posteriors {
        info!(studies = results.len(), "race posteriors are written to result.json");
    }
    let reported = results.iter().filter(|r| r.value["state"] == "reported").count();
    let document = json!({
        "format": 1,
        "version": env!("CARGO_PKG_VERSION"),
        "created_at": Utc::now(),
        "models": models(&analyser),
        "studies": results.iter().map(|r| &r.value).collect::<Vec<_>>(),
        "unreadable": unreadable.iter().map(|(path, refusal)| json!({"file": path, "refusal": refusal})).collect::<Vec<_>>(),
    });
    let result = options.out.join("result.json");
    fs::write(&result, serde_json::to_vec_pretty(&document)?)
        .with_context(|| format!("{} cannot be written", result.display()))?;
    if options.json {
        print_json(&document)?;
    } else {
        let rows = results.into_iter().flat_map(|r| r.rows).chain(unreadable.iter().map(|(path, refusal)| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            vec![name, String::new(), String::new(), String::new(), "refused".into(), refusal.to_string()]
        }));
        print(&table(&["study", "finding", "score", "result", "flag", "reason"], rows))?;
        print(&format!("{reported} studies analysed; reports and result.json are in {}", options.out.display()))?;
    }
    Ok(if reported > 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// The named files, and every DICOM file below the named folders (by its `DICM` mark or the ending `.dcm`).
pub(super) fn find_files(paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = BTreeSet::new();
    for path in paths {
        let kind = fs::metadata(path).with_context(|| format!("{} cannot be read", path.display()))?;
        if !kind.is_dir() {
            found.insert(path.clone());
            continue;
        }
        let mut folders = vec![path.clone()];
        while let Some(folder) = folders.pop() {
            let entries = fs::read_dir(&folder).with_context(|| format!("{} cannot be read", folder.display()))?;
            for entry in entries {
                let entry = entry.with_context(|| format!("{} cannot be read", folder.display()))?;
                let (path, kind) = (entry.path(), entry.file_type()?);
                // Links are not followed: a loop of folders would never end.
                if kind.is_dir() {
                    folders.push(path);
                } else if kind.is_file() && is_dicom(&path) {
                    found.insert(path);
                }
            }
        }
    }
    Ok(found.into_iter().collect())
}

fn is_dicom(path: &Path) -> bool {
    use std::io::Read as _;
    if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("dcm")) {
        return true;
    }
    let mut start = [0; 132];
    fs::File::open(path).is_ok_and(|mut f| f.read_exact(&mut start).is_ok()) && start[128..] == *b"DICM"
}

async fn read_all(analyser: &Arc<Analyser>, files: Vec<PathBuf>) -> anyhow::Result<Vec<(PathBuf, Read)>> {
    let bar = progress(files.len() as u64, "reading");
    let objects = Arc::new(Semaphore::new(analyser.objects_max()));
    let mut running = tokio::task::JoinSet::new();
    for (index, path) in files.into_iter().enumerate() {
        let object = Arc::clone(&objects).acquire_owned().await.context("reading was stopped")?;
        let reader = Arc::clone(analyser.readers()).acquire_owned().await.context("reading was stopped")?;
        let (analyser, bar) = (Arc::clone(analyser), bar.clone());
        running.spawn(async move {
            let read = analyser.read(&path, ReadOptions::default(), reader).await;
            bar.inc(1);
            drop(object);
            read.map(|read| (index, path, read))
        });
    }
    let mut read = Vec::new();
    while let Some(done) = running.join_next().await {
        let done = done.context("reading a file ended early")??;
        let waits = done.2.later.is_some();
        anyhow::ensure!(
            !waits,
            "a model server cannot be asked now, or a device has no memory; `sidelight model verify` tells why"
        );
        read.push(done);
    }
    bar.finish_and_clear();
    read.sort_by_key(|(index, ..)| *index);
    Ok(read.into_iter().map(|(_, path, read)| (path, read)).collect())
}

/// Instances by study; what has no readable header stands apart, and so do further files of the same SOP instance.
fn by_study(read: Vec<(PathBuf, Read)>) -> (Vec<ReadyStudy>, Vec<(PathBuf, Refusal)>) {
    let mut studies: BTreeMap<Uid, Vec<ScoredInstance>> = BTreeMap::new();
    let mut results: BTreeMap<Uid, Vec<ClinicalResult>> = BTreeMap::new();
    let mut unreadable = Vec::new();
    let mut known = BTreeSet::new();
    for (path, read) in read {
        let Some(header) = read.header else {
            let unknown = || Refusal::new(RefusalCode::Malformed, "the header cannot be read");
            unreadable.push((path, read.refusal.unwrap_or_else(unknown)));
            continue;
        };
        if !known.insert(header.sop_instance.clone()) {
            let detail = "another file with this SOP Instance UID was read before";
            unreadable.push((path, Refusal::new(RefusalCode::Inconsistent, detail)));
            continue;
        }
        results.entry(header.study.clone()).or_default().extend(read.results);
        studies.entry(header.study.clone()).or_default().push(ScoredInstance {
            header,
            pixel_digest: read.pixel_digest,
            scores: read.scores,
            refusal: read.refusal,
        });
    }
    let ready = studies.into_iter().map(|(study, instances)| {
        let results = results.remove(&study).unwrap_or_default();
        ReadyStudy { study, instances, results }
    });
    (ready.collect(), unreadable)
}

async fn conclude(
    analyser: &Analyser,
    study: &ReadyStudy,
    paths: &BTreeMap<Uid, PathBuf>,
    options: &Options,
    rules: &Explain,
) -> anyhow::Result<StudyResult> {
    let now = Utc::now();
    let uid = study.study.to_string();
    let (assessment, scores, sources, analysed, complete, missing) = match analyser.conclude(study, &[], now) {
        Conclusion::Refused(refusal) => {
            let row =
                vec![uid.clone(), String::new(), String::new(), String::new(), "refused".into(), refusal.to_string()];
            let value = json!({
                "study": uid, "state": "refused", "refusal": refusal, "instances": instances(study),
            });
            return Ok(StudyResult { value, rows: vec![row] });
        }
        Conclusion::Assessed { assessment, scores, sources, analysed, complete, missing, .. } => {
            (assessment, scores, sources, analysed, complete, missing)
        }
    };
    let disclosure = if options.disclose { Disclosure::Probabilities } else { Disclosure::Withheld };
    let images: Vec<_> =
        study.instances.iter().map(|i| &i.header).filter(|h| analysed.contains(&h.sop_instance)).collect();
    let partial = match missing.is_empty() {
        true => (!complete).then(|| NOT_ALL_AUDITED.to_owned()),
        false => Some(format!("Missing: {}", missing.join(", "))),
    };
    let maps = match options.explain {
        true => maps::of_study(analyser, study, &analysed, paths, rules, &options.out).await?,
        false => Maps::default(),
    };
    let objects = match options.map_objects {
        true => analyser.map_objects(&maps.explained, &images, &rules.forms, disclosure, now)?,
        false => Vec::new(),
    };
    let names = maps::write_objects(&objects, &options.out)?;
    let related = objects.iter().map(Related::from).collect();
    let context = ReportContext { disclosure, predecessors: Vec::new(), partial, maps: related, now };
    let variants = analyser.reports(&assessment, &sources, &images, &context)?;
    let report = variants.first().context("a report has at least one variant")?;
    let name = format!("{uid}.dcm");
    let path = options.out.join(&name);
    fs::write(&path, &report.file).with_context(|| format!("{} cannot be written", path.display()))?;
    let shown = analyser.released(&assessment, disclosure);
    let text = options.out.join(format!("{uid}.txt"));
    fs::write(&text, report::render(&shown, &analyser.evidence_of(&shown), disclosure))
        .with_context(|| format!("{} cannot be written", text.display()))?;
    let mut value = json!({
        "study": uid,
        "state": "reported",
        "report": name,
        "complete": complete,
        "profile": shown.profile,
        "findings": shown.findings.iter().map(finding).collect::<Vec<_>>(),
        "instances": instances(study),
    });
    let strange = strange(analyser, study, options);
    if !strange.is_empty() {
        value["ood"] = strange.into();
    }
    if options.explain {
        value["maps"] = json!({"pictures": maps.written, "missing": maps.missing, "objects": names});
    }
    if options.with_posteriors
        && let Some(race) = posteriors(&scores)
    {
        value["race"] = race;
    }
    Ok(StudyResult { value, rows: rows(&uid, &shown) })
}

fn finding(finding: &FindingAssessment) -> Value {
    json!({
        "key": finding.finding.key,
        "code": finding.finding.code,
        "model": finding.clinical.key(),
        "score": finding.score,
        "threshold": finding.finding.threshold,
        "positive": finding.positive,
        "direction": finding.direction,
        "level": finding.level,
        "reasons": finding.reasons,
        "expected_error": finding.expected_error,
        "spread": finding.spread,
        "disclosed": finding.disclosed,
    })
}

fn instances(study: &ReadyStudy) -> Vec<Value> {
    let instance = |i: &ScoredInstance| {
        json!({
            "sop_instance": i.header.sop_instance,
            "pixel_digest": i.pixel_digest,
            "analysed": !i.scores.is_empty(),
            "refusal": i.refusal,
        })
    };
    study.instances.iter().map(instance).collect()
}

/// How far the study's images are from what each model knows, where its card has such a score: the study's, which is that
/// of its farthest image, and each image's. The race model's only where its posteriors are told.
fn strange(analyser: &Analyser, study: &ReadyStudy, options: &Options) -> serde_json::Map<String, Value> {
    let tells_race = options.with_posteriors || options.disclose;
    let mut all = serde_json::Map::new();
    for package in analyser.packages().iter().filter(|p| p.purpose == Purpose::Clinical || tells_race) {
        let score = |i: &ScoredInstance| {
            let images: Vec<_> = i.scores.iter().map(|score| StudyImage { score, view: i.header.view }).collect();
            Some((i.header.sop_instance.to_string(), infer::ood_of(package, &images)?))
        };
        let images: BTreeMap<String, f64> = study.instances.iter().filter_map(score).collect();
        let farthest = images.values().copied().reduce(f64::max);
        if let Some((ood, farthest)) = package.ood.as_ref().zip(farthest) {
            let (threshold, is_beyond) = (ood.threshold(), ood.is_beyond(farthest));
            let value = json!({"score": farthest, "threshold": threshold, "beyond": is_beyond, "images": images});
            all.insert(package.key(), value);
        }
    }
    all
}

fn posteriors(scores: &[StudyScore]) -> Option<Value> {
    scores.iter().find_map(|score| match &score.outputs {
        ModelOutputs::Groups(groups) => {
            Some(groups.iter().zip(&score.values).map(|(g, v)| (g.key.clone(), json!(v))).collect::<Value>())
        }
        ModelOutputs::Findings(_) => None,
    })
}

fn models(analyser: &Analyser) -> Value {
    let packages = analyser.packages();
    let race = packages.iter().find(|p| p.purpose == Purpose::Race).map(|p| {
        json!({
            "key": p.key(),
            "card": p.scoring,
            "groups": p.groups().iter().map(|g| &g.key).collect::<Vec<_>>(),
            "precision": analyser.precision(p),
            "prior": analyser.race_prior().and_then(RacePrior::digest),
        })
    });
    let clinical: Vec<Value> = packages
        .iter()
        .filter(|p| p.purpose == Purpose::Clinical)
        .map(|p| {
            let findings = p.findings().iter().map(|f| json!({"key": f.key, "threshold": f.threshold}));
            json!({
                "key": p.key(),
                "card": p.scoring,
                "precision": analyser.precision(p),
                "findings": findings.collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({"race": race, "clinical": clinical})
}

/// Lines of the table, one per finding.
fn rows(study: &str, assessment: &Assessment) -> Vec<Vec<String>> {
    let row = |f: &FindingAssessment| {
        vec![
            study.to_owned(),
            f.finding.code.meaning.clone(),
            f.score.map_or_else(|| "none".to_owned(), |score| format!("{:.1} %", score.get() * 100.0)),
            match f.positive {
                Some(true) => "positive".into(),
                Some(false) => "negative".into(),
                None => "none".into(),
            },
            f.level.code().1.to_owned(),
            f.reasons.iter().map(|r| r.code().0).collect::<Vec<_>>().join(" "),
        ]
    };
    assessment.findings.iter().map(row).collect()
}
