//! The engine over token servers: exact with every API, and with an error for each failure.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prompt_r1::engine::tokens::TokensEngine;
use prompt_r1::engine::tokens::config::Dialect;
use prompt_r1::engine::{
    Engine, EngineError, GenerateEvent, GenerateRequest, Sampling, StopReason,
};
use prompt_r1::episode::{DiscardEvents, Episode, EpisodeRequest, Participants, run_episode};
use prompt_r1::large_model::{Reply, Scripted};
use prompt_r1::policy::TokenPolicy;
use prompt_r1::protocol::Protocol;
use prompt_r1::trajectory::SampledToken;
use serde_json::{Value, json};

use crate::loopback::{Cut, Gate, Loopback, Script};
use crate::process;
use crate::server::SECRET;

mod fake;

pub use fake::native;
use fake::{FOLDER, Flaw, config, engine, server, text};

const ALL: [Dialect; 3] = [Dialect::LlamaCpp, Dialect::Completions, Dialect::Sglang];

fn request(max_tokens: usize) -> GenerateRequest {
    let text = text();
    GenerateRequest {
        prompt: text.tokenizer.encode_markup("<|user|>Padford?<|assistant|>").unwrap(),
        sampling: Sampling::GREEDY,
        stop_ids: text.tokenizer.stop_ids().to_vec(),
        max_tokens,
        stream: true,
    }
}

/// The tokens of a whole request, and how it ended.
async fn collect(
    engine: &dyn Engine,
    request: GenerateRequest,
) -> (Vec<SampledToken>, Result<StopReason, EngineError>) {
    let (mut events, mut all) = (engine.generate(request), Vec::new());
    loop {
        match events.recv().await.expect("an engine says how a request ends") {
            GenerateEvent::Tokens(tokens) => all.extend(tokens),
            GenerateEvent::Done(reason) => return (all, Ok(reason)),
            GenerateEvent::Failed(error) => return (all, Err(error)),
        }
    }
}

async fn failed(engine: &dyn Engine) -> String {
    collect(engine, request(4)).await.1.unwrap_err().to_string()
}

/// Makes sure that the next request is one for tokens: after a failure the server is compared
/// again.
async fn settle(engine: &TokensEngine) {
    assert_eq!(collect(engine, request(4)).await.1, Ok(StopReason::Length));
}

/// An engine that has compared its server successfully.
async fn connected(server: &Loopback, dialect: Dialect, more: Value) -> TokensEngine {
    let engine = engine(&config(dialect, &[server], more));
    engine.connect().await.unwrap();
    engine
}

