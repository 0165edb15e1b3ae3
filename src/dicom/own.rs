//! The node's own files, read: reports in Explicit VR Little Endian, as `report` wrote them.
//!
//! Objects of peers are read nowhere but in the workers of `pixels`. The bounds are there all the same, since a disk
//! can damage a file. Neighbours: `meta` has the head, `dataset` the rest.

use super::dataset::{Bounds, DataSet, DataSetError, Encoding, Tag};
use super::meta::{MetaError, read_meta};

/// Why bytes are not a file of the node's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OwnFileError {
    #[error(transparent)]
    Meta(#[from] MetaError),
    #[error("the file ends within its meta information")]
    Truncated,
    #[error("its transfer syntax is not Explicit VR Little Endian")]
    TransferSyntax,
    #[error(transparent)]
    DataSet(#[from] DataSetError),
}

/// What a report costs at most; its content tree has about twelve levels.
const BOUNDS: Bounds = Bounds { bytes_max: 64 << 20, elements_max: 2_000_000, depth_max: 32 };

/// The bytes of the data set of an own file.
pub fn own_data_set(file: &[u8]) -> Result<&[u8], OwnFileError> {
    let meta = read_meta(file)?.ok_or(OwnFileError::Truncated)?;
    if Encoding::of(&meta.transfer_syntax) != Some(Encoding::ExplicitLittleEndian) {
        return Err(OwnFileError::TransferSyntax);
    }
    file.get(meta.length..).ok_or(OwnFileError::Truncated)
}

/// The data set of an own file, up to the first element on its top level with the tag `until` or a higher one.
pub fn read_own(file: &[u8], until: Option<Tag>) -> Result<DataSet, OwnFileError> {
    Ok(DataSet::parse_until(own_data_set(file)?, Encoding::ExplicitLittleEndian, BOUNDS, until)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::dicom::file_meta;
    use crate::domain::Uid;
    use proptest::prelude::*;

    const EXPLICIT: &str = "1.2.840.10008.1.2.1";

    fn file(data_set: &[u8], syntax: &str) -> Vec<u8> {
        let uid = |text| Uid::parse(text).unwrap();
        let mut file = file_meta(&uid("1.2.840.10008.5.1.4.1.1.88.34"), &uid("1.2.3"), &uid(syntax), None);
        file.extend_from_slice(data_set);
        file
    }

    /// As deep as asked: sequences of undefined length, within one another.
    fn nested(depth: usize) -> Vec<u8> {
        b"\x40\x00\x30\xa7SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff".repeat(depth)
    }

    #[test]
    fn a_head_is_read_up_to_its_end() {
        let mut set = DataSet::default();
        set.put(0x0008_0060, b"CS", "SR");
        set.put(0x0028_0010, b"US", [1, 2]);
        let mut item = DataSet::default();
        item.put(0x0040_a730, b"UT", "deeper than the end, and not the end");
        set.put_items(0x0020_0242, vec![item]);
        let file = file(&set.encode(Encoding::ExplicitLittleEndian), EXPLICIT);
        assert_eq!(read_own(&file, None).unwrap(), set);
        let head = read_own(&file, Some(0x0028_0000)).unwrap();
        set.retain(|tag| tag < 0x0028_0000);
        assert_eq!(head, set);
    }

    #[test]
    fn a_damaged_file_is_an_error() {
        let rows: [(Vec<u8>, OwnFileError); 5] = [
            (b"no file".repeat(30), OwnFileError::Meta(MetaError::NotDicom)),
            (file(&[], EXPLICIT)[..200].to_vec(), OwnFileError::Truncated),
            (file(&[], "1.2.840.10008.1.2"), OwnFileError::TransferSyntax),
            (file(&nested(100), EXPLICIT), OwnFileError::DataSet(DataSetError::TooDeep(32))),
            (file(b"\x08\x00\x60\x00CS\xff\xffSR", EXPLICIT), {
                OwnFileError::DataSet(DataSetError::TooShort { group: 8, element: 0x60 })
            }),
        ];
        for (bytes, expected) in rows {
            assert_eq!(read_own(&bytes, None), Err(expected));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(data_set in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = read_own(&file(&data_set, EXPLICIT), None);
        }
    }
}
