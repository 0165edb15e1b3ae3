//! One input is the sizes of pieces and a multipart body. However it is cut it gives the same parts or the same error,
//! and the head of each part is the same from its first bytes as from all.
#![no_main]
#![allow(dead_code, unused_imports)]

#[path = "../../src/dicom/mod.rs"]
mod dicom;
#[path = "../../src/domain/mod.rs"]
mod domain;
#[path = "../../src/web/multipart.rs"]
mod multipart;

use multipart::{Multipart, MultipartError, Next};

type Parts = (Vec<(Option<String>, Vec<u8>)>, Result<(), MultipartError>);

fn read(mut body: &[u8], sizes: impl IntoIterator<Item = usize>) -> Parts {
    let mut multipart = Multipart::new("b1", 8).expect("a valid boundary");
    let mut parts = Vec::new();
    let mut sizes = sizes.into_iter();
    while !body.is_empty() {
        let (piece, rest) = body.split_at(sizes.next().unwrap_or(usize::MAX).clamp(1, body.len()));
        multipart.feed(piece);
        loop {
            match multipart.next() {
                Ok(Next::Part(header)) => parts.push((header.content_type, Vec::new())),
                Ok(Next::Data(data)) => {
                    assert!(!data.is_empty());
                    parts.last_mut().expect("data belongs to a part").1.extend_from_slice(data);
                }
                Ok(Next::PartEnd | Next::End) => {}
                Ok(Next::More) => break,
                Err(error) => return (parts, Err(error)),
            }
        }
        body = rest;
    }
    (parts, multipart.finish())
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((sizes, body)) = bytes.split_first_chunk::<8>() else { return };
    let whole = read(body, []);
    let cut = read(body, sizes.iter().cycle().map(|size| usize::from(*size)));
    assert_eq!(whole.1, cut.1);
    if whole.1.is_ok() {
        assert_eq!(whole.0, cut.0);
    }
    for (_, file) in &whole.0 {
        let Ok(Some(meta)) = dicom::read_meta(file) else { continue };
        assert!(meta.length <= file.len().min(dicom::META_BYTES_MAX));
        assert_eq!(dicom::read_meta(&file[..meta.length]), Ok(Some(meta.clone())));
        assert_eq!(dicom::read_meta(&file[..meta.length - 1]), Ok(None));
    }
});
