//! What a study of one kind needs before it can be complete, and how it came to be closed.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Laterality, Uid, View};

/// What studies of one kind need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Required {
    /// The studies that it is about: those with an image of this modality and body part; `None`: any.
    pub modality: Option<String>,
    pub body_part: Option<String>,
    /// Each of these has to be there among the images of this kind.
    pub views: Vec<RequiredView>,
    /// So many images, in so many series, of this kind.
    pub images_min: u64,
    pub series_min: u64,
    /// Once all is there, the study is quiet after this; `None`: after the usual time.
    pub quiet_period: Option<std::time::Duration>,
    /// Whether a quiet study that lacks something waits for it until the cap.
    pub wait: bool,
}

/// A projection, with the side where it matters: `PA`, `L-CC`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequiredView {
    pub side: Option<Laterality>,
    pub view: View,
}

/// Images of one study that are alike as far as completeness goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageGroup {
    pub series: Uid,
    pub modality: String,
    pub body_part: String,
    pub view: Option<View>,
    pub side: Option<Laterality>,
    pub images: u64,
}

/// What ended the wait for a study's images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClosedBy {
    /// Nothing arrived for the quiet period.
    Quiet,
    /// The cap.
    Cap,
    /// Somebody said so: `studies close`.
    Hand,
}

impl Required {
    /// Whether a study with these images is one that the rule is about.
    pub fn applies(&self, images: &[ImageGroup]) -> bool {
        (self.modality.is_none() && self.body_part.is_none()) || images.iter().any(|group| self.is_about(group))
    }

    /// What such a study lacks, for people; nothing: all is there.
    pub fn missing(&self, images: &[ImageGroup]) -> Vec<String> {
        let own: Vec<&ImageGroup> = images.iter().filter(|group| self.is_about(group)).collect();
        let kind: String =
            [&self.modality, &self.body_part].into_iter().flatten().map(|part| format!("{part} ")).collect();
        let absent = self.views.iter().filter(|view| !own.iter().any(|group| view.shown_by(group)));
        let mut missing: Vec<String> = absent.map(|view| format!("{kind}{view}")).collect();
        let count: u64 = own.iter().map(|group| group.images).sum();
        if count < self.images_min {
            missing.push(format!("{} of {} {kind}images", self.images_min - count, self.images_min));
        }
        let series = own.iter().map(|group| &group.series).collect::<BTreeSet<_>>().len() as u64;
        if series < self.series_min {
            missing.push(format!("{} of {} {kind}series", self.series_min - series, self.series_min));
        }
        missing
    }

    fn is_about(&self, group: &ImageGroup) -> bool {
        self.modality.as_ref().is_none_or(|modality| *modality == group.modality)
            && self.body_part.as_ref().is_none_or(|part| *part == group.body_part)
    }
}

impl RequiredView {
    fn shown_by(&self, group: &ImageGroup) -> bool {
        let frontal = [View::Pa, View::Ap, View::Frontal];
        let view = match self.view {
            View::Frontal => group.view.is_some_and(|view| frontal.contains(&view)),
            view => group.view == Some(view),
        };
        view && self.side.is_none_or(|side| group.side == Some(side))
    }
}

impl fmt::Display for RequiredView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = match self.side {
            Some(Laterality::Left) => "L-",
            Some(Laterality::Right) => "R-",
            Some(Laterality::Both) => "B-",
            None => "",
        };
        write!(f, "{side}{}", self.view.as_str())
    }
}

impl ClosedBy {
    pub fn as_str(self) -> &'static str {
        match self {
            ClosedBy::Quiet => "quiet",
            ClosedBy::Cap => "cap",
            ClosedBy::Hand => "hand",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(modality: &str, side: Option<Laterality>, view: Option<View>, series: &str, images: u64) -> ImageGroup {
        let series = Uid::parse(series).expect("a valid uid");
        ImageGroup { series, modality: modality.into(), body_part: "BREAST".into(), view, side, images }
    }

    fn rule(modality: Option<&str>, views: &[RequiredView], images_min: u64, series_min: u64) -> Required {
        let (modality, views) = (modality.map(str::to_owned), views.to_vec());
        Required { modality, body_part: None, views, images_min, series_min, quiet_period: None, wait: false }
    }

    #[test]
    fn what_is_missing_is_named() {
        let (left, right) = (Some(Laterality::Left), Some(Laterality::Right));
        let view = |side, view| RequiredView { side, view };
        let mammography = rule(Some("MG"), &[view(left, View::Cc), view(right, View::Cc), view(left, View::Mlo)], 0, 0);
        let images = [group("MG", left, Some(View::Cc), "1.1", 1), group("MG", right, Some(View::Mlo), "1.2", 2)];
        assert_eq!(mammography.missing(&images), ["MG R-CC", "MG L-MLO"]);
        assert!(mammography.applies(&images) && !mammography.applies(&[group("CR", None, None, "1.1", 9)]));

        let counted = rule(None, &[], 5, 3);
        assert_eq!(counted.missing(&images), ["2 of 5 images", "1 of 3 series"]);
        assert!(counted.applies(&[]));
        let enough = rule(Some("MG"), &[view(None, View::Mlo)], 3, 2);
        assert!(enough.missing(&images).is_empty());
        assert_eq!(rule(Some("CT"), &[], 1, 0).missing(&images), ["1 of 1 CT images"]);
    }

    #[test]
    fn frontal_is_any_frontal_view() {
        let frontal = rule(None, &[RequiredView { side: None, view: View::Frontal }], 0, 0);
        for (shown, expected) in [(View::Pa, 0), (View::Ap, 0), (View::Frontal, 0), (View::Lateral, 1)] {
            assert_eq!(frontal.missing(&[group("CR", None, Some(shown), "1.1", 1)]).len(), expected, "{shown:?}");
        }
    }
}
