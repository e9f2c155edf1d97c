//! The conversations of a supervised run, as tokens.

use std::path::Path;

use serde::Deserialize;

use super::config::{SftConfig, SftData};
use crate::dataset::world::{Split, World};
use crate::train::error::TrainError;
use crate::train::example::{ChatLine, chat, demonstration, question_and_answer};
use crate::train::start::Start;
use crate::trajectory::TokenTrace;

/// How many conversations an evaluation takes.
const EVAL_EXAMPLES: usize = 256;

/// What is learnt, and what is held out.
pub struct Examples {
    pub train: Vec<TokenTrace>,
    pub eval: Vec<TokenTrace>,
}

/// Reads or makes the conversations of `config`.
pub fn examples(config: &SftConfig, start: &Start) -> Result<Examples, TrainError> {
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
        SftData::Chat { path, eval_path } => Examples {
            train: chats(path, start)?,
            eval: eval_path.as_deref().map_or(Ok(Vec::new()), |path| chats(path, start))?,
        },
    };
    let context = start.model.spec().max_position_embeddings;
    made.train.retain(|trace| trace.ids.len() <= context);
    made.eval.retain(|trace| trace.ids.len() <= context);
    made.eval.truncate(EVAL_EXAMPLES);
    if made.train.is_empty() {
        return Err(TrainError::Config(format!(
            "there is nothing to learn from: no conversation fits the context of {context} tokens"
        )));
    }
    Ok(made)
}

fn chats(path: &Path, start: &Start) -> Result<Vec<TokenTrace>, TrainError> {
    #[derive(Deserialize)]
    struct Row {
        messages: Vec<ChatLine>,
    }
    let text = std::fs::read_to_string(path).map_err(|error| {
        TrainError::Config(format!("cannot read `{}`: {error}", path.display()))
    })?;
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(index, line)| {
            let at = |reason: String| {
                TrainError::Config(format!(
                    "`{}` line {}: {reason}\nhint: each line is {{\"messages\": [{{\"role\": \"user\", \"content\": \"…\"}}, …]}}",
                    path.display(),
                    index + 1
                ))
            };
            let row: Row = serde_json::from_str(line).map_err(|error| at(error.to_string()))?;
            chat(&start.text, &row.messages).map_err(|error| at(error.to_string()))
        })
        .collect()
}
