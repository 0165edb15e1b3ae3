//! Data set structures: what is read, what is refused, and that nothing panics.

use std::io::Write;

use dicom_encoding::transfer_syntax::{Codec, TransferSyntaxIndex};
use dicom_transfer_syntax_registry::TransferSyntaxRegistry;
use proptest::prelude::*;

use super::super::dataset::Scan;
use super::super::header::header_of;
use super::objects::{BIG, EXPLICIT, Encoding, IMPLICIT, Image, Object, decode, scan, words};
use crate::domain::{AttributeValue, RefusalCode, View};

fn image(encoding: Encoding) -> Object {
    let object = Image::default().object(encoding);
    let pixels: Vec<u8> = (1..=6).flat_map(|v| object.u16(v)).collect();
    object.element(0x7FE0_0010, "OW", &pixels)
}

fn nested(depth: usize, defined: bool) -> Object {
    let mut inner = Object::new(Encoding::Explicit);
    for _ in 0..depth {
        inner = if defined {
            Object::new(Encoding::Explicit).sequence(0x0040_A730, inner)
        } else {
            let head =
                Object::new(Encoding::Explicit).head(0x0040_A730, "SQ", u32::MAX).head(0xFFFE_E000, "", u32::MAX);
            head.raw(&inner.bytes).head(0xFFFE_E00D, "", 0).head(0xFFFE_E0DD, "", 0)
        };
    }
    inner
}

/// Start of a data set, `extra`, the image.
fn with(extra: Object) -> Vec<u8> {
    let image = image(Encoding::Explicit);
    extra.raw(&image.bytes).file(EXPLICIT)
}

pub(super) fn deflated(object: Object) -> Vec<u8> {
    let ts = TransferSyntaxRegistry.get("1.2.840.10008.1.2.1.99").expect("a known syntax");
    let Codec::Dataset(Some(adapter)) = ts.codec() else { panic!("deflate is built in") };
    let mut bytes = Object::new(Encoding::Explicit).file("1.2.840.10008.1.2.1.99");
    adapter.adapt_writer(Box::new(&mut bytes)).write_all(&object.bytes).expect("memory takes every byte");
    bytes
}

#[test]
fn reads_every_uncompressed_encoding_to_the_same_pixels() {
    let explicit = || Object::new(Encoding::Explicit);
    let long_title =
        explicit().text(0x0002_0010, "UI", EXPLICIT).text(0x0002_0016, "AE", "AN_AE_TITLE_OF_MORE_THAN_16");
    let rows = [
        ("explicit", image(Encoding::Explicit).file(EXPLICIT)),
        ("implicit", image(Encoding::Implicit).file(IMPLICIT)),
        ("big endian", image(Encoding::Big).file(BIG)),
        ("deflated", deflated(image(Encoding::Explicit))),
        ("no preamble, no meta, explicit", image(Encoding::Explicit).bytes),
        ("no preamble, no meta, implicit", image(Encoding::Implicit).bytes),
        ("no preamble, no meta, big endian", image(Encoding::Big).bytes),
        ("no preamble, no group length, long AE title", long_title.raw(&image(Encoding::Explicit).bytes).bytes),
        ("a sequence of undefined length", with(nested(3, false))),
        ("a sequence at the deepest level", with(nested(64, true))),
        ("trailing padding", image(Encoding::Explicit).element(0xFFFC_FFFC, "OB", &[0; 10]).file(EXPLICIT)),
        ("a private value of odd length", with(explicit().element(0x0009_1001, "LO", b"odd"))),
        ("zeros behind the pixel data", image(Encoding::Explicit).raw(&[0; 2]).file(EXPLICIT)),
        ("a block filled with zeros", image(Encoding::Implicit).raw(&[0; 4095]).file(IMPLICIT)),
        (
            "zeros behind an element behind the pixel data",
            image(Encoding::Explicit).element(0xFFFC_FFFC, "OB", &[0; 10]).raw(&[0; 64]).file(EXPLICIT),
        ),
        (
            "a private sequence of defined length that is broken within",
            with(explicit().head(0x0009_1001, "SQ", 12).raw(b"no items....")),
        ),
        (
            "a little endian sequence in UN among big endian elements",
            Object::new(Encoding::Big)
                .head(0x0009_1001, "UN", u32::MAX)
                .raw(b"\xFE\xFF\x00\xE0\x0C\0\0\0\x09\0\x02\x10\x04\0\0\0abcd\xFE\xFF\xDD\xE0\0\0\0\0")
                .raw(&image(Encoding::Big).bytes)
                .file(BIG),
        ),
    ];
    let expected = decode(rows[0].1.clone(), 0).expect("a sound image");
    for (name, bytes) in rows {
        assert_eq!(decode(bytes, 0), Ok(expected.clone()), "{name}");
    }
}

