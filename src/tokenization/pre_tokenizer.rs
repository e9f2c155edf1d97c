//! How byte-level BPE tokenizers split a text into words, by the names that GGUF files use.

/// A pre-tokenizer.
#[derive(Debug)]
pub(super) struct PreTokenizer {
    names: &'static [&'static str],
    /// Regular expressions, each applied to what the previous ones left.
    pub patterns: &'static [&'static str],
    /// Whether a word that is a token is taken as it is, without merges.
    pub ignore_merges: bool,
    /// Whether texts start with the start token if the file does not say.
    pub begins: bool,
}

pub(super) const DIGIT: &str = r"\p{N}";
const THREE_DIGITS: &str = r"\p{N}{1,3}";
pub(super) const GPT_2: &str =
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN_2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT_4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK_3: [&str; 3] = [
    THREE_DIGITS,
    r"[一-龥぀-ゟ゠-ヿ]+",
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##,
];
const DEEPSEEK_CODER: [&str; 5] =
    [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+", DIGIT];
const DEFAULT: [&str; 4] = [r"[\p{P}\$\+<=>\^~\|]+", GPT_2, r"\p{N}+", r"[0-9][0-9][0-9]"];

const KNOWN: [PreTokenizer; 10] = [
    PreTokenizer::new(&["default"], &DEFAULT),
    PreTokenizer::new(&["gpt-2", "phi-2", "olmo", "mpt", "granite-docling"], &[GPT_2]),
    PreTokenizer::new(
        &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"],
        &[DIGIT, GPT_2],
    ),
    PreTokenizer::new(&["qwen2", "deepseek-r1-qwen", "stablelm2", "hunyuan"], &[QWEN_2]),
    PreTokenizer::new(
        &["llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "lfm2"],
        &[LLAMA_3],
    )
    .whole_words_first(),
    PreTokenizer::new(&["dbrx", "smaug-bpe"], &[LLAMA_3]),
    PreTokenizer::new(&["deepseek-coder"], &DEEPSEEK_CODER),
    PreTokenizer::new(&["deepseek-v3", "hunyuan-dense"], &DEEPSEEK_3),
    PreTokenizer::new(&["tekken", "mistral"], &[TEKKEN]).whole_words_first(),
    PreTokenizer::new(&["gpt-4o", "llama4"], &[GPT_4O]),
];

impl PreTokenizer {
    const fn new(names: &'static [&'static str], patterns: &'static [&'static str]) -> Self {
        Self { names, patterns, ignore_merges: false, begins: false }
    }

    const fn whole_words_first(self) -> Self {
        Self { ignore_merges: true, begins: true, ..self }
    }

    /// The pre-tokenizer of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        const ALL: &[PreTokenizer] = &KNOWN;
        ALL.iter().find(|known| known.names.contains(&name))
    }

    /// The first name of the pre-tokenizer with these patterns.
    pub fn name_of(patterns: &[&str], ignore_merges: bool) -> Option<&'static str> {
        let is_it =
            |known: &&Self| known.patterns == patterns && known.ignore_merges == ignore_merges;
        const ALL: &[PreTokenizer] = &KNOWN;
        ALL.iter().find(is_it).and_then(|known| known.names.first().copied())
    }

    /// Every name.
    pub fn names() -> impl Iterator<Item = &'static str> {
        KNOWN.iter().flat_map(|known| known.names.iter().copied())
    }
}
