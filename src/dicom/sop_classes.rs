//! The SOP classes that the node accepts (PS3.4 B.5 for storage, A.4 for verification).
//!
//! Neighbours: `receive` negotiates from this table. Left out on purpose: classes whose pixels no model reads
//! (segmentations, doses, parametric maps, PET, waveforms, …) are refused in negotiation, so that the sender knows
//! at once; and whether a model's scope admits a class, which is asked per model.

use dicom_dictionary_std::uids;

use crate::domain::Uid;

/// A SOP class of the Standard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SopClass {
    /// As in PS3.6 table A-1, without "Image Storage" shortened away.
    pub name: &'static str,
    pub uid: &'static str,
}

/// Verification (C-ECHO).
pub const VERIFICATION: SopClass = SopClass { name: "Verification", uid: uids::VERIFICATION };

/// Storage Commitment Push Model (PS3.4 Annex J).
pub const STORAGE_COMMITMENT: SopClass =
    SopClass { name: "Storage Commitment Push Model", uid: uids::STORAGE_COMMITMENT_PUSH_MODEL };

/// The well-known instance that requests for commitment are addressed to.
pub const STORAGE_COMMITMENT_INSTANCE: &str = uids::STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE;

/// Query in the Study Root (PS3.4 C.6.2).
pub const STUDY_ROOT_FIND: SopClass = SopClass {
    name: "Study Root Query/Retrieve Information Model - FIND",
    uid: uids::STUDY_ROOT_QUERY_RETRIEVE_INFORMATION_MODEL_FIND,
};

/// Retrieval on the same association in the Study Root.
pub const STUDY_ROOT_GET: SopClass = SopClass {
    name: "Study Root Query/Retrieve Information Model - GET",
    uid: uids::STUDY_ROOT_QUERY_RETRIEVE_INFORMATION_MODEL_GET,
};

/// The storage classes of the node's own reports, the preferred first.
pub const REPORT_STORAGE: [&str; 3] =
    [uids::COMPREHENSIVE3_DSR_STORAGE, uids::COMPREHENSIVE_SR_STORAGE, uids::ENHANCED_SR_STORAGE];

/// Every storage SOP class that the node accepts.
pub fn storage_sop_classes() -> &'static [SopClass] {
    STORAGE
}

/// Whether instances of this class may be sent to the node.
pub fn is_storage_accepted(uid: &Uid) -> bool {
    STORAGE.iter().any(|class| class.uid == uid.as_str())
}

/// The name of a class that the node accepts; the UID itself for any other.
pub fn sop_class_name(uid: &Uid) -> &str {
    STORAGE
        .iter()
        .chain([&VERIFICATION, &STORAGE_COMMITMENT, &STUDY_ROOT_FIND, &STUDY_ROOT_GET])
        .find(|class| class.uid == uid.as_str())
        .map_or(uid.as_str(), |class| class.name)
}

macro_rules! classes {
    ($($name:literal => $uid:ident,)*) => { &[$(SopClass { name: $name, uid: uids::$uid }),*] };
}

