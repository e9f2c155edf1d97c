//! What goes over the wire, and how it becomes, or is made of, what the rest of the crate uses.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub(super) mod chat;
pub(super) mod completion;
pub(super) mod options;
pub(super) mod question;
mod schema;
pub(super) mod solve;

/// OpenAI's error object, in its envelope.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(super) struct ErrorBody {
    /// What went wrong.
    pub(super) error: ErrorObject,
}

/// What went wrong.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(super) struct ErrorObject {
    /// For people; a line that begins with `hint:` says what to do.
    pub(super) message: String,
    /// The class of the failure, such as `invalid_request_error`.
    #[serde(rename = "type")]
    pub(super) kind: String,
    /// The field that is to blame, such as `messages[0].role`.
    pub(super) param: Option<String>,
    /// For programs, such as `unknown_field`.
    pub(super) code: Option<String>,
}

/// A request that is passed through. All but its model is the endpoint's to judge.
#[derive(ToSchema)]
#[allow(dead_code)] // Only its model is read, by `routes::forward::model_of`.
pub(super) struct PassedRequest {
    /// Which endpoint it goes to: the one that serves this model, else the default one.
    #[schema(example = "gpt-4o-mini")]
    model: Option<String>,
}
