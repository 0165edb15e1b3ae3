//! Maps as DICOM objects: Secondary Capture (PS3.3 A.8.1) for people, Parametric Map (A.75) for programs.
//!
//! Both say that they are derived, of which image and frame, by which model and method, and that they are not for
//! diagnosis; none has text burned in. A capture is the picture that the model saw with the map in colours upon it. A
//! parametric map has the map's values as they are; its plane lies in a frame of reference that it shares with nothing but
//! the other maps of its series, with pixels of 1 mm for want of anything better: a projection has no place in space, and
//! a model sees a turned, cut or stretched image. Neighbours: `header` copies, `write` encodes, `overlay` colours. Left out:
//! who receives them.

use chrono::{DateTime, FixedOffset};
use dicom_core::value::PrimitiveValue;
use dicom_core::{DataElement, Tag, VR};
use dicom_object::InMemDicomObject;

use super::codes::{self, Concept};
use super::content::sop_reference;
use super::overlay::overlay;
use super::schemes::Schemes;
use super::tree::{Algorithm, Role};
use super::write::{plain, put, put_code, put_empty, put_items, to_file, to_tag};
use super::{Observer, ReportError, header};
use crate::domain::{AttributionMap, InstanceHeader, Laterality, MapMethod, MapTarget, Purpose, Report, Uid};

/// Secondary Capture Image Storage.
pub(super) const SECONDARY_CAPTURE: &str = "1.2.840.10008.5.1.4.1.1.7";
/// Parametric Map Storage.
pub(super) const PARAMETRIC_MAP: &str = "1.2.840.10008.5.1.4.1.1.30";

/// A map, and what it is of.
#[derive(Debug, Clone, Copy)]
pub struct MapImage<'a> {
    pub source: &'a InstanceHeader,
    /// Of the source, from 1.
    pub frame: u32,
    pub purpose: Purpose,
    pub map: &'a AttributionMap,
    /// What the model saw: grey values, as many as the map has.
    pub picture: &'a [u8],
    /// Height and width of a pixel, where they differ.
    pub aspect: Option<(u32, u32)>,
    /// Of the source's file; 0 where that is not known.
    pub file_bytes: u64,
}

/// Transfer syntaxes that may lose something, whether they do so always, and the Defined Term of the method (PS3.3
/// C.7.6.1.1.5.1). What JPEG XL recompressed was lost by JPEG before.
const LOSSY: [(&str, bool, &str); 7] = [
    ("1.2.840.10008.1.2.4.50", true, "ISO_10918_1"),
    ("1.2.840.10008.1.2.4.51", true, "ISO_10918_1"),
    ("1.2.840.10008.1.2.4.81", true, "ISO_14495_1"),
    ("1.2.840.10008.1.2.4.91", false, "ISO_15444_1"),
    ("1.2.840.10008.1.2.4.111", true, "ISO_10918_1"),
    ("1.2.840.10008.1.2.4.112", false, "ISO_18181_1"),
    ("1.2.840.10008.1.2.4.203", false, "ISO_15444_15"),
];

/// What an object needs besides its map.
#[derive(Debug, Clone)]
pub struct MapObject<'a> {
    pub observer: &'a Observer,
    pub sop_instance: Uid,
    pub series: Uid,
    /// For parametric maps.
    pub frame_of_reference: Uid,
    /// Instance Number (0020,0013).
    pub number: u32,
    /// As [`super::ReportOptions::now`].
    pub now: DateTime<FixedOffset>,
}

/// An instance that belongs to a report without being evidence of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Related {
    pub series: Uid,
    pub sop_class: Uid,
    pub sop_instance: Uid,
}

impl From<&Report> for Related {
    fn from(object: &Report) -> Self {
        Self {
            series: object.series.clone(),
            sop_class: object.sop_class.clone(),
            sop_instance: object.sop_instance.clone(),
        }
    }
}

