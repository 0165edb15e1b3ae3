//! What several results come to, as a table.

use proptest::prelude::*;

use super::*;
use crate::domain::{Code, Said};

fn uid(text: &str) -> Uid {
    Uid::parse(text).unwrap()
}

fn probability(value: f64) -> Probability {
    Probability::new(value).unwrap()
}

fn finding() -> Finding {
    let code = Code::new("36118008", "SCT", "Pneumothorax");
    Finding { key: "ptx".into(), code, site: None, threshold: probability(0.5) }
}

fn said(images: &[&str], score: Option<f64>, positive: Option<bool>) -> Said {
    let images = images.iter().map(|i| uid(i)).collect();
    Said { finding: "ptx".into(), images, score: score.map(probability), positive }
}

/// A report under this UID, of this second.
fn result(source: &str, second: Option<i64>, predecessors: &[&str], said: Vec<Said>) -> ClinicalResult {
    let at = |second| Timestamp::from_timestamp(1_700_000_000 + second, 0).unwrap();
    ClinicalResult {
        study: uid("1.2"),
        model: "vendor@1#aaaaaaaaaaaa".into(),
        source: source.into(),
        observed_at: second.map(at),
        received_at: at(0),
        version: "1".into(),
        predecessors: predecessors.iter().map(|p| uid(p)).collect(),
        said,
    }
}

const RULES: SettleRules = SettleRules { correction: Correction::Newer, combine: Combine::Mean, label_only: false };

fn settled(results: &[ClinicalResult], rules: SettleRules) -> Given {
    let images = [uid("1.2.1"), uid("1.2.2")];
    let mut turned = results.to_vec();
    turned.reverse();
    let given = settle(results, &[finding()], &images, rules);
    assert_eq!(settle(&turned, &[finding()], &images, rules), given, "order must not matter");
    given[0]
}

#[test]
fn twice_the_same_is_one_a_correction_counts_and_a_contradiction_is_told() {
    let one = |score| vec![said(&[], Some(score), None)];
    let score = |value| Given::Score(probability(value));
    let conflict = Given::Absent(IndReason::Conflict);
    let missing = Given::Absent(IndReason::Failed);
    let first = || result("1.1", Some(1), &[], one(0.25));
    let rows = [
        ("nothing", vec![], missing),
        ("one", vec![first()], score(0.25)),
        (
            "of another finding",
            vec![result("1.1", None, &[], vec![Said { finding: "x".into(), ..one(0.5).remove(0) }])],
            missing,
        ),
        ("twice the same", vec![first(), result("1.3", Some(1), &[], one(0.25))], score(0.25)),
        ("the same later", vec![first(), result("1.3", Some(9), &[], one(0.25))], score(0.25)),
        ("another at the same time", vec![first(), result("1.3", Some(1), &[], one(0.75))], conflict),
        ("another without a date", vec![first(), result("1.3", None, &[], one(0.75))], score(0.25)),
        (
            "both without a date",
            vec![result("1.1", None, &[], one(0.25)), result("1.3", None, &[], one(0.75))],
            conflict,
        ),
        ("another later", vec![first(), result("1.3", Some(2), &[], one(0.75))], score(0.75)),
        ("it names the first", vec![first(), result("1.3", None, &["1.1"], one(0.75))], score(0.75)),
        ("an older one names the newer", vec![first(), result("1.3", Some(0), &["1.1"], one(0.75))], score(0.75)),
        ("twice in one", vec![result("1.1", None, &[], [one(0.25), one(0.75)].concat())], conflict),
        (
            "each replaces the other",
            vec![result("1.1", None, &["1.3"], one(0.25)), result("1.3", None, &["1.1"], one(0.75))],
            conflict,
        ),
        (
            "a third replaces both of them",
            vec![
                result("1.1", None, &["1.3"], one(0.25)),
                result("1.3", None, &["1.1"], one(0.75)),
                result("1.4", None, &["1.1"], one(0.5)),
            ],
            score(0.5),
        ),
        ("it names itself", vec![result("1.1", None, &["1.1"], one(0.25))], score(0.25)),
    ];
    for (name, results, expected) in rows {
        assert_eq!(settled(&results, RULES), expected, "{name}");
    }
    let strict = SettleRules { correction: Correction::Predecessor, ..RULES };
    assert_eq!(settled(&[first(), result("1.3", Some(2), &[], one(0.75))], strict), conflict);
    assert_eq!(settled(&[first(), result("1.3", Some(2), &["1.1"], one(0.75))], strict), score(0.75));
}

