//! Contracts over whole objects: polarity, masks, units, orientation, aspect, and the invariances of their tensors.

use proptest::prelude::*;

use super::super::geometry::Geometry;
use super::super::grey::{Grey, Modality, Voi, VoiFunction};
use super::super::lut::Lut;
use super::super::normalise::normalise;
use super::super::shutter::Shape;
use super::objects::{EXPLICIT, Encoding, Image, Object, words};
use super::values::{contract, grey, grey_of, linear, values_of, window};
use crate::domain::{Contract, Filter, Fit, Laterality, Mask, Orientation, Refusal, RefusalCode, ValueRange};

fn new() -> Object {
    Object::new(Encoding::Explicit)
}

/// An image of 2 × 3 pixels, 0 to 5, with more elements.
fn with(image: &Image, more: Object) -> Result<Grey, Refusal> {
    let object = image.object(Encoding::Explicit).raw(&more.bytes);
    grey_of(object.element(0x7FE0_0010, "OW", &words(&[0, 1, 2, 3, 4, 5])).file(EXPLICIT), 0)
}

fn table(descriptor: [u16; 3], entries: &[u16]) -> Object {
    new().element(0x0028_3002, "US", &words(&descriptor)).element(0x0028_3006, "OW", &words(entries))
}

#[test]
fn polarity_is_stated_once_and_a_contradiction_is_refused() {
    let polarity = |photometric, shape: &str| {
        let image = Image { photometric, ..Image::default() };
        let more = if shape.is_empty() { new() } else { new().text(0x2050_0020, "CS", shape) };
        with(&image, more).map(|grey| grey.inverted).map_err(|r| r.code)
    };
    let rows = [
        ("MONOCHROME1", "", Ok(true)),
        ("MONOCHROME2", "", Ok(false)),
        ("MONOCHROME1", "INVERSE", Ok(true)),
        ("MONOCHROME2", "IDENTITY", Ok(false)),
        ("MONOCHROME1", "IDENTITY", Err(RefusalCode::Inconsistent)),
        ("MONOCHROME2", "INVERSE", Err(RefusalCode::Inconsistent)),
        ("MONOCHROME2", "LIN OD", Err(RefusalCode::UnsupportedFormat)),
    ];
    for (photometric, shape, expected) in rows {
        assert_eq!(polarity(photometric, shape), expected, "{photometric} {shape}");
    }
}

#[test]
fn a_presentation_table_is_applied_to_what_the_window_gives() {
    let lut = new().sequence(0x2050_0010, table([3, 0, 8], &[255, 51, 0]));
    let windowed = new().text(0x0028_1050, "DS", "2").text(0x0028_1051, "DS", "4");
    let object = new().raw(&windowed.bytes).text(0x0028_1056, "CS", "LINEAR_EXACT").raw(&lut.bytes);
    let image = Image { rows: 1, columns: 6, ..Image::default() };
    let grey = with(&image, object).expect("a sound image");
    let small = Contract { fit: Fit::PadSquare, ..contract(ValueRange::Window) };
    // 0, 1, 2, 3, 4 become 0, .25, .5, .75, 1 of two steps: entries 0, 0 (of .5), 1, 2 (of 1.5), 2
    let unit = |range| values_of(&Grey { rows: 1, columns: 6, ..grey.clone() }, &Contract { range, ..small.clone() });
    assert_eq!(grey.presentation.as_ref().map(|l| l.entries.len()), Some(3));
    let by_pixel = |range| {
        let wide =
            Grey { rows: 8, columns: 8, stored: super::values::grey(&[0, 1, 2, 3, 4, 5]).stored, ..grey.clone() };
        values_of(&wide, &contract(range))[..6].to_vec()
    };
    assert_eq!(by_pixel(ValueRange::Window), [1.0, 1.0, 0.2, 0.0, 0.0, 0.0]);
    assert_eq!(by_pixel(ValueRange::Observed), [0.0, 0.2, 0.4, 0.6, 0.8, 1.0], "other policies do without");
    assert_eq!(unit(ValueRange::Window).len(), 64);
    let both = Image { photometric: "MONOCHROME1", ..Image::default() };
    let ambiguous = with(&both, new().sequence(0x2050_0010, table([3, 0, 8], &[255, 51, 0])));
    assert_eq!(ambiguous.err().map(|r| r.code), Some(RefusalCode::Inconsistent));
}

