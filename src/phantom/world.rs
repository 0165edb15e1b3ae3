//! Worlds: what is planted into a set of phantoms, and how strongly.
//!
//! A world is plain data, written to `world.json` beside the labels, so that whoever analyses a set can compare
//! what was found with what is true. Some worlds have names: `null` plants nothing, `biased` a weaker pneumothorax in
//! one group and a group texture, the others one visual mechanism each beside the textures, or one place in which
//! alone groups differ. More are made by changing the fields of a file. Neighbours: `signal` plants the latter, `patient` draws from a world, `pa` and `lateral` draw the pictures, `scores` has
//! worlds without pictures. Left out: everything that is the same in all worlds.

use serde::{Deserialize, Serialize};

use super::signal::Signal;

/// The findings that phantoms have, as in the columns of `labels.csv`.
pub const FINDINGS: [&str; 2] = ["pneumothorax", "pleural_effusion"];

/// The ground truth that a set of phantoms is drawn from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct World {
    pub name: String,
    /// What is planted, in words.
    pub planted: String,
    pub groups: Vec<GroupWorld>,
    /// Root mean square of the texture that runs through the body, as a fraction of the range from black to white.
    pub texture_rms: f64,
    /// Standard deviation between patients of [`Spectrum::anisotropy`].
    pub texture_anisotropy_sd: f64,
    /// Share of the patients whose texture is that of another group: self-report and image need not agree, so that
    /// no model can be perfect.
    pub texture_mismatch: f64,
    /// The texture of one group in patients of any group who have a pneumothorax.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shortcut: Option<Shortcut>,
    /// A change at one moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<Drift>,
    /// What tells the groups apart in one place of the picture or of its spectrum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<Signal>,
}

/// A shortcut to learn: who has the finding looks more often like one group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shortcut {
    /// The group whose texture it is.
    pub group: String,
    /// Share of the patients with a pneumothorax who have it, 0..1.
    pub share: f64,
}

/// From one month on a pneumothorax shows otherwise in one group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drift {
    pub group: String,
    /// The first month with the change, counted from January 2023 as 0.
    pub month: u32,
    /// Factor on the contrast of pneumothorax, beside the group's own.
    pub contrast: f64,
}

/// One self-reported group and how its patients differ from the others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupWorld {
    /// The label in the column `group`.
    pub group: String,
    /// Relative share of the patients.
    pub share: f64,
    pub pneumothorax: FindingWorld,
    pub pleural_effusion: FindingWorld,
    pub texture: Spectrum,
    /// Factor on [`World::texture_rms`] for this group's texture.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub texture_strength: f64,
    /// Share of studies with a lateral image in place of the set's own, 0..1: where groups differ in it, view and group
    /// are confounded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lateral_share: Option<f64>,
    /// Body mass index, which the pictures show; for all groups of a world or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bmi: Option<Bmi>,
}

/// Body mass index of a group's patients, kg/m².
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bmi {
    pub mean: f64,
    pub sd: f64,
}

// What is 1 is left out of the file, so that sets of older worlds keep their identity.
fn one() -> f64 {
    1.0
}

fn is_one(value: &f64) -> bool {
    *value == 1.0
}

/// How often a finding is there and how well it shows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FindingWorld {
    /// Probability, drawn independently for each patient and finding.
    pub prevalence: f64,
    /// Factor on the finding's contrast in the image; 1 is the contrast of an unbiased world.
    pub contrast: f64,
}

/// A band of spatial frequencies with a preferred direction.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spectrum {
    /// Centre of the band, mm at the detector.
    pub wavelength_mm: f64,
    /// Standard deviation of the band relative to its centre frequency.
    pub bandwidth: f64,
    /// Exponent a in the weight exp(a cos 2θ) of direction θ: above 0 the waves run along the rows, below 0 along
    /// the columns, 0 knows no direction. Mirroring an image leaves it as it is.
    pub anisotropy: f64,
}

impl World {
    /// The names that [`World::named`] knows.
    pub const NAMES: [&'static str; 10] = [
        "null",
        "biased",
        "shortcut",
        "view",
        "drift",
        "low-frequency",
        "high-frequency",
        "one-patch",
        "bone-bright",
        "habitus",
    ];

