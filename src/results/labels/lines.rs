//! Lines of a file, none longer than it may be.

use std::io::BufRead;

/// Bytes of a line, and so of a resource.
const BYTES_MAX: usize = 1 << 20;

/// Lines from 1 that are not empty; one that is too long is passed over to its end and told.
pub struct Lines<R> {
    input: R,
    line: u64,
    ended: bool,
}

impl<R: BufRead> Lines<R> {
    pub fn of(input: R) -> Self {
        Self { input, line: 0, ended: false }
    }

    /// The next line, without more than [`BYTES_MAX`] bytes of it; `None` at the end.
    fn read(&mut self) -> std::io::Result<Option<Result<Vec<u8>, String>>> {
        let (mut text, mut too_long) = (Vec::new(), false);
        loop {
            let part = self.input.fill_buf()?;
            if part.is_empty() {
                self.ended = true;
                break;
            }
            let end = part.iter().position(|byte| *byte == b'\n');
            let taken = &part[..end.unwrap_or(part.len())];
            too_long |= text.len() + taken.len() > BYTES_MAX;
            if !too_long {
                text.extend_from_slice(taken);
            }
            let used = end.map_or(part.len(), |end| end + 1);
            self.input.consume(used);
            if end.is_some() {
                break;
            }
        }
        if self.ended && text.is_empty() && !too_long {
            return Ok(None);
        }
        Ok(Some(if too_long { Err(format!("it has more than {BYTES_MAX} bytes")) } else { Ok(text) }))
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = (u64, Result<Vec<u8>, String>);

    fn next(&mut self) -> Option<Self::Item> {
        while !self.ended {
            self.line += 1;
            match self.read() {
                Ok(None) => return None,
                Ok(Some(Ok(text))) if text.trim_ascii().is_empty() => {}
                Ok(Some(text)) => return Some((self.line, text)),
                Err(_) => {
                    self.ended = true;
                    return Some((self.line, Err("the file cannot be read to its end".into())));
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_and_long_ones_are_passed_over() {
        let long = "x".repeat(BYTES_MAX + 1);
        let full = "y".repeat(BYTES_MAX);
        let text = format!("a\r\n\n{long}\n{full}\nlast");
        let input = std::io::BufReader::with_capacity(7, text.as_bytes());
        let lines: Vec<(u64, Result<usize, String>)> =
            Lines::of(input).map(|(n, text)| (n, text.map(|t| t.len()))).collect();
        let [(1, Ok(2)), (3, Err(told)), (4, Ok(BYTES_MAX)), (5, Ok(4))] = lines.as_slice() else {
            panic!("{lines:?}")
        };
        assert!(told.contains("more than 1048576 bytes"));
        assert_eq!(Lines::of(&b""[..]).count(), 0);
    }
}