#[test]
fn numbers_that_are_none_are_refused_by_name_and_unknown_vrs_are_read_by_the_dictionary() {
    let refused = |more: Object| with(&Image::default(), more).map(|_| ()).map_err(|r| r.detail);
    let window = |center: &str, width: &str| new().text(0x0028_1050, "DS", center).text(0x0028_1051, "DS", width);
    for (more, attribute) in [
        (new().text(0x0028_1053, "DS", "NaN"), "Rescale Slope (0028,1053)"),
        (new().text(0x0028_1053, "DS", "1e308"), "Rescale Slope (0028,1053)"),
        (new().text(0x0028_1053, "DS", "0"), "Rescale Slope (0028,1053)"),
        (new().text(0x0028_1052, "DS", "inf"), "Rescale Intercept (0028,1052)"),
        (new().element(0x0028_1053, "UN", &[7, 1]), "Rescale Slope (0028,1053)"),
        (window("1e308", "1"), "Window Center (0028,1050)"),
        (window("40,5", "1"), "Window Center (0028,1050)"),
        (window("40", "nan"), "Window Width (0028,1051)"),
        (window("40", "1e308"), "Window Width (0028,1051)"),
    ] {
        let detail = refused(more).expect_err(attribute);
        assert!(detail.starts_with(attribute), "{detail}");
    }
    let unknown = new().element(0x0028_1052, "UN", b"-5").element(0x0028_1053, "UN", b"2 ");
    assert_eq!(with(&Image::default(), unknown).map(|g| g.modality), Ok(linear(2.0, -5.0)));
    for width in ["0", ""] {
        assert_eq!(with(&Image::default(), window("40", width)).map(|g| g.voi), Ok(None), "no width, no window");
    }
    let several = window("40\\50", "400\\500");
    let first = with(&Image::default(), several).expect("a sound image").voi;
    assert_eq!(first, super::values::window(40.0, 400.0, VoiFunction::Linear));
    let table_first = window("40", "400").sequence(0x0028_3010, table([2, 0, 8], &[0, 255]));
    assert!(matches!(with(&Image::default(), table_first).map(|g| g.voi), Ok(Some(Voi::Lut(_)))));
}

#[test]
fn hounsfield_units_need_a_rescale_that_says_so() {
    let rescale = |kind: &str| {
        let object = new().text(0x0028_1052, "DS", "-1024").text(0x0028_1053, "DS", "1");
        if kind.is_empty() { object } else { object.text(0x0028_1054, "LO", kind) }
    };
    let group = |kind| new().sequence(0x5200_9229, new().sequence(0x0028_9145, rescale(kind)));
    let lut = |kind| new().sequence(0x0028_3000, table([2, 0, 16], &[0, 9]).text(0x0028_3004, "LO", kind));
    let rows = [
        ("HU", rescale("HU"), true),
        ("unspecified", rescale("US"), false),
        ("no type, no CT", rescale(""), false),
        ("no rescale", new(), false),
        ("slope alone", new().text(0x0028_1053, "DS", "1").text(0x0028_1054, "LO", "HU"), false),
        ("shared group", group("HU"), true),
        ("shared group, another unit", group("mg/ml"), false),
        ("table", lut("HU"), true),
        ("table, another unit", lut("OD"), false),
    ];
    let preset = Contract::preset("ct-window", 8).expect("a preset");
    for (name, more, expected) in rows {
        let grey = with(&Image::default(), more).expect("a sound image");
        assert_eq!(grey.hounsfield, expected, "{name}");
        assert_eq!(normalise(&grey, &preset).err().map(|r| r.code), (!expected).then_some(RefusalCode::OutOfScope));
    }
    // −1350, −600 and 150 HU are the ends and the middle of the lung window, however they are to be shown
    for inverted in [false, true] {
        let ct = Grey {
            hounsfield: true,
            modality: linear(1.0, -1024.0),
            inverted,
            ..grey(&[1024 - 1350, 1024 - 600, 1024 + 150])
        };
        assert_eq!(values_of(&ct, &preset)[..3], [0.0, 0.5, 1.0]);
    }
}