#[test]
fn refuses_broken_structures_by_name() {
    use RefusalCode::{Malformed, NoPixels, TooLarge};
    let explicit = || Object::new(Encoding::Explicit);
    let whole = image(Encoding::Explicit).file(EXPLICIT);
    let rows: Vec<(&str, Vec<u8>, RefusalCode)> = vec![
        ("empty", Vec::new(), Malformed),
        ("a picture", b"\x89PNG\r\n\x1a\n and so on, no DICOM at all".to_vec(), Malformed),
        ("meta only", explicit().file(EXPLICIT), NoPixels),
        ("truncated pixel data", whole[..whole.len() - 1].to_vec(), Malformed),
        ("an element of 4 GiB", with(explicit().head(0x0008_0005, "UN", 0xFFFF_FFF0)), Malformed),
        (
            "pixel data of 4 GiB",
            Image::default().object(Encoding::Explicit).head(0x7FE0_0010, "OW", 0xFFFF_FFF0).file(EXPLICIT),
            Malformed,
        ),
        ("a value of undefined length", with(explicit().head(0x0008_0005, "UT", u32::MAX)), Malformed),
        (
            "an item longer than its sequence",
            with(explicit().head(0x0008_1032, "SQ", 8).head(0xFFFE_E000, "", 9)),
            Malformed,
        ),
        (
            "something in place of an item",
            with(explicit().head(0x0008_1032, "SQ", 8).head(0x0008_0005, "", 0)),
            Malformed,
        ),
        ("a sequence without end", with(explicit().head(0x0040_A730, "SQ", u32::MAX)), Malformed),
        ("a delimiter outside", with(explicit().head(0xFFFE_E00D, "", 0)), Malformed),
        ("65 levels", with(nested(65, false)), Malformed),
        (
            "65 levels of defined length in a sequence that is kept",
            with(explicit().sequence(0x0028_3000, nested(64, true))),
            Malformed,
        ),
        (
            "zeros and more behind the pixel data",
            image(Encoding::Explicit).raw(b"\0\0\0\0\0\0\0\0\x01").file(EXPLICIT),
            Malformed,
        ),
        (
            "too many zeros behind the pixel data",
            image(Encoding::Explicit).raw(&vec![0; 1 << 17]).file(EXPLICIT),
            Malformed,
        ),
        ("2,000 levels of undefined length", with(nested(2000, false)), Malformed),
        ("a VR of no Standard", with(explicit().raw(&[8, 0, 5, 0]).raw(b"??\0\0")), Malformed),
        ("an attribute twice", with(explicit().us(0x0028_0010, 9)), Malformed),
        ("a comment-sized patient name", with(explicit().element(0x0010_0020, "UN", &vec![b'a'; 2 << 20])), TooLarge),
        ("a deflate bomb", deflated(explicit().element(0x0009_1001, "OB", &vec![0; 2 << 20])), TooLarge),
        (
            "deflated garbage",
            [Object::new(Encoding::Explicit).file("1.2.840.10008.1.2.1.99"), vec![0xFF; 99]].concat(),
            Malformed,
        ),
    ];
    for (name, bytes, expected) in rows {
        assert_eq!(decode(bytes, 0).map_err(|r| r.code), Err(expected), "{name}");
    }
}

