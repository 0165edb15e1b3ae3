//! One finding, whole: its blocks, tables, gaps and what else is asked of it, with small cells taken away.
//!
//! Neighbours: the other files of the room have the parts. Left out: what findings have in common, which is `audit`'s.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Options;
use super::dataset::{Base, Dataset, Row};
use super::drift::{Drift, drift};
use super::gaps::{FindingGaps, GapOptions, gaps};
use super::matched::{MATCHED, Matched, matched};
use super::partial::{Partial, RateAndGap, partial};
use super::performance::{Confusion, Figure, Metric, Performance, Withheld, performance};
use super::resample::{Limits, Resampled};
use super::slice::{Dimension, Sliced};
use super::suppress::{Lines, Told, table};
use super::thresholds::{Curve, curves};
use super::versions::{VersionComparison, versions};

/// Everything of a finding.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FindingAudit {
    pub finding: String,
    /// By precedence.
    pub models: Vec<Model>,
    pub overall: Block,
    pub groups: Vec<Block>,
    pub gaps: FindingGaps,
    pub slices: Vec<SliceTable>,
    pub matched: Option<Matched>,
    /// False negative and false positive rate, where self-report is known for some.
    pub partial: Vec<Partial>,
    pub curves: Vec<Curve>,
    pub drift: Drift,
    pub versions: Vec<VersionComparison>,
}

/// A version of the clinical model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Model {
    pub model: String,
    pub version: String,
    pub threshold: f64,
}

/// One group, or all, of one slice.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Block {
    /// None: all studies, with a group or without.
    pub group: Option<String>,
    pub counts: Counts,
    pub metrics: BTreeMap<Metric, Figure>,
}

/// Studies with a known outcome, as far as they are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub studies: Option<usize>,
    /// Of totals only.
    pub patients: Option<usize>,
    pub events: Option<usize>,
    pub true_positives: Option<usize>,
    pub false_negatives: Option<usize>,
    pub false_positives: Option<usize>,
    pub true_negatives: Option<usize>,
}

/// Every level of a dimension.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SliceTable {
    pub dimension: Dimension,
    pub levels: Vec<LevelBlocks>,
}

/// One level.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LevelBlocks {
    pub level: String,
    pub overall: Block,
    pub groups: Vec<Block>,
}

/// What several parts need.
pub(super) struct Prepared {
    finding: usize,
    base: Base,
    groups: usize,
    lines: Lines,
}

impl Prepared {
    pub(super) fn of(dataset: &Dataset, finding: usize) -> Self {
        let (base, groups) = (dataset.base(finding), dataset.groups.len());
        let never: Vec<bool> = (0..=groups).map(|g| g == groups).collect();
        let lines = Lines::of(&base.rows, &|row| row.group, &never);
        Self { finding, base, groups, lines }
    }

    fn part(&self, group: usize) -> Base {
        self.base.part(|row| row.group == group)
    }

    /// All, then each group.
    pub(super) fn resampled(&self) -> Vec<Resampled> {
        let groups = (0..self.groups).map(|g| Resampled::of(&self.part(g)));
        std::iter::once(Resampled::of(&self.base)).chain(groups).collect()
    }

    /// Whether the studies of every group are told.
    pub(super) fn tells_groups(&self) -> bool {
        (0..self.groups).all(|g| self.lines.line(g).studies)
    }

