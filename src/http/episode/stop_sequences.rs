//! Truncates an answer: before a stop sequence, or after a number of tokens. Pure.

use std::sync::Arc;

/// How an answer is cut into pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum Cut {
    /// Token by token. A piece of several words counts as that many.
    ByToken,
    /// Anywhere, and from any sender. Only whole words are counted: no tokenizer makes fewer
    /// tokens, so an answer that kept to the limit where it was written is never truncated.
    Anywhere,
}

/// An answer in progress.
#[derive(Debug, Clone, Default)]
pub(in crate::http) struct StopSequences {
    stops: Vec<Stop>,
    room: Option<u64>,
    /// Whether the answer so far ends within a word.
    is_in_word: bool,
    /// Text that may be the start of a stop sequence.
    held: String,
    ending: Option<Ending>,
}

/// A stop sequence, searched byte by byte (Knuth, Morris and Pratt): the cost per byte does not
/// depend on its length or on near matches.
#[derive(Debug, Clone)]
struct Stop {
    text: Arc<str>,
    /// For each prefix of the text, by its length less one: the length of its longest proper prefix
    /// that is also a suffix of it.
    borders: Arc<[u32]>,
    /// The length of the prefix that the answer ends with.
    matched: usize,
}

impl Stop {
    fn new(text: &str) -> Self {
        let mut borders: Vec<u32> = Vec::with_capacity(text.len());
        for at in 0..text.len() {
            let before = borders.last().copied().unwrap_or(0) as usize;
            let longer = if at == 0 { 0 } else { extended(text, &borders, before, at) };
            borders.push(longer as u32);
        }
        Self { text: text.into(), borders: borders.into(), matched: 0 }
    }

    /// Takes a byte of the answer. Returns whether it completes the sequence.
    fn completes(&mut self, byte: u8) -> bool {
        let text = self.text.as_bytes();
        while self.matched > 0 && text[self.matched] != byte {
            self.matched = self.borders[self.matched - 1] as usize;
        }
        self.matched += usize::from(text[self.matched] == byte);
        self.matched == text.len()
    }
}

/// The length of the longest prefix of `text` that its first `at` + 1 bytes end with, given
/// `before` for its first `at`.
fn extended(text: &str, borders: &[u32], before: usize, at: usize) -> usize {
    let (text, mut length) = (text.as_bytes(), before);
    while length > 0 && text[length] != text[at] {
        length = borders[length - 1] as usize;
    }
    length + usize::from(text[length] == text[at])
}

/// Why an answer was truncated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::http) enum Ending {
    /// This stop sequence followed.
    Stop(String),
    /// It was too long.
    Length,
}

impl StopSequences {
    /// Ends before any of `stops`, and after `room` tokens.
    pub(in crate::http) fn new(stops: &[String], room: Option<u64>) -> Self {
        let stops = stops.iter().filter(|stop| !stop.is_empty()).map(|stop| Stop::new(stop));
        Self { stops: stops.collect(), room, ..Self::default() }
    }

    /// Takes a piece of the answer, and returns what can be sent.
    pub(in crate::http) fn push(&mut self, piece: &str, cut: Cut) -> String {
        if self.ending.is_some() {
            return String::new();
        }
        let kept = self.fit(piece, cut);
        if self.stops.is_empty() {
            return kept.to_owned();
        }
        let before = self.held.len();
        self.held.push_str(kept);
        for at in before..self.held.len() {
            let byte = self.held.as_bytes()[at];
            // Of several that are completed by the same byte, the longest began first.
            let mut found: Option<&Stop> = None;
            for stop in &mut self.stops {
                if stop.completes(byte) && found.is_none_or(|it| it.text.len() < stop.text.len()) {
                    found = Some(stop);
                }
            }
            if let Some(stop) = found {
                self.ending = Some(Ending::Stop(stop.text.to_string()));
                let mut sent = std::mem::take(&mut self.held);
                sent.truncate(at + 1 - stop.text.len());
                return sent;
            }
        }
        let possible = self.stops.iter().map(|stop| stop.matched).max();
        let kept = self.held.split_off(self.held.len() - possible.unwrap_or(0));
        std::mem::replace(&mut self.held, kept)
    }

    /// The rest of the text, and why the answer was truncated, if it was.
    pub(in crate::http) fn finish(&mut self) -> (String, Option<Ending>) {
        let rest = match self.ending {
            Some(Ending::Stop(_)) => String::new(),
            _ => std::mem::take(&mut self.held),
        };
        (rest, self.ending.clone())
    }

