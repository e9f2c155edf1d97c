//! The environment over HTTP: the same episodes as in serving, whoever samples the turns.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use prompt_r1::engine::{Engine, GenerateEvent, GenerateRequest, Sampling};
use prompt_r1::environment::{Environment, EnvironmentSetup, OpenEpisodesConfig};
use prompt_r1::episode::{DiscardEvents, EpisodeRequest, Limits, Participants, run_episode};
use prompt_r1::http::{EnvironmentApp, ServerConfig, environment_router, serve};
use prompt_r1::large_model::{Call, LargeModelError, Reply, Scripted};
use prompt_r1::policy::TokenPolicy;
use prompt_r1::protocol::Protocol;
use prompt_r1::reward::{RewardConfig, Rewarder};
use prompt_r1::tokenization::ChatTokenizer;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use uuid::Uuid;

const FOLDER: &str = "models/policy";
const QUESTION: &str = "What is Grania's president's birthplace?";
const ASKS: &str = "<think>ask</think><interaction_prompt>Where?</interaction_prompt>";
const ANSWERS: &str = "<think>so</think><answer>Ferk</answer>";

fn text() -> Arc<ChatTokenizer> {
    Arc::new(ChatTokenizer::load(Path::new(FOLDER)).unwrap())
}

fn protocol() -> Arc<Protocol> {
    Arc::new(Protocol::load(Some(&Path::new(FOLDER).join("templates"))).unwrap())
}

fn setup() -> EnvironmentSetup {
    EnvironmentSetup {
        large_model: Arc::new(Scripted::new("m", |_: &Call| Ok(Reply::text("Ferk")))),
        protocol: protocol(),
        rewarder: Arc::new(Rewarder::new(&RewardConfig::default()).unwrap()),
        limits: Limits { max_turn_tokens: 64, fallback: false, ..Limits::default() },
        params: Map::new(),
        text: Some((text(), 512)),
    }
}

struct Server {
    url: String,
    client: reqwest::Client,
    serving: AbortHandle,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Server {
    async fn start(setup: EnvironmentSetup, bounds: OpenEpisodesConfig, key: Option<&str>) -> Self {
        Self::start_with(setup, bounds, key, ServerConfig::default()).await
    }

    async fn start_with(
        setup: EnvironmentSetup,
        bounds: OpenEpisodesConfig,
        key: Option<&str>,
        config: ServerConfig,
    ) -> Self {
        let environment = Arc::new(Environment::new(setup, bounds));
        let key = key.map(|key| key.to_owned().into());
        let app = EnvironmentApp { environment, key, ids: Arc::new(Uuid::new_v4) };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move {
            let router = environment_router(app, &config);
            serve(listener, router, &config, None, std::future::pending()).await
        });
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { url, client, serving: serving.abort_handle() }
    }