    /// `limits` in the order of [`Prepared::resampled`].
    pub(super) fn audit(&self, dataset: &Dataset, options: &Options, limits: &[Limits]) -> FindingAudit {
        let names = &dataset.groups;
        let of = &dataset.findings[self.finding];
        let overall = performance(&self.base, limits[0]);
        let of_group: Vec<Performance> = (0..self.groups).map(|g| performance(&self.part(g), limits[g + 1])).collect();
        let seed = options.gaps.seed ^ (self.finding as u64) << 40;
        let mut found = gaps(&self.base, names, &of_group, &GapOptions { seed, ..options.gaps });
        self.hide_gaps(&mut found, names);
        let model =
            |m: &super::Scored| Model { model: m.model.clone(), version: m.version.clone(), threshold: m.threshold };
        let block = |g: usize| Block::of(Some(&names[g]), &of_group[g], self.lines.line(g), true);
        let mut deployed: Vec<f64> = self.base.rows.iter().map(|row| row.threshold).collect();
        deployed.sort_by(f64::total_cmp);
        deployed.dedup();
        let told = |group: Option<usize>| group.map_or(self.lines.whole(), |g| self.lines.line(g));
        let months = dataset.sliced(Dimension::Month, self.finding);
        let strata = [Dimension::View, Dimension::Device].map(|d| (d, dataset.sliced(d, self.finding)));
        let by: Vec<(Dimension, &Sliced)> = strata.iter().map(|(d, sliced)| (*d, sliced)).collect();
        FindingAudit {
            finding: of.finding.clone(),
            models: of.models.iter().map(model).collect(),
            overall: Block::of(None, &overall, self.lines.whole(), true),
            groups: (0..self.groups).map(block).collect(),
            gaps: found,
            slices: options.dimensions.iter().map(|d| self.slice(dataset, *d)).collect(),
            matched: self.matched(dataset, &options.matched_by),
            partial: self.partial(dataset),
            curves: curves(&self.base, names, &told, &deployed),
            drift: drift(dataset, self.finding, &self.base, &by, &months, &options.drift),
            versions: versions(dataset, self.finding),
        }
    }

    fn slice(&self, dataset: &Dataset, dimension: Dimension) -> SliceTable {
        let sliced = dataset.sliced(dimension, self.finding);
        let count = sliced.levels.len();
        let level = |row: &Row| sliced.level[row.study];
        let told = table(&self.base.rows, &self.lines, &|row| row.group, &level, count);
        let mut parts: Vec<Base> = vec![Base::default(); count];
        self.base.rows.iter().for_each(|row| parts[level(row)].rows.push(*row));
        let blocks = |(l, part): (usize, &Base)| {
            let of = |part: &Base| performance(part, Limits::default());
            let group = |g: usize| {
                let part = part.part(|row| row.group == g);
                Block::of(Some(&dataset.groups[g]), &of(&part), told.cells[g * count + l], false)
            };
            LevelBlocks {
                level: sliced.levels[l].clone(),
                overall: Block::of(None, &of(part), told.columns.line(l), false),
                groups: (0..self.groups).map(group).collect(),
            }
        };
        SliceTable { dimension, levels: parts.iter().enumerate().map(blocks).collect() }
    }

    /// Levels of what is matched are one number.
    fn matched(&self, dataset: &Dataset, by: &[Dimension]) -> Option<Matched> {
        let sliced: Vec<Sliced> = by.iter().map(|d| dataset.sliced(*d, self.finding)).collect();
        let stratum =
            |row: &Row| sliced.iter().fold(0usize, |at, s| at.wrapping_mul(s.levels.len()) + s.level[row.study]);
        let groups: Vec<usize> = (0..self.groups).filter(|g| self.lines.line(*g).events).collect();
        let mut found = matched(&self.base, &dataset.groups, &groups, by, &stratum)?;
        let is_hidden = |metric: Metric, name: &str| {
            let at = dataset.groups.iter().position(|g| g == name);
            at.is_none_or(|g| !is_told(metric, self.lines.line(g)))
        };
        for metric in MATCHED.into_iter().filter(|metric| is_count(*metric)) {
            let any = groups.iter().any(|g| is_hidden(metric, &dataset.groups[*g]));
            for one in found.metrics.iter_mut().filter(|m| m.metric == metric && any) {
                (one.crude_gap, one.matched_gap) = (SMALL, SMALL);
            }
        }
        for one in found.metrics.iter_mut().filter(|m| is_hidden(m.metric, &m.group)) {
            (one.crude, one.matched, one.crude_gap, one.matched_gap) = (SMALL, SMALL, SMALL, SMALL);
        }
        Some(found)
    }

