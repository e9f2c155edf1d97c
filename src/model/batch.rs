//! What a training step reads and what it gets back: packed sequences, scored rows, scores.

use super::error::ModelError;

/// Sequences packed one after another, without padding. They never see each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// Token ids of all sequences.
    pub ids: Vec<u32>,
    /// Where each sequence begins in `ids`, and at the end the number of ids: one entry more than
    /// there are sequences. Strictly increasing from 0.
    pub starts: Vec<usize>,
}

impl Batch {
    /// Packs `sequences`, none of which may be empty.
    pub fn pack<S: AsRef<[u32]>>(sequences: &[S]) -> Self {
        let mut batch = Self { ids: Vec::new(), starts: vec![0] };
        for sequence in sequences {
            batch.ids.extend_from_slice(sequence.as_ref());
            batch.starts.push(batch.ids.len());
        }
        batch
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Number of sequences.
    pub fn sequences(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    /// Position of each token within its own sequence.
    pub fn positions(&self) -> Vec<u32> {
        let mut positions = Vec::with_capacity(self.ids.len());
        for pair in self.starts.windows(2) {
            positions.extend((0..pair[1].saturating_sub(pair[0])).map(|p| p as u32));
        }
        positions
    }

    pub(super) fn check(&self, vocab: usize, context: usize) -> Result<(), ModelError> {
        let rises = self.starts.windows(2).all(|pair| pair[0] < pair[1]);
        let ends = self.starts.first() == Some(&0) && self.starts.last() == Some(&self.ids.len());
        if self.is_empty() || !rises || !ends {
            return Err(ModelError::Batch(format!(
                "`starts` must rise strictly from 0 to the number of ids, {}",
                self.ids.len()
            )));
        }
        if let Some(id) = self.ids.iter().find(|&&id| id as usize >= vocab) {
            return Err(ModelError::Batch(format!(
                "token `{id}` is outside the vocabulary of {vocab}"
            )));
        }
        let longest = self.starts.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
        if longest > context {
            return Err(ModelError::Batch(format!(
                "a sequence of {longest} tokens exceeds `max_position_embeddings` {context}"
            )));
        }
        Ok(())
    }
}

/// Which rows' next token is scored: row `rows[i]` of the packed batch predicts `targets[i]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Rows of the packed batch, strictly increasing.
    pub rows: Vec<u32>,
    /// The token each row predicts.
    pub targets: Vec<u32>,
}

impl Selection {
    /// Every row that has a successor in its own sequence, predicting that successor.
    pub fn next_tokens(batch: &Batch) -> Self {
        let mut selection = Self::default();
        for pair in batch.starts.windows(2) {
            for row in pair[0]..pair[1].saturating_sub(1) {
                selection.rows.push(row as u32);
                selection.targets.push(batch.ids[row + 1]);
            }
        }
        selection
    }

    /// Number of scored rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether no row is scored.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(super) fn check(&self, tokens: usize, vocab: usize) -> Result<(), ModelError> {
        if self.is_empty() {
            return Err(ModelError::Batch("no row is selected".to_owned()));
        }
        if self.rows.len() != self.targets.len() {
            return Err(ModelError::Batch(format!(
                "{} rows but {} targets",
                self.rows.len(),
                self.targets.len()
            )));
        }
        if !self.rows.windows(2).all(|pair| pair[0] < pair[1])
            || self.rows.last().is_some_and(|&row| row as usize >= tokens)
        {
            return Err(ModelError::Batch(format!(
                "selected rows must rise strictly and stay below {tokens}"
            )));
        }
        match self.targets.iter().find(|&&id| id as usize >= vocab) {
            Some(id) => Err(ModelError::Batch(format!(
                "target `{id}` is outside the vocabulary of {vocab}"
            ))),
            None => Ok(()),
        }
    }
}

/// Scores of the selected rows, in their order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TokenScores {
    /// Natural-log probability of each target.
    pub log_probs: Vec<f32>,
    /// Entropy of each row's distribution over the next token, in nats.
    pub entropies: Vec<f32>,
}
