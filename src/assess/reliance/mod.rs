//! Reliance: what lines of evidence are, and what several of them come to (method.md §3).
//!
//! `comovement` computes a line from answers to changed images, `gradients` two from a white-box model's gradients,
//! `leakage` one from its features. All are of a site's patients together. Nothing here says that a model uses race: two
//! lines that agree, with controls that passed, are "consistent with reliance", and less is no statement. Neighbours:
//! `stats` below, the commands above. Left out: running models.

mod comovement;
mod gradients;
mod leakage;

pub use comovement::{CoMovementOptions, Observed, co_movement, shared_variation};
pub use gradients::{Directed, Followed, directed};
pub use leakage::{Features, LeakageOptions, heads, leakage};

use crate::domain::{Control, Evidence, EvidenceLine, FindingEvidence, LineKind, Reliance};

/// After Holm, a line at or below it rejects.
const ALPHA: f64 = 0.05;

/// Why there is no line.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum NoLine {
    #[error("{0} patients, at least {1} are needed")]
    TooFew(usize, usize),
    #[error("{0}")]
    Unusable(String),
}

/// What the lines of one finding say of reliance.
///
/// Two lines of different families agree if both reject for the same group, on the same side of zero; leakage has no
/// side. Alignment and dose response are one family: a small step along a direction is its cosine over again.
/// A line that rejects and whose control failed spoils the statement, whatever the others say: what made the control
/// react may be in them too.
pub fn reliance(lines: &[&EvidenceLine]) -> Reliance {
    let families: std::collections::BTreeSet<u8> =
        lines.iter().filter(|line| line.control != Control::Absent).map(|line| family(line.kind)).collect();
    if lines.iter().any(|line| rejects(line) && line.control == Control::Failed) {
        return Reliance::ControlsFailed;
    }
    if families.len() < 2 {
        return Reliance::Insufficient;
    }
    let sound: Vec<&&EvidenceLine> = lines.iter().filter(|line| is_sound(line)).collect();
    let agree = |a: &EvidenceLine, b: &EvidenceLine| {
        let same_side = side(a).zip(side(b)).is_none_or(|(a, b)| a == b);
        family(a.kind) != family(b.kind) && a.group == b.group && same_side
    };
    if sound.iter().any(|a| sound.iter().any(|b| agree(a, b))) { Reliance::Consistent } else { Reliance::NotShown }
}

fn rejects(line: &EvidenceLine) -> bool {
    line.p <= ALPHA && side(line) != Some(0)
}

fn is_sound(line: &EvidenceLine) -> bool {
    rejects(line) && line.control == Control::Passed
}

fn family(kind: LineKind) -> u8 {
    match kind {
        LineKind::CoMovement => 0,
        LineKind::GradientAlignment | LineKind::DoseResponse => 1,
        LineKind::Leakage => 2,
    }
}

/// The side of zero on which the whole interval lies, 0 where it does not; none of a leakage, whose AUC has no side but
/// that of being above one half.
fn side(line: &EvidenceLine) -> Option<i8> {
    match line.kind {
        LineKind::Leakage => (line.value.lower <= 0.5).then_some(0),
        _ if line.value.lower > 0.0 => Some(1),
        _ if line.value.upper < 0.0 => Some(-1),
        _ => Some(0),
    }
}

