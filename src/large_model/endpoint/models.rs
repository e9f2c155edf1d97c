//! The list of an endpoint's models, in any of the shapes in use.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::Method;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::attempt::Attempt;
use super::body::Body;
use super::client::Endpoint;
use super::exchange::Exchange;
use super::lenient;
use crate::large_model::{LargeModelError, Waiting};
use crate::outbound::wire::Request;

/// How long an endpoint may take to list its models.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long the ids of a list, or the failure to get one, are cached.
const CACHE_TTL: Duration = Duration::from_secs(60);
/// How long the list itself is shared by those who ask for it.
const SHARE_TTL: Duration = Duration::from_secs(5);
/// The longest list that is read, bytes.
const MAX_BYTES: usize = 4 * 1024 * 1024;
/// Credentials whose lists are cached at once.
const MAX_CREDENTIALS: usize = 64;

/// The cached lists of an endpoint. Each credential has its own, as endpoints may list other models
/// to others. A credential stands here as its hash; none where all callers use the same.
#[derive(Debug, Default)]
pub(super) struct ModelLists(Mutex<HashMap<Option<[u8; 32]>, Arc<ModelList>>>);

/// The cached list for one credential.
#[derive(Debug, Default)]
struct ModelList {
    known: Mutex<CachedModels>,
    /// Held during a request, so that others wait for its result.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct CachedModels {
    /// The ids of the last list.
    ids: HashSet<String>,
    /// When the list was last requested.
    asked: Option<Instant>,
    /// What came of it, while that is shared.
    result: Option<ListResult>,
}

/// The models of a list, or why there are none.
type ListResult = Result<Arc<Vec<Map<String, Value>>>, LargeModelError>;

impl CachedModels {
    /// The result of the last request, unless it is old.
    fn shared(&self) -> Option<ListResult> {
        let is_shared = self.asked.is_some_and(|asked| asked.elapsed() < SHARE_TTL);
        self.result.clone().filter(|_| is_shared)
    }
}

impl ModelLists {
    /// The list for this credential. The one that was requested longest ago makes room for it.
    fn of(&self, credential: Option<&SecretString>) -> Arc<ModelList> {
        let credential = credential.map(|it| Sha256::digest(it.expose_secret()).into());
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for listed in all.values() {
            let mut known = listed.known();
            // Lists are long.
            known.result = known.shared();
        }
        if !all.contains_key(&credential) && all.len() >= MAX_CREDENTIALS {
            let oldest = all.iter().min_by_key(|(_, listed)| listed.known().asked);
            if let Some(oldest) = oldest.map(|(credential, _)| *credential) {
                all.remove(&oldest);
            }
        }
        Arc::clone(all.entry(credential).or_default())
    }
}

impl ModelList {
    fn known(&self) -> MutexGuard<'_, CachedModels> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has(&self, model: &str) -> bool {
        self.known().ids.contains(model)
    }
}

impl Endpoint {
    /// The models in the list, as objects with an `id`. `authorization` is the caller's, used if
    /// the endpoint has no key of its own. Those who ask at once, or soon after, share one request:
    /// it belongs to no caller, and takes no caller's share of the endpoint.
    ///
    /// # Errors
    /// When the endpoint does not answer in time, or with something else.
    pub async fn list_models(&self, authorization: Option<&SecretString>) -> ListResult {
        let listed = self.listed(authorization);
        let _asking = listed.asking.lock().await;
        let shared = listed.known().shared();
        match shared {
            Some(shared) => shared,
            None => self.refresh(&listed, authorization).await,
        }
    }

    /// Requests the list. Must be called by one at a time.
    async fn refresh(
        &self,
        listed: &ModelList,
        authorization: Option<&SecretString>,
    ) -> ListResult {
        let result = self.ask_models(authorization).await.map(Arc::new);
        let mut known = listed.known();
        known.asked = Some(Instant::now());
        known.result = Some(result.clone());
        if let Ok(models) = &result {
            known.ids = models.iter().filter_map(|model| id(model).map(str::to_owned)).collect();
        }
        result
    }

