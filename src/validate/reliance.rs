//! Co-movement where it is planted, where nothing is, and where a view moves both models.
//!
//! Of each study of a small cohort an image is changed many times, as the node does it: the change moves what the race
//! model sees and the disease, each in its own way, and the clinical logit follows the race margin by the world's
//! shortcut. The line is the one that `evidence co-movement` computes. Left out: gradients and leakage, which need
//! networks: their tests hold them against planted truth.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use rayon::prelude::*;

use super::{Bench, Check, Plot, Section, Table, ValidateError, mean_and_error, percent};
use crate::assess::{CoMovementOptions, Observed, co_movement};
use crate::domain::{Answers, Change, Control, EvidenceLine, Responses};
use crate::phantom::scores::{ScoreWorld, ScoredStudy};
use crate::plot::{Lines, Panel, Point, Series};
use crate::stats::{Z_95, clopper_pearson, expit};

const PATIENTS: usize = 300;
const CHANGES: usize = 10;
/// What a view adds to a change, of what it adds to an image.
const OF_VIEW: f64 = 0.3;

struct Summary {
    slope: f64,
    error: f64,
    /// Replicates in which a line of any group rejects, after Holm, on one side of zero.
    rejected: u64,
    /// Those of them whose control passed.
    sound: u64,
    replicates: u64,
}

pub(super) fn run(bench: &Bench<'_>) -> Result<Section, ValidateError> {
    let count = bench.count(60, 1000);
    let betas = [0.0, -0.1, -0.2, -0.35, -0.5];
    let mut table = Table {
        name: "reliance",
        title: format!("Co-movement of {PATIENTS} patients under {CHANGES} changes, {count} replicates"),
        columns: vec!["world", "β", "view", "mean slope γ", "rejects", "and its control passes"],
        rows: Vec::new(),
    };
    let mut add = |name: &str, beta: f64, view: &str, s: &Summary| {
        let slope = format!("{:.4} ± {:.4}", s.slope, s.error);
        let of = |n: u64| format!("{n} of {}", s.replicates);
        table.rows.push(vec![name.into(), beta.to_string(), view.into(), slope, of(s.rejected), of(s.sound)]);
    };
    let mut found = Vec::new();
    for (place, beta) in betas.into_iter().enumerate() {
        let mut world = bench.world("shortcut")?.clone();
        world.shortcut = beta;
        let summary = summarised(bench, &world, true, 160 + place as u64, count);
        add("shortcut", beta, "known", &summary);
        found.push(summary);
    }
    let view = bench.world("view")?;
    let confounded = summarised(bench, view, false, 170, count);
    let conditioned = summarised(bench, view, true, 170, count);
    add("view", 0.0, "not known", &confounded);
    add("view", 0.0, "known", &conditioned);
    let limits = |s: &Summary| Some((s.slope - Z_95 * s.error, s.slope + Z_95 * s.error));
    let points = betas.iter().zip(&found).map(|(b, s)| Point { x: *b, y: s.slope, limits: limits(s) });
    let plot = Plot {
        name: "reliance",
        lines: Lines {
            title: "Slope found, by the planted shortcut".into(),
            x: "planted β".into(),
            panels: vec![Panel {
                y: "mean slope γ".into(),
                range: Some((-0.2, 0.05)),
                series: vec![Series::joined("co-movement", points.collect())],
                rules: vec![0.0.into()],
                ..Panel::default()
            }],
            ..Lines::default()
        },
    };
    Ok(Section {
        title: "Reliance",
        text: vec![
            "Each replicate asks both models of changed images of one study a patient. β is what a unit of the race margin adds to \
             the clinical logit, γ the slope of the clinical logit's moves on those of the race model's logit, which is on another \
             scale. In the world `view` portable images move more in both models, and nothing is planted."
                .into(),
            "Reports say *consistent with*, never that a model uses race, and for that a line of another family has to agree. \
             Lines from gradients and leakage need networks and are not in this report."
                .into(),
        ],
        checks: claims(&found, &confounded, &conditioned),
        tables: vec![table],
        plots: vec![plot],
    })
}

