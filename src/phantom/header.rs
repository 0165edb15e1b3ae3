//! DICOM objects of a phantom: Computed Radiography (PS3.3 A.2) and Digital X-Ray (PS3.3 A.26) images.
//!
//! Headers hold what such systems write, with names and products that are plainly synthetic. They never hold the
//! self-reported group, which is in `labels.csv` only. Neighbours: `mod` calls, `patient` and `device` give the
//! values. Left out: pixels, which come finished.

use std::path::Path;

use dicom_core::value::{DataSetSequence, PrimitiveValue};
use dicom_core::{DataElement, Tag, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};
use uuid::Uuid;

use super::canvas::FIELD_HEIGHT_MM;
use super::device::{Device, Modality, Photometry};
use super::patient::{Patient, Sex};
use super::{PhantomError, Projection};
use crate::domain::Uid;

/// The UIDs of one set of phantoms, all derived from what the set was made of.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    set: Uuid,
    seed: u64,
}

/// One image on its way into a file.
pub struct Image<'a> {
    pub patient: &'a Patient,
    pub projection: Projection,
    pub rows: usize,
    pub cols: usize,
    /// Stored values, row by row.
    pub pixels: Vec<u16>,
}

impl Identity {
    /// `recipe` is a text of everything that decides about the images.
    pub fn new(recipe: &str, seed: u64) -> Self {
        // Namespace of this project's phantoms; a change of the drawing code takes a new one.
        const PHANTOMS: Uuid = Uuid::from_u128(0x6f0c_3a52_9d7e_4e61_8a43_1f5b_77c2_0d01);
        Self { set: Uuid::new_v5(&PHANTOMS, recipe.as_bytes()), seed }
    }

    pub fn study(&self, patient: u32) -> Uid {
        self.uid(&format!("study {patient}"))
    }

    pub fn instance(&self, patient: u32, projection: Projection) -> Uid {
        self.uid(&format!("instance {patient} {}", projection.as_str()))
    }

    /// Patient ID (0010,0020).
    pub fn patient_id(&self, patient: u32) -> String {
        format!("PH-{}-{patient:04}", self.seed)
    }

    fn uid(&self, what: &str) -> Uid {
        Uid::from_uuid(Uuid::new_v5(&self.set, what.as_bytes()))
    }
}

/// Writes the image to `path`, Explicit VR Little Endian.
pub fn write(image: Image<'_>, identity: &Identity, path: &Path) -> Result<(), PhantomError> {
    let (number, projection) = (image.patient.number, image.projection);
    let class = match image.patient.device.modality {
        Modality::Cr => uids::COMPUTED_RADIOGRAPHY_IMAGE_STORAGE,
        Modality::Dx => uids::DIGITAL_X_RAY_IMAGE_STORAGE_FOR_PRESENTATION,
    };
    let meta = FileMetaTableBuilder::new()
        .transfer_syntax(uids::EXPLICIT_VR_LITTLE_ENDIAN)
        .media_storage_sop_class_uid(class)
        .media_storage_sop_instance_uid(identity.instance(number, projection).as_str());
    let fail = |reason: String| PhantomError::Write { path: path.to_owned(), reason };
    data_set(image, identity, class)
        .with_meta(meta)
        .map_err(|e| fail(e.to_string()))?
        .write_to_file(path)
        .map_err(|e| fail(e.to_string()))
}

fn data_set(image: Image<'_>, identity: &Identity, class: &str) -> InMemDicomObject {
    let mut set = InMemDicomObject::new_empty();
    let (patient, projection, device) = (image.patient, image.projection, image.patient.device);
    text(&mut set, tags::SPECIFIC_CHARACTER_SET, VR::CS, "ISO_IR 100");
    text(&mut set, tags::SOP_CLASS_UID, VR::UI, class);
    text(&mut set, tags::SOP_INSTANCE_UID, VR::UI, identity.instance(patient.number, projection).as_str());
    put_patient_and_study(&mut set, patient, identity);
    put_series_and_equipment(&mut set, patient, projection, identity);
    put_image(&mut set, patient, projection, &image);
    match device.modality {
        Modality::Cr => put_cr(&mut set, projection),
        Modality::Dx => put_dx(&mut set, device, projection),
    }
    set.put(DataElement::new(tags::PIXEL_DATA, VR::OW, PrimitiveValue::U16(image.pixels.into())));
    set
}

