//! One input is what a peer sends on a connection: PDUs, framed and read as the node does it; each A-ASSOCIATE-RQ is
//! negotiated under a fixed policy. Left out: the socket, and what becomes of the fragments (`command`, `dataset`).
#![no_main]
#![allow(dead_code, unused_imports)]

#[path = "../../src/config/mod.rs"]
mod config;
#[path = "../../src/dicom/mod.rs"]
mod dicom;
#[path = "../../src/domain/mod.rs"]
mod domain;
#[path = "rooms/receive.rs"]
mod receive;
#[path = "rooms/wire.rs"]
mod wire;

libfuzzer_sys::fuzz_target!(|stream: &[u8]| receive::converse(stream));
