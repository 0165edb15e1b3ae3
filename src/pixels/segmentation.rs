//! Segmentations (PS3.3 A.51, C.8.20): which pixels of an image their lung segments cover.
//!
//! BINARY and FRACTIONAL, whose frames are decoded as those of any image (`decode`), bits packed across frames among
//! them (PS3.5 8.1.1); of FRACTIONAL what exceeds half of Maximum Fractional Value counts, whether that is an occupancy
//! or a probability. Which segments are lung their codes say, else their labels; which frames are of the image the
//! instances that they refer to. Neighbours: `mask` (asks), `prescan`. Left out: LABELMAP, tiled objects, and
//! resampling: a mask in another matrix than the image's is refused.

use std::collections::BTreeSet;

use super::Limits;
use super::dataset::{Item, Scan, Tag};
use super::decode::{Decoder, Samples};
use super::layout::Photometric;
use super::mask::Masked;
use crate::domain::{Refusal, RefusalCode};

const SEGMENTATION_STORAGE: &str = "1.2.840.10008.5.1.4.1.1.66.4";

const SEGMENT_SEQUENCE: Tag = 0x0062_0002;
const SHARED_GROUPS: Tag = 0x5200_9229;
const PER_FRAME_GROUPS: Tag = 0x5200_9230;

/// Lungs and their lobes by Segmented Property Type, in SNOMED CT: a lung, right, left, both; lobes (PS3.16 CID 6170),
/// then with their side.
const LUNG_SCT: [&str; 12] = [
    "39607008", "3341006", "44029006", "74101002", "31094006", "45653009", "72481006", "90572001", "42400003",
    "266005", "44714003", "41224006",
];
/// The same, as objects of before 2020 have it.
const LUNG_SRT: [&str; 5] = ["T-28000", "T-28770", "T-28820", "T-28300", "T-28830"];
/// Morphologically Altered Structure (PS3.16 CID 7150): a nodule of the lung is not the lung.
const ALTERED: [&str; 2] = ["49755003", "M-01000"];

/// Labels that a refusal names, and characters of each.
const LABELS_MAX: usize = 12;

#[derive(Debug, Clone, Copy)]
enum Kind {
    Binary,
    /// With its Maximum Fractional Value.
    Fractional(u16),
}

/// What a frame says of where it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// The image that is masked, pixel by pixel.
    Here,
    /// That image, but in another place: Spatial Locations Preserved (0028,135A) is not YES.
    Moved,
    Elsewhere,
    Unsaid,
}

/// Which pixels of the image the lung segments cover, row by row; some are covered.
pub fn lungs(scan: Scan, image: &Masked, limits: &Limits) -> Result<Vec<bool>, Refusal> {
    let kind = Kind::of(&scan)?;
    let segments = lung_segments(scan.root.items(SEGMENT_SEQUENCE))?;
    let mut decoder = Decoder::new(scan, limits)?;
    let layout = decoder.layout();
    let size = (layout.rows as usize, layout.columns as usize);
    if size != (image.rows, image.columns) {
        let detail = format!("its frames are {} × {} (rows × columns)", size.0, size.1);
        let remedy = "export the Segmentation in the image's own matrix";
        return Err(inconsistent(format!("{detail}, the image is {} × {}: {remedy}", image.rows, image.columns)));
    }
    if layout.photometric != Photometric::Monochrome2 {
        return Err(inconsistent("a Segmentation is MONOCHROME2 (0028,0004)".into()));
    }
    let root = &decoder.scan().root;
    let frames = of_image(&shown(root, layout.frames, &segments, image)?, root, image)?;
    limits.check(layout, frames.len(), &[])?;
    let mut covered = vec![false; size.0 * size.1];
    for index in frames {
        let Samples::U8(values) = decoder.frame(index)?.samples else {
            return Err(unsupported(
                "a Segmentation with other samples than 1 or 8 unsigned bits: not supported".into(),
            ));
        };
        covered.iter_mut().zip(values).for_each(|(covered, value)| *covered |= kind.covers(value));
    }
    if !covered.contains(&true) {
        return Err(inconsistent("its lung segments cover no pixel of the image".into()));
    }
    Ok(covered)
}