#[test]
fn a_header_copies_bytes_as_they_are_and_leaves_out_what_must_not_travel() {
    let code = Object::new(Encoding::Big).text(0x0008_0100, "SH", "X1").text(0x0010_2160, "SH", "withheld");
    let object = Object::new(Encoding::Big)
        .text(0x0008_0005, "CS", "ISO_IR 100")
        .sequence(0x0008_1032, code)
        .element(0x0010_0020, "LO", b"\xC4\xD6\xDC ")
        .text(0x0010_2160, "SH", "withheld")
        .text(0x0010_4000, "LT", "withheld")
        .text(0x0011_1001, "LO", "withheld")
        .element(0x0012_0052, "FD", &1.5f64.to_be_bytes())
        .text(0x0018_5101, "CS", "LL");
    let scan = scan(object.raw(&image(Encoding::Big).bytes).file(BIG)).expect("a sound object");
    let header = header_of(&scan).expect("a sound header");
    let bytes = |tag| match header.copied.get(&tag).map(|a| &a.value) {
        Some(AttributeValue::Bytes(bytes)) => Some(bytes.clone()),
        _ => None,
    };
    assert_eq!(bytes(0x0010_0020), Some(b"\xC4\xD6\xDC ".to_vec()));
    assert_eq!(bytes(0x0012_0052), Some(1.5f64.to_le_bytes().to_vec()));
    assert!(!format!("{header:?}").contains("withheld"));
    let Some(AttributeValue::Items(items)) = header.copied.get(&0x0008_1032).map(|a| &a.value) else {
        panic!("a sequence is copied")
    };
    assert_eq!(items[0].keys().copied().collect::<Vec<_>>(), [0x0008_0100]);
    assert_eq!((header.view, header.modality.as_str(), header.frames), (Some(View::Lateral), "DX", 1));
}

#[test]
fn the_view_comes_from_view_position_or_its_code() {
    let position = |text: &str| Object::new(Encoding::Explicit).text(0x0018_5101, "CS", text);
    let code = |value: &str, scheme: &str| {
        let item = Object::new(Encoding::Explicit).text(0x0008_0100, "SH", value).text(0x0008_0102, "SH", scheme);
        Object::new(Encoding::Explicit).sequence(0x0054_0220, item)
    };
    let rows = [
        (position("PA"), Some(View::Pa)),
        (position(" ap"), Some(View::Ap)),
        (position("RL"), Some(View::Lateral)),
        (position("LLD"), Some(View::Other)),
        (position(""), None),
        (code("272479007", "SCT"), Some(View::Pa)),
        (code("R-10206", "SRT"), Some(View::Ap)),
        (code("399067008", "SCT"), Some(View::Lateral)),
        (code("399368009", "SCT"), Some(View::Mlo)),
        (code("272479007", "99X"), Some(View::Other)),
    ];
    for (object, expected) in rows {
        let view = scan(with(object)).and_then(|s: Scan| header_of(&s)).map(|h| h.view);
        assert_eq!(view, Ok(expected));
    }
}

/// Mutations of a file with sequences, functional groups and look-up tables.
fn rich() -> Vec<u8> {
    let lut = Object::new(Encoding::Explicit).element(0x0028_3002, "US", &words(&[4, 0, 12])).element(
        0x0028_3006,
        "US",
        &words(&[0, 9, 99, 999]),
    );
    let frame = Object::new(Encoding::Explicit)
        .sequence(0x0028_9132, Object::new(Encoding::Explicit).text(0x0028_1050, "DS", "9"))
        .sequence(0x0028_9145, Object::new(Encoding::Explicit).text(0x0028_1053, "DS", "2"));
    let pixels = Image { frames: Some("2"), ..Image::default() };
    let object = pixels.object(Encoding::Explicit).sequence(0x0028_3000, lut).sequence(0x5200_9229, frame);
    object.raw(&nested(5, false).bytes).element(0x7FE0_0010, "OW", &words(&[7; 12])).file(EXPLICIT)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]
    #[test]
    fn mutated_and_random_objects_never_panic(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in proptest::option::of(any::<prop::sample::Index>()),
        noise in proptest::option::weighted(0.2, proptest::collection::vec(any::<u8>(), 0..400)),
    ) {
        let mut bytes = rich();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Some(noise) = noise {
            bytes.truncate(144);
            bytes.extend(noise);
        }
        if let Ok(scan) = scan(bytes.clone()) {
            let _ = header_of(&scan);
        }
        let _ = decode(bytes, 0);
    }
}
