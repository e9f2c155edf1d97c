//! An event stream: the same events, however its bytes are split.
#![no_main]
#![allow(dead_code)]

use libfuzzer_sys::fuzz_target;

#[path = "../../src/outbound/sse.rs"]
mod sse;

use sse::{Event, SseDecoder};

fn decode<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Event>, Option<Event>) {
    let mut decoder = SseDecoder::default();
    let mut events = Vec::new();
    for piece in pieces {
        decoder.push(piece);
        while let Some(event) = decoder.next_event() {
            events.push(event);
        }
    }
    (events, decoder.finish())
}

fuzz_target!(|input: (u8, &[u8])| {
    let (size, stream) = (usize::from(input.0 % 16) + 1, input.1);
    assert_eq!(decode(stream.chunks(size)), decode(std::iter::once(stream)));
});
