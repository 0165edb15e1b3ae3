//! Fits a profile of a planted world and says how long it took; `benches/profile.py` fits the same one in NumPy.
//!
//! ```text
//! profile PATIENTS FINDINGS DRAWS FOLDER [write]
//! ```
//! Prints one JSON object. With `write` it also puts the cohort into FOLDER, as arrays of float64.

use std::fs;
use std::path::Path;
use std::time::Instant;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use serde_json::json;
use sidelight::assess::{Cohort, FindingModel, FitOptions, Row, fit};
use sidelight::stats::{expit, logit, softmax};

const GROUPS: [&str; 3] = ["Asian", "Black", "White"];
const SHARES: [f64; 3] = [0.2, 0.3, 0.5];
const DELTA: f64 = 0.05;

/// One study of each patient. In every third finding the second group's curve is shifted and steeper; the race model
/// is too sure of itself, as race models are.
fn cohort(patients: usize, findings: usize) -> Cohort {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let normal = |rng: &mut ChaCha8Rng| -> f64 { StandardNormal.sample(rng) };
    let mut rows = Vec::with_capacity(patients * findings);
    for patient in 0..patients {
        let u: f64 = rng.random();
        let group = if u < SHARES[0] { 0 } else { 1 + usize::from(u >= SHARES[0] + SHARES[1]) };
        let mut race: Vec<f64> = (0..3)
            .map(|g| 1.4 * (SHARES[g].ln() + 3.2 * (normal(&mut rng) + if g == group { 3.2 } else { 0.0 })))
            .collect();
        softmax(&mut race);
        for finding in 0..findings {
            let z = -0.6 - 0.1 * finding as f64 + 1.3 * normal(&mut rng);
            let (shift, slope) = if finding % 3 == 0 && group == 1 { (0.9, 0.2) } else { (0.0, 0.0) };
            rows.push(Row {
                patient: format!("p{patient:06}"),
                study: format!("1.{patient}"),
                finding: format!("finding-{finding:02}"),
                score: expit(z),
                outcome: rng.random::<f64>() < expit(-0.3 + z + shift + slope * z),
                group: GROUPS[group].into(),
                posteriors: Some(race.clone()),
                view: "PA".into(),
                date: None,
            });
        }
    }
    let model = |f| FindingModel { finding: format!("finding-{f:02}"), model: "clinical@1#0".into(), threshold: 0.5 };
    Cohort {
        race_model: Some("race@1#0".into()),
        groups: GROUPS.map(String::from).to_vec(),
        findings: (0..findings).map(model).collect(),
        rows,
        ..Cohort::default()
    }
}

/// Patients in order; for each finding z and outcome, then group and posteriors.
fn write(cohort: &Cohort, folder: &Path) {
    let findings = cohort.findings.len();
    let save = |name: &str, values: Vec<f64>| {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        fs::write(folder.join(name), bytes).expect("the folder is writable");
    };
    let column = |f: usize| cohort.rows.iter().skip(f).step_by(findings);
    save("z", (0..findings).flat_map(|f| column(f).map(|r| logit(r.score))).collect());
    save("outcome", (0..findings).flat_map(|f| column(f).map(|r| f64::from(u8::from(r.outcome)))).collect());
    let group = |r: &Row| GROUPS.iter().position(|g| *g == r.group).expect("a group of the world") as f64;
    save("group", column(0).map(group).collect());
    save("posteriors", column(0).flat_map(|r| r.posteriors.clone().expect("the race model ran")).collect());
}

fn main() {
    // Cargo adds a word of its own.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let [patients, findings, draws, folder, rest @ ..] = arguments.as_slice() else {
        eprintln!("usage: profile PATIENTS FINDINGS DRAWS FOLDER [write]");
        std::process::exit(2);
    };
    let number = |text: &String| text.parse::<usize>().expect("a number");
    let cohort = cohort(number(patients), number(findings));
    if rest.iter().any(|word| word == "write") {
        write(&cohort, Path::new(folder));
    }
    let options = FitOptions {
        site: "bench".into(),
        bootstrap: number(draws),
        seed: 1,
        delta: DELTA,
        fitted_at: chrono::DateTime::from_timestamp(1_700_000_000, 0).expect("a moment"),
    };
    let start = Instant::now();
    let profile = fit(&cohort, &options).expect("the world can be fitted");
    let seconds = start.elapsed().as_secs_f64();
    let finding = |f: &sidelight::assess::FindingProfile| {
        let curves = f.curves.as_ref().expect("every group is large");
        json!({
            "statistic": f.gate.map(|g| g.statistic), "p": f.gate.map(|g| g.p),
            "calibration_error": f.race.as_ref().map(|r| r.calibration_error),
            "elevated": f.elevated.iter().map(|e| e.patients.unwrap_or(0)).collect::<Vec<_>>(),
            "critical": [curves.critical.error, curves.critical.spread, curves.critical.excess, curves.critical.expected],
            "z": [curves.z_low, curves.z_high], "knots": curves.scale.knots,
            "center": curves.scale.center, "scale": curves.scale.scale,
            "shift_sd": curves.shift_sd, "slope_sd": curves.slope_sd, "point": curves.point.values(),
        })
    };
    let findings: Vec<_> = profile.findings.iter().map(finding).collect();
    println!("{}", json!({"seconds": seconds, "threads": rayon::current_num_threads(), "findings": findings}));
}