/// The map in colours upon the picture, as a Secondary Capture in RGB.
///
/// # Errors
/// [`ReportError`] where a model card has no name, or the object cannot be encoded.
pub fn capture(image: &MapImage, object: &MapObject) -> Result<Report, ReportError> {
    let mut d = common(image, object, SECONDARY_CAPTURE, "DERIVED\\SECONDARY")?;
    // Synthetic Image
    put(&mut d, 0x0008_0064, VR::CS, "SYN");
    put_empty(&mut d, 0x0020_0020, VR::CS);
    put_numbers(&mut d, image.map.side, &[(0x0028_0002, 3), (0x0028_0006, 0), (0x0028_0100, 8)]);
    put_numbers(&mut d, image.map.side, &[(0x0028_0101, 8), (0x0028_0102, 7), (0x0028_0103, 0)]);
    put(&mut d, 0x0028_0004, VR::CS, "RGB");
    if let Some((height, width)) = image.aspect {
        put(&mut d, 0x0028_0034, VR::IS, &format!("{height}\\{width}"));
    }
    put_lossy(&mut d, image);
    let mut pixels = overlay(image.picture, image.map);
    pixels.resize(pixels.len().next_multiple_of(2), 0);
    d.put(DataElement::new(Tag(0x7fe0, 0x0010), VR::OB, PrimitiveValue::U8(pixels.into())));
    finish(image, object, d, SECONDARY_CAPTURE)
}

/// The values of the map, as a Parametric Map in single precision.
///
/// # Errors
/// As [`capture`].
pub fn parametric_map(image: &MapImage, object: &MapObject) -> Result<Report, ReportError> {
    const TYPE: &str = "DERIVED\\PRIMARY\\VOLUME\\NONE";
    let map = image.map;
    let mut d = common(image, object, PARAMETRIC_MAP, TYPE)?;
    put(&mut d, 0x0008_9205, VR::CS, "MONOCHROME");
    put(&mut d, 0x0018_9004, VR::CS, "RESEARCH");
    put(&mut d, 0x0020_0052, VR::UI, object.frame_of_reference.as_str());
    put_empty(&mut d, 0x0020_1040, VR::LO);
    put_numbers(&mut d, map.side, &[(0x0028_0002, 1), (0x0028_0100, 32)]);
    put(&mut d, 0x0028_0004, VR::CS, "MONOCHROME2");
    put(&mut d, 0x0028_0008, VR::IS, "1");
    put(&mut d, 0x0028_0302, VR::CS, "NO");
    if !put_lossy(&mut d, image) {
        put(&mut d, 0x0028_2110, VR::CS, "00");
    }
    put_empty(&mut d, 0x0040_0555, VR::SQ);
    put(&mut d, 0x0070_0080, VR::CS, &map.method.as_str().to_ascii_uppercase());
    put(&mut d, 0x0070_0081, VR::LO, &plain(&title(map), 64));
    put_empty(&mut d, 0x0070_0084, VR::PN);
    put(&mut d, 0x2050_0020, VR::CS, "IDENTITY");
    put_dimension(&mut d, object);
    put_items(&mut d, 0x5200_9229, vec![shared_groups(map, TYPE)]);
    put_items(&mut d, 0x5200_9230, vec![frame_groups(image)]);
    let values = map.values.iter().copied().collect();
    d.put(DataElement::new(Tag(0x7fe0, 0x0008), VR::OF, PrimitiveValue::F32(values)));
    finish(image, object, d, PARAMETRIC_MAP)
}

