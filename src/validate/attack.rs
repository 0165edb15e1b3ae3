//! An attacker with the published profile in hand: what does a report tell of the patient's group beyond the score?
//!
//! The attacker reads everything that a destination receives of many studies, as the fields of the serialised answer
//! (so that a field that is added is read too), and knows the truth of half of them. For the other half it predicts the
//! group, starting from the best that the score alone allows: the world's own P(G | S). What it gains in bits is the
//! information that the answer holds beyond the score. Left out: what a score itself tells of a group, which no report
//! adds to.

use std::collections::BTreeMap;

use rayon::prelude::*;
use serde_json::Value;

use super::scene::{Race, Scene, Told};
use super::{Bench, Check, Section, Table, ValidateError, percent};
use crate::assess::released;
use crate::domain::{Disclosure, FindingAssessment};
use crate::phantom::scores::ScoreWorld;
use crate::stats::{Design, Ridge, Z_95, auc, multinomial, softmax, standard_deviation};

/// Bits per study that a withheld answer may hold at most (upper 95 % limit).
const BITS_MAX: f64 = 0.01;
/// Bits that the attacker must find where probabilities are disclosed, or it is no attacker.
const BITS_CONTROL: f64 = 0.5;

/// What a destination receives.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Sees {
    Withheld,
    /// As assessed but for the numbers of the individual: what would be seen if level 2 were told.
    Levels,
    Disclosed,
}

#[derive(Debug, Clone, Copy)]
struct Found {
    /// Mean gain over the score alone, bits per study, with its standard error.
    bits: (f64, f64),
    /// One-against-rest AUC of group B and share of groups guessed right, with the answer and from the score alone.
    auc: (f64, f64),
    right: (f64, f64),
    fields: usize,
}

pub(super) fn run(bench: &Bench<'_>) -> Result<Section, ValidateError> {
    let mut table = Table {
        name: "attack",
        title: "What the attacker infers of the group, beyond the score".into(),
        columns: vec![
            "world",
            "destination",
            "fields that vary",
            "bits per study (95 % limits)",
            "AUC of group B",
            "from the score alone",
            "guessed right",
            "from the score alone",
        ],
        rows: Vec::new(),
    };
    let mut checks = Vec::new();
    for (place, name) in ["both", "shortcut", "null"].into_iter().enumerate() {
        let world = bench.world(name)?;
        let seed = bench.seed(220 + place as u64, 0);
        let scene = Scene::new(world, Race::With, seed, bench.count(60, 200))
            .ok_or_else(|| ValidateError::Profile(name.into()))?;
        let told = scene.tell(bench.count(3000, 20_000), seed ^ 0xf4e5);
        for sees in [Sees::Withheld, Sees::Levels, Sees::Disclosed] {
            let found = attack(world, &told, sees);
            table.rows.push(row(name, sees, &found));
            checks.extend(check(name, sees, &found));
        }
    }
    Ok(Section {
        title: "Disclosure",
        text: vec![
            "A multinomial regression reads every number and every word of the answer beside the true log P(G | S) of the world; it \
             is fitted on half of the studies and judged on the other. The middle row is what a withheld destination would \
             learn if it were told level 2, which it never is. The last row is the control: posteriors disclosed."
                .into(),
        ],
        checks,
        tables: vec![table],
        plots: Vec::new(),
    })
}

fn row(world: &str, sees: Sees, found: &Found) -> Vec<String> {
    let name = match sees {
        Sees::Withheld => "withheld",
        Sees::Levels => "withheld, were level 2 told",
        Sees::Disclosed => "probabilities",
    };
    let (bits, error) = found.bits;
    vec![
        world.into(),
        name.into(),
        found.fields.to_string(),
        format!("{bits:.4} ({:.4} – {:.4})", bits - Z_95 * error, bits + Z_95 * error),
        format!("{:.3}", found.auc.0),
        format!("{:.3}", found.auc.1),
        percent(found.right.0),
        percent(found.right.1),
    ]
}

fn check(world: &str, sees: Sees, found: &Found) -> Option<Check> {
    let (bits, error) = found.bits;
    let upper = bits + Z_95 * error;
    let (key, must, holds) = match sees {
        Sees::Withheld => {
            ("withheld", "a withheld answer holds less than 0.01 bits on the group beyond the score", upper < BITS_MAX)
        }
        // What level 2 tells depends on how many reach it; shown, not judged.
        Sees::Levels => return None,
        // Where nothing is planted hardly any answer has a level, and without one nothing is disclosed.
        Sees::Disclosed if world == "null" => return None,
        Sees::Disclosed => (
            "attack-control",
            "the attacker succeeds where probabilities are disclosed (more than 0.5 bits)",
            bits > BITS_CONTROL,
        ),
    };
    let found =
        format!("{bits:.4} bits, upper 95 % limit {upper:.4}; AUC {:.3} against {:.3}", found.auc.0, found.auc.1);
    Some(Check::of(key, world, must, found, holds))
}

fn received(said: &FindingAssessment, sees: Sees) -> FindingAssessment {
    match sees {
        Sees::Withheld => released(said, Disclosure::Withheld, super::scene::DELTA),
        Sees::Levels => FindingAssessment { disclosed: None, ..said.clone() },
        Sees::Disclosed => released(said, Disclosure::Probabilities, super::scene::DELTA),
    }
}

