//! The completeness decision: has the last image of a study arrived?
//!
//! A sender never says that it is done, so a study is taken as complete when nothing arrived for the quiet period
//! and no object that is received but not read yet could belong to it. Rules may name what studies of one kind need:
//! with all of it the wait is shorter, without it the study is closed as incomplete. A cap bounds the wait for studies
//! that never fall quiet, and a hand may end it. A study whose images are complete may wait for the result of a clinical
//! product that scores images on its own. Neighbours: `store` supplies the activity of each open study, `serve`
//! asks and acts. Left out: clocks and timers, which are arguments.

use std::time::Duration;

use crate::domain::{AeTitle, ClosedBy, ImageGroup, Required, Timestamp, Uid};

/// How long a study is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AssembleRules<'a> {
    /// A study is complete when nothing arrived for this long…
    pub quiet_period: Duration,
    /// …or this long after assembly began, whatever still arrives.
    pub cap: Duration,
    /// What has to be there, each for one kind of study.
    pub required: &'a [Required],
    /// How long a study whose images are complete waits for the results of which products.
    pub results: &'a [ResultWait],
}

/// How long the result of a clinical product is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultWait {
    /// The package's key.
    pub model: String,
    /// The package's name, for people.
    pub name: String,
    pub wait: Duration,
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
    /// Keys of the packages that may see an image of the study and whose results are not all here.
    pub awaited: Vec<String>,
    /// Somebody asked to close it.
    pub hand: Option<HandClose>,
}

/// A close by hand: the quiet period ends with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HandClose {
    pub at: Timestamp,
    /// Whether the study counts as complete; `None`: if the rules miss nothing.
    pub complete: Option<bool>,
}

/// What to do about an open study now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Look again at `until`, or as soon as something of the study changes. `until` lies in the future.
    Wait { until: Timestamp },
    /// Assess what is there.
    Close(Closing),
}

/// How the wait ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closing {
    /// False where the cap ended the wait, or a rule misses something: objects may be missing.
    pub complete: bool,
    pub by: ClosedBy,
    /// What the rules miss, for people.
    pub missing: Vec<String>,
}

/// Decides about one study, of which `images` were read. Never closes as complete within the shortest quiet period
/// that a rule allows, but by hand; always closes at the cap; once it says close, it says so at every later instant of
/// the same activity. Where a product's result has not arrived, quiet and cap are followed by its time.
pub fn decide(activity: &StudyActivity, images: &[ImageGroup], rules: &AssembleRules<'_>, now: Timestamp) -> Decision {
    let about: Vec<&Required> = rules.required.iter().filter(|rule| rule.applies(images)).collect();
    let missing: Vec<String> = about.iter().flat_map(|rule| rule.missing(images)).collect();
    let all_there = !about.is_empty() && missing.is_empty();
    let shorter = about.iter().map(|rule| rule.quiet_period.unwrap_or(rules.quiet_period)).max();
    let quiet_period = shorter.filter(|_| all_there).unwrap_or(rules.quiet_period);
    let waits = about.iter().any(|rule| rule.wait && !rule.missing(images).is_empty());

    let patience = patience(activity, rules);
    let closes_at = |images_at| later(images_at, patience);
    let quiet_at = (!waits).then(|| closes_at(later(activity.last_at, quiet_period)));
    let quiet_at = quiet_at.filter(|at| settled(activity, *at));
    let hand = activity.hand.filter(|hand| settled(activity, hand.at));
    let cap_at = closes_at(later(activity.first_at, rules.cap));
    let missing: Vec<String> = missing.into_iter().chain(results_missing(activity, rules)).collect();
    if let Some(hand) = hand.filter(|hand| now >= hand.at) {
        let complete = hand.complete.unwrap_or(missing.is_empty());
        return Decision::Close(Closing { complete, by: ClosedBy::Hand, missing });
    }
    if quiet_at.is_some_and(|at| now >= at) {
        return Decision::Close(Closing { complete: missing.is_empty(), by: ClosedBy::Quiet, missing });
    }
    if now >= cap_at {
        return Decision::Close(Closing { complete: false, by: ClosedBy::Cap, missing });
    }
    let until = [quiet_at, hand.map(|hand| hand.at)].into_iter().flatten().fold(cap_at, Timestamp::min);
    Decision::Wait { until }
}

/// The first moment at which a study may be closed, whatever its images are; they need not be looked up before.
pub fn earliest(activity: &StudyActivity, rules: &AssembleRules<'_>) -> Timestamp {
    let shortest = rules.required.iter().filter_map(|rule| rule.quiet_period).fold(rules.quiet_period, Duration::min);
    let patience = patience(activity, rules);
    let quiet_at = later(later(activity.last_at, shortest), patience);
    let ends = [Some(quiet_at), activity.hand.map(|hand| hand.at)];
    ends.into_iter()
        .flatten()
        .filter(|at| settled(activity, *at))
        .fold(later(later(activity.first_at, rules.cap), patience), Timestamp::min)
}

/// How long the results that have not arrived are waited for.
fn patience(activity: &StudyActivity, rules: &AssembleRules<'_>) -> Duration {
    awaited(activity, rules).map(|result| result.wait).max().unwrap_or_default()
}

fn results_missing(activity: &StudyActivity, rules: &AssembleRules<'_>) -> impl Iterator<Item = String> {
    awaited(activity, rules).map(|result| format!("result of {}", result.name))
}

/// Products that are not in use any more are waited for by nobody.
fn awaited<'a>(activity: &StudyActivity, rules: &AssembleRules<'a>) -> impl Iterator<Item = &'a ResultWait> {
    rules.results.iter().filter(|result| activity.awaited.contains(&result.model))
}

/// Whether no object that is not read yet could have belonged to the study by then. One that arrived later does not
/// undo it: the study had fallen quiet.
fn settled(activity: &StudyActivity, at: Timestamp) -> bool {
    activity.unread_since.is_none_or(|unread| unread >= at)
}

/// `time + span`, at the end of time where that overflows.
fn later(time: Timestamp, span: Duration) -> Timestamp {
    chrono::TimeDelta::from_std(span).ok().and_then(|d| time.checked_add_signed(d)).unwrap_or(Timestamp::MAX_UTC)
}

#[cfg(test)]
#[path = "assemble/tests.rs"]
mod tests;
