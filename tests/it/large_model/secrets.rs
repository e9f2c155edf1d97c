//! A planted key appears nowhere but in the request.

use std::io::Write;

use futures::StreamExt;
use http::{HeaderMap, Method};
use prompt_r1::large_model::{ForwardRequest, Waiting};
use tracing_subscriber::fmt::MakeWriter;

use super::*;

/// Collects log lines.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Everything that an endpoint may do with the key it was sent.
fn echoes() -> Vec<Script> {
    let message = format!("the key {SECRET} is wrong");
    let long = format!("{}{SECRET}", "x".repeat(190));
    let html = format!("<p>{message}");
    vec![
        Script::error(401, &message),
        Script::json(400, json!({"error": {"message": "m", SECRET: [message]}})),
        Script::json(200, json!({"error": message})),
        Script::bytes(500, "text/html", html.clone()),
        Script::bytes(502, "text/plain", long),
        Script::bytes(200, "text/html", html),
        Script::bytes(200, "application/json", format!("{{\"{SECRET}")),
        Script::json(200, json!({"choices": [], "key": SECRET})),
        Script::events([format!("{{\"{SECRET}")]),
        Script::events([json!({"error": {"message": message}}).to_string()]),
        Script::reply("cut").cut(10, Cut::Reset),
    ]
}

#[tokio::test]
async fn the_key_is_in_no_error_and_no_log() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(log.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let server = Loopback::start().await;
    let own = (json!({"api_key_env": "TEST_KEY", "breaker": {"failures": 0}}), None);
    let callers = (json!({"breaker": {"failures": 0}}), Some(format!("Bearer {SECRET}")));
    for (keys, callers) in [own, callers] {
        // Another test may first reach a line that logs while the subscriber is being set: tracing
        // then caches that no subscriber wants the line.
        tracing::callsite::rebuild_interest_cache();
        let (endpoint, _) = client(&server.url(), keys);
        let asked = Call { authorization: callers.clone().map(Into::into), ..call("hi") };
        for script in echoes() {
            for streamed in [false, true] {
                server.then(script.clone());
                let error = if streamed {
                    match endpoint.stream(&asked).await {
                        Ok(mut stream) => stream.next().await.unwrap().unwrap_err(),
                        Err(error) => error,
                    }
                } else {
                    endpoint.complete(&asked).await.unwrap_err()
                };
                let shown = format!("{error} {error:?} {asked:?}");
                assert!(!shown.contains("planted"), "{shown}");
                let sent = format!("Bearer {SECRET}");
                assert_eq!(server.last().header("authorization"), Some(sent.as_str()));
            }
        }
        let mut headers = HeaderMap::new();
        if let Some(callers) = &callers {
            headers.insert("authorization", callers.parse().unwrap());
        }
        let path = "/models".to_owned();
        let request = ForwardRequest {
            method: Method::GET,
            path,
            headers,
            body: "".into(),
            model: String::new(),
            is_metered: false,
            caller: 0,
            deadline: None,
            waiting: Waiting::default(),
        };
        endpoint.forward(request).await.unwrap();
        assert!(server.last().header("authorization").unwrap().contains(SECRET));
    }
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("attempt at a large model"), "the log is empty");
    assert!(!log.contains("planted"), "{log}");
    // Nor does the content.
    assert!(!log.contains("hi\""), "{log}");
}
