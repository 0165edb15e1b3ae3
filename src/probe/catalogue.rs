//! The paper's experiments: 29 rows with names, what each asks, and the figures that were published.
//!
//! Gichoya et al., Lancet Digit Health 2022 (doi 10.1016/S2589-7500(22)00063-2) and its code; row 29 after Lotter 2024.
//! Neighbours: `variants` has the changes of images that rows ask for, `rows` what is computed. Left out: computing.

use serde::Serialize;

/// A row of the catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Row {
    pub number: u8,
    /// What `probe run` calls it.
    pub name: &'static str,
    pub title: &'static str,
    /// What is done, in words.
    pub definition: &'static str,
    /// What was published, AUCs unless it says otherwise.
    pub published: &'static [Published],
    #[serde(skip)]
    pub kind: Kind,
}

/// A published figure.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Published {
    /// Data set and group.
    pub of: &'static str,
    /// Place of the group in the paper's order (Asian, Black, White), where it is of one.
    pub group: Option<&'static str>,
    pub value: Said,
    pub limits: Option<(f64, f64)>,
}

/// What was said of a figure.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Said {
    Is(f64),
    AtMost(f64),
    AtLeast(f64),
    Between(f64, f64),
    /// In words.
    That(&'static str),
}

/// How a row is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Predictions on images as they are, of every image and every study. The cohort decides what is imaged.
    Detection,
    /// The same within strata of these columns.
    Strata(&'static [&'static str]),
    /// The same for images without any disease.
    NoFinding,
    /// A table model on covariates, without any image.
    Covariates(&'static [&'static str]),
    /// A table model on disease labels.
    Labels,
    /// A table model on disease labels and covariates.
    Combined,
    /// A table model on means and histograms of grey values.
    GreyValues,
    /// Trained on a cohort in which disease is as frequent in every group.
    EqualDisease,
    /// Predictions on changed images.
    Changed(Changed),
    /// A linear head on features of the clinical network.
    FrozenFeatures,
    /// Maps of what speaks for a score.
    Saliency,
}

/// Families of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    Ceiling,
    LowHighPass,
    Bands,
    Resolution,
    Noise,
    Blur,
    Masks,
    Peak,
    Patches,
    Acquisition,
}

const fn p(of: &'static str, value: f64) -> Published {
    Published { of, group: None, value: Said::Is(value), limits: None }
}

const fn g(of: &'static str, group: &'static str, value: f64) -> Published {
    Published { of, group: Some(group), value: Said::Is(value), limits: None }
}

const fn limited(of: &'static str, value: f64, lower: f64, upper: f64) -> Published {
    Published { of, group: None, value: Said::Is(value), limits: Some((lower, upper)) }
}

const fn said(of: &'static str, value: Said) -> Published {
    Published { of, group: None, value, limits: None }
}

const fn row(
    number: u8,
    name: &'static str,
    title: &'static str,
    definition: &'static str,
    kind: Kind,
    published: &'static [Published],
) -> Row {
    Row { number, name, title, definition, published, kind }
}

