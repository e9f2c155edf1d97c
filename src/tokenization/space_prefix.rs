//! The space that SentencePiece tokenizers put before a text.

use std::collections::BTreeSet;

use tokenizers::normalizers::Sequence as Normalizers;
use tokenizers::pre_tokenizers::metaspace::PrependScheme;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::{
    NormalizedString, Normalizer, NormalizerWrapper, PreTokenizedString, PreTokenizer,
    PreTokenizerWrapper, Tokenizer as Inner,
};

/// The steps of a tokenizer without the space before a text, for what continues a text. A
/// byte-level tokenizer that puts spaces before words is none of these: it does so before every
/// piece of a text, wherever it stands.
#[derive(Debug)]
pub(super) struct SpacePrefix {
    normalizer: Option<NormalizerWrapper>,
    pre_tokenizer: Option<PreTokenizerWrapper>,
    /// The added tokens after which a text has a space as if it began there.
    after: BTreeSet<u32>,
}

impl SpacePrefix {
    /// That of a tokenizer, if it puts a space before texts.
    pub fn of(inner: &Inner) -> Option<Self> {
        let normalizer = inner.get_normalizer();
        let pre_tokenizer = inner.get_pre_tokenizer();
        let prepends = normalizer.is_some_and(prepends);
        let scheme = pre_tokenizer.map_or(PrependScheme::Never, scheme);
        if !prepends && scheme == PrependScheme::Never {
            return None;
        }
        let after = inner
            .get_added_tokens_decoder()
            .into_iter()
            // Normalised tokens are recognised after the normaliser has put its space.
            .filter(|(_, token)| scheme == PrependScheme::Always || prepends && !token.normalized)
            .map(|(id, _)| id)
            .collect();
        Some(Self {
            normalizer: normalizer.and_then(bare_normalizer),
            pre_tokenizer: pre_tokenizer.map(bare_pre_tokenizer),
            after,
        })
    }

    /// Whether the text after this token has a space as if it began there.
    pub fn is_after(&self, id: u32) -> bool {
        self.after.contains(&id)
    }

    /// A text that continues another, ready for the model.
    pub fn pre_tokenized(
        &self,
        inner: &Inner,
        text: &str,
    ) -> Result<PreTokenizedString, tokenizers::Error> {
        let steps = Continuing { bare: self.normalizer.as_ref(), whole: inner.get_normalizer() };
        let mut text = inner.get_added_vocabulary().extract_and_normalize(Some(&steps), text);
        if let Some(step) = &self.pre_tokenizer {
            step.pre_tokenize(&mut text)?;
        }
        Ok(text)
    }
}

/// Leaves out the space at the start, but not that after an added token.
struct Continuing<'a> {
    bare: Option<&'a NormalizerWrapper>,
    whole: Option<&'a NormalizerWrapper>,
}

impl Normalizer for Continuing<'_> {
    fn normalize(&self, text: &mut NormalizedString) -> Result<(), tokenizers::Error> {
        let step = if text.offsets_original().0 == 0 { self.bare } else { self.whole };
        step.map_or(Ok(()), |step| step.normalize(text))
    }
}

fn prepends(step: &NormalizerWrapper) -> bool {
    match step {
        NormalizerWrapper::Prepend(_) => true,
        NormalizerWrapper::Sequence(steps) => {
            let steps: &[NormalizerWrapper] = steps.as_ref();
            steps.iter().any(prepends)
        }
        _ => false,
    }
}

fn bare_normalizer(step: &NormalizerWrapper) -> Option<NormalizerWrapper> {
    match step {
        NormalizerWrapper::Prepend(_) => None,
        NormalizerWrapper::Sequence(steps) => {
            let steps: &[NormalizerWrapper] = steps.as_ref();
            Some(Normalizers::new(steps.iter().filter_map(bare_normalizer).collect()).into())
        }
        other => Some(other.clone()),
    }
}

/// When a pre-tokenizer puts a space before a text.
fn scheme(step: &PreTokenizerWrapper) -> PrependScheme {
    match step {
        PreTokenizerWrapper::Metaspace(step) => step.get_prepend_scheme(),
        PreTokenizerWrapper::Sequence(steps) => {
            let steps: &[PreTokenizerWrapper] = steps.as_ref();
            let mut schemes = steps.iter().map(scheme);
            schemes.find(|&scheme| scheme != PrependScheme::Never).unwrap_or(PrependScheme::Never)
        }
        _ => PrependScheme::Never,
    }
}

fn bare_pre_tokenizer(step: &PreTokenizerWrapper) -> PreTokenizerWrapper {
    match step {
        PreTokenizerWrapper::Metaspace(step) => {
            let mut step = step.clone();
            step.set_prepend_scheme(PrependScheme::Never);
            step.into()
        }
        PreTokenizerWrapper::Sequence(steps) => {
            let steps: &[PreTokenizerWrapper] = steps.as_ref();
            PreTokenizers::new(steps.iter().map(bare_pre_tokenizer).collect()).into()
        }
        other => other.clone(),
    }
}
