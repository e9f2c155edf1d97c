//! The list of an endpoint's models, in any of the shapes in use.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::Method;
use secrecy::SecretString;
use serde_json::{Map, Value};

use super::attempt::Attempt;
use super::body::Body;
use super::client::Endpoint;
use super::exchange::Exchange;
use super::lenient;
use crate::large_model::LargeModelError;
use crate::outbound::wire::Request;

/// How long an endpoint may take to list its models.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long a list, or the failure to get one, is cached.
const FRESH: Duration = Duration::from_secs(60);
/// The longest list that is read, bytes.
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// The cached list of an endpoint.
#[derive(Debug, Default)]
pub(super) struct Listed {
    known: Mutex<Known>,
    /// Held during a request, so that others wait for its result.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    /// The ids of the last list.
    ids: HashSet<String>,
    /// When the list was last requested.
    asked: Option<Instant>,
}

impl Listed {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Endpoint {
    /// The models in the list, as objects with an `id`. `authorization` is the caller's, used if
    /// the endpoint has no key of its own.
    ///
    /// # Errors
    /// When the endpoint does not answer in time, or with something else.
    pub async fn list_models(
        &self,
        authorization: Option<&SecretString>,
    ) -> Result<Vec<Map<String, Value>>, LargeModelError> {
        let result = self.ask_models(authorization).await;
        let mut known = self.transport.listed.known();
        known.asked = Some(Instant::now());
        if let Ok(models) = &result {
            known.ids = models.iter().filter_map(|model| id(model).map(str::to_owned)).collect();
        }
        result
    }

    /// Whether the list contains a model of this id. Requests the list if the cached one is
    /// missing, or is old and lacks the model.
    pub async fn lists(&self, model: &str, authorization: Option<&SecretString>) -> bool {
        if self.has_listed(model) {
            return true;
        }
        let _asking = self.transport.listed.asking.lock().await;
        if self.has_listed(model) {
            return true;
        }
        let asked = self.transport.listed.known().asked;
        let is_fresh = asked.is_some_and(|asked| asked.elapsed() < FRESH);
        !is_fresh && self.list_models(authorization).await.is_ok() && self.has_listed(model)
    }

    fn has_listed(&self, model: &str) -> bool {
        self.transport.listed.known().ids.contains(model)
    }

    async fn ask_models(
        &self,
        authorization: Option<&SecretString>,
    ) -> Result<Vec<Map<String, Value>>, LargeModelError> {
        let deadline = Some(Instant::now() + TIMEOUT);
        // Without a breaker: an endpoint need not have a list.
        let exchange = Exchange::open(&self.transport, None, authorization, deadline)?;
        let url = self.transport.at("/models");
        let url = url.ok_or_else(|| exchange.rejected("its URL has no path for lists"))?;
        let mut request = Request::default();
        *request.method_mut() = Method::GET;
        *request.uri_mut() = url;
        let mut attempt = Attempt::begin(&exchange).await?;
        let asked = async {
            let response = exchange.send(request).await?;
            let status = response.status().as_u16();
            if status != 200 {
                return Err(LargeModelError::Status {
                    model: self.transport.name.clone(),
                    status,
                    message: "no list of models".to_owned(),
                    retry_after: None,
                    body: None,
                    billed: None,
                });
            }
            let mut body = Body::reply(&exchange, response)?;
            let mut whole = Vec::new();
            while let Some(piece) = body.next().await? {
                whole.extend_from_slice(&piece);
                if whole.len() > MOST_BYTES {
                    return Err(exchange.malformed("its list is longer than 4 MiB"));
                }
            }
            let list = lenient::parse::<Value>(&whole);
            let list = list.map_err(|error| exchange.malformed(error.to_string()))?;
            models(lenient::joined(list.value))
                .ok_or_else(|| exchange.malformed("it lists no models"))
        };
        let result = asked.await;
        attempt.settle_by(&result);
        result
    }
}

/// The models of a list: an array, or an object that contains one; of objects, or of ids. Each id
/// counts once.
fn models(list: Value) -> Option<Vec<Map<String, Value>>> {
    let items = match list {
        Value::Array(items) => items,
        Value::Object(mut fields) => {
            let held = ["data", "models"].iter().find_map(|key| fields.shift_remove(*key));
            let Some(Value::Array(items)) = held else { return None };
            items
        }
        _ => return None,
    };
    let mut known = HashSet::new();
    let models = items.into_iter().filter_map(|item| {
        let mut model = match item {
            Value::Object(fields) => fields,
            Value::String(id) => Map::from_iter([("id".to_owned(), id.into())]),
            _ => return None,
        };
        if id(&model).is_none() {
            let name = ["name", "model"].iter().find_map(|key| model.get(*key)?.as_str());
            let name = name?.to_owned();
            model.insert("id".to_owned(), name.into());
        }
        known.insert(id(&model)?.to_owned()).then_some(model)
    });
    Some(models.collect())
}

fn id(model: &Map<String, Value>) -> Option<&str> {
    model.get("id")?.as_str().filter(|id| !id.is_empty())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn lists_in_every_shape() {
        let table = [
            (json!({"object": "list", "data": [{"id": "a"}, {"id": "b"}]}), Some(vec!["a", "b"])),
            (json!([{"id": "a"}, {"id": "a"}, {"id": ""}, {"id": 7}, 7]), Some(vec!["a"])),
            (json!({"models": [{"name": "a"}, {"model": "b"}]}), Some(vec!["a", "b"])),
            (json!(["a", "b"]), Some(vec!["a", "b"])),
            (json!({"data": []}), Some(vec![])),
            (json!({"error": "no"}), None),
            (json!(null), None),
        ];
        for (list, expected) in table {
            let found = models(list.clone());
            let ids = found.as_ref().map(|models| models.iter().map(|m| id(m).unwrap()).collect());
            assert_eq!(ids, expected, "{list}");
        }
    }

    #[test]
    fn long_lists_take_no_time_to_speak_of() {
        let list: Vec<Value> =
            (0..100_000).map(|number| json!({"id": number.to_string()})).collect();
        assert_eq!(models(list.into()).unwrap().len(), 100_000);
    }
}
