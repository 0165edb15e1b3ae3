//! Gates of the header: the view, the side, what kind of picture it is, and how it lies in the patient.
//!
//! Each attribute is read once, here, for scope rules and contracts. The view comes from View Position, else from the
//! View Code Sequence, else, in projection radiography, from Patient Orientation, which tells frontal from lateral
//! but not PA from AP. Where two of them contradict each other it is `Other`: nobody knows which is right. Neighbours:
//! `header` (calls this), `geometry` (the same per frame). Left out: what the pixels look like, whether a model wants
//! the image (`infer::scope`).

use super::dataset::{Item, Tag};
use super::hounsfield::is_hounsfield;
use super::slices;
use crate::domain::{ImageFacts, Laterality, View};

const PATIENT_ORIENTATION: Tag = 0x0020_0020;
const VIEW_CODE_SEQUENCE: Tag = 0x0054_0220;
const VIEW_MODIFIER_CODE_SEQUENCE: Tag = 0x0054_0222;

/// Values that are kept of a multi-valued code string, and characters of each (VR CS).
const VALUES_MAX: usize = 16;
const VALUE_CHARS_MAX: usize = 16;

/// Modalities whose images are projections that View Position and Patient Orientation both describe.
const PROJECTIONS: [&str; 3] = ["CR", "DX", "RG"];

/// The plane of a projection, from the axes that its rows and columns run along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plane {
    Frontal,
    Lateral,
}

/// The view, and everything else that rules ask for.
pub fn facts_of(root: &Item) -> (Option<View>, ImageFacts) {
    let code = |tag| codes(root, tag).into_iter().next().unwrap_or_default();
    let mut facts = ImageFacts {
        image_type: codes(root, 0x0008_0008),
        conversion_type: code(0x0008_0064),
        presentation_intent: code(0x0008_0068),
        burned_in_annotation: match code(0x0028_0301).as_str() {
            "YES" => Some(true),
            "NO" => Some(false),
            _ => None,
        },
        view_modifiers: changing_modifiers(root),
        view_contradicted: false,
        laterality: laterality(root, 0),
        patient_orientation: patient_orientation(root),
        position: slices::position(root),
        orientation: slices::orientation(root),
        hounsfield: is_hounsfield(root, 0),
        lossy: code(0x0028_2110) == "01",
        never_lossy: code(0x0028_2110) == "00",
        lossy_ratios: codes(root, 0x0028_2112),
        lossy_methods: codes(root, 0x0028_2114),
    };
    let projection = PROJECTIONS.contains(&root.code_string(0x0008_0060).unwrap_or_default().as_str());
    let plane = if projection { plane(&facts.patient_orientation) } else { None };
    let (named, coded) = (position(root), view_code(root));
    let stated = named.or(coded);
    let lies_otherwise = |view: Option<View>| {
        let (frontal, lateral) = (view.is_some_and(is_frontal), view == Some(View::Lateral));
        frontal && plane == Some(Plane::Lateral) || lateral && plane == Some(Plane::Frontal)
    };
    facts.view_contradicted = differ(named, coded) || lies_otherwise(stated);
    let view = match (stated, plane) {
        (Some(_), _) if facts.view_contradicted => Some(View::Other),
        (Some(view), _) => Some(view),
        (None, Some(Plane::Frontal)) => Some(View::Frontal),
        (None, Some(Plane::Lateral)) => Some(View::Lateral),
        (None, None) => None,
    };
    let view = if facts.view_modifiers.is_empty() { view } else { Some(View::Other) };
    (view, facts)
}

/// Patient Orientation (0020,0020), upper case; empty if absent.
pub fn patient_orientation(root: &Item) -> Vec<String> {
    codes(root, PATIENT_ORIENTATION)
}

/// The values of a code string, bounded, upper case.
fn codes(root: &Item, tag: Tag) -> Vec<String> {
    let cut = |v: &String| v.to_uppercase().chars().take(VALUE_CHARS_MAX).collect();
    root.texts(tag).iter().take(VALUES_MAX).map(cut).collect()
}

/// Image Laterality, else that of the frame with this index (Frame Anatomy, PS3.3 C.7.6.16.2.8), else Laterality.
pub fn laterality(root: &Item, index: usize) -> Option<Laterality> {
    let of_group = |group: Option<&Item>| group?.items(0x0020_9071).first()?.code_string(0x0020_9072);
    let text = root
        .code_string(0x0020_0062)
        .or_else(|| of_group(root.items(0x5200_9230).get(index)))
        .or_else(|| of_group(root.items(0x5200_9229).first()))
        .or_else(|| root.code_string(0x0020_0060))?;
    match text.as_str() {
        "L" => Some(Laterality::Left),
        "R" => Some(Laterality::Right),
        "B" => Some(Laterality::Both),
        _ => None,
    }
}

