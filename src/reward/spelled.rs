//! Whole numbers in English words.

use super::unit::{Unit, unit};
use super::words::is_mathematics;

/// Numbers below 100 of one word, and what they stand for.
const SMALL: [(&str, i128); 28] = [
    ("zero", 0),
    ("one", 1),
    ("two", 2),
    ("three", 3),
    ("four", 4),
    ("five", 5),
    ("six", 6),
    ("seven", 7),
    ("eight", 8),
    ("nine", 9),
    ("ten", 10),
    ("eleven", 11),
    ("twelve", 12),
    ("thirteen", 13),
    ("fourteen", 14),
    ("fifteen", 15),
    ("sixteen", 16),
    ("seventeen", 17),
    ("eighteen", 18),
    ("nineteen", 19),
    ("twenty", 20),
    ("thirty", 30),
    ("forty", 40),
    ("fifty", 50),
    ("sixty", 60),
    ("seventy", 70),
    ("eighty", 80),
    ("ninety", 90),
];
/// What multiplies all that stands before it up to a larger one.
const LARGE: [(&str, i128); 4] = [
    ("thousand", 1_000),
    ("million", 1_000_000),
    ("billion", 1_000_000_000),
    ("trillion", 1_000_000_000_000),
];
/// The longest text that is read, bytes.
const MAX_LENGTH: usize = 200;

/// The number that a text is in words, perhaps with its unit or one word for what is counted:
/// `five`, `forty-two apples`, `one hundred and five`, `minus two million`.
pub(super) fn spelled(text: &str) -> Option<(i128, Option<Unit>)> {
    if text.len() > MAX_LENGTH {
        return None;
    }
    let lower = text.to_lowercase();
    let is_gap = |c: char| c.is_whitespace() || c == '-';
    let words: Vec<&str> = lower.split(is_gap).filter(|word| !word.is_empty()).collect();
    let (sign, words) = match words.as_slice() {
        ["minus" | "negative", rest @ ..] => (-1, rest),
        all => (1, all),
    };
    if let Some(number) = whole(words) {
        return Some((sign * number, None));
    }
    let (name, words) = words.split_last()?;
    let number = sign * whole(words)?;
    match unit(name) {
        Some(unit) => Some((number, Some(unit))),
        None => is_counted(name).then_some((number, None)),
    }
}

/// Whether a word behind a number names what is counted. `percent`, `thirds` and `squared` make
/// another number of it.
fn is_counted(name: &str) -> bool {
    const OTHERS: [&str; 10] =
        ["and", "or", "hundred", "dozen", "point", "percent", "pct", "third", "quarter", "halve"];
    let singular = name.strip_suffix('s').unwrap_or(name);
    let is_number = known(&SMALL, singular).or_else(|| known(&LARGE, singular)).is_some();
    // `five tenths`.
    let is_other = OTHERS.contains(&singular) || singular.ends_with("th");
    let is_word = name.len() > 1 && name.chars().all(char::is_alphabetic);
    is_word && !is_number && !is_other && !is_mathematics(name)
}

/// The number that words are and nothing else.
fn whole(words: &[&str]) -> Option<i128> {
    let (mut sum, mut bound) = (0, i128::MAX);
    // What was read since the last of `LARGE`.
    let mut part: Option<i128> = None;
    let mut previous = "";
    for (at, &word) in words.iter().enumerate() {
        let is_round = previous == "hundred" || known(&LARGE, previous).is_some();
        if let Some(small) = known(&SMALL, word) {
            // `forty-two`, `one hundred two`.
            let fits = part.is_none_or(|before| match before % 100 {
                0 => before > 0 && small > 0,
                20..100 => before % 10 == 0 && (1..10).contains(&small),
                _ => false,
            });
            if !fits {
                return None;
            }
            part = Some(part.unwrap_or(0) + small);
        } else if let Some(factor) = known(&LARGE, word) {
            let count = part.take().filter(|count| *count > 0 && factor < bound)?;
            sum += count * factor;
            bound = factor;
        } else {
            match word {
                "a" if at == 0 => part = Some(1),
                "hundred" => part = Some(part.filter(|count| (1..100).contains(count))? * 100),
                "dozen" if at + 1 == words.len() => part = Some(part.filter(|n| *n > 0)? * 12),
                "and" if is_round && at + 1 < words.len() => {}
                _ => return None,
            }
        }
        previous = word;
    }
    // `a` alone is no number.
    let is_article = words.len() == 1 && words[0] == "a";
    (!words.is_empty() && !is_article && previous != "and").then_some(sum + part.unwrap_or(0))
}

fn known(table: &[(&str, i128)], wanted: &str) -> Option<i128> {
    table.iter().find(|(word, _)| *word == wanted).map(|(_, number)| *number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_words_are_read() {
        for (text, number) in [
            ("five", 5),
            ("Forty-Two", 42),
            ("forty two apples", 42),
            ("zero", 0),
            ("minus ten", -10),
            ("negative one", -1),
            ("one hundred and five", 105),
            ("a hundred", 100),
            ("twelve hundred", 1200),
            ("nine hundred ninety-nine thousand, nine", 999_009),
            ("two million three hundred thousand and four", 2_300_004),
            ("a dozen", 12),
            ("two dozen eggs", 24),
            ("five minutes", 5),
            ("six months", 6),
        ] {
            let text = text.replace(',', "");
            assert_eq!(spelled(&text).map(|(number, _)| number), Some(number), "{text}");
        }
        assert_eq!(spelled("five minutes"), Some((5, unit("min"))));
        assert_eq!(spelled("five"), Some((5, None)));
    }

    #[test]
    fn other_words_are_no_numbers() {
        for text in [
            "",
            "a",
            "a cat",
            "one of them",
            "this one",
            "no one",
            "five or six",
            "five and six",
            "five six",
            "twenty eleven",
            "five twenty",
            "two thirds",
            "five halves",
            "one third",
            "one half",
            "a quarter",
            "three fifths",
            "five percent",
            "five squared",
            "two point five",
            "not five",
            "hundred",
            "thousand",
            "hundred and",
            "one hundred and",
            "one thousand million",
            "zero hundred",
            "and five",
            "minus",
        ] {
            assert_eq!(spelled(text), None, "{text}");
        }
    }
}
