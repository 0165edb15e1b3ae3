//! The DICOM JSON Model (PS3.18 Annex F): elements to JSON.
//!
//! Neighbours: `elements` reads what is written here, `web` answers with it. Left out: reading JSON, and bulk data by
//! reference, since reports hold nothing that is bulky.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dicom_core::VR;
use serde_json::{Map, Value, json};

use super::{Element, ElementValue, Elements};

/// A data set as a JSON object, ordered by tag.
pub fn to_json(elements: &Elements) -> Value {
    let members = elements.iter().map(|(tag, element)| (format!("{tag:08X}"), member(element)));
    Value::Object(members.collect())
}

fn member(element: &Element) -> Value {
    let mut member = Map::new();
    member.insert("vr".into(), element.vr.to_string().into());
    match &element.value {
        ElementValue::Texts(texts) if texts.iter().any(|t| !t.is_empty()) => {
            let values = texts.iter().map(|text| value(element.vr, text)).collect();
            member.insert("Value".into(), Value::Array(values));
        }
        ElementValue::Items(items) if !items.is_empty() => {
            member.insert("Value".into(), items.iter().map(to_json).collect());
        }
        ElementValue::Bytes(bytes) if !bytes.is_empty() => {
            member.insert("InlineBinary".into(), STANDARD.encode(bytes).into());
        }
        ElementValue::Texts(_) | ElementValue::Items(_) | ElementValue::Bytes(_) => {}
    }
    Value::Object(member)
}

/// One value by its representation (table F.2.3-1); an empty one among several is null.
fn value(vr: VR, text: &str) -> Value {
    match vr {
        _ if text.is_empty() => Value::Null,
        VR::PN => name(text),
        VR::IS | VR::SL | VR::SS | VR::UL | VR::US | VR::SV | VR::UV => {
            let text = text.strip_prefix('+').unwrap_or(text);
            let whole = text.parse::<i64>().map(Value::from).or_else(|_| text.parse::<u64>().map(Value::from));
            whole.unwrap_or_else(|_| text.into())
        }
        VR::DS | VR::FL | VR::FD => {
            let number = text.parse::<f64>().ok().and_then(serde_json::Number::from_f64);
            number.map_or_else(|| text.into(), Value::Number)
        }
        _ => text.into(),
    }
}

/// The component groups of a name that are there (PS3.5 6.2.1).
fn name(text: &str) -> Value {
    let groups = ["Alphabetic", "Ideographic", "Phonetic"].into_iter().zip(text.split('='));
    let groups = groups.filter(|(_, group)| !group.is_empty()).map(|(key, group)| (key.to_owned(), json!(group)));
    Value::Object(groups.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_by_their_representation() {
        let rows: &[(VR, &[&str], Value)] = &[
            (VR::CS, &["SR"], json!({"vr": "CS", "Value": ["SR"]})),
            (VR::CS, &["SR", "", "CT"], json!({"vr": "CS", "Value": ["SR", null, "CT"]})),
            (VR::LO, &[], json!({"vr": "LO"})),
            (VR::LO, &[""], json!({"vr": "LO"})),
            (VR::IS, &["0012"], json!({"vr": "IS", "Value": [12]})),
            (VR::IS, &["many"], json!({"vr": "IS", "Value": ["many"]})),
            (VR::UV, &["18446744073709551615"], json!({"vr": "UV", "Value": [u64::MAX]})),
            (VR::DS, &["70.5", "1e3"], json!({"vr": "DS", "Value": [70.5, 1000.0]})),
            (VR::FD, &["NaN"], json!({"vr": "FD", "Value": ["NaN"]})),
            (VR::PN, &["DOE^JANE"], json!({"vr": "PN", "Value": [{"Alphabetic": "DOE^JANE"}]})),
            (VR::PN, &["=山田"], json!({"vr": "PN", "Value": [{"Ideographic": "山田"}]})),
        ];
        for (vr, texts, expected) in rows {
            let texts = texts.iter().map(|t| (*t).to_owned()).collect();
            assert_eq!(member(&Element { vr: *vr, value: ElementValue::Texts(texts) }), *expected);
        }
    }

    #[test]
    fn items_are_nested_and_bytes_are_base64() {
        let item = Elements::from([(0x0008_0100, Element::text(VR::SH, "121071"))]);
        let elements = Elements::from([
            (0x0040_a043, Element { vr: VR::SQ, value: ElementValue::Items(vec![item]) }),
            (0x0008_114a, Element { vr: VR::SQ, value: ElementValue::Items(vec![]) }),
            (0x0009_0010, Element { vr: VR::UN, value: ElementValue::Bytes(b"ab".to_vec()) }),
        ]);
        let expected = json!({
            "0008114A": {"vr": "SQ"},
            "00090010": {"vr": "UN", "InlineBinary": "YWI="},
            "0040A043": {"vr": "SQ", "Value": [{"00080100": {"vr": "SH", "Value": ["121071"]}}]},
        });
        assert_eq!(to_json(&elements), expected);
    }
}
