//! Tests of the multipart reader: what it reads, what it refuses, and that cuts in the stream do not matter.

use proptest::prelude::*;

use super::*;

/// A part with its content type and its bytes, or the error that ended the reading.
type Parts = (Vec<(Option<String>, Vec<u8>)>, Result<(), MultipartError>);

/// Feeds the body in pieces of the given sizes, the last one again and again.
fn read(boundary: &str, body: &[u8], cuts: &[usize]) -> Parts {
    let mut parts = Vec::new();
    let mut multipart = match Multipart::new(boundary, 5) {
        Ok(multipart) => multipart,
        Err(error) => return (parts, Err(error)),
    };
    let (mut rest, mut cuts) = (body, cuts.iter().copied().chain(std::iter::repeat(usize::MAX)));
    let mut open = None;
    loop {
        let (piece, tail) =
            rest.split_at(cuts.next().unwrap_or(usize::MAX).clamp(1, rest.len().max(1)).min(rest.len()));
        multipart.feed(piece);
        loop {
            match multipart.next() {
                Ok(Next::Part(header)) => open = Some((header.content_type, Vec::new())),
                Ok(Next::Data(data)) => {
                    assert!(!data.is_empty(), "data of no bytes");
                    open.as_mut().expect("data belongs to a part").1.extend_from_slice(data);
                }
                Ok(Next::PartEnd) => parts.push(open.take().expect("a part ends that began")),
                Ok(Next::End) => {}
                Ok(Next::More) => break,
                Err(error) => return (parts, Err(error)),
            }
        }
        rest = tail;
        if rest.is_empty() {
            return (parts, multipart.finish());
        }
    }
}

fn check(body: &[u8], expected: &[&[u8]]) {
    let (parts, end) = read("b1", body, &[]);
    assert_eq!(end, Ok(()), "{}", String::from_utf8_lossy(body));
    let bodies: Vec<&[u8]> = parts.iter().map(|(_, data)| &data[..]).collect();
    assert_eq!(bodies, expected, "{}", String::from_utf8_lossy(body));
}

#[test]
fn parts_are_what_stands_between_delimiters() {
    let rows: &[(&[u8], &[&[u8]])] = &[
        (b"--b1\r\nContent-Type: a/b\r\n\r\none\r\n--b1--", &[b"one"]),
        (b"\r\n--b1\r\nContent-Type: a/b\r\n\r\none\r\n--b1--\r\n", &[b"one"]),
        (b"before\r\n--b1\r\nA: b\r\n\r\none\r\n--b1--\r\nafter", &[b"one"]),
        (b"--b1\r\nA: b\r\n\r\none\r\n--b1\r\nA: b\r\n\r\ntwo\r\n--b1--", &[b"one", b"two"]),
        (b"--b1 \t\r\nA: b\r\n\r\none\r\n--b1--", &[b"one"]),
        // No header, no bytes, neither.
        (b"--b1\r\n\r\none\r\n--b1--", &[b"one"]),
        (b"--b1\r\nA: b\r\n\r\n\r\n--b1--", &[b""]),
        (b"--b1\r\nA: b\r\n\r\n--b1--", &[b""]),
        (b"--b1\r\n\r\n--b1--", &[b""]),
        // What resembles a delimiter and is none.
        (b"--b1\r\n\r\n\r\n\r\n--b\r\n--\r\n--b1--", &[b"\r\n\r\n--b\r\n--"]),
        (b"--b1\r\n\r\nx--b1--\r\n--b1--", &[b"x--b1--"]),
        (b"--b1\r\n\r\nx\n--b1--\r\n--b1--", &[b"x\n--b1--"]),
        (b"--b1--", &[]),
    ];
    for (body, expected) in rows {
        check(body, expected);
    }
}

#[test]
fn a_body_that_could_mislead_is_refused() {
    let long = [&b"--b1\r\nA: "[..], &[b'x'; 9000], b"\r\n\r\n\r\n--b1--"].concat();
    let endless = [&b"--b1\r\nA: "[..], &[b'x'; 9000]].concat();
    let noise = vec![b'x'; 70_000];
    let after = [&b"--b1--"[..], &noise].concat();
    let many = b"--b1\r\n\r\n\r\n".repeat(6);
    let rows: &[(&[u8], MultipartError)] = &[
        (b"", MultipartError::Truncated),
        (b"--b1", MultipartError::Truncated),
        (b"--b1\r\n\r\none", MultipartError::Truncated),
        (b"--b1\r\n\r\none\r\n--b1\r\n", MultipartError::Truncated),
        (b"--b1x\r\n\r\none\r\n--b1--", MultipartError::Delimiter),
        (b"--b1\r\n\r\none\r\n--b12--", MultipartError::Delimiter),
        (b"--b1-x", MultipartError::Delimiter),
        (b"--b1\r\nno colon\r\n\r\n\r\n--b1--", MultipartError::Header),
        (b"--b1\r\nA: b\r\n folded\r\n\r\n\r\n--b1--", MultipartError::Header),
        (b"--b1\r\nA: b\0\r\n\r\n\r\n--b1--", MultipartError::Header),
        (b"--b1\r\nA: \xff\r\n\r\n\r\n--b1--", MultipartError::Header),
        (b"--b1\r\nContent-Type: a/b\r\ncontent-type: c/d\r\n\r\n\r\n--b1--", MultipartError::Header),
        (b"--b1\r\nContent-Transfer-Encoding: base64\r\n\r\n\r\n--b1--", MultipartError::Encoding),
        (&long, MultipartError::HeaderTooLong),
        (&endless, MultipartError::HeaderTooLong),
        (&noise, MultipartError::TooMuchAround),
        (&after, MultipartError::TooMuchAround),
        (&many, MultipartError::TooManyParts),
    ];
    for (body, expected) in rows {
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]);
        assert_eq!(read("b1", body, &[]).1, Err(*expected), "{shown}");
        assert_eq!(read("b1", body, &[1; 100]).1, Err(*expected), "{shown}, cut");
    }
}

