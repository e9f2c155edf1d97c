#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::hint::Hint;
use crate::protocol::parse_turn;
use crate::trajectory::{Observation, TokenUsage, Turn, TurnFinish};

/// A trajectory of these turns, in which each prompt has a reply.
fn trajectory(turns: &[&str]) -> Trajectory {
    let turns = turns.iter().map(|text| {
        let parsed = parse_turn(text);
        let observation = matches!(parsed.action, Action::Prompt(_)).then(|| Observation {
            sent: None,
            reply: "reply".into(),
            truncated: false,
            repeated: false,
            cut_off: false,
            usage: TokenUsage::default(),
            cost: 0.0,
            millis: 0,
        });
        Turn {
            text: (*text).to_owned(),
            think: parsed.think,
            action: parsed.action,
            finish: TurnFinish::Stop,
            is_given: false,
            tokens: 1,
            cost: 0.0,
            millis: 0,
            observation,
        }
    });
    Trajectory { turns: turns.collect(), ..Trajectory::default() }
}

fn task(golds: &[&str]) -> Task {
    Task { golds: golds.iter().map(|&gold| gold.to_owned()).collect(), ..Task::default() }
}

fn score(scheme: Scheme, turns: &[&str], gold: &str) -> f64 {
    let config = RewardConfig { scheme, ..RewardConfig::default() };
    RewardFn::new(&config).unwrap().score(&trajectory(turns), &task(&[gold])).total
}

const ASK: &str = "<think>t</think><interaction_prompt>p</interaction_prompt>";
const RIGHT: &str = "<think>t</think>\n<answer>Paris</answer>";
const WRONG: &str = "<think>t</think>\n<answer>Rome</answer>";

#[test]
fn trajectories_earn_what_the_two_schemes_say() {
    let bare_ask = "<interaction_prompt>p</interaction_prompt>";
    let twice = "<think>t</think><interaction_prompt>p</interaction_prompt>\
                 <interaction_prompt>q</interaction_prompt>";
    let chatty = "Well. <think>t</think> so <interaction_prompt>p</interaction_prompt>";
    let ragged = "<think>t</think><interaction_prompt>p</interaction</interaction_prompt>";
    // Turns, what `paper` gives, what `strict` gives; the gold is Paris.
    let cases: [(&[&str], f64, f64); 27] = [
        // A good trajectory.
        (&[ASK, RIGHT], 1.0, 1.0),
        (&[ASK, WRONG], 0.0, 0.0),
        (&[ASK, ASK, RIGHT], 1.0, 1.0),
        (&[ASK, ASK, ASK, ASK, WRONG], 0.0, 0.0),
        (&[ASK, "<think>t</think><answer>Paris, France</answer>"], 2.0 / 3.0, 2.0 / 3.0),
        // The loophole of thinking left out: full reward as published, none of it when strict.
        (&[ASK, ASK, "<answer>Paris</answer>"], 1.0, -0.5),
        // The loophole of never answering: as good as a wrong answer under `paper`, the worst under
        // `strict`.
        (&[ASK, ASK, ASK], 0.0, -1.0),
        (&[ASK, ASK, ASK, ASK, ASK], 0.0, -1.0),
        (&[ASK, ASK], -0.2, -1.0),
        (&[ASK], -0.6, -1.0),
        // No prompt.
        (&[RIGHT], -0.4, -0.25),
        (&[WRONG], -0.4, -0.25),
        (&["<answer>Paris</answer>"], -0.5, -0.75),
        // Malformed prompts.
        (&[bare_ask, RIGHT], -0.4, -0.5),
        (&[twice, RIGHT], -0.4, -0.25),
        (&[chatty, RIGHT], 1.0, -0.25),
        // Malformed answers.
        (&[ASK, "<answer>Paris</answer>"], -0.1, -0.5),
        (&[ASK, "<think>t</think><answer>Paris</answer> indeed"], -0.1, -0.25),
        (&[ASK, "<answer>Paris</answer><think>t</think>"], -0.1, -0.5),
        (&[ASK, "<think>t</think><answer>Paris"], -0.6, -0.25),
        (&[ASK, "<think>t</think><answer> </answer>"], -0.35, -1.0),
        (&[ASK, "no tags"], -0.6, -1.0),
        // Pieces of tags inside an answer or a prompt: as in serving, it is none.
        (&[ASK, "<think>t</think><answer>Paris</answer</answer>"], -0.35, -1.0),
        (&[ASK, "<think>t</think><answer>Paris</answer</interaction>"], -0.6, -1.0),
        (&[ragged, RIGHT], -0.4, -0.5),
        (&[ASK, "<think>t</think><final_prompt>p</final_prompt>"], -0.6, -1.0),
        (&[], -1.0, -1.0),
    ];
    for (turns, paper, strict) in cases {
        let shown = format!("{turns:?}");
        let close = |found: f64, wanted: f64| (found - wanted).abs() < 1e-9;
        let found = score(Scheme::Paper, turns, "Paris");
        assert!(close(found, paper), "paper gives {found} for {shown}");
        let found = score(Scheme::Strict, turns, "Paris");
        assert!(close(found, strict), "strict gives {found} for {shown}");
        let found = score(Scheme::Outcome, turns, "Paris");
        assert!(close(found, strict.max(0.0)), "outcome gives {found} for {shown}");
    }
}

