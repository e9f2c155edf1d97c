//! What the loop adds to each call of the large model: whole episodes of a scripted policy against
//! bare HTTP calls with the same bodies and the same client, on an upstream that answers at once.
//!
//! ```text
//! cargo bench --bench loop
//! ```

#![allow(clippy::print_stdout)] // the table is what it is for

mod upstream;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Instant;

use anyhow::Context;
use bytes::Bytes;
use prompt_r1::engine::Sampling;
use prompt_r1::episode::{DiscardEvents, EpisodeRequest, Participants, run_episode};
use prompt_r1::http::Metrics;
use prompt_r1::large_model::{Endpoint, EndpointSetup, LargeModelConfig};
use prompt_r1::policy::ScriptedPolicy;
use prompt_r1::protocol::Protocol;
use reqwest::Client;
use upstream::upstream;

/// Episodes that are timed, each next to its bare calls.
const EPISODES: usize = 4000;
/// Episodes before the first that is timed.
const WARM_UP: usize = 400;

const QUESTION: &str =
    "What is the language of the country of the birthplace of the president of Grania?";
const THINK: &str = "The reply names the person, but not where that person was born, and without \
    the birthplace I cannot know the country. I should ask for one fact at a time, keep the \
    wording plain, and check the next reply against what I know already.";
const REPLY: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"The president of Grania is Padford, who was born in the town of Ferk, near the coast, and has lived there ever since."},"finish_reason":"stop"}],"usage":{"prompt_tokens":40,"completion_tokens":28,"total_tokens":68}}"#;

fn endpoint(address: SocketAddr) -> anyhow::Result<Endpoint> {
    let config = LargeModelConfig::new(format!("http://{address}/v1"), "m");
    let observer = Arc::new(Metrics::default());
    Ok(Endpoint::new("m", &config, &EndpointSetup { keys: &|_| None, observer, seed: 0 })?)
}

/// Asks `calls` times, then answers.
fn policy(calls: usize) -> ScriptedPolicy {
    ScriptedPolicy::new(move |shown| match shown.len() {
        turn if turn <= calls => format!(
            "<think>{THINK}</think><interaction_prompt>Fact {turn}: where was the president of \
             Grania born? Reply with one sentence.</interaction_prompt>"
        ),
        _ => format!("<think>{THINK}</think><answer>Ferkish</answer>"),
    })
}

/// A client as endpoints have one.
fn bare_client() -> reqwest::Result<Client> {
    Client::builder().http1_only().tcp_nodelay(true).no_proxy().tls_certs_only([]).build()
}

/// Sends the bodies one after another.
async fn bare(client: &Client, url: &str, bodies: &[Bytes]) -> reqwest::Result<()> {
    for body in bodies {
        let request = client.post(url).header("content-type", "application/json");
        request.body(body.clone()).send().await?.bytes().await?;
    }
    Ok(())
}

/// Microseconds a call, sorted.
struct Times(Vec<f64>);

impl Times {
    fn new(mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        Self(times)
    }

    fn at(&self, quantile: f64) -> f64 {
        self.0[((self.0.len() - 1) as f64 * quantile) as usize]
    }
}

async fn measure(calls: usize) -> anyhow::Result<(Times, Times)> {
    let protocol = Protocol::load(None)?;
    let policy = policy(calls);
    let episode = async |endpoint: &Endpoint| {
        let participants =
            Participants { policy: &policy, large_model: endpoint, protocol: &protocol };
        let request = EpisodeRequest::new(QUESTION, Sampling::GREEDY);
        run_episode(participants, &request, &mut DiscardEvents).await
    };

    // One episode, to learn what it sends.
    let (record, recorded) = channel();
    let recording = upstream(move |body| {
        // The receiver may be gone.
        let _ = record.send(body);
        REPLY.to_owned()
    })?;
    episode(&endpoint(recording)?).await?;
    let bodies: Vec<Bytes> = recorded.try_iter().map(Bytes::from).collect();
    anyhow::ensure!(bodies.len() == calls, "{} bodies of {calls} calls", bodies.len());

    let address = upstream(|_| REPLY.to_owned())?;
    let (endpoint, client) = (endpoint(address)?, bare_client()?);
    let url = format!("http://{address}/v1/chat/completions");
    let (mut bare_times, mut loop_times) = (Vec::new(), Vec::new());
    for round in 0..WARM_UP + EPISODES {
        let begun = Instant::now();
        bare(&client, &url, &bodies).await?;
        let bare_time = begun.elapsed();
        let begun = Instant::now();
        let episode = episode(&endpoint).await?;
        let loop_time = begun.elapsed();
        anyhow::ensure!(episode.usage.large_model.calls == calls as u64, "a call was left out");
        if round >= WARM_UP {
            bare_times.push(bare_time.as_secs_f64() * 1e6 / calls as f64);
            loop_times.push(loop_time.as_secs_f64() * 1e6 / calls as f64);
        }
    }
    Ok((Times::new(bare_times), Times::new(loop_times)))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    println!("µs a call: median and 99th percentile over {EPISODES} episodes\n");
    println!("| calls | bare p50 | loop p50 | added p50 | bare p99 | loop p99 | added p99 |");
    println!("|---|---|---|---|---|---|---|");
    for calls in [1, 3, 6] {
        let (bare, looped) = measure(calls).await.context("cannot measure the loop")?;
        let mut row = format!("| {calls} |");
        for quantile in [0.5, 0.99] {
            let (bare, looped) = (bare.at(quantile), looped.at(quantile));
            row += &format!(" {bare:.0} | {looped:.0} | {:.0} |", looped - bare);
        }
        println!("{row}");
    }
    Ok(())
}
