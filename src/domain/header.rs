//! What the node needs to know of an instance besides its pixels, read once in a sandboxed worker.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Refusal, RefusalCode, Uid};

/// An attribute copied verbatim. `value` keeps the bytes of the source (text in the source's character set,
/// numbers little endian), so that nothing is transcoded on its way into a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attribute {
    /// Two upper-case letters, e.g. `PN`.
    pub vr: String,
    pub value: AttributeValue,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttributeValue {
    Bytes(Vec<u8>),
    Items(Vec<Attributes>),
}

/// Attributes by tag, `group << 16 | element`.
pub type Attributes = BTreeMap<u32, Attribute>;

/// The projection of a chest or other radiograph, from View Position (0018,5101), View Code Sequence (0054,0220) or
/// Patient Orientation (0020,0020).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum View {
    #[serde(rename = "PA")]
    Pa,
    #[serde(rename = "AP")]
    Ap,
    /// PA or AP: the header does not say which.
    #[serde(rename = "FRONTAL")]
    Frontal,
    #[serde(rename = "LATERAL")]
    Lateral,
    #[serde(rename = "CC")]
    Cc,
    #[serde(rename = "MLO")]
    Mlo,
    #[serde(rename = "OTHER")]
    Other,
}

impl View {
    pub fn as_str(self) -> &'static str {
        match self {
            View::Pa => "PA",
            View::Ap => "AP",
            View::Frontal => "FRONTAL",
            View::Lateral => "LATERAL",
            View::Cc => "CC",
            View::Mlo => "MLO",
            View::Other => "OTHER",
        }
    }
}

/// Of the Gregorian calendar, on average.
const DAYS_OF_A_YEAR: f64 = 365.2425;

/// The side of the body that a whole image shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Laterality {
    Left,
    Right,
    Both,
}

/// What kind of picture it is and how it lies, as far as the header says; defaults are "not said".
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageFacts {
    /// Image Type (0008,0008), upper case: ORIGINAL or DERIVED, PRIMARY or SECONDARY, then the modality's own.
    pub image_type: Vec<String>,
    /// Conversion Type (0008,0064) of secondary captures; empty if absent.
    pub conversion_type: String,
    /// Presentation Intent Type (0008,0068); empty if absent.
    pub presentation_intent: String,
    /// Burned In Annotation (0028,0301).
    pub burned_in_annotation: Option<bool>,
    /// Code values of the View Modifier Code Sequence (0054,0222) that make the view another one.
    pub view_modifiers: Vec<String>,
    /// View Position, View Code Sequence and Patient Orientation contradict each other: the view is `Other`.
    pub view_contradicted: bool,
    /// Image Laterality (0020,0062), else Frame Laterality (0020,9072), else Laterality (0020,0060).
    pub laterality: Option<Laterality>,
    /// Patient Orientation (0020,0020): direction of the rows, then of the columns; empty if absent.
    pub patient_orientation: Vec<String>,
    /// Image Position (Patient) (0020,0032): x, y, z of the first pixel's centre, mm.
    pub position: Option<[f64; 3]>,
    /// Image Orientation (Patient) (0020,0037): direction cosines of the rows, then of the columns.
    pub orientation: Option<[f64; 6]>,
    /// Modality values are Hounsfield units.
    pub hounsfield: bool,
    /// Lossy Image Compression (0028,2110): the image lost something to compression at some time.
    pub lossy: bool,
    /// It says that the image never did.
    pub never_lossy: bool,
    /// Lossy Image Compression Ratio (0028,2112) and Method (0028,2114), one of each for each time, as the header has them.
    pub lossy_ratios: Vec<String>,
    pub lossy_methods: Vec<String>,
}

/// The header of one instance. Texts are decoded for comparison only and trimmed; what a report copies comes
/// from `copied`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceHeader {
    pub study: Uid,
    pub series: Uid,
    pub sop_instance: Uid,
    pub sop_class: Uid,
    pub transfer_syntax: Uid,
    /// Modality (0008,0060), upper case; empty if absent.
    pub modality: String,
    /// Body Part Examined (0018,0015), upper case; empty if absent.
    pub body_part: String,
    pub view: Option<View>,
    /// Manufacturer and model name, for scope rules and strata; empty if absent.
    pub manufacturer: String,
    pub model_name: String,
    pub rows: u32,
    pub columns: u32,
    pub frames: u32,
    pub bits_allocated: u16,
    pub bits_stored: u16,
    pub photometric: String,
    /// Whether there is a Pixel Data, Float or Double Float Pixel Data element.
    pub has_pixels: bool,
    /// Default in headers that were stored before it was read.
    #[serde(default)]
    pub image: ImageFacts,
    /// Patient, study, trial, issuer and de-identification attributes for the report (PS3.3 C.7.1, C.7.2).
    pub copied: Attributes,
}

