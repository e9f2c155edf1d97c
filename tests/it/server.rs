//! The whole server on a socket, with a scripted policy and a loopback large model.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use prompt_r1::access::Access;
use prompt_r1::engine::Sampling;
use prompt_r1::episode::Limits;
use prompt_r1::http::{
    App, AppHandle, Canary, Metrics, Served, ServerConfig, Serving, Tls, router, serve,
};
use prompt_r1::large_model::{EndpointSetup, LargeModel, LargeModels};
use prompt_r1::policy::{Policy, ScriptedPolicy};
use prompt_r1::protocol::Protocol;
use prompt_r1::record::{Archive, RecordConfig, Recorder};
use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::eventually::eventually;
use crate::loopback::Loopback;

/// The value of the environment variable `TEST_KEY`.
pub const SECRET: &str = "sk-planted-0123456789abcdef";

/// A server that is not started yet.
pub struct Setup {
    pub policy: Arc<dyn Policy>,
    /// A second policy, and its share.
    pub canary: Option<(f64, Arc<dyn Policy>)>,
    /// Policies that play where they are named.
    pub adapters: Vec<Arc<dyn Policy>>,
    /// Keys of the large model `test`, besides its URL and model.
    pub endpoint: Value,
    /// More large models by name, as in a configuration.
    pub others: BTreeMap<String, Value>,
    /// Large models of this process.
    pub in_process: Vec<Arc<dyn LargeModel>>,
    pub default_large_model: &'static str,
    pub limits: Limits,
    pub server: ServerConfig,
    pub access: Option<Arc<Access>>,
    pub tls: Option<Arc<Tls>>,
    pub recorder: Option<Recorder>,
    pub archive: Option<(Archive, RecordConfig)>,
}

impl Setup {
    /// A server whose policy writes these turns.
    pub fn turns<const N: usize>(turns: [&str; N]) -> Self {
        Self::policy(ScriptedPolicy::turns(turns))
    }

    pub fn policy(policy: impl Policy + 'static) -> Self {
        Self {
            policy: Arc::new(policy),
            canary: None,
            adapters: Vec::new(),
            endpoint: json!({}),
            others: BTreeMap::new(),
            in_process: Vec::new(),
            default_large_model: "test",
            limits: Limits::default(),
            server: ServerConfig::default(),
            access: None,
            tls: None,
            recorder: None,
            archive: None,
        }
    }

    /// A server whose policy asks once and answers with the reply.
    pub fn relay() -> Self {
        Self::policy(relay())
    }

    /// The replaceable part of its state.
    pub fn serving(&self, upstream: &Loopback, metrics: &Arc<Metrics>) -> Serving {
        let mut configs = self.others.clone();
        let mut test = json!({"url": upstream.url(), "model": "model-1",
                              "retries": {"max": 0, "base_ms": 1}});
        for (key, value) in self.endpoint.as_object().unwrap() {
            test[key] = value.clone();
        }
        configs.insert("test".to_owned(), test);
        let configs = configs
            .into_iter()
            .map(|(name, config)| (name, serde_json::from_value(config).unwrap()));
        let keys = |name: &str| (name == "TEST_KEY").then(|| SECRET.into());
        let setup = EndpointSetup { keys: &keys, observer: metrics.clone(), seed: 1 };
        let (in_process, default) = (self.in_process.clone(), self.default_large_model);
        let large_models =
            LargeModels::new(in_process, &configs.collect(), default, &setup).unwrap();
        let protocol = Arc::new(Protocol::load(None).unwrap());
        let served = |policy: &Arc<dyn Policy>| {
            let (policy, protocol) = (Arc::clone(policy), Arc::clone(&protocol));
            Arc::new(Served { policy, protocol, sampling: Sampling::GREEDY })
        };
        let canary = self.canary.as_ref();
        Serving {
            main: served(&self.policy),
            canary: canary.map(|(share, policy)| Canary { share: *share, served: served(policy) }),
            adapters: self.adapters.iter().map(served).collect(),
            large_models: Arc::new(large_models),
            limits: self.limits.clone(),
        }
    }

    pub async fn start(self, upstream: &Loopback) -> Server {
        let metrics = Arc::new(Metrics::default());
        let serving = self.serving(upstream, &metrics);
        let count = AtomicU64::new(1);
        let app = App {
            server: self.server.clone(),
            access: self.access,
            recorder: self.recorder,
            archive: self.archive,
            metrics: metrics.clone(),
            clock: Arc::new(|| UNIX_EPOCH + Duration::from_secs(1_700_000_000)),
            ids: Arc::new(move || {
                Uuid::from_u128(u128::from(count.fetch_add(1, Ordering::Relaxed)))
            }),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move {
            let _ = stopped.await;
        };
        let handle = AppHandle::new(app, serving);
        let router = router(handle.clone());
        let (config, tls) = (self.server, self.tls);
        let serving =
            tokio::spawn(async move { serve(listener, router, &config, tls, shutdown).await });
        Server { url, client: client(), handle, metrics, stop: Some(stop), serving }
    }
}

/// A client that goes through no proxy.
pub fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

/// Asks the large model the question, and answers with its reply.
pub fn relay() -> ScriptedPolicy {
    ScriptedPolicy::new(|shown| match shown.len() {
        1 => {
            let question = shown[0].rsplit("<question>\n").next().unwrap();
            let question = question.trim().trim_end_matches("\n</question>");
            format!("<think>ask</think><interaction_prompt>{question}</interaction_prompt>")
        }
        _ => {
            let reply = shown.last().unwrap();
            let reply = reply.replace("<interaction_response>", "");
            let reply = reply.replace("</interaction_response>", "");
            format!("<think>so it is</think><answer>{}</answer>", reply.trim())
        }
    })
}

/// A running server, stopped when dropped.
pub struct Server {
    pub url: String,
    pub client: reqwest::Client,
    pub handle: AppHandle,
    pub metrics: Arc<Metrics>,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Server {
    pub fn post(&self, path: &str, body: &Value) -> RequestBuilder {
        self.client.post(format!("{}{path}", self.url)).json(body)
    }

    pub async fn ask(&self, path: &str, body: Value) -> Response {
        self.post(path, &body).send().await.unwrap()
    }

    /// Status and body of a request.
    pub async fn json(&self, path: &str, body: Value) -> (u16, Value) {
        let response = self.ask(path, body).await;
        (response.status().as_u16(), response.json().await.unwrap())
    }

    pub async fn get(&self, path: &str) -> Response {
        self.client.get(format!("{}{path}", self.url)).send().await.unwrap()
    }

    /// The value of a series; 0 if it does not exist.
    pub async fn metric(&self, series: &str) -> f64 {
        let text = self.get("/metrics").await.text().await.unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(series));
        line.map_or(0.0, |value| value.trim().parse().unwrap())
    }

    /// Returns when a series has reached a value.
    pub async fn wait_for_metric(&self, series: &str, value: f64) {
        eventually(&format!("{series} {value}"), async || self.metric(series).await >= value).await;
    }

    /// Begins the shutdown.
    pub fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    /// Returns when the shutdown is complete.
    pub async fn stopped(&mut self) {
        let stopped = tokio::time::timeout(Duration::from_secs(20), &mut self.serving).await;
        stopped.unwrap().unwrap().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// The data of a stream's events, and whether it was closed by `[DONE]`.
pub fn events(text: &str) -> (Vec<Value>, bool) {
    let data: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    let done = data.last() == Some(&"[DONE]");
    let events = data.iter().filter(|data| **data != "[DONE]");
    (events.map(|data| serde_json::from_str(data).unwrap()).collect(), done)
}
