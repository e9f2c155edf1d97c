//! The conversations of a supervised run, as tokens.

use std::path::Path;

use super::config::{SftConfig, SftData};
use crate::dataset::{Example, ReadOptions, read_examples};
use crate::train::error::TrainError;
use crate::train::example::{chat, demonstration, question_and_answer};
use crate::train::start::Start;
use crate::train::summary::{DataSummary, RunSummary};
use crate::trajectory::TokenTrace;
use crate::world::{Split, World};

/// The number of conversations in an evaluation.
const EVAL_EXAMPLES: usize = 256;

/// Training and held-out conversations.
pub struct Examples {
    pub train: Vec<TokenTrace>,
    pub eval: Vec<TokenTrace>,
}

/// Reads or generates the conversations of `config`, and records their outcome in `summary`.
///
/// # Errors
/// When too many rows cannot be used.
pub fn examples(
    config: &SftConfig,
    start: &Start,
    summary: &mut RunSummary,
) -> Result<Examples, TrainError> {
    let text = &start.text;
    let mut made = match &config.data {
        SftData::WorldFacts { world } => {
            let world = World::generate(world)?;
            let train = world
                .single_facts()
                .filter(|fact| fact.trained)
                .map(|fact| question_and_answer(text, &fact.question, &fact.answer))
                .collect::<Result<Vec<_>, _>>()?;
            Examples { train, eval: Vec::new() }
        }
        SftData::WorldDemonstrations { world, mix, count } => {
            let world = World::generate(world)?;
            let protocol = start.protocol()?;
            let max_turns = crate::episode::Limits::default().max_turns;
            let make = |split, n, seed| {
                world
                    .demonstrations(mix, split, n, seed)?
                    .iter()
                    .map(|shown| Ok(demonstration(text, &protocol, max_turns, shown)?))
                    .collect::<Result<Vec<_>, TrainError>>()
            };
            Examples {
                train: make(Split::Train, *count, config.seed)?,
                eval: make(Split::Test, EVAL_EXAMPLES, config.seed)?,
            }
        }
        SftData::Chat { path, read: options, eval_path } => {
            let (train, read) = chats(path, options.clone(), start)?;
            let (eval, held_out) = match eval_path {
                Some(path) => chats(path, options.columns(), start)?,
                None => Default::default(),
            };
            summary.data.push(read);
            summary.data.extend(eval_path.as_ref().map(|_| held_out));
            Examples { train, eval }
        }
    };
    let context = start.model.spec().max_position_embeddings;
    if summary.data.is_empty() {
        for (from, made) in [("the world", &made.train), ("the held-out world", &made.eval)] {
            let from = from.to_owned();
            summary.data.push(DataSummary { from, rows: made.len(), ..Default::default() });
        }
    }
    for (made, data) in [&mut made.train, &mut made.eval].into_iter().zip(&mut summary.data) {
        let all = made.len();
        made.retain(|trace| trace.ids.len() <= context);
        data.too_long = all - made.len();
    }
    let fitting = made.eval.len();
    made.eval.truncate(EVAL_EXAMPLES);
    for (data, used) in summary.data.iter_mut().zip([made.train.len(), made.eval.len()]) {
        data.used = used;
    }
    if let [_, eval] = &mut summary.data[..] {
        eval.left_out += fitting - made.eval.len();
    }
    for data in summary.data.iter().filter(|data| data.rows > 0) {
        data.check(config.max_rejected)?;
    }
    if made.train.is_empty() {
        return Err(TrainError::Config(
            "there is nothing to learn from: the data has no conversation".into(),
        ));
    }
    Ok(made)
}

/// The conversations of files; other rows are rejected.
fn chats(
    path: &Path,
    read: ReadOptions,
    start: &Start,
) -> Result<(Vec<TokenTrace>, DataSummary), TrainError> {
    // Rejected and too long rows are checked against one limit.
    let read = read_examples(path, &ReadOptions { max_rejected: 1.0, ..read })?;
    let mut data = DataSummary::new(path, &read.summary);
    let protocol = start.protocol()?;
    let max_turns = crate::episode::Limits::default().max_turns;
    let mut made = Vec::with_capacity(read.rows.len());
    for (index, example) in read.rows.iter().enumerate() {
        let trace = match example {
            Example::Chat(turns) => chat(&start.text, turns),
            Example::Episode(shown) => demonstration(&start.text, &protocol, max_turns, shown),
        };
        match trace {
            Ok(trace) => made.push(trace),
            Err(reason) => data.reject(format!("conversation {}: {reason}", index + 1)),
        }
    }
    Ok((made, data))
}
