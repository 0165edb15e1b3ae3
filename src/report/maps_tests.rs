//! Tests of `maps`: what the objects say; other people's checks of them are in `tests/it/explain.rs`.

use dicom_object::FileDicomObject;

use super::*;
use crate::domain::{Code, Finding, Probability};

fn uid(text: &str) -> Uid {
    Uid::parse(text).unwrap()
}

fn source(frames: u32) -> InstanceHeader {
    let header = serde_json::json!({
        "study": "1.2", "series": "1.2.1", "sop_instance": "1.2.3", "sop_class": "1.2.840.10008.5.1.4.1.1.1.1",
        "transfer_syntax": "1.2.840.10008.1.2.1", "modality": "DX", "body_part": "CHEST", "view": "PA",
        "manufacturer": "", "model_name": "", "rows": 512, "columns": 256, "frames": frames, "bits_allocated": 16,
        "bits_stored": 12, "photometric": "MONOCHROME2", "has_pixels": true, "copied": {}
    });
    serde_json::from_value(header).unwrap()
}

fn map(target: MapTarget) -> AttributionMap {
    let mut model = super::super::own_identity(&uid("1.2.9"));
    model.name = "model-a".into();
    let values = vec![-0.5, 0.0, 0.25, 0.5, 0.0, 0.0, 0.0, 0.0, 1.0];
    AttributionMap { method: MapMethod::Occlusion, model, target, side: 3, values }
}

fn finding() -> MapTarget {
    MapTarget::Finding(Box::new(Finding {
        key: "a".into(),
        code: Code::new("36118008", "SCT", "Pneumothorax"),
        site: None,
        threshold: Probability::new(0.5).unwrap(),
    }))
}

fn read(report: &Report) -> FileDicomObject<InMemDicomObject> {
    dicom_object::from_reader(&report.file[..]).unwrap()
}

fn built(map: &AttributionMap, purpose: Purpose, frames: u32) -> [FileDicomObject<InMemDicomObject>; 2] {
    built_of(&source(frames), map, purpose)
}

fn built_of(source: &InstanceHeader, map: &AttributionMap, purpose: Purpose) -> [FileDicomObject<InMemDicomObject>; 2] {
    let observer = Observer { device_uid: uid("1.2.8"), name: "node".into(), serial_number: "1".into() };
    let image =
        MapImage { source, frame: 7, purpose, map, picture: &[100; 9], aspect: Some((512, 256)), file_bytes: 20_000 };
    let now = DateTime::parse_from_rfc3339("2026-02-03T04:05:06+00:00").unwrap();
    let (sop_instance, series) = (uid("1.2.5"), uid("1.2.6"));
    let frame_of_reference = uid("1.2.7");
    let object = MapObject { observer: &observer, sop_instance, series, frame_of_reference, number: 2, now };
    let twice = [capture(&image, &object).unwrap(), parametric_map(&image, &object).unwrap()];
    assert_eq!(twice[0].file, capture(&image, &object).unwrap().file, "the same arguments give the same bytes");
    twice.map(|report| read(&report))
}

#[test]
fn a_map_says_what_it_is_and_what_it_is_of() {
    let map = map(finding());
    for object in built(&map, Purpose::Clinical, 9) {
        let text = |name: &str| object.element_by_name(name).unwrap().to_str().unwrap().into_owned();
        assert!(text("ImageType").starts_with("DERIVED\\"));
        assert_eq!((text("BurnedInAnnotation").as_str(), text("SeriesNumber").as_str()), ("NO", "9802"));
        assert!(text("SeriesDescription").contains("not for diagnosis"));
        assert!(text("ImageComments").contains("Occlusion: Pneumothorax by model-a"));
        assert_eq!(text("Manufacturer"), super::super::MANUFACTURER);
        let sources = object.element_by_name("SourceImageSequence").unwrap().items().unwrap();
        let of = |name: &str| sources[0].element_by_name(name).unwrap().to_str().unwrap().into_owned();
        assert_eq!([of("ReferencedSOPInstanceUID"), of("ReferencedFrameNumber")], ["1.2.3", "7"]);
    }
    let [capture, values] = built(&map, Purpose::Clinical, 1);
    assert_eq!(capture.element_by_name("PixelAspectRatio").unwrap().to_str().unwrap(), "512\\256");
    let pixels = capture.element_by_name("PixelData").unwrap().to_bytes().unwrap().into_owned();
    assert_eq!((pixels.len(), &pixels[..6]), (28, &[100; 6][..]), "even, and grey where nothing speaks for it");
    let floats = values.element(Tag(0x7fe0, 0x0008)).unwrap().to_multi_float32().unwrap();
    assert_eq!(floats, map.values);
}