#[test]
fn masks_hide_what_lies_outside_the_shutter_and_leave_it_out_of_the_range() {
    let shutter = new()
        .text(0x0018_1600, "CS", "RECTANGULAR")
        .text(0x0018_1602, "IS", "2")
        .text(0x0018_1604, "IS", "3")
        .text(0x0018_1606, "IS", "1")
        .text(0x0018_1608, "IS", "2");
    let shapes = with(&Image::default(), shutter).expect("a sound image").shapes.expect("a sound shutter");
    assert_eq!(shapes, [Shape::Rectangle { top: 1.0, bottom: 2.0, left: 2.0, right: 3.0 }]);
    let masked = |shapes: Vec<Shape>, mask: &[Mask]| {
        let picture = Grey { shapes: Ok(shapes), ..grey(&(0..64).collect::<Vec<_>>()) };
        values_of(&picture, &Contract { mask: mask.to_vec(), ..contract(ValueRange::Observed) })
    };
    let visible = |values: Vec<f32>| values.iter().filter(|v| **v > 0.0).count();
    let square = Shape::Rectangle { top: 3.0, bottom: 6.0, left: 2.0, right: 8.0 };
    assert_eq!(visible(masked(vec![square.clone()], &[])), 63);
    // rows 3 to 6, columns 2 to 8: 28 pixels, of which the darkest, 17, is 0 and the brightest, 47, is 1
    let values = masked(vec![square.clone()], &[Mask::Shutter]);
    assert_eq!((visible(values.clone()), values[17], values[47]), (27, 0.0, 1.0));
    let circle = Shape::Circle { row: 4.5, column: 4.5, radius: 1.0 };
    assert_eq!(visible(masked(vec![circle], &[Mask::Shutter])), 3);
    let triangle = Shape::Polygon(vec![(0.5, 0.5), (0.5, 8.5), (8.5, 0.5)]);
    // 28 pixels: a centre on the edge to the right is outside; the darkest is 0
    assert_eq!(visible(masked(vec![triangle], &[Mask::Shutter])), 27);
    let outside = Grey { shapes: Ok(vec![Shape::Circle { row: 99.0, column: 99.0, radius: 2.0 }]), ..grey(&[0, 9]) };
    let contract = Contract { mask: vec![Mask::Shutter], ..contract(ValueRange::Observed) };
    assert_eq!(normalise(&outside, &contract).err().map(|r| r.code), Some(RefusalCode::Inconsistent));
    for (broken, what) in [
        (new().text(0x0018_1600, "CS", "CIRCULAR"), "Shutter Center (0018,1610)"),
        (new().text(0x0018_1700, "CS", "RECTANGULAR").text(0x0018_1702, "IS", "x"), "Collimator Left"),
        (new().text(0x0018_1700, "CS", "BITMAP"), "Collimator Shape BITMAP"),
        (new().text(0x0018_1600, "CS", "POLYGONAL").text(0x0018_1620, "IS", "1\\1\\2\\2"), "Shutter Vertices"),
    ] {
        let grey = with(&Image::default(), broken).expect("of no concern to contracts that do not mask");
        let detail = normalise(&grey, &contract).expect_err(what).detail;
        assert!(detail.starts_with(what), "{detail}");
    }
}