/// Whether two views exclude each other. A frontal view may be PA or AP; what is `Other` may be anything.
fn differ(one: Option<View>, other: Option<View>) -> bool {
    match (one, other) {
        (None, _) | (_, None) | (Some(View::Other), _) | (_, Some(View::Other)) => false,
        (Some(View::Frontal), Some(view)) | (Some(view), Some(View::Frontal)) => !is_frontal(view),
        (one, other) => one != other,
    }
}

fn is_frontal(view: View) -> bool {
    matches!(view, View::Pa | View::Ap | View::Frontal)
}

/// View Position (0018,5101). Decubitus and oblique positions are `Other`: they are neither a PA nor a lateral of an
/// upright patient.
fn position(root: &Item) -> Option<View> {
    Some(match root.code_string(0x0018_5101)?.as_str() {
        "PA" => View::Pa,
        "AP" => View::Ap,
        "FRONTAL" => View::Frontal,
        "LL" | "RL" | "LAT" | "LATERAL" => View::Lateral,
        "CC" => View::Cc,
        "MLO" => View::Mlo,
        _ => View::Other,
    })
}

/// The first item of View Code Sequence (0054,0220), PS3.16 CID 4010 and 4014.
fn view_code(root: &Item) -> Option<View> {
    let code = root.items(VIEW_CODE_SEQUENCE).first()?;
    let value = code.text(0x0008_0100)?;
    let scheme = code.code_string(0x0008_0102)?;
    Some(match (scheme.as_str(), value.as_str()) {
        ("SCT", "272479007") | ("SNM3" | "SRT", "R-10214" | "R-40888") => View::Pa,
        ("SCT", "399348003") | ("SNM3" | "SRT", "R-10206") => View::Ap,
        ("SCT", "399033003") | ("SNM3" | "SRT", "R-10202") => View::Frontal,
        ("SCT", "399067008" | "399173006" | "399198007") => View::Lateral,
        ("SNM3" | "SRT", "R-102CD" | "R-10232" | "R-10236") => View::Lateral,
        ("SCT", "399162004") | ("SNM3" | "SRT", "R-10242") => View::Cc,
        ("SCT", "399368009") | ("SNM3" | "SRT", "R-10226") => View::Mlo,
        _ => View::Other,
    })
}

/// View modifiers (PS3.16 CID 4011, 4015) that make another view of it: a magnified, rolled or spot view is no
/// screening view. Those that leave the view what it is are named; any other counts as a change.
fn changing_modifiers(root: &Item) -> Vec<String> {
    let modifiers = root.items(VIEW_CODE_SEQUENCE).iter().take(1).flat_map(|i| i.items(VIEW_MODIFIER_CODE_SEQUENCE));
    let code = |item: &Item| item.text(0x0008_0100).unwrap_or_else(|| "(no code)".to_owned());
    let changes = |value: &String| {
        !matches!(
            value.as_str(),
            "399209000" | "R-102D5" // implant displaced
                | "442581004" | "R-40AB3" // nipple in profile
                | "442593008" | "R-40ABE" // infra-mammary fold
                | "442580003" | "R-40AB2" // axillary tissue
        )
    };
    modifiers.map(code).filter(changes).map(|c| c.chars().take(VALUE_CHARS_MAX).collect()).take(VALUES_MAX).collect()
}