    async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        let response = self.client.post(format!("{}{path}", self.url)).json(&body);
        let response = response.bearer_auth("right").send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    async fn reset(&self, more: Value) -> Value {
        let mut body = json!({"question": QUESTION, "golds": ["Ferk"]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (status, reply) = self.post("/env/reset", body).await;
        assert_eq!(status, 200, "{reply}");
        reply
    }

    async fn step(&self, state: &Value, more: Value) -> (u16, Value) {
        let mut body = json!({"episode": state["episode"]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.post("/env/step", body).await
    }
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// A trainer's own sampler.
async fn sample(engine: &dyn Engine, prompt: Vec<u32>, max_tokens: usize) -> (Vec<u32>, Vec<f32>) {
    let mut events = engine.generate(GenerateRequest {
        prompt,
        sampling: Sampling::GREEDY,
        stop_ids: text().tokenizer.stop_ids().to_vec(),
        max_tokens,
        stream: false,
    });
    let (mut ids, mut log_probs) = (Vec::new(), Vec::new());
    while let Some(event) = events.recv().await {
        match event {
            GenerateEvent::Tokens(tokens) => {
                ids.extend(tokens.iter().map(|token| token.id));
                log_probs.extend(tokens.iter().map(|token| token.log_prob));
            }
            GenerateEvent::Done(_) => break,
            GenerateEvent::Failed(error) => panic!("{error}"),
        }
    }
    (ids, log_probs)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_episode_of_the_environment_equals_one_in_serving() {
    let engine = crate::tokens::native();
    let policy = TokenPolicy::new("policy", Arc::clone(&engine), text(), true);
    let (own, protocol) = (setup(), protocol());
    let participants =
        Participants { policy: &policy, large_model: &*own.large_model, protocol: &protocol };
    let mut request = EpisodeRequest::new(QUESTION, Sampling::GREEDY);
    request.limits = own.limits.clone();
    let mut expected = run_episode(participants, &request, &mut DiscardEvents).await.unwrap();
    expected.trajectory.trace.end_with_action();

    let server = Server::start(setup(), OpenEpisodesConfig::default(), None).await;
    let mut state = server.reset(json!({})).await;
    while state["done"] == false {
        let prompt = ids(&state["ids"]);
        assert_eq!(prompt.len(), state["mask"].as_array().unwrap().len());
        let most = state["max_tokens"].as_u64().unwrap() as usize;
        let (sampled, log_probs) = sample(&*engine, prompt, most).await;
        let turn = json!({"ids": sampled, "log_probs": log_probs, "turn": state["turn"]});
        let (status, next) = server.step(&state, turn.clone()).await;
        assert_eq!(status, 200, "{next}");
        // The reply was lost: repeating the step returns it again and changes nothing.
        assert_eq!(server.step(&state, turn).await, (200, next.clone()));
        state = next;
    }
    let trace = expected.trajectory.trace;
    assert_eq!(ids(&state["ids"]), trace.ids);
    let mask: Vec<bool> = ids(&state["mask"]).iter().map(|&sampled| sampled == 1).collect();
    assert_eq!(mask, trace.action_mask);
    let log_probs: Vec<f32> = serde_json::from_value(state["log_probs"].clone()).unwrap();
    assert_eq!(log_probs, trace.log_probs);
    assert_eq!(state["turn"], expected.trajectory.turns.len());
    assert_eq!(state["finish_reason"], expected.finish_reason.as_str());
    assert!(state["reward"]["total"].is_number(), "{state}");
}

#[tokio::test(flavor = "multi_thread")]
async fn turns_may_be_texts() {
    let server = Server::start(
        EnvironmentSetup { text: None, ..setup() },
        OpenEpisodesConfig::default(),
        None,
    )
    .await;
    let state = server.reset(json!({})).await;
    assert!(state["observation"].as_str().unwrap().contains(QUESTION), "{state}");
    assert_eq!((&state["turn"], &state["ids"]), (&json!(0), &Value::Null));
    let (_, state) = server.step(&state, json!({"text": ASKS})).await;
    let shown = state["observation"].as_str().unwrap();
    assert!(shown.contains("Ferk"), "{state}");
    assert_eq!((&state["done"], &state["turn"]), (&json!(false), &json!(1)));
    let (_, done) = server.step(&state, json!({"text": ANSWERS})).await;
    assert_eq!(done["reward"], json!({"total": 1.0, "answer": 1.0, "format": 1.0}));
    assert_eq!((&done["answer"], &done["turn"]), (&json!("Ferk"), &json!(2)));
    assert_eq!(
        (&done["finish_reason"], &done["large_model_calls"]),
        (&json!("answered"), &json!(1))
    );
    let state = server.reset(json!({"max_turns": 1})).await;
    let (_, done) = server.step(&state, json!({"text": ASKS})).await;
    assert_eq!((&done["finish_reason"], &done["answer"]), (&json!("turn_limit"), &json!("")));
    let state = server.reset(json!({})).await;
    let cut = json!({"text": "<think>so it", "is_cut": true});
    let (_, done) = server.step(&state, cut).await;
    assert_eq!(done["finish_reason"], "token_limit", "{done}");
    let state = server.reset(json!({})).await;
    let (status, error) = server.step(&state, json!({"ids": [1]})).await;
    assert_eq!(status, 400, "{error}");
    assert!(error["error"]["message"].as_str().unwrap().contains("no tokenizer"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_behind_the_end_of_a_turn_have_no_part_in_it() {
    let server = Server::start(setup(), OpenEpisodesConfig::default(), None).await;
    let text = text();
    let state = server.reset(json!({})).await;
    let opening = ids(&state["ids"]);
    let mut turn = text.turn_ids(ASKS).unwrap();
    let length = turn.len();
    turn.extend([300, 301]);
    let (_, next) = server.step(&state, json!({"ids": turn})).await;
    let stream = ids(&next["ids"]);
    assert_eq!(stream[opening.len()..opening.len() + length], turn[..length]);
    let sampled = ids(&next["mask"]).iter().filter(|&&sampled| sampled == 1).count();
    assert_eq!(sampled, length, "{next}");
    assert!(stream.len() > opening.len() + length, "the reply is shown: {next}");
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_that_cannot_be_taken_are_refused_and_the_episode_goes_on() {
    let server = Server::start(setup(), OpenEpisodesConfig::default(), None).await;
    let state = server.reset(json!({"max_turn_tokens": 8})).await;
    assert_eq!(state["max_tokens"], 8);
    for (turn, status, reason) in [
        (json!({"ids": vec![1; 9]}), 400, "the turn has 9 tokens, but it may have 8"),
        (json!({"text": "x".repeat(200)}), 400, "the turn has 200 bytes"),
        (json!({"ids": []}), 400, "it has no token"),
        (json!({"ids": [1], "text": "x"}), 400, "either `ids` or `text`"),
        (json!({}), 400, "either `ids` or `text`"),
        (json!({"ids": [1], "log_probs": [-1.0, -2.0]}), 400, "1 ids have 2 log-probabilities"),
        (json!({"ids": [1], "log_probs": [0.5]}), 400, "no log-probability"),
        (json!({"ids": [-1]}), 400, "invalid value"),
        (json!({"ids": [1], "turns": 1}), 400, "`turns` is not known"),
        (json!({"ids": [1], "turn": 3}), 409, "turn 3 was sent, but turn 0 is expected"),
    ] {
        let (found, error) = server.step(&state, turn.clone()).await;
        assert_eq!(found, status, "{turn}: {error}");
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains(reason), "{turn}: {message}");
    }
    let (status, error) = server.step(&json!({"episode": Uuid::nil()}), json!({"text": "x"})).await;
    assert_eq!((status, &error["error"]["code"]), (404, &json!("unknown_episode")));
    let (status, next) = server.step(&state, json!({"text": "<answer>Ferk</answer>"})).await;
    assert_eq!((status, &next["done"]), (200, &json!(true)), "{next}");
    // The end is returned as often as it is requested.
    let again = server.step(&state, json!({"text": "<answer>Ferk</answer>", "turn": 0})).await;
    assert_eq!(again, (200, next));
    let state = server.reset(json!({})).await;
    let (_, state) = server.step(&state, json!({"text": ASKS})).await;
    let (status, error) = server.step(&state, json!({"ids": [1]})).await;
    assert_eq!(status, 400, "{error}");
    for (body, reason) in [
        (json!({"question": " ", "golds": ["a"]}), "`question` is empty"),
        (json!({"question": "a", "golds": []}), "`golds` is empty"),
        (json!({"question": "a", "golds": ["a"], "max_turns": 0}), "`max_turns` must be"),
        (json!({"question": "a"}), "`golds` is missing"),
    ] {
        let (status, error) = server.post("/env/reset", body).await;
        assert_eq!(status, 400, "{error}");
        assert!(error["error"]["message"].as_str().unwrap().contains(reason), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_that_are_not_the_policys_have_no_reward() {
    let broken = Scripted::new("m", |_: &Call| {
        Err(LargeModelError::Rejected { model: "m".into(), reason: "down".into() })
    });
    let broken = EnvironmentSetup { large_model: Arc::new(broken), ..setup() };
    let server = Server::start(broken, OpenEpisodesConfig::default(), None).await;
    let state = server.reset(json!({})).await;
    let (status, done) = server.step(&state, json!({"text": ASKS})).await;
    assert_eq!((status, &done["done"]), (200, &json!(true)), "{done}");
    assert!(done["error"].as_str().unwrap().contains("down") && done["reward"].is_null(), "{done}");

    let server = Server::start(setup(), OpenEpisodesConfig::default(), None).await;
    let state = server.reset(json!({"deadline_ms": 1})).await;
    let late = match state["done"] == true {
        true => state,
        false => {
            tokio::time::sleep(Duration::from_millis(20)).await;
            server.step(&state, json!({"text": ANSWERS})).await.1
        }
    };
    assert_eq!((&late["done"], &late["reward"]), (&json!(true), &Value::Null), "{late}");
    assert!(late["error"].as_str().unwrap().contains("1 ms"), "{late}");
}

#[tokio::test(flavor = "multi_thread")]
async fn resets_beyond_the_limit_are_refused() {
    let server =
        Server::start(setup(), OpenEpisodesConfig { max_open: 2, idle_ms: 600_000 }, Some("right"))
            .await;
    let (one, two) = (server.reset(json!({})).await, server.reset(json!({})).await);
    let body = json!({"question": QUESTION, "golds": ["Ferk"]});
    let (status, error) = server.post("/env/reset", body.clone()).await;
    assert_eq!((status, &error["error"]["code"]), (429, &json!("too_many_episodes")));
    // A finished episode is closed to make room.
    let (_, done) = server.step(&one, json!({"text": ANSWERS})).await;
    assert_eq!(done["done"], true);
    server.reset(json!({})).await;
    assert_eq!(server.step(&one, json!({"text": ANSWERS})).await.0, 404);
    let closed =
        server.client.delete(format!("{}/env/{}", server.url, two["episode"].as_str().unwrap()));
    let closed: Value = closed.bearer_auth("right").send().await.unwrap().json().await.unwrap();
    assert_eq!(closed, json!({"closed": true}));
    let about = server.client.get(format!("{}/env", server.url)).bearer_auth("right");
    let about: Value = about.send().await.unwrap().json().await.unwrap();
    assert_eq!((&about["open"], &about["token_ids"]), (&json!(1), &json!(true)));
    for key in ["wrong", ""] {
        let asked = server.client.post(format!("{}/env/reset", server.url)).bearer_auth(key);
        assert_eq!(asked.json(&body).send().await.unwrap().status().as_u16(), 401);
    }
    let server = Server::start(setup(), OpenEpisodesConfig { max_open: 1, idle_ms: 1 }, None).await;
    let idle = server.reset(json!({})).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    server.reset(json!({})).await;
    assert_eq!(server.step(&idle, json!({"text": ANSWERS})).await.0, 404, "it was idle too long");
}

#[tokio::test]
async fn a_body_is_read_after_the_key_and_in_time() {
    let bounds = || OpenEpisodesConfig { max_open: 1, idle_ms: 600_000 };
    let hurried = ServerConfig { body_timeout_s: 1, ..ServerConfig::default() };
    let server = Server::start_with(setup(), bounds(), Some("right"), hurried).await;
    // None of the body is sent.
    let status = async |key: &str, length: usize| {
        let address = server.url.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "POST /env/reset HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {key}\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut first = [0; 12];
        let read = stream.read_exact(&mut first);
        tokio::time::timeout(Duration::from_secs(20), read).await.expect("no answer").unwrap();
        String::from_utf8_lossy(&first).into_owned()
    };
    assert_eq!(status("wrong", 1_000_000).await, "HTTP/1.1 401");
    assert_eq!(status("right", 1_000_000).await, "HTTP/1.1 408");
    assert_eq!(status("right", 5_000_000).await, "HTTP/1.1 413");
}

/// As in the own loop: the conversation ends where the policy's context does.
#[tokio::test(flavor = "multi_thread")]
async fn an_episode_ends_where_the_policys_context_does() {
    let turn = text().turn_ids(ASKS).unwrap();
    let server = Server::start(setup(), OpenEpisodesConfig::default(), None).await;
    let opening = ids(&server.reset(json!({})).await["ids"]).len();
    for (spare, is_over) in [(5, true), (100, false)] {
        let context = opening + turn.len() + spare;
        let server = Server::start(
            EnvironmentSetup { text: Some((text(), context)), ..setup() },
            OpenEpisodesConfig::default(),
            None,
        )
        .await;
        let state = server.reset(json!({})).await;
        assert_eq!(state["max_tokens"], (turn.len() + spare).min(64));
        let (_, next) = server.step(&state, json!({"ids": turn})).await;
        assert_eq!(next["done"], is_over, "{next}");
        if is_over {
            assert_eq!(next["finish_reason"], "token_limit");
            assert!(next["reward"]["total"].is_number(), "{next}");
        } else {
            assert_eq!(next["max_tokens"], (context - ids(&next["ids"]).len()).min(64));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_and_turns_out_of_range_are_refused() {
    let server = Server::start(setup(), OpenEpisodesConfig::default(), None).await;
    let state = server.reset(json!({})).await;
    let size = text().tokenizer.size();
    for id in [size as u32, u32::MAX] {
        let (status, error) = server.step(&state, json!({"ids": [1, id]})).await;
        assert_eq!(status, 400, "{error}");
        let message = error["error"]["message"].as_str().unwrap();
        assert!(
            message.contains(&format!("token id {id}, but the vocabulary has {size}")),
            "{error}"
        );
    }
    let (status, error) = server.step(&state, json!({"ids": [1], "turn": u64::MAX})).await;
    assert_eq!(status, 409, "{error}");
    let (status, next) = server.step(&state, json!({"ids": [size - 1]})).await;
    assert_eq!(status, 200, "{next}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_episode_whose_step_is_under_way_is_not_idle() {
    let slow = Scripted::new("m", |_: &Call| {
        std::thread::sleep(Duration::from_millis(400));
        Ok(Reply::text("Ferk"))
    });
    let slow = EnvironmentSetup { large_model: Arc::new(slow), ..setup() };
    let server = Server::start(slow, OpenEpisodesConfig { max_open: 8, idle_ms: 50 }, None).await;
    let state = server.reset(json!({})).await;
    let another = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        server.reset(json!({})).await
    };
    let ((status, next), _) = tokio::join!(server.step(&state, json!({"text": ASKS})), another);
    assert_eq!((status, &next["done"]), (200, &json!(false)), "{next}");
    let (status, done) = server.step(&state, json!({"text": ANSWERS})).await;
    assert_eq!((status, &done["done"]), (200, &json!(true)), "{done}");
}

#[test]
fn the_committed_document_is_the_environments() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi/environment.json");
    let made = format!("{}\n", prompt_r1::http::environment_openapi_json());
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        made == committed,
        "`openapi/environment.json` is out of date\nhint: run `cargo run -- env --openapi > openapi/environment.json`"
    );
}