fn put_patient_and_study(set: &mut InMemDicomObject, patient: &Patient, identity: &Identity) {
    let number = patient.number;
    let id = identity.patient_id(number);
    let date = patient.imaged.format("%Y%m%d").to_string();
    let time = clock(patient.time);
    text(set, tags::PATIENT_NAME, VR::PN, &format!("PHANTOM^{number:04}"));
    text(set, tags::PATIENT_ID, VR::LO, &id);
    text(set, tags::PATIENT_BIRTH_DATE, VR::DA, &patient.born.format("%Y%m%d").to_string());
    text(set, tags::PATIENT_SEX, VR::CS, if patient.sex == Sex::F { "F" } else { "M" });
    text(set, tags::PATIENT_AGE, VR::AS, &format!("{:03}Y", patient.age));
    text(set, tags::STUDY_INSTANCE_UID, VR::UI, identity.study(number).as_str());
    text(set, tags::STUDY_DATE, VR::DA, &date);
    text(set, tags::STUDY_TIME, VR::TM, &time);
    text(set, tags::STUDY_ID, VR::SH, &format!("{number}"));
    text(set, tags::ACCESSION_NUMBER, VR::SH, &format!("PH{number:08}"));
    text(set, tags::REFERRING_PHYSICIAN_NAME, VR::PN, "");
    text(set, tags::STUDY_DESCRIPTION, VR::LO, "Chest radiograph (synthetic phantom)");
}

fn put_series_and_equipment(set: &mut InMemDicomObject, patient: &Patient, projection: Projection, id: &Identity) {
    let device = patient.device;
    let modality = if device.modality == Modality::Cr { "CR" } else { "DX" };
    let series = id.uid(&format!("series {} {}", patient.number, projection.as_str()));
    text(set, tags::MODALITY, VR::CS, modality);
    text(set, tags::SERIES_INSTANCE_UID, VR::UI, series.as_str());
    text(set, tags::SERIES_NUMBER, VR::IS, if projection == Projection::Pa { "1" } else { "2" });
    text(set, tags::SERIES_DESCRIPTION, VR::LO, &format!("Chest {}", projection.as_str()));
    text(set, tags::BODY_PART_EXAMINED, VR::CS, "CHEST");
    text(set, tags::VIEW_POSITION, VR::CS, if projection == Projection::Pa { "PA" } else { "LL" });
    text(set, tags::MANUFACTURER, VR::LO, device.manufacturer);
    text(set, tags::MANUFACTURER_MODEL_NAME, VR::LO, device.model);
    text(set, tags::STATION_NAME, VR::SH, device.station);
    text(set, tags::DEVICE_SERIAL_NUMBER, VR::LO, device.serial);
    text(set, tags::SOFTWARE_VERSIONS, VR::LO, "1");
    text(set, tags::INSTITUTION_NAME, VR::LO, "SYNTHETIC PHANTOMS");
}

fn put_image(set: &mut InMemDicomObject, patient: &Patient, projection: Projection, image: &Image<'_>) {
    let device = patient.device;
    let date = patient.imaged.format("%Y%m%d").to_string();
    let time = clock(patient.time + if projection == Projection::Pa { 40 } else { 130 });
    for tag in [tags::ACQUISITION_DATE, tags::CONTENT_DATE] {
        text(set, tag, VR::DA, &date);
    }
    for tag in [tags::ACQUISITION_TIME, tags::CONTENT_TIME] {
        text(set, tag, VR::TM, &time);
    }
    text(set, tags::INSTANCE_NUMBER, VR::IS, "1");
    text(set, tags::IMAGE_TYPE, VR::CS, "ORIGINAL\\PRIMARY");
    // Directions of rows and columns (PS3.3 C.7.6.1.1.1): on a PA image the patient's left is on the right.
    text(set, tags::PATIENT_ORIENTATION, VR::CS, if projection == Projection::Pa { "L\\F" } else { "P\\F" });
    text(set, tags::BURNED_IN_ANNOTATION, VR::CS, "NO");
    text(set, tags::LOSSY_IMAGE_COMPRESSION, VR::CS, "00");
    text(set, tags::KVP, VR::DS, &device.kvp.to_string());
    text(set, tags::DISTANCE_SOURCE_TO_DETECTOR, VR::DS, "1800");
    let spacing = format!("{0:.5}\\{0:.5}", FIELD_HEIGHT_MM / image.rows as f64);
    text(set, tags::IMAGER_PIXEL_SPACING, VR::DS, &spacing);
    let photometric = match device.photometry {
        Photometry::Monochrome1 => "MONOCHROME1",
        Photometry::Monochrome2 => "MONOCHROME2",
    };
    text(set, tags::PHOTOMETRIC_INTERPRETATION, VR::CS, photometric);
    short(set, tags::SAMPLES_PER_PIXEL, 1);
    short(set, tags::ROWS, image.rows as u16);
    short(set, tags::COLUMNS, image.cols as u16);
    short(set, tags::BITS_ALLOCATED, 16);
    short(set, tags::BITS_STORED, device.bits_stored);
    short(set, tags::HIGH_BIT, device.bits_stored - 1);
    short(set, tags::PIXEL_REPRESENTATION, 0);
    if device.has_window {
        let (centre, width) = device.window();
        text(set, tags::WINDOW_CENTER, VR::DS, &centre.to_string());
        text(set, tags::WINDOW_WIDTH, VR::DS, &width.to_string());
    }
}

