//! The decision as a table, and what holds of it for every activity.

use proptest::prelude::*;

use super::*;
use crate::domain::{Laterality, RequiredView, View};

const RULES: AssembleRules<'_> =
    AssembleRules { quiet_period: Duration::from_secs(60), cap: Duration::from_secs(600), required: &[], results: &[] };

fn at(second: i64) -> Timestamp {
    Timestamp::from_timestamp(1_700_000_000 + second, 0).unwrap()
}

fn activity(first: i64, last: i64, unread: Option<i64>) -> StudyActivity {
    StudyActivity {
        version: 1,
        study: Uid::parse("1.2.3").unwrap(),
        source: AeTitle::parse("MODALITY").unwrap(),
        called: None,
        revision: 1,
        first_at: at(first),
        last_at: at(last),
        unread_since: unread.map(at),
        awaited: Vec::new(),
        hand: None,
    }
}

fn by_hand(activity: StudyActivity, second: i64, complete: Option<bool>) -> StudyActivity {
    StudyActivity { hand: Some(HandClose { at: at(second), complete }), ..activity }
}

fn close(complete: bool, by: ClosedBy, missing: &[&str]) -> Decision {
    Decision::Close(Closing { complete, by, missing: missing.iter().map(|m| (*m).to_owned()).collect() })
}

fn wait(second: i64) -> Decision {
    Decision::Wait { until: at(second) }
}

fn image(side: Laterality, view: View) -> ImageGroup {
    let series = Uid::parse("1.2.3.1").unwrap();
    ImageGroup {
        series,
        modality: "MG".into(),
        body_part: "BREAST".into(),
        view: Some(view),
        side: Some(side),
        images: 1,
    }
}

/// Both sides of a mammography; 5 seconds once they are there.
fn both_sides(wait: bool) -> Required {
    let view = |side| RequiredView { side: Some(side), view: View::Cc };
    Required {
        modality: Some("MG".into()),
        body_part: None,
        views: vec![view(Laterality::Left), view(Laterality::Right)],
        images_min: 0,
        series_min: 0,
        quiet_period: Some(Duration::from_secs(5)),
        wait,
    }
}

#[test]
fn closes_when_the_study_fell_quiet_and_nothing_unread_could_belong_to_it() {
    let complete = close(true, ClosedBy::Quiet, &[]);
    let capped = close(false, ClosedBy::Cap, &[]);
    let rows = [
        ("fresh", 0, 0, None, 0, wait(60)),
        ("one second short", 0, 0, None, 59, wait(60)),
        ("quiet", 0, 0, None, 60, complete.clone()),
        ("each arrival starts the wait anew", 0, 30, None, 60, wait(90)),
        ("an unread object from before", 0, 0, Some(30), 61, wait(600)),
        ("an unread object of another study, later", 0, 0, Some(60), 61, complete.clone()),
        ("never quiet", 0, 590, None, 599, wait(600)),
        ("capped", 0, 590, None, 600, capped.clone()),
        ("capped with an unread object", 0, 0, Some(30), 600, capped),
        ("capped and quiet", 0, 0, None, 10_000, complete),
    ];
    for (name, first, last, unread, now, expected) in rows {
        assert_eq!(decide(&activity(first, last, unread), &[], &RULES, at(now)), expected, "{name}");
    }
}

#[test]
fn what_a_rule_asks_for_shortens_the_wait_or_is_missed() {
    let (left, right) = (image(Laterality::Left, View::Cc), image(Laterality::Right, View::Cc));
    let (one, both) = (vec![left.clone()], vec![left, right]);
    let other = vec![ImageGroup { modality: "CR".into(), ..image(Laterality::Left, View::Cc) }];
    let (ready, waiting) = ([both_sides(false)], [both_sides(true)]);
    let missed = &["MG R-CC"];
    let rows = [
        ("all there, not quiet", &ready, &both, 0, None, 4, wait(5)),
        ("all there, quiet for a little", &ready, &both, 0, None, 5, close(true, ClosedBy::Quiet, &[])),
        ("all there, something unread", &ready, &both, 0, Some(3), 5, wait(600)),
        ("something is missing", &ready, &one, 0, None, 59, wait(60)),
        ("something is missing, quiet", &ready, &one, 0, None, 60, close(false, ClosedBy::Quiet, missed)),
        ("another kind of study", &ready, &other, 0, None, 59, wait(60)),
        ("another kind of study, quiet", &ready, &other, 0, None, 60, close(true, ClosedBy::Quiet, &[])),
        ("missing, and worth the wait", &waiting, &one, 0, None, 60, wait(600)),
        ("missing until the cap", &waiting, &one, 0, None, 600, close(false, ClosedBy::Cap, missed)),
        ("all there after all", &waiting, &both, 300, None, 305, close(true, ClosedBy::Quiet, &[])),
    ];
    for (name, required, images, last, unread, now, expected) in rows {
        let rules = AssembleRules { required, ..RULES };
        assert_eq!(decide(&activity(0, last, unread), images, &rules, at(now)), expected, "{name}");
    }
}

