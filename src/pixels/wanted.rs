//! Which attributes leave the pre-scan: those that decoding and scope rules need, and those that a report copies.
//!
//! Copied are the Patient, Patient Study, General Study and Clinical Trial modules (PS3.3 C.7.1.1, C.7.1.3, C.7.2.1,
//! C.7.2.2, C.7.2.3), their issuers and the de-identification attributes. Never copied, at no depth: Ethnic Group and
//! its code sequence, comments and other free text about the patient, private elements, the modality's equipment.

use super::dataset::Tag;

/// What is kept of a data set or of the items of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// The data set itself.
    Root,
    /// The data set of a Structured Report whose content is read.
    Report,
    /// The data set of a Segmentation.
    Segmentation,
    /// Everything but private elements: look-up tables, codes, functional group macros.
    All,
    /// Everything that may be copied into a report.
    Copy,
    /// Of functional groups, those that change pixel values or say how large pixels are, what is shut out, which side,
    /// where the plane lies.
    Groups,
    /// Of the functional groups of a Segmentation, those that say what a frame is and of which image.
    SegmentGroups,
    /// Nothing; the bytes are walked only.
    Nothing,
}

impl Keep {
    /// What is kept of the element `tag` found here: `None` if it is left out, else what is kept of its items.
    pub fn of(self, tag: Tag) -> Option<Keep> {
        if (tag >> 16) & 1 == 1 {
            return None;
        }
        match self {
            Keep::Root if COPIED.binary_search(&tag).is_ok() => Some(Keep::Copy),
            Keep::Root if matches!(tag, 0x5200_9229 | 0x5200_9230) => Some(Keep::Groups),
            Keep::Root if IMAGE.binary_search(&tag).is_ok() => Some(Keep::All),
            Keep::Report if REPORT.binary_search(&tag).is_ok() => Some(Keep::All),
            Keep::Segmentation if matches!(tag, 0x5200_9229 | 0x5200_9230) => Some(Keep::SegmentGroups),
            Keep::Segmentation if SEGMENTATION.binary_search(&tag).is_ok() => Some(Keep::All),
            Keep::SegmentGroups if matches!(tag, 0x0008_9124 | 0x0062_000A) => Some(Keep::All),
            Keep::Groups if MACROS.binary_search(&tag).is_ok() => Some(Keep::All),
            Keep::All => Some(Keep::All),
            Keep::Copy if !NEVER.contains(&tag) => Some(Keep::Copy),
            _ => None,
        }
    }
}

/// Whether a report may copy the element `tag` of the data set itself.
pub fn is_copied(tag: Tag) -> bool {
    COPIED.binary_search(&tag).is_ok()
}

/// Of a Structured Report: who says it, when, in place of what, and the content tree; in ascending order.
const REPORT: [Tag; 11] = [
    0x0008_0023, // Content Date
    0x0008_0033, // Content Time
    0x0008_0070, // Manufacturer
    0x0008_0201, // Timezone Offset From UTC
    0x0008_1090, // Manufacturer's Model Name
    0x0018_1000, // Device Serial Number
    0x0018_1020, // Software Versions
    0x0040_A040, // Value Type
    0x0040_A043, // Concept Name Code Sequence
    0x0040_A360, // Predecessor Documents Sequence
    0x0040_A730, // Content Sequence
];

/// Of a Segmentation: its pixels, its segments and what it refers to; in ascending order.
const SEGMENTATION: [Tag; 18] = [
    0x0008_0016, // SOP Class UID
    0x0008_1115, // Referenced Series Sequence
    0x0028_0002, // Samples per Pixel
    0x0028_0004, // Photometric Interpretation
    0x0028_0006, // Planar Configuration
    0x0028_0008, // Number of Frames
    0x0028_0010, // Rows
    0x0028_0011, // Columns
    0x0028_0100, // Bits Allocated
    0x0028_0101, // Bits Stored
    0x0028_0102, // High Bit
    0x0028_0103, // Pixel Representation
    0x0062_0001, // Segmentation Type
    0x0062_0002, // Segment Sequence
    0x0062_000E, // Maximum Fractional Value
    0x7FE0_0001, // Extended Offset Table
    0x7FE0_0002, // Extended Offset Table Lengths
    0x7FE0_0010, // Pixel Data
];