/// What a file of lines says of a model's finding, without any group: it is the same for every patient, and a reader
/// learns nothing of one from it. None where there is no line of its own.
pub fn finding_evidence(evidence: &Evidence, model: &str, finding: &str) -> Option<FindingEvidence> {
    let of_model = evidence.lines.iter().filter(|line| line.model == model);
    let lines: Vec<&EvidenceLine> =
        of_model.filter(|line| line.finding.as_deref().is_none_or(|of| of == finding)).collect();
    let reliance = reliance(&lines);
    let mut told: Vec<&EvidenceLine> = Vec::new();
    // A number without its test would say more than was found; where nothing is claimed none is told.
    for line in lines.iter().copied().filter(|line| reliance == Reliance::Consistent && is_sound(line)) {
        // Of several groups the one that says most.
        match told.iter_mut().find(|known| known.kind == line.kind) {
            Some(known) if line.p < known.p => *known = line,
            Some(_) => {}
            None => told.push(line),
        }
    }
    told.sort_by_key(|line| line.kind);
    lines.iter().any(|line| line.finding.is_some()).then(|| FindingEvidence {
        model: model.to_owned(),
        finding: finding.to_owned(),
        reliance,
        lines: told.iter().map(|line| (line.kind, line.value)).collect(),
        patients: lines.iter().map(|line| line.patients).min().unwrap_or_default(),
    })
}

/// Lines with what their controls say: p-values, adjusted together as well, so that of controls that have nothing to say
/// one run in twenty fails.
fn controlled(mut lines: Vec<EvidenceLine>, controls: &[Option<f64>]) -> Vec<EvidenceLine> {
    let known: Vec<f64> = controls.iter().flatten().copied().collect();
    let mut adjusted = crate::stats::holm(&known).into_iter();
    for (line, control) in lines.iter_mut().zip(controls) {
        line.control = match control.and_then(|_| adjusted.next()) {
            None => Control::Absent,
            Some(p) if p > ALPHA => Control::Passed,
            Some(_) => Control::Failed,
        };
    }
    lines
}

