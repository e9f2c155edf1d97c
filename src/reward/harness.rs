//! Answers of GSM8K and MATH as lm-evaluation-harness extracts and compares them, for comparison
//! with published figures. Its quirks are reproduced.

/// GSM8K, filter `strict-match`: the number after the first `#### `.
pub(super) fn gsm8k_strict(answer: &str, gold: &str) -> bool {
    let found = answer.match_indices("#### ").find_map(|(at, mark)| {
        let rest = &answer[at + mark.len()..];
        let sign = usize::from(rest.starts_with('-'));
        let is_part = |c: char| c.is_ascii_digit() || c == '.' || c == ',';
        let length = rest[sign..].find(|c| !is_part(c)).unwrap_or(rest.len() - sign);
        (length > 0).then(|| &rest[..sign + length])
    });
    found.is_some_and(|found| cleaned(found) == cleaned(gold))
}

/// GSM8K, filter `flexible-extract`: the last number.
pub(super) fn gsm8k_flexible(answer: &str, gold: &str) -> bool {
    last_number(answer).is_some_and(|found| cleaned(found) == cleaned(gold))
}

/// The last match of `(-?[$0-9.,]{2,})|(-?[0-9]+)`.
fn last_number(text: &str) -> Option<&str> {
    let bytes = text.as_bytes();
    let is_part = |byte: &u8| byte.is_ascii_digit() || b"$.,".contains(byte);
    let (mut at, mut last) = (0, None);
    while at < bytes.len() {
        let begin = at + usize::from(bytes[at] == b'-');
        let run = bytes[begin..].iter().take_while(|byte| is_part(byte)).count();
        let is_match = run >= 2 || (run == 1 && bytes[begin].is_ascii_digit());
        if is_match {
            last = Some(&text[at..begin + run]);
            at = begin + run;
        } else {
            at += 1;
        }
    }
    last
}

/// In lower case, without commas, dollar signs, all up to the last `#### ` and a closing full stop.
fn cleaned(text: &str) -> String {
    let text = text.replace([',', '$'], "");
    let text = text.rsplit_once("#### ").map_or(text.as_str(), |(_, rest)| rest);
    let text = text.strip_suffix('.').unwrap_or(text);
    text.to_lowercase()
}

/// MATH, task `hendrycks_math`: what stands between the first and the last `$`, or all, compared
/// after normalising as text.
pub(super) fn hendrycks_math(answer: &str, gold: &str) -> bool {
    let answer = match (answer.find('$'), answer.rfind('$')) {
        (Some(first), Some(last)) if first < last => &answer[first + 1..last],
        _ => answer,
    };
    match (stripped(answer), stripped(gold)) {
        (Some(answer), Some(gold)) => answer == gold,
        _ => answer == gold,
    }
}

/// The normal form; `None` where the original raises an exception.
fn stripped(text: &str) -> Option<String> {
    let mut text = text.replace('\n', "").replace("\\!", "").replace("\\\\", "\\");
    for (from, to) in [
        ("tfrac", "frac"),
        ("dfrac", "frac"),
        ("\\left", ""),
        ("\\right", ""),
        ("^{\\circ}", ""),
        ("^\\circ", ""),
        ("\\$", ""),
    ] {
        text = text.replace(from, to);
    }
    // Units on the right.
    let mut parts = text.split("\\text{ ");
    let (left, units) = (parts.next()?.to_owned(), parts.count());
    match units {
        0 => {}
        1 => text = left,
        _ => return None,
    }
    text = text.replace("\\%", "").replace(" .", " 0.").replace("{.", "{0.");
    if text.is_empty() {
        return Some(text);
    }
    if text.starts_with('.') {
        text.insert(0, '0');
    }
    if let Some((name, value)) = text.split_once('=')
        && !value.contains('=')
        && name.chars().count() <= 2
    {
        text = value.to_owned();
    }
    text = with_braces_after_roots(&text)?.replace(' ', "");
    text = with_braces_after_fractions(&text)?;
    if text == "0.5" {
        text = "\\frac{1}{2}".into();
    }
    slash_to_fraction(text)
}

fn with_braces_after_roots(text: &str) -> Option<String> {
    let mut parts = text.split("\\sqrt");
    let mut out = parts.next()?.to_owned();
    for part in parts {
        let first = part.chars().next()?;
        out += "\\sqrt";
        match first {
            '{' => out += part,
            _ => out += &format!("{{{first}}}{}", &part[first.len_utf8()..]),
        }
    }
    Some(out)
}

fn with_braces_after_fractions(text: &str) -> Option<String> {
    let mut parts = text.split("\\frac");
    let mut out = parts.next()?.to_owned();
    for part in parts {
        out += "\\frac";
        let mut characters = part.chars();
        let over = characters.next()?;
        if over == '{' {
            out += part;
            continue;
        }
        let Some(under) = characters.next() else { return Some(text.to_owned()) };
        let rest = characters.as_str();
        out += &match under {
            '{' => format!("{{{over}}}{{{rest}"),
            _ => format!("{{{over}}}{{{under}}}{rest}"),
        };
    }
    Some(out)
}

/// `1/2` as a fraction; `None` where a side of the only slash is no whole number.
fn slash_to_fraction(text: String) -> Option<String> {
    let mut parts = text.split('/');
    let (Some(over), Some(under), None) = (parts.next(), parts.next(), parts.next()) else {
        return Some(text);
    };
    // Python also accepts spaces, signs and underscores in a whole number, but such a text never
    // equals its own canonical form.
    let whole = |text: &str| {
        let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
    };
    if !whole(over) || !whole(under) {
        return None;
    }
    let is_canonical = |text: &str| {
        let digits = text.strip_prefix('-').unwrap_or(text);
        !text.starts_with('+') && text != "-0" && (digits == "0" || !digits.starts_with('0'))
    };
    if is_canonical(over) && is_canonical(under) {
        return Some(format!("\\frac{{{over}}}{{{under}}}"));
    }
    Some(text)
}
