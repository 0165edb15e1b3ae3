//! The small parser against another implementation, against made bytes, and against mutations.

use dicom_core::{DataElement, PrimitiveValue, Tag as DicomTag, VR};
use dicom_object::InMemDicomObject;
use dicom_transfer_syntax_registry::entries::{EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN};
use proptest::prelude::*;

use super::Encoding::{ExplicitLittleEndian, ImplicitLittleEndian};
use super::*;

const BOUNDS: Bounds = Bounds { bytes_max: 1 << 16, elements_max: 500, depth_max: 3 };

fn parse(bytes: &[u8], encoding: Encoding) -> Result<DataSet, DataSetError> {
    DataSet::parse(bytes, encoding, BOUNDS)
}

/// A request for commitment as other software writes it.
fn request(references: &[(&str, &str)]) -> InMemDicomObject {
    let put = |object: &mut InMemDicomObject, tag: u32, vr, text: &str| {
        let tag = DicomTag((tag >> 16) as u16, (tag & 0xFFFF) as u16);
        object.put(DataElement::new(tag, vr, PrimitiveValue::from(text)));
    };
    let mut object = InMemDicomObject::new_empty();
    put(&mut object, 0x0008_1195, VR::UI, "1.2.3.4.5");
    put(&mut object, 0x0010_0010, VR::PN, "Odd^Name");
    let item = |(class, instance): &(&str, &str)| {
        let mut item = InMemDicomObject::new_empty();
        put(&mut item, 0x0008_1150, VR::UI, class);
        put(&mut item, 0x0008_1155, VR::UI, instance);
        item
    };
    let items: Vec<_> = references.iter().map(item).collect();
    object.put(DataElement::new(DicomTag(0x0008, 0x1199), VR::SQ, dicom_core::value::DataSetSequence::from(items)));
    object
}

fn written(object: &InMemDicomObject, encoding: Encoding) -> Vec<u8> {
    let syntax = match encoding {
        ImplicitLittleEndian => IMPLICIT_VR_LITTLE_ENDIAN.erased(),
        ExplicitLittleEndian => EXPLICIT_VR_LITTLE_ENDIAN.erased(),
    };
    let mut bytes = Vec::new();
    object.write_dataset_with_ts(&mut bytes, &syntax).unwrap();
    bytes
}

fn read_back(bytes: &[u8], encoding: Encoding) -> InMemDicomObject {
    let syntax = match encoding {
        ImplicitLittleEndian => IMPLICIT_VR_LITTLE_ENDIAN.erased(),
        ExplicitLittleEndian => EXPLICIT_VR_LITTLE_ENDIAN.erased(),
    };
    InMemDicomObject::read_dataset_with_ts(bytes, &syntax).unwrap()
}

#[test]
fn what_another_implementation_writes_is_read_and_the_other_way_round() {
    let object = request(&[("1.2.840.10008.5.1.4.1.1.2", "1.2.3"), ("1.2.840.10008.5.1.4.1.1.1", "1.2.30")]);
    for encoding in [ImplicitLittleEndian, ExplicitLittleEndian] {
        let set = parse(&written(&object, encoding), encoding).unwrap();
        assert_eq!(set.uid(0x0008_1195).unwrap().as_str(), "1.2.3.4.5");
        assert_eq!(set.text(0x0010_0010), Some("Odd^Name"));
        let items = set.items(0x0008_1199).unwrap();
        assert_eq!(items.len(), 2);
        assert_eq!(items[1].uid(0x0008_1155).unwrap().as_str(), "1.2.30");
        // Encoded again, in either encoding, the other implementation reads the same.
        for other in [ImplicitLittleEndian, ExplicitLittleEndian] {
            let again = read_back(&set.encode(other), other);
            let sequence = again.element(DicomTag(0x0008, 0x1199)).unwrap().items().unwrap().to_vec();
            // As bytes, since an implicit encoding did not say that it is a UID.
            let class = sequence[0].element(DicomTag(0x0008, 0x1150)).unwrap().to_bytes().unwrap().into_owned();
            assert_eq!(class.strip_suffix(b"\0"), Some(&b"1.2.840.10008.5.1.4.1.1.2"[..]));
            assert_eq!(sequence.len(), 2);
        }
    }
}

/// An implicit element.
fn element(tag: u32, length: u32, value: &[u8]) -> Vec<u8> {
    let (group, number) = parts(tag);
    [&group.to_le_bytes()[..], &number.to_le_bytes(), &length.to_le_bytes(), value].concat()
}

