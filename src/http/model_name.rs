//! The model names of requests: the loop's own, large models by name, and those of endpoints.

use std::borrow::Cow;
use std::sync::Arc;

use axum::http::StatusCode;
use serde::Deserialize;

use super::body::parse;
use super::error::ApiError;
use super::state::AppState;
use crate::large_model::LargeModel;

/// The model that stands for the loop.
pub(super) const LOOP: &str = "prompt-r1";

/// Whether a model stands for the loop.
pub(super) fn is_loop(model: &str) -> bool {
    model.strip_prefix(LOOP).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The model that a body of JSON names; nothing else of it is looked at.
pub(super) fn model_of(body: &[u8]) -> Result<Option<Cow<'_, str>>, ApiError> {
    #[derive(Deserialize)]
    struct Peek<'a> {
        #[serde(borrow, default)]
        model: Option<Cow<'a, str>>,
    }
    #[derive(Deserialize)]
    struct Whole {
        #[serde(default)]
        model: Option<String>,
    }
    match serde_json::from_slice::<Peek<'_>>(body) {
        Ok(peek) if body.trim_ascii_start().starts_with(b"{") => Ok(peek.model),
        // Slower, but it says what is wrong.
        _ => parse::<Whole>(body).map(|whole| whole.model.map(Cow::Owned)),
    }
}

/// The large model that a request names, and the id to ask its endpoint for where that is another
/// than the configured one.
pub(super) fn large_model(
    state: &AppState,
    suffix: Option<&str>,
    option: Option<&str>,
) -> Result<(Arc<dyn LargeModel>, Option<String>), ApiError> {
    let models = &state.serving.large_models;
    match (suffix, option) {
        (Some(_), Some(_)) => {
            let param = "prompt_r1.large_model";
            let message = format!("`{param}` cannot be set beside a model of the form `{LOOP}/…`");
            Err(ApiError::invalid(param, message))
        }
        (None, name) => {
            let model = models.get(name.unwrap_or(models.default_name()));
            let model =
                model.map_err(|error| ApiError::from(error).with_param("prompt_r1.large_model"))?;
            Ok((Arc::clone(model), None))
        }
        (Some(name), None) => match models.get(name) {
            Ok(model) => Ok((Arc::clone(model), None)),
            Err(error) => {
                let default = models.default_name();
                let is_endpoint = models.endpoints().any(|(name, _)| name == default);
                match models.get(default) {
                    Ok(model) if is_endpoint && !name.is_empty() => {
                        Ok((Arc::clone(model), Some(name.to_owned())))
                    }
                    _ => Err(ApiError::from(error).with_param("model")),
                }
            }
        },
    }
}

/// No endpoint serves this model.
pub(super) fn unknown_model(model: &str) -> ApiError {
    let message = format!(
        "no endpoint serves the model `{model}`\nhint: ask for `{LOOP}`, or configure a large model behind an endpoint"
    );
    ApiError::new(StatusCode::NOT_FOUND, "model_not_found", message).with_param("model")
}
