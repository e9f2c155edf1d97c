//! OpenAI's Responses API: what is asked becomes a chat request, answers become its items.

pub(in crate::http) mod events;
mod input;
pub(in crate::http) mod request;
mod tools;
