//! The published forms of rows, and the columns that they are known by.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::choices;
use super::passage::{BODIES, MEDIA};

/// The form of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// A question with its answer or answers.
    QuestionAnswer,
    /// A worked solution that ends in `#### 72`, as in GSM8K.
    Gsm8k,
    /// A worked solution with `\boxed{…}`, as in MATH.
    Math,
    /// Answers as `{text, answer_start}`, as in SQuAD.
    Squad,
    /// An answer as `{value, aliases}`, as in TriviaQA.
    TriviaQa,
    /// Options in one column or in columns of their own, with the index, the letter or the text of
    /// the right one.
    MultipleChoice,
    /// `prompt` and `reward_model`, as verl, Search-R1 and the reference have it.
    Verl,
    /// `prompt` and `completion`.
    PromptCompletion,
    /// `instruction`, `input` and `output`.
    Alpaca,
    /// `messages` of `role` and `content`.
    Chat,
    /// `conversations` of `from` and `value`.
    ShareGpt,
    /// An episode that the server has recorded.
    Record,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::QuestionAnswer => "question and answer",
            Self::Gsm8k => "GSM8K",
            Self::Math => "MATH",
            Self::Squad => "SQuAD",
            Self::TriviaQa => "TriviaQA",
            Self::MultipleChoice => "multiple choice",
            Self::Verl => "verl",
            Self::PromptCompletion => "prompt and completion",
            Self::Alpaca => "Alpaca",
            Self::Chat => "OpenAI chat",
            Self::ShareGpt => "ShareGPT",
            Self::Record => "episode record",
        })
    }
}

/// Columns with a question, the preferred first.
pub(super) const QUESTIONS: [&str; 3] = ["question", "problem", "query"];
/// Columns with gold answers, the preferred first.
pub(super) const GOLDS: [&str; 9] = [
    "answers",
    "golden_answers",
    "possible_answers",
    "answers_spans",
    "answer",
    "final_answer",
    "answerKey",
    "ground_truth",
    "expected_answer",
];
/// All other columns that some form needs.
const OTHERS: [&str; 36] = [
    "id",
    "_id",
    "prompt",
    "reward_model",
    "extra_info",
    "source",
    "data_source",
    "kind",
    "hops",
    "solution",
    "answer_aliases",
    "is_impossible",
    "answerable",
    "messages",
    "conversations",
    "system",
    "tools",
    "functions",
    "instruction",
    "input",
    "output",
    "history",
    "completion",
    "response",
    "chosen",
    "rejected",
    "rejected_response",
    "rejected_responses",
    "rejected_messages",
    "text",
    "weight",
    "trajectory",
    "finish_reason",
    "answer_source",
    "conversation",
    "large_model",
];

/// Whether some form needs the column of this name.
pub(super) fn is_known(column: &str) -> bool {
    let mut names = QUESTIONS.iter().chain(&GOLDS).chain(&OTHERS).chain(&BODIES).chain(&MEDIA);
    names.any(|name| name.eq_ignore_ascii_case(column)) || choices::is_known(column)
}

/// Columns about a row rather than of it: nothing is lost if they are not read.
const METADATA_COLUMNS: [&str; 32] = [
    "ability",
    "category",
    "created",
    "dataset",
    "difficulty",
    "equation",
    "example_id",
    "explanation",
    "id",
    "idx",
    "index",
    "lang",
    "language",
    "level",
    "license",
    "model",
    "qid",
    "question_id",
    "questionid",
    "rationale",
    "source",
    "split",
    "subject",
    "subset",
    "supporting_facts",
    "tags",
    "timestamp",
    "title",
    "topic",
    "type",
    "unique_id",
    "url",
];

/// Whether the column of this name may be left unread without a warning.
pub(super) fn is_metadata(column: &str) -> bool {
    METADATA_COLUMNS.iter().any(|name| name.eq_ignore_ascii_case(column))
}
