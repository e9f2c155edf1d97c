//! Counts tokens for endpoints that report no usage: with the model's own tokenizer if the operator
//! configured it, otherwise by an estimate.

use std::path::Path;

use super::texts::request_texts;
use crate::gguf::Gguf;
use crate::token_estimate::TokenEstimate;
use crate::tokenization::{ChatTokenizer, TemplateMessage, Tokenizer, TokenizerError};
use crate::trajectory::TokenUsage;

/// The most text of a request, and of a reply, that is tokenised, bytes. The rest is estimated, and
/// the estimate is corrected by its error on the tokenised part.
const MAX_COUNTED: usize = 1024 * 1024;

/// Counts the tokens of one model.
#[derive(Debug, Default)]
pub(super) struct TokenCounter {
    tokenizer: Option<Tokenizer>,
    frame: Frame,
}

/// The tokens of a request beside its texts.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Frame {
    request: u64,
    message: u64,
}

impl Default for Frame {
    /// As most chat templates have it.
    fn default() -> Self {
        Self { request: 3, message: 4 }
    }
}

impl TokenCounter {
    /// Reads a tokenizer, and the chat template beside it where there is one, from a model's
    /// folder, a `tokenizer.json` or a GGUF file.
    ///
    /// # Errors
    /// When there is no tokenizer, or one that cannot be used.
    pub(super) fn load(path: &Path) -> Result<Self, TokenizerError> {
        let is_gguf = Gguf::is_path(path);
        let folder = if is_gguf || path.is_dir() { path } else { path.parent().unwrap_or(path) };
        if let Ok(text) = ChatTokenizer::load(folder)
            && let Ok(frame) = Frame::of(&text)
        {
            return Ok(Self { tokenizer: Some(text.tokenizer), frame });
        }
        let tokenizer = match is_gguf {
            true => Tokenizer::from_gguf(&Gguf::open(path)?)?,
            false => Tokenizer::load(folder)?,
        };
        Ok(Self { tokenizer: Some(tokenizer), frame: Frame::default() })
    }

    /// Texts to be counted.
    pub(super) fn texts(&self) -> Texts {
        let counted = self.tokenizer.as_ref().map(|_| Counted::default());
        Texts { estimate: TokenEstimate::default(), counted }
    }

    /// What a request, its body, and a reply of these texts are billed. Takes time in proportion to
    /// their length.
    pub(super) fn usage(&self, request: &[u8], reply: &Texts) -> TokenUsage {
        self.usage_of(&self.asked(request), reply)
    }

    /// What counts of a request, its body.
    pub(super) fn asked(&self, request: &[u8]) -> RequestTexts {
        let mut texts = self.texts();
        let messages = request_texts(request, &mut |text| texts.add(text));
        RequestTexts { texts, messages }
    }

    /// The same for what was kept of a request.
    pub(super) fn usage_of(&self, asked: &RequestTexts, reply: &Texts) -> TokenUsage {
        let frame = match asked.messages {
            0 => 0,
            messages => self.frame.request + self.frame.message * messages as u64,
        };
        TokenUsage::reported(self.tokens(&asked.texts) + frame, self.tokens(reply))
    }

    fn tokens(&self, texts: &Texts) -> u64 {
        let estimate = texts.estimate.tokens();
        let (Some(tokenizer), Some(counted)) = (&self.tokenizer, &texts.counted) else {
            return estimate;
        };
        let mut tokens = 0;
        let mut begin = 0;
        for end in counted.ends.iter().copied().chain([counted.text.len()]) {
            let text = &counted.text[begin..end];
            let ids = tokenizer.encode_text(text);
            tokens += ids.map_or_else(|_| TokenEstimate::of(text).tokens(), |ids| ids.len() as u64);
            begin = end;
        }
        match counted.estimate.tokens() {
            all if all == estimate => tokens,
            // A text that has no tokens says nothing about the rest.
            0 => estimate,
            part => (estimate as f64 * tokens as f64 / part as f64).ceil() as u64,
        }
    }
}

impl Frame {
    /// What a chat template writes around texts.
    fn of(text: &ChatTokenizer) -> Result<Self, TokenizerError> {
        let message = |role| TemplateMessage::text(role, "a");
        let one = text.conversation_ids(&[message("user")])?.len();
        let three = [message("user"), message("assistant"), message("user")];
        let three = text.conversation_ids(&three)?.len();
        let own = text.tokenizer.encode_text("a")?.len();
        let message = (three.saturating_sub(one) / 2).saturating_sub(own);
        Ok(Self { request: one.saturating_sub(own + message) as u64, message: message as u64 })
    }
}

/// What counts of a request.
#[derive(Debug)]
pub(super) struct RequestTexts {
    texts: Texts,
    messages: usize,
}

