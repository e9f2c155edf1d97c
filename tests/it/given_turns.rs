//! Given turns of `POST /v1/solve`: the policy continues after them.

use prompt_r1::policy::ScriptedPolicy;
use serde_json::{Value, json};

use crate::loopback::{Loopback, Script};
use crate::server::Setup;

const PATH: &str = "/v1/solve";

/// Answers with the number of texts it was shown.
fn counting() -> Setup {
    Setup::policy(ScriptedPolicy::new(|shown| {
        format!("<think>enough</think><answer>shown {}</answer>", shown.len())
    }))
}

#[tokio::test]
async fn the_episode_goes_on_behind_given_turns() {
    let upstream = Loopback::answering(|_| Script::reply("Lyon")).await;
    let server = counting().start(&upstream).await;
    let turns = json!([
        {"think": "first who", "interaction_prompt": "Who? <question/>", "interaction_response": "Ann"},
        {"interaction_prompt": "Where is <reply 1/>?"},
    ]);
    let body = json!({"question": "Where?", "turns": turns, "trace": true});
    let (status, reply) = server.json(PATH, body).await;
    assert_eq!(status, 200, "{reply}");
    assert_eq!(reply["answer"], "shown 3");
    assert_eq!(upstream.requests().len(), 1, "a given reply is not asked for");
    let sent = upstream.last().json()["messages"].clone();
    let sent: Vec<&str> = sent
        .as_array()
        .unwrap()
        .iter()
        .map(|message| message["content"].as_str().unwrap())
        .collect();
    assert_eq!(sent, ["Who? Where?", "Ann", "Where is Ann?"]);
    let turns = reply["turns"].as_array().unwrap();
    assert_eq!(turns.len(), 3);
    let given: Vec<bool> = turns.iter().map(|turn| turn["is_given"] == true).collect();
    assert_eq!(given, [true, true, false]);
    assert_eq!(turns[0]["think"], "first who");
    assert_eq!(turns[0]["interaction_response"], "Ann");
    assert_eq!(turns[1]["interaction_response"], "Lyon");
    assert_eq!(
        (&turns[0]["sent"], &turns[1]["sent"]),
        (&json!("Who? Where?"), &json!("Where is Ann?"))
    );
    assert_eq!(reply["usage"]["policy"]["calls"], 1);
    assert_eq!(reply["usage"]["large_model"]["calls"], 1);
}

#[tokio::test]
async fn given_turns_are_streamed_like_others() {
    let upstream = Loopback::start().await;
    let server = counting().start(&upstream).await;
    let turns = json!([{"think": "t", "interaction_prompt": "p", "interaction_response": "r"}]);
    let body = json!({"question": "Where?", "turns": turns, "stream": true});
    let text = server.ask(PATH, body).await.text().await.unwrap();
    let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    let given = ["turn", "think", "interaction_prompt", "interaction_response", "turn"];
    assert_eq!(names[..5], given, "{text}");
    assert_eq!(names.last(), Some(&"done"), "{text}");
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn a_prompt_that_was_answered_is_not_sent_again() {
    let upstream = Loopback::start().await;
    let ask = "<think>t</think><interaction_prompt>Who is it?</interaction_prompt>";
    let policy = ScriptedPolicy::new(move |shown| match shown.len() {
        2 => ask.to_owned(),
        _ => "<answer>done</answer>".to_owned(),
    });
    let server = Setup::policy(policy).start(&upstream).await;
    let turns = json!([{"interaction_prompt": "who is  it?", "interaction_response": "Ann"}]);
    let body = json!({"question": "Where?", "turns": turns, "trace": true});
    let (_, reply) = server.json(PATH, body).await;
    assert_eq!(reply["turns"][1]["repeated"], true, "{reply}");
    assert_eq!(reply["turns"][1]["interaction_response"], "Ann");
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn turns_that_cannot_be_taken_are_named() {
    let upstream = Loopback::start().await;
    let server = counting().start(&upstream).await;
    let prompt = json!({"interaction_prompt": "p"});
    let table: [(Value, Value, &str); 5] = [
        (json!([{"interaction_prompt": " "}]), json!(8), "turns[0].interaction_prompt"),
        (json!([prompt, {"think": "t"}]), json!(8), "turns[1].interaction_prompt"),
        (json!([{"interaction_prompt": "p", "reply": "r"}]), json!(8), "turns[0].reply"),
        (json!([prompt, prompt]), json!(2), "turns"),
        (json!("none"), json!(8), "turns"),
    ];
    for (turns, max_turns, param) in table {
        let body = json!({"question": "Where?", "turns": turns, "max_turns": max_turns});
        let (status, error) = server.json(PATH, body.clone()).await;
        assert_eq!(
            (status, error["error"]["param"].as_str()),
            (400, Some(param)),
            "{body}: {error}"
        );
    }
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn references_stand_for_as_much_as_they_may() {
    let upstream = Loopback::start().await;
    let mut setup = Setup::turns([
        "<interaction_prompt>a</interaction_prompt>",
        "<interaction_prompt><reply 1/><reply 1/><question/></interaction_prompt>",
    ]);
    setup.limits.prompt_bytes = 20;
    let server = setup.start(&upstream).await;
    let given = |prompt: &str| {
        json!([{"interaction_prompt": "p", "interaction_response": "a reply"},
               {"interaction_prompt": prompt, "interaction_response": "r"}])
    };
    for (prompt, status) in [("<reply 1/><reply 1/>", 200), ("<reply 1/><reply 1/><reply 1/>", 413)]
    {
        let body = json!({"question": "q", "turns": given(prompt)});
        let (found, error) = server.json(PATH, body).await;
        assert_eq!(found, status, "{error}");
        if status == 413 {
            assert_eq!(error["error"]["param"], "turns[1].interaction_prompt");
            let message = error["error"]["message"].as_str().unwrap();
            assert!(message.contains("20 bytes") && message.contains("`episode.prompt_bytes`"));
        }
    }
    // A prompt of the policy is not sent; the reply before it is the answer.
    let before = upstream.requests().len();
    let body = json!({"question": "a question of its own", "trace": true});
    let (status, reply) = server.json(PATH, body).await;
    assert_eq!(
        (status, &reply["answer"], &reply["finish_reason"]),
        (200, &json!("ok"), &json!("malformed")),
        "{reply}"
    );
    assert_eq!(upstream.requests().len(), before + 1);
}

#[tokio::test]
async fn the_large_model_alone_is_asked_by_name() {
    let upstream = Loopback::answering(|_| Script::reply("Lyon")).await;
    let server = Setup::relay().start(&upstream).await;
    let body = json!({"question": "Where?", "policy": "direct", "trace": true, "tokens": true});
    let (status, reply) = server.json(PATH, body).await;
    assert_eq!(status, 200, "{reply}");
    assert_eq!((&reply["policy"], &reply["answer"]), (&json!("direct"), &json!("Lyon")));
    assert_eq!(reply["answer_source"], "large_model");
    assert_eq!(reply["tokens"], json!([]), "there is no policy whose tokens could be shown");
    assert_eq!(upstream.last().json()["messages"], json!([{"role": "user", "content": "Where?"}]));
}
