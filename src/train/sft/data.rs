//! The conversations of a supervised run, as tokens.

use std::path::Path;

use serde::Deserialize;

use super::config::{SftConfig, SftData};
use crate::train::error::TrainError;
use crate::train::example::{ChatLine, chat, demonstration, question_and_answer};
use crate::train::start::Start;
use crate::train::summary::{DataSummary, Summary};
use crate::trajectory::TokenTrace;
use crate::world::{Split, World};

/// How many conversations an evaluation takes.
const EVAL_EXAMPLES: usize = 256;

/// What is learnt, and what is held out.
pub struct Examples {
    pub train: Vec<TokenTrace>,
    pub eval: Vec<TokenTrace>,
}

/// Reads or makes the conversations of `config`, and adds to `summary` what became of them.
///
/// # Errors
/// Fails where too many rows cannot be used.
pub fn examples(
    config: &SftConfig,
    start: &Start,
    summary: &mut Summary,
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
        SftData::Chat { path, eval_path } => {
            let (train, read) = chats(path, start)?;
            let (eval, held_out) = match eval_path {
                Some(path) => chats(path, start)?,
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
        eval.left_out = fitting - made.eval.len();
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

/// The conversations of a file; rows that are none are rejected.
fn chats(path: &Path, start: &Start) -> Result<(Vec<TokenTrace>, DataSummary), TrainError> {
    #[derive(Deserialize)]
    struct Row {
        messages: Vec<ChatLine>,
    }
    let text = std::fs::read(path).map_err(|source| TrainError::read(path, source))?;
    let mut data = DataSummary { from: path.display().to_string(), ..Default::default() };
    let mut made = Vec::new();
    for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        data.rows += 1;
        let row = serde_json::from_slice::<Row>(line).map_err(|error| {
            format!("{error}: each line is {{\"messages\": [{{\"role\": \"user\", \"content\": \"…\"}}, …]}}")
        });
        let trace =
            row.and_then(|row| chat(&start.text, &row.messages).map_err(|error| error.to_string()));
        match trace {
            Ok(trace) => made.push(trace),
            Err(reason) => data.reject(format!("line {}: {reason}", index + 1)),
        }
    }
    Ok((made, data))
}
