//! Segmentations as masks: which segments and frames count, and that nothing in such an object does harm.
//!
//! What highdicom and dcmqi write is read in `tests/it/pixels/masks.rs`; here are small objects, byte by byte.

use proptest::prelude::*;

use super::super::mask_file;
use super::mask::{even, grey_png, image, plain, write};
use super::objects::{EXPLICIT, Encoding, Object};
use super::structure::deflated;
use crate::domain::{Refusal, RefusalCode};
use crate::pixels::Limits;

/// SOP Instance UID of the images.
const INSTANCE: &str = "1.2.3.4";
const SEGMENTATION: &str = "1.2.840.10008.5.1.4.1.1.66.4";

fn new() -> Object {
    Object::new(Encoding::Explicit)
}

/// A Segmentation as its writer sees it.
#[derive(Clone)]
pub(super) struct Segmentation {
    class: &'static str,
    rows: u16,
    columns: u16,
    kind: &'static str,
    max: Option<u16>,
    signed: u16,
    /// Number, label, code of the type, code of the category.
    segments: Vec<(u16, &'static str, (&'static str, &'static str), &'static str)>,
    frames: Vec<SegmentFrame>,
    /// Number of Frames, if it is a lie.
    count: Option<&'static str>,
    /// Referenced Series Sequence.
    listed: Vec<&'static str>,
    deflated: bool,
}

#[derive(Clone)]
struct SegmentFrame {
    segment: Option<u16>,
    sources: Vec<Source>,
    values: Vec<u8>,
}

#[derive(Clone, Copy)]
struct Source {
    instance: &'static str,
    frames: &'static str,
    kept: &'static str,
}

const OF_IMAGE: Source = Source { instance: INSTANCE, frames: "", kept: "YES" };
const LUNG: (&str, &str) = ("SCT", "39607008");
const NOT_LUNG: (&str, &str) = ("SCT", "80891009");
const ANATOMY: &str = "123037004";

impl Segmentation {
    /// BINARY, of one segment that is lung, and one frame of the image.
    pub(super) fn of(rows: usize, columns: usize, values: Vec<u8>) -> Self {
        Self {
            class: SEGMENTATION,
            rows: rows as u16,
            columns: columns as u16,
            kind: "BINARY",
            max: None,
            signed: 0,
            segments: vec![(1, "one", LUNG, ANATOMY)],
            frames: vec![SegmentFrame { segment: Some(1), sources: vec![OF_IMAGE], values }],
            count: None,
            listed: vec![INSTANCE],
            deflated: false,
        }
    }

    /// With these values in the frames of segments 1, 2 and so on.
    fn with_frames(self, frames: &[&[u8]]) -> Self {
        let frame = |(i, values): (usize, &&[u8])| SegmentFrame {
            segment: Some(i as u16 + 1),
            sources: vec![OF_IMAGE],
            values: values.to_vec(),
        };
        Self { frames: frames.iter().enumerate().map(frame).collect(), ..self }
    }

    fn pixels(&self) -> Vec<u8> {
        let values = self.frames.iter().flat_map(|frame| &frame.values);
        if self.kind != "BINARY" {
            return even(values.copied().collect());
        }
        let bits: Vec<u8> = values.copied().collect();
        even(bits.chunks(8).map(|bits| bits.iter().rev().fold(0, |byte, bit| byte << 1 | bit)).collect())
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let code = |value: &str, scheme: &str| new().text(0x0008_0100, "SH", value).text(0x0008_0102, "SH", scheme);
        let listed = self.listed.iter().map(|uid| new().text(0x0008_1155, "UI", uid)).collect();
        let segment = |(number, label, (scheme, value), category): &(u16, &str, (&str, &str), &str)| {
            new()
                .sequence(0x0062_0003, code(category, "SCT"))
                .us(0x0062_0004, *number)
                .text(0x0062_0005, "LO", label)
                .sequence(0x0062_000F, code(value, scheme))
        };
        let source = |source: &Source| {
            let named = new().text(0x0008_1155, "UI", source.instance).text(0x0008_1160, "IS", source.frames);
            named.text(0x0028_135A, "CS", source.kept)
        };
        let frame = |frame: &SegmentFrame| {
            let mut group = new();
            if !frame.sources.is_empty() {
                let sources = new().items(0x0008_2112, frame.sources.iter().map(source).collect());
                group = group.sequence(0x0008_9124, sources);
            }
            match frame.segment {
                Some(segment) => group.sequence(0x0062_000A, new().us(0x0062_000B, segment)),
                None => group,
            }
        };
        let bits = if self.kind == "BINARY" { 1 } else { 8 };
        let count = self.frames.len().to_string();
        let mut object = new()
            .text(0x0008_0016, "UI", self.class)
            .sequence(0x0008_1115, new().items(0x0008_114A, listed))
            .us(0x0028_0002, 1)
            .text(0x0028_0004, "CS", "MONOCHROME2")
            .text(0x0028_0008, "IS", self.count.unwrap_or(&count))
            .us(0x0028_0010, self.rows)
            .us(0x0028_0011, self.columns)
            .us(0x0028_0100, bits)
            .us(0x0028_0101, bits)
            .us(0x0028_0102, bits - 1)
            .us(0x0028_0103, self.signed)
            .text(0x0062_0001, "CS", self.kind)
            .items(0x0062_0002, self.segments.iter().map(segment).collect());
        if let Some(max) = self.max {
            object = object.us(0x0062_000E, max);
        }
        object = object.items(0x5200_9230, self.frames.iter().map(frame).collect());
        object = object.element(0x7FE0_0010, "OB", &self.pixels());
        if self.deflated { deflated(object) } else { object.file(EXPLICIT) }
    }
}