#[test]
fn every_fault_is_named() {
    let sequence = |inside: &[u8]| [element(0x0008_1199, UNDEFINED, &[]), element(ITEM, UNDEFINED, inside)].concat();
    let closed = |inside: &[u8]| [sequence(inside), element(ITEM_END, 0, &[]), element(SEQUENCE_END, 0, &[])].concat();
    let value = element(0x0008_0050, 2, b"AB");
    let many: Vec<u8> = (0..600).flat_map(|n| element(0x0009_0000 + n, 0, &[])).collect();
    let rows: Vec<(&str, Vec<u8>, Result<usize, DataSetError>)> = vec![
        ("nothing", vec![], Ok(0)),
        ("a value", value.clone(), Ok(1)),
        ("an odd length", element(0x0008_0050, 1, b"A"), Ok(1)),
        ("one level", closed(&value), Ok(1)),
        ("three levels", closed(&closed(&closed(&value))), Ok(1)),
        ("four levels", closed(&closed(&closed(&closed(&value)))), Err(DataSetError::TooDeep(3))),
        ("an empty item of defined length", element(0x0008_1199, 8, &element(ITEM, 0, &[])), Ok(1)),
        ("half a header", vec![8, 0, 80], Err(DataSetError::Truncated)),
        ("4 GiB", element(0x0008_0050, 0xFFFF_FFFE, b"AB"), Err(too_short(0x0050))),
        ("an open sequence", sequence(&value), Err(DataSetError::Truncated)),
        ("an item end outside", element(ITEM_END, 0, &[]), Err(misplaced(0xFFFE, 0xE00D))),
        ("no item in a sequence", element(0x0008_1199, 10, &value), Err(misplaced(0x0008, 0x0050))),
        ("an item longer than its sequence", element(0x0008_1199, 8, &element(ITEM, 9, &[])), Err(item_too_short())),
        ("a command element", element(0x0000_0100, 2, &[1, 0]), Err(misplaced(0, 0x0100))),
        ("twice the same", [value.clone(), value].concat(), Err(DataSetError::Repeated { group: 8, element: 0x50 })),
        ("600 elements", many, Err(DataSetError::TooMany(500))),
        ("too many bytes", vec![0; (1 << 16) + 1], Err(DataSetError::TooLong(1 << 16))),
    ];
    for (name, bytes, expected) in rows {
        assert_eq!(parse(&bytes, ImplicitLittleEndian).map(|set| set.elements.len()), expected, "{name}");
    }
    let explicit = |bytes: &[u8]| parse(bytes, ExplicitLittleEndian).map(|set| set.elements.len());
    assert_eq!(explicit(b"\x08\x00\x50\x00SH\x02\x00AB"), Ok(1));
    assert_eq!(explicit(b"\x08\x00\x50\x00\x02\x00\x00\x00AB"), Err(DataSetError::NoVr { group: 8, element: 0x50 }));
    let pixels = b"\xe0\x7f\x10\x00OB\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\x00\x00\x00\x00";
    assert_eq!(explicit(pixels), Err(DataSetError::NoLength { group: 0x7FE0, element: 0x10 }));
    // A sequence of unknown VR holds implicit elements, and the explicit ones go on behind it.
    let unknown = [
        &b"\x09\x00\x10\x00UN\x00\x00\xff\xff\xff\xff"[..],
        &element(ITEM, 10, &element(0x0008_0050, 2, b"AB")),
        &element(SEQUENCE_END, 0, &[]),
        b"\x10\x00\x20\x00LO\x02\x00ID",
    ];
    assert_eq!(explicit(&unknown.concat()), Ok(2));
}

fn too_short(element: u16) -> DataSetError {
    DataSetError::TooShort { group: 8, element }
}

fn item_too_short() -> DataSetError {
    DataSetError::TooShort { group: 0xFFFE, element: 0xE000 }
}

fn misplaced(group: u16, element: u16) -> DataSetError {
    DataSetError::Misplaced { group, element }
}

fn any_text() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..20).prop_map(|mut bytes| {
        bytes.truncate(bytes.len() & !1);
        bytes
    })
}

fn any_set(depth: u32) -> BoxedStrategy<DataSet> {
    let values = proptest::collection::btree_map(0x0010_0000u32..0x0010_0100, any_text(), 0..5);
    let items =
        if depth == 0 { Just(vec![]).boxed() } else { proptest::collection::vec(any_set(depth - 1), 0..3).boxed() };
    let with_items = (values, items);
    with_items
        .prop_map(|(values, items)| {
            let mut set = DataSet::default();
            values.into_iter().for_each(|(tag, value)| set.put(tag, b"LO", value));
            if !items.is_empty() {
                set.put_items(0x0008_1199, items);
            }
            set
        })
        .boxed()
}

proptest! {
    #[test]
    fn what_is_encoded_is_read_again(set in any_set(3)) {
        let explicit = parse(&set.encode(ExplicitLittleEndian), ExplicitLittleEndian);
        prop_assert_eq!(explicit.as_ref(), Ok(&set));
        // An implicit encoding does not say that these are LO.
        let implicit = parse(&set.encode(ImplicitLittleEndian), ImplicitLittleEndian).unwrap();
        prop_assert_eq!(implicit.encode(ImplicitLittleEndian), set.encode(ImplicitLittleEndian));
    }

    #[test]
    fn mutations_are_read_or_refused(set in any_set(3), cuts in proptest::collection::vec((any::<usize>(), any::<u8>(), 0..4u8), 1..6)) {
        for encoding in [ImplicitLittleEndian, ExplicitLittleEndian] {
            let mut bytes = set.encode(encoding);
            for (at, value, kind) in &cuts {
                if bytes.is_empty() {
                    break;
                }
                let at = at % bytes.len();
                match kind {
                    0 => bytes.truncate(at),
                    1 => bytes.insert(at, *value),
                    2 => bytes.splice(at..at, [0xff; 4]).for_each(drop),
                    _ => bytes[at] = *value,
                }
            }
            if let Ok(read) = parse(&bytes, encoding) {
                prop_assert!(read.encode(encoding).len() <= 2 * bytes.len() + 16);
            }
        }
    }

    #[test]
    fn noise_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse(&bytes, ImplicitLittleEndian);
        let _ = parse(&bytes, ExplicitLittleEndian);
    }
}