/// Patient, study, series, equipment, and what the image is derived from.
fn common(
    image: &MapImage,
    object: &MapObject,
    sop_class: &str,
    image_type: &str,
) -> Result<InMemDicomObject, ReportError> {
    let (source, map) = (image.source, image.map);
    let role = if image.purpose == Purpose::Race { Role::Audit } else { Role::Clinical };
    let algorithm = Algorithm::new(role, &map.model, None, &[])?;
    let mut schemes = Schemes::of(source);
    header::copied_values(source).for_each(|value| schemes.declare_copied(value));
    let mut d = InMemDicomObject::new_empty();
    header::copy(&mut d, source, &schemes);
    let now = header::put_times(&mut d, &[source], object.now);
    header::put_equipment(&mut d, &[algorithm], object.observer, now);
    let declared = schemes.items();
    if !declared.is_empty() {
        put_items(&mut d, 0x0008_0110, declared);
    }
    put(&mut d, 0x0008_0008, VR::CS, image_type);
    put(&mut d, 0x0008_0016, VR::UI, sop_class);
    put(&mut d, 0x0008_0018, VR::UI, object.sop_instance.as_str());
    put(&mut d, 0x0008_0060, VR::CS, "OT");
    let (series, description) = match image.purpose {
        Purpose::Clinical => ("9802", "AI explanation maps (clinical), not for diagnosis"),
        Purpose::Race => ("9803", "AI explanation maps (audit), not for diagnosis"),
    };
    put(&mut d, 0x0008_103e, VR::LO, description);
    put(&mut d, 0x0020_000e, VR::UI, object.series.as_str());
    put(&mut d, 0x0020_0011, VR::IS, series);
    put(&mut d, 0x0020_0013, VR::IS, &object.number.to_string());
    put(&mut d, 0x0028_0301, VR::CS, "NO");
    let body_part = plain(&source.body_part, 16);
    if !body_part.is_empty() {
        put(&mut d, 0x0018_0015, VR::CS, &body_part);
    }
    match source.image.laterality {
        Some(Laterality::Left) => put(&mut d, 0x0020_0060, VR::CS, "L"),
        Some(Laterality::Right) => put(&mut d, 0x0020_0060, VR::CS, "R"),
        Some(Laterality::Both) | None => {}
    }
    let phantoms = if map.model.phantoms_only { " PHANTOMS ONLY, not for clinical use." } else { "" };
    let comment = format!("{} Not for diagnosis, not verified by a physician.{phantoms}", explanation(map));
    put(&mut d, 0x0020_4000, VR::LT, &plain(&comment, 1024));
    put(&mut d, 0x0008_2111, VR::ST, &plain(&explanation(map), 1024));
    put_items(&mut d, 0x0008_2112, vec![source_reference(image)]);
    put_items(&mut d, 0x0008_1115, vec![referenced_series(source)]);
    Ok(d)
}

/// What the source lost to compression the map has lost too (PS3.3 C.7.6.1.1.5); whether it lost something. The transfer
/// syntax says so where the header does not: of one that may lose something, unless the header says that nothing was. The
/// ratio is then that of the stored values to the whole file.
fn put_lossy(d: &mut InMemDicomObject, image: &MapImage) -> bool {
    let source = image.source;
    let syntax = LOSSY.iter().find(|(syntax, ..)| *syntax == source.transfer_syntax.as_str());
    let by_syntax = syntax.filter(|(_, always, _)| *always || !source.image.never_lossy);
    if !source.image.lossy && by_syntax.is_none() {
        return false;
    }
    put(d, 0x0028_2110, VR::CS, "01");
    let (ratios, methods) = (&source.image.lossy_ratios, &source.image.lossy_methods);
    let is_ratio = |text: &String| text.parse::<f64>().is_ok_and(|ratio| ratio.is_finite() && ratio > 0.0);
    let is_code = |text: &String| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || "_ ".contains(c))
    };
    if ratios.len() == methods.len() && ratios.iter().all(is_ratio) && methods.iter().all(is_code) && !ratios.is_empty()
    {
        put(d, 0x0028_2112, VR::DS, &ratios.join("\\"));
        put(d, 0x0028_2114, VR::CS, &methods.join("\\"));
    } else if let (Some((.., method)), 1..) = (by_syntax, image.file_bytes) {
        let samples = if source.photometric.starts_with("MONOCHROME") { 1.0 } else { 3.0 };
        let pixels = f64::from(source.rows) * f64::from(source.columns) * f64::from(source.frames.max(1)) * samples;
        let ratio = pixels * f64::from(source.bits_allocated.div_ceil(8)) / image.file_bytes as f64;
        put(d, 0x0028_2112, VR::DS, &format!("{:.2}", ratio.max(0.01)));
        put(d, 0x0028_2114, VR::CS, method);
    }
    true
}