#[test]
fn images_are_combined_and_those_of_other_studies_do_not_count() {
    let per_image = [
        result("1.1", None, &[], vec![said(&["1.2.1"], Some(0.2), None)]),
        result("1.3", None, &[], vec![said(&["1.2.2"], Some(0.6), None)]),
    ];
    assert_eq!(settled(&per_image, RULES), Given::Score(probability(0.4)));
    let max = SettleRules { combine: Combine::Max, ..RULES };
    assert_eq!(settled(&per_image, max), Given::Score(probability(0.6)));
    let whole = result("1.4", None, &[], vec![said(&[], Some(0.1), None)]);
    assert_eq!(settled(&[&per_image[..], &[whole]].concat(), max), Given::Score(probability(0.1)));
    let both = |second| result("1.5", second, &[], vec![said(&["1.2.1", "1.2.2"], Some(0.9), None)]);
    let of_one = result("1.1", Some(1), &[], vec![said(&["1.2.1"], Some(0.2), None)]);
    assert_eq!(settled(&[of_one.clone(), both(Some(2))], RULES), Given::Score(probability(0.9)), "made anew");
    let missing = Given::Absent(IndReason::Failed);
    let undated = result("1.1", None, &[], vec![said(&["1.2.1"], Some(0.2), None)]);
    assert_eq!(settled(&[undated, both(None)], RULES), Given::Absent(IndReason::Conflict));
    // Of each image something has to be said: what stands of one alone is not the study's.
    assert_eq!(settled(&per_image[..1], RULES), missing);
    assert_eq!(settled(&[of_one, both(None)], RULES), missing, "the newer one is of one image");
    let label = result("1.6", None, &[], vec![said(&["1.2.2"], None, Some(true))]);
    assert_eq!(settled(&[per_image[0].clone(), label], RULES), missing, "of the other one a decision alone");
    // The same of one image and of both is no contradiction; what else they are about is none of this study's.
    let of = |source: &str, images: &[&str], score| result(source, None, &[], vec![said(images, Some(score), None)]);
    let same = [of("1.1", &["1.2.1"], 0.5), of("1.3", &["1.2.1", "1.2.2"], 0.5)];
    assert_eq!(settled(&same, RULES), Given::Score(probability(0.5)));
    let with_priors = [of("1.1", &["1.2.1", "9.9"], 0.2), of("1.3", &["1.2.2", "9.9"], 0.6)];
    assert_eq!(settled(&with_priors, RULES), Given::Score(probability(0.4)));
    let elsewhere = [result("1.1", None, &[], vec![said(&["9.9"], Some(0.2), None)])];
    assert_eq!(settled(&elsewhere, RULES), Given::Absent(IndReason::Failed));
}

#[test]
fn news_is_what_changes_what_stands() {
    let one = |source: &str, second, score| result(source, second, &[], vec![said(&[], Some(score), None)]);
    let known = [one("1.1", Some(15), 0.9), one("1.2", Some(20), 0.1)];
    let rows = [
        ("the same again", one("1.3", Some(20), 0.1), false),
        ("the same, later", one("1.3", Some(30), 0.1), false),
        ("the replaced one again", one("1.3", Some(15), 0.9), false),
        ("another, older", one("1.3", Some(10), 0.5), false),
        ("back to the first", one("1.3", Some(30), 0.9), true),
        ("without a statement", result("1.3", Some(30), &[], Vec::new()), false),
        ("of an image", result("1.3", Some(30), &[], vec![said(&["1.2.1"], Some(0.5), None)]), false),
    ];
    for (name, new, expected) in rows {
        assert_eq!(is_news(&known, &[new]), expected, "{name}");
    }
    let conflict = [one("1.1", Some(15), 0.9), one("1.2", Some(15), 0.1)];
    assert!(is_news(&conflict, &[one("1.3", Some(30), 0.9)]), "a contradiction ends");
    assert!(is_news(&[], &known[..1]) && !is_news(&[], &[]));
}

#[test]
fn a_decision_counts_where_the_card_says_so_and_must_fit_the_score() {
    let label = |images: &[&str], positive| {
        result(images.first().unwrap_or(&"1.1"), None, &[], vec![said(images, None, Some(positive))])
    };
    let label_only = SettleRules { label_only: true, ..RULES };
    assert_eq!(settled(&[label(&[], true)], label_only), Given::Label { positive: true });
    assert_eq!(settled(&[label(&[], true)], RULES), Given::Absent(IndReason::Failed));
    let images = [label(&["1.2.1"], false), label(&["1.2.2"], true)];
    assert_eq!(settled(&images, label_only), Given::Label { positive: true });
    let both =
        |score, positive| settled(&[result("1.1", None, &[], vec![said(&[], Some(score), Some(positive))])], RULES);
    assert_eq!(both(0.5, true), Given::Score(probability(0.5)));
    assert_eq!(both(0.4, true), Given::Absent(IndReason::Conflict), "the deployed threshold is another");
}

proptest! {
    /// Whatever arrives, in whatever order: the same answer, and the same again if all of it is sent twice.
    #[test]
    fn sending_all_of_it_twice_changes_nothing(
        rows in prop::collection::vec((0u8..4, prop::option::of(0i64..3), 0u8..3, 0u8..4), 0..6)
    ) {
        let results: Vec<ClinicalResult> = rows.iter().enumerate().map(|(n, (images, second, score, names))| {
            let images: &[&str] = [&[][..], &["1.2.1"], &["1.2.2"], &["1.2.1", "1.2.2"]][usize::from(*images)];
            let predecessors: Vec<String> = (0..*names).filter(|p| usize::from(*p) < n).map(|p| format!("1.{p}")).collect();
            let predecessors: Vec<&str> = predecessors.iter().map(String::as_str).collect();
            result(&format!("1.{n}"), *second, &predecessors, vec![said(images, Some(f64::from(*score) / 2.0), None)])
        }).collect();
        let once = settled(&results, RULES);
        prop_assert_eq!(settled(&[&results[..], &results[..]].concat(), RULES), once);
    }
}