impl Kind {
    fn of(scan: &Scan) -> Result<Self, Refusal> {
        let class = scan.root.text(0x0008_0016).or_else(|| scan.media_sop_class.clone()).unwrap_or_default();
        if class != SEGMENTATION_STORAGE {
            let detail = format!("neither a picture nor of SOP Class Segmentation Storage, but {class:.64}");
            return Err(unsupported(format!("{detail}: masks are PNG or DICOM Segmentation")));
        }
        match scan.root.code_string(0x0062_0001).as_deref() {
            Some("BINARY") => Ok(Kind::Binary),
            Some("FRACTIONAL") => match scan.root.us(0x0062_000E) {
                Some(max @ 1..=255) => Ok(Kind::Fractional(max)),
                _ => Err(inconsistent("Maximum Fractional Value (0062,000E) is missing or not 1 to 255".into())),
            },
            other => {
                let other = other.unwrap_or("missing");
                Err(unsupported(format!("Segmentation Type (0062,0001) is {other:.16}, not BINARY or FRACTIONAL")))
            }
        }
    }

    fn covers(self, value: u8) -> bool {
        match self {
            Kind::Binary => value != 0,
            Kind::Fractional(max) => 2 * u16::from(value) > max,
        }
    }
}

/// Numbers of the segments that are lung: by their codes, or else by their labels; the only one, whatever it is.
fn lung_segments(segments: &[Item]) -> Result<BTreeSet<u16>, Refusal> {
    let rules: [&dyn Fn(&Item) -> bool; 3] = [&is_coded_lung, &is_labelled_lung, &|_| segments.len() == 1];
    let of = |rule: &dyn Fn(&Item) -> bool| segments.iter().filter(|segment| rule(segment)).collect::<Vec<_>>();
    let Some(chosen) = rules.into_iter().map(of).find(|chosen| !chosen.is_empty()) else {
        let mut labels: Vec<String> = segments.iter().take(LABELS_MAX).map(|s| format!("{:.32}", label(s))).collect();
        if segments.len() > LABELS_MAX {
            labels.push(format!("{} more", segments.len() - LABELS_MAX));
        }
        let detail = format!("none of its {} segments is lung by its code or label", segments.len());
        return Err(inconsistent(format!("{detail}: {}", labels.join(", "))));
    };
    let number = |segment: &Item| segment.us(0x0062_0004);
    let missing = || inconsistent("a segment has no Segment Number (0062,0004)".into());
    chosen.into_iter().map(|segment| number(segment).ok_or_else(missing)).collect()
}

/// By Segmented Property Type Code Sequence; which side a modifier says does not matter.
fn is_coded_lung(segment: &Item) -> bool {
    codes(segment, 0x0062_000F).any(|(scheme, value)| match scheme.as_str() {
        "SCT" => LUNG_SCT.contains(&value.as_str()),
        "SRT" | "SNM3" => LUNG_SRT.contains(&value.as_str()),
        _ => false,
    })
}

/// By Segment Label, if Segmented Property Category Code Sequence does not say that it is something in a lung.
fn is_labelled_lung(segment: &Item) -> bool {
    let altered = codes(segment, 0x0062_0003).any(|(_, value)| ALTERED.contains(&value.as_str()));
    !altered && label(segment).to_lowercase().contains("lung")
}

fn label(segment: &Item) -> String {
    segment.text(0x0062_0005).unwrap_or_else(|| "(no label)".into())
}

/// Coding Scheme Designator and Code Value of a code sequence.
fn codes(item: &Item, tag: Tag) -> impl Iterator<Item = (String, String)> {
    item.items(tag).iter().filter_map(|code| Some((code.code_string(0x0008_0102)?, code.text(0x0008_0100)?)))
}

/// A frame of a segment that was chosen.
struct Shown {
    /// From 0.
    index: u32,
    segment: u16,
    origin: Origin,
}