fn attack(world: &ScoreWorld, told: &[Told], sees: Sees) -> Found {
    let answers: Vec<BTreeMap<String, f64>> = told
        .par_iter()
        .map(|t| {
            let mut fields = BTreeMap::new();
            flatten("", &serde_json::to_value(received(&t.said, sees)).unwrap_or_default(), &mut fields);
            fields
        })
        .collect();
    let columns = varying(&answers);
    let groups = world.groups.len();
    let base: Vec<Vec<f64>> =
        told.iter().map(|t| world.mix(t.study.z).iter().map(|w| w.max(1e-12).ln()).collect()).collect();
    let mut design = Design::new(groups + columns.len());
    for (answer, logs) in answers.iter().zip(&base) {
        let own = columns.iter().map(|(name, mean, sd)| (answer.get(name).copied().unwrap_or(0.0) - mean) / sd);
        // The site's log-ratios first, so that an answer that says nothing leaves them as they are.
        let row: Vec<f64> = std::iter::once(1.0).chain(logs[1..].iter().map(|l| l - logs[0])).chain(own).collect();
        design.push(&row);
    }
    let class: Vec<usize> = told.iter().map(|t| t.study.group).collect();
    let half = |fold: usize| -> Vec<f64> { (0..told.len()).map(|i| if i % 2 == fold { 1.0 } else { 0.0 }).collect() };
    let ridge = trusting(groups, design.columns());
    let fits =
        [0, 1].map(|fold| multinomial(&design, &class, groups, &half(fold), &ridge, None).ok().map(|f| f.coefficients));
    let (mut gains, mut guesses) = (Vec::new(), Vec::new());
    for (i, logs) in base.iter().enumerate() {
        // Judged by the fit on the other half; a fit that failed knows the score only.
        let mut with = logs.clone();
        if let Some(beta) = &fits[1 - i % 2] {
            with[0] = 0.0;
            for (value, part) in with[1..].iter_mut().zip(beta.chunks_exact(design.columns())) {
                *value = design.row(i).iter().zip(part).map(|(x, b)| x * b).sum();
            }
        }
        let mut alone = logs.clone();
        softmax(&mut with);
        softmax(&mut alone);
        gains.push((with[class[i]].max(1e-12) / alone[class[i]].max(1e-12)).log2());
        guesses.push((with, alone));
    }
    let n = gains.len() as f64;
    let member: Vec<bool> = class.iter().map(|&g| g == 1).collect();
    let area =
        |of: fn(&(Vec<f64>, Vec<f64>)) -> f64| auc(&guesses.iter().map(of).collect::<Vec<_>>(), &member).unwrap_or(0.5);
    let right = |of: fn(&(Vec<f64>, Vec<f64>)) -> &Vec<f64>| {
        let best = |p: &[f64]| (0..p.len()).max_by(|&a, &b| p[a].total_cmp(&p[b]));
        guesses.iter().zip(&class).filter(|(g, c)| best(of(g)) == Some(**c)).count() as f64 / n
    };
    Found {
        bits: (gains.iter().sum::<f64>() / n, standard_deviation(&gains) / n.sqrt()),
        auc: (area(|g| g.0[1]), area(|g| g.1[1])),
        right: (right(|g| &g.0), right(|g| &g.1)),
        fields: columns.len(),
    }
}

/// Starts from the score's own log-ratios, with little faith in anything else.
fn trusting(groups: usize, columns: usize) -> Ridge {
    let mut ridge = Ridge::uniform((groups - 1) * columns, 1.0);
    for class in 0..groups - 1 {
        let at = class * columns + 1 + class;
        ridge.center[at] = 1.0;
        // The world's truth needs no correction: only the answer may move the guess.
        (0..groups).for_each(|i| ridge.precision[class * columns + i] = 1e6);
    }
    ridge
}

/// Every number under its path; words and truths as numbers of their own.
fn flatten(path: &str, value: &Value, fields: &mut BTreeMap<String, f64>) {
    match value {
        Value::Null => {}
        Value::Bool(b) => drop(fields.insert(path.to_owned(), f64::from(u8::from(*b)))),
        Value::Number(n) => {
            fields.insert(path.to_owned(), n.as_f64().unwrap_or(0.0));
            // That it is there at all may tell something.
            fields.insert(format!("{path}?"), 1.0);
        }
        Value::String(text) => drop(fields.insert(format!("{path}={text}"), 1.0)),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, item)| flatten(&format!("{path}[{i}]"), item, fields))
        }
        Value::Object(map) => map.iter().for_each(|(key, item)| flatten(&format!("{path}.{key}"), item, fields)),
    }
}

/// Fields that are not the same in all answers, with mean and standard deviation; none twice.
fn varying(answers: &[BTreeMap<String, f64>]) -> Vec<(String, f64, f64)> {
    let names: std::collections::BTreeSet<&String> = answers.iter().flat_map(BTreeMap::keys).collect();
    let mut seen: Vec<Vec<f64>> = Vec::new();
    let mut columns = Vec::new();
    for name in names {
        let values: Vec<f64> = answers.iter().map(|a| a.get(name).copied().unwrap_or(0.0)).collect();
        let (mean, sd) = (values.iter().sum::<f64>() / values.len() as f64, standard_deviation(&values));
        let shape: Vec<f64> = values.iter().map(|v| (v - mean) / sd).collect();
        let same =
            |other: &Vec<f64>| other.iter().zip(&shape).all(|(a, b)| (a - b).abs() < 1e-9 || (a + b).abs() < 1e-9);
        if sd > 1e-12 && !seen.iter().any(same) {
            seen.push(shape);
            columns.push((name.clone(), mean, sd));
        }
    }
    columns
}
