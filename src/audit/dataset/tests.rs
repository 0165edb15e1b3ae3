//! What a dataset takes, and what it refuses by name.

use super::super::world::World;
use super::*;

fn tried(change: impl Fn(&mut Vec<Study>, &mut Vec<Finding>)) -> Result<Dataset, DatasetError> {
    let (mut studies, mut findings) = World { patients: 20, ..World::default() }.drawn(1);
    change(&mut studies, &mut findings);
    Dataset::new(["A", "B", "C"].map(String::from).to_vec(), None, studies, findings)
}

#[test]
fn what_makes_no_sense_is_refused_with_its_name() {
    let check = |change: &dyn Fn(&mut Vec<Study>, &mut Vec<Finding>), expected: &str| {
        let error = tried(change).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(&|s, _| s[3].study = s[4].study.clone(), "study \"000004.0\" occurs twice");
    check(&|s, _| s[3].self_report = SelfReport::Group(3), "study \"000003.0\": its self-reported group");
    check(&|s, _| s[3].age_years = Some(f64::NAN), "age");
    check(&|s, _| s[3].bmi = Some(-1.0), "body mass");
    check(&|s, _| s[3].posterior = Some(vec![0.5, 0.5]), "one probability for each group");
    check(&|s, _| s[3].posterior = Some(vec![0.5, 0.5, 0.5]), "sum of 1");
    check(&|s, _| s[3].posterior = Some(vec![f64::NAN, 0.5, 0.5]), "one probability for each group");
    check(&|_, f| f[0].models[0].score[2] = Some(1.5), "score 1.5 of \"finding-0\"");
    check(&|_, f| f[0].models[0].score[2] = Some(f64::NAN), "score NaN");
    check(&|_, f| f[0].models[1].threshold = f64::INFINITY, "threshold inf");
    check(&|_, f| f[0].outcome.truncate(3), "outcome has 3 values for 20 studies");
    check(&|_, f| f[0].models.clear(), "has no model");
    check(&|_, f| f.push(f[0].clone()), "finding \"finding-0\" occurs twice");
    check(&|_, f| f[0].models[1].model = "clinical-1".into(), "model \"clinical-1\" occurs twice");
    assert!(tried(|s, f| (s.clear(), f.clear()).0).is_ok(), "nothing is a dataset too");
}

#[test]
fn the_order_of_studies_changes_nothing() {
    let (studies, findings) = World { patients: 50, studies_most: 2, ..World::default() }.drawn(2);
    let groups = || ["A", "B", "C"].map(String::from).to_vec();
    let plain = Dataset::new(groups(), None, studies.clone(), findings.clone()).unwrap();
    let turned: Vec<Study> = studies.into_iter().rev().collect();
    let column = |f: Finding| {
        let turn = |s: Scored| Scored { score: s.score.into_iter().rev().collect(), ..s };
        Finding {
            outcome: f.outcome.into_iter().rev().collect(),
            models: f.models.into_iter().map(turn).collect(),
            ..f
        }
    };
    let other = Dataset::new(groups(), None, turned, findings.into_iter().map(column).collect()).unwrap();
    assert_eq!(plain, other);
    assert_eq!(plain.base(0), other.base(0));
    assert!(plain.base(0).rows.is_sorted_by(|a, b| a.score <= b.score));
}

#[test]
fn self_report_is_a_persons_and_contradictions_are_in_no_group() {
    let said = |reports: [SelfReport; 2]| {
        let mut dataset = tried(|s, _| {
            (s[0].self_report, s[1].self_report) = (reports[0], reports[1]);
            s[1].patient = s[0].patient.clone();
        })
        .unwrap();
        dataset.studies.truncate(2);
        [dataset.studies[0].self_report, dataset.studies[1].self_report]
    };
    use SelfReport::{Contradicted, Declined, Group, Missing};
    assert_eq!(said([Group(1), Missing]), [Group(1), Group(1)]);
    assert_eq!(said([Group(1), Group(2)]), [Contradicted, Contradicted]);
    assert_eq!(said([Group(1), Declined]), [Group(1), Declined], "what was said stays as it was said");
    assert_eq!(said([Missing, Missing]), [Missing, Missing]);
}
