//! multipart bodies (RFC 2046 5.1), read as they arrive: bytes in, parts out, nothing kept of a part but a window.
//!
//! Pure, so that it can be fuzzed and split anywhere: the same body gives the same parts however it is cut. Strict
//! where leniency could cut an object short: what looks like a delimiter and is none ends the reading. What it holds is
//! bounded by what was fed last and the limit of a header; lengths that a part claims are not looked at. Neighbours:
//! `stow` feeds it. Left out: nested multiparts, transfer encodings, and what the parts mean.

use memchr::memmem;

/// Reads one body.
#[derive(Debug)]
pub struct Multipart {
    /// CRLF, two hyphens, the boundary.
    delimiter: Vec<u8>,
    buffer: Vec<u8>,
    /// Bytes of the buffer that are done with.
    done: usize,
    state: State,
    parts: usize,
    parts_max: usize,
    /// Bytes before the first and after the last part, which mean nothing.
    idle_bytes: usize,
}

/// What comes next in a body.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<'a> {
    /// A part begins.
    Part(PartHeader),
    /// Bytes of the part, at least one.
    Data(&'a [u8]),
    PartEnd,
    /// The closing delimiter was there; what follows is ignored.
    End,
    /// Nothing without more bytes.
    More,
}

/// What the header of a part says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PartHeader {
    pub content_type: Option<String>,
}

/// Why a body is not read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MultipartError {
    #[error("the boundary is not one of RFC 2046, of at most {BOUNDARY_CHARS_MAX} characters, the last no space")]
    Boundary,
    #[error("something else follows the boundary in its line")]
    Delimiter,
    #[error("the header of a part is longer than {HEADER_BYTES_MAX} bytes")]
    HeaderTooLong,
    #[error("the header of a part is malformed")]
    Header,
    #[error("Content-Transfer-Encoding must be binary")]
    Encoding,
    #[error("there are too many parts")]
    TooManyParts,
    #[error("more than {IDLE_BYTES_MAX} bytes belong to no part")]
    TooMuchAround,
    #[error("the body ends before its closing delimiter")]
    Truncated,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the first delimiter.
    Preamble,
    /// Behind a delimiter, in its line.
    Line,
    Header,
    /// At the CRLF that ends a header, which may begin a delimiter too: then the part is empty.
    BodyStart,
    Body,
    Epilogue,
}

/// Longest header of a part, bytes.
pub const HEADER_BYTES_MAX: usize = 8 << 10;
/// RFC 2046 says 70, and Orthanc sends two UUIDs, 73.
const BOUNDARY_CHARS_MAX: usize = 128;
const IDLE_BYTES_MAX: usize = 64 << 10;
/// White space behind a boundary (transport padding).
const PADDING_MAX: usize = 64;

impl Multipart {
    /// For the boundary parameter of the content type.
    pub fn new(boundary: &str, parts_max: usize) -> Result<Self, MultipartError> {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b" '()+_,-./:=?".contains(&b);
        if !(1..=BOUNDARY_CHARS_MAX).contains(&boundary.len()) || !boundary.bytes().all(fits) || boundary.ends_with(' ')
        {
            return Err(MultipartError::Boundary);
        }
        Ok(Self {
            delimiter: [b"\r\n--", boundary.as_bytes()].concat(),
            // The first delimiter may open the body, without its CRLF.
            buffer: b"\r\n".to_vec(),
            done: 0,
            state: State::Preamble,
            parts: 0,
            parts_max,
            idle_bytes: 0,
        })
    }