#[test]
fn numbers_are_compared_as_numbers_only_when_strict() {
    for (answer, gold, paper, strict) in [
        ("5.6", "56", 1.0, 0.0),
        ("-3", "3", 1.0, 0.0),
        ("$1,000", "1000", 1.0, 1.0),
        ("It is 42.", "42", 0.5, 1.0),
        ("50%", "0.5", 0.0, 1.0),
    ] {
        let answer = format!("<think>t</think><answer>{answer}</answer>");
        assert_eq!(score(Scheme::Paper, &[ASK, &answer], gold), paper, "{answer}");
        assert_eq!(score(Scheme::Strict, &[ASK, &answer], gold), strict, "{answer}");
    }
}

#[test]
fn no_answer_never_beats_an_answer_when_strict() {
    let parts = [ASK, RIGHT, WRONG, "<answer>Paris</answer>", "text", "<interaction_prompt>p"];
    let mut answered = Vec::new();
    let mut silent = Vec::new();
    for first in parts {
        for second in parts {
            for third in parts {
                let turns = [first, second, third];
                let total = score(Scheme::Strict, &turns, "Paris");
                assert!((-1.0..=1.0).contains(&total), "{total} for {turns:?}");
                let side = if third.contains("<answer>") { &mut answered } else { &mut silent };
                side.push(total);
            }
        }
    }
    let lowest = answered.iter().copied().fold(f64::INFINITY, f64::min);
    assert!(silent.iter().all(|&total| total < lowest), "{lowest}");
    assert!(silent.iter().all(|&total| total == -1.0));
}

#[test]
fn components_say_what_was_earned() {
    let config = RewardConfig::default();
    let reward = RewardFn::new(&config)
        .unwrap()
        .score(&trajectory(&[ASK, ASK, "<answer>Paris</answer>"]), &task(&["Rome", "Paris"]));
    assert_eq!((reward.format, reward.answer), (1.0, 1.0));
    let parts =
        [("prompts", 0.8), ("answer_present", 0.25), ("answer_filled", 0.25), ("answer_form", 0.0)];
    assert_eq!(reward.components, parts.into());
    let config = RewardConfig { scheme: Scheme::Strict, ..config };
    let reward = RewardFn::new(&config)
        .unwrap()
        .score(&trajectory(&[ASK, "<answer>Paris</answer>"]), &task(&["Paris"]));
    let parts = [("answered", 1.0), ("consulted", 1.0), ("thought", 0.0), ("exact", 0.0)];
    assert_eq!(reward.components, parts.into());
    assert_eq!((reward.format, reward.answer), (0.5, 1.0));
}

