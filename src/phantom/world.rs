//! Worlds: what is planted into a set of phantoms, and how strongly.
//!
//! A world is plain data, written to `world.json` beside the labels, so that whoever analyses a set can compare
//! what was found with what is true. Two worlds have names: `null` plants nothing, `biased` a weaker
//! pneumothorax in one group and a group texture. Others are made by changing the fields. Neighbours: `patient`
//! draws from a world, `pa` and `lateral` draw the pictures. Left out: everything that is the same in all worlds.

use serde::{Deserialize, Serialize};

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
    pub const NAMES: [&'static str; 2] = ["null", "biased"];

    /// The world of that name, if there is one.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "null" => Some(Self::null()),
            "biased" => Some(Self::biased()),
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
        };
        Self {
            name: "null".into(),
            planted: "nothing: groups differ in their label only".into(),
            groups: ["Asian", "Black", "White"].map(group).into(),
            texture_rms: 0.007,
            texture_anisotropy_sd: 0.25,
            texture_mismatch: 0.0,
        }
    }

    /// Pneumothorax shows at less than half its contrast in group Black, and each group has a texture of its own.
    pub fn biased() -> Self {
        let mut world = Self::null();
        world.name = "biased".into();
        world.planted = "pneumothorax has weaker contrast in group Black; texture differs by group".into();
        world.texture_mismatch = 0.03;
        for group in &mut world.groups {
            let (wavelength_mm, anisotropy) = match group.group.as_str() {
                "Asian" => (13.5, 1.6),
                "Black" => (13.5, -1.6),
                _ => (18.5, 0.0),
            };
            group.texture.wavelength_mm = wavelength_mm;
            group.texture.anisotropy = anisotropy;
            if group.group == "Black" {
                group.pneumothorax.contrast = 0.45;
            }
        }
        world
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
    }
}