#[test]
fn a_hand_ends_the_wait_for_what_is_not_there_and_not_for_what_is() {
    let required = [both_sides(true)];
    let rules = AssembleRules { required: &required, ..RULES };
    let one = [image(Laterality::Left, View::Cc)];
    let missed = &["MG R-CC"];
    let rows = [
        ("as the rules say", None, None, close(false, ClosedBy::Hand, missed)),
        ("complete all the same", None, Some(true), close(true, ClosedBy::Hand, missed)),
        ("an object from before is not read yet", Some(15), Some(true), wait(600)),
        ("an object from after is not read yet", Some(20), Some(true), close(true, ClosedBy::Hand, missed)),
    ];
    for (name, unread, complete, expected) in rows {
        let study = by_hand(activity(0, 10, unread), 20, complete);
        assert_eq!(decide(&study, &one, &rules, at(20)), expected, "{name}");
    }
    let study = by_hand(activity(0, 10, None), 20, None);
    assert_eq!(decide(&study, &[], &RULES, at(20)), close(true, ClosedBy::Hand, &[]), "without any rule");
}

#[test]
fn a_quiet_period_beyond_the_end_of_time_waits_for_the_cap() {
    let rules = AssembleRules { quiet_period: Duration::MAX, cap: Duration::from_secs(5), required: &[], results: &[] };
    assert_eq!(decide(&activity(0, 0, None), &[], &rules, at(4)), wait(5));
    assert_eq!(decide(&activity(0, 0, None), &[], &rules, at(5)), close(false, ClosedBy::Cap, &[]));
}

fn product(number: usize, seconds: u64) -> ResultWait {
    let name = format!("vendor-{number}");
    ResultWait { model: format!("{name}@1#aaaaaaaaaaaa"), name, wait: Duration::from_secs(seconds) }
}

#[test]
fn a_complete_study_waits_for_its_results_and_no_longer_than_their_cards_say() {
    let results = [product(0, 100), product(1, 30)];
    let rules = AssembleRules { results: &results, ..RULES };
    let lacking = |models: &[usize], last, unread| {
        let awaited = models.iter().map(|n| results[*n].model.clone()).collect();
        StudyActivity { awaited, ..activity(0, last, unread) }
    };
    let both = &["result of vendor-0", "result of vendor-1"];
    let rows = [
        ("both are there", lacking(&[], 0, None), 60, close(true, ClosedBy::Quiet, &[])),
        ("one is not", lacking(&[1], 0, None), 60, wait(90)),
        ("its time is over", lacking(&[1], 0, None), 90, close(false, ClosedBy::Quiet, &both[1..])),
        ("the longest wait counts", lacking(&[0, 1], 0, None), 90, wait(160)),
        ("and ends", lacking(&[0, 1], 0, None), 160, close(false, ClosedBy::Quiet, both)),
        ("a report that is not read yet may be it", lacking(&[1], 0, Some(89)), 90, wait(630)),
        ("the cap of the images, then the results' time", lacking(&[1], 580, Some(0)), 600, wait(630)),
        ("at most", lacking(&[1], 580, Some(0)), 630, close(false, ClosedBy::Cap, &both[1..])),
        (
            "a product that is not in use",
            StudyActivity { awaited: vec!["x".into()], ..activity(0, 0, None) },
            60,
            close(true, ClosedBy::Quiet, &[]),
        ),
        (
            "a hand waits for none",
            by_hand(lacking(&[0], 10, None), 20, None),
            20,
            close(false, ClosedBy::Hand, &both[..1]),
        ),
    ];
    for (name, study, now, expected) in rows {
        assert_eq!(decide(&study, &[], &rules, at(now)), expected, "{name}");
    }
}

