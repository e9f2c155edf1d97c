//! What clients see when an engine's thread dies or a handler panics. Causing these takes internals
//! that `tests/it` cannot reach.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use axum::routing::get;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tower::ServiceExt;
use uuid::Uuid;

use super::{App, AppHandle, Metrics, Served, ServerConfig, Serving, middleware, router, serve};
use crate::engine::config::MistralRsConfig;
use crate::engine::mistralrs::MistralRsEngine;
use crate::engine::{Engine, GenerateEvent, GenerateRequest, Sampling};
use crate::episode::Limits;
use crate::large_model::{EndpointSetup, LargeModel, LargeModels, Reply, Scripted};
use crate::policy::{Policy, ScriptedPolicy, TokenPolicy};
use crate::protocol::Protocol;
use crate::tokenization::ChatTokenizer;

const FOLDER: &str = "models/policy";

/// An engine that reports when it has sampled the first token of a request.
struct Watched {
    engine: Arc<MistralRsEngine>,
    began: UnboundedSender<()>,
}

#[async_trait]
impl Engine for Watched {
    fn generate(&self, request: GenerateRequest) -> UnboundedReceiver<GenerateEvent> {
        let mut events = self.engine.generate(request);
        let (sender, receiver) = mpsc::unbounded_channel();
        let began = self.began.clone();
        tokio::spawn(async move {
            let mut is_first = true;
            while let Some(event) = events.recv().await {
                if std::mem::take(&mut is_first) && matches!(event, GenerateEvent::Tokens(_)) {
                    began.send(()).unwrap();
                }
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
        receiver
    }

    fn context_length(&self) -> usize {
        self.engine.context_length()
    }

    async fn is_ready(&self) -> bool {
        self.engine.is_ready().await
    }
}

/// A server of this policy.
fn handle(policy: Arc<dyn Policy>) -> AppHandle {
    let protocol = Protocol::load(Some(&Path::new(FOLDER).join("templates"))).unwrap();
    let main = Served { policy, protocol: Arc::new(protocol), sampling: Sampling::GREEDY };
    let metrics = Arc::new(Metrics::default());
    let setup = EndpointSetup { keys: &|_| None, observer: metrics.clone(), seed: 1 };
    let large_model: Arc<dyn LargeModel> =
        Arc::new(Scripted::new("m", |_| Ok(Reply::text("Ferk"))));
    let large_models = LargeModels::new(vec![large_model], &BTreeMap::new(), "m", &setup);
    let serving = Serving {
        main: Arc::new(main),
        canary: None,
        adapters: Vec::new(),
        large_models: Arc::new(large_models.unwrap()),
        limits: Limits::default(),
    };
    let app = App {
        server: ServerConfig::default(),
        access: None,
        recorder: None,
        archive: None,
        metrics,
        clock: Arc::new(SystemTime::now),
        ids: Arc::new(Uuid::now_v7),
    };
    AppHandle::new(app, serving)
}

/// Serves the bundled policy on this engine, and gives the URL.
async fn start(engine: Arc<dyn Engine>) -> String {
    let text = Arc::new(ChatTokenizer::load(Path::new(FOLDER)).unwrap());
    let policy = Arc::new(TokenPolicy::new("policy", engine, text, true));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = router(handle(policy));
    tokio::spawn(async move {
        serve(listener, router, &ServerConfig::default(), None, std::future::pending()).await
    });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_engine_is_a_503_and_the_next_request_works() {
    let config = MistralRsConfig { force_cpu: true, max_batch: 8, ..MistralRsConfig::default() };
    let engine = Arc::new(MistralRsEngine::load(Path::new(FOLDER), &config).await.unwrap());
    let (began, mut begun) = mpsc::unbounded_channel();
    let url = start(Arc::new(Watched { engine: Arc::clone(&engine), began })).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let ask = |path: &str, stream: bool| {
        let question = "What is Grania's president's birthplace?";
        let body = match path {
            "/v1/solve" => json!({"question": question, "stream": stream}),
            _ => json!({"model": "prompt-r1", "stream": stream,
                        "messages": [{"role": "user", "content": question}]}),
        };
        let sent = client.post(format!("{url}{path}")).json(&body).send();
        async move {
            let response = sent.await.unwrap();
            let wait = response.headers().get("retry-after").cloned();
            (response.status().as_u16(), wait, response.text().await.unwrap())
        }
    };
    for (path, stream) in
        [("/v1/solve", false), ("/v1/chat/completions", false), ("/v1/solve", true)]
    {
        let threat = engine.threaten().await;
        let in_flight = tokio::spawn(ask(path, stream));
        let first = tokio::time::timeout(Duration::from_secs(60), begun.recv());
        first.await.unwrap().unwrap();
        threat.strike().await;
        let (status, wait, text) = in_flight.await.unwrap();
        assert!(!text.contains("killed") && !text.contains("thread"), "{text}");
        if stream {
            let (_, error) = text.rsplit_once("event: error\ndata: ").unwrap();
            let error: Value = serde_json::from_str(error.trim()).unwrap();
            assert_eq!(error["error"]["code"], "policy_unavailable", "{text}");
        } else {
            assert_eq!((status, wait.unwrap().as_bytes()), (503, &b"1"[..]), "{text}");
            let error: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(error["error"]["code"], "policy_unavailable", "{text}");
            assert_eq!(error["error"]["type"], "server_error", "{text}");
            assert!(error["error"]["message"].is_string(), "{text}");
        }
        let (status, _, text) = ask(path, false).await;
        assert_eq!(status, 200, "{text}");
        let ready = client.get(format!("{url}/readyz")).send().await.unwrap();
        assert_eq!(ready.status(), 200);
        // Its answer does not matter to the next round.
        while begun.try_recv().is_ok() {}
    }
}

#[tokio::test]
async fn around_a_handler_nothing_panics_and_secrets_are_not_shown() {
    let handle = handle(Arc::new(ScriptedPolicy::new(|_| String::new())));
    let handlers = Router::new()
        .route("/panic", get(async || -> &str { panic!("the inside") }))
        .route("/headers", get(async |headers: HeaderMap| format!("{headers:?}")));
    let router = middleware::wrap(handlers, &handle).with_state(handle.clone());
    let ask = async |path: &str| {
        let mut request = Request::get(path).header("x-request-id", "mine-9");
        for name in ["authorization", "proxy-authorization", "cookie", "cookie", "x-api-key"] {
            request = request.header(name, "hidden");
        }
        let request = request.header("accept", "shown").body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.headers()["x-request-id"], "mine-9");
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    };
    let (status, body) = ask("/panic").await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    let error: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(error["error"]["type"], "server_error");
    assert!(!body.contains("the inside"), "{body}");
    let (status, body) = ask("/headers").await;
    assert_eq!(status, StatusCode::OK);
    assert!(body.contains("shown") && !body.contains("hidden"), "{body}");
}
