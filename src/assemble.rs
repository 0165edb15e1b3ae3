//! The completeness decision: has the last image of a study arrived?
//!
//! A sender never says that it is done, so a study is taken as complete when nothing arrived for the quiet period
//! and no object that is received but not read yet could belong to it. A cap bounds the wait for studies that
//! never fall quiet. Neighbours: `store` supplies the activity of each open study, `serve` asks and acts. Left
//! out: clocks and timers, which are arguments.

use std::time::Duration;

use crate::domain::{AeTitle, Timestamp, Uid};

/// How long a study is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AssembleRules {
    /// A study is complete when nothing arrived for this long…
    pub quiet_period: Duration,
    /// …or this long after assembly began, whatever still arrives.
    pub cap: Duration,
}

/// What is known of an open study at one instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StudyActivity {
    pub study: Uid,
    /// The AE title that sent the study's first object; its source may have its own quiet period.
    pub source: AeTitle,
    /// The AE title that it was sent to; an alias may have rules of its own.
    pub called: Option<AeTitle>,
    /// Counts what changed in the study: whoever closes it does so on what was decided about.
    pub version: i64,
    /// 1 for the first report, one more each time that a closed study is opened again.
    pub revision: u32,
    /// When assembly of this revision began.
    pub first_at: Timestamp,
    /// When the last of the study's objects arrived.
    pub last_at: Timestamp,
    /// Arrival of the oldest object that is not read yet and is of this study, or could be: same sender, study
    /// not known.
    pub unread_since: Option<Timestamp>,
}

/// What to do about an open study now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Look again at `until`, or as soon as something of the study changes. `until` lies in the future.
    Wait { until: Timestamp },
    /// Assess what is there. Not `complete` where the cap ended the wait: objects may be missing.
    Close { complete: bool },
}

/// Decides about one study. Never closes as complete within the quiet period; always closes at the cap; once it
/// says close, it says so at every later instant of the same activity.
pub fn decide(activity: &StudyActivity, rules: &AssembleRules, now: Timestamp) -> Decision {
    let quiet_at = later(activity.last_at, rules.quiet_period);
    let cap_at = later(activity.first_at, rules.cap);
    // An object that arrived after the quiet period was over does not undo it: the study had fallen quiet by then.
    let settled = activity.unread_since.is_none_or(|unread| unread >= quiet_at);
    if settled && now >= quiet_at {
        return Decision::Close { complete: true };
    }
    if now >= cap_at {
        return Decision::Close { complete: false };
    }
    Decision::Wait { until: if settled { quiet_at.min(cap_at) } else { cap_at } }
}

/// `time + span`, at the end of time where that overflows.
fn later(time: Timestamp, span: Duration) -> Timestamp {
    chrono::TimeDelta::from_std(span).ok().and_then(|d| time.checked_add_signed(d)).unwrap_or(Timestamp::MAX_UTC)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: AssembleRules = AssembleRules { quiet_period: Duration::from_secs(60), cap: Duration::from_secs(600) };

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
        }
    }

    #[test]
    fn closes_when_the_study_fell_quiet_and_nothing_unread_could_belong_to_it() {
        let wait = |second| Decision::Wait { until: at(second) };
        let close = |complete| Decision::Close { complete };
        let rows = [
            ("fresh", 0, 0, None, 0, wait(60)),
            ("one second short", 0, 0, None, 59, wait(60)),
            ("quiet", 0, 0, None, 60, close(true)),
            ("each arrival starts the wait anew", 0, 30, None, 60, wait(90)),
            ("an unread object from before", 0, 0, Some(30), 61, wait(600)),
            ("an unread object of another study, later", 0, 0, Some(60), 61, close(true)),
            ("never quiet", 0, 590, None, 599, wait(600)),
            ("capped", 0, 590, None, 600, close(false)),
            ("capped with an unread object", 0, 0, Some(30), 600, close(false)),
            ("capped and quiet", 0, 0, None, 10_000, close(true)),
        ];
        for (name, first, last, unread, now, expected) in rows {
            assert_eq!(decide(&activity(first, last, unread), &RULES, at(now)), expected, "{name}");
        }
    }

    #[test]
    fn a_quiet_period_beyond_the_end_of_time_waits_for_the_cap() {
        let rules = AssembleRules { quiet_period: Duration::MAX, cap: Duration::from_secs(5) };
        assert_eq!(decide(&activity(0, 0, None), &rules, at(4)), Decision::Wait { until: at(5) });
        assert_eq!(decide(&activity(0, 0, None), &rules, at(5)), Decision::Close { complete: false });
    }

    fn any_case() -> impl Strategy<Value = (StudyActivity, AssembleRules, i64)> {
        (0i64..2000, 0i64..2000, proptest::option::of(0i64..4000), 0u64..500, 0u64..2000, 0i64..6000).prop_map(
            |(first, last, unread, quiet, cap, now)| {
                let rules = AssembleRules { quiet_period: Duration::from_secs(quiet), cap: Duration::from_secs(cap) };
                (activity(first, last, unread), rules, now)
            },
        )
    }

    proptest! {
        #[test]
        fn never_closes_as_complete_before_the_quiet_period_is_over((a, rules, now) in any_case()) {
            if at(now) < later(a.last_at, rules.quiet_period) {
                prop_assert_ne!(decide(&a, &rules, at(now)), Decision::Close { complete: true });
            }
        }

        #[test]
        fn always_closes_by_the_cap((a, rules, now) in any_case()) {
            if at(now) >= later(a.first_at, rules.cap) {
                let closed = matches!(decide(&a, &rules, at(now)), Decision::Close { .. });
                prop_assert!(closed);
            }
        }

        #[test]
        fn a_close_stays_a_close((a, rules, now) in any_case(), more in 0i64..6000) {
            if let Decision::Close { complete } = decide(&a, &rules, at(now)) {
                let after = decide(&a, &rules, at(now + more));
                let still = matches!(after, Decision::Close { complete: c } if c >= complete);
                prop_assert!(still, "{after:?}");
            }
        }

        #[test]
        fn a_wait_ends_in_the_future_and_in_a_close((a, rules, now) in any_case()) {
            if let Decision::Wait { until } = decide(&a, &rules, at(now)) {
                prop_assert!(until > at(now));
                let closed = matches!(decide(&a, &rules, until), Decision::Close { .. });
                prop_assert!(closed);
            }
        }
    }
}