/// The retired ultrasound classes stay: installed archives still send them, and their pixels are ordinary.
#[allow(deprecated)]
const STORAGE: &[SopClass] = classes! {
    "Computed Radiography Image Storage" => COMPUTED_RADIOGRAPHY_IMAGE_STORAGE,
    "Digital X-Ray Image Storage - For Presentation" => DIGITAL_X_RAY_IMAGE_STORAGE_FOR_PRESENTATION,
    "Digital X-Ray Image Storage - For Processing" => DIGITAL_X_RAY_IMAGE_STORAGE_FOR_PROCESSING,
    "Digital Mammography X-Ray Image Storage - For Presentation" =>
        DIGITAL_MAMMOGRAPHY_X_RAY_IMAGE_STORAGE_FOR_PRESENTATION,
    "Digital Mammography X-Ray Image Storage - For Processing" =>
        DIGITAL_MAMMOGRAPHY_X_RAY_IMAGE_STORAGE_FOR_PROCESSING,
    "Digital Intra-Oral X-Ray Image Storage - For Presentation" =>
        DIGITAL_INTRA_ORAL_X_RAY_IMAGE_STORAGE_FOR_PRESENTATION,
    "Digital Intra-Oral X-Ray Image Storage - For Processing" =>
        DIGITAL_INTRA_ORAL_X_RAY_IMAGE_STORAGE_FOR_PROCESSING,
    "CT Image Storage" => CT_IMAGE_STORAGE,
    "Enhanced CT Image Storage" => ENHANCED_CT_IMAGE_STORAGE,
    "MR Image Storage" => MR_IMAGE_STORAGE,
    "Enhanced MR Image Storage" => ENHANCED_MR_IMAGE_STORAGE,
    "Breast Tomosynthesis Image Storage" => BREAST_TOMOSYNTHESIS_IMAGE_STORAGE,
    "X-Ray Angiographic Image Storage" => X_RAY_ANGIOGRAPHIC_IMAGE_STORAGE,
    "Enhanced XA Image Storage" => ENHANCED_XA_IMAGE_STORAGE,
    "X-Ray Radiofluoroscopic Image Storage" => X_RAY_RADIOFLUOROSCOPIC_IMAGE_STORAGE,
    "Enhanced XRF Image Storage" => ENHANCED_XRF_IMAGE_STORAGE,
    "Ultrasound Image Storage" => ULTRASOUND_IMAGE_STORAGE,
    "Ultrasound Image Storage (Retired)" => ULTRASOUND_IMAGE_STORAGE_RETIRED,
    "Ultrasound Multi-frame Image Storage" => ULTRASOUND_MULTI_FRAME_IMAGE_STORAGE,
    "Enhanced US Volume Storage" => ENHANCED_US_VOLUME_STORAGE,
    "Ultrasound Multi-frame Image Storage (Retired)" => ULTRASOUND_MULTI_FRAME_IMAGE_STORAGE_RETIRED,
    "Nuclear Medicine Image Storage" => NUCLEAR_MEDICINE_IMAGE_STORAGE,
    "Secondary Capture Image Storage" => SECONDARY_CAPTURE_IMAGE_STORAGE,
    "Multi-frame Single Bit Secondary Capture Image Storage" =>
        MULTI_FRAME_SINGLE_BIT_SECONDARY_CAPTURE_IMAGE_STORAGE,
    "Multi-frame Grayscale Byte Secondary Capture Image Storage" =>
        MULTI_FRAME_GRAYSCALE_BYTE_SECONDARY_CAPTURE_IMAGE_STORAGE,
    "Multi-frame Grayscale Word Secondary Capture Image Storage" =>
        MULTI_FRAME_GRAYSCALE_WORD_SECONDARY_CAPTURE_IMAGE_STORAGE,
    "Multi-frame True Color Secondary Capture Image Storage" =>
        MULTI_FRAME_TRUE_COLOR_SECONDARY_CAPTURE_IMAGE_STORAGE,
    "Enhanced SR Storage" => ENHANCED_SR_STORAGE,
    "Comprehensive SR Storage" => COMPREHENSIVE_SR_STORAGE,
    "Comprehensive 3D SR Storage" => COMPREHENSIVE3_DSR_STORAGE,
    "Chest CAD SR Storage" => CHEST_CADSR_STORAGE,
};

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_class_is_listed_once_under_a_valid_uid() {
        let mut seen = BTreeSet::new();
        for class in storage_sop_classes() {
            let uid = Uid::parse(class.uid).expect("a valid uid");
            assert!(is_storage_accepted(&uid));
            assert_eq!(sop_class_name(&uid), class.name);
            assert!(seen.insert(class.uid), "{} is listed twice", class.name);
        }
    }

    #[test]
    fn classes_that_no_model_reads_are_not_accepted() {
        let rows = [
            ("RT Dose", "1.2.840.10008.5.1.4.1.1.481.2"),
            ("Segmentation", "1.2.840.10008.5.1.4.1.1.66.4"),
            ("Parametric Map", "1.2.840.10008.5.1.4.1.1.30"),
            ("PET", "1.2.840.10008.5.1.4.1.1.128"),
            ("Verification", "1.2.840.10008.1.1"),
            ("a prefix of CT", "1.2.840.10008.5.1.4.1.1"),
        ];
        for (name, uid) in rows {
            assert!(!is_storage_accepted(&Uid::parse(uid).expect("a valid uid")), "{name}");
        }
    }
}
