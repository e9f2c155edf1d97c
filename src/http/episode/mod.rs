//! Episodes on behalf of requests: when they may run, what clients see of them, and where answers
//! end.

pub(super) mod admission;
pub(super) mod answer;
pub(super) mod chat_stream;
pub(super) mod prepared;
pub(super) mod stop_sequences;
pub(super) mod task;