    /// Takes the next bytes of the body; then [`Multipart::next`] until it gives [`Next::More`].
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.done);
        self.done = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// What comes next.
    ///
    /// # Errors
    /// [`MultipartError`], after which nothing more is to be read.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Next<'_>, MultipartError> {
        loop {
            let rest = &self.buffer[self.done..];
            match self.state {
                State::Preamble => {
                    let found = memmem::find(rest, &self.delimiter);
                    let skipped = found.unwrap_or_else(|| self.settled(rest));
                    self.skip(skipped)?;
                    if found.is_none() {
                        return Ok(Next::More);
                    }
                    self.done += self.delimiter.len();
                    self.state = State::Line;
                }
                State::Line => {
                    if rest.starts_with(b"--") {
                        self.done += 2;
                        self.state = State::Epilogue;
                        return Ok(Next::End);
                    }
                    let padding = rest.iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
                    let end = &rest[padding..];
                    let begun = end.is_empty() || end == b"\r" || rest == b"-";
                    match end.starts_with(b"\r\n") {
                        // Judged before all else: the same however much of the line is there.
                        _ if padding > PADDING_MAX => return Err(MultipartError::Delimiter),
                        true => {
                            self.done += padding + 2;
                            self.parts += 1;
                            if self.parts > self.parts_max {
                                return Err(MultipartError::TooManyParts);
                            }
                            self.state = State::Header;
                        }
                        false if begun => return Ok(Next::More),
                        false => return Err(MultipartError::Delimiter),
                    }
                }
                State::Header => {
                    // A header of no lines is the CRLF alone.
                    let end = if rest.starts_with(b"\r\n") { Some(0) } else { memmem::find(rest, b"\r\n\r\n") };
                    // Where its end is not there yet, three bytes of that may be.
                    if end.unwrap_or(rest.len().saturating_sub(3)) > HEADER_BYTES_MAX {
                        return Err(MultipartError::HeaderTooLong);
                    }
                    let Some(end) = end else { return Ok(Next::More) };
                    let header = header(&rest[..end])?;
                    self.done += if end == 0 { 0 } else { end + 2 };
                    self.state = State::BodyStart;
                    return Ok(Next::Part(header));
                }
                State::BodyStart => {
                    if rest.len() < self.delimiter.len() && self.delimiter.starts_with(rest) {
                        return Ok(Next::More);
                    }
                    if !rest.starts_with(&self.delimiter) {
                        self.done += 2;
                    }
                    self.state = State::Body;
                }
                State::Body => {
                    let found = memmem::find(rest, &self.delimiter);
                    if found == Some(0) {
                        self.done += self.delimiter.len();
                        self.state = State::Line;
                        return Ok(Next::PartEnd);
                    }
                    let length = found.unwrap_or_else(|| self.settled(rest));
                    if length == 0 {
                        return Ok(Next::More);
                    }
                    let from = self.done;
                    self.done += length;
                    return Ok(Next::Data(&self.buffer[from..from + length]));
                }
                State::Epilogue => {
                    self.skip(rest.len())?;
                    return Ok(Next::More);
                }
            }
        }
    }

    /// Whether the body was complete: to be asked at its end.
    ///
    /// # Errors
    /// [`MultipartError::Truncated`].
    pub fn finish(&self) -> Result<(), MultipartError> {
        if self.state == State::Epilogue { Ok(()) } else { Err(MultipartError::Truncated) }
    }

    /// Bytes at the front that cannot belong to a delimiter which later bytes complete.
    fn settled(&self, rest: &[u8]) -> usize {
        let tail = rest.len().saturating_sub(self.delimiter.len() - 1);
        let begins = |from: &usize| self.delimiter.starts_with(&rest[*from..]);
        (tail..rest.len()).find(begins).unwrap_or(rest.len())
    }

    fn skip(&mut self, bytes: usize) -> Result<(), MultipartError> {
        self.done += bytes;
        self.idle_bytes += bytes;
        if self.idle_bytes > IDLE_BYTES_MAX { Err(MultipartError::TooMuchAround) } else { Ok(()) }
    }
}

/// The fields of a part that matter; folded lines and control characters are no header (RFC 9110 5.5).
fn header(block: &[u8]) -> Result<PartHeader, MultipartError> {
    let mut header = PartHeader::default();
    let text = std::str::from_utf8(block).map_err(|_| MultipartError::Header)?;
    for line in text.split("\r\n").filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').ok_or(MultipartError::Header)?;
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if name.is_empty() || !name.bytes().all(token) || value.chars().any(|c| c.is_control() && c != '\t') {
            return Err(MultipartError::Header);
        }
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-type") && header.content_type.replace(value.to_owned()).is_some() {
            return Err(MultipartError::Header);
        }
        let plain = ["binary", "8bit", "7bit"].iter().any(|plain| value.eq_ignore_ascii_case(plain));
        if name.eq_ignore_ascii_case("content-transfer-encoding") && !plain {
            return Err(MultipartError::Encoding);
        }
    }
    Ok(header)
}

#[cfg(test)]
#[path = "multipart_tests.rs"]
mod tests;
