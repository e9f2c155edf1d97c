//! The large models by name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesOrdered;
use secrecy::SecretString;

use super::{
    Endpoint, EndpointSetup, LargeModel, LargeModelConfig, LargeModelConfigError, UnknownModel,
    WithFallbacks,
};
use crate::spelling;

/// All large models, with a default.
pub struct LargeModels {
    models: BTreeMap<String, Arc<dyn LargeModel>>,
    endpoints: BTreeMap<String, Endpoint>,
    default: String,
}

impl LargeModels {
    /// The models of this process, and those behind the configured endpoints with their fallbacks.
    /// `default` names the one that is used if a request names none.
    ///
    /// # Errors
    /// When an endpoint's settings cannot be used, or a name is duplicate or missing.
    pub fn new(
        in_process: Vec<Arc<dyn LargeModel>>,
        configs: &BTreeMap<String, LargeModelConfig>,
        default: &str,
        setup: &EndpointSetup<'_>,
    ) -> Result<Self, LargeModelConfigError> {
        check_model_names(in_process.iter().map(|model| model.name()), configs)?;
        let mut models: BTreeMap<String, Arc<dyn LargeModel>> =
            in_process.into_iter().map(|model| (model.name().to_owned(), model)).collect();
        let mut endpoints = BTreeMap::new();
        for (number, (name, config)) in configs.iter().enumerate() {
            // Each has its own jitter.
            let setup =
                EndpointSetup { seed: setup.seed.wrapping_add(number as u64), ..setup.clone() };
            let endpoint = Endpoint::new(name, config, &setup)?;
            models.insert(name.clone(), Arc::new(endpoint.clone()));
            endpoints.insert(name.clone(), endpoint);
        }
        let alone = models.clone();
        for (name, config) in configs.iter().filter(|(_, config)| !config.fallbacks.is_empty()) {
            let others = config.fallbacks.iter().map(|other| find(&alone, other).map(Arc::clone));
            let others = others.collect::<Result<Vec<_>, _>>()?;
            let first = Arc::clone(find(&alone, name)?);
            models.insert(name.clone(), Arc::new(WithFallbacks::new(first, others)));
        }
        find(&models, default)?;
        Ok(Self { models, endpoints, default: default.to_owned() })
    }

    /// The model of this name.
    ///
    /// # Errors
    /// When there is no such model; suggests the nearest name.
    pub fn get(&self, name: &str) -> Result<&Arc<dyn LargeModel>, UnknownModel> {
        find(&self.models, name)
    }

    /// The name of the default model.
    pub fn default_name(&self) -> &str {
        &self.default
    }

    /// All names, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.models.keys().map(String::as_str)
    }

    /// Whether a model of this process has this name.
    pub fn is_in_process(&self, name: &str) -> bool {
        self.models.contains_key(name) && !self.endpoints.contains_key(name)
    }

    /// The names of the models of this process, in alphabetical order.
    pub fn in_process(&self) -> impl Iterator<Item = &str> {
        self.names().filter(move |name| self.is_in_process(name))
    }

    /// The endpoints by name: all models but those of this process.
    pub fn endpoints(&self) -> impl Iterator<Item = (&str, &Endpoint)> {
        self.endpoints.iter().map(|(name, endpoint)| (name.as_str(), endpoint))
    }

    /// The endpoint that serves a model, and the model's id there: the endpoint of that name,
    /// otherwise one configured for that id, otherwise one that lists it (the default before
    /// others), otherwise the default. `None` if the default is a model of this process.
    /// `authorization` is the caller's, for endpoints without a key.
    pub async fn route<'a>(
        &'a self,
        model: &'a str,
        authorization: Option<&SecretString>,
    ) -> Option<(&'a Endpoint, &'a str)> {
        if let Some(endpoint) = self.endpoints.get(model) {
            return Some((endpoint, endpoint.model_id()));
        }
        let default = self.endpoints.get(&self.default);
        let others = self.endpoints.iter().filter(|(name, _)| **name != self.default);
        let all: Vec<_> = default.into_iter().chain(others.map(|(_, other)| other)).collect();
        let configured = all.iter().copied().find(|endpoint| endpoint.model_id() == model);
        if let Some(endpoint) = configured {
            return Some((endpoint, model));
        }
        // With several candidates, the lists decide.
        if all.len() > usize::from(default.is_some()) {
            let lists = all.iter().map(|endpoint| endpoint.lists(model, authorization));
            let mut lists: FuturesOrdered<_> = lists.collect();
            // In order: an endpoint does not wait for the lists of those after it.
            for endpoint in &all {
                if lists.next().await == Some(true) {
                    return Some((*endpoint, model));
                }
            }
        }
        default.map(|endpoint| (endpoint, model))
    }
}

