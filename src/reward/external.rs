//! External rewards: from a program or a server.
//!
//! Both get one JSON object: `task`, `answer` (the policy's own, or null), `turns`, and `builtin`,
//! the built-in reward with its components. Both return a number: the program on its standard
//! output, the server as the body or as its field `reward`.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{ExternalConfig, Reward, RewardError, own_answer};
use crate::outbound::wire::library_causes;
use crate::program::{self, head};
use crate::task::Task;
use crate::trajectory::{Trajectory, Turn};

/// The longest reply of a server, bytes; a number needs far less.
const MAX_REPLY: usize = 64 * 1024;

#[derive(Debug)]
enum RewardSource {
    Command { program: String, arguments: Vec<String> },
    Http { client: reqwest::Client, url: String },
}

/// Gets external rewards, with bounded concurrency.
#[derive(Debug)]
pub struct ExternalReward {
    source: RewardSource,
    timeout_ms: u64,
    slots: Semaphore,
}

/// The object that a program or server gets.
#[derive(Serialize)]
struct ExternalRequest<'a> {
    task: &'a Task,
    answer: Option<&'a str>,
    turns: &'a [Turn],
    builtin: &'a Reward,
}

impl ExternalReward {
    /// Checks `config`; starts nothing.
    ///
    /// # Errors
    /// Names the setting that is impossible.
    pub fn new(config: &ExternalConfig) -> Result<Self, RewardError> {
        let wrong =
            |field, found: String, expected| Err(RewardError::Config { field, found, expected });
        let source = match (config.command.split_first(), &config.url) {
            (Some((program, arguments)), None) => {
                RewardSource::Command { program: program.clone(), arguments: arguments.to_vec() }
            }
            (None, Some(url)) if reqwest::Url::parse(url).is_ok() => {
                RewardSource::Http { client: reqwest::Client::new(), url: url.clone() }
            }
            (None, Some(url)) => {
                return wrong("external.url", format!("`{url}`"), "an absolute URL");
            }
            (Some(_), Some(_)) => {
                return wrong("external", "both `command` and `url`".into(), "one of the two");
            }
            (None, None) => {
                return wrong("external", "empty".into(), "either `command` or `url`");
            }
        };
        if config.timeout_ms == 0 {
            return wrong("external.timeout_ms", "0".into(), "at least 1");
        }
        if config.concurrency == 0 {
            return wrong("external.concurrency", "0".into(), "at least 1");
        }
        let slots = Semaphore::new(config.concurrency.min(Semaphore::MAX_PERMITS));
        Ok(Self { source, timeout_ms: config.timeout_ms, slots })
    }

    /// The reward of `trajectory` as an attempt at `task`; any finite number. Waits for a free slot
    /// first, which does not count towards the time limit. Dropping the future ends the program.
    ///
    /// # Errors
    /// When the program or the server fails, is too slow, or gives no finite number.
    pub async fn score(
        &self,
        trajectory: &Trajectory,
        task: &Task,
        builtin: &Reward,
    ) -> Result<f64, RewardError> {
        let answer = own_answer(trajectory);
        let attempt = ExternalRequest { task, answer, turns: &trajectory.turns, builtin };
        let body = serde_json::to_vec(&attempt).map_err(|error| self.failed(error.to_string()))?;
        let _slot = self.slots.acquire().await.map_err(|error| self.failed(error.to_string()))?;
        let limit = Duration::from_millis(self.timeout_ms);
        let reply = match &self.source {
            RewardSource::Command { program, arguments } => {
                timeout(limit, program::run(program, arguments, &body)).await
            }
            RewardSource::Http { client, url } => timeout(limit, post(client, url, body)).await,
        };
        let timed_out =
            |_| RewardError::Timeout { name: self.name().to_owned(), timeout_ms: self.timeout_ms };
        let reply = reply.map_err(timed_out)?.map_err(|reason| self.failed(reason))?;
        number(&reply).ok_or_else(|| RewardError::NotANumber {
            name: self.name().to_owned(),
            found: head(&reply),
        })
    }

    fn name(&self) -> &str {
        match &self.source {
            RewardSource::Command { program, .. } => program,
            RewardSource::Http { url, .. } => url,
        }
    }

    fn failed(&self, reason: String) -> RewardError {
        RewardError::External { name: self.name().to_owned(), reason }
    }
}

/// A number alone, or an object's field `reward`.
fn number(reply: &str) -> Option<f64> {
    let value: Value = serde_json::from_str(reply.trim()).ok()?;
    let number = value.get("reward").unwrap_or(&value).as_f64()?;
    number.is_finite().then_some(number)
}

async fn post(client: &reqwest::Client, url: &str, body: Vec<u8>) -> Result<String, String> {
    let request = client.post(url).header("content-type", "application/json").body(body);
    let mut response = request.send().await.map_err(|error| library_causes(&error))?;
    let status = response.status();
    let mut text = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| library_causes(&error))? {
        text.extend_from_slice(&chunk);
        if text.len() > MAX_REPLY {
            return Err(format!("its reply is longer than {MAX_REPLY} bytes"));
        }
    }
    let text = String::from_utf8_lossy(&text).into_owned();
    if status.is_success() {
        Ok(text)
    } else {
        Err(format!("it answered {status}: {}", head(&text)))
    }
}
