//! Inputs and outputs of a training step: packed sequences, scored rows, scores.

use std::ops::Range;

use super::error::ModelError;

/// Sequences packed one after another, without padding. They never attend to each other. Common
/// prefixes may be stored once: then they are the branches of a tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// Token ids of all branches.
    pub ids: Vec<u32>,
    /// Where each branch begins in `ids`, and at the end the number of ids: one entry more than
    /// there are branches. Strictly increasing from 0.
    pub starts: Vec<usize>,
    /// For each branch the row that its first row follows, which is before it in the same tree;
    /// `None` where a tree begins.
    pub parents: Vec<Option<usize>>,
}

/// Consecutive rows, with the rows that they continue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Branch {
    /// The rows from the beginning of its sequence; the last range holds its own. Never empty.
    pub path: Vec<Range<usize>>,
}

impl Branch {
    /// Its own rows.
    pub fn own(&self) -> Range<usize> {
        self.path.last().cloned().unwrap_or_default()
    }

    /// Number of rows before its own.
    pub fn past(&self) -> usize {
        self.len() - self.own().len()
    }

    /// Number of rows on the path.
    pub fn len(&self) -> usize {
        self.path.iter().map(ExactSizeIterator::len).sum()
    }
}

impl Batch {
    /// Packs `sequences`, none of which may be empty.
    pub fn pack<S: AsRef<[u32]>>(sequences: &[S]) -> Self {
        let mut batch = Self { starts: vec![0], ..Self::default() };
        for sequence in sequences {
            batch.branch(None, sequence.as_ref());
        }
        batch
    }

    /// Packs `sequences`, none of which may be empty, storing the prefix that each shares with its
    /// predecessor once. Sorting them maximises sharing. Also returns the rows of each.
    pub fn merge<S: AsRef<[u32]>>(sequences: &[S]) -> (Self, Vec<Vec<u32>>) {
        let mut batch = Self { starts: vec![0], ..Self::default() };
        let mut all: Vec<Vec<u32>> = Vec::with_capacity(sequences.len());
        let mut before: &[u32] = &[];
        for sequence in sequences {
            let sequence = sequence.as_ref();
            let shared = Self::common(before, sequence);
            let mut rows = all.last().map_or_else(Vec::new, |rows| rows[..shared].to_vec());
            if shared < sequence.len() {
                let first = batch.len() as u32;
                batch.branch(rows.last().map(|&row| row as usize), &sequence[shared..]);
                rows.extend(first..batch.len() as u32);
            }
            all.push(rows);
            before = sequence;
        }
        (batch, all)
    }

    /// The length of the common prefix of two sequences.
    pub fn common(a: &[u32], b: &[u32]) -> usize {
        a.iter().zip(b).take_while(|(a, b)| a == b).count()
    }

    fn branch(&mut self, parent: Option<usize>, ids: &[u32]) {
        self.ids.extend_from_slice(ids);
        self.starts.push(self.ids.len());
        self.parents.push(parent);
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Number of branches; without sharing, of sequences.
    pub fn sequences(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    /// Position of each token within its own sequence.
    pub fn positions(&self) -> Vec<u32> {
        let mut positions: Vec<u32> = Vec::with_capacity(self.ids.len());
        for (pair, parent) in self.starts.windows(2).zip(&self.parents) {
            let first = parent.map_or(0, |row| positions[row] + 1);
            positions.extend((0..pair[1].saturating_sub(pair[0])).map(|p| first + p as u32));
        }
        positions
    }

    /// The branches of each tree, in order.
    pub(crate) fn trees(&self) -> Vec<Vec<Branch>> {
        let mut trees: Vec<Vec<Branch>> = Vec::new();
        // Where the branches of the tree begin, which is growing.
        let mut first = 0;
        for (index, (pair, parent)) in self.starts.windows(2).zip(&self.parents).enumerate() {
            let own = pair[0]..pair[1];
            match (parent, trees.last_mut()) {
                (Some(row), Some(tree)) => {
                    let before = self.starts[..index].partition_point(|start| start <= row) - 1;
                    let mut path = tree[before - first].path.clone();
                    if let Some(last) = path.last_mut() {
                        last.end = row + 1;
                    }
                    path.push(own);
                    tree.push(Branch { path });
                }
                _ => {
                    first = index;
                    trees.push(vec![Branch { path: vec![own] }]);
                }
            }
        }
        trees
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
        let mut root = 0;
        for (&start, parent) in self.starts.iter().zip(&self.parents) {
            root = if parent.is_none() { start } else { root };
            if parent.is_some_and(|row| row < root || row >= start) {
                return Err(ModelError::Batch(
                    "a branch must continue an earlier row of its own tree".to_owned(),
                ));
            }
        }
        if self.parents.len() != self.sequences() {
            return Err(ModelError::Batch(format!(
                "{} branches but {} parents",
                self.sequences(),
                self.parents.len()
            )));
        }
        if let Some(id) = self.ids.iter().find(|&&id| id as usize >= vocab) {
            return Err(ModelError::Batch(format!(
                "token `{id}` is outside the vocabulary of {vocab}"
            )));
        }
        let longest = self.positions().into_iter().max().map_or(0, |last| last as usize + 1);
        if longest > context {
            return Err(ModelError::Batch(format!(
                "a sequence of {longest} tokens exceeds `max_position_embeddings` {context}"
            )));
        }
        Ok(())
    }
}

/// The rows whose next token is scored: row `rows[i]` of the packed batch predicts `targets[i]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Rows of the packed batch, in any order. A row that branches continue predicts several
    /// tokens.
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
        if self.rows.iter().any(|&row| row as usize >= tokens) {
            return Err(ModelError::Batch(format!("selected rows must stay below {tokens}")));
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
