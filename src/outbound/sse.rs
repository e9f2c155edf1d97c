//! A decoder of server-sent events that reads only names and data.

/// An event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Empty where the stream gives none.
    pub name: String,
    /// Its data lines, joined by line feeds. Characters may be cut anywhere.
    pub data: Vec<u8>,
}

impl Event {
    /// Whether it marks the end of a stream.
    pub fn is_done_marker(&self) -> bool {
        self.data.trim_ascii() == b"[DONE]"
    }

    /// Whether it has another name than `message`, such as `ping`.
    pub fn has_other_name(&self) -> bool {
        !matches!(self.name.as_str(), "" | "message" | "error")
    }
}

/// Takes bytes as they arrive and yields complete events. It holds at most what was pushed since
/// the last event; the caller bounds that.
#[derive(Debug, Default)]
pub struct SseDecoder {
    bytes: Vec<u8>,
    /// How many bytes of the buffer have been parsed into lines.
    read: usize,
    /// How many bytes are known to hold no end of a line.
    scanned: usize,
    name: String,
    /// The data lines of the event so far.
    data: Option<Vec<u8>>,
    started: bool,
}

impl SseDecoder {
    /// Adds what arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        // Compacts once per push, not once per event.
        self.bytes.drain(..self.read);
        self.scanned -= self.read;
        self.read = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole event; `None` until more arrives.
    pub fn next_event(&mut self) -> Option<Event> {
        while let Some((end, next)) = self.line_end() {
            let line = self.read..end;
            (self.read, self.scanned) = (next, next);
            if !line.is_empty() {
                self.read_line(line);
            } else if let Some(event) = self.event() {
                return Some(event);
            }
        }
        None
    }

    /// The event whose closing blank line is missing: some servers leave it out at the end. An
    /// event that was truncated looks the same, which its parser notices.
    pub fn finish(&mut self) -> Option<Event> {
        let end = self.bytes.len() - usize::from(self.bytes.ends_with(b"\r"));
        if self.read < end {
            self.read_line(self.read..end);
        }
        (self.read, self.scanned) = (0, 0);
        self.bytes.clear();
        self.event()
    }

    fn event(&mut self) -> Option<Event> {
        let name = std::mem::take(&mut self.name);
        self.data.take().map(|data| Event { name, data })
    }

    /// Where the next line ends, and where the one after it begins. A line ends with a line feed,
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

    /// Adds a line that is not empty to the event. Comments and other fields are ignored.
    fn read_line(&mut self, at: std::ops::Range<usize>) {
        let mut line = &self.bytes[at];
        if !std::mem::replace(&mut self.started, true) {
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        let colon = line.iter().position(|byte| *byte == b':');
        let (field, value) = colon.map_or((line, &[][..]), |at| (&line[..at], &line[at + 1..]));
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match (field, &mut self.data) {
            (b"event", _) => self.name = String::from_utf8_lossy(value).into_owned(),
            (b"data", Some(data)) => {
                data.push(b'\n');
                data.extend_from_slice(value);
            }
            (b"data", data) => *data = Some(value.to_vec()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    /// The events of a stream that arrives in pieces of `size` bytes, followed by those at its end.
    fn decode(stream: &[u8], size: usize) -> (Vec<Event>, Option<Event>) {
        let mut decoder = SseDecoder::default();
        let mut events = Vec::new();
        for piece in stream.chunks(size) {
            decoder.push(piece);
            events.extend(std::iter::from_fn(|| decoder.next_event()));
        }
        (events, decoder.finish())
    }

    fn data(event: Event) -> String {
        String::from_utf8(event.data).unwrap()
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
                let (got, last) = decode(stream.as_bytes(), size);
                let got: Vec<_> = got.into_iter().map(data).collect();
                assert_eq!(got, events, "{stream:?} in pieces of {size}");
                assert_eq!(last.map(data).as_deref(), rest, "{stream:?} in pieces of {size}");
            }
        }
    }

    #[test]
    fn names_and_bytes() {
        let stream = b"event: ping\ndata: a\n\ndata: \xff\n\nevent: error\n\ndata: c\n\n";
        let (events, _) = decode(stream, 3);
        let expected: [(&str, &[u8]); 3] = [("ping", b"a"), ("", b"\xff"), ("", b"c")];
        for (event, (name, data)) in events.iter().zip(expected) {
            assert_eq!((event.name.as_str(), &event.data[..]), (name, data));
        }
        assert_eq!(events.len(), 3);
    }

    #[test]
    fn a_line_without_end_is_read_once() {
        let mut decoder = SseDecoder::default();
        for _ in 0..100 {
            decoder.push(&[b'x'; 1_000]);
            assert_eq!(decoder.next_event(), None);
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
