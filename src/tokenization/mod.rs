//! Text to token ids and back, and the frame a chat template puts around it. Untrusted text can
//! never become a control token.

mod bounded;
mod chat_template;
mod chat_tokenizer;
mod decode;
mod fingerprint;
mod gguf;
mod jinja;
mod pre_tokenizer;
mod space_prefix;
mod token_settings;
mod tokenizer;
mod untrusted;
pub mod word_level;

pub use bounded::{BYTES_A_TOKEN, TokenizeError, tokenized, tokenizing};
pub use chat_template::{ChatFormat, ChatTemplate, SpecialTokens, TemplateMessage};
pub use chat_tokenizer::ChatTokenizer;
pub use decode::IncrementalDecoder;
pub use fingerprint::{CONVERSATION, Fingerprint, written_conversation};
pub use gguf::{GgufTokenizer, gguf_entries, write_text_files, write_texts};
pub use tokenizer::{Tokenizer, TokenizerError};
