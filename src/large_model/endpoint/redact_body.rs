//! Removes the credential from bodies of responses: some endpoints repeat it.

use bytes::{Bytes, BytesMut};
use futures::stream::{self, StreamExt};
use http::{HeaderMap, HeaderName};

use super::body::ForwardBody;

/// The replacement for a byte of the credential: announced lengths stay correct.
const MASK: u8 = b'*';

/// The same pieces with the secret replaced, even if it is split over pieces. Only what may be the
/// start of it is held back.
pub(super) fn body(pieces: ForwardBody, secret: &str) -> ForwardBody {
    let redactor = BodyRedactor { secret: secret.to_owned().into(), held: BytesMut::new() };
    stream::unfold(Some((pieces, redactor)), async |state| {
        let (mut pieces, mut redactor) = state?;
        loop {
            let end = match pieces.next().await {
                Some(Ok(piece)) => match redactor.push(piece) {
                    ready if ready.is_empty() => continue,
                    ready => return Some((Ok(ready), Some((pieces, redactor)))),
                },
                end => end,
            };
            if redactor.held.is_empty() {
                return Some((end?, None));
            }
            let rest = redactor.held.split().freeze();
            let pieces = stream::iter(end).boxed();
            return Some((Ok(rest), Some((pieces, redactor))));
        }
    })
    .boxed()
}

/// Removes headers that contain the secret.
pub(super) fn headers(headers: &mut HeaderMap, secret: &str) {
    // Names are in lower case.
    let lower = secret.to_ascii_lowercase();
    let held = headers.iter().filter(|(name, value)| {
        find(value.as_bytes(), secret.as_bytes()).is_some() || name.as_str().contains(&lower)
    });
    let names: Vec<HeaderName> = held.map(|(name, _)| name.clone()).collect();
    for name in names {
        headers.remove(name);
    }
}

struct BodyRedactor {
    secret: Bytes,
    /// What may be the start of the secret.
    held: BytesMut,
}

impl BodyRedactor {
    /// Takes a piece, and returns what can be passed on.
    fn push(&mut self, piece: Bytes) -> Bytes {
        let is_clean = self.held.is_empty()
            && find(&piece, &self.secret).is_none()
            && self.beginning(&piece) == 0;
        if is_clean {
            return piece;
        }
        self.held.extend_from_slice(&piece);
        let mut from = 0;
        while let Some(at) = find(&self.held[from..], &self.secret) {
            let end = from + at + self.secret.len();
            self.held[from + at..end].fill(MASK);
            from = end;
        }
        let ready = self.held.len() - self.beginning(&self.held);
        self.held.split_to(ready).freeze()
    }

    /// How many bytes at the end may be the start of the secret.
    fn beginning(&self, bytes: &[u8]) -> usize {
        let longest = (self.secret.len() - 1).min(bytes.len());
        let is_beginning = |&length: &usize| bytes.ends_with(&self.secret[..length]);
        (1..=longest).rev().find(is_beginning).unwrap_or(0)
    }
}

fn find(bytes: &[u8], secret: &[u8]) -> Option<usize> {
    let (&first, rest) = secret.split_first()?;
    let mut from = 0;
    loop {
        let at = from + bytes[from..].iter().position(|&byte| byte == first)?;
        if bytes[at + 1..].starts_with(rest) {
            return Some(at);
        }
        from = at + 1;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    const SECRET: &str = "sk-sk-12";

    fn run(pieces: &[&[u8]]) -> Vec<Bytes> {
        let pieces: Vec<_> = pieces.iter().map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        let redacted = body(stream::iter(pieces).boxed(), SECRET);
        let all = redacted.map(Result::unwrap).collect::<Vec<_>>();
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(all)
    }

    #[test]
    fn what_is_handed_on_when() {
        let table: [(&[&str], &[&str]); 7] = [
            (&[], &[]),
            (&["a", "b"], &["a", "b"]),
            (&["a sk-sk-12 b sk-sk-12"], &["a ******** b ********"]),
            (&["a sk-sk", "-12 b"], &["a ", "******** b"]),
            (&["a s", "k-", "x"], &["a ", "sk-x"]),
            (&["sk-sk-sk-12"], &["sk-********"]),
            (&["a sk-"], &["a ", "sk-"]),
        ];
        for (pieces, expected) in table {
            let pieces: Vec<_> = pieces.iter().map(|piece| piece.as_bytes()).collect();
            assert_eq!(run(&pieces), expected, "{pieces:?}");
        }
    }

    #[tokio::test]
    async fn a_failure_comes_after_what_was_held() {
        let error =
            crate::large_model::LargeModelError::Deadline { model: "m".into(), was_sent: true };
        let pieces = stream::iter([Ok(Bytes::from_static(b"a sk-")), Err(error)]).boxed();
        let handed_on: Vec<_> = body(pieces, SECRET).collect().await;
        assert_eq!(handed_on[1].as_ref().unwrap(), "sk-");
        assert!(handed_on[2].is_err() && handed_on.len() == 3);
    }

    #[test]
    fn headers_that_hold_it_are_left_out() {
        let mut map = HeaderMap::new();
        map.insert("x-a", "Bearer sk-sk-12".parse().unwrap());
        map.insert("x-b", "sk-sk-1".parse().unwrap());
        map.insert("x-sk-sk-12", "1".parse().unwrap());
        headers(&mut map, SECRET);
        assert_eq!(map.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-b"]);
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(text in "(sk-|12|a){0,30}", size in 1usize..9) {
            let pieces: Vec<_> = text.as_bytes().chunks(size).collect();
            let expected = text.replace(SECRET, "********");
            prop_assert_eq!(run(&pieces).concat(), expected.as_bytes());
        }
    }
}
