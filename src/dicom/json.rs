//! The DICOM JSON Model (PS3.18 Annex F): data sets to JSON.
//!
//! Neighbours: `dataset` and `text` read what is written here, `web` answers with it. Left out: reading JSON, and bulk
//! data by reference, since reports hold nothing that is bulky.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dicom_core::VR;
use serde_json::{Map, Value, json};

use super::dataset::{self, DataSet, Element};
use super::text::{CHARACTER_SET, Text};

/// A data set as a JSON object, ordered by tag. JSON is UTF-8, and so says its Specific Character Set (F.2).
pub fn to_json(set: &DataSet) -> Value {
    object(set, &Text::of(set))
}

fn object(set: &DataSet, text: &Text) -> Value {
    let members = set.iter().map(|(tag, element)| {
        let member = match tag {
            CHARACTER_SET => json!({"vr": "CS", "Value": ["ISO_IR 192"]}),
            _ => member(element, text),
        };
        (format!("{tag:08X}"), member)
    });
    Value::Object(members.collect())
}

fn member(element: &Element, text: &Text) -> Value {
    let vr = element.vr();
    let mut member = Map::new();
    member.insert("vr".into(), vr.to_string().into());
    match &element.value {
        dataset::Value::Items(items) if !items.is_empty() => {
            member.insert("Value".into(), items.iter().map(|item| object(item, text)).collect());
        }
        dataset::Value::Bytes(bytes) if !bytes.is_empty() => match text.values(vr, bytes) {
            None => drop(member.insert("InlineBinary".into(), STANDARD.encode(bytes).into())),
            Some(texts) if texts.iter().any(|text| !text.is_empty()) => {
                member.insert("Value".into(), texts.iter().map(|text| value(vr, text)).collect());
            }
            Some(_) => {}
        },
        dataset::Value::Items(_) | dataset::Value::Bytes(_) => {}
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
        let rows: &[(&[u8; 2], &[u8], Value)] = &[
            (b"CS", b"SR", json!({"vr": "CS", "Value": ["SR"]})),
            (b"CS", b"SR\\\\CT", json!({"vr": "CS", "Value": ["SR", null, "CT"]})),
            (b"LO", b"", json!({"vr": "LO"})),
            (b"LO", b"  ", json!({"vr": "LO"})),
            (b"IS", b"0012", json!({"vr": "IS", "Value": [12]})),
            (b"IS", b"many", json!({"vr": "IS", "Value": ["many"]})),
            (b"UV", &[0xff; 8], json!({"vr": "UV", "Value": [u64::MAX]})),
            (b"DS", b"70.5\\1e3", json!({"vr": "DS", "Value": [70.5, 1000.0]})),
            (b"FD", &[0, 0, 0, 0, 0, 0, 0xf8, 0x7f], json!({"vr": "FD", "Value": ["NaN"]})),
            (b"PN", b"DOE^JANE", json!({"vr": "PN", "Value": [{"Alphabetic": "DOE^JANE"}]})),
            (b"PN", b"=M\xfcller", json!({"vr": "PN", "Value": [{"Ideographic": "Müller"}]})),
            (b"UN", b"ab", json!({"vr": "UN", "InlineBinary": "YWI="})),
            (b"ZZ", b"ab", json!({"vr": "UN", "InlineBinary": "YWI="})),
        ];
        for (vr, bytes, expected) in rows {
            let mut set = DataSet::default();
            set.put(CHARACTER_SET, b"CS", "ISO_IR 100");
            set.put(0x0009_0010, vr, *bytes);
            let json = to_json(&set);
            assert_eq!(json["00090010"], *expected);
            assert_eq!(json["00080005"]["Value"], json!(["ISO_IR 192"]));
        }
    }

    #[test]
    fn items_are_nested_and_read_by_the_character_set_around_them() {
        let mut item = DataSet::default();
        item.put(0x0008_0104, b"LO", *b"Z\xfcrich");
        let mut set = DataSet::default();
        set.put(CHARACTER_SET, b"CS", "ISO_IR 100");
        set.put_items(0x0040_a043, vec![item]);
        set.put_items(0x0008_114a, vec![]);
        let expected = json!({
            "00080005": {"vr": "CS", "Value": ["ISO_IR 192"]},
            "0008114A": {"vr": "SQ"},
            "0040A043": {"vr": "SQ", "Value": [{"00080104": {"vr": "LO", "Value": ["Zürich"]}}]},
        });
        assert_eq!(to_json(&set), expected);
    }
}
