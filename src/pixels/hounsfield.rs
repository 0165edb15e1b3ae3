//! Whether stored values become Hounsfield units, from the attributes alone.
//!
//! Neighbours: `view` puts it into the header, `grey` asks it of each frame. Left out: the numbers themselves (`grey`).

use super::dataset::{Item, Tag};

const RESCALE_INTERCEPT: Tag = 0x0028_1052;
const RESCALE_SLOPE: Tag = 0x0028_1053;
const RESCALE_TYPE: Tag = 0x0028_1054;
const MODALITY_LUT_SEQUENCE: Tag = 0x0028_3000;
const MODALITY_LUT_TYPE: Tag = 0x0028_3004;
const PIXEL_VALUE_TRANSFORMATION: Tag = 0x0028_9145;

/// Whether the modality values of the frame with this index are Hounsfield units: the type of the modality table or
/// rescale says HU, or says nothing and a CT image has both slope and intercept (PS3.3 C.8.2.1: Rescale Type may be
/// left out where it is HU).
pub fn is_hounsfield(root: &Item, index: usize) -> bool {
    let of_group = |group: Option<&'_ Item>| group.and_then(|g| g.items(PIXEL_VALUE_TRANSFORMATION).first().cloned());
    let group = of_group(root.items(0x5200_9230).get(index)).or_else(|| of_group(root.items(0x5200_9229).first()));
    if let (None, Some(table)) = (&group, root.items(MODALITY_LUT_SEQUENCE).first()) {
        return table.code_string(MODALITY_LUT_TYPE).as_deref() == Some("HU");
    }
    let item = group.as_ref().unwrap_or(root);
    let rescaled = item.bytes(RESCALE_SLOPE).is_some() && item.bytes(RESCALE_INTERCEPT).is_some();
    let unit = match item.code_string(RESCALE_TYPE) {
        Some(unit) => unit == "HU",
        None => root.code_string(0x0008_0060).as_deref() == Some("CT"),
    };
    rescaled && unit
}
