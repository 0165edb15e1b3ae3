//! A change of calibration in one group: how soon does the monitor see it, and how often does it cry wolf?
//!
//! The monitor watches newly labelled cases month by month: for every group two sums of log-likelihood ratios of the
//! outcomes against the profile's c_g(s), for odds twice and half as large. The limit of each promises so many results per
//! false alarm that all together give one in [`MONTHS`] months. Left out: what an alarm suspends, which is the node's.

use rand::{Rng, SeedableRng};
use rayon::prelude::*;

use super::scene::{Race, Scene};
use super::{Bench, Check, Plot, Section, Table, ValidateError, percent};
use crate::assess::estimates;
use crate::phantom::scores::{ScoreDrift, ScoreWorld, ScoredStudy};
use crate::plot::{Lines, Panel, Point, Series};
use crate::stats::{Cusum, error_log_ratio, quantile};

/// Months per false alarm that are promised, and until a stream ends.
const MONTHS: u32 = 60;
/// A shift of 1 logit must be seen within so many months, by half of the streams and by nine of ten.
const DELAY_MEDIAN: f64 = 2.0;
const DELAY_LATE: f64 = 4.0;
/// The odds ratios that the sums are made for.
const RATIOS: [f64; 2] = [2.0, 0.5];
/// Streams that are watched with the same profile.
const STREAMS: usize = 10;

/// Where the monitor takes c_g(s) from.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Reference {
    Truth,
    Profile,
}

pub(super) fn run(bench: &Bench<'_>) -> Result<Section, ValidateError> {
    let world = bench.world("drift")?;
    let drift = world.drift.clone().ok_or(ValidateError::World("drift"))?;
    let streams = bench.count(20, 400);
    let mut table = Table {
        name: "drift",
        title: format!("{streams} streams of {} studies a month", drift.studies_per_month),
        columns: vec![
            "reference",
            "shift of group B",
            "false alarms before the drift",
            "share of streams per 60 months",
            "median delay, months",
            "90 % seen within",
            "seen",
        ],
        rows: Vec::new(),
    };
    let mut points = Vec::new();
    let mut checks = Vec::new();
    for (place, (reference, shift)) in [
        (Reference::Truth, 0.0),
        (Reference::Profile, 0.0),
        (Reference::Profile, 0.5),
        (Reference::Profile, 0.75),
        (Reference::Profile, 1.0),
    ]
    .into_iter()
    .enumerate()
    {
        let drift = ScoreDrift {
            month: if shift == 0.0 { MONTHS } else { drift.month },
            shift: vec![0.0, shift, 0.0],
            ..drift.clone()
        };
        let world = ScoreWorld { drift: Some(drift.clone()), ..world.clone() };
        let part = 180 + place as u64;
        let profiles = match reference {
            Reference::Truth => Vec::new(),
            Reference::Profile => curves(bench, &world, part, streams)?,
        };
        let alarm = |k: usize| alarm(&world, &drift, profiles.get(k / STREAMS), bench.seed(part, k));
        let alarms: Vec<Option<u32>> = (0..streams).into_par_iter().map(alarm).collect();
        let early = alarms.iter().filter(|a| a.is_some_and(|m| m < drift.month)).count();
        let mut delays: Vec<f64> =
            alarms.iter().flatten().filter(|m| **m >= drift.month).map(|m| f64::from(m - drift.month + 1)).collect();
        let seen = delays.len();
        // A stream that saw nothing waits for ever.
        delays.resize(streams - early, f64::INFINITY);
        delays.sort_by(f64::total_cmp);
        let at = |p| quantile(&delays, p).filter(|d| d.is_finite());
        let months = |d: Option<f64>| d.map_or("–".into(), |d| format!("{d:.1}"));
        let share = early as f64 / streams as f64;
        let per_promise = share * f64::from(MONTHS) / f64::from(drift.month);
        let name = if reference == Reference::Truth { "true c_g" } else { "fitted profile" };
        let drifting = shift > 0.0;
        table.rows.push(vec![
            name.into(),
            shift.to_string(),
            format!("{early} of {streams} within {} months", drift.month),
            percent(per_promise),
            if drifting { months(at(0.5)) } else { "–".into() },
            if drifting { months(at(0.9)) } else { "–".into() },
            if drifting { format!("{seen} of {}", streams - early) } else { "–".into() },
        ]);
        if drifting {
            points.push(Point { x: shift, y: at(0.5).unwrap_or(f64::from(MONTHS)), limits: at(0.1).zip(at(0.9)) });
        } else {
            // An exponential waiting time with a mean of MONTHS ends within MONTHS in 1 − 1/e = 63 % of the streams.
            checks.push(Check::of(
                "drift-false-alarms",
                &format!("no drift, {name}"),
                "at most one false alarm in 60 months (63 % of streams alarm within 60)",
                format!("{} of streams", percent(share)),
                share <= 0.632,
            ));
        }
        if shift == 1.0 {
            let (median, late) = (at(0.5), at(0.9));
            checks.push(Check::of(
                "drift-delay",
                "a_B grows by 1",
                &format!("seen within {DELAY_MEDIAN} months by half and {DELAY_LATE} by 90 % of streams"),
                format!("{} and {} months", months(median), months(late)),
                median.is_some_and(|d| d <= DELAY_MEDIAN) && late.is_some_and(|d| d <= DELAY_LATE),
            ));
        }
    }
    Ok(Section {
        title: "Drift",
        text: vec![
            format!(
                "Two cumulative sums for every group watch newly labelled outcomes against the profile's curves; each promises so \
                 many results per false alarm that the six together give one in {MONTHS} months on average (Lorden's bound, \
                 which is cautious). A month counts as seen when its results are in."
            ),
            "The promise is for true curves. A fitted profile is a little off, which the sums can forgive as long as it is less \
             than about half the ratio that they look for: the second row is of fitted ones."
                .into(),
        ],
        checks,
        tables: vec![table],
        plots: vec![Plot {
            name: "drift",
            lines: Lines {
                title: "Months until an alarm (median, 10–90 %)".into(),
                x: "growth of a_B, logit".into(),
                panels: vec![Panel {
                    y: "months".into(),
                    range: Some((0.0, 24.0)),
                    series: vec![Series::joined("fitted profile", points)],
                    rules: vec![DELAY_MEDIAN.into()],
                    ..Panel::default()
                }],
                ..Lines::default()
            },
        }],
    })
}