/// All rows, by number.
pub const ROWS: [Row; 29] = [
    row(
        1,
        "detection",
        "Chest x-ray, same site",
        "the race model's posteriors on test images of the site that it was trained on",
        Kind::Detection,
        &[
            g("MXR, Asian", "Asian", 0.986),
            g("MXR, Black", "Black", 0.982),
            g("MXR, White", "White", 0.981),
            g("CXP, Asian", "Asian", 0.981),
            Published { of: "CXP, Black", group: Some("Black"), value: Said::Is(0.980), limits: Some((0.977, 0.983)) },
            g("CXP, White", "White", 0.980),
            g("EMX, Asian", "Asian", 0.969),
            g("EMX, Black", "Black", 0.992),
            g("EMX, White", "White", 0.988),
        ],
    ),
    row(
        2,
        "external",
        "Chest x-ray, another site",
        "frozen weights on another site's images",
        Kind::Detection,
        &[
            g("MXR to CXP, Asian", "Asian", 0.947),
            g("MXR to CXP, Black", "Black", 0.962),
            g("MXR to CXP, White", "White", 0.948),
            g("MXR to EMX, Asian", "Asian", 0.914),
            g("MXR to EMX, Black", "Black", 0.983),
            g("MXR to EMX, White", "White", 0.975),
            g("CXP to MXR, Asian", "Asian", 0.974),
            g("CXP to MXR, Black", "Black", 0.955),
            g("CXP to MXR, White", "White", 0.956),
            g("CXP to EMX, Asian", "Asian", 0.915),
            g("CXP to EMX, Black", "Black", 0.968),
            g("CXP to EMX, White", "White", 0.954),
            g("EMX to MXR, Asian", "Asian", 0.966),
            g("EMX to MXR, Black", "Black", 0.970),
            g("EMX to MXR, White", "White", 0.964),
            g("EMX to CXP, Asian", "Asian", 0.949),
            g("EMX to CXP, Black", "Black", 0.973),
            g("EMX to CXP, White", "White", 0.947),
        ],
    ),
    row(
        3,
        "architectures",
        "Architectures on the same split",
        "ResNet34, DenseNet121 and EfficientNet-B0 on the same patients: one race model for each (--race, several times)",
        Kind::Detection,
        &[
            p("MXR, ResNet34", 0.97),
            p("MXR, DenseNet121", 0.94),
            p("EMX, ResNet34", 0.98),
            p("EMX, DenseNet121", 0.97),
            p("EMX, EfficientNet-B0", 0.99),
        ],
    ),
    row(
        4,
        "ct",
        "Chest CT",
        "a model of slices; a study's score is the mean of its slices'",
        Kind::Detection,
        &[
            p("NLST, slice", 0.92),
            p("NLST, study", 0.96),
            p("NLST to EM-CT, slice", 0.80),
            p("NLST to EM-CT, study", 0.87),
            p("NLST to RSPECT, slice", 0.83),
            p("NLST to RSPECT, study", 0.90),
        ],
    ),
    row(5, "hand", "Hand x-ray", "ResNet50, two groups", Kind::Detection, &[limited("DHA", 0.87, 0.752, 0.894)]),
    row(
        6,
        "mammography",
        "Mammography",
        "EfficientNet-B2; a study's score is the mean of its views'",
        Kind::Detection,
        &[p("EM-Mammo, image", 0.78), p("EM-Mammo, study", 0.81)],
    ),
    row(
        7,
        "spine",
        "Cervical spine",
        "lateral views, two groups",
        Kind::Detection,
        &[limited("EM-CS", 0.913, 0.892, 0.931)],
    ),
    row(
        8,
        "bmi",
        "Body mass index alone",
        "race from body mass index, without any image",
        Kind::Covariates(&["bmi"]),
        &[p("first data set", 0.55), p("second data set", 0.52)],
    ),
    row(
        9,
        "bmi-strata",
        "Within strata of body mass index",
        "the race model within < 18.5, 18.5 to 25, 25 to 30 and ≥ 30 kg/m²",
        Kind::Strata(&["bmi"]),
        &[said("all strata", Said::Between(0.92, 0.99))],
    ),
    row(
        10,
        "density",
        "Breast density, and with age",
        "race from breast density, and from density and age, without any image",
        Kind::Covariates(&["density", "age"]),
        &[p("density", 0.54), p("density and age", 0.61)],
    ),
    row(
        11,
        "labels",
        "Disease labels alone",
        "race from disease labels (−1 and nothing are 0): logistic regression, random forest, gradient boosting, 5-fold grid on log loss",
        Kind::Labels,
        &[said("MXR", Said::AtMost(0.61)), said("CXP", Said::AtMost(0.57))],
    ),
    row(
        12,
        "no-finding",
        "Images without any finding",
        "trained and tested on images without disease; here tested on those",
        Kind::NoFinding,
        &[g("MXR, Asian", "Asian", 0.914), g("MXR, Black", "Black", 0.949), g("MXR, White", "White", 0.941)],
    ),
    row(
        13,
        "equal-disease",
        "Disease as frequent in every group",
        "patients are drawn so that every group has the same distribution of disease; the network is trained on them",
        Kind::EqualDisease,
        &[p("MXR", 0.75)],
    ),
    row(
        14,
        "bone-clip",
        "Bone density removed",
        "grey values above 60 % become 60 %; the network is trained on such images",
        Kind::Changed(Changed::Ceiling),
        &[g("MXR, Black", "Black", 0.960), g("CXP, Black", "Black", 0.945)],
    ),
    row(
        15,
        "mean-pixel",
        "Average pixel and histogram",
        "race from mean grey values above thresholds, and from a histogram of 256 bins (boosting)",
        Kind::GreyValues,
        &[p("mean pixel", 0.50)],
    ),
    row(
        16,
        "age-sex-strata",
        "Within strata of age and sex",
        "the race model within ages 0 to 20, 20 to 40, 40 to 60, 60 to 80 and 80 and more; women, men",
        Kind::Strata(&["age", "sex"]),
        &[said("strata", Said::That("no appreciable difference"))],
    ),
    row(
        17,
        "covariates",
        "Covariates together",
        "race from age, sex, disease and body habitus: logistic regression, random forest, gradient boosting",
        Kind::Combined,
        &[p("logistic regression", 0.65), p("random forest", 0.64), p("gradient boosting", 0.64)],
    ),
    row(
        18,
        "filters",
        "Low-pass and high-pass",
        "frequencies below or from a \"diameter\" of 1, 5, 10, 25, 50, 75, 100, 125, 150, 200 on (a radius in the paper's code)",
        Kind::Changed(Changed::LowHighPass),
        &[said("low-pass", Said::That("degrades near 10")), said("high-pass", Said::That("high up to 100"))],
    ),
    row(
        19,
        "bands",
        "Band-pass and notch",
        "annuli between two of 10, 25, 50, 75, 100, 125 and 150, alone or left out",
        Kind::Changed(Changed::Bands),
        &[
            g("notch 10-25, White", "White", 0.901),
            g("notch 25-50, White", "White", 0.904),
            g("notch 10-150, White", "White", 0.817),
        ],
    ),
    row(
        20,
        "resolution",
        "Resolution",
        "averaged down to 1 to 320 pixels and up again",
        Kind::Changed(Changed::Resolution),
        &[said("160 pixels and more", Said::AtLeast(0.95)), said("4 pixels", Said::That("above chance"))],
    ),
    row(
        21,
        "noise",
        "Noise",
        "normal noise of a tenth of the range, test only",
        Kind::Changed(Changed::Noise),
        &[said("all groups", Said::Between(0.74, 0.80))],
    ),
    row(
        22,
        "blur",
        "Blur",
        "a Gaussian of two pixels, test only",
        Kind::Changed(Changed::Blur),
        &[said("all groups", Said::Between(0.64, 0.72))],
    ),
    row(
        23,
        "masks",
        "Lungs, and all but the lungs",
        "the complement of a lung mask is blackened, or the mask (column mask: PNG or DICOM Segmentation)",
        Kind::Changed(Changed::Masks),
        &[said("all but the lungs", Said::That("above the lungs, both below the whole image"))],
    ),
    row(
        24,
        "saliency",
        "Saliency maps",
        "the mean Grad-CAM map, or that of occlusion, by self-reported group",
        Kind::Saliency,
        &[said("maps", Said::That("non-contributory"))],
    ),
    row(
        25,
        "occlusion",
        "Without what is salient",
        "the bounding box of the saliency map's peak is blackened",
        Kind::Changed(Changed::Peak),
        &[said("all", Said::AtLeast(0.67))],
    ),
    row(
        26,
        "patches",
        "Patches",
        "one ninth of the image alone, enlarged, or all but one; also after high-pass 100",
        Kind::Changed(Changed::Patches),
        &[said("one ninth", Said::That("nearly as good as the whole image"))],
    ),
    row(
        27,
        "device-strata",
        "Within one device, one site",
        "the race model within devices and sites",
        Kind::Strata(&["device", "site"]),
        &[said("one device, one site", Said::That("robust; lower on photographs"))],
    ),
    row(
        28,
        "frozen-features",
        "Frozen pathology network",
        "a linear head for race on the features of the clinical network, which stays as it is",
        Kind::FrozenFeatures,
        &[g("MXR, Asian", "Asian", 0.80), g("MXR, Black", "Black", 0.84), g("MXR, White", "White", 0.83)],
    ),
    row(
        29,
        "acquisition",
        "Acquisition parameters",
        "window width × .80 to .95, field of view 235 to 269 pixels brought to 224 (Lotter 2024): by how much the mean race score moves",
        Kind::Changed(Changed::Acquisition),
        &[],
    ),
];

