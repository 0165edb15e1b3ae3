//! What numbers, measures and verdicts of an audit are called, for people.
//!
//! Left out: where the words stand.

use super::PartialWarning;
use super::finding::Block;
use super::gaps::{Gap, Verdict};
use super::performance::{Estimate, Figure, Metric, Withheld};
use super::slice::Dimension;

/// What a gap comes to, for people.
pub fn in_words(gap: &Gap) -> String {
    let size = match gap.gap.told() {
        Some(e) => format!("the largest difference between groups is {}", estimate(&e)),
        None => "its size is withheld, since it would tell of few people".to_owned(),
    };
    let what = match gap.verdict {
        Verdict::Differs => "Groups differ".to_owned(),
        Verdict::DiffersWithinMargin => format!("Groups differ, by less than {}", gap.margin),
        Verdict::Equivalent => format!("No disparity beyond {}", gap.margin),
        Verdict::Undecided => "Indeterminate: neither a difference nor its absence is shown".to_owned(),
        Verdict::NotComparable => "Indeterminate: fewer than two groups have enough studies".to_owned(),
    };
    let p = gap.p_adjusted.map_or(String::new(), |_| format!(" (p {})", p(gap.p_adjusted)));
    format!("{what}; {size}{p}.")
}

pub(super) fn verdict(gap: &Gap) -> &'static str {
    match gap.verdict {
        Verdict::Differs => "groups differ",
        Verdict::DiffersWithinMargin => "groups differ within the margin",
        Verdict::Equivalent => "no disparity beyond the margin",
        Verdict::Undecided => "indeterminate: not shown either way",
        Verdict::NotComparable => "indeterminate: too few studies",
    }
}

pub(super) fn group(block: &Block) -> String {
    block.group.clone().unwrap_or_else(|| "all".to_owned())
}

pub(super) fn told(figure: &Figure) -> String {
    match figure {
        Figure::Told(e) => estimate(e),
        Figure::Withheld { withheld: Withheld::TooFew } => "too few".to_owned(),
        Figure::Withheld { withheld: Withheld::SmallCell } => "–".to_owned(),
        Figure::Withheld { withheld: Withheld::Undefined } => "none".to_owned(),
    }
}

pub(super) fn estimate(e: &Estimate) -> String {
    match (e.lower, e.upper) {
        (Some(lower), Some(upper)) => format!("{:.3} ({lower:.3} to {upper:.3})", e.value),
        _ => format!("{:.3}", e.value),
    }
}

pub(super) fn p(value: Option<f64>) -> String {
    value.map_or(String::new(), |p| if p < 0.001 { "< 0.001".to_owned() } else { format!("{p:.3}") })
}

/// What a metric is called.
pub fn named(metric: Metric) -> &'static str {
    match metric {
        Metric::Prevalence => "prevalence",
        Metric::FlagRate => "flag rate",
        Metric::FalseNegativeRate => "miss rate (FNR)",
        Metric::FalsePositiveRate => "false alarm rate (FPR)",
        Metric::PositivePredictiveValue => "positive predictive value",
        Metric::NegativePredictiveValue => "negative predictive value",
        Metric::Auroc => "area under the ROC curve",
        Metric::Auprc => "average precision",
        Metric::Brier => "Brier score",
        Metric::CalibrationIntercept => "calibration intercept",
        Metric::CalibrationSlope => "calibration slope",
        Metric::CalibrationError => "expected calibration error",
        Metric::NetBenefit => "net benefit",
    }
}

pub(super) fn short(metric: Metric) -> &'static str {
    match metric {
        Metric::FalseNegativeRate => "FNR",
        Metric::FalsePositiveRate => "FPR",
        Metric::PositivePredictiveValue => "PPV",
        Metric::NegativePredictiveValue => "NPV",
        Metric::Auroc => "AUROC",
        Metric::Auprc => "AUPRC",
        Metric::Brier => "Brier",
        Metric::CalibrationIntercept => "intercept",
        Metric::CalibrationSlope => "slope",
        Metric::NetBenefit => "net benefit",
        other => named(other),
    }
}

pub(super) fn dimension(of: Dimension) -> &'static str {
    match of {
        Dimension::Site => "site",
        Dimension::Device => "device",
        Dimension::View => "view",
        Dimension::Portable => "portable or fixed",
        Dimension::AgeBand => "age",
        Dimension::Sex => "sex",
        Dimension::BodyMass => "body mass index",
        Dimension::Month => "month",
        Dimension::Version => "model version",
    }
}

pub(super) fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

pub(super) fn warned(warning: &PartialWarning) -> String {
    match warning {
        PartialWarning::LabelsContradictPosteriors { group, p } => format!(
            "Those who reported {group} are another share of the labelled than the race model says (p {p:.3}): its posteriors \
             are not calibrated here, or who is labelled depends on race. The estimates that use them may be wrong."
        ),
        PartialWarning::SmallPropensity { smallest } => format!(
            "Some studies are labelled with a probability of {smallest:.3} only: AIPW leans on few others in their place."
        ),
        PartialWarning::ManyDeclined { share } => {
            format!("{:.0} % declined to say: nobody can tell whether they are like the others.", 100.0 * share)
        }
        PartialWarning::PropensityNotFitted => {
            "Who is labelled could not be modelled: the share of all stands for everybody.".to_owned()
        }
        PartialWarning::WithoutPosterior { share } => format!(
            "{:.0} % of the studies have no posterior and are in no estimate but that of the labelled.",
            100.0 * share
        ),
    }
}
