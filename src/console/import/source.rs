//! Where rows come from: a file that is read from its start to its end, and known by what is in it.

use super::row::Row;
use anyhow::bail;
use sha2::{Digest, Sha256};
use std::cell::RefCell;
use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::rc::Rc;

/// The longest line: more is no row of anything, and is not read into memory.
const MAX_LINE: u64 = 1 << 20;

/// Rows, one by one.
pub(super) trait Rows {
    /// The next row and where it stands. A row that is wrong is told and others follow; an error means that
    /// none do.
    fn next(&mut self) -> anyhow::Result<Option<(Position, Result<Row, String>)>>;
}

/// Where a row stands in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Position {
    Line(u64),
    Row(i64),
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(number) => write!(f, "line {number}"),
            Self::Row(number) => write!(f, "row {number}"),
        }
    }
}

/// What was read so far: how much, and its digest.
#[derive(Clone, Default)]
pub(super) struct Meter(Rc<RefCell<(u64, Sha256)>>);

impl Meter {
    /// Counts in what was read, of which that much is new.
    pub(super) fn add(&self, bytes: &[u8], amount: u64) {
        let (read, digest) = &mut *self.0.borrow_mut();
        digest.update(bytes);
        *read += amount;
    }

    /// How much was read.
    pub(super) fn read(&self) -> u64 {
        self.0.borrow().0
    }

    /// The digest of all of it and of these texts, in hexadecimal.
    pub(super) fn digest(&self, with: &[&str]) -> String {
        let mut digest = self.0.borrow().1.clone();
        for text in with {
            digest.update((text.len() as u64).to_le_bytes());
            digest.update(text);
        }
        model::hex(&digest.finalize())
    }
}

/// A file of text; it is metered as it is read.
pub(super) struct Source {
    text: Box<dyn Read>,
    meter: Meter,
}

impl Source {
    pub(super) fn new(text: impl Read + 'static, meter: Meter) -> Self {
        Self { text: Box::new(text), meter }
    }

    #[cfg(test)]
    pub(super) fn of_text(text: &str) -> Self {
        Self::new(std::io::Cursor::new(text.to_owned().into_bytes()), Meter::default())
    }
}

impl Read for Source {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let read = self.text.read(into)?;
        self.meter.add(&into[..read], read as u64);
        Ok(read)
    }
}

/// The lines of a text that are not empty.
pub(super) struct Lines {
    reader: BufReader<Source>,
    line: Vec<u8>,
    number: u64,
}

impl Lines {
    pub(super) fn new(source: Source) -> Self {
        Self { reader: BufReader::with_capacity(1 << 16, source), line: Vec::new(), number: 0 }
    }

    /// The next one, without its end.
    pub(super) fn next(&mut self) -> anyhow::Result<Option<(Position, &[u8])>> {
        loop {
            self.line.clear();
            let read = (&mut self.reader).take(MAX_LINE + 1).read_until(b'\n', &mut self.line)?;
            if read == 0 {
                return Ok(None);
            }
            self.number += 1;
            if read as u64 > MAX_LINE {
                bail!(
                    "line {}: it is longer than {MAX_LINE} bytes: is it a file of lines?",
                    self.number
                );
            }
            if self.number == 1 && self.line.starts_with("\u{feff}".as_bytes()) {
                self.line.drain(..3);
            }
            let end = self.line.trim_ascii_end().len();
            self.line.truncate(end);
            if !self.line.is_empty() {
                return Ok(Some((Position::Line(self.number), &self.line)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    #[test]
    fn lines_are_counted_and_bounded_and_known_by_their_bytes() {
        let meter = Meter::default();
        let text = "\u{feff}a\r\n\n b\nc";
        let mut lines = Lines::new(Source::new(Cursor::new(text), meter.clone()));
        let mut told = Vec::new();
        while let Some((position, line)) = lines.next().unwrap() {
            told.push((position.to_string(), String::from_utf8(line.to_vec()).unwrap()));
        }
        let line = |number, text: &str| (format!("line {number}"), text.to_owned());
        assert_eq!(told, [line(1, "a"), line(3, " b"), line(4, "c")]);
        assert_eq!(meter.read(), text.len() as u64);
        let same = Meter::default();
        same.add(text.as_bytes(), 0);
        assert_eq!(meter.digest(&["x"]), same.digest(&["x"]));
        assert_ne!(meter.digest(&["xy", ""]), same.digest(&["x", "y"]));
        let mut long = Lines::new(Source::of_text(&"x".repeat(2 << 20)));
        assert!(long.next().unwrap_err().to_string().contains("longer than"));
    }
}