/// The curves of a profile for every [`STREAMS`] streams: fitting costs more than watching.
fn curves(bench: &Bench<'_>, world: &ScoreWorld, part: u64, streams: usize) -> Result<Vec<Curve>, ValidateError> {
    let fitted = |k: usize| {
        let scene = Scene::new(world, Race::Without, bench.seed(part, k) ^ 0xd41f7, 60);
        scene.map(|s| Curve::of(&s, world.groups.len())).ok_or_else(|| ValidateError::Profile(world.name.clone()))
    };
    (0..streams.div_ceil(STREAMS)).into_par_iter().map(fitted).collect()
}

/// The month of the first alarm of one stream. Without a profile the true curves are known.
fn alarm(world: &ScoreWorld, drift: &ScoreDrift, profile: Option<&Curve>, seed: u64) -> Option<u32> {
    let after = world.drifted();
    let before = ScoreWorld { drift: None, ..world.clone() };
    let mut monitor = Monitor::new(world, drift);
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed ^ 0x717e);
    for month in 0..MONTHS {
        let law = if month < drift.month { &before } else { &after };
        for study in law.draw(drift.studies_per_month, rng.random()) {
            let event = match profile {
                Some(curve) => curve.at(study.group, study.z),
                None => Some(before.event(study.group, study.z)),
            };
            if event.is_some_and(|event| monitor.add(&study, event)) {
                return Some(month);
            }
        }
    }
    None
}

/// Two sums for every group.
struct Monitor {
    sums: Vec<[Cusum; 2]>,
}

impl Monitor {
    fn new(world: &ScoreWorld, drift: &ScoreDrift) -> Self {
        let sums = 2.0 * world.groups.len() as f64;
        let results = |share: f64| f64::from(MONTHS) * sums * share * drift.studies_per_month as f64;
        Self { sums: world.shares().into_iter().map(|share| [Cusum::with_run_length(results(share)); 2]).collect() }
    }

    fn add(&mut self, study: &ScoredStudy, event: f64) -> bool {
        let alarms = self.sums[study.group]
            .iter_mut()
            .zip(RATIOS)
            .map(|(sum, ratio)| sum.add(error_log_ratio(study.outcome, event, ratio)));
        alarms.fold(false, |any, alarm| any | alarm)
    }
}

/// The profile's c_g on a grid of z, so that a stream of thousands of studies need not evaluate every draw for each.
struct Curve {
    low: f64,
    step: f64,
    events: Vec<Vec<Option<f64>>>,
}

impl Curve {
    const POINTS: usize = 101;

    fn of(scene: &Scene<'_>, groups: usize) -> Self {
        let range = scene.entry().curves.as_ref().map_or((0.0, 0.0), |c| (c.z_low, c.z_high));
        let step = (range.1 - range.0) / (Self::POINTS - 1) as f64;
        let at = |k: usize| {
            let score = crate::stats::expit(range.0 + step * k as f64);
            let errors = estimates(scene.entry(), score, false, None).map(|e| e.errors);
            errors.map_or(vec![None; groups], |e| e.into_iter().map(|e| e.map(|e| e.estimate)).collect())
        };
        Self { low: range.0, step, events: (0..Self::POINTS).map(at).collect() }
    }

    /// None beyond the scores that the profile covers.
    fn at(&self, group: usize, z: f64) -> Option<f64> {
        let index = ((z - self.low) / self.step).round();
        (self.step > 0.0 && index >= 0.0).then(|| *self.events.get(index as usize)?.get(group)?).flatten()
    }
}
