//! Wire types, and their conversion to and from the domain types.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::episode::Episode;
use crate::large_model::THOUGHTS;

pub(super) mod chat_reply;
pub(super) mod chat_request;
pub(super) mod episodes;
pub(super) mod messages;
pub(super) mod options;
pub(super) mod question;
pub(super) mod responses;
pub(super) mod solve;
pub(super) mod usage;

/// The policy's thoughts, or if it had none, those of the large model's answer.
pub(super) fn thoughts(episode: &Episode) -> Option<String> {
    let turns = episode.trajectory.turns.iter();
    let thoughts: Vec<_> = turns.filter_map(|turn| turn.think.as_deref()).collect();
    if !thoughts.is_empty() {
        return Some(thoughts.join("\n\n"));
    }
    episode.reply.as_ref()?.thoughts().map(str::to_owned)
}

/// An event of a stream (`text/event-stream`).
#[derive(ToSchema)]
#[allow(dead_code)] // Describes what `sse::event` writes.
pub(super) struct SseEvent {
    /// Its name; `message` where it has none.
    event: Option<String>,
    /// JSON, or `[DONE]` at the end of a chat completion.
    data: String,
}

/// OpenAI's error object, in its envelope.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(super) struct ErrorBody {
    /// What went wrong.
    pub(super) error: ErrorObject,
}

/// What went wrong.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(super) struct ErrorObject {
    /// For people. Ends with the hint, on a line that begins with `hint:`.
    pub(super) message: String,
    /// What to do about it, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) hint: Option<String>,
    /// The class of the failure, such as `invalid_request_error`.
    #[serde(rename = "type")]
    pub(super) kind: String,
    /// The field that is to blame, such as `messages[0].role`.
    pub(super) param: Option<String>,
    /// For programs, such as `unknown_field`.
    pub(super) code: Option<String>,
}

/// A request that is passed through. Only its model is read here.
#[derive(ToSchema)]
#[allow(dead_code)] // Only its model is read, by `routes::forward::model_of`.
pub(super) struct PassedRequest {
    /// The model, which selects the endpoint: the one that serves it, otherwise the default one.
    #[schema(example = "gpt-4o-mini")]
    model: Option<String>,
}

/// Deserialises an object or null: a derived implementation would also accept a list of the fields'
/// values.
fn object<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Object<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Object<T> {
        type Value = Option<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map)).map(Some)
        }
    }

    deserializer.deserialize_any(Object(PhantomData))
}
