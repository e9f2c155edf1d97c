//! The model names of requests: the loop's own, large models by name, and those of endpoints.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use axum::http::StatusCode;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::body::{parse, without_bom};
use super::caller::Caller;
use super::error::{ApiError, shorten};
use super::state::AppState;
use crate::compute;
use crate::large_model::LargeModel;

/// The model name of the loop.
pub(super) const LOOP: &str = "prompt-r1";

/// The longest name, bytes: model names may be file paths. Per-model state is keyed by name.
const LONGEST: usize = 4096;

/// Refuses a name that is too long for a model.
pub(super) fn check_length(model: &str) -> Result<(), ApiError> {
    if model.len() > LONGEST { Err(unknown_model(model)) } else { Ok(()) }
}

/// Whether a model name is the loop's.
pub(super) fn is_loop(model: &str) -> bool {
    model.strip_prefix(LOOP).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The model of a JSON body, empty if it names none. Nothing else of the body is parsed. Checks
/// that the caller may use it.
pub(super) fn model_of<'a>(body: &'a [u8], caller: &Caller) -> Result<Cow<'a, str>, ApiError> {
    let named = compute::in_place(body.len(), || named(without_bom(body)))?;
    let model = named.model.unwrap_or_default();
    check_length(&model)?;
    caller.check(&model)?;
    if named.has_variant && caller.has_models() {
        let message = reason!(
            "two fields differ from `model` in their case only";
            hint: "send `model` alone"
        );
        return Err(ApiError::invalid("model", message));
    }
    Ok(model)
}

fn named(body: &[u8]) -> Result<Named<'_>, ApiError> {
    #[derive(Deserialize)]
    struct Whole {
        #[serde(default)]
        model: Option<String>,
    }
    if let Ok(named) = serde_json::from_slice(body) {
        return Ok(named);
    }
    // Slower, but it says what is wrong.
    let model = parse::<Whole>(body)?.model;
    Ok(Named { model: model.map(Cow::Owned), has_variant: false })
}

/// The model of a body.
struct Named<'a> {
    model: Option<Cow<'a, str>>,
    /// Whether a field is `model` in another case: endpoints that ignore case take the last one.
    has_variant: bool,
}

impl<'de: 'a, 'a> Deserialize<'de> for Named<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Named<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let (mut model, mut has_variant) = (None, false);
                while let Some(Name(name)) = map.next_key::<Name<'de>>()? {
                    if name == "model" {
                        if model.is_some() {
                            return Err(serde::de::Error::duplicate_field("model"));
                        }
                        model = Some(map.next_value::<Option<Name<'de>>>()?.map(|name| name.0));
                    } else {
                        has_variant |= name.eq_ignore_ascii_case("model");
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Named { model: model.flatten(), has_variant })
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

/// A text that is borrowed if possible.
#[derive(Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// The large model that a request names, and the id to send to its endpoint if that differs from
/// the configured one.
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
    let model = shorten(model);
    let message = reason!(
        "no endpoint serves the model `{model}`";
        hint: "ask for `{LOOP}`, or configure a large model behind an endpoint"
    );
    ApiError::new(StatusCode::NOT_FOUND, "model_not_found", message).with_param("model")
}