async fn episode(engine: Arc<dyn Engine>, question: &str) -> Episode {
    let policy = TokenPolicy::new("policy", engine, text(), true);
    let protocol = Protocol::load(Some(&Path::new(FOLDER).join("templates"))).unwrap();
    let large_model = Scripted::new("m", |_| Ok(Reply::text("Ferk")));
    let participants =
        Participants { policy: &policy, large_model: &large_model, protocol: &protocol };
    let mut request = EpisodeRequest::new(question, Sampling::GREEDY);
    request.limits.fallback = false;
    run_episode(participants, &request, &mut DiscardEvents).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn episodes_are_those_of_the_native_engine() {
    let native = native();
    for dialect in ALL {
        let server = server(dialect, Flaw::None).await;
        let tokens: Arc<dyn Engine> = Arc::new(connected(&server, dialect, json!({})).await);
        assert!(tokens.is_ready().await);
        for question in ["What is Grania's president's birthplace?", "Where is Padford?"] {
            let own = episode(Arc::clone(&native), question).await.trajectory.trace;
            let theirs = episode(Arc::clone(&tokens), question).await.trajectory.trace;
            assert!(own.action_count() > 10, "{own:?}");
            assert_eq!((&own.ids, &own.action_mask), (&theirs.ids, &theirs.action_mask));
            for (own, theirs) in own.log_probs.iter().zip(&theirs.log_probs) {
                assert!((own - theirs).abs() < 1e-6, "{own} {theirs}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bounds_and_stop_ids_hold_whatever_the_server_does() {
    for dialect in ALL {
        let server = server(dialect, Flaw::None).await;
        let engine = connected(&server, dialect, json!({})).await;
        let (whole, end) = collect(&engine, request(400)).await;
        assert_eq!(end, Ok(StopReason::StopId), "{whole:?}");
        let (short, end) = collect(&engine, request(2)).await;
        assert_eq!((&short[..], end), (&whole[..2], Ok(StopReason::Length)));
        // A stop id that the server does not know.
        let stop_ids = vec![whole[1].id];
        let (stopped, end) = collect(&engine, GenerateRequest { stop_ids, ..request(400) }).await;
        assert_eq!((&stopped[..], end), (&whole[..2], Ok(StopReason::StopId)));
        let prompt = vec![1; 512];
        let (_, end) = collect(&engine, GenerateRequest { prompt, ..request(4) }).await;
        assert_eq!(end, Err(EngineError::PromptTooLong { tokens: 512, context: 512 }));
        let prompt = Vec::new();
        let (_, end) = collect(&engine, GenerateRequest { prompt, ..request(4) }).await;
        assert!(matches!(end, Err(EngineError::InvalidRequest(_))), "{end:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_exact_is_refused() {
    let server = server(Dialect::LlamaCpp, Flaw::None).await;
    let engine = connected(&server, Dialect::LlamaCpp, json!({})).await;
    let sampling = Sampling { temperature: 0.7, top_p: 0.8, top_k: None, seed: 1 };
    let (_, end) = collect(&engine, GenerateRequest { sampling, ..request(4) }).await;
    assert!(matches!(&end, Err(EngineError::Sampling(reason)) if reason.text.contains("top_p")));
    assert!(server.requests().iter().all(|request| request.path != "/completion"));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_model_is_refused_by_name_before_the_first_token() {
    for (dialect, flaw, reason) in [
        (Dialect::LlamaCpp, Flaw::Vocabulary, "token `922` is `<thought>` there, and `<think>`"),
        (Dialect::LlamaCpp, Flaw::Small, "it has 900 tokens, the policy 932"),
        (Dialect::LlamaCpp, Flaw::Template, "after 9 characters its chat template writes"),
        (Dialect::LlamaCpp, Flaw::Name, "it has no `the-policy`, but `another`"),
        (Dialect::Completions, Flaw::Vocabulary, "token `922`"),
        (Dialect::Completions, Flaw::Template, "its chat template writes"),
        (Dialect::Completions, Flaw::Name, "it has no `the-policy`, but `another`"),
        (Dialect::Sglang, Flaw::Vocabulary, "token `922`"),
    ] {
        let server = server(dialect, flaw).await;
        let engine = engine(&config(dialect, &[&server], json!({"model": fake::MODEL})));
        let error = engine.connect().await.unwrap_err();
        assert!(matches!(error, EngineError::OtherModel { .. }), "{error:?}");
        assert!(error.to_string().contains(reason), "{error}");
        assert!(!engine.is_ready().await);
        // Requests that waited for the comparison get the same error.
        assert!(failed(&engine).await.contains(reason), "{dialect:?} {flaw:?}");
        let path = |request: &crate::loopback::Recorded| request.path.clone();
        let asked: Vec<_> = server.requests().iter().map(path).collect();
        let is_asked = |path: &String| {
            matches!(path.as_str(), "/completion" | "/v1/completions" | "/generate")
        };
        assert!(!asked.iter().any(is_asked), "no token was asked for: {asked:?}");
        if flaw == Flaw::Template {
            let more = json!({"model": fake::MODEL, "check": "vocabulary"});
            connected(&server, dialect, more).await;
        }
    }
    let server = server(Dialect::Completions, Flaw::None).await;
    let engine = engine(&config(Dialect::LlamaCpp, &[&server], json!({})));
    assert!(engine.connect().await.unwrap_err().to_string().contains("not a llama.cpp server"));
}

#[tokio::test(flavor = "multi_thread")]
async fn statuses_are_distinguished() {
    let server = server(Dialect::LlamaCpp, Flaw::None).await;
    for (status, is_retried) in [
        (400, false),
        (401, false),
        (404, false),
        (408, true),
        (409, true),
        (429, true),
        (500, true),
        (501, false),
        (503, true),
        (504, false),
    ] {
        let engine = connected(&server, Dialect::LlamaCpp, json!({})).await;
        server.then(Script::error(status, "overloaded").header("retry-after-ms", "1"));
        let (tokens, end) = collect(&engine, request(4)).await;
        assert_eq!(end.is_ok(), is_retried, "{status}: {end:?}");
        match end {
            Ok(_) => assert_eq!(tokens.len(), 4),
            Err(error) => assert!(error.to_string().contains("overloaded"), "{error}"),
        }
    }
    let engine = connected(&server, Dialect::LlamaCpp, json!({"retries": {"max": 0}})).await;
    server.then(Script::json(
        400,
        json!({"error": {"code": 400, "message": "too long", "n_prompt_tokens": 700, "n_ctx": 64}}),
    ));
    let (_, end) = collect(&engine, request(4)).await;
    assert_eq!(end, Err(EngineError::PromptTooLong { tokens: 700, context: 64 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_breaks_off_is_repeated_only_before_its_first_token() {
    let server = server(Dialect::LlamaCpp, Flaw::None).await;
    let tokens: Vec<_> = (0..4).map(|id| SampledToken { id: 300 + id, log_prob: -0.5 }).collect();
    let reply = || fake::events(Dialect::LlamaCpp, Flaw::None, &tokens, &text());
    let engine = connected(&server, Dialect::LlamaCpp, json!({})).await;
    for cut in
        [Script::nothing(Cut::Close), Script::nothing(Cut::Reset), reply().cut(9, Cut::Close)]
    {
        server.then(cut);
        let (tokens, end) = collect(&engine, request(4)).await;
        assert_eq!((tokens.len(), end), (4, Ok(StopReason::Length)));
    }
    settle(&engine).await;
    let before = server.requests().len();
    server.then(reply().cut(400, Cut::Close));
    let (tokens, end) = collect(&engine, request(4)).await;
    assert!(!tokens.is_empty() && tokens.len() < 4, "{tokens:?}");
    assert!(end.unwrap_err().to_string().contains("broke off"));
    let asked = server.requests().split_off(before);
    assert_eq!(asked.iter().filter(|request| request.path == "/completion").count(), 1);
    // It ends as if it were complete, but does not say why.
    settle(&engine).await;
    let said = json!({"tokens": [7], "tokens_predicted": 1,
        "completion_probabilities": [{"id": 7, "logprob": -0.1}]});
    server.then(Script::events([said.to_string()]));
    let error = failed(&engine).await;
    assert!(error.contains("broke off after 1 tokens"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_and_silent_servers_are_left() {
    let server = server(Dialect::LlamaCpp, Flaw::None).await;
    let more = json!({"timeouts": {"first_byte_ms": 1000}});
    let engine = connected(&server, Dialect::LlamaCpp, more).await;
    server.then(Script::nothing(Cut::Stall));
    let error = failed(&engine).await;
    assert!(error.contains("did not answer within 1000 ms"), "{error}");
    server.wait_for_disconnects(1).await;
    let tokens = [SampledToken { id: 300, log_prob: -0.5 }; 4];
    let reply = fake::events(Dialect::LlamaCpp, Flaw::None, &tokens, &text());
    let more = json!({"timeouts": {"idle_ms": 1000}});
    let engine = connected(&server, Dialect::LlamaCpp, more).await;
    server.then(reply.cut(400, Cut::Stall));
    let error = failed(&engine).await;
    assert!(error.contains("it sent nothing for 1000 ms"), "{error}");
    server.wait_for_disconnects(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_disconnects_ends_the_request_at_the_server() {
    let server = server(Dialect::LlamaCpp, Flaw::None).await;
    let engine = connected(&server, Dialect::LlamaCpp, json!({})).await;
    server.then(Script::nothing(Cut::Stall));
    let events = engine.generate(request(4));
    server.wait_for_requests(server.requests().len()).await;
    while !server.requests().iter().any(|request| request.path == "/completion") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(events);
    server.wait_for_disconnects(1).await;
    while engine.used()[0].in_flight > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(collect(&engine, request(4)).await.0.len(), 4, "others are served");
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_that_cannot_be_used_are_refused_with_the_reason() {
    let no_ids = server(Dialect::Completions, Flaw::NoIds).await;
    let engine = connected(&no_ids, Dialect::Completions, json!({})).await;
    let error = failed(&engine).await;
    assert!(error.contains("token ids"), "{error}");

    let server = server(Dialect::LlamaCpp, Flaw::None).await;
    let engine = connected(&server, Dialect::LlamaCpp, json!({})).await;
    let entry = json!([{"id": 7, "logprob": -0.1}]);
    for (event, reason) in [
        (json!({"tokens": [7], "tokens_predicted": 1}), "without probabilities"),
        (json!({"tokens_predicted": 3, "completion_probabilities": entry}), "left out 2 tokens"),
        (json!({"tokens": [], "stop": true, "stop_type": "word"}), "is not a stop token"),
        (json!({"tokens": [], "stop": true, "stop_type": "none"}), "ended the sequence after 0"),
        (json!({"error": {"message": "out of memory"}}), "out of memory"),
    ] {
        // After a failure the server is compared again, which the next request must not count.
        settle(&engine).await;
        server.then(Script::events([event.to_string()]));
        let error = failed(&engine).await;
        assert!(error.contains(reason), "{error}");
    }
    settle(&engine).await;
    server.then(Script::events(["no JSON"]));
    assert!(failed(&engine).await.contains("an event of its reply is not valid JSON"));
    settle(&engine).await;
    let endless = Script::endless("text/event-stream", &"x".repeat(1 << 20));
    server.then(endless);
    assert!(failed(&engine).await.contains("an event of its reply is too long"));
}

#[tokio::test(flavor = "multi_thread")]
async fn several_servers_share_the_work_and_one_may_die() {
    let dialect = Dialect::LlamaCpp;
    let dead: [Arc<AtomicBool>; 2] = Default::default();
    let one = fake::mortal(dialect, Flaw::None, Arc::clone(&dead[0])).await;
    let two = fake::mortal(dialect, Flaw::None, Arc::clone(&dead[1])).await;
    let engine = Arc::new(engine(&config(dialect, &[&one, &two], json!({"max_in_flight": 2}))));
    engine.connect().await.unwrap();
    let all = |count: usize| {
        let engine = Arc::clone(&engine);
        let asked = (0..count).map(move |_| {
            let engine = Arc::clone(&engine);
            async move { collect(&*engine, request(4)).await.1 }
        });
        futures::future::join_all(asked)
    };
    for end in all(12).await {
        assert_eq!(end, Ok(StopReason::Length));
    }
    let used = engine.used();
    for server in &used {
        assert!(server.requests >= 4 && server.tokens == 4 * server.requests, "{used:?}");
        assert!(server.busy > Duration::ZERO && server.in_flight == 0, "{used:?}");
    }
    dead[0].store(true, Ordering::Relaxed);
    for end in all(12).await {
        assert_eq!(end, Ok(StopReason::Length));
    }
    assert!(engine.is_ready().await);
    assert!(engine.used()[0].failures > 0, "{:?}", engine.used());
    dead[1].store(true, Ordering::Relaxed);
    let error = failed(&*engine).await;
    assert!(error.contains("cannot be reached"), "{error}");
    assert!(!engine.is_ready().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_another_model_does_not_spoil_the_others() {
    let dialect = Dialect::LlamaCpp;
    let right = server(dialect, Flaw::None).await;
    let wrong = server(dialect, Flaw::Vocabulary).await;
    let engine = engine(&config(dialect, &[&wrong, &right], json!({})));
    for _ in 0..4 {
        assert_eq!(collect(&engine, request(4)).await.1, Ok(StopReason::Length));
    }
    assert_eq!((engine.used()[0].requests, engine.used()[1].requests), (0, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_full_refuses() {
    let dialect = Dialect::LlamaCpp;
    let server = server(dialect, Flaw::None).await;
    let engine = connected(&server, dialect, json!({"max_in_flight": 1, "queue": 0})).await;
    let gate = Gate::default();
    let tokens = [SampledToken { id: 300, log_prob: -0.5 }; 4];
    server.then(fake::events(dialect, Flaw::None, &tokens, &text()).held(&gate));
    let mut first = engine.generate(request(4));
    while engine.used()[0].in_flight == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(collect(&engine, request(4)).await.1, Err(EngineError::Overloaded));
    gate.open_once();
    assert!(matches!(first.recv().await, Some(GenerateEvent::Tokens(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_goes_to_the_server_and_nowhere_else() {
    let server = server(Dialect::LlamaCpp, Flaw::None).await;
    let engine = connected(&server, Dialect::LlamaCpp, json!({"api_key_env": "TEST_KEY"})).await;
    let bearer = format!("Bearer {SECRET}");
    assert!(
        server.requests().iter().all(|request| request.header("authorization") == Some(&bearer))
    );
    server.then(Script::error(401, &format!("the key {SECRET} is wrong")));
    let error = failed(&engine).await;
    assert!(error.contains("[redacted]") && !error.contains(SECRET), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_is_served_from_token_servers() {
    let server = server(Dialect::LlamaCpp, Flaw::None).await;
    let at = server.url().trim_end_matches("/v1").to_owned();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("server.toml");
    let write = |more: &str| {
        let text = format!(
            "schema_version = 1\n[policy]\nmodel = \"{FOLDER}\"\n{more}\n[policy.tokens]\nservers = [\"{at}\"]\ndialect = \"llama_cpp\"\n"
        );
        std::fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let (status, said) = process::run(&["check", &write("sampling = { temperature = 0 }")]);
    assert_eq!(status, 0, "{said}");
    assert!(said.contains("tokens, from 1 servers that speak `llama_cpp`"), "{said}");
    let question = "What is Grania's president's birthplace?";
    let solved = |arguments: &[&str]| {
        let (status, said) = process::run(&[&["solve", question, "--json"], arguments].concat());
        assert_eq!(status, 0, "{said}");
        let json = said.find("{\n").unwrap_or_else(|| panic!("{said}"));
        let values = serde_json::Deserializer::from_str(&said[json..]).into_iter::<Value>();
        let episode = values.map(Result::unwrap).next().unwrap();
        episode["trajectory"]["trace"]["ids"].clone()
    };
    let theirs = solved(&["--config", &file.display().to_string()]);
    let native = folder.path().join("native.toml");
    let text = format!(
        "schema_version = 1\n[policy]\nengine = \"native\"\nmodel = \"{FOLDER}\"\nsampling = {{ temperature = 0 }}\n"
    );
    std::fs::write(&native, text).unwrap();
    assert_eq!(theirs, solved(&["--config", native.to_str().unwrap()]));

    let (status, said) = process::run(&["check", &write("")]);
    assert_eq!(status, 64, "{said}");
    assert!(said.contains("`policy.sampling`") && said.contains("top_p = 1"), "{said}");
    for (more, reason) in [
        ("adapter = \"x\"", "`policy.adapter`"),
        ("engine = \"tokens\"\nadapter = \"x\"", "`policy.adapter`"),
    ] {
        let more = format!("{more}\nsampling = {{ temperature = 0 }}");
        let (status, said) = process::run(&["check", &write(&more)]);
        assert!(status == 64 && said.contains(reason), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evaluation_logs_the_load_of_its_token_servers() {
    let dialect = Dialect::LlamaCpp;
    let (one, two) = (server(dialect, Flaw::None).await, server(dialect, Flaw::None).await);
    let at = [&one, &two].map(|server| server.url().trim_end_matches("/v1").to_owned());
    let folder = tempfile::tempdir().unwrap();
    let (output, file) = (folder.path().join("out"), folder.path().join("eval.toml"));
    let text = format!(
        "schema_version = 1\noutput = {output:?}\narms = [\"policy:{FOLDER}\"]\n\
         [[data]]\nkind = \"world\"\nkinds = [{{ chain = 2 }}]\nn = 8\n\
         [policy]\nsampling = {{ temperature = 0 }}\n\
         [policy.tokens]\nservers = {at:?}\ndialect = \"llama_cpp\"\n"
    );
    std::fs::write(&file, text).unwrap();
    let (status, said) = process::run(&["eval", "--config", file.to_str().unwrap()]);
    assert_eq!(status, 0, "{said}");
    let line = said.lines().find(|line| line.contains("\"servers_busy\":"));
    let line: Value = serde_json::from_str(line.unwrap_or_else(|| panic!("{said}"))).unwrap();
    let fields = &line["fields"];
    assert!(fields["servers_busy"].as_f64().unwrap() > 0.0, "{line}");
    assert_eq!(fields["servers_failures"], 0, "{line}");
    assert_eq!(said.matches("\"message\":\"token server\"").count(), 2, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn training_samples_from_token_servers_with_the_weights_that_it_begins_with() {
    let dialect = Dialect::LlamaCpp;
    let (one, two) = (server(dialect, Flaw::None).await, server(dialect, Flaw::None).await);
    let at = [&one, &two].map(|server| server.url().trim_end_matches("/v1").to_owned());
    let folder = tempfile::tempdir().unwrap();
    let recipe = |model: &str| {
        let (output, path) = (folder.path().join(model), folder.path().join("run.toml"));
        let text = format!(
            r#"
            schema_version = 1
            output = {output:?}
            seed = 5
            steps = 2
            groups_per_step = 4
            group_size = 4
            max_policy_lag = 1
            objective = {{ importance_cap = 2.0 }}
            model = {{ path = "models/{model}" }}
            large_model = {{ path = "models/large-model" }}
            tasks = {{ kind = "world", questions = [{{ chain = 2 }}] }}
            schedule = {{ peak = 1e-4, warmup_steps = 0 }}
            limits = {{ max_turns = 4, max_turn_tokens = 48 }}
            eval = {{ every = 1000, tasks = 4 }}
            tokens = {{ servers = {at:?}, dialect = "llama_cpp" }}
            "#
        );
        std::fs::write(&path, text).unwrap();
        path
    };
    let train = |model: &str| {
        let recipe = recipe(model).display().to_string();
        process::run(&["train", "grpo", "--config", &recipe])
    };
    let (status, said) = train("policy");
    assert_eq!(status, 0, "{said}");
    let metrics = std::fs::read_to_string(folder.path().join("policy/metrics.jsonl")).unwrap();
    let steps: Vec<Value> =
        metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(steps.len(), 2, "{metrics}");
    for (index, step) in steps.iter().enumerate() {
        assert_eq!(step["policy_lag"], index as f64, "{step}");
        assert_eq!(step["servers_failures"], 0.0, "{step}");
    }
    // The episodes of both steps are sampled before the first update.
    assert!(steps[0]["servers_busy_least"].as_f64().unwrap() > 0.0, "{}", steps[0]);
    // There is none if all episodes were right, and nothing was learnt.
    let diff = steps[0]["rollout_logprob_diff"].as_f64();
    assert!(diff.is_none_or(|diff| diff < 1e-4), "{}", steps[0]);
    // A differently trained model has the same vocabulary: only its probabilities differ.
    let (status, said) = train("policy-warm");
    assert!(status != 0 && said.contains("other weights than the run begins with"), "{said}");
}