fn finish(image: &MapImage, object: &MapObject, d: InMemDicomObject, class: &str) -> Result<Report, ReportError> {
    Ok(Report {
        study: image.source.study.clone(),
        file: to_file(d, class, object.sop_instance.as_str())?,
        sop_class: Uid::parse(class).expect("a UID of the Standard"),
        sop_instance: object.sop_instance.clone(),
        series: object.series.clone(),
    })
}

/// `Grad-CAM: Pneumothorax`; of all groups together no group is named.
fn title(map: &AttributionMap) -> String {
    let target = match &map.target {
        MapTarget::Finding(finding) => &finding.code.meaning,
        MapTarget::Groups => "all groups together",
    };
    format!("{}: {target}", map.method.title())
}

/// What the values mean, for people.
fn explanation(map: &AttributionMap) -> String {
    let by = format!("by {} {}", map.model.name, map.model.version);
    let what = match (map.method, &map.target) {
        (MapMethod::Gradcam, MapTarget::Finding(_)) => "where the last feature map speaks for the finding",
        (MapMethod::Gradcam, MapTarget::Groups) => {
            "where the last feature map makes the audit model sure, of whatever group"
        }
        (MapMethod::Occlusion, MapTarget::Finding(_)) => "loss of the score where the image is covered",
        (MapMethod::Occlusion, MapTarget::Groups) => {
            "how far the audit model's answer moves where the image is covered"
        }
    };
    format!("{} {by}: {what}.", title(map))
}

/// Rows and columns, and other numbers of 16 bits.
fn put_numbers(d: &mut InMemDicomObject, side: u32, numbers: &[(u32, u16)]) {
    let side = u16::try_from(side).unwrap_or(u16::MAX);
    for (tag, value) in numbers.iter().chain(&[(0x0028_0010, side), (0x0028_0011, side)]) {
        d.put(DataElement::new(to_tag(*tag), VR::US, PrimitiveValue::from(*value)));
    }
}

/// An item of Source Image Sequence (PS3.3 Table 10-3).
fn source_reference(image: &MapImage) -> InMemDicomObject {
    let mut item = sop_reference(&image.source.sop_class, &image.source.sop_instance);
    if image.source.frames > 1 {
        put(&mut item, 0x0008_1160, VR::IS, &image.frame.to_string());
    }
    put_code(&mut item, 0x0040_a170, &codes::SOURCE_IMAGE.code());
    item
}

/// An item of Referenced Series Sequence (Common Instance Reference, PS3.3 C.12.2).
fn referenced_series(source: &InstanceHeader) -> InMemDicomObject {
    let mut item = InMemDicomObject::new_empty();
    put_items(&mut item, 0x0008_114a, vec![sop_reference(&source.sop_class, &source.sop_instance)]);
    put(&mut item, 0x0020_000e, VR::UI, source.series.as_str());
    item
}

/// Multi-frame Dimension (PS3.3 C.7.6.17): the one frame by its place in the stack.
fn put_dimension(d: &mut InMemDicomObject, object: &MapObject) {
    // One dimension for the maps of a series, as they share a frame of reference.
    let organisation = |item: &mut InMemDicomObject| {
        put(item, 0x0020_9164, VR::UI, object.frame_of_reference.as_str());
    };
    let mut item = InMemDicomObject::new_empty();
    organisation(&mut item);
    put_items(d, 0x0020_9221, vec![item]);
    let mut item = InMemDicomObject::new_empty();
    organisation(&mut item);
    let pointer = |tag: u32| PrimitiveValue::Tags([to_tag(tag)].into_iter().collect());
    item.put(DataElement::new(Tag(0x0020, 0x9165), VR::AT, pointer(0x0020_0032)));
    item.put(DataElement::new(Tag(0x0020, 0x9167), VR::AT, pointer(0x0020_9113)));
    put_items(d, 0x0020_9222, vec![item]);
}

fn item_with(build: impl FnOnce(&mut InMemDicomObject)) -> Vec<InMemDicomObject> {
    let mut item = InMemDicomObject::new_empty();
    build(&mut item);
    vec![item]
}

