//! The model names of requests: the loop's own, large models by name, and those of endpoints.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use axum::http::{HeaderMap, StatusCode};
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::body::{parse, without_bom};
use super::caller::Caller;
use super::error::{ApiError, shorten};
use super::serving::{Served, Serving};
use super::state::AppState;
use super::wire::options::{CHAT_PREFIX, Options};
use crate::compute;
use crate::large_model::{LargeModel, LargeModels};
use crate::policy::DIRECT;
use crate::spelling;

/// The model name of the loop.
pub(super) const LOOP: &str = "prompt-r1";

/// The longest name, bytes: model names may be file paths. Per-model state is keyed by name.
const MAX_LENGTH: usize = 4096;

/// Refuses a name that is too long for a model.
pub(super) fn check_length(model: &str) -> Result<(), ApiError> {
    if model.len() > MAX_LENGTH { Err(no_model(model, None)) } else { Ok(()) }
}

/// A model that stands for the loop: `prompt-r1`, `prompt-r1:POLICY`, and both with `/LARGE_MODEL`.
/// The name of a large model of this process stands for that model alone, with the policy `direct`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct LoopModel<'a> {
    /// The policy that it names.
    pub(super) policy: Option<&'a str>,
    /// The large model that it names.
    pub(super) large_model: Option<&'a str>,
}

impl<'a> LoopModel<'a> {
    /// Reads a name that begins with `prompt-r1`; `None` for any other.
    pub(super) fn parse(model: &'a str) -> Option<Self> {
        let rest = model.strip_prefix(LOOP)?;
        let (policy, large_model) = match rest.split_once('/') {
            Some((policy, large_model)) => (policy, Some(large_model)),
            None => (rest, None),
        };
        match policy.strip_prefix(':') {
            None if !policy.is_empty() => None,
            policy => Some(Self { policy, large_model }),
        }
    }

    /// `None` where the model is an endpoint's, or unknown.
    pub(super) fn of(models: &LargeModels, model: &'a str) -> Option<Self> {
        let alone = Self { policy: Some(DIRECT), large_model: Some(model) };
        Self::parse(model).or_else(|| models.is_in_process(model).then_some(alone))
    }

    /// The same model without its policy.
    pub(super) fn without_policy(self) -> Cow<'static, str> {
        match self.large_model {
            Some(name) => format!("{LOOP}/{name}").into(),
            None => LOOP.into(),
        }
    }
}

/// Whether a model name is the loop's.
fn is_loop(model: &str) -> bool {
    LoopModel::parse(model).is_some()
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

/// The policy of a request: the one that its model names, else as its options and headers say.
pub(super) fn policy(
    state: &AppState,
    named: Option<&str>,
    options: &Options,
    headers: &HeaderMap,
) -> Result<Arc<Served>, ApiError> {
    match named {
        None => options.served(state, headers, CHAT_PREFIX),
        Some(_) if options.policy.is_some() => {
            let param = format!("{CHAT_PREFIX}policy");
            let message = format!(
                "`{param}` cannot be set beside a model of the form `{LOOP}:…`, or the name of a large model"
            );
            Err(ApiError::invalid(&param, message))
        }
        Some(name) => state.serving.choose(Some(name), "model", headers, 1.0),
    }
}

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
            let message = format!(
                "`{param}` cannot be set beside a model of the form `{LOOP}/…`, or the name of a large model"
            );
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

/// The names of the models that are answered here: the loop with the default large model, with each
/// large model, and with each policy if there are several; then each large model of this process.
pub(super) fn own_models(serving: &Serving) -> Vec<String> {
    let large_models = &serving.large_models;
    let named = large_models.names().map(|name| format!("{LOOP}/{name}"));
    let policies = serving.policies().map(|served| served.policy.name());
    // What follows a slash is a large model's name.
    let policies = policies.filter(|name| serving.policies().count() > 1 && !name.contains('/'));
    let policies = policies.map(|name| format!("{LOOP}:{name}"));
    let alone = large_models.in_process().filter(|name| !is_loop(name)).map(str::to_owned);
    std::iter::once(LOOP.to_owned()).chain(named).chain(policies).chain(alone).collect()
}

/// Neither this server nor an endpoint has this model.
pub(super) fn unknown_model(serving: &Serving, caller: &Caller, model: &str) -> ApiError {
    let known = own_models(serving);
    let known = known.iter().map(String::as_str).filter(|name| caller.may_use(name));
    no_model(model, spelling::nearest(model, known))
}

fn no_model(model: &str, nearest: Option<&str>) -> ApiError {
    let shown = shorten(model);
    let message = match nearest {
        _ if model.is_empty() => reason!(
            "the request names no model, and the default large model is not behind an endpoint";
            hint: "name a model: `/v1/models` lists them"
        ),
        Some(nearest) => reason!(
            "no model is called `{shown}`";
            hint: "did you mean `{nearest}`? `/v1/models` lists all models"
        ),
        None => reason!("no model is called `{shown}`"; hint: "`/v1/models` lists all models"),
    };
    ApiError::new(StatusCode::NOT_FOUND, "model_not_found", message).with_param("model")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_loop() {
        let asked = |policy, large_model| Some(LoopModel { policy, large_model });
        for (model, expected) in [
            ("prompt-r1", asked(None, None)),
            ("prompt-r1/m", asked(None, Some("m"))),
            ("prompt-r1/qwen:7b", asked(None, Some("qwen:7b"))),
            ("prompt-r1/a/b", asked(None, Some("a/b"))),
            ("prompt-r1:p", asked(Some("p"), None)),
            ("prompt-r1:p/m", asked(Some("p"), Some("m"))),
            ("prompt-r1:p/a/b:c", asked(Some("p"), Some("a/b:c"))),
            ("prompt-r1:", asked(Some(""), None)),
            ("prompt-r1:/m", asked(Some(""), Some("m"))),
            ("prompt-r10", None),
            ("prompt-r1x:p", None),
            ("prompt-r1x/m", None),
            ("gpt-4o", None),
        ] {
            assert_eq!(LoopModel::parse(model), expected, "{model}");
        }
    }
}
