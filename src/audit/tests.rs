//! The audit as a whole: the same bytes on any number of threads, nothing of the inferred among the self-reported, and
//! nothing that is no number.

use super::world::World;
use super::*;

fn options() -> Options {
    let drawn = Options::default();
    Options { draws: 100, gaps: GapOptions { draws: 99, ..drawn.gaps }, ..drawn }
}

fn world() -> World {
    World { patients: 900, studies_most: 2, findings: 2, labelled: 0.8, months: 5, ..World::default() }
}

fn bytes(dataset: &Dataset, threads: usize) -> Vec<u8> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    serde_json::to_vec(&pool.install(|| audit(dataset, &options()))).unwrap()
}

#[test]
fn the_same_inputs_give_the_same_bytes_on_any_number_of_threads() {
    let dataset = world().dataset(1);
    let one = bytes(&dataset, 1);
    assert_eq!(one, bytes(&dataset, 3));
    let text = String::from_utf8(one).unwrap();
    assert!(!text.contains("NaN") && !text.contains("inf\""), "JSON has no such numbers");
}

#[test]
fn every_part_is_there() {
    let found = audit(&world().dataset(2), &options());
    let finding = &found.findings[0];
    assert_eq!((found.findings.len(), finding.groups.len(), finding.slices.len()), (2, 3, Dimension::ALL.len()));
    assert!(finding.gaps.primary.iter().all(|gap| gap.p_adjusted.is_some()));
    assert!(finding.matched.is_some() && finding.partial.len() == 2 && finding.versions.len() == 1);
    assert!(finding.curves.len() == 4 && !finding.drift.scores.is_empty() && !found.race_calibration.is_empty());
    let auprc = finding.overall.metrics[&Metric::Auprc].told().unwrap();
    assert!(auprc.lower.unwrap() < auprc.value && auprc.value < auprc.upper.unwrap());
    let all = &finding.overall.counts;
    assert_eq!(all.studies, found.studies);
    let sites = &finding.slices[0];
    let sum: usize = sites.levels.iter().map(|l| l.overall.counts.studies.unwrap()).sum();
    assert_eq!((sites.dimension, Some(sum)), (Dimension::Site, all.studies));
}

#[test]
fn what_is_withheld_has_no_p_value_to_be_had_from() {
    let small = Figure::Withheld { withheld: Withheld::SmallCell };
    let (mut withheld, mut told) = (0, 0);
    for seed in 0..4 {
        let found = audit(&World { patients: 450, labelled: 1.0, ..world() }.dataset(seed), &options());
        for gap in found.findings.iter().flat_map(|finding| &finding.gaps.primary) {
            if gap.gap == small {
                withheld += 1;
                assert_eq!((gap.p, gap.p_adjusted, gap.p_equivalence), (None, None, None));
            } else {
                told += usize::from(gap.p.is_some());
            }
        }
        let primary = found.findings.iter().flat_map(|f| &f.gaps.primary).flat_map(|gap| &gap.against_rest);
        let secondary = found.findings.iter().flat_map(|f| &f.gaps.secondary);
        for against in primary.chain(secondary).filter(|a| a.difference == small) {
            assert_eq!((against.p, against.p_adjusted), (None, None), "{against:?}");
        }
    }
    assert!(withheld > 0 && told > 0, "{withheld} {told}");
}

#[test]
fn posteriors_change_nothing_of_what_is_of_self_report() {
    let (mut studies, findings) = world().drawn(3);
    let groups = || ["A", "B", "C"].map(String::from).to_vec();
    let of = |studies: &[Study]| {
        let dataset = Dataset::new(groups(), Some("race-1".into()), studies.to_vec(), findings.clone()).unwrap();
        audit(&dataset, &options())
    };
    let before = of(&studies);
    studies.iter_mut().for_each(|s| s.posterior = Some(vec![0.0, 0.0, 1.0]));
    let mut after = of(&studies);
    assert_ne!(before, after);
    (after.posteriors, after.race_calibration) = (before.posteriors.clone(), before.race_calibration.clone());
    for (after, before) in after.findings.iter_mut().zip(&before.findings) {
        assert_ne!(after.partial, before.partial);
        after.partial = before.partial.clone();
    }
    assert_eq!(before, after);
}

#[test]
fn a_slice_is_the_audit_of_its_studies() {
    let (studies, findings) = world().drawn(4);
    let dataset = world().dataset(4);
    let within = vec![Slice { dimension: Dimension::View, level: "AP".into() }];
    let sliced = audit(&dataset, &Options { within, ..options() });
    let kept: Vec<usize> = (0..studies.len()).filter(|i| studies[*i].view.as_deref() == Some("AP")).collect();
    let scored = |m: &Scored| Scored { score: kept.iter().map(|i| m.score[*i]).collect(), ..m.clone() };
    let of = |f: &Finding| Finding {
        finding: f.finding.clone(),
        outcome: kept.iter().map(|i| f.outcome[*i]).collect(),
        models: f.models.iter().map(scored).collect(),
    };
    let own: Vec<Study> = kept.iter().map(|i| studies[*i].clone()).collect();
    let findings: Vec<Finding> = findings.iter().map(of).collect();
    let groups = ["A", "B", "C"].map(String::from).to_vec();
    let alone = audit(&Dataset::new(groups, Some("race-1".into()), own, findings).unwrap(), &options());
    assert_eq!(sliced.findings, alone.findings);
    let nothing = vec![Slice { dimension: Dimension::Version, level: "none".into() }];
    let empty = audit(&dataset, &Options { within: nothing, ..options() });
    assert_eq!(empty.findings[0].overall.counts.studies, Some(0));
}

#[test]
fn little_or_nothing_is_audited_too() {
    for patients in [0, 1, 5, 12, 40] {
        let found = audit(&World { patients, ..world() }.dataset(5), &options());
        let told = found.findings[0].overall.counts.studies;
        assert_eq!(told.is_some(), patients == 0 || patients >= 12, "{patients}");
    }
    let empty = Dataset::new(Vec::new(), None, Vec::new(), Vec::new()).unwrap();
    assert!(audit(&empty, &options()).findings.is_empty());
    let groupless = World { labelled: 0.0, ..world() }.dataset(6);
    let found = audit(&groupless, &options());
    assert!(found.findings[0].gaps.primary.iter().all(|gap| gap.verdict == Verdict::NotComparable));
    assert!(found.findings[0].partial.is_empty());
}