impl RequestTexts {
    /// Bytes that are to be tokenised.
    pub(super) fn length(&self) -> usize {
        self.texts.length()
    }
}

/// Texts, as far as they matter for counting.
#[derive(Debug, Default)]
pub(super) struct Texts {
    /// Of all of them.
    estimate: TokenEstimate,
    /// Where there is a tokenizer.
    counted: Option<Counted>,
}

/// What is tokenised.
#[derive(Debug, Default)]
struct Counted {
    text: String,
    /// Where one text ends and the next begins.
    ends: Vec<usize>,
    estimate: TokenEstimate,
}

impl Texts {
    /// Adds a text.
    pub(super) fn add(&mut self, text: &str) {
        self.push(text);
        self.end();
    }

    /// Adds a piece of a text.
    pub(super) fn push(&mut self, text: &str) {
        self.estimate.push(text);
        if let Some(counted) = &mut self.counted
            && counted.text.len() + text.len() <= MAX_COUNTED
        {
            counted.text.push_str(text);
            counted.estimate.push(text);
        }
    }

    /// Ends a text.
    pub(super) fn end(&mut self) {
        self.estimate.end();
        if let Some(counted) = &mut self.counted {
            counted.estimate.end();
            if counted.ends.last() != Some(&counted.text.len()) {
                counted.ends.push(counted.text.len());
            }
        }
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.estimate.tokens() == 0
    }

    /// Bytes that are to be tokenised.
    pub(super) fn length(&self) -> usize {
        self.counted.as_ref().map_or(0, |counted| counted.text.len())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    /// A request of these texts, by turns the user's and the assistant's.
    fn request(texts: &[&str]) -> Vec<u8> {
        let roles = ["user", "assistant"].into_iter().cycle();
        let messages = texts.iter().zip(roles);
        let messages: Vec<_> =
            messages.map(|(text, role)| json!({"role": role, "content": text})).collect();
        json!({"model": "m", "messages": messages}).to_string().into_bytes()
    }

    fn usage(counter: &TokenCounter, texts: &[&str], reply: &[&str]) -> (u64, u64) {
        let mut said = counter.texts();
        reply.iter().for_each(|text| said.push(text));
        let usage = counter.usage(&request(texts), &said);
        (usage.prompt_tokens, usage.completion_tokens)
    }

    #[test]
    fn a_tokenizer_counts_what_its_model_reads_and_writes() {
        let folder = Path::new("models/policy");
        let text = ChatTokenizer::load(folder).unwrap();
        for path in [folder, &folder.join("tokenizer.json")] {
            let counter = TokenCounter::load(path).unwrap();
            for texts in [&["Who wrote it?"][..], &["Who?", "Ferk wrote it.", "Where? <|end|>"]] {
                let roles = ["user", "assistant"].into_iter().cycle();
                let messages: Vec<_> = texts
                    .iter()
                    .zip(roles)
                    .map(|(&text, role)| TemplateMessage::text(role, text))
                    .collect();
                let read = text.conversation_ids(&messages).unwrap().len();
                let written = text.tokenizer.encode_text("Ferk wrote it.").unwrap().len();
                let counted = usage(&counter, texts, &["Ferk wr", "ote it."]);
                assert_eq!(counted.1, written as u64, "{texts:?}");
                // Where a text and its frame meet, they may share a token.
                let off = counted.0.abs_diff(read as u64) as f64 / read as f64;
                assert!(off < 0.05, "{texts:?}: {counted:?}, not {read}");
            }
        }
        assert!(TokenCounter::load(Path::new("models")).is_err());
    }

    #[test]
    fn long_texts_are_counted_in_part() {
        let counter = TokenCounter::load(Path::new("models/large-model")).unwrap();
        let piece = "Who wrote it? ".repeat(1000);
        let pieces = vec![piece.as_str(); 2 * MAX_COUNTED / piece.len()];
        let one = usage(&counter, &["a"], &[&piece]).1;
        let (_, all) = usage(&counter, &["a"], &pieces);
        let ratio = all as f64 / (one * pieces.len() as u64) as f64;
        assert!((0.99..1.01).contains(&ratio), "{ratio}");
        let mut said = counter.texts();
        pieces.iter().for_each(|text| said.push(text));
        assert!(said.length() <= MAX_COUNTED, "{}", said.length());
    }

    #[test]
    fn without_one_texts_are_estimated() {
        let counter = TokenCounter::default();
        let frame = Frame::default();
        let estimate = TokenEstimate::of("Who wrote it?").tokens();
        let expected = (estimate + frame.request + frame.message, estimate);
        assert_eq!(usage(&counter, &["Who wrote it?"], &["Who wrote it?"]), expected);
        let embedded = json!({"input": "Who wrote it?"}).to_string();
        assert_eq!(counter.usage(embedded.as_bytes(), &counter.texts()).prompt_tokens, estimate);
    }
}