/// Lines with p-values adjusted together (Holm).
fn adjusted(mut lines: Vec<EvidenceLine>) -> Vec<EvidenceLine> {
    let p = crate::stats::holm(&lines.iter().map(|line| line.p).collect::<Vec<_>>());
    lines.iter_mut().zip(p).for_each(|(line, p)| line.p = p);
    lines
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::domain::Interval;

    fn line(kind: LineKind, group: &str, value: [f64; 3], p: f64, control: Control) -> EvidenceLine {
        let [lower, estimate, upper] = value;
        EvidenceLine {
            kind,
            model: "clinical".to_owned(),
            finding: (kind != LineKind::Leakage).then(|| "effusion".to_owned()),
            group: group.to_owned(),
            value: Interval { estimate, lower, upper },
            p,
            control,
            patients: 100,
        }
    }

    #[test]
    fn two_lines_that_agree_and_whose_controls_passed_are_needed() {
        use Control::{Absent, Failed, Passed};
        use LineKind::{CoMovement, DoseResponse, GradientAlignment, Leakage};
        let (up, down, flat) = ([0.1, 0.2, 0.3], [-0.3, -0.2, -0.1], [-0.1, 0.0, 0.1]);
        let check = |lines: &[EvidenceLine], expected: Reliance| {
            let lines: Vec<&EvidenceLine> = lines.iter().collect();
            assert_eq!(reliance(&lines), expected, "{lines:?}");
            let reversed: Vec<&EvidenceLine> = lines.iter().rev().copied().collect();
            assert_eq!(reliance(&reversed), expected, "in any order");
        };
        let comove = |value, p, control| line(CoMovement, "A", value, p, control);
        let dose = |group, value, p, control| line(DoseResponse, group, value, p, control);
        check(&[], Reliance::Insufficient);
        check(&[comove(up, 0.001, Passed)], Reliance::Insufficient);
        check(&[comove(up, 0.001, Passed), comove(up, 0.001, Passed)], Reliance::Insufficient);
        check(&[comove(up, 0.001, Passed), dose("A", up, 0.01, Passed)], Reliance::Consistent);
        check(&[comove(down, 0.001, Passed), dose("A", down, 0.01, Passed)], Reliance::Consistent);
        // Another side, another group, too large a p, an interval over zero.
        check(&[comove(up, 0.001, Passed), dose("A", down, 0.01, Passed)], Reliance::NotShown);
        check(&[comove(up, 0.001, Passed), dose("B", up, 0.01, Passed)], Reliance::NotShown);
        check(&[comove(up, 0.001, Passed), dose("A", up, 0.06, Passed)], Reliance::NotShown);
        check(&[comove(up, 0.001, Passed), dose("A", flat, 0.01, Passed)], Reliance::NotShown);
        // Controls: failed where it rejects, or none.
        check(&[comove(up, 0.001, Failed), dose("A", up, 0.01, Passed)], Reliance::ControlsFailed);
        check(&[comove(up, 0.2, Failed), dose("A", up, 0.01, Passed)], Reliance::NotShown);
        check(&[comove(up, 0.001, Absent), dose("A", up, 0.01, Passed)], Reliance::Insufficient);
        let align = line(GradientAlignment, "A", up, 0.001, Passed);
        check(&[comove(up, 0.001, Passed), align.clone()], Reliance::Consistent);
        // One gradient, looked at twice.
        check(&[comove(up, 0.001, Absent), dose("A", up, 0.01, Passed), align.clone()], Reliance::Insufficient);
        check(&[comove(up, 0.2, Passed), dose("A", up, 0.01, Passed), align], Reliance::NotShown);
        // Leakage agrees with either side, and is none at an AUC of one half.
        let leak = |value| line(Leakage, "A", value, 0.001, Passed);
        check(&[comove(down, 0.001, Passed), leak([0.6, 0.7, 0.8])], Reliance::Consistent);
        check(&[comove(down, 0.001, Passed), leak([0.45, 0.55, 0.65])], Reliance::NotShown);
    }

    #[test]
    fn what_a_report_is_told_names_no_group_and_is_of_its_own_finding() {
        let lines = vec![
            line(LineKind::DoseResponse, "A", [0.1, 0.2, 0.3], 0.001, Control::Passed),
            line(LineKind::DoseResponse, "B", [-0.1, 0.0, 0.1], 0.9, Control::Passed),
            line(LineKind::CoMovement, "A", [0.2, 0.3, 0.4], 0.001, Control::Passed),
            line(LineKind::Leakage, "A", [0.6, 0.7, 0.8], 0.001, Control::Passed),
        ];
        let evidence = Evidence {
            format: Evidence::FORMAT,
            version: "0".to_owned(),
            site: "site".to_owned(),
            made_at: chrono::DateTime::UNIX_EPOCH,
            race_model: "race".to_owned(),
            lines,
            missing: Vec::new(),
        };
        let told = finding_evidence(&evidence, "clinical", "effusion").unwrap();
        assert_eq!(told.reliance, Reliance::Consistent);
        let estimates: Vec<_> = told.lines.iter().map(|(kind, value)| (kind.as_str(), value.estimate)).collect();
        assert_eq!(estimates, [("co-movement", 0.3), ("dose-response", 0.2), ("leakage", 0.7)]);
        assert!(!serde_json::to_string(&told).unwrap().contains("\"A\""));
        let mut weak = evidence.clone();
        weak.lines[0].p = 0.06;
        weak.lines[3].p = 0.06;
        let told = finding_evidence(&weak, "clinical", "effusion").unwrap();
        assert_eq!((told.reliance, told.lines.len(), told.patients), (Reliance::NotShown, 0, 100));
        assert_eq!(finding_evidence(&evidence, "clinical", "nodule"), None, "leakage alone is of no finding");
        assert_eq!(finding_evidence(&evidence, "another", "effusion"), None);
    }

    #[test]
    fn nothing_ever_says_that_a_model_uses_race() {
        for reliance in [Reliance::Consistent, Reliance::NotShown, Reliance::Insufficient, Reliance::ControlsFailed] {
            let sentence = reliance.sentence();
            assert!(sentence.is_ascii() && sentence.len() <= 100 && !sentence.contains("uses"), "{sentence}");
        }
    }
}