/// The masks' plane over an image of 8 × 8 of this Segmentation.
fn seen(segmentation: &Segmentation) -> Result<Vec<f32>, Refusal> {
    seen_of(segmentation, None)
}

fn seen_of(segmentation: &Segmentation, frames: Option<&'static str>) -> Result<Vec<f32>, Refusal> {
    let folder = tempfile::tempdir().expect("a folder");
    let count = frames.map_or(1, |frames| frames.trim().parse().expect("a number"));
    let image = write(folder.path(), "image", &image(8, 8, &[true; 64].repeat(count), frames, &new()));
    let mask = write(folder.path(), "mask", &segmentation.bytes());
    mask_file(&mask, &image, &plain(8), &Limits::default())
}

fn plane_of(values: &[u8]) -> Vec<f32> {
    values.iter().map(|v| f32::from(*v)).collect()
}

/// Two patterns of 8 × 8 bits that have pixels in common and pixels of their own.
fn patterns() -> ([u8; 64], [u8; 64]) {
    (std::array::from_fn(|i| u8::from(i % 3 == 0)), std::array::from_fn(|i| u8::from(i % 7 < 2)))
}

fn either(a: &[u8], b: &[u8]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| f32::from(a | b)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever a byte of it becomes: an answer, and shares if it is a mask.
    #[test]
    fn no_byte_of_a_segmentation_can_do_harm(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let (one, other) = patterns();
        let whole = Segmentation {
            segments: vec![(1, "lung", NOT_LUNG, ANATOMY), (2, "heart", NOT_LUNG, ANATOMY)],
            ..Segmentation::of(8, 8, Vec::new()).with_frames(&[&one, &other])
        };
        let mut bytes = whole.bytes();
        let at = 128 + at.index(bytes.len() - 128);
        bytes[at] = byte;
        let folder = tempfile::tempdir().expect("a folder");
        let image = write(folder.path(), "image", &image(8, 8, &[true; 64], None, &new()));
        let mask = write(folder.path(), "mask", &bytes);
        if let Ok(plane) = mask_file(&mask, &image, &plain(8), &Limits::default()) {
            prop_assert!(plane.len() == 64 && plane.iter().all(|v| (0.0..=1.0).contains(v)));
        }
    }
}

#[test]
fn lung_segments_are_united_and_others_left_out() {
    let (one, other) = patterns();
    let base = Segmentation::of(8, 8, Vec::new()).with_frames(&[&one, &other, &[1; 64]]);
    let named = |segments: [(&'static str, (&'static str, &'static str), &'static str); 3]| {
        let numbered = segments.into_iter().zip(1..).map(|((label, code, category), n)| (n, label, code, category));
        Segmentation { segments: numbered.collect(), ..base.clone() }
    };
    let heart = ("heart", NOT_LUNG, ANATOMY);
    let rows = [
        ("by code", named([("a", ("SCT", "3341006"), ANATOMY), ("b", ("SCT", "44029006"), ANATOMY), heart])),
        (
            "by code of old",
            named([("a", ("SRT", "T-28000"), ANATOMY), ("b", LUNG, ANATOMY), ("lung", NOT_LUNG, "49755003")]),
        ),
        ("code before label", named([("a", LUNG, ANATOMY), ("b", LUNG, ANATOMY), ("lung", NOT_LUNG, ANATOMY)])),
        ("by label", named([("Right Lung", NOT_LUNG, ANATOMY), ("lung_l", NOT_LUNG, ANATOMY), heart])),
        (
            "no nodule",
            named([("lung", NOT_LUNG, ANATOMY), ("LUNGS", NOT_LUNG, ANATOMY), ("Lung nodule", NOT_LUNG, "49755003")]),
        ),
        (
            "a code of another scheme",
            named([("lung", NOT_LUNG, ANATOMY), ("lung", NOT_LUNG, ANATOMY), ("x", ("99X", "39607008"), ANATOMY)]),
        ),
    ];
    for (name, segmentation) in rows {
        assert_eq!(seen(&segmentation), Ok(either(&one, &other)), "{name}");
        assert_eq!(seen(&Segmentation { deflated: true, ..segmentation }), Ok(either(&one, &other)), "{name}");
    }
    let lone =
        Segmentation { segments: vec![(7, "whatever", NOT_LUNG, ANATOMY)], ..Segmentation::of(8, 8, one.to_vec()) };
    let lone = Segmentation { frames: vec![SegmentFrame { segment: Some(7), ..lone.frames[0].clone() }], ..lone };
    assert_eq!(seen(&lone), Ok(plane_of(&one)), "the only segment");
}