impl InstanceHeader {
    /// Accession Number (0008,0050), trimmed, to compare; `None` if absent or empty.
    pub fn accession_number(&self) -> Option<String> {
        self.copied_text(0x0008_0050)
    }

    /// Study Date (0008,0020), eight digits, likewise.
    pub fn study_date(&self) -> Option<String> {
        self.copied_text(0x0008_0020)
    }

    /// Patient ID (0010,0020), likewise.
    pub fn patient_id(&self) -> Option<String> {
        self.copied_text(0x0010_0020)
    }

    /// Issuer of Patient ID (0010,0021), likewise.
    pub fn issuer_of_patient_id(&self) -> Option<String> {
        self.copied_text(0x0010_0021)
    }

    /// Patient's Sex (0010,0040), likewise.
    pub fn sex(&self) -> Option<String> {
        self.copied_text(0x0010_0040)
    }

    /// Age at the study in years: Patient's Age (0010,1010), else from the dates of birth (0010,0030) and study.
    pub fn age_years(&self) -> Option<f64> {
        let date = |text: Option<String>| chrono::NaiveDate::parse_from_str(text?.get(..8)?, "%Y%m%d").ok();
        let told = self.copied_text(0x0010_1010).and_then(|age| {
            let (number, unit) = age.split_at_checked(age.len().checked_sub(1)?)?;
            let number = f64::from(number.parse::<u16>().ok()?);
            Some(match unit {
                "Y" => number,
                "M" => number / 12.0,
                "W" => number * 7.0 / DAYS_OF_A_YEAR,
                "D" => number / DAYS_OF_A_YEAR,
                _ => return None,
            })
        });
        let born = || date(self.study_date()).zip(date(self.copied_text(0x0010_0030)));
        let years = told.or_else(|| born().map(|(study, birth)| (study - birth).num_days() as f64 / DAYS_OF_A_YEAR));
        years.filter(|years| (0.0..=130.0).contains(years))
    }

    /// View, sex and decade of age at the study, for whoever compares patients of one kind; empty where not said.
    pub fn kind_of_patient(&self) -> [String; 3] {
        let decade = self.age_years().map(|age| format!("{}", (age / 10.0).floor() * 10.0));
        [self.view.map(|v| v.as_str().to_owned()), self.sex(), decade].map(Option::unwrap_or_default)
    }

    fn copied_text(&self, tag: u32) -> Option<String> {
        let Some(AttributeValue::Bytes(bytes)) = self.copied.get(&tag).map(|a| &a.value) else { return None };
        let text = String::from_utf8_lossy(bytes).trim_matches([' ', '\0']).to_owned();
        (!text.is_empty()).then_some(text)
    }

    /// Why the object is no image that a model could see, whatever its scope: by its SOP class, which says more than
    /// the absence of pixels does, and some such objects have pixels.
    pub fn not_an_image(&self) -> Option<Refusal> {
        let class = self.sop_class.as_str();
        let known = NOT_IMAGES.iter().find(|(start, _)| class.starts_with(start)).filter(|_| class != RT_IMAGE);
        if let Some((_, what)) = known {
            return Some(Refusal::new(RefusalCode::NotAnImage, format!("{what} holds no image, SOP class {class}")));
        }
        (!self.has_pixels).then(|| Refusal::new(RefusalCode::NoPixels, "the object has no pixel data"))
    }
}

const RT_IMAGE: &str = "1.2.840.10008.5.1.4.1.1.481.1";

/// SOP classes that hold no picture of a patient, by the start of their UID (PS3.4 B.5).
const NOT_IMAGES: [(&str, &str); 15] = [
    ("1.2.840.10008.5.1.4.1.1.11.", "a presentation state"),
    ("1.2.840.10008.5.1.4.1.1.88.59", "a key object selection"),
    ("1.2.840.10008.5.1.4.1.1.88.", "a structured report"),
    ("1.2.840.10008.5.1.4.1.1.104.", "an encapsulated document"),
    ("1.2.840.10008.5.1.4.1.1.9.", "a waveform"),
    ("1.2.840.10008.5.1.4.1.1.66", "a segmentation, registration or raw data object"),
    ("1.2.840.10008.5.1.4.1.1.67", "a real world value mapping"),
    ("1.2.840.10008.5.1.4.1.1.68.", "a surface scan"),
    ("1.2.840.10008.5.1.4.1.1.30", "a parametric map"),
    ("1.2.840.10008.5.1.4.1.1.90.", "a content assessment"),
    ("1.2.840.10008.5.1.4.1.1.200.", "a protocol"),
    ("1.2.840.10008.5.1.4.1.1.481.", "a radiotherapy plan, dose or structure set"),
    ("1.2.840.10008.5.1.4.34.", "a radiotherapy instruction"),
    ("1.2.840.10008.5.1.4.38.", "a hanging protocol"),
    ("1.2.840.10008.5.1.4.39.", "a colour palette"),
];
