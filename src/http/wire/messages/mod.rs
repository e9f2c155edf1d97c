//! Anthropic's Messages API: requests become chat requests, answers become blocks.

use serde::Serialize;
use utoipa::ToSchema;

use crate::http::error::ApiError;
use crate::http::wire::ErrorObject;

mod blocks;
pub(in crate::http) mod events;
pub(in crate::http) mod request;

/// Anthropic's error object, in its envelope.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct MessagesErrorBody {
    /// Always `error`.
    r#type: &'static str,
    /// What went wrong.
    error: MessagesError,
}

/// What went wrong.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct MessagesError {
    /// The class of the failure, such as `invalid_request_error`.
    r#type: &'static str,
    /// For people. Ends with the hint, on a line that begins with `hint:`.
    message: String,
    /// What to do about it, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl From<&ApiError> for MessagesErrorBody {
    fn from(error: &ApiError) -> Self {
        let kind = match error.status.as_u16() {
            401 => "authentication_error",
            402 => "billing_error",
            403 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            503 => "overloaded_error",
            504 => "timeout_error",
            400..500 => "invalid_request_error",
            _ => "api_error",
        };
        let ErrorObject { message, hint, .. } = error.object();
        Self { r#type: "error", error: MessagesError { r#type: kind, message, hint } }
    }
}
