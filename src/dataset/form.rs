//! The published forms of rows, and the columns that they are known by.

use std::fmt;

use serde::{Deserialize, Serialize};

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
    /// `choices` with the index or the letter of the right one.
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
const OTHERS: [&str; 34] = [
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
    "choices",
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
    QUESTIONS.iter().chain(&GOLDS).chain(&OTHERS).any(|name| name.eq_ignore_ascii_case(column))
}