/// Rows and columns that run along head–feet and right–left are frontal, head–feet and front–back lateral.
fn plane(patient_orientation: &[String]) -> Option<Plane> {
    let [row, column] = patient_orientation else { return None };
    let axis = |direction: &String| match direction.bytes().next()? {
        b'L' | b'R' => Some('x'),
        b'A' | b'P' => Some('y'),
        b'H' | b'F' => Some('z'),
        _ => None,
    };
    match (axis(row)?, axis(column)?) {
        ('x', 'z') | ('z', 'x') => Some(Plane::Frontal),
        ('y', 'z') | ('z', 'y') => Some(Plane::Lateral),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::objects::{EXPLICIT, Encoding, Image, Object, scan};
    use super::*;

    fn code(value: &str, scheme: &str) -> Object {
        Object::new(Encoding::Explicit).text(0x0008_0100, "SH", value).text(0x0008_0102, "SH", scheme)
    }

    fn facts(object: Object) -> (Option<View>, ImageFacts) {
        let head = Image::default().object(Encoding::Explicit);
        facts_of(&scan(head.raw(&object.bytes).file(EXPLICIT)).expect("a sound object").root)
    }

    fn new() -> Object {
        Object::new(Encoding::Explicit)
    }

    #[test]
    fn the_view_is_what_position_code_or_orientation_say_and_other_where_they_contradict() {
        let position = |p: &str| new().text(0x0018_5101, "CS", p);
        let po = |object: Object, directions: &str| object.text(0x0020_0020, "CS", directions);
        let view = |p: &str, value: &str| position(p).sequence(VIEW_CODE_SEQUENCE, code(value, "SCT"));
        let with = |value: &str, modifier: &str| {
            let item = code(value, "SCT").sequence(VIEW_MODIFIER_CODE_SEQUENCE, code(modifier, "SCT"));
            new().sequence(VIEW_CODE_SEQUENCE, item)
        };
        let rows = [
            ("nothing", new(), None),
            ("frontal by orientation", po(new(), "L\\F"), Some(View::Frontal)),
            ("frontal from behind", po(new(), "R\\F"), Some(View::Frontal)),
            ("turned by a quarter", po(new(), "F\\L"), Some(View::Frontal)),
            ("lateral by orientation", po(new(), "P\\F"), Some(View::Lateral)),
            ("lateral, compound directions", po(new(), "AL\\FP"), Some(View::Lateral)),
            ("an axial plane", po(new(), "L\\P"), None),
            ("quadruped", po(new(), "LE\\V"), None),
            ("one direction", po(new(), "L"), None),
            ("PA as the orientation says", po(position("PA"), "L\\F"), Some(View::Pa)),
            ("PA against the orientation", po(position("PA"), "P\\F"), Some(View::Other)),
            ("lateral against the orientation", po(position("LL"), "L\\F"), Some(View::Other)),
            ("frontal by code", new().sequence(VIEW_CODE_SEQUENCE, code("399033003", "SCT")), Some(View::Frontal)),
            ("position and code agree", view("PA", "399033003"), Some(View::Pa)),
            ("position against code", view("CC", "399368009"), Some(View::Other)),
            ("position with a code that is not known", view("CC", "1"), Some(View::Cc)),
            ("implant displaced", with("399162004", "399209000"), Some(View::Cc)),
            ("spot compression", with("399162004", "399055006"), Some(View::Other)),
        ];
        for (name, object, expected) in rows {
            assert_eq!(facts(object).0, expected, "{name}");
        }
        assert_eq!(facts(with("399162004", "399055006")).1.view_modifiers, ["399055006"]);
        assert!(facts(po(position("PA"), "P\\F")).1.view_contradicted);
    }

    #[test]
    fn facts_are_what_the_header_says_and_no_more() {
        let frame = |side: &str| new().sequence(0x0020_9071, new().text(0x0020_9072, "CS", side));
        let object = new()
            .text(0x0008_0008, "CS", "derived\\SECONDARY\\\\localizer")
            .text(0x0008_0064, "CS", "WSD")
            .text(0x0020_0032, "DS", "-1.5\\2\\3e1")
            .text(0x0020_0037, "DS", "1\\0\\0\\0\\nan\\0")
            .text(0x0020_0060, "CS", "R")
            .text(0x0028_0301, "CS", "YES");
        let got = facts(object).1;
        assert_eq!(got.image_type, ["DERIVED", "SECONDARY", "", "LOCALIZER"]);
        assert_eq!((got.conversion_type.as_str(), got.burned_in_annotation), ("WSD", Some(true)));
        assert_eq!((got.position, got.orientation), (Some([-1.5, 2.0, 30.0]), None));
        assert_eq!(got.laterality, Some(Laterality::Right));
        assert_eq!(facts(new()).1, ImageFacts::default());
        let side = |object: Object| facts(object).1.laterality;
        assert_eq!(side(new().sequence(0x5200_9229, frame("L"))), Some(Laterality::Left));
        assert_eq!(side(new().text(0x0020_0062, "CS", "U")), None);
        let both = new().text(0x0020_0060, "CS", "R").text(0x0020_0062, "CS", "B");
        assert_eq!(side(both), Some(Laterality::Both), "the image's own before the series'");
    }
}