#[test]
fn borders_of_black_and_white_are_hidden_and_pictures_are_not() {
    // a white line around a black line around 4 × 4 pixels of 1000 to 1150
    let framed: Vec<i32> = (0..64)
        .map(|i| match ((i % 8).min(7 - i % 8), (i / 8).min(7 - i / 8)) {
            (0, _) | (_, 0) => 4095,
            (1, _) | (_, 1) => 3,
            _ => 1000 + (i % 8 - 2) * 10 + (i / 8 - 2) * 40,
        })
        .collect();
    let values = |stored: &[i32]| {
        let contract = Contract { mask: vec![Mask::Border], ..contract(ValueRange::Observed) };
        values_of(&grey(stored), &contract)
    };
    let got = values(&framed);
    assert_eq!((got[0], got[9], got[2 * 8 + 2], got[5 * 8 + 5]), (0.0, 0.0, 0.0, 1.0));
    assert_eq!(got.iter().filter(|v| **v > 0.0).count(), 15);
    let plain: Vec<i32> = (0..64).collect();
    assert_eq!(values(&plain)[63], 1.0);
    assert_eq!(values(&plain)[1], 1.0 / 63.0, "a gradient has no border");
    assert_eq!(values(&[7; 64]), [0.0; 64]);
    let halves: Vec<i32> = (0..64).map(|i| if i < 32 { 0 } else { 100 }).collect();
    assert_eq!(values(&halves)[63], 1.0, "an image of nothing but black and white stays");
}

#[test]
fn fits_that_keep_the_aspect_keep_that_of_the_patient() {
    // pixels twice as high as wide: 8 × 16 of them show a square
    let stored = super::super::decode::Samples::Int((0..128).map(|i| if i % 16 < 8 { 0 } else { 4095 }).collect());
    let geometry = |aspect| Geometry { aspect, ..Geometry::default() };
    let tall = Grey { columns: 16, stored, geometry: geometry(Ok(2.0)), ..grey(&[0]) };
    let whole = values_of(&tall, &contract(ValueRange::StoredBits));
    for fit in [Fit::CropCenter, Fit::PadSquare] {
        assert_eq!(values_of(&tall, &Contract { fit, ..contract(ValueRange::StoredBits) }), whole, "{fit:?}");
    }
    // as square pixels, the crop is the middle
    let square = Grey { geometry: geometry(Ok(1.0)), ..tall.clone() };
    let crop = Contract { fit: Fit::CropCenter, ..contract(ValueRange::StoredBits) };
    assert_ne!(values_of(&square, &crop), whole);
    let senseless = Grey { geometry: geometry(Err(Refusal::new(RefusalCode::Inconsistent, "x"))), ..tall };
    assert!(normalise(&senseless, &crop).is_err());
    assert!(normalise(&senseless, &contract(ValueRange::StoredBits)).is_ok(), "stretched all the same");
}

#[test]
fn a_mammogram_is_seen_with_the_chest_wall_on_the_left_or_not_at_all() {
    let preset = Contract::preset("mammo", 8).expect("a preset");
    let breast = |laterality, directions: &[&str]| {
        let patient_orientation = directions.iter().map(|d| (*d).to_owned()).collect();
        let geometry = Geometry { laterality, patient_orientation, ..Geometry::default() };
        normalise(&Grey { geometry, ..grey(&(0..64).collect::<Vec<_>>()) }, &preset).map(|i| i.plane)
    };
    let left = breast(Some(Laterality::Left), &[]).expect("a left breast");
    let right = breast(Some(Laterality::Right), &["P", "F"]).expect("a right breast");
    let back: Vec<f32> = right.chunks(8).flat_map(|row| row.iter().rev().copied()).collect();
    assert_eq!((left.clone(), left), (back, breast(None, &["A", "R"]).expect("a breast")));
    assert_eq!(breast(None, &[]).err().map(|r| r.code), Some(RefusalCode::OutOfScope));
}

/// Every preset, and contracts that use what no preset uses.
pub(super) fn contracts() -> Vec<Contract> {
    let mut all: Vec<Contract> = Contract::PRESETS.iter().filter_map(|name| Contract::preset(name, 8)).collect();
    let base = contract(ValueRange::Window);
    all.push(Contract { filter: Filter::Area, mask: vec![Mask::Shutter, Mask::Border], ..base.clone() });
    all.push(Contract { orientation: Orientation::PatientOrientation, range: ValueRange::Observed, ..base });
    all
}