    /// As much of a piece as the token limit allows.
    fn fit<'a>(&mut self, piece: &'a str, cut: Cut) -> &'a str {
        let Some(room) = &mut self.room else { return piece };
        // What goes on with a word was counted with its beginning.
        let mut is_counted = cut == Cut::Anywhere && self.is_in_word;
        if let Some(last) = piece.chars().next_back() {
            self.is_in_word = !last.is_whitespace();
        }
        let words = piece.split_whitespace().count() as u64;
        let words = match cut {
            Cut::ByToken => words.max(1),
            Cut::Anywhere => {
                words - u64::from(is_counted && piece.starts_with(|c: char| !c.is_whitespace()))
            }
        };
        if words <= *room {
            *room -= words;
            return piece;
        }
        self.ending = Some(Ending::Length);
        let mut end = 0;
        for word in piece.split_inclusive(char::is_whitespace) {
            let is_free = std::mem::take(&mut is_counted);
            if *room == 0 && !is_free {
                break;
            }
            *room -= u64::from(!is_free && !word.trim().is_empty());
            end += word.len();
        }
        &piece[..end]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(stops: &[&str], room: Option<u64>, pieces: &[&str]) -> (String, Option<Ending>) {
        run_cut(stops, room, pieces, Cut::ByToken)
    }

    fn run_cut(
        stops: &[&str],
        room: Option<u64>,
        pieces: &[&str],
        cut: Cut,
    ) -> (String, Option<Ending>) {
        let stops: Vec<_> = stops.iter().map(|&stop| stop.to_owned()).collect();
        let mut stops = StopSequences::new(&stops, room);
        let pushed = pieces.iter().map(|piece| stops.push(piece, cut));
        let mut sent: String = pushed.collect();
        let (rest, ending) = stops.finish();
        sent.push_str(&rest);
        (sent, ending)
    }

    #[test]
    fn pieces_that_are_no_tokens_do_not_count() {
        use Ending::Length;
        let letters: Vec<String> = "Supercali is fine.".chars().map(String::from).collect();
        let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
        type Row<'a> = (u64, &'a [&'a str], &'a str, Option<Ending>);
        let table: [Row<'_>; 7] = [
            (3, &letters, "Supercali is fine.", None),
            (2, &letters, "Supercali is ", Some(Length)),
            (1, &["un", "believ", "able", " ", " "], "unbelievable  ", None),
            (1, &["un", "able to"], "unable ", Some(Length)),
            (1, &["one", " two"], "one ", Some(Length)),
            (2, &["one", "", " two"], "one two", None),
            (0, &[" ", "one"], " ", Some(Length)),
        ];
        for (room, pieces, sent, ending) in table {
            let got = run_cut(&[], Some(room), pieces, Cut::Anywhere);
            assert_eq!(got, (sent.to_owned(), ending), "{room} {pieces:?}");
        }
    }

    #[test]
    fn where_answers_end() {
        use Ending::Length;
        let stop = |text: &str| Some(Ending::Stop(text.to_owned()));
        type Row<'a> = (&'a [&'a str], Option<u64>, &'a [&'a str], &'a str, Option<Ending>);
        let table: [Row<'_>; 17] = [
            (&[], None, &["a b", "c"], "a bc", None),
            (&["X"], None, &["aXb"], "a", stop("X")),
            (&["END"], None, &["a E", "N", "D b"], "a ", stop("END")),
            (&["END"], None, &["a E", "N", "O"], "a ENO", None),
            (&["END"], None, &["a EN"], "a EN", None),
            (&["bc", "ab"], None, &["xabc"], "x", stop("ab")),
            // The first completed one, in pieces or not.
            (&["abcd", "bc"], None, &["xabcd"], "xa", stop("bc")),
            (&["c", "abc"], None, &["xab", "c"], "x", stop("abc")),
            (&["aab"], None, &["aa", "a", "ab"], "aa", stop("aab")),
            (&["", "é!"], None, &["aé", "?é", "!"], "aé?", stop("é!")),
            (&[], Some(2), &["a ", "b ", "c"], "a b ", Some(Length)),
            (&[], Some(2), &["a ", "b "], "a b ", None),
            (&[], Some(2), &["one two three"], "one two ", Some(Length)),
            (&[], Some(0), &[" "], "", Some(Length)),
            (&[], Some(2), &["un", "believ", "able"], "unbeliev", Some(Length)),
            (&["b"], Some(3), &["a b c d e"], "a ", stop("b")),
            (&["zz"], Some(1), &["z", "z"], "z", Some(Length)),
        ];
        for (stops, room, pieces, sent, ending) in table {
            let got = run(stops, room, pieces);
            assert_eq!(got, (sent.to_owned(), ending), "{stops:?} {room:?} {pieces:?}");
        }
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference_to_stops(text in "[ab é]{0,20}", stop in "[abé]{1,5}", at in 0usize..20) {
            let at = (0..=at.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
            let whole = run(&[&stop], None, &[&text]);
            prop_assert_eq!(&run(&[&stop], None, &[&text[..at], &text[at..]]), &whole);
            let expected = text.split(stop.as_str()).next().unwrap_or_default();
            prop_assert_eq!(whole.0, expected);
        }

        #[test]
        fn pieces_make_no_difference_to_words(text in "[ab é]{0,20}", room in 0u64..6, at in 0usize..20) {
            let at = (0..=at.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
            let whole = run_cut(&[], Some(room), &[&text], Cut::Anywhere);
            let cut = run_cut(&[], Some(room), &[&text[..at], &text[at..]], Cut::Anywhere);
            prop_assert_eq!(cut.1.is_some(), whole.1.is_some());
            prop_assert_eq!(cut.0.split_whitespace().collect::<Vec<_>>(), whole.0.split_whitespace().collect::<Vec<_>>());
        }
    }
}
