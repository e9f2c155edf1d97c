//! Episodes for requests: admission, streaming to clients, and truncation of answers.

pub(super) mod admission;
pub(super) mod answer;
pub(super) mod chat_stream;
pub(super) mod prepared;
pub(super) mod stop_sequences;
pub(super) mod task;
