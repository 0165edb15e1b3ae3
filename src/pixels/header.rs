//! From a scanned data set to [`InstanceHeader`]: identity, scope, size, and what a report copies.
//!
//! Texts are decoded for comparison only; copied values keep their bytes. Neighbours: `prescan` below, `view` for what
//! kind of picture it is. Left out:
//! whether the pixels can be decoded (`layout`) and whether any model wants them (scope rules of the packages).

use super::dataset::{Item, Scan, Tag, Value, tag_text};
use super::view::facts_of;
use super::wanted::is_copied;
use crate::domain::{Attribute, AttributeValue, Attributes, InstanceHeader, Refusal, RefusalCode, Uid};

/// Bytes of all copied values: a report is a small object.
const COPIED_BYTES_MAX: usize = 256 * 1024;

/// Sequences within sequences of what is copied.
const COPIED_NESTING_MAX: u32 = 8;

/// The header of a scanned object. `Inconsistent` names the identifier that is missing or invalid.
pub fn header_of(scan: &Scan) -> Result<InstanceHeader, Refusal> {
    let root = &scan.root;
    let uid = |tag, name, fallback: &Option<String>| {
        let text = root.text(tag).or_else(|| fallback.clone());
        let text = text.ok_or_else(|| inconsistent(format!("{name} {} is missing", tag_text(tag))))?;
        Uid::parse(&text).map_err(|e| inconsistent(format!("{name} {}: {}", tag_text(tag), e.reason)))
    };
    let transfer_syntax = Uid::parse(&scan.transfer_syntax)
        .map_err(|e| inconsistent(format!("Transfer Syntax UID (0002,0010): {}", e.reason)))?;
    let has_pixels = [0x7FE0_0008, 0x7FE0_0009, 0x7FE0_0010].iter().any(|t| root.get(*t).is_some());
    let frames = match root.get(0x0028_0008).map(|_| root.integer(0x0028_0008)) {
        Some(Some(frames)) => u32::try_from(frames).unwrap_or(0),
        Some(None) => 0,
        None => u32::from(has_pixels),
    };
    let (view, image) = facts_of(root);
    let mut budget = COPIED_BYTES_MAX;
    Ok(InstanceHeader {
        study: uid(0x0020_000D, "Study Instance UID", &None)?,
        series: uid(0x0020_000E, "Series Instance UID", &None)?,
        sop_instance: uid(0x0008_0018, "SOP Instance UID", &scan.media_sop_instance)?,
        sop_class: uid(0x0008_0016, "SOP Class UID", &scan.media_sop_class)?,
        transfer_syntax,
        modality: root.code_string(0x0008_0060).unwrap_or_default(),
        body_part: root.code_string(0x0018_0015).unwrap_or_default(),
        view,
        manufacturer: root.text(0x0008_0070).unwrap_or_default(),
        model_name: root.text(0x0008_1090).unwrap_or_default(),
        rows: u32::from(root.us(0x0028_0010).unwrap_or(0)),
        columns: u32::from(root.us(0x0028_0011).unwrap_or(0)),
        frames,
        bits_allocated: root.us(0x0028_0100).unwrap_or(0),
        bits_stored: root.us(0x0028_0101).unwrap_or(0),
        photometric: root.code_string(0x0028_0004).unwrap_or_default(),
        has_pixels,
        image,
        copied: copied(root, is_copied, &mut budget, 0)?,
    })
}

fn copied(item: &Item, wanted: fn(Tag) -> bool, budget: &mut usize, depth: u32) -> Result<Attributes, Refusal> {
    if depth > COPIED_NESTING_MAX {
        let detail = format!("the attributes of patient and study nest deeper than {COPIED_NESTING_MAX} sequences");
        return Err(Refusal::new(RefusalCode::TooLarge, detail));
    }
    let mut attributes = Attributes::new();
    for (&tag, element) in item.0.iter().filter(|(tag, _)| wanted(**tag)) {
        // every element costs its head as well, so that empty ones are bounded too
        let bytes = if let Value::Bytes(bytes) = &element.value { bytes.len() } else { 0 };
        *budget = budget.checked_sub(bytes + 8).ok_or_else(|| {
            let detail = format!("the attributes of patient and study exceed {COPIED_BYTES_MAX} bytes");
            Refusal::new(RefusalCode::TooLarge, detail)
        })?;
        let value = match &element.value {
            Value::Bytes(bytes) => AttributeValue::Bytes(bytes.clone()),
            Value::Items(items) => {
                let items = items.iter().map(|item| copied(item, |_| true, budget, depth + 1));
                AttributeValue::Items(items.collect::<Result<_, _>>()?)
            }
            Value::Native(_) | Value::Fragments(_) => continue,
        };
        attributes.insert(tag, Attribute { vr: String::from_utf8_lossy(&element.vr).into_owned(), value });
    }
    Ok(attributes)
}

fn inconsistent(detail: String) -> Refusal {
    Refusal::new(RefusalCode::Inconsistent, detail)
}
