//! Which errors are taken to refuse the fields that this program adds.

use super::odd::streamed;
use super::*;

fn own(fields: Value) -> Call {
    Call { optional_params: fields.as_object().cloned().unwrap(), ..call("hi") }
}

#[tokio::test]
async fn a_callers_error_does_not_remove_fields_for_others() {
    let said = "Invalid value: 'stream'. Supported values are: 'low' and 'high'.";
    // Some endpoints do not say which field they mean; another attempt then shows it.
    for (param, requests) in [(json!("reasoning_effort"), 1), (json!(null), 2)] {
        let error = json!({"error": {"message": said, "param": param}});
        let server =
            Loopback::answering(move |request| match request.json().get("reasoning_effort") {
                Some(_) => Script::json(400, error.clone()),
                None => Script::reply("ok"),
            })
            .await;
        let (endpoint, _) = client(&server.url(), json!({}));
        let params = json!({"reasoning_effort": "stream"}).as_object().cloned().unwrap();
        let error = streamed(&endpoint, &Call { params, ..call("hi") }).await.unwrap_err();
        assert!(matches!(error, LargeModelError::Status { status: 400, .. }), "{error}");
        assert_eq!(server.requests().len(), requests);
        streamed(&endpoint, &call("hi")).await.unwrap();
        let sent = server.last().json();
        assert_eq!(sent["stream"], json!(true));
        assert_eq!(sent["stream_options"], json!({"include_usage": true}));
    }
}

#[tokio::test]
async fn an_error_that_repeats_the_request_refuses_nothing_by_that() {
    let asked = own(json!({"max_tokens": 9, "temperature": 0.7, "stop": ["x"]}));
    let server = Loopback::start().await;
    let (endpoint, _) = client(&server.url(), json!({}));
    streamed(&endpoint, &asked).await.unwrap();
    let (sent, mut expected) = (server.last().json(), 1);
    let vllm = format!("[{{'loc': ('body',), 'msg': 'no such tool', 'input': {sent}}}]");
    let fastapi =
        json!({"detail": [{"loc": ["body", "x"], "msg": "Field required", "input": sent}]});
    for error in [Script::error(400, &vllm), Script::json(422, fastapi)] {
        server.then(error);
        streamed(&endpoint, &asked).await.unwrap_err();
        streamed(&endpoint, &asked).await.unwrap();
        expected += 2;
        assert_eq!((server.requests().len(), server.last().json()), (expected, sent.clone()));
    }
}

#[tokio::test]
async fn the_limit_goes_by_either_name() {
    const NAMES: [&str; 2] = ["max_tokens", "max_completion_tokens"];
    for (refused, sent, requests) in [
        (vec!["max_completion_tokens"], Some("max_tokens"), 2),
        (vec![], Some("max_completion_tokens"), 1),
        (NAMES.to_vec(), None, 3),
    ] {
        let server = Loopback::answering(move |request| {
            let body = request.json();
            match refused.iter().find(|name| body.get(**name).is_some()) {
                Some(&"max_tokens") => {
                    Script::error(400, "use max_completion_tokens, not max_tokens")
                }
                Some(name) => Script::error(400, &format!("Unsupported parameter: '{name}'")),
                None => Script::reply("ok"),
            }
        })
        .await;
        let (endpoint, _) = client(&server.url(), json!({}));
        let asked = own(json!({"max_completion_tokens": 9}));
        for repeated in [0, 1] {
            streamed(&endpoint, &asked).await.unwrap();
            assert_eq!(server.requests().len(), requests + repeated);
            let body = server.last().json();
            let found: Vec<_> =
                NAMES.into_iter().filter(|name| body.get(name) == Some(&json!(9))).collect();
            assert_eq!(found, Vec::from_iter(sent));
        }
    }
}
