//! Value transforms: what the Standard says a stored value becomes, and what a contract makes of it.

use proptest::prelude::*;

use super::super::decode::Samples;
use super::super::geometry::Geometry;
use super::super::grey::{Grey, Modality, Voi, VoiFunction};
use super::super::lut::Lut;
use super::super::normalise::normalise;
use super::objects::{EXPLICIT, Encoding, Image, Object, decode, scan, words};
use crate::domain::{Contract, Fit, Mask, ValueRange};
use crate::pixels::decode::Decoder;
use crate::pixels::{Limits, normalise_file};

pub(super) fn linear(slope: f64, intercept: f64) -> Modality {
    Modality::Linear { slope, intercept }
}

pub(super) fn window(center: f64, width: f64, function: VoiFunction) -> Option<Voi> {
    Some(Voi::Window { center, width, function })
}

/// An 8 × 8 image whose first pixels are the values, the rest the last of them; 12 unsigned bits.
pub(super) fn grey(values: &[i32]) -> Grey {
    let mut stored = values.to_vec();
    stored.resize(64, *values.last().expect("at least one value"));
    let modality = linear(1.0, 0.0);
    let stored = Samples::Int(stored);
    Grey {
        rows: 8,
        columns: 8,
        stored,
        stored_range: Some((0.0, 4095.0)),
        padding: None,
        modality,
        voi: None,
        presentation: None,
        inverted: false,
        hounsfield: false,
        geometry: Geometry::default(),
        shapes: Ok(Vec::new()),
    }
}

/// The values of an image that fulfils the contract.
pub(super) fn values_of(grey: &Grey, contract: &Contract) -> Vec<f32> {
    normalise(grey, contract).expect("an image that fulfils the contract").plane
}

/// A contract that leaves 8 × 8 images their size.
pub(super) fn contract(range: ValueRange) -> Contract {
    Contract { range, ..Contract::preset("minmax-unit", 8).expect("a preset") }
}

fn check(grey: &Grey, range: ValueRange, expected: &[f32]) {
    let got = values_of(grey, &contract(range));
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert!((got - expected).abs() < 1e-5, "{range:?} pixel {i}: {got} for {expected}, {grey:?}");
    }
}

#[test]
fn ranges_follow_the_standard() {
    let lut = |first, entries: &[u16]| Lut { first, entries: entries.to_vec(), bits: 8 };
    let sigmoid = |x: f32| 1.0 / (1.0 + (-4.0 * (x - 100.0) / 50.0).exp());
    let base = grey(&[0, 100, 1000, 4095]);
    check(&base, ValueRange::StoredBits, &[0.0, 100.0 / 4095.0, 1000.0 / 4095.0, 1.0]);
    check(&grey(&[10, 20, 30]), ValueRange::Observed, &[0.0, 0.5, 1.0]);
    check(&grey(&[5, 5, 5]), ValueRange::Observed, &[0.0, 0.0]);
    check(&base, ValueRange::Window, &[0.0, 100.0 / 4095.0]);
    check(&base, ValueRange::Fixed { center: 100.0, width: 200.0 }, &[0.0, 0.5, 1.0, 1.0]);
    // PS3.3 C.11.2.1.2.1: c = 100, w = 201: below 0 black, above 200 white
    let with = |voi| Grey { voi, ..base.clone() };
    check(&with(window(100.0, 201.0, VoiFunction::Linear)), ValueRange::Window, &[0.0025, 0.5025, 1.0]);
    check(&with(window(100.0, 1.0, VoiFunction::Linear)), ValueRange::Window, &[0.0, 1.0, 1.0]);
    check(&with(window(100.0, 200.0, VoiFunction::LinearExact)), ValueRange::Window, &[0.0, 0.5, 1.0]);
    let expected = [sigmoid(0.0), 0.5, 1.0];
    check(&with(window(100.0, 50.0, VoiFunction::Sigmoid)), ValueRange::Window, &expected);
    check(&with(Some(Voi::Lut(lut(99, &[51, 102, 255])))), ValueRange::Window, &[0.2, 0.4, 1.0]);
    let modality = Modality::Lut(lut(0, &[255, 51]));
    check(&Grey { modality, ..base.clone() }, ValueRange::StoredBits, &[1.0, 0.2, 0.2]);
    // a window applies to rescaled values
    let rescaled = Grey { modality: linear(2.0, -1000.0), ..with(window(-800.0, 400.0, VoiFunction::LinearExact)) };
    check(&rescaled, ValueRange::Window, &[0.0, 0.5, 1.0]);
    check(&Grey { modality: linear(-1.0, 0.0), ..base.clone() }, ValueRange::StoredBits, &[1.0, 1.0 - 100.0 / 4095.0]);
}

