//! A decoder of server-sent events that only cares about their data.

/// Takes bytes as they arrive and gives the `data` of whole events. It holds no more than what
/// was pushed since the last event; whoever pushes bounds that.
#[derive(Debug, Default)]
pub(super) struct SseDecoder {
    /// Bytes that are not read as lines yet.
    bytes: Vec<u8>,
    /// How many of them are known to hold no line's end.
    scanned: usize,
    /// The data lines of the event so far.
    data: Option<String>,
    started: bool,
}

/// A stream that is no text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotUtf8;

impl SseDecoder {
    /// Adds what arrived.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The data of the next whole event; `None` until more arrives.
    pub(super) fn next_event(&mut self) -> Result<Option<String>, NotUtf8> {
        let mut start = 0;
        let mut event = None;
        while event.is_none() {
            let Some((end, next)) = self.line_end() else { break };
            let line = std::str::from_utf8(&self.bytes[start..end]).map_err(|_| NotUtf8)?;
            if line.is_empty() {
                event = self.data.take();
            } else {
                read_line(line, &mut self.started, &mut self.data);
            }
            (start, self.scanned) = (next, next);
        }
        self.bytes.drain(..start);
        self.scanned -= start;
        Ok(event)
    }

    /// What an event whose closing blank line never came holds: some servers leave it out at the
    /// end. An event that was cut in the middle looks the same; whoever parses it can tell.
    pub(super) fn finish(&mut self) -> Result<Option<String>, NotUtf8> {
        let rest = std::mem::take(&mut self.bytes);
        let line = std::str::from_utf8(&rest).map_err(|_| NotUtf8)?;
        read_line(line.trim_end_matches('\r'), &mut self.started, &mut self.data);
        self.scanned = 0;
        Ok(self.data.take())
    }

    /// Where the line at the front ends, and where the next begins. A line ends with a line feed,
    /// a carriage return, or both; a carriage return at the very end may be half of both.
    fn line_end(&mut self) -> Option<(usize, usize)> {
        let found =
            self.bytes[self.scanned..].iter().position(|byte| matches!(byte, b'\n' | b'\r'));
        let Some(offset) = found else {
            self.scanned = self.bytes.len();
            return None;
        };
        let end = self.scanned + offset;
        self.scanned = end;
        match (self.bytes[end], self.bytes.get(end + 1)) {
            (b'\r', None) => None,
            (b'\r', Some(b'\n')) => Some((end, end + 2)),
            _ => Some((end, end + 1)),
        }
    }
}

/// Adds a line that is not empty to the event. Comments and fields other than `data` say nothing.
fn read_line(line: &str, started: &mut bool, data: &mut Option<String>) {
    let line = if *started { line } else { line.strip_prefix('\u{feff}').unwrap_or(line) };
    *started = true;
    let (field, value) = line.split_once(':').unwrap_or((line, ""));
    if field != "data" {
        return;
    }
    let value = value.strip_prefix(' ').unwrap_or(value);
    match data {
        Some(data) => {
            data.push('\n');
            data.push_str(value);
        }
        None => *data = Some(value.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    /// The events of a stream that arrives in pieces of `size` bytes, then those at its end.
    fn decode(stream: &[u8], size: usize) -> Result<(Vec<String>, Option<String>), NotUtf8> {
        let mut decoder = SseDecoder::default();
        let mut events = Vec::new();
        for piece in stream.chunks(size) {
            decoder.push(piece);
            while let Some(event) = decoder.next_event()? {
                events.push(event);
            }
        }
        Ok((events, decoder.finish()?))
    }

    #[test]
    fn lines_fields_and_ends() {
        let table: [(&str, &[&str], Option<&str>); 14] = [
            ("data: a\n\ndata: b\n\n", &["a", "b"], None),
            ("data: a\r\n\r\ndata: b\r\n\r\n", &["a", "b"], None),
            ("data: a\r\rdata: b\r\rx", &["a", "b"], None),
            ("data:a\ndata:  b\ndata\n\n", &["a\n b\n"], None),
            (": ping\n\ndata: a\n\n", &["a"], None),
            (": ping\ndata: a\n\n", &["a"], None),
            ("event: delta\nid: 1\nretry: 5\ndata: a\n\n", &["a"], None),
            ("\u{feff}data: a\n\n\u{feff}data: b\n\n", &["a"], None),
            ("data: a\n\ndata: b\n", &["a"], Some("b")),
            ("data: a\n\ndata: b", &["a"], Some("b")),
            ("data: a\n\ndata: b\r", &["a"], Some("b")),
            ("dat: a\n\ndata\n\n", &[""], None),
            ("data: é€𝄞\n\n", &["é€𝄞"], None),
            ("", &[], None),
        ];
        for (stream, events, rest) in table {
            for size in [1, 2, 3, 5, 1_000] {
                let (got, last) = decode(stream.as_bytes(), size).unwrap();
                assert_eq!(got, events, "{stream:?} in pieces of {size}");
                assert_eq!(last.as_deref(), rest, "{stream:?} in pieces of {size}");
            }
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_an_error() {
        assert_eq!(decode(b"data: \xff\xfe\n\n", 100), Err(NotUtf8));
        assert_eq!(decode(b"data: \xe2\x82", 1), Err(NotUtf8));
    }

    #[test]
    fn a_line_without_end_is_read_once() {
        let mut decoder = SseDecoder::default();
        for _ in 0..100 {
            decoder.push(&[b'x'; 1_000]);
            assert_eq!(decoder.next_event(), Ok(None));
        }
        assert_eq!((decoder.bytes.len(), decoder.scanned), (100_000, 100_000));
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(stream in "(data: ?|[a-z:]|\r|\n|\r\n|é){0,60}", size in 1usize..9) {
            prop_assert_eq!(decode(stream.as_bytes(), size), decode(stream.as_bytes(), 1_000));
        }

        #[test]
        fn any_bytes_are_survived(stream in prop::collection::vec(any::<u8>(), 0..200), size in 1usize..9) {
            let _ = decode(&stream, size);
        }
    }
}
