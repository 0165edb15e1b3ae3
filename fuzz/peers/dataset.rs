//! One input is a DICOM object: walked from its first byte to its last, and its header read, as a worker does before
//! it decodes. The header travels to the node as JSON, so it must come out of it unchanged. Left out: pixels
//! (`../pixels`).
#![no_main]
#![allow(dead_code, unused_imports)]

#[path = "../../src/domain/mod.rs"]
mod domain;
#[path = "rooms/pixels.rs"]
mod pixels;

use std::io::Cursor;

use domain::InstanceHeader;
use pixels::dataset::{Item, Value};
use pixels::{Limits, header, prescan};

/// Small enough that an input takes milliseconds.
const LIMITS: Limits = Limits { inflate_bytes_max: 1 << 23 };

libfuzzer_sys::fuzz_target!(|object: &[u8]| {
    let mut scan = match prescan::scan(Box::new(Cursor::new(object.to_vec())), &LIMITS) {
        Ok(scan) => scan,
        Err(refusal) => return assert!(!refusal.detail.is_empty(), "{} without a reason", refusal.code),
    };
    match header::header_of(&scan) {
        Ok(header) => {
            let json = serde_json::to_vec(&header).expect("a header is written as JSON");
            let read: InstanceHeader = serde_json::from_slice(&json).expect("a header is read from JSON");
            assert_eq!(read, header);
        }
        Err(refusal) => assert!(!refusal.detail.is_empty(), "{} without a reason", refusal.code),
    }
    // Every span that the walk found lies within the object.
    for span in spans(&scan.root) {
        assert_eq!(scan.read(span).expect("a span of the object").len() as u64, span.bytes);
    }
});

fn spans(item: &Item) -> Vec<pixels::dataset::Span> {
    let of_value = |value: &Value| match value {
        Value::Bytes(_) => Vec::new(),
        Value::Items(items) => items.iter().flat_map(spans).collect(),
        Value::Native(span) => vec![*span],
        Value::Fragments(spans) => spans.clone(),
    };
    item.0.values().flat_map(|element| of_value(&element.value)).collect()
}