fn claims(found: &[Summary], confounded: &Summary, conditioned: &Summary) -> Vec<Check> {
    let monotone = found.windows(2).all(|pair| pair[1].slope < pair[0].slope - Z_95 * (pair[0].error + pair[1].error));
    // Exact lower limit of a rejection rate that should be 5 % at most.
    let at_level = |s: &Summary| clopper_pearson(s.rejected, s.replicates, 0.99).is_some_and(|(low, _)| low <= 0.05);
    let rate = |s: &Summary| percent(s.rejected as f64 / s.replicates.max(1) as f64);
    let slopes: Vec<String> = found.iter().map(|s| format!("{:.3}", s.slope)).collect();
    vec![
        Check::of(
            "reliance-monotone",
            "shortcut, β = 0 to −0.5",
            "reliance monotone in β",
            slopes.join(", "),
            monotone,
        ),
        Check::of(
            "reliance-null",
            "shortcut with β = 0",
            "null at β = 0 (at most 5 % of replicates, by the exact 99 % limits)",
            format!("rejected in {}", rate(&found[0])),
            at_level(&found[0]),
        ),
        Check::of(
            "reliance-view",
            "view",
            "reliance collapses after conditioning on view",
            format!("rejected in {} before and {} after", rate(confounded), rate(conditioned)),
            confounded.rejected * 10 > confounded.replicates * 8 && at_level(conditioned),
        ),
    ]
}

fn summarised(bench: &Bench<'_>, world: &ScoreWorld, view_known: bool, part: u64, count: usize) -> Summary {
    let margin_of = &world.groups[world.race.margin_of].group;
    let replicate = |k: usize| -> Option<(f64, bool, bool)> {
        let seed = bench.seed(part, k);
        let lines = lines(world, view_known, seed)?;
        let own = lines.iter().find(|line| line.group == *margin_of)?;
        let rejects = |line: &&EvidenceLine| line.p <= 0.05 && (line.value.lower > 0.0 || line.value.upper < 0.0);
        let sound = lines.iter().filter(rejects).any(|line| line.control == Control::Passed);
        Some((own.value.estimate, lines.iter().any(|line| rejects(&line)), sound))
    };
    let found: Vec<(f64, bool, bool)> = (0..count).into_par_iter().filter_map(replicate).collect();
    let (slope, error) = mean_and_error(&found.iter().map(|f| f.0).collect::<Vec<_>>());
    let sum = |of: fn(&(f64, bool, bool)) -> bool| found.iter().filter(|f| of(f)).count() as u64;
    Summary { slope, error, rejected: sum(|f| f.1), sound: sum(|f| f.2), replicates: found.len() as u64 }
}

fn lines(world: &ScoreWorld, view_known: bool, seed: u64) -> Option<Vec<EvidenceLine>> {
    let studies = world.draw(PATIENTS, seed);
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0xc0de);
    let mut responses = Vec::new();
    // A patient's first study.
    for study in studies.iter().filter(|s| s.study == 0) {
        responses.push(answered(world, study, view_known, &mut rng));
    }
    let keys: Vec<String> = (0..responses.len()).map(|i| i.to_string()).collect();
    let observed: Vec<Observed> =
        responses.iter().zip(&keys).map(|(responses, patient)| Observed { patient, responses }).collect();
    co_movement(&observed, &CoMovementOptions { permutations: 199, seed, ..CoMovementOptions::default() }).ok()
}

/// What both models say of the study's image and its changes: a change has a quality that acts on both, a patient moods of
/// his own in each, and a portable image moves more.
fn answered(world: &ScoreWorld, study: &ScoredStudy, view_known: bool, rng: &mut ChaCha8Rng) -> Responses {
    let mut normal = || -> f64 { rng.sample(StandardNormal) };
    let groups = world.groups.len();
    let (mood, moods): (f64, Vec<f64>) = (normal(), (0..groups).map(|_| normal()).collect());
    let view = if study.portable { OF_VIEW } else { 0.0 };
    let answers = |(z, race): (f64, Vec<f64>)| Answers { race, clinical: vec![expit(z)] };
    let change = |k: usize| {
        let rms = 0.02 * (k as f64 + 1.0) * (0.3 * normal()).exp();
        let mut seen: Vec<f64> = moods.iter().map(|mood| 0.1 * mood + 0.2 * normal()).collect();
        seen[world.race.margin_of] += rms + view * world.portable.race_shift;
        let latent = 0.1 * mood + 0.2 * normal() + rms + view * world.portable.score_shift;
        let sharpness = 0.1 * normal();
        Change { name: format!("change {k}"), rms, sharpness, answers: answers(world.changed(study, &seen, latent)) }
    };
    let changes = (0..CHANGES).map(change).collect();
    let view = view_known.then(|| if study.portable { "AP" } else { "PA" }.to_owned());
    Responses {
        race_model: "race".into(),
        groups: world.groups.iter().map(|g| g.group.clone()).collect(),
        model: "clinical".into(),
        findings: vec!["finding".into()],
        held: view.into_iter().collect(),
        original: answers((study.z, study.posteriors.clone())),
        changes,
    }
}