#[test]
fn limits_are_the_same_however_the_body_is_cut() {
    let header = |bytes: usize| [&b"--b1\r\nA: "[..], &vec![b'x'; bytes - 3], b"\r\n\r\n\r\n--b1--"].concat();
    let padding = |bytes: usize| [&b"--b1"[..], &vec![b' '; bytes], b"\r\n\r\n\r\n--b1--"].concat();
    let rows = [
        (header(HEADER_BYTES_MAX), Ok(())),
        (header(HEADER_BYTES_MAX + 1), Err(MultipartError::HeaderTooLong)),
        (padding(PADDING_MAX), Ok(())),
        (padding(PADDING_MAX + 1), Err(MultipartError::Delimiter)),
    ];
    for (body, expected) in rows {
        assert_eq!(read("b1", &body, &[]).1, expected, "{} bytes", body.len());
        assert_eq!(read("b1", &body, &vec![1; body.len()]).1, expected, "{} bytes, one by one", body.len());
    }
}

#[test]
fn a_boundary_obeys_its_grammar() {
    let (longest, too_long) = ("x".repeat(128), "x".repeat(129));
    let rows = [
        ("b", true),
        ("a b", true),
        ("'()+_,-./:=?", true),
        (&longest[..], true),
        ("", false),
        ("b ", false),
        ("b\"", false),
        ("ä", false),
        (&too_long[..], false),
    ];
    for (boundary, valid) in rows {
        assert_eq!(Multipart::new(boundary, 1).is_ok(), valid, "{boundary:?}");
    }
}

#[test]
fn the_window_stays_small_however_long_a_part_is() {
    let mut multipart = Multipart::new("b1", 1).expect("a valid boundary");
    multipart.feed(b"--b1\r\n\r\n");
    let mut bytes = 0;
    for _ in 0..1_000 {
        multipart.feed(&[b'-'; 10_000]);
        while let Next::Data(data) =
            multipart.next().map(|n| if let Next::Part(_) = n { Next::Data(b"") } else { n }).expect("data")
        {
            bytes += data.len();
        }
        assert!(multipart.buffer.capacity() < 64 << 10);
    }
    assert_eq!(bytes, 10_000_000);
}

proptest! {
    #[test]
    fn the_same_body_gives_the_same_parts_however_it_is_cut(
        parts in proptest::collection::vec("[-b1\r\n x]{0,40}", 0..5),
        around in "[-b\r\nx]{0,10}",
        cuts in proptest::collection::vec(1..12_usize, 0..120),
    ) {
        let mut body = around.clone().into_bytes();
        body.extend_from_slice(b"\r\n--b1");
        for part in &parts {
            body.extend_from_slice(b"\r\nContent-Type: a/b\r\n\r\n");
            body.extend_from_slice(part.as_bytes());
            body.extend_from_slice(b"\r\n--b1");
        }
        body.extend_from_slice(b"--");
        body.extend_from_slice(around.as_bytes());
        let whole = read("b1", &body, &[]);
        prop_assert_eq!(&read("b1", &body, &cuts), &whole);
        let clean = |text: &String| !text.contains("--b1");
        if whole.1.is_ok() && parts.iter().all(clean) && clean(&around) {
            let bodies: Vec<Vec<u8>> = whole.0.into_iter().map(|(_, data)| data).collect();
            prop_assert_eq!(bodies, parts.into_iter().map(String::into_bytes).collect::<Vec<_>>());
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused_alike_in_any_pieces(
        body in proptest::collection::vec(prop_oneof![Just(b'-'), Just(b'b'), Just(b'\r'), Just(b'\n'), Just(b':'), any::<u8>()], 0..300),
        cuts in proptest::collection::vec(1..9_usize, 0..60),
    ) {
        prop_assert_eq!(read("b", &body, &cuts), read("b", &body, &[]));
    }
}
