//! The transfer syntaxes that the node accepts for storage (PS3.5 section 10, PS3.6 table A-1).
//!
//! Neighbours: `receive` negotiates from this table, `deliver` and tables for people use the names. Left out: the
//! decoders (`pixels`), which refuse some forms of what is accepted here: a refusal that names the image is worth more
//! to a site than a presentation context that was never opened.

use dicom_dictionary_std::uids;

use crate::domain::Uid;

/// A transfer syntax of the Standard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransferSyntax {
    pub name: &'static str,
    pub uid: &'static str,
    /// Whether Pixel Data is a sequence of fragments (PS3.5 A.4).
    pub encapsulated: bool,
}

/// Every transfer syntax that the node accepts for storage.
pub fn transfer_syntaxes() -> &'static [TransferSyntax] {
    ACCEPTED
}

/// Whether storage in this transfer syntax is accepted.
pub fn is_transfer_syntax_accepted(uid: &Uid) -> bool {
    find(uid).is_some()
}

/// Whether Pixel Data is encapsulated. Syntaxes that are not accepted count as encapsulated, as PS3.5 section 10
/// has it for all but the four native ones.
pub fn is_encapsulated(uid: &Uid) -> bool {
    find(uid).is_none_or(|syntax| syntax.encapsulated)
}

/// The name of an accepted transfer syntax; the UID itself for any other.
pub fn transfer_syntax_name(uid: &Uid) -> &str {
    find(uid).map_or(uid.as_str(), |syntax| syntax.name)
}

fn find(uid: &Uid) -> Option<&'static TransferSyntax> {
    ACCEPTED.iter().find(|syntax| syntax.uid == uid.as_str())
}

const fn native(name: &'static str, uid: &'static str) -> TransferSyntax {
    TransferSyntax { name, uid, encapsulated: false }
}

const fn encapsulated(name: &'static str, uid: &'static str) -> TransferSyntax {
    TransferSyntax { name, uid, encapsulated: true }
}

/// Explicit VR Big Endian is retired and still sent by installed modalities.
#[allow(deprecated)]
const ACCEPTED: &[TransferSyntax] = &[
    native("Implicit VR Little Endian", uids::IMPLICIT_VR_LITTLE_ENDIAN),
    native("Explicit VR Little Endian", uids::EXPLICIT_VR_LITTLE_ENDIAN),
    native("Explicit VR Big Endian", uids::EXPLICIT_VR_BIG_ENDIAN),
    native("Deflated Explicit VR Little Endian", uids::DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN),
    encapsulated("RLE Lossless", uids::RLE_LOSSLESS),
    encapsulated("JPEG Baseline (Process 1)", uids::JPEG_BASELINE8_BIT),
    encapsulated("JPEG Extended (Process 2 & 4)", uids::JPEG_EXTENDED12_BIT),
    encapsulated("JPEG Lossless (Process 14)", uids::JPEG_LOSSLESS),
    encapsulated("JPEG Lossless (Process 14, Selection Value 1)", uids::JPEG_LOSSLESS_SV1),
    encapsulated("JPEG-LS Lossless", uids::JPEGLS_LOSSLESS),
    encapsulated("JPEG-LS Near-Lossless", uids::JPEGLS_NEAR_LOSSLESS),
    encapsulated("JPEG 2000 Lossless", uids::JPEG2000_LOSSLESS),
    encapsulated("JPEG 2000", uids::JPEG2000),
    encapsulated("High-Throughput JPEG 2000 Lossless", uids::HTJ2K_LOSSLESS),
    encapsulated("High-Throughput JPEG 2000 Lossless RPCL", uids::HTJ2K_LOSSLESS_RPCL),
    encapsulated("High-Throughput JPEG 2000", uids::HTJ2K),
    encapsulated(
        "Encapsulated Uncompressed Explicit VR Little Endian",
        uids::ENCAPSULATED_UNCOMPRESSED_EXPLICIT_VR_LITTLE_ENDIAN,
    ),
    encapsulated("JPEG XL Lossless", uids::JPEGXL_LOSSLESS),
    encapsulated("JPEG XL JPEG Recompression", uids::JPEGXLJPEG_RECOMPRESSION),
    encapsulated("JPEG XL", uids::JPEGXL),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_syntax_is_known_by_its_uid() {
        let rows = [
            ("1.2.840.10008.1.2", true, false),
            ("1.2.840.10008.1.2.1", true, false),
            ("1.2.840.10008.1.2.2", true, false),
            ("1.2.840.10008.1.2.1.99", true, false),
            ("1.2.840.10008.1.2.1.98", true, true),
            ("1.2.840.10008.1.2.5", true, true),
            ("1.2.840.10008.1.2.4.50", true, true),
            ("1.2.840.10008.1.2.4.51", true, true),
            ("1.2.840.10008.1.2.4.57", true, true),
            ("1.2.840.10008.1.2.4.70", true, true),
            ("1.2.840.10008.1.2.4.80", true, true),
            ("1.2.840.10008.1.2.4.81", true, true),
            ("1.2.840.10008.1.2.4.90", true, true),
            ("1.2.840.10008.1.2.4.91", true, true),
            ("1.2.840.10008.1.2.4.201", true, true),
            ("1.2.840.10008.1.2.4.202", true, true),
            ("1.2.840.10008.1.2.4.203", true, true),
            ("1.2.840.10008.1.2.4.110", true, true),
            ("1.2.840.10008.1.2.4.111", true, true),
            ("1.2.840.10008.1.2.4.112", true, true),
            ("1.2.840.10008.1.2.4.100", false, true),
        ];
        for (uid, accepted, encapsulated) in rows {
            let parsed = Uid::parse(uid).expect("a valid uid");
            assert_eq!(is_transfer_syntax_accepted(&parsed), accepted, "{uid}");
            assert_eq!(is_encapsulated(&parsed), encapsulated, "{uid}");
        }
        assert_eq!(transfer_syntaxes().len(), rows.iter().filter(|row| row.1).count());
    }
}