/// An activity, images, rules and an instant.
#[derive(Debug, Clone)]
struct Case {
    activity: StudyActivity,
    images: Vec<ImageGroup>,
    required: Vec<Required>,
    results: Vec<ResultWait>,
    quiet: u64,
    cap: u64,
    now: i64,
}

impl Case {
    fn rules(&self) -> AssembleRules<'_> {
        AssembleRules {
            quiet_period: Duration::from_secs(self.quiet),
            cap: Duration::from_secs(self.cap),
            required: &self.required,
            results: &self.results,
        }
    }

    /// How long its results are waited for.
    fn patience(&self) -> Duration {
        let awaited = self.results.iter().filter(|r| self.activity.awaited.contains(&r.model));
        awaited.map(|r| r.wait).max().unwrap_or_default()
    }

    fn decide(&self, now: i64) -> Decision {
        decide(&self.activity, &self.images, &self.rules(), at(now))
    }
}

fn any_image() -> impl Strategy<Value = ImageGroup> {
    let views = prop::sample::select(vec![View::Cc, View::Mlo, View::Pa]);
    let sides = prop::sample::select(vec![Laterality::Left, Laterality::Right]);
    (views, sides, 1u32..4, prop::sample::select(vec!["MG", "CR"]), 1u64..4).prop_map(
        |(view, side, series, modality, images)| ImageGroup {
            series: Uid::parse(&format!("1.2.{series}")).unwrap(),
            modality: modality.into(),
            images,
            ..image(side, view)
        },
    )
}

fn any_rule() -> impl Strategy<Value = Required> {
    let quiet = prop::option::of((0u64..500).prop_map(Duration::from_secs));
    (prop::option::of(Just("MG".to_owned())), quiet, 0u64..6, 0u64..4, any::<bool>()).prop_map(
        |(modality, quiet_period, images_min, series_min, wait)| Required {
            modality,
            quiet_period,
            images_min,
            series_min,
            ..both_sides(wait)
        },
    )
}

fn any_case() -> impl Strategy<Value = Case> {
    let hand = prop::option::of((0i64..4000, any::<Option<bool>>()));
    let times = (0i64..2000, 0i64..2000, prop::option::of(0i64..4000), hand);
    let rules = (prop::collection::vec(any_rule(), 0..3), 0u64..500, 0u64..2000);
    let results = prop::collection::vec((0u64..1000, any::<bool>()), 0..3);
    (times, prop::collection::vec(any_image(), 0..6), rules, 0i64..6000, results).prop_map(
        |((first, last, unread, hand), images, (required, quiet, cap), now, waits)| {
            let results: Vec<ResultWait> = waits.iter().enumerate().map(|(n, (wait, _))| product(n, *wait)).collect();
            let awaited = waits.iter().zip(&results).filter(|((_, awaited), _)| *awaited).map(|(_, r)| r.model.clone());
            // and one that is in use no more
            let awaited = awaited.chain(["gone@1#0".to_owned()]).collect();
            let hand = hand.map(|(second, complete)| HandClose { at: at(second), complete });
            let activity = StudyActivity { hand, awaited, ..activity(first, last, unread) };
            Case { activity, images, required, results, quiet, cap, now }
        },
    )
}

