//! Callers' JSON schemas, which an answer must satisfy. Compilation and validation take bounded
//! time, off the async workers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use serde_json::Value;

use self::metered::{Metered, Unfinished};
use super::config::Bounds;
use super::error::ApiError;
use crate::compute::{self, ComputeError};
use crate::episode::AnswerCheck;
use crate::hint::Reason;

mod bounds;
mod look_around;
mod metered;

const NAME: &str = "response_format";

/// The check of an answer's form; `None` for plain text. The schema is compiled by `deadline`.
///
/// # Errors
/// When the format is unknown, or its schema is invalid or exceeds a limit.
pub(super) async fn check(
    format: &Value,
    bounds: &Bounds,
    deadline: Instant,
) -> Result<Option<AnswerCheck>, ApiError> {
    match format.get("type").and_then(Value::as_str) {
        Some("text") => Ok(None),
        Some("json_object") => Ok(Some(AnswerCheck::new(|answer| {
            Box::pin(async move {
                let value = parse(&answer)?;
                if value.is_object() { Ok(()) } else { Err("it is not a JSON object".to_owned()) }
            })
        }))),
        Some("json_schema") => by_schema(format, bounds, deadline).await.map(Some),
        _ => {
            let param = format!("{NAME}.type");
            let message =
                reason!("`{param}` is not known"; hint: "`text`, `json_object` or `json_schema`");
            Err(ApiError::invalid(&param, message))
        }
    }
}

async fn by_schema(
    format: &Value,
    bounds: &Bounds,
    deadline: Instant,
) -> Result<AnswerCheck, ApiError> {
    let param = format!("{NAME}.json_schema.schema");
    let schema = format.get("json_schema").and_then(|inner| inner.get("schema"));
    let Some(schema) = schema else {
        let message = format!("`{param}` is missing");
        return Err(ApiError::bad_request("missing_field", message).with_param(&param));
    };
    let refused = |reason: Reason| {
        ApiError::invalid(
            &param,
            reason.map_text(|text| format!("`{param}` cannot be used: {text}")),
        )
    };
    let length = schema.to_string().len();
    if length > bounds.schema_bytes {
        let bound = bounds.schema_bytes;
        return Err(refused(
            format!(
                "it has {length} bytes, more than {bound}, the bound `server.bounds.schema_bytes`"
            )
            .into(),
        ));
    }
    let (schema, owned) = (schema.clone(), bounds.clone());
    let compiled = compute::run(deadline, move |_| Metered::new(&schema, &owned)).await;
    let metered = match compiled {
        Ok(compiled) => Arc::new(compiled.map_err(refused)?),
        Err(ComputeError::QueueFull) => {
            let message = reason!("the server is busy"; hint: "try again a little later");
            return Err(ApiError::overloaded(message, Duration::from_secs(1)));
        }
        Err(ComputeError::TimedOut) => {
            let status = StatusCode::GATEWAY_TIMEOUT;
            let message = format!("`{param}` was not compiled within the deadline");
            return Err(ApiError::new(status, "deadline_exceeded", message));
        }
        Err(ComputeError::Panicked) => return Err(ApiError::internal()),
    };
    let (longest, limit) = (bounds.checked_bytes, Duration::from_millis(bounds.check_ms));
    Ok(AnswerCheck::new(move |answer| {
        let metered = Arc::clone(&metered);
        Box::pin(async move {
            if answer.len() > longest {
                return Err(format!("it is longer than {longest} bytes"));
            }
            let checked = compute::run(Instant::now() + limit, move |stop| {
                let value = parse(&answer)?;
                metered.check(&value, stop).unwrap_or_else(|unfinished| {
                    Err(match unfinished {
                        Unfinished::TooCostly => "it takes too many steps to check".to_owned(),
                        Unfinished::Stopped => "it was not checked in time".to_owned(),
                    })
                })
            });
            checked.await.unwrap_or_else(|error| Err(format!("it cannot be checked: {error}")))
        })
    }))
}

fn parse(answer: &str) -> Result<Value, String> {
    serde_json::from_str(answer).map_err(|error| format!("it is not valid JSON: {error}"))
}

#[cfg(test)]
mod tests;
