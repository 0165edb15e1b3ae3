//! One input is a command set. What is read as a request or a response says the same once it is written and read again.
#![no_main]
#![allow(dead_code, unused_imports)]

#[path = "../../src/dicom/mod.rs"]
mod dicom;
#[path = "../../src/domain/mod.rs"]
mod domain;

use dicom::{CommandSet, Request, Response};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(set) = CommandSet::parse(bytes) {
        assert_eq!(CommandSet::parse(&set.encode()).expect("a set that was written"), set);
    }
    let again = |encoded: Vec<u8>| Request::parse(&encoded).expect("a request that was written");
    match Request::parse(bytes) {
        Ok(Request::Echo(request)) => assert_eq!(again(request.encode()), Request::Echo(request)),
        Ok(Request::Store(request)) => assert_eq!(again(request.encode()), Request::Store(request)),
        Ok(_) | Err(_) => {}
    }
    if let Ok(response) = Response::parse(bytes) {
        assert_eq!(Response::parse(&response.encode()).expect("a response that was written"), response);
    }
});