proptest! {
    #[test]
    fn nothing_closes_before_its_earliest_moment(case in any_case()) {
        let earliest = earliest(&case.activity, &case.rules());
        if at(case.now) < earliest {
            let decision = case.decide(case.now);
            let waits = matches!(decision, Decision::Wait { until } if until >= earliest);
            prop_assert!(waits, "{decision:?}");
        }
    }

    #[test]
    fn only_a_hand_closes_as_complete_before_the_shortest_quiet_period_is_over(case in any_case()) {
        let shortest = case.required.iter().filter_map(|r| r.quiet_period).fold(case.rules().quiet_period, Duration::min);
        if at(case.now) < later(case.activity.last_at, shortest) {
            let early = matches!(case.decide(case.now), Decision::Close(c) if c.complete && c.by != ClosedBy::Hand);
            prop_assert!(!early);
        }
    }

    #[test]
    fn always_closes_by_the_cap(case in any_case()) {
        if at(case.now) >= later(later(case.activity.first_at, case.rules().cap), case.patience()) {
            let closed = matches!(case.decide(case.now), Decision::Close(_));
            prop_assert!(closed);
        }
    }

    #[test]
    fn a_result_that_arrives_never_makes_the_answer_later_or_less_complete(case in any_case(), which in any::<prop::sample::Index>()) {
        let mut after = case.clone();
        after.activity.awaited.remove(which.index(case.activity.awaited.len()));
        let rank = |decision: &Decision| match decision {
            Decision::Wait { until } => (0, std::cmp::Reverse(*until)),
            Decision::Close(closing) => (1 + i32::from(closing.complete), std::cmp::Reverse(Timestamp::MIN_UTC)),
        };
        // What is not read yet is looked for until the wait is over, so a shorter one may end before it came.
        if case.activity.unread_since.is_none() {
            prop_assert!(rank(&after.decide(case.now)) >= rank(&case.decide(case.now)));
        }
    }

    #[test]
    fn only_a_hand_calls_a_study_complete_whose_result_is_awaited(case in any_case()) {
        let awaited = case.results.iter().any(|r| case.activity.awaited.contains(&r.model));
        if let Decision::Close(closing) = case.decide(case.now) && awaited {
            prop_assert!(!closing.complete || closing.by == ClosedBy::Hand);
            prop_assert!(closing.missing.iter().any(|m| m.starts_with("result of ")));
        }
    }

    #[test]
    fn a_close_stays_a_close(case in any_case(), more in 0i64..6000) {
        let before = |decision: &Decision| match decision {
            Decision::Close(closing) => Some((closing.complete, closing.by)),
            Decision::Wait { .. } => None,
        };
        if let Some((complete, by)) = before(&case.decide(case.now)) {
            let after = case.decide(case.now + more);
            let still = before(&after).is_some_and(|(c, b)| c >= complete || (b == ClosedBy::Hand && by != b));
            prop_assert!(still, "{after:?}");
        }
    }

    #[test]
    fn a_wait_ends_in_the_future_and_in_a_close(case in any_case()) {
        if let Decision::Wait { until } = case.decide(case.now) {
            prop_assert!(until > at(case.now));
            let closed = matches!(decide(&case.activity, &case.images, &case.rules(), until), Decision::Close(_));
            prop_assert!(closed);
        }
    }

    #[test]
    fn the_order_of_arrival_changes_nothing(case in any_case(), seed in any::<prop::sample::Index>()) {
        let mut shuffled = case.clone();
        let length = case.images.len();
        shuffled.images.rotate_left(if length == 0 { 0 } else { seed.index(length) });
        shuffled.images.reverse();
        prop_assert_eq!(case.decide(case.now), shuffled.decide(case.now));
    }

    #[test]
    fn more_images_of_the_kind_never_miss_more(case in any_case(), more in any_image()) {
        for rule in case.required.iter().filter(|rule| rule.applies(&case.images)) {
            let mut images = case.images.clone();
            images.push(more.clone());
            prop_assert!(rule.applies(&images));
            prop_assert!(rule.missing(&images).len() <= rule.missing(&case.images).len());
        }
    }

    /// A study that is looked at every second, with arrivals at any time: each revision is closed once, and every image
    /// that arrived is in the last one.
    #[test]
    fn every_revision_closes_once_and_nothing_is_left_out(
        mut arrivals in prop::collection::vec(0i64..300, 1..12), quiet in 1u64..40, cap in 1u64..120
    ) {
        arrivals.sort_unstable();
        let rules = AssembleRules {
            quiet_period: Duration::from_secs(quiet), cap: Duration::from_secs(cap), required: &[], results: &[]
        };
        let (mut open, mut closed, mut seen, mut in_last) = (None::<StudyActivity>, Vec::new(), 0, 0);
        for second in 0..600 {
            for _ in arrivals.iter().filter(|arrival| **arrival == second) {
                seen += 1;
                let study = open.get_or_insert_with(|| activity(second, second, None));
                study.last_at = at(second);
            }
            if let Some(study) = &open
                && let Decision::Close(closing) = decide(study, &[], &rules, at(second))
            {
                closed.push((study.first_at, closing.complete));
                in_last = seen;
                open = None;
            }
        }
        prop_assert!(open.is_none() && in_last == arrivals.len());
        let revisions = closed.len();
        closed.dedup_by_key(|(first, _)| *first);
        prop_assert_eq!(closed.len(), revisions, "one close for each time that it began");
    }
}