impl Row {
    /// The row of that name or number.
    pub fn named(name: &str) -> Option<&'static Self> {
        ROWS.iter().find(|row| row.name == name || row.number.to_string() == name)
    }

    /// Whether posteriors without images are enough.
    pub fn is_of_posteriors(&self) -> bool {
        matches!(self.kind, Kind::Detection | Kind::Strata(_) | Kind::NoFinding)
    }

    /// Whether images are looked at at all.
    pub fn needs_images(&self) -> bool {
        !matches!(self.kind, Kind::Covariates(_) | Kind::Labels | Kind::Combined)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_numbered_and_their_names_differ() {
        for (row, number) in ROWS.iter().zip(1..) {
            assert_eq!(row.number, number);
            assert_eq!(Row::named(row.name), Some(row));
            assert_eq!(Row::named(&number.to_string()), Some(row));
        }
        assert_eq!(Row::named("nothing"), None);
    }

    #[test]
    fn figures_lie_where_aucs_do() {
        for published in ROWS.iter().flat_map(|row| row.published) {
            let (lower, upper) = match published.value {
                Said::Is(v) | Said::AtMost(v) | Said::AtLeast(v) => (v, v),
                Said::Between(lower, upper) => (lower, upper),
                Said::That(_) => continue,
            };
            assert!((0.5..1.0).contains(&lower) && (lower..1.0).contains(&upper), "{}", published.of);
            let limits = published.limits.unwrap_or((lower, upper));
            assert!(limits.0 <= lower && upper <= limits.1);
        }
    }
}