#[test]
fn fractions_count_above_half_of_their_maximum() {
    let values: Vec<u8> = (0..64).collect();
    for (max, least) in [(63, 32), (100, 51), (1, 1), (126, 64), (255, 128)] {
        let segmentation =
            Segmentation { kind: "FRACTIONAL", max: Some(max), ..Segmentation::of(8, 8, values.clone()) };
        let expected: Vec<f32> = values.iter().map(|v| f32::from(u8::from(u16::from(*v) >= least))).collect();
        match seen(&segmentation) {
            Ok(plane) => assert_eq!(plane, expected, "{max}"),
            Err(refusal) => assert!(least > 63 && refusal.detail.contains("cover no pixel"), "{max}: {refusal}"),
        }
    }
}

#[test]
fn only_frames_that_refer_to_the_image_count() {
    let (one, other) = patterns();
    let from = |instance, frames, kept| Source { instance, frames, kept };
    let rows: [(&str, Source, Source, Result<Vec<f32>, &str>); 8] = [
        ("both", OF_IMAGE, OF_IMAGE, Ok(either(&one, &other))),
        ("the second", from("1.2.9", "", "YES"), OF_IMAGE, Ok(plane_of(&other))),
        ("neither", from("1.2.9", "", "YES"), from("1.2.3.44", "", ""), Err("none of the frames of its lung segments")),
        ("by frame", from(INSTANCE, "1\\2", ""), from(INSTANCE, "1\\3", ""), Ok(plane_of(&one))),
        ("frames before and after", from(INSTANCE, "1", ""), from(INSTANCE, "3", ""), Err("as frame 2")),
        ("one in another place", from(INSTANCE, "", "NO"), OF_IMAGE, Ok(plane_of(&other))),
        ("all in another place", from(INSTANCE, "2", "NO"), from(INSTANCE, "", "REORIENTED_ONLY"), Err("(0028,135A)")),
        ("nothing said of places", from(INSTANCE, "2 ", ""), OF_IMAGE, Ok(either(&one, &other))),
    ];
    for (name, first, second, expected) in rows {
        let mut segmentation = Segmentation::of(8, 8, Vec::new()).with_frames(&[&one, &other]);
        segmentation.frames[1].segment = Some(1);
        segmentation.frames[0].sources = vec![first];
        segmentation.frames[1].sources = vec![from("1.2.8", "", "YES"), second];
        let got = seen_of(&segmentation, Some("3 "));
        match (&got, &expected) {
            (Err(refusal), Err(text)) => assert!(refusal.detail.contains(text), "{name}: {refusal}"),
            (got, expected) => assert_eq!(got.as_ref().ok(), expected.as_ref().ok(), "{name}: {got:?}"),
        }
    }
}

#[test]
fn frames_that_say_nothing_count_where_they_can_only_be_of_the_image() {
    let (one, other) = patterns();
    let silent = |numbers: [u16; 2], listed: &[&'static str]| {
        let mut base = Segmentation::of(8, 8, Vec::new()).with_frames(&[&one, &other]);
        base.segments = vec![(1, "Lung", NOT_LUNG, ANATOMY), (2, "lung", NOT_LUNG, ANATOMY)];
        for (frame, number) in base.frames.iter_mut().zip(numbers) {
            (frame.segment, frame.sources) = (Some(number), Vec::new());
        }
        Segmentation { listed: listed.to_vec(), ..base }
    };
    let rows = [
        ("a frame each", silent([1, 2], &[]), None),
        ("of the image", silent([1, 2], &[INSTANCE]), None),
        ("of several", silent([1, 2], &[INSTANCE, "1.2.9"]), Some("made for another one")),
        ("of another", silent([1, 2], &["1.2.9"]), Some("made for another one")),
        ("two of one segment", silent([1, 1], &[INSTANCE]), Some("several frames")),
    ];
    for (name, segmentation, refused) in rows {
        match (seen(&segmentation), refused) {
            (Err(refusal), Some(text)) => assert!(refusal.detail.contains(text), "{name}: {refusal}"),
            (got, refused) => assert_eq!((got, refused), (Ok(either(&one, &other)), None), "{name}"),
        }
    }
    // a picture has no UID that frames could refer to
    let folder = tempfile::tempdir().expect("a folder");
    let image = write(folder.path(), "image.png", &grey_png(8, 8, &[true; 64]));
    let mut elsewhere = silent([1, 2], &["1.2.9"]);
    elsewhere.frames[0].sources = vec![Source { instance: "1.2.9", ..OF_IMAGE }];
    let mask = write(folder.path(), "mask", &elsewhere.bytes());
    assert_eq!(mask_file(&mask, &image, &plain(8), &Limits::default()), Ok(either(&one, &other)));
}

