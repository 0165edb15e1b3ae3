//! The report as a person reads it on a terminal or a web page: flag, score, threshold, expected error, reason.
//!
//! Shows what a destination with the same disclosure would receive, no more. Neighbours: `numbers` writes the
//! percentages exactly as the Structured Report does. Left out: patient data, which an assessment does not hold.

use std::fmt::Write as _;

use super::numbers;
use super::{LIMITATIONS, PHANTOMS_ONLY};
use crate::domain::{
    Assessment, DigestOf, Direction, Disclosed, Disclosure, FindingAssessment, FindingEvidence, IndReason, Interval,
    Level, ModelIdentity,
};

/// Renders an assessment as plain text, lines ended by `\n`.
pub fn render(assessment: &Assessment, evidence: &[FindingEvidence], disclosure: Disclosure) -> String {
    let mut out = String::with_capacity(2048);
    line(&mut out, 0, "Race-dependent error risk of AI results");
    for finding in &assessment.findings {
        out.push('\n');
        render_finding(&mut out, finding, disclosure);
        let own = |e: &&FindingEvidence| e.model == finding.clinical.key() && e.finding == finding.finding.key;
        evidence.iter().filter(own).for_each(|evidence| render_evidence(&mut out, evidence));
    }
    out.push('\n');
    match assessment.max_level() {
        Some(level) => line(&mut out, 0, &format!("Highest flag: {}", coded(level.code()))),
        None => line(&mut out, 0, "No finding was assessed"),
    }
    line(&mut out, 0, &format!("Audit model: {}", model(&assessment.audit)));
    line(&mut out, 0, &format!("Reference profile: {}", assessment.profile));
    let phantoms_only = assessment.audit.phantoms_only || assessment.findings.iter().any(|f| f.clinical.phantoms_only);
    line(&mut out, 0, &format!("{}{LIMITATIONS}", if phantoms_only { PHANTOMS_ONLY } else { "" }));
    out
}

fn render_finding(out: &mut String, f: &FindingAssessment, disclosure: Disclosure) {
    let result = match f.positive {
        Some(true) => "AI result POSITIVE",
        Some(false) => "AI result NEGATIVE",
        None => "no AI result",
    };
    line(out, 0, &format!("{}: {result}", f.finding.code.meaning));
    line(out, 1, &format!("Flag: {}", coded(f.level.code())));
    match f.score {
        Some(score) => {
            let (score, threshold) = numbers::score_and_threshold(score.get(), f.finding.threshold.get());
            line(out, 1, &format!("Score {score} %, decision threshold {threshold} %"));
        }
        None => {
            line(out, 1, &format!("No score, decision threshold {} %", numbers::percent(f.finding.threshold.get())))
        }
    }
    if f.level == Level::Indeterminate {
        if let Some(reason) = f.reasons.first() {
            line(out, 1, &format!("Reason: {}", coded(reason.code())));
        }
    } else {
        let error = match f.direction {
            Some(Direction::FalseAlarm) => "Expected probability of false alarm at this score",
            Some(Direction::Miss) | None => "Expected probability of missed finding at this score",
        };
        interval(out, 1, error, f.expected_error.as_ref(), 0);
        interval(out, 1, "Range of error probability across racial groups, R", f.spread.as_ref(), 0);
        withheld_part(out, &f.reasons);
        if let Some(disclosed) = f.disclosed.as_ref().filter(|_| disclosure == Disclosure::Probabilities) {
            render_disclosed(out, disclosed);
        }
    }
    line(out, 1, &format!("Clinical model: {}", model(&f.clinical)));
}

/// Reasons that left the flag standing and withheld only what concerns the individual.
fn withheld_part(out: &mut String, reasons: &[IndReason]) {
    for reason in reasons {
        line(out, 1, &format!("Without individual excess: {}", coded(reason.code())));
    }
}

fn render_disclosed(out: &mut String, disclosed: &Disclosed) {
    interval(out, 1, "Excess error probability given image, D", disclosed.excess.as_ref(), -100);
    for g in &disclosed.groups {
        line(out, 1, &format!("{}: estimated probability {} %", g.group.code.meaning, numbers::percent(g.posterior)));
        interval(out, 2, "error probability at this score", g.error.as_ref(), 0);
    }
}

