//! The thoughts of a reply while the model writes it: they come before its text.

use super::lenient::Joiner;
use super::reply::ReplyAssembler;
use crate::large_model::THOUGHTS;
use crate::outbound::redact::TextRedactor;

/// Hands on thoughts as they come.
pub(super) struct Thoughts {
    /// The field that they come in: some endpoints repeat them in a second one.
    field: Option<&'static str>,
    /// Bytes of it that were taken.
    taken: usize,
    joiner: Joiner,
    redactor: TextRedactor,
}

impl Thoughts {
    pub(super) fn new(redactor: TextRedactor) -> Self {
        Self { field: None, taken: 0, joiner: Joiner::default(), redactor }
    }

    /// What is new in the reply. `is_over`: whether nothing more is thought, so that nothing is
    /// held back.
    pub(super) fn next(&mut self, assembly: &ReplyAssembler, is_over: bool) -> String {
        let is_said = |field: &&str| assembly.said(field).is_some_and(|said| !said.is_empty());
        self.field = self.field.or_else(|| THOUGHTS.into_iter().find(is_said));
        let said = self.field.and_then(|field| assembly.said(field)).unwrap_or_default();
        let fresh = said.get(self.taken..).unwrap_or_default();
        self.taken += fresh.len();
        let fresh = self.joiner.push(fresh);
        let mut shown = self.redactor.push(fresh);
        if is_over {
            let rest = self.joiner.finish();
            shown.push_str(&self.redactor.push(rest));
            shown.push_str(&self.redactor.finish());
        }
        shown
    }
}