fn function() -> impl Strategy<Value = VoiFunction> {
    prop_oneof![Just(VoiFunction::Linear), Just(VoiFunction::LinearExact), Just(VoiFunction::Sigmoid)]
}

pub(super) fn assert_same(a: &[f32], b: &[f32], what: &str) -> Result<(), TestCaseError> {
    let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let span = a.iter().fold(1.0f32, |s, v| s.max(v.abs()));
    prop_assert!(a.len() == b.len() && worst <= 2e-5 * span, "{}: {}", what, worst);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn windows_are_monotone(
        mut stored in proptest::collection::vec(-5000i32..5000, 64),
        center in -3000f64..3000.0,
        width in prop_oneof![1f64..5000.0, Just(1.0), Just(2.0)],
        function in function(),
        slope in 0.01f64..10.0,
    ) {
        stored.sort_unstable();
        let modality = linear(slope, -7.0);
        let picture = Grey { modality, hounsfield: true, voi: window(center, width, function), ..grey(&stored) };
        let fixed = ValueRange::Fixed { center, width };
        for range in [ValueRange::Window, fixed, ValueRange::HuWindow { center, width }, ValueRange::Observed] {
            let up = values_of(&picture, &contract(range));
            prop_assert!(up.is_sorted(), "{range:?}");
            let down = values_of(&Grey { inverted: true, ..picture.clone() }, &contract(range));
            prop_assert_eq!(down.is_sorted_by(|a, b| a >= b), !matches!(range, ValueRange::HuWindow { .. }) || up[0] == up[63]);
        }
    }

    /// The twin's stored values are turned over, its rescale keeps the units where units count (and turns the window's
    /// centre over where the rescale is kept), and its photometric interpretation is the other one.
    #[test]
    fn monochrome1_and_its_inverted_monochrome2_twin_give_the_same_tensor(
        stored in proptest::collection::vec(0i32..4096, 64),
        center in 0f64..4096.0,
        width in 2f64..5000.0,
        function in function(),
        slope in prop_oneof![Just(1.0), 0.1f64..5.0],
        intercept in -2000f64..2000.0,
        table in any::<bool>(),
    ) {
        let geometry = Geometry { laterality: Some(Laterality::Right), ..Geometry::default() };
        let shapes = Ok(vec![Shape::Rectangle { top: 1.0, bottom: 7.0, left: 2.0, right: 8.0 }]);
        let entries: Vec<u16> = (0..4096u32).map(|i| ((i * i) >> 8) as u16).collect();
        let lut = |entries: Vec<u16>| Some(Voi::Lut(Lut { first: 0, entries, bits: 16 }));
        let voi = |table: Option<Voi>, center| table.or_else(|| window(center, width, function));
        let one = Grey {
            modality: if table { linear(1.0, 0.0) } else { linear(slope, intercept) },
            voi: voi(if table { lut(entries.clone()) } else { None }, center),
            inverted: true,
            hounsfield: true,
            geometry,
            shapes,
            ..grey(&stored)
        };
        let turned_over = |v: &Vec<i32>| super::super::decode::Samples::Int(v.iter().map(|v| 4095 - v).collect());
        // modality values of the twin are K − those of the original; LINEAR counts from the centre − ½
        let k = slope * 4095.0 + 2.0 * intercept;
        let centre = k - center + if function == VoiFunction::Linear { 1.0 } else { 0.0 };
        let mirrored = entries.iter().rev().map(|e| u16::MAX - e).collect();
        let twin = Grey {
            stored: turned_over(&stored),
            voi: voi(if table { lut(mirrored) } else { None }, centre),
            inverted: false,
            ..one.clone()
        };
        for contract in contracts() {
            if matches!(contract.range, ValueRange::HuWindow { .. }) {
                let Modality::Linear { slope, intercept } = one.modality else { continue };
                let twin = Grey { modality: linear(-slope, intercept + slope * 4095.0), ..twin.clone() };
                assert_same(&values_of(&one, &contract), &values_of(&twin, &contract), &contract.name)?;
                continue;
            }
            assert_same(&values_of(&one, &contract), &values_of(&twin, &contract), &contract.label())?;
        }
    }
}
