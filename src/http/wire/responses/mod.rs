//! OpenAI's Responses API: requests become chat requests, answers become items.

pub(in crate::http) mod events;
mod input;
pub(in crate::http) mod request;
mod tools;