#[test]
fn monochrome1_is_inverted_last_and_padding_is_black_either_way() {
    let base = Grey { padding: Some((0.0, 9.0)), ..grey(&[0, 9, 10, 20, 30]) };
    check(&base, ValueRange::Observed, &[0.0, 0.0, 0.0, 0.5, 1.0]);
    check(&Grey { inverted: true, ..base }, ValueRange::Observed, &[0.0, 0.0, 1.0, 0.5, 0.0]);
    let wide = Samples::Wide((0..64).map(|i| if i == 0 { f64::NAN } else { f64::from(i) }).collect());
    let float = Grey { stored: wide, stored_range: None, ..grey(&[0]) };
    check(&float, ValueRange::StoredBits, &[0.0, 0.0, 1.0 / 62.0]);
    check(&Grey { inverted: true, ..float.clone() }, ValueRange::Observed, &[0.0, 1.0]);
    // rescaled beyond the largest number: no part of the range
    let stored = Samples::Wide((0..64).map(|i| if i == 0 { 1e300 } else { f64::from(i) }).collect());
    let beyond = Grey { stored, modality: linear(1e12, 0.0), ..float };
    check(&beyond, ValueRange::Observed, &[1.0, 0.0, 1.0 / 62.0]);
}

#[test]
fn xrv_1024_is_the_formula_of_torchxrayvision() {
    let values: Vec<i32> = (0..64).map(|i| i * 65).collect();
    let contract = Contract::preset("xrv-1024", 8).expect("a preset");
    for inverted in [false, true] {
        let got = values_of(&Grey { inverted, ..grey(&values) }, &contract);
        for (x, got) in values.iter().zip(got) {
            let x = f64::from(if inverted { 4095 - x } else { *x });
            let expected = (2.0 * x / 4095.0 - 1.0) * 1024.0;
            assert!((f64::from(got) - expected).abs() < 1e-3, "{x}: {got} for {expected}");
        }
    }
}

#[test]
fn fits_crop_pad_and_stretch() {
    // 8 rows of 16 columns: black, white, white, black quarters
    let stored = (0..128).map(|i| if (4..12).contains(&(i % 16)) { 4095 } else { 0 }).collect();
    let wide = Grey { columns: 16, stored: Samples::Int(stored), ..grey(&[0]) };
    let mean = |fit| {
        let values = values_of(&wide, &Contract { fit, ..contract(ValueRange::StoredBits) });
        values.iter().sum::<f32>() / 64.0
    };
    for (fit, expected) in [(Fit::Stretch, 0.5), (Fit::CropCenter, 1.0), (Fit::PadSquare, 0.25)] {
        assert!((mean(fit) - expected).abs() < 1e-3, "{fit:?}: {}", mean(fit));
    }
}

pub(super) fn grey_of(bytes: Vec<u8>, index: u32) -> Result<Grey, crate::domain::Refusal> {
    let mut decoder = Decoder::new(scan(bytes)?, &Limits::default())?;
    let frame = decoder.frame(index)?;
    let layout = decoder.layout().clone();
    Grey::of(decoder.scan(), &layout, index, frame)
}

#[test]
fn transforms_come_from_the_frame_then_the_shared_groups_then_the_image() {
    let rescale = |slope: &str| {
        let item = Object::new(Encoding::Explicit).text(0x0028_1052, "DS", "0").text(0x0028_1053, "DS", slope);
        Object::new(Encoding::Explicit).sequence(0x0028_9145, item)
    };
    let two = |first: Object, second: Object| {
        let length = (first.bytes.len() + second.bytes.len() + 16) as u32;
        let object = Object::new(Encoding::Explicit).head(0x5200_9230, "SQ", length);
        let object = object.head(0xFFFE_E000, "", first.bytes.len() as u32).raw(&first.bytes);
        object.head(0xFFFE_E000, "", second.bytes.len() as u32).raw(&second.bytes)
    };
    let empty = || Object::new(Encoding::Explicit);
    let shared = || Object::new(Encoding::Explicit).sequence(0x5200_9229, rescale("9"));
    let image = Image { frames: Some("2"), ..Image::default() };
    let file = |groups: Object| {
        let object = image.object(Encoding::Explicit).text(0x0028_1053, "DS", "5").raw(&groups.bytes);
        object.element(0x7FE0_0010, "OW", &words(&[1; 12])).file(EXPLICIT)
    };
    let rows: Vec<(&str, Object, Option<f64>)> = vec![
        ("the image's own", empty(), Some(5.0)),
        ("shared", shared(), Some(9.0)),
        ("per frame", shared().raw(&two(rescale("2"), rescale("3")).bytes), Some(3.0)),
        ("missing in this frame, shared", shared().raw(&two(rescale("2"), empty()).bytes), Some(9.0)),
        ("missing in this frame", two(rescale("2"), empty()), None),
        ("too few items", empty().sequence(0x5200_9230, rescale("2")), None),
        ("slope zero", two(rescale("2"), rescale("0")), None),
        ("slope not a number", two(rescale("2"), rescale("abc")), None),
    ];
    for (name, groups, expected) in rows {
        let got = grey_of(file(groups), 1).ok().map(|g| g.modality);
        assert_eq!(got, expected.map(|slope| linear(slope, 0.0)), "{name}");
    }
}