#[test]
fn configuration_chooses_coefficients_and_metric_and_refuses_nonsense() {
    let parse = |text: &str| toml::from_str::<RewardConfig>(text);
    let config = parse("metric = \"exact\"\n[coefficients]\nalpha = 0.2\n").unwrap();
    let reward = RewardFn::new(&config).unwrap();
    let near = "<think>t</think><answer>Paris, France</answer>";
    // 0.2 + 0.6 misses the gate; twice 0.2 reaches it, and the answer is not exact.
    let total = |turns: &[&str]| reward.score(&trajectory(turns), &task(&["Paris"])).total;
    assert!((total(&[ASK, RIGHT]) + 0.2).abs() < 1e-9);
    assert!((total(&[ASK, ASK, RIGHT]) - 1.0).abs() < 1e-9);
    assert!(total(&[ASK, ASK, near]).abs() < 1e-9);
    assert!(parse("shceme = \"strict\"").unwrap_err().to_string().contains("shceme"));
    assert!(parse("[coefficients]\nzeta = 1\n").is_err());
    for (text, field) in [
        ("alpha = -1", "alpha"),
        ("gamma = nan", "gamma"),
        ("gate = inf", "gate"),
        ("epsilon = 0.5", "epsilon"),
    ] {
        let config = parse(&format!("[coefficients]\n{text}\n")).unwrap();
        let error = RewardFn::new(&config).unwrap_err().to_string();
        assert!(error.starts_with(&format!("`reward.coefficients.{field}` is ")), "{error}");
    }
}

fn external(text: &str) -> Result<Rewarder, RewardError> {
    Rewarder::new(&toml::from_str(&format!("[external]\n{text}")).unwrap())
}

async fn scored(text: &str) -> Result<Reward, RewardError> {
    external(text)?.score(&trajectory(&[ASK, RIGHT]), &task(&["Paris"])).await
}

fn shell(script: &str) -> String {
    format!("command = [\"sh\", \"-c\", {script:?}]\ntimeout_ms = 20000")
}

#[tokio::test]
async fn a_program_computes_the_reward_from_its_input() {
    // It finds the policy's answer and the built-in total in its input.
    let script = "grep -q '\"answer\":\"Paris\".*\"builtin\":{\"total\":1.0' && echo -0.25";
    let reward = scored(&shell(script)).await.unwrap();
    assert_eq!((reward.total, reward.format, reward.answer), (-0.25, 1.0, 1.0));
    let reward = scored(&shell("cat > /dev/null; echo '{\"reward\": 2}'")).await.unwrap();
    assert_eq!(reward.total, 2.0);
}

#[tokio::test]
async fn a_program_that_reads_nothing_or_writes_much_is_no_trouble() {
    let long = "x".repeat(1_000_000);
    let turns = [ASK, &format!("<think>{long}</think><answer>Paris</answer>")];
    let rewarder = external(&shell("echo 1")).unwrap();
    let reward = rewarder.score(&trajectory(&turns), &task(&["Paris"])).await.unwrap();
    assert_eq!(reward.total, 1.0);
    let error = scored(&shell("head -c 1000000 /dev/zero | tr '\\\\0' 7")).await.unwrap_err();
    let reason = "the reward by `sh` failed: its output is longer than 65536 bytes";
    assert_eq!(error.to_string().lines().next(), Some(reason));
}

#[tokio::test]
async fn a_program_that_fails_is_an_error_that_says_how() {
    for (text, message) in [
        (
            shell("echo oops >&2; exit 3"),
            "the reward by `sh` failed: it ended with exit status: 3: oops",
        ),
        (shell("echo good"), "the reward by `sh` is `good`, not a finite number"),
        (shell("true"), "the reward by `sh` is ``, not a finite number"),
        (shell("echo NaN"), "the reward by `sh` is `NaN`, not a finite number"),
        (
            "command = [\"no-such-program-here\"]".to_owned(),
            "the reward by `no-such-program-here` failed: it cannot be started: ",
        ),
        (
            "command = [\"sleep\", \"600\"]\ntimeout_ms = 50".to_owned(),
            "the reward by `sleep` took longer than 50 ms\nhint: ",
        ),
    ] {
        let error = scored(&text).await.unwrap_err().explained();
        assert!(error.starts_with(message), "{error}");
    }
}