/// Functional group macros that are kept, in ascending order.
const MACROS: [Tag; 7] = [
    0x0018_9472, // Frame Display Shutter
    0x0020_9071, // Frame Anatomy
    0x0020_9113, // Plane Position
    0x0020_9116, // Plane Orientation
    0x0028_9110, // Pixel Measures
    0x0028_9132, // Frame VOI LUT
    0x0028_9145, // Pixel Value Transformation
];

/// Never copied, wherever it is nested: Ethnic Group and its codes, comments, free text about the patient.
const NEVER: [Tag; 12] = [
    0x0010_2160, // Ethnic Group
    0x0010_2161, // Ethnic Group Code Sequence
    0x0010_2162, // Ethnic Groups
    0x0010_4000, // Patient Comments
    0x0010_21B0, // Additional Patient History
    0x0010_2000, // Medical Alerts
    0x0010_2110, // Allergies
    0x0010_2180, // Occupation
    0x0032_4000, // Study Comments
    0x0020_4000, // Image Comments
    0x0040_1400, // Requested Procedure Comments
    0x0040_0400, // Comments on the Scheduled Procedure Step
];

/// Attributes of the data set that a report copies, in ascending order.
const COPIED: [Tag; 85] = [
    0x0008_0005, // Specific Character Set
    0x0008_0020, // Study Date
    0x0008_0030, // Study Time
    0x0008_0050, // Accession Number
    0x0008_0051, // Issuer of Accession Number Sequence
    0x0008_0090, // Referring Physician's Name
    0x0008_0096, // Referring Physician Identification Sequence
    0x0008_009C, // Consulting Physician's Name
    0x0008_009D, // Consulting Physician Identification Sequence
    0x0008_0201, // Timezone Offset From UTC
    0x0008_1030, // Study Description
    0x0008_1032, // Procedure Code Sequence
    0x0008_1048, // Physician(s) of Record
    0x0008_1049, // Physician(s) of Record Identification Sequence
    0x0008_1060, // Name of Physician(s) Reading Study
    0x0008_1062, // Physician(s) Reading Study Identification Sequence
    0x0008_1110, // Referenced Study Sequence
    0x0008_1120, // Referenced Patient Sequence
    0x0010_0010, // Patient's Name
    0x0010_0020, // Patient ID
    0x0010_0021, // Issuer of Patient ID
    0x0010_0022, // Type of Patient ID
    0x0010_0024, // Issuer of Patient ID Qualifiers Sequence
    0x0010_0026, // Source Patient Group Identification Sequence
    0x0010_0027, // Group of Patients Identification Sequence
    0x0010_0030, // Patient's Birth Date
    0x0010_0032, // Patient's Birth Time
    0x0010_0033, // Patient's Birth Date in Alternative Calendar
    0x0010_0034, // Patient's Death Date in Alternative Calendar
    0x0010_0035, // Patient's Alternative Calendar
    0x0010_0040, // Patient's Sex
    0x0010_0200, // Quality Control Subject
    0x0010_0212, // Strain Description
    0x0010_0213, // Strain Nomenclature
    0x0010_0214, // Strain Stock Number
    0x0010_0215, // Strain Source Registry Code Sequence
    0x0010_0216, // Strain Stock Sequence
    0x0010_0217, // Strain Source
    0x0010_0218, // Strain Additional Information
    0x0010_0219, // Strain Code Sequence
    0x0010_1001, // Other Patient Names
    0x0010_1002, // Other Patient IDs Sequence
    0x0010_1010, // Patient's Age
    0x0010_1020, // Patient's Size
    0x0010_1030, // Patient's Weight
    0x0010_2201, // Patient Species Description
    0x0010_2202, // Patient Species Code Sequence
    0x0010_2203, // Patient's Sex Neutered
    0x0010_2292, // Patient Breed Description
    0x0010_2293, // Patient Breed Code Sequence
    0x0010_2294, // Breed Registration Sequence
    0x0010_2297, // Responsible Person
    0x0010_2298, // Responsible Person Role
    0x0010_2299, // Responsible Organization
    0x0012_0010, // Clinical Trial Sponsor Name
    0x0012_0020, // Clinical Trial Protocol ID
    0x0012_0021, // Clinical Trial Protocol Name
    0x0012_0022, // Issuer of Clinical Trial Protocol ID
    0x0012_0023, // Other Clinical Trial Protocol IDs Sequence
    0x0012_0030, // Clinical Trial Site ID
    0x0012_0031, // Clinical Trial Site Name
    0x0012_0032, // Issuer of Clinical Trial Site ID
    0x0012_0040, // Clinical Trial Subject ID
    0x0012_0041, // Issuer of Clinical Trial Subject ID
    0x0012_0042, // Clinical Trial Subject Reading ID
    0x0012_0043, // Issuer of Clinical Trial Subject Reading ID
    0x0012_0050, // Clinical Trial Time Point ID
    0x0012_0051, // Clinical Trial Time Point Description
    0x0012_0052, // Longitudinal Temporal Offset from Event
    0x0012_0053, // Longitudinal Temporal Event Type
    0x0012_0055, // Issuer of Clinical Trial Time Point ID
    0x0012_0062, // Patient Identity Removed
    0x0012_0063, // De-identification Method
    0x0012_0064, // De-identification Method Code Sequence
    0x0012_0081, // Clinical Trial Protocol Ethics Committee Name
    0x0012_0082, // Clinical Trial Protocol Ethics Committee Approval Number
    0x0012_0083, // Consent for Clinical Trial Use Sequence
    0x0020_000D, // Study Instance UID
    0x0020_0010, // Study ID
    0x0028_0303, // Longitudinal Temporal Information Modified
    0x0032_1033, // Requesting Service
    0x0038_0010, // Admission ID
    0x0038_0014, // Issuer of Admission ID Sequence
    0x0038_0060, // Service Episode ID
    0x0038_0064, // Issuer of Service Episode ID Sequence
];