    /// Whether the list contains a model of this id. Requests the list if the cached one is
    /// missing, or is old and lacks the model.
    pub async fn lists(&self, model: &str, authorization: Option<&SecretString>) -> bool {
        let listed = self.listed(authorization);
        if listed.has(model) {
            return true;
        }
        let _asking = listed.asking.lock().await;
        if listed.has(model) {
            return true;
        }
        let asked = listed.known().asked;
        let is_fresh = asked.is_some_and(|asked| asked.elapsed() < CACHE_TTL);
        if is_fresh {
            return false;
        }
        let models = self.refresh(&listed, authorization).await;
        models.is_ok_and(|models| models.iter().any(|it| id(it) == Some(model)))
    }

    /// The cached list for the credential that is used for a caller with this one.
    fn listed(&self, authorization: Option<&SecretString>) -> Arc<ModelList> {
        self.transport.listed.of(authorization.filter(|_| !self.has_key()))
    }

    async fn ask_models(
        &self,
        authorization: Option<&SecretString>,
    ) -> Result<Vec<Map<String, Value>>, LargeModelError> {
        let deadline = Some(Instant::now() + TIMEOUT);
        // Without a breaker: an endpoint need not have a list.
        let exchange =
            Exchange::open(&self.transport, None, 0, authorization, deadline, &Waiting::default())?;
        let url = self.transport.at("/models");
        let url = url.ok_or_else(|| exchange.rejected("its URL has no path for lists"))?;
        let mut request = Request::default();
        *request.method_mut() = Method::GET;
        *request.uri_mut() = url;
        // It is counted and does not wait: what is routed by the list waits itself.
        if let Some(pace) = self.transport.pace() {
            pace.count();
        }
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
                if whole.len() > MAX_BYTES {
                    return Err(exchange.malformed("its list is longer than 4 MiB"));
                }
            }
            let list = lenient::parse::<Value>(&whole);
            let list = list.map_err(|error| exchange.malformed(error.to_string()))?;
            models(lenient::joined(list.value))
                .ok_or_else(|| exchange.malformed("it lists no models"))
        };
        let result = asked.await;
        attempt.set_outcome_of(&result);
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
    fn each_credential_has_its_own_list_and_few_are_kept() {
        let listed = ModelLists::default();
        let credential = |number: usize| SecretString::from(format!("Bearer {number}"));
        let know = |listed: &ModelList| {
            let mut known = listed.known();
            (known.asked, known.ids) = (Some(Instant::now()), HashSet::from(["m".to_owned()]));
        };
        know(&listed.of(None));
        for number in 0..MAX_CREDENTIALS {
            assert!(!listed.of(Some(&credential(number))).has("m"));
            know(&listed.of(Some(&credential(number))));
            assert!(listed.of(Some(&credential(number))).has("m"));
        }
        assert_eq!(listed.0.lock().unwrap().len(), MAX_CREDENTIALS);
        // The oldest made room.
        assert!(listed.of(Some(&credential(1))).has("m"));
        assert!(!listed.of(None).has("m"));
    }

    #[test]
    fn a_list_is_kept_for_a_short_while() {
        let all = ModelLists::default();
        let listed = all.of(None);
        let set = |asked: Option<Instant>| {
            let mut known = listed.known();
            (known.asked, known.result) = (asked, Some(Ok(Arc::default())));
        };
        set(Some(Instant::now()));
        assert!(all.of(None).known().result.is_some());
        set(Some(Instant::now().checked_sub(SHARE_TTL).unwrap()));
        assert!(listed.known().shared().is_none());
        all.of(Some(&SecretString::from("another")));
        assert!(listed.known().result.is_none());
    }

    #[test]
    fn long_lists_take_no_time_to_speak_of() {
        let list: Vec<Value> =
            (0..100_000).map(|number| json!({"id": number.to_string()})).collect();
        assert_eq!(models(list.into()).unwrap().len(), 100_000);
    }
}