#[test]
fn what_is_no_mask_of_the_image_is_refused_by_name() {
    use RefusalCode::{Inconsistent, TooLarge, UnsupportedFormat};
    let base = Segmentation::of(8, 8, patterns().0.to_vec());
    let heart = |n, label| (n, label, NOT_LUNG, ANATOMY);
    let rows: [(&str, Segmentation, RefusalCode, &str); 13] = [
        ("10⁹ frames", Segmentation { count: Some("1000000000"), ..base.clone() }, TooLarge, "Number of Frames"),
        ("more frames than bits", Segmentation { count: Some("2"), ..base.clone() }, Inconsistent, "need 16"),
        (
            "another size",
            Segmentation { rows: 16, columns: 4, ..base.clone() },
            Inconsistent,
            "16 × 4 (rows × columns), the image is 8 × 8",
        ),
        ("no segments", Segmentation { segments: vec![], ..base.clone() }, Inconsistent, "none of its 0 segments"),
        (
            "no lung",
            Segmentation { segments: vec![heart(1, "heart"), heart(2, "liver")], ..base.clone() },
            Inconsistent,
            "none of its 2 segments is lung by its code or label: heart, liver",
        ),
        (
            "many",
            Segmentation { segments: (1..=20).map(|n| heart(n, "rib")).collect(), ..base.clone() },
            Inconsistent,
            "rib, 8 more",
        ),
        ("labels", Segmentation { kind: "LABELMAP", ..base.clone() }, UnsupportedFormat, "LABELMAP"),
        ("no maximum", Segmentation { kind: "FRACTIONAL", ..base.clone() }, Inconsistent, "(0062,000E)"),
        ("maximum 0", Segmentation { kind: "FRACTIONAL", max: Some(0), ..base.clone() }, Inconsistent, "(0062,000E)"),
        (
            "signed",
            Segmentation { kind: "FRACTIONAL", max: Some(1), signed: 1, ..base.clone() },
            UnsupportedFormat,
            "1 or 8 unsigned bits",
        ),
        ("nothing covered", Segmentation::of(8, 8, vec![0; 64]), Inconsistent, "cover no pixel"),
        (
            "another object",
            Segmentation { class: "1.2.840.10008.5.1.4.1.1.7", ..base.clone() },
            UnsupportedFormat,
            "but 1.2.840.10008.5.1.4.1.1.7: masks are PNG or DICOM Segmentation",
        ),
        (
            "a frame of no segment",
            Segmentation { frames: vec![SegmentFrame { segment: None, ..base.frames[0].clone() }], ..base.clone() },
            Inconsistent,
            "frame 1 is missing",
        ),
    ];
    for (name, segmentation, code, text) in rows {
        let refusal = seen(&segmentation).expect_err(name);
        assert!(refusal.code == code && refusal.detail.contains(text), "{name}: {refusal}");
        assert!(refusal.detail.starts_with("the mask: "), "{name}: {refusal}");
    }
    let mut other_segment = base.clone();
    other_segment.segments.push(heart(2, "heart"));
    other_segment.frames[0].segment = Some(2);
    let refusal = seen(&other_segment).expect_err("no frame of the lung");
    assert!(refusal.detail.contains("its lung segments have no frame"), "{refusal}");
}

#[test]
fn a_segmentation_that_breaks_off_is_refused_wherever_it_does() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = write(folder.path(), "image", &image(8, 8, &[true; 64], None, &new()));
    let whole = Segmentation::of(8, 8, patterns().0.to_vec()).bytes();
    for length in 0..whole.len() {
        let mask = write(folder.path(), "mask", &whole[..length]);
        let refusal = mask_file(&mask, &image, &plain(8), &Limits::default()).expect_err("a part");
        assert!(refusal.detail.starts_with("the mask: "), "{length}: {refusal}");
    }
    let mask = write(folder.path(), "mask", &whole);
    assert!(mask_file(&mask, &image, &plain(8), &Limits::default()).is_ok());
}