/// Of the model, whoever the patient is.
fn render_evidence(out: &mut String, evidence: &FindingEvidence) {
    let patients = evidence.patients;
    line(out, 1, &format!("Evidence on this model from {patients} patients here: {}", evidence.reliance.sentence()));
    for (kind, interval) in &evidence.lines {
        if let Some(r) = numbers::plain_range(interval) {
            line(out, 2, &format!("{}: {} (95 % interval {} to {})", kind.title(), r.estimate, r.lower, r.upper));
        }
    }
}

fn interval(out: &mut String, depth: usize, name: &str, interval: Option<&Interval>, lowest: i64) {
    if let Some(r) = interval.and_then(|i| numbers::range(i, lowest, 100)) {
        line(out, depth, &format!("{name}: {} % (95 % interval {} to {} %)", r.estimate, r.lower, r.upper));
    }
}

fn coded((value, meaning): (&str, &str)) -> String {
    format!("{meaning} ({value})")
}

fn model(m: &ModelIdentity) -> String {
    let mut text = format!("{} {} by {}", m.name, m.version, m.manufacturer);
    match m.digest_of {
        DigestOf::Card => text.push_str(&format!(", card {}", m.weights.short())),
        DigestOf::Weights if !m.contract.is_empty() => text.push_str(&format!(", weights {}", m.weights.short())),
        DigestOf::Weights => {}
    }
    if !m.contract.is_empty() {
        let _ = write!(text, ", input {}", m.contract);
    }
    text
}

fn line(out: &mut String, depth: usize, text: &str) {
    let _ = writeln!(out, "{:indent$}{text}", "", indent = depth * 2);
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assessment, disclosed, evidence_on, indeterminate, positive};
    use super::*;

    #[test]
    fn a_person_sees_flag_score_threshold_error_and_range() {
        let text = render(&assessment(vec![positive()]), &[], Disclosure::Withheld);
        for expected in [
            "Pleural effusion: AI result POSITIVE\n",
            "  Flag: No elevated race-dependent error risk found (RDER-NONE)\n",
            "  Score 83 %, decision threshold 50 %\n",
            "  Expected probability of false alarm at this score: 6 % (95 % interval 4 to 8.5 %)\n",
            "  Range of error probability across racial groups, R: 1.5 % (95 % interval 0.5 to 3 %)\n",
            "Highest flag: No elevated race-dependent error risk found (RDER-NONE)\n",
            "Reference profile: site-2026-03\n",
            "PHANTOMS ONLY",
        ] {
            assert!(text.contains(expected), "{expected:?} is not in\n{text}");
        }
    }

    #[test]
    fn groups_are_named_only_when_disclosed() {
        let a = assessment(vec![disclosed()]);
        let withheld = render(&a, &[], Disclosure::Withheld);
        for word in ["Asian", "Black", "White", "Excess", "estimated probability"] {
            assert!(!withheld.contains(word), "{word} in\n{withheld}");
        }
        let open = render(&a, &[], Disclosure::Probabilities);
        for word in ["Asian", "Black", "White", "Excess", "estimated probability 62.5 %"] {
            assert!(open.contains(word), "{word} not in\n{open}");
        }
    }

    #[test]
    fn an_indeterminate_finding_shows_its_reason_and_no_estimate() {
        let text = render(&assessment(vec![indeterminate(IndReason::Cells)]), &[], Disclosure::Withheld);
        assert!(text.contains("Reason: Too few reference patients in a group (IND-CELLS)"), "{text}");
        assert!(!text.contains("interval"), "{text}");
    }

    #[test]
    fn evidence_is_of_the_model_and_says_no_more_than_it_shows() {
        let evidence = evidence_on(&positive());
        let text =
            render(&assessment(vec![positive(), disclosed()]), std::slice::from_ref(&evidence), Disclosure::Withheld);
        for expected in [
            "  Evidence on this model from 412 patients here: consistent with reliance on image features",
            "    Co-movement of finding and race scores, slope: 0.31 (95 % interval 0.215 to 0.405)\n",
        ] {
            assert_eq!(text.matches(expected).count(), 1, "{expected:?} in\n{text}");
        }
        for word in ["Asian", "Black", "White", "uses race"] {
            assert!(!text.contains(word), "{word} in\n{text}");
        }
    }
}