/// Checks that each model has a name of its own, and that fallbacks are names of other models.
///
/// # Errors
/// Names the first that is not.
pub fn check_model_names<'a>(
    in_process: impl Iterator<Item = &'a str>,
    configs: &'a BTreeMap<String, LargeModelConfig>,
) -> Result<(), LargeModelConfigError> {
    let mut names: BTreeSet<&str> = configs.keys().map(String::as_str).collect();
    for name in in_process {
        if !names.insert(name) {
            return Err(LargeModelConfigError::Duplicate(name.to_owned()));
        }
    }
    for (name, config) in configs {
        for other in &config.fallbacks {
            if other == name {
                return Err(LargeModelConfigError::Invalid {
                    table: format!("large_models.{name}"),
                    key: "fallbacks".to_owned(),
                    value: other.clone(),
                    reason: "a model cannot fall back on itself".to_owned(),
                    hint: "attempts are repeated by `retries`",
                });
            }
            if !names.contains(other.as_str()) {
                return Err(unknown(other, &names).into());
            }
        }
    }
    Ok(())
}

fn find<'a, T>(models: &'a BTreeMap<String, T>, name: &str) -> Result<&'a T, UnknownModel> {
    models.get(name).ok_or_else(|| unknown(name, &models.keys().map(String::as_str).collect()))
}

fn unknown(name: &str, names: &BTreeSet<&str>) -> UnknownModel {
    let known = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    UnknownModel {
        name: name.to_owned(),
        hint: match spelling::nearest(name, names.iter().copied()) {
            Some(nearest) => format!("did you mean `{nearest}`? There are {known}"),
            None => format!("there are {known}"),
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::hint::Hint;
    use crate::large_model::Scripted;

    fn build(
        in_process: &[&str],
        configs: &[(&str, &str, &[&str])],
        default: &str,
    ) -> Result<LargeModels, LargeModelConfigError> {
        let in_process = in_process
            .iter()
            .map(|name| Arc::new(Scripted::texts(name, &[name])) as Arc<dyn LargeModel>);
        let configs = configs.iter().map(|(name, model, fallbacks)| {
            let config = serde_json::json!({
                "url": "http://127.0.0.1:9/v1", "model": model, "fallbacks": fallbacks,
            });
            ((*name).to_owned(), serde_json::from_value(config).unwrap())
        });
        let setup = EndpointSetup { keys: &|_| None, observer: Arc::new(()), seed: 0 };
        LargeModels::new(in_process.collect(), &configs.collect(), default, &setup)
    }

    #[test]
    fn models_are_found_by_name() {
        let models = build(&["atlas"], &[("big", "gpt-x", &["atlas"])], "atlas").unwrap();
        assert_eq!(models.names().collect::<Vec<_>>(), ["atlas", "big"]);
        assert_eq!(models.default_name(), "atlas");
        assert_eq!(models.get("big").unwrap().name(), "big");
        assert_eq!(models.endpoints().map(|(name, _)| name).collect::<Vec<_>>(), ["big"]);
        assert_eq!(models.in_process().collect::<Vec<_>>(), ["atlas"]);
        let error = models.get("atlsa").err().unwrap();
        let expected = "no large model is called `atlsa`\n\
                        hint: did you mean `atlas`? There are `atlas`, `big`";
        assert_eq!(error.explained(), expected);
        let error = models.get("zzz").err().unwrap();
        assert!(error.explained().ends_with("\nhint: there are `atlas`, `big`"), "{error}");
    }

    #[tokio::test]
    async fn endpoints_are_found_by_name_then_by_model() {
        let configs: &[(&str, &str, &[&str])] =
            &[("a", "m1", &[]), ("b", "m2", &[]), ("c", "m2", &[]), ("m1", "m3", &[])];
        let models = build(&["local"], configs, "c").unwrap();
        let table = [
            ("b", "b", "m2"),
            ("m1", "m1", "m3"),
            ("m2", "c", "m2"),
            ("m3", "m1", "m3"),
            ("?", "c", "?"),
        ];
        for (model, expected, id) in table {
            let (endpoint, known) = models.route(model, None).await.unwrap();
            assert_eq!((endpoint.name(), known), (expected, id), "{model}");
        }
        let models = build(&["local"], configs, "local").unwrap();
        let found = models.route("m2", None).await.map(|(endpoint, _)| endpoint.name());
        assert_eq!(found, Some("b"));
        assert!(models.route("?", None).await.is_none());
    }

    #[test]
    fn configurations_that_contradict_themselves() {
        type Configs<'a> = &'a [(&'a str, &'a str, &'a [&'a str])];
        let table: [(&[&str], Configs, &str, &str); 5] = [
            (&["a"], &[("a", "m", &[])], "a", "two large models are called `a`"),
            (&["a", "a"], &[], "a", "two large models are called `a`"),
            (&["a"], &[], "b", "no large model is called `b`"),
            (&[], &[("a", "m", &["b"])], "a", "no large model is called `b`"),
            (&[], &[("a", "m", &["a"])], "a", "a model cannot fall back on itself"),
        ];
        for (in_process, configs, default, expected) in table {
            let error = build(in_process, configs, default).err().unwrap().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