fn shared_groups(map: &AttributionMap, frame_type: &str) -> InMemDicomObject {
    let (low, high) = map.extent();
    let (low, high) = (f64::from(low), f64::from(high));
    let mut shared = InMemDicomObject::new_empty();
    let orientation = item_with(|i| put(i, 0x0020_0037, VR::DS, "1\\0\\0\\0\\1\\0"));
    put_items(&mut shared, 0x0020_9116, orientation);
    let measures = item_with(|i| {
        put(i, 0x0018_0050, VR::DS, "1");
        put(i, 0x0028_0030, VR::DS, "1\\1");
    });
    put_items(&mut shared, 0x0028_9110, measures);
    let window = item_with(|i| {
        put(i, 0x0028_1050, VR::DS, &decimal((low + high) / 2.0));
        put(i, 0x0028_1051, VR::DS, &decimal((high - low).max(1e-6)));
        // LINEAR asks for a width of at least 1 (PS3.3 C.11.2.1.2.1).
        put(i, 0x0028_1056, VR::CS, "LINEAR_EXACT");
    });
    put_items(&mut shared, 0x0028_9132, window);
    let identity = item_with(|i| {
        put(i, 0x0028_1052, VR::DS, "0");
        put(i, 0x0028_1053, VR::DS, "1");
        put(i, 0x0028_1054, VR::LO, "US");
    });
    put_items(&mut shared, 0x0028_9145, identity);
    put_items(&mut shared, 0x0040_9092, item_with(|i| put(i, 0x0008_9007, VR::CS, frame_type)));
    put_items(&mut shared, 0x0040_9096, item_with(|i| real_world_values(i, map, low, high)));
    shared
}

/// Real World Value Mapping (PS3.3 C.7.6.16.2.11): the values are what they are, without a unit.
fn real_world_values(item: &mut InMemDicomObject, map: &AttributionMap, low: f64, high: f64) {
    let quantity = quantity(map.method);
    put(item, 0x0028_3003, VR::LO, &plain(&title(map), 64));
    put(item, 0x0040_9210, VR::SH, map.method.title());
    put_code(item, 0x0040_08ea, &codes::NO_UNITS.code());
    for (tag, value) in [(0x0040_9214, low), (0x0040_9213, high), (0x0040_9224, 0.0), (0x0040_9225, 1.0)] {
        item.put(DataElement::new(to_tag(tag), VR::FD, PrimitiveValue::from(value)));
    }
    let definition = item_with(|i| {
        put(i, 0x0040_a040, VR::CS, "CODE");
        put_code(i, 0x0040_a043, &codes::QUANTITY.code());
        put_code(i, 0x0040_a168, &quantity.code());
    });
    put_items(item, 0x0040_9220, definition);
}

fn quantity(method: MapMethod) -> Concept {
    match method {
        MapMethod::Gradcam => codes::GRADIENT_ACTIVATION,
        MapMethod::Occlusion => codes::SALIENCY,
    }
}

fn frame_groups(image: &MapImage) -> InMemDicomObject {
    let mut frame = InMemDicomObject::new_empty();
    let derivation = item_with(|i| {
        put(i, 0x0008_2111, VR::ST, &plain(&explanation(image.map), 1024));
        put_code(i, 0x0008_9215, &quantity(image.map.method).code());
        let mut source = source_reference(image);
        put(&mut source, 0x0028_135a, VR::CS, "NO");
        put_items(i, 0x0008_2112, vec![source]);
    });
    put_items(&mut frame, 0x0008_9124, derivation);
    let content = item_with(|i| {
        let first = PrimitiveValue::from(1u32);
        i.put(DataElement::new(Tag(0x0020, 0x9157), VR::UL, first));
    });
    put_items(&mut frame, 0x0020_9111, content);
    put_items(&mut frame, 0x0020_9113, item_with(|i| put(i, 0x0020_0032, VR::DS, "0\\0\\0")));
    frame
}

/// Within the 16 characters of VR DS.
fn decimal(value: f64) -> String {
    format!("{value:.9}").chars().take(16).collect()
}

#[cfg(test)]
#[path = "maps_tests.rs"]
mod tests;
