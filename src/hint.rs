//! What to do about an error: a field of its own, beside what the error says.
//!
//! `Display` of an error never has the hint. The command line prints it as a line of its own, HTTP
//! sends it as a field, and [`explained`] joins the two for logs and records.

use std::borrow::Cow;
use std::fmt;

/// A fault in words, and what to do about it where that is known. Made by `reason!`, or from a
/// text without a hint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reason {
    /// What is wrong.
    pub text: Cow<'static, str>,
    /// What to do about it, without `hint:`.
    pub hint: Option<Cow<'static, str>>,
}

/// An error that may know what to do about it.
pub trait Hint: fmt::Display {
    /// What to do about it, without `hint:`.
    fn hint(&self) -> Option<Cow<'_, str>>;

    /// Text and hint, to hand on as the reason of another error.
    fn reason(&self) -> Reason {
        let hint = self.hint().map(|hint| Cow::Owned(hint.into_owned()));
        Reason { text: Cow::Owned(self.to_string()), hint }
    }

    /// Text and hint as one text, for logs and records.
    fn explained(&self) -> String {
        explained(&self.to_string(), self.hint().as_deref())
    }
}

/// A text with its hint on a line of its own.
pub fn explained(text: &str, hint: Option<&str>) -> String {
    match hint {
        Some(hint) => format!("{text}\nhint: {hint}"),
        None => text.to_owned(),
    }
}

/// Makes a [`Reason`]: `reason!("no key `{id}`"; hint: "`server keys list` shows all")`. Both texts
/// take arguments as those of `format!` do.
macro_rules! reason {
    ($text:literal $(, $value:expr)* $(,)? ; hint: $hint:literal $(, $other:expr)* $(,)?) => {
        $crate::hint::Reason {
            text: ::std::format_args!($text $(, $value)*).to_string().into(),
            hint: Some(::std::format_args!($hint $(, $other)*).to_string().into()),
        }
    };
}

impl Reason {
    /// The same with another hint.
    pub fn with_hint(self, hint: impl Into<Cow<'static, str>>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// The same hint beside a text that is made of this one.
    pub fn map_text(self, text: impl FnOnce(&str) -> String) -> Self {
        Self { text: text(&self.text).into(), ..self }
    }
}

impl Hint for Reason {
    fn hint(&self) -> Option<Cow<'_, str>> {
        self.hint.as_deref().map(Cow::Borrowed)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Reason {}

impl From<String> for Reason {
    fn from(text: String) -> Self {
        Self { text: text.into(), hint: None }
    }
}

impl From<&'static str> for Reason {
    fn from(text: &'static str) -> Self {
        Self { text: text.into(), hint: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_hint_stay_apart_until_they_are_joined() {
        let (id, known) = ("a", "b");
        let reason = reason!("there is no `{id}`, but {}", 2; hint: "known is `{known}`");
        assert_eq!(reason.to_string(), "there is no `a`, but 2");
        assert_eq!(reason.hint().as_deref(), Some("known is `b`"));
        assert_eq!(reason.explained(), "there is no `a`, but 2\nhint: known is `b`");
        assert_eq!(Reason::from("no more").explained(), "no more");
        assert_eq!(reason.reason(), reason);
    }
}