/// The frames that show one of the segments.
fn shown(root: &Item, count: u32, segments: &BTreeSet<u16>, image: &Masked) -> Result<Vec<Shown>, Refusal> {
    let (shared, groups) = (root.items(SHARED_GROUPS).first(), root.items(PER_FRAME_GROUPS));
    if !groups.is_empty() && groups.len() != count as usize {
        let detail = "Per-Frame Functional Groups Sequence (5200,9230) has another number of items than frames";
        return Err(inconsistent(detail.into()));
    }
    let segment_of = |group: &Item| group.items(0x0062_000A).first()?.us(0x0062_000B);
    let (segment_of_all, origin_of_all) = match shared {
        Some(group) => (segment_of(group), origin(group, image)),
        None => (None, Origin::Unsaid),
    };
    let mut found = Vec::new();
    for index in 0..count {
        let group = groups.get(index as usize);
        let Some(segment) = group.and_then(segment_of).or(segment_of_all) else {
            let number = index + 1;
            return Err(inconsistent(format!("Referenced Segment Number (0062,000B) of frame {number} is missing")));
        };
        if segments.contains(&segment) {
            let own = group.map_or(Origin::Unsaid, |group| origin(group, image));
            found.push(Shown { index, segment, origin: if own == Origin::Unsaid { origin_of_all } else { own } });
        }
    }
    Ok(found)
}

/// Indices, from 0, of those frames that are of the image.
fn of_image(frames: &[Shown], root: &Item, image: &Masked) -> Result<Vec<u32>, Refusal> {
    let some = |origin: Origin| frames.iter().any(|frame| frame.origin == origin);
    if some(Origin::Here) {
        return Ok(frames.iter().filter(|frame| frame.origin == Origin::Here).map(|frame| frame.index).collect());
    }
    if frames.is_empty() {
        return Err(inconsistent("its lung segments have no frame".into()));
    }
    if some(Origin::Moved) {
        let detail = "its frames were derived from the image and do not lie on its pixels (Spatial Locations Preserved";
        return Err(inconsistent(format!("{detail} (0028,135A)): export the Segmentation in the image's own matrix")));
    }
    if some(Origin::Elsewhere) || !may_be_all_of(root, image) {
        let frame = image.frame;
        let detail = "none of the frames of its lung segments refers to the image, by SOP Instance UID and as frame";
        return Err(inconsistent(format!("{detail} {frame}: it was made for another one")));
    }
    // nothing says of which image they are; where there is one for each segment they can only be of one
    let segments: BTreeSet<u16> = frames.iter().map(|frame| frame.segment).collect();
    if segments.len() < frames.len() {
        let detail = "a lung segment has several frames, and nothing says which of them is of the image";
        return Err(inconsistent(format!("{detail} (Derivation Image Sequence (0008,9124))")));
    }
    Ok(frames.iter().map(|frame| frame.index).collect())
}

/// What Derivation Image Sequence of a group says. A picture has no UID: nothing can be held against it.
fn origin(group: &Item, image: &Masked) -> Origin {
    let sources = || group.items(0x0008_9124).iter().flat_map(|derivation| derivation.items(0x0008_2112));
    let Some(instance) = image.instance.as_ref().filter(|_| sources().next().is_some()) else {
        return Origin::Unsaid;
    };
    let is_image = |source: &&Item| {
        // without one it is of all frames
        let named = |frame: &String| frame.parse::<u32>() == Ok(image.frame);
        let frames = source.texts(0x0008_1160);
        source.text(0x0008_1155).as_ref() == Some(instance) && (frames.is_empty() || frames.iter().any(named))
    };
    let kept = |source: &Item| source.code_string(0x0028_135A).is_none_or(|kept| kept == "YES");
    let own: Vec<&Item> = sources().filter(is_image).collect();
    match (own.is_empty(), own.into_iter().any(kept)) {
        (true, _) => Origin::Elsewhere,
        (false, true) => Origin::Here,
        (false, false) => Origin::Moved,
    }
}

/// Whether Referenced Series Sequence leaves it open that the whole object is of this image: it names no other one.
fn may_be_all_of(root: &Item, image: &Masked) -> bool {
    let Some(instance) = &image.instance else { return true };
    let mut listed = root.items(0x0008_1115).iter().flat_map(|series| series.items(0x0008_114A));
    listed.all(|item| item.text(0x0008_1155).as_ref() == Some(instance))
}

fn inconsistent(detail: String) -> Refusal {
    Refusal::new(RefusalCode::Inconsistent, detail)
}

fn unsupported(detail: String) -> Refusal {
    Refusal::new(RefusalCode::UnsupportedFormat, detail)
}