/// CR Series and CR Image (PS3.3 C.8.1).
fn put_cr(set: &mut InMemDicomObject, projection: Projection) {
    text(set, tags::CASSETTE_ORIENTATION, VR::CS, "PORTRAIT");
    text(set, tags::PLATE_TYPE, VR::SH, "PHANTOM");
    let laterality = if projection == Projection::Lateral { "lateral" } else { "frontal" };
    text(set, tags::ACQUISITION_DEVICE_PROCESSING_DESCRIPTION, VR::LO, &format!("chest {laterality}"));
}

/// DX Series, Anatomy Imaged, Image, Detector and Positioning (PS3.3 C.8.11), Acquisition Context (C.7.6.14).
fn put_dx(set: &mut InMemDicomObject, device: &Device, projection: Projection) {
    text(set, tags::PRESENTATION_INTENT_TYPE, VR::CS, "FOR PRESENTATION");
    let chest = code("816094009", "SCT", "Chest");
    items(set, tags::ANATOMIC_REGION_SEQUENCE, vec![chest]);
    text(set, tags::IMAGE_LATERALITY, VR::CS, "U");
    text(set, tags::PIXEL_INTENSITY_RELATIONSHIP, VR::CS, "LOG");
    // The sign of stored values against X-ray intensity: −1 where few X-rays give high values.
    let (sign, shape) = match device.photometry {
        Photometry::Monochrome2 => (-1, "IDENTITY"),
        Photometry::Monochrome1 => (1, "INVERSE"),
    };
    set.put(DataElement::new(tags::PIXEL_INTENSITY_RELATIONSHIP_SIGN, VR::SS, PrimitiveValue::from(sign as i16)));
    text(set, tags::RESCALE_INTERCEPT, VR::DS, "0");
    text(set, tags::RESCALE_SLOPE, VR::DS, "1");
    text(set, tags::RESCALE_TYPE, VR::LO, "US");
    text(set, tags::PRESENTATION_LUT_SHAPE, VR::CS, shape);
    text(set, tags::DETECTOR_TYPE, VR::CS, "DIRECT");
    text(set, tags::DETECTOR_ID, VR::SH, device.serial);
    text(set, tags::POSITIONER_TYPE, VR::CS, "COLUMN");
    let view = match projection {
        Projection::Pa => code("272479007", "SCT", "postero-anterior"),
        Projection::Lateral => code("399173006", "SCT", "left lateral"),
    };
    let mut view = view;
    items(&mut view, tags::VIEW_MODIFIER_CODE_SEQUENCE, vec![]);
    items(set, tags::VIEW_CODE_SEQUENCE, vec![view]);
    items(set, tags::ACQUISITION_CONTEXT_SEQUENCE, vec![]);
}

fn text(set: &mut InMemDicomObject, tag: Tag, vr: VR, value: &str) {
    let value = if value.is_empty() { PrimitiveValue::Empty } else { PrimitiveValue::from(value) };
    set.put(DataElement::new(tag, vr, value));
}

fn short(set: &mut InMemDicomObject, tag: Tag, value: u16) {
    set.put(DataElement::new(tag, VR::US, PrimitiveValue::from(value)));
}

fn items(set: &mut InMemDicomObject, tag: Tag, items: Vec<InMemDicomObject>) {
    set.put(DataElement::new(tag, VR::SQ, DataSetSequence::from(items)));
}

fn code(value: &str, scheme: &str, meaning: &str) -> InMemDicomObject {
    let mut item = InMemDicomObject::new_empty();
    text(&mut item, tags::CODE_VALUE, VR::SH, value);
    text(&mut item, tags::CODING_SCHEME_DESIGNATOR, VR::SH, scheme);
    text(&mut item, tags::CODE_MEANING, VR::LO, meaning);
    item
}

fn clock(seconds: u32) -> String {
    format!("{:02}{:02}{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}