#[test]
fn colour_becomes_luminance() {
    let base = Image { rows: 1, columns: 2, samples: 3, allocated: 8, stored: 8, high: 7, ..Image::default() };
    let luminance = |photometric, pixels: &[u8]| {
        let grey = grey_of(Image { photometric, ..base.clone() }.file(pixels), 0).expect("a sound image");
        (grey.stored, grey.stored_range)
    };
    let expected = |values: [u16; 2]| (Samples::U16(values.to_vec()), Some((0.0, 255.0)));
    assert_eq!(luminance("RGB", &[255, 0, 0, 10, 20, 30]), expected([76, 18]));
    assert_eq!(luminance("YBR_FULL", &[200, 0, 0, 7, 255, 255]), expected([200, 7]));
    assert_eq!(luminance("YBR_FULL_422", &[200, 7, 1, 2]), expected([200, 7]));
    let palette = Image { samples: 1, photometric: "PALETTE COLOR", ..base.clone() };
    let mut object = palette.object(Encoding::Explicit);
    for i in 1..=3 {
        object = object.element(0x0028_1100 + i, "US", &words(&[2, 0, 16]));
    }
    for (i, top) in [(1, 0xFFFF), (2, 0), (3, 0)] {
        object = object.element(0x0028_1200 + i, "OW", &words(&[1000, top]));
    }
    let file = object.element(0x7FE0_0010, "OB", &[0, 1]).file(EXPLICIT);
    let grey = grey_of(file, 0).expect("a sound image");
    assert_eq!((grey.stored, grey.stored_range), (Samples::U16(vec![1000, 19_595]), Some((0.0, 65_535.0))));
}

#[test]
fn the_digest_is_of_the_stored_values_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let digest = |name: &str, bytes: Vec<u8>| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).expect("a written file");
        let inputs = normalise_file(&path, &[contract(ValueRange::Observed)], Default::default(), &Limits::default());
        inputs.expect("a sound image").pixel_digest
    };
    let image = Image::default();
    let garbage = image.file(&words(&[0xF001, 2, 3, 4, 5, 6]));
    let big = {
        let object = image.object(Encoding::Big);
        let pixels: Vec<u8> = (1..=6).flat_map(|v| object.u16(v)).collect();
        object.element(0x7FE0_0010, "OW", &pixels).file(super::objects::BIG)
    };
    let plain = digest("plain", image.file(&words(&[1, 2, 3, 4, 5, 6])));
    assert_eq!(plain, digest("garbage", garbage));
    assert_eq!(plain, digest("big", big));
    assert_ne!(plain, digest("other", image.file(&words(&[1, 2, 3, 4, 5, 7]))));
    let turned = Image { rows: 3, columns: 2, ..image };
    assert_ne!(plain, digest("turned", turned.file(&words(&[1, 2, 3, 4, 5, 6]))));
    assert!(decode(Vec::new(), 0).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn every_output_is_finite_and_within_the_contract(
        rows in 1usize..30,
        columns in 1usize..30,
        seed in proptest::collection::vec(prop_oneof![any::<i16>(), 0i16..256], 1..50),
        slope in prop_oneof![Just(1.0), Just(-3.5), Just(1e-9), Just(1e9)],
        center in -1e6f64..1e6,
        width in 1e-3f64..1e6,
        inverted in any::<bool>(),
        padding in proptest::option::of((-100.0f64..100.0, 0.0f64..50_000.0)),
        table in proptest::option::of(proptest::collection::vec(any::<u16>(), 1..20)),
    ) {
        let stored: Vec<i32> = (0..rows * columns).map(|i| i32::from(seed[i % seed.len()])).collect();
        let modality = table.map_or(linear(slope, center), |entries| {
            Modality::Lut(Lut { first: 0, entries, bits: 16 })
        });
        let grey = Grey {
            rows,
            columns,
            stored: Samples::Int(stored.clone()),
            stored_range: Some((-32_768.0, 32_767.0)),
            padding: padding.map(|(low, more)| (low, low + more)),
            modality,
            voi: window(center, width, VoiFunction::Sigmoid),
            inverted,
            ..grey(&[0])
        };
        // the same values where each is looked up in a table
        let mut narrower = vec![Samples::I16(stored.iter().map(|v| *v as i16).collect())];
        if let Ok(words) = stored.iter().map(|v| u16::try_from(*v)).collect() {
            narrower.push(Samples::U16(words));
        }
        if let Ok(bytes) = stored.iter().map(|v| u8::try_from(*v)).collect() {
            narrower.push(Samples::U8(bytes));
        }
        for range in [ValueRange::StoredBits, ValueRange::Observed, ValueRange::Window, ValueRange::Fixed { center, width }] {
            for fit in [Fit::Stretch, Fit::CropCenter, Fit::PadSquare] {
                for mask in [vec![], vec![Mask::Border]] {
                    let contract = Contract { fit, mask, ..contract(range) };
                    let values = values_of(&grey, &contract);
                    prop_assert_eq!(values.len(), 64);
                    prop_assert!(values.iter().all(|v| (0.0..=1.0).contains(v)));
                    for stored in &narrower {
                        let narrow = Grey { stored: stored.clone(), ..grey.clone() };
                        prop_assert_eq!(&values_of(&narrow, &contract), &values);
                    }
                }
            }
        }
    }
}