    fn partial(&self, dataset: &Dataset) -> Vec<Partial> {
        let of = |metric: Metric| {
            let mut found = partial(dataset, &self.base, metric)?;
            let hidden: Vec<bool> = (0..self.groups).map(|g| !is_told(metric, self.lines.line(g))).collect();
            for (group, is_hidden) in found.groups.iter_mut().zip(&hidden) {
                let RateAndGap { rate, gap } = &mut group.labelled_only;
                if *is_hidden {
                    *rate = SMALL;
                }
                if hidden.contains(&true) {
                    *gap = SMALL;
                }
            }
            Some(found)
        };
        [Metric::FalseNegativeRate, Metric::FalsePositiveRate].into_iter().filter_map(of).collect()
    }

    /// A gap gives a rate away to whoever knows the others.
    fn hide_gaps(&self, found: &mut FindingGaps, names: &[String]) {
        let is_hidden = |metric: Metric, group: &String| {
            let at = names.iter().position(|name| name == group);
            at.is_none_or(|g| !is_told(metric, self.lines.line(g)))
        };
        for gap in &mut found.primary {
            if is_count(gap.metric) && gap.groups.iter().any(|group| is_hidden(gap.metric, group)) {
                gap.gap = SMALL;
                gap.against_rest.iter_mut().for_each(|a| a.difference = SMALL);
            }
        }
        let any = |metric: Metric| found.secondary.iter().any(|a| a.metric == metric && is_hidden(metric, &a.group));
        let hidden: Vec<bool> = found.secondary.iter().map(|a| is_count(a.metric) && any(a.metric)).collect();
        for (against, is_hidden) in found.secondary.iter_mut().zip(hidden) {
            if is_hidden {
                against.difference = SMALL;
            }
        }
    }
}

/// A p value of a figure that is withheld gives it away to whoever tries the ten numbers that it can be of.
pub(super) fn hide_p_values(found: &mut FindingGaps) {
    for gap in found.primary.iter_mut().filter(|gap| gap.gap == SMALL) {
        (gap.p, gap.p_adjusted, gap.p_equivalence) = (None, None, None);
    }
    let primary = found.primary.iter_mut().flat_map(|gap| &mut gap.against_rest);
    for against in primary.chain(&mut found.secondary).filter(|against| against.difference == SMALL) {
        (against.p, against.p_adjusted) = (None, None);
    }
}

const SMALL: Figure = Figure::Withheld { withheld: Withheld::SmallCell };

/// Whether a metric is a fraction of counts, which it gives away.
fn is_count(metric: Metric) -> bool {
    use Metric::{
        FalseNegativeRate, FalsePositiveRate, FlagRate, NegativePredictiveValue, NetBenefit, PositivePredictiveValue,
        Prevalence,
    };
    let rates = [FlagRate, FalseNegativeRate, FalsePositiveRate, PositivePredictiveValue, NegativePredictiveValue];
    rates.contains(&metric) || [NetBenefit, Prevalence].contains(&metric)
}

/// Whether a metric may be told with these counts.
fn is_told(metric: Metric, told: Told) -> bool {
    match metric {
        Metric::FalseNegativeRate => told.misses,
        Metric::FalsePositiveRate => told.alarms,
        Metric::Prevalence => told.events,
        metric if is_count(metric) => told.misses && told.alarms,
        _ => told.events,
    }
}

impl Block {
    fn of(group: Option<&String>, of: &Performance, told: Told, is_total: bool) -> Self {
        let metric =
            |(metric, figure): (&Metric, &Figure)| (*metric, if is_told(*metric, told) { *figure } else { SMALL });
        Self {
            group: group.cloned(),
            counts: Counts::of(&of.counts, told, is_total),
            metrics: of.figures.iter().map(metric).collect(),
        }
    }
}

impl Counts {
    fn of(of: &Confusion, told: Told, is_total: bool) -> Self {
        Self {
            studies: told.studies.then_some(of.all.studies),
            patients: (told.studies && is_total).then_some(of.all.patients),
            events: told.events.then_some(of.events.studies),
            true_positives: told.misses.then_some(of.true_positive.studies),
            false_negatives: told.misses.then_some(of.false_negative.studies),
            false_positives: told.alarms.then_some(of.false_positive.studies),
            true_negatives: told.alarms.then_some(of.true_negative.studies),
        }
    }
}