#[test]
fn a_map_of_the_race_model_is_of_another_series_and_names_no_group() {
    for object in built(&map(MapTarget::Groups), Purpose::Race, 1) {
        let text = |name: &str| object.element_by_name(name).unwrap().to_str().unwrap().into_owned();
        assert_eq!(text("SeriesNumber"), "9803");
        let said = text("ImageComments").to_lowercase();
        assert!(said.contains("all groups together"), "{said}");
        for group in ["asian", "black", "white", "racial"] {
            assert!(!said.contains(group), "{said}");
        }
    }
}

#[test]
fn a_map_has_lost_what_its_source_lost() {
    let lossy = |change: fn(&mut InstanceHeader)| {
        let mut source = source(1);
        change(&mut source);
        built_of(&source, &map(finding()), Purpose::Clinical).map(|object| {
            ["LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"].map(|name| {
                object.element_by_name(name).ok().map(|e| e.to_str().unwrap().trim_end().to_owned()).unwrap_or_default()
            })
        })
    };
    let said = |text: [&str; 3]| text.map(str::to_owned);
    assert_eq!(lossy(|_| {}), [said(["", "", ""]), said(["00", "", ""])]);
    let twice = said(["01", "10\\2.5", "ISO_10918_1\\ISO_15444_1"]);
    let found = lossy(|source| {
        source.image.lossy = true;
        source.image.lossy_ratios = vec!["10".into(), "2.5".into()];
        source.image.lossy_methods = vec!["ISO_10918_1".into(), "ISO_15444_1".into()];
    });
    assert_eq!(found, [twice.clone(), twice]);
    let found = lossy(|source| source.transfer_syntax = uid("1.2.840.10008.1.2.4.50"));
    // 512 × 256 pixels of 16 bits.
    let jpeg = said(["01", "13.11", "ISO_10918_1"]);
    assert_eq!(found, [jpeg.clone(), jpeg]);
    let found = lossy(|source| source.transfer_syntax = uid("1.2.840.10008.1.2.4.91"));
    assert_eq!(found[1], said(["01", "13.11", "ISO_15444_1"]), "it may have lost something, and nobody denies it");
    let found = lossy(|source| {
        source.transfer_syntax = uid("1.2.840.10008.1.2.4.91");
        source.image.never_lossy = true;
    });
    assert_eq!(found[1], said(["00", "", ""]));
    let found = lossy(|source| {
        source.image.lossy = true;
        source.image.lossy_ratios = vec!["DOE^JANE".into()];
        source.image.lossy_methods = vec!["ISO_10918_1".into()];
    });
    assert_eq!(found[1], said(["01", "", ""]), "what is no ratio is not copied");
}

#[test]
fn the_node_knows_its_own_maps() {
    let own = |class: &str, manufacturer: &str, model: &str| {
        let (manufacturer, model_name) = (manufacturer.to_owned(), model.to_owned());
        let header =
            InstanceHeader { sop_class: uid(class), modality: "OT".into(), manufacturer, model_name, ..source(1) };
        super::super::is_own(&header)
    };
    for class in [SECONDARY_CAPTURE, PARAMETRIC_MAP] {
        assert!(own(class, "sidelight", "sidelight node"));
        assert!(!own(class, "another", "sidelight node") && !own(class, "sidelight", "scanner"));
    }
    assert!(!own("1.2.840.10008.5.1.4.1.1.1.1", "sidelight", "sidelight node"));
}