    /// The world of that name, if there is one.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "null" => Some(Self::null()),
            "biased" => Some(Self::biased()),
            "shortcut" => Some(Self::shortcut()),
            "view" => Some(Self::view()),
            "drift" => Some(Self::drift()),
            "low-frequency" => {
                let signal = Signal::Everywhere { cycles: 7.0, amplitude: 0.03 };
                Some(Self::signalled(name, "groups differ below 10 cycles per image side", signal))
            }
            "high-frequency" => {
                let signal = Signal::Everywhere { cycles: 90.0, amplitude: 0.015 };
                Some(Self::signalled(name, "groups differ above 60 cycles per image side", signal))
            }
            "one-patch" => {
                let signal = Signal::Cell { cell: 4, cycles: 24.0, amplitude: 0.06 };
                Some(Self::signalled(name, "groups differ in the middle cell of a 3 x 3 grid", signal))
            }
            "bone-bright" => {
                // More than 60 %, since devices do not use all of their range.
                let signal = Signal::Bright { above: 0.65, cycles: 12.0, amplitude: 0.08 };
                Some(Self::signalled(name, "groups differ where pictures are brighter than 65 % of the range", signal))
            }
            "habitus" => Some(Self::habitus()),
            _ => None,
        }
    }

    /// Nothing is planted: groups differ in nothing but their label.
    pub fn null() -> Self {
        let common = Spectrum { wavelength_mm: 15.0, bandwidth: 0.25, anisotropy: 0.0 };
        let group = |name: &str| GroupWorld {
            group: name.into(),
            share: 1.0,
            pneumothorax: FindingWorld { prevalence: 0.40, contrast: 1.0 },
            pleural_effusion: FindingWorld { prevalence: 0.35, contrast: 1.0 },
            texture: common,
            texture_strength: 1.0,
            lateral_share: None,
            bmi: None,
        };
        Self {
            name: "null".into(),
            planted: "nothing: groups differ in their label only".into(),
            groups: ["Asian", "Black", "White"].map(group).into(),
            texture_rms: 0.007,
            texture_anisotropy_sd: 0.25,
            texture_mismatch: 0.0,
            shortcut: None,
            drift: None,
            signal: None,
        }
    }

    /// Groups differ by a signal in one place, and in nothing else.
    fn signalled(name: &str, planted: &str, signal: Signal) -> Self {
        Self { name: name.into(), planted: planted.into(), signal: Some(signal), ..Self::null() }
    }

    /// Groups differ in body mass index, which shows, and beyond that in nothing.
    fn habitus() -> Self {
        let planted = "groups differ in body mass index, and pictures in nothing else";
        let mut world = Self { name: "habitus".into(), planted: planted.into(), ..Self::null() };
        for group in &mut world.groups {
            let mean = match group.group.as_str() {
                "Asian" => 21.5,
                "Black" => 31.5,
                _ => 26.5,
            };
            group.bmi = Some(Bmi { mean, sd: 2.5 });
        }
        world
    }

    /// Pneumothorax shows at less than half its contrast in group Black, and each group has a texture of its own.
    pub fn biased() -> Self {
        let planted = "pneumothorax has weaker contrast in group Black; texture differs by group";
        let mut world = Self::textured("biased", planted);
        for group in world.groups.iter_mut().filter(|g| g.group == "Black") {
            group.pneumothorax.contrast = 0.45;
        }
        world
    }

    /// Six of ten patients with a pneumothorax have the texture of group Black, whatever their own group: a clinical
    /// model that learns from such images learns the texture.
    fn shortcut() -> Self {
        let planted = "60 % of the patients with a pneumothorax have the texture of group Black";
        let shortcut = Some(Shortcut { group: "Black".into(), share: 0.6 });
        Self { shortcut, ..Self::textured("shortcut", planted) }
    }

    /// Group Black has a lateral image in nine of ten studies, the others in one of ten.
    fn view() -> Self {
        let mut world = Self::textured("view", "group Black has laterals in 90 % of studies, the others in 10 %");
        for group in &mut world.groups {
            group.lateral_share = Some(if group.group == "Black" { 0.9 } else { 0.1 });
        }
        world
    }

    /// From January 2024 on pneumothorax shows at less than half its contrast in group Black.
    fn drift() -> Self {
        let planted = "pneumothorax has weaker contrast in group Black from month 12 on";
        let drift = Some(Drift { group: "Black".into(), month: 12, contrast: 0.45 });
        Self { drift, ..Self::textured("drift", planted) }
    }

    /// Each group has a texture of its own, and nothing else differs.
    fn textured(name: &str, planted: &str) -> Self {
        let mut world = Self { name: name.into(), planted: planted.into(), texture_mismatch: 0.03, ..Self::null() };
        for group in &mut world.groups {
            let (wavelength_mm, anisotropy) = match group.group.as_str() {
                "Asian" => (13.5, 1.6),
                "Black" => (13.5, -1.6),
                _ => (18.5, 0.0),
            };
            group.texture.wavelength_mm = wavelength_mm;
            group.texture.anisotropy = anisotropy;
        }
        world
    }

    /// A world from a file (TOML), refused with the rule that it breaks.
    pub fn parse(text: &str) -> Result<Self, String> {
        let world: Self = toml::from_str(text).map_err(|e| e.to_string())?;
        world.fault().map_or(Ok(world), Err)
    }

    /// The rule that the world breaks, if any.
    pub fn fault(&self) -> Option<String> {
        if self.groups.is_empty() {
            return Some("a world needs at least one group".into());
        }
        let amount = |v: f64| v.is_finite() && v >= 0.0;
        if !amount(self.texture_rms) || !amount(self.texture_anisotropy_sd) {
            return Some("texture_rms and texture_anisotropy_sd must be 0 or more".into());
        }
        if !(0.0..=1.0).contains(&self.texture_mismatch) {
            return Some("texture_mismatch lies between 0 and 1".into());
        }
        if !self.groups.iter().all(|g| amount(g.share)) || self.groups.iter().all(|g| g.share == 0.0) {
            return Some("shares must be 0 or more, and one of them greater than 0".into());
        }
        if let Some(fault) = self.mechanism_fault() {
            return Some(fault);
        }
        for group in &self.groups {
            for (finding, of) in FINDINGS.iter().zip([group.pneumothorax, group.pleural_effusion]) {
                if !(0.0..=1.0).contains(&of.prevalence) || !amount(of.contrast) || of.contrast > 5.0 {
                    return Some(format!(
                        "{finding} of group {}: prevalence lies between 0 and 1, contrast between 0 and 5",
                        group.group
                    ));
                }
            }
            let texture = group.texture;
            let band = texture.wavelength_mm >= 2.0 && texture.wavelength_mm <= 200.0;
            if !band || !(0.01..=2.0).contains(&texture.bandwidth) || !(-10.0..=10.0).contains(&texture.anisotropy) {
                return Some(format!(
                    "texture of group {}: wavelength_mm 2 to 200, bandwidth 0.01 to 2, anisotropy -10 to 10",
                    group.group
                ));
            }
        }
        None
    }

    fn mechanism_fault(&self) -> Option<String> {
        let known = |name: &String| self.groups.iter().any(|g| g.group == *name);
        if self.shortcut.as_ref().is_some_and(|s| !known(&s.group) || !(0.0..=1.0).contains(&s.share)) {
            return Some("shortcut: group is one of the world's, share lies between 0 and 1".into());
        }
        if self.drift.as_ref().is_some_and(|d| !known(&d.group) || !(0.0..=5.0).contains(&d.contrast)) {
            return Some("drift: group is one of the world's, contrast lies between 0 and 5".into());
        }
        if let Some(fault) = self.signal.as_ref().and_then(Signal::fault) {
            return Some(fault);
        }
        let known = self.groups.iter().filter_map(|g| g.bmi);
        let likely = known.clone().all(|bmi| (15.0..=50.0).contains(&bmi.mean) && (0.0..=10.0).contains(&bmi.sd));
        if !likely || ![0, self.groups.len()].contains(&known.count()) {
            return Some("bmi: for all groups or none, mean between 15 and 50, sd between 0 and 10".into());
        }
        let of = |g: &GroupWorld| {
            (0.0..=10.0).contains(&g.texture_strength) && g.lateral_share.is_none_or(|s| (0.0..=1.0).contains(&s))
        };
        (!self.groups.iter().all(of))
            .then(|| "texture_strength lies between 0 and 10, lateral_share between 0 and 1".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_worlds_are_valid_and_null_treats_groups_alike() {
        for name in World::NAMES {
            let world = World::named(name).unwrap();
            assert_eq!((world.fault(), world.name.as_str()), (None, name));
        }
        assert_eq!(World::named("other"), None);
        let null = World::null();
        for group in &null.groups {
            assert_eq!(group.texture, null.groups[0].texture);
            assert_eq!(group.pneumothorax, null.groups[0].pneumothorax);
            assert_eq!(group.pleural_effusion, null.groups[0].pleural_effusion);
        }
    }

    #[test]
    fn impossible_worlds_are_refused_with_the_rule() {
        let check = |change: &dyn Fn(&mut World), expected: &str| {
            let mut world = World::biased();
            change(&mut world);
            let fault = world.fault().unwrap_or_default();
            assert!(fault.contains(expected), "{fault:?} does not say {expected:?}");
        };
        check(&|w| w.groups.clear(), "at least one group");
        check(&|w| w.groups.iter_mut().for_each(|g| g.share = 0.0), "shares");
        check(&|w| w.groups[1].pneumothorax.prevalence = 1.5, "pneumothorax of group Black");
        check(&|w| w.groups[2].pleural_effusion.contrast = f64::NAN, "pleural_effusion of group White");
        check(&|w| w.groups[0].texture.wavelength_mm = 0.0, "texture of group Asian");
        check(&|w| w.texture_rms = -1.0, "texture_rms");
        check(&|w| w.texture_mismatch = 1.5, "texture_mismatch");
        check(&|w| w.shortcut = Some(Shortcut { group: "Blue".into(), share: 0.5 }), "shortcut");
        check(&|w| w.drift = Some(Drift { group: "Black".into(), month: 3, contrast: f64::NAN }), "drift");
        check(&|w| w.groups[0].texture_strength = -1.0, "texture_strength");
        check(&|w| w.groups[0].lateral_share = Some(2.0), "lateral_share");
        check(&|w| w.groups[1].bmi = Some(Bmi { mean: 25.0, sd: 3.0 }), "bmi: for all groups or none");
        check(&|w| w.groups.iter_mut().for_each(|g| g.bmi = Some(Bmi { mean: f64::NAN, sd: 3.0 })), "bmi: ");
        check(&|w| w.signal = Some(Signal::Everywhere { cycles: 0.0, amplitude: 0.1 }), "signal: cycles");
        check(&|w| w.signal = Some(Signal::Cell { cell: 9, cycles: 9.0, amplitude: 0.1 }), "cell is 0 to 8");
        let above = f64::INFINITY;
        check(&|w| w.signal = Some(Signal::Bright { above, cycles: 9.0, amplitude: 0.1 }), "above lies");
    }

    #[test]
    fn a_world_survives_its_file_and_older_ones_look_as_they_did() {
        for name in World::NAMES {
            let world = World::named(name).unwrap();
            let text = toml::to_string(&world).unwrap();
            assert_eq!(World::parse(&text).unwrap(), world, "{text}");
            let newer = ["texture_strength", "lateral_share", "shortcut", "drift", "signal"];
            let mentions =
                newer.iter().filter(|key| serde_json::to_string(&world).unwrap().contains(&format!("\"{key}\":")));
            assert_eq!(mentions.count(), usize::from(!["null", "biased", "habitus"].contains(&name)), "{text}");
            assert_eq!(text.contains("bmi"), name == "habitus", "{text}");
        }
        assert!(World::parse("name = 1").unwrap_err().contains("name"));
        let text = toml::to_string(&World::null()).unwrap().replace("share = 1.0", "share = -1.0");
        assert!(World::parse(&text).unwrap_err().contains("shares"));
    }
}