#[test]
fn an_external_reward_out_of_range_is_refused_by_field() {
    for (text, field) in [
        ("", "external"),
        ("command = [\"a\"]\nurl = \"http://b\"", "external"),
        ("url = \"b\"", "external.url"),
        ("command = [\"a\"]\ntimeout_ms = 0", "external.timeout_ms"),
        ("command = [\"a\"]\nconcurrency = 0", "external.concurrency"),
    ] {
        let error = external(text).unwrap_err().to_string();
        assert!(error.starts_with(&format!("`reward.{field}` is ")), "{error}");
    }
}

/// Serves one request with `status` and `body`; gives the request's own body back.
async fn serve_once(listener: TcpListener, status: &str, body: &str) -> String {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut request = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let read = stream.read(&mut chunk).await.unwrap();
        request.extend_from_slice(&chunk[..read]);
        let text = String::from_utf8_lossy(&request);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head
            .to_lowercase()
            .split_once("content-length: ")
            .map(|(_, rest)| rest.split("\r\n").next().unwrap().parse::<usize>().unwrap());
        if read == 0 || body.len() >= length.unwrap() {
            break;
        }
    }
    let length = body.len();
    let reply =
        format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
    stream.write_all(reply.as_bytes()).await.unwrap();
    String::from_utf8(request).unwrap()
}

#[tokio::test]
async fn a_server_gives_the_reward_or_an_error_that_says_how() {
    for (status, body, wanted) in [
        ("200 OK", "0.75", Ok(0.75)),
        ("200 OK", "{\"reward\": -1}", Ok(-1.0)),
        ("200 OK", "<html>", Err("is `<html>`, not a finite number")),
        (
            "500 Internal Server Error",
            "down",
            Err("failed: it answered 500 Internal Server Error: down"),
        ),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("url = \"http://{}/reward\"", listener.local_addr().unwrap());
        let (request, reward) = tokio::join!(serve_once(listener, status, body), scored(&url));
        assert!(request.starts_with("POST /reward"), "{request}");
        assert!(request.contains("\"answer\":\"Paris\""), "{request}");
        match wanted {
            Ok(total) => assert_eq!(reward.unwrap().total, total),
            Err(message) => {
                let error = reward.unwrap_err().to_string();
                assert!(error.ends_with(message), "{error}");
            }
        }
    }
}

#[tokio::test]
async fn a_server_that_is_down_or_silent_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("url = \"http://{}/\"\ntimeout_ms = 50", listener.local_addr().unwrap());
    let silent = scored(&url).await.unwrap_err();
    assert!(matches!(silent, RewardError::Timeout { timeout_ms: 50, .. }), "{silent}");
    drop(listener);
    let down = scored(&url.replace("= 50", "= 20000")).await.unwrap_err().to_string();
    assert!(down.contains("failed: ") && down.to_lowercase().contains("refused"), "{down}");
}

/// What was once paid for nothing, or not paid though it was right.
#[test]
fn answers_are_paid_for_what_they_mean() {
    for (answer, gold, paid) in [
        ("2 1/2", "1/2", 0.0),
        ("The answer is –3", "3", 0.0),
        ("2 1/2", "2.5", 1.0),
        (r"2\frac{1}{2}", "2.5", 1.0),
        (r"\frac12", "1/2", 1.0),
        ("The answer is –3", "-3", 1.0),
        ("The ratio is 5 / 10", "0.5", 1.0),
        (r"\boxed{\text{72 km}}", "72", 1.0),
        (r"18\text{ apples}", "18", 1.0),
        (r"\text{18}", "18", 1.0),
        (r"\fbox{5}", "5", 1.0),
        ("72m²", "72", 1.0),
        ("20°C", "20", 1.0),
        ("US$5", "5", 1.0),
        ("CA$5", "5", 1.0),
        ("Answer:18", "18", 1.0),
        ("７２", "72", 1.0),
        ("1,234", "1234", 1.0),
        ("cafe\u{301}", "café", 1.0),
        ("Rubik’s", "Rubik's", 1.0),
        ("“Help!”", "Help!", 1.0),
        ("北京。", "北京", 1.0),
        ("New–York", "New-York", 1.0),
        ("A", "A", 1.0),
    ] {
        let turn = format!("<think>t</think><answer>{answer}</answer>");
        assert_eq!(score(Scheme::Strict, &[ASK, &turn], gold), paid, "{answer} for {gold}");
    }
}
