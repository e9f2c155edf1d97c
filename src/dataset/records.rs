//! Splits the text of CSV files into records. Wrong quoting is refused: after a quote that opens a
//! field by mistake, the following rows would be part of that field. The crate `csv` accepts both a
//! quote that is never closed and text behind a closing quote.

use std::collections::VecDeque;
use std::io::{self, BufRead};

/// A record.
pub(super) struct Record {
    /// The line in which it begins, counted from 1.
    pub(super) line: usize,
    pub(super) fields: Vec<Vec<u8>>,
    /// Whether text stands behind a closing quote: it is unclear where its fields end.
    pub(super) is_broken: bool,
}

/// The records of a text, the header included.
pub(super) struct Records {
    reader: Box<dyn BufRead>,
    delimiter: u8,
    /// The number of columns; 0 before the header is read.
    columns: usize,
    /// The number of the line that was taken last.
    line: usize,
    /// Lines that were read to look for the end of a field, and are to be read again.
    lookahead: VecDeque<Vec<u8>>,
}

/// Where a field that begins with a quote ends.
enum Quoted {
    /// At this byte, behind its closing quote.
    Field(Vec<u8>, usize),
    /// The quote is an ordinary character.
    Literal,
    /// Text stands behind the closing quote.
    Broken,
}

impl Records {
    pub(super) fn new(reader: Box<dyn BufRead>, delimiter: u8) -> Self {
        Self { reader, delimiter, columns: 0, line: 0, lookahead: VecDeque::new() }
    }

    /// The next record; blank lines are skipped.
    ///
    /// # Errors
    /// When a quote is never closed, or is closed in a later line before other text: which rows lie
    /// between is unknown.
    pub(super) fn next_record(&mut self) -> io::Result<Option<Record>> {
        let mut text = loop {
            match self.next_line()? {
                None => return Ok(None),
                Some(line) if without_line_end(&line).is_empty() => {}
                Some(line) => break line,
            }
        };
        let mut record = Record { line: self.line, fields: Vec::new(), is_broken: false };
        let mut at = 0;
        loop {
            let quoted = match text.get(at) {
                Some(b'"') => self.quoted(&mut text, at)?,
                _ => Quoted::Literal,
            };
            let end = match quoted {
                Quoted::Field(field, end) => {
                    record.fields.push(field);
                    end
                }
                Quoted::Literal => {
                    let rest = &without_line_end(&text)[at..];
                    let length = rest.iter().position(|byte| *byte == self.delimiter);
                    let field = &rest[..length.unwrap_or(rest.len())];
                    record.fields.push(field.to_vec());
                    at + field.len()
                }
                Quoted::Broken => {
                    record.is_broken = true;
                    break;
                }
            };
            if end >= without_line_end(&text).len() {
                break;
            }
            at = end + 1;
        }
        if self.columns == 0 {
            self.columns = record.fields.len();
        }
        Ok(Some(record))
    }

    /// The field whose opening quote is at byte `at` of `text`, to which lines are added as needed.
    fn quoted(&mut self, text: &mut Vec<u8>, at: usize) -> io::Result<Quoted> {
        let (opened, first) = (self.line, text.len());
        let mut taken: Vec<Vec<u8>> = Vec::new();
        let mut value = Vec::new();
        let mut from = at + 1;
        loop {
            let Some(length) = text[from..].iter().position(|byte| *byte == b'"') else {
                value.extend_from_slice(&text[from..]);
                from = text.len();
                let line = self.next_line()?;
                match &line {
                    Some(line) if !self.is_complete_row(line, &text[..first]) => {
                        text.extend_from_slice(line);
                        taken.push(line.clone());
                        continue;
                    }
                    None if self.delimiter != b'\t' => {
                        return Err(wrong(format!(
                            "the quote that opens in line {opened} is never closed"
                        )));
                    }
                    _ => taken.extend(line),
                }
                break;
            };
            value.extend_from_slice(&text[from..from + length]);
            from += length + 1;
            match text.get(from) {
                Some(b'"') => {
                    value.push(b'"');
                    from += 1;
                }
                Some(&byte) if byte != self.delimiter && from < without_line_end(text).len() => {
                    break;
                }
                _ => return Ok(Quoted::Field(value, from)),
            }
        }
        if self.delimiter == b'\t' {
            text.truncate(first);
            self.line -= taken.len();
            taken.into_iter().rev().for_each(|line| self.lookahead.push_front(line));
            return Ok(Quoted::Literal);
        }
        match taken.is_empty() {
            true => Ok(Quoted::Broken),
            false => Err(wrong(format!(
                "the quote that opens in line {opened} is closed in line {} before other text",
                self.line
            ))),
        }
    }

    /// Whether a line inside an open quote is a complete row, so that the quote in the line `first`
    /// is an ordinary character. Only files with tabs are often written without quoting.
    fn is_complete_row(&self, line: &[u8], first: &[u8]) -> bool {
        let is_row = |line: &[u8]| {
            let tabs = line.iter().filter(|byte| **byte == b'\t').count();
            tabs > 0 && tabs + 1 == self.columns
        };
        self.delimiter == b'\t' && is_row(line) && (!line.contains(&b'"') || is_row(first))
    }

    /// The next line with its end.
    fn next_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let line = match self.lookahead.pop_front() {
            Some(line) => line,
            None => {
                let mut line = Vec::new();
                self.reader.read_until(b'\n', &mut line)?;
                line
            }
        };
        self.line += usize::from(!line.is_empty());
        Ok(Some(line).filter(|line| !line.is_empty()))
    }
}

/// A line without its end.
fn without_line_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

pub(super) fn wrong(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}