/// Attributes of the data set that describe the image and its pixels, in ascending order.
const IMAGE: [Tag; 83] = [
    0x0008_0008, // Image Type
    0x0008_0016, // SOP Class UID
    0x0008_0018, // SOP Instance UID
    0x0008_0060, // Modality
    0x0008_0064, // Conversion Type
    0x0008_0068, // Presentation Intent Type
    0x0008_0070, // Manufacturer
    0x0008_1090, // Manufacturer's Model Name
    0x0018_0015, // Body Part Examined
    0x0018_1164, // Imager Pixel Spacing
    0x0018_1600, // Shutter Shape
    0x0018_1602, // Shutter Left Vertical Edge
    0x0018_1604, // Shutter Right Vertical Edge
    0x0018_1606, // Shutter Upper Horizontal Edge
    0x0018_1608, // Shutter Lower Horizontal Edge
    0x0018_1610, // Center of Circular Shutter
    0x0018_1612, // Radius of Circular Shutter
    0x0018_1620, // Vertices of the Polygonal Shutter
    0x0018_1700, // Collimator Shape
    0x0018_1702, // Collimator Left Vertical Edge
    0x0018_1704, // Collimator Right Vertical Edge
    0x0018_1706, // Collimator Upper Horizontal Edge
    0x0018_1708, // Collimator Lower Horizontal Edge
    0x0018_1710, // Center of Circular Collimator
    0x0018_1712, // Radius of Circular Collimator
    0x0018_1720, // Vertices of the Polygonal Collimator
    0x0018_2010, // Nominal Scanned Pixel Spacing
    0x0018_5101, // View Position
    0x0020_000E, // Series Instance UID
    0x0020_0020, // Patient Orientation
    0x0020_0032, // Image Position (Patient)
    0x0020_0037, // Image Orientation (Patient)
    0x0020_0060, // Laterality
    0x0020_0062, // Image Laterality
    0x0028_0002, // Samples per Pixel
    0x0028_0004, // Photometric Interpretation
    0x0028_0006, // Planar Configuration
    0x0028_0008, // Number of Frames
    0x0028_0010, // Rows
    0x0028_0011, // Columns
    0x0028_0030, // Pixel Spacing
    0x0028_0034, // Pixel Aspect Ratio
    0x0028_0100, // Bits Allocated
    0x0028_0101, // Bits Stored
    0x0028_0102, // High Bit
    0x0028_0103, // Pixel Representation
    0x0028_0120, // Pixel Padding Value
    0x0028_0121, // Pixel Padding Range Limit
    0x0028_0122, // Float Pixel Padding Value
    0x0028_0123, // Double Float Pixel Padding Value
    0x0028_0124, // Float Pixel Padding Range Limit
    0x0028_0125, // Double Float Pixel Padding Range Limit
    0x0028_0301, // Burned In Annotation
    0x0028_1050, // Window Center
    0x0028_1051, // Window Width
    0x0028_1052, // Rescale Intercept
    0x0028_1053, // Rescale Slope
    0x0028_1054, // Rescale Type
    0x0028_1056, // VOI LUT Function
    0x0028_1101, // Red Palette Color Lookup Table Descriptor
    0x0028_1102, // Green Palette Color Lookup Table Descriptor
    0x0028_1103, // Blue Palette Color Lookup Table Descriptor
    0x0028_1201, // Red Palette Color Lookup Table Data
    0x0028_1202, // Green Palette Color Lookup Table Data
    0x0028_1203, // Blue Palette Color Lookup Table Data
    0x0028_1221, // Segmented Red Palette Color Lookup Table Data
    0x0028_1222, // Segmented Green Palette Color Lookup Table Data
    0x0028_1223, // Segmented Blue Palette Color Lookup Table Data
    0x0028_2110, // Lossy Image Compression
    0x0028_2112, // Lossy Image Compression Ratio
    0x0028_2114, // Lossy Image Compression Method
    0x0028_3000, // Modality LUT Sequence
    0x0028_3010, // VOI LUT Sequence
    0x0054_0220, // View Code Sequence
    0x2050_0010, // Presentation LUT Sequence
    0x2050_0020, // Presentation LUT Shape
    0x5200_9229, // Shared Functional Groups Sequence
    0x5200_9230, // Per-Frame Functional Groups Sequence
    0x7FE0_0001, // Extended Offset Table
    0x7FE0_0002, // Extended Offset Table Lengths
    0x7FE0_0008, // Float Pixel Data
    0x7FE0_0009, // Double Float Pixel Data
    0x7FE0_0010, // Pixel Data
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_sorted_so_that_they_can_be_searched() {
        for table in [&COPIED[..], &IMAGE, &MACROS, &REPORT, &SEGMENTATION] {
            assert!(table.is_sorted());
        }
    }

    #[test]
    fn ethnicity_comments_equipment_and_private_elements_are_copied_at_no_depth() {
        for tag in NEVER.into_iter().chain([0x0009_0010, 0x0011_1001]) {
            assert_eq!(Keep::Copy.of(tag), None, "nested {tag:08X}");
        }
        for tag in NEVER.into_iter().chain([0x0008_0070, 0x0008_1010, 0x0008_1090, 0x0018_1000, 0x0010_1100]) {
            assert!(!is_copied(tag), "{tag:08X}");
        }
        assert_eq!(Keep::Root.of(0x0010_2160), None);
        assert_eq!(Keep::Root.of(0x0010_0020), Some(Keep::Copy));
        assert_eq!(Keep::Root.of(0x0028_0010), Some(Keep::All));
    }
}
