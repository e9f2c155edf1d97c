//! External rewards: from a program or a server.
//!
//! Both get one JSON object: `task`, `answer` (the policy's own, or null), `turns`, and `builtin`,
//! the built-in reward with its components. Both return a number: the program on its standard
//! output, the server as the body or as its field `reward`.

use std::process::Stdio;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{ExternalConfig, Reward, RewardError, own_answer};
use crate::outbound::wire::library_causes;
use crate::task::Task;
use crate::trajectory::{Trajectory, Turn};

/// How much of an output is read, bytes; a number needs far less.
const MAX_OUTPUT: u64 = 64 * 1024;
/// How long to keep reading the output of a program that has ended.
const DRAIN: Duration = Duration::from_millis(200);
/// How much of an unexpected output is shown, characters.
const SHOWN: usize = 200;

#[derive(Debug)]
enum Maker {
    Command { program: String, arguments: Vec<String> },
    Http { client: reqwest::Client, url: String },
}

/// Gets external rewards, with bounded concurrency.
#[derive(Debug)]
pub struct ExternalReward {
    maker: Maker,
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
        let maker = match (config.command.split_first(), &config.url) {
            (Some((program, arguments)), None) => {
                Maker::Command { program: program.clone(), arguments: arguments.to_vec() }
            }
            (None, Some(url)) if reqwest::Url::parse(url).is_ok() => {
                Maker::Http { client: reqwest::Client::new(), url: url.clone() }
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
        Ok(Self { maker, timeout_ms: config.timeout_ms, slots })
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
        let reply = match &self.maker {
            Maker::Command { program, arguments } => {
                timeout(limit, run(program, arguments, &body)).await
            }
            Maker::Http { client, url } => timeout(limit, post(client, url, body)).await,
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
        match &self.maker {
            Maker::Command { program, .. } => program,
            Maker::Http { url, .. } => url,
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

async fn run(program: &str, arguments: &[String], input: &[u8]) -> Result<String, String> {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    #[cfg(unix)]
    command.process_group(0);
    let mut child = command.spawn().map_err(|error| format!("it cannot be started: {error}"))?;
    let _group = Group(child.id());
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (mut output, mut complaint) = (Vec::new(), Vec::new());
    let status = {
        let write = async {
            if let Some(mut stdin) = stdin {
                // A program may close its input without reading it.
                let _closed = stdin.write_all(input).await;
            }
        };
        let pipes = async {
            tokio::join!(write, read(stdout, &mut output), read(stderr, &mut complaint));
        };
        tokio::pin!(pipes);
        tokio::select! {
            () = &mut pipes => child.wait().await,
            status = child.wait() => {
                // Its output is in the pipes, which child processes may still hold open.
                let _open = timeout(DRAIN, &mut pipes).await;
                status
            }
        }
    };
    let status = status.map_err(|error| error.to_string())?;
    if status.success() {
        return Ok(String::from_utf8_lossy(&output).into_owned());
    }
    Err(format!("it ended with {status}: {}", head(&String::from_utf8_lossy(&complaint))))
}

/// The process group of a program, which is killed with it.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        #[cfg(unix)]
        if let Some(id) = self.0.and_then(|id| i32::try_from(id).ok()) {
            use nix::sys::signal::{Signal, killpg};
            // Fails when all have ended already, which is fine.
            let _gone = killpg(nix::unistd::Pid::from_raw(id), Signal::SIGKILL);
        }
    }
}

/// Reads the head of a pipe; the rest is drained, so that the writer is never stuck.
async fn read(pipe: Option<impl AsyncRead + Unpin>, head: &mut Vec<u8>) {
    if let Some(mut pipe) = pipe {
        let _cut = (&mut pipe).take(MAX_OUTPUT).read_to_end(head).await;
        let _rest = tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await;
    }
}

async fn post(client: &reqwest::Client, url: &str, body: Vec<u8>) -> Result<String, String> {
    let request = client.post(url).header("content-type", "application/json").body(body);
    let mut response = request.send().await.map_err(|error| library_causes(&error))?;
    let status = response.status();
    let mut text = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| library_causes(&error))? {
        text.extend_from_slice(&chunk);
        if text.len() as u64 > MAX_OUTPUT {
            return Err(format!("its reply is longer than {MAX_OUTPUT} bytes"));
        }
    }
    let text = String::from_utf8_lossy(&text).into_owned();
    if status.is_success() {
        Ok(text)
    } else {
        Err(format!("it answered {status}: {}", head(&text)))
    }
}

fn head(text: &str) -> String {
    text.trim().chars().take(SHOWN).collect()
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn shell(script: &str, timeout_ms: u64) -> ExternalReward {
        let command = ["sh", "-c", script].map(str::to_owned).to_vec();
        ExternalReward::new(&ExternalConfig { command, url: None, timeout_ms, concurrency: 1 })
            .unwrap()
    }

    fn score(reward: &ExternalReward) -> Result<f64, RewardError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (trajectory, task) = (Trajectory::default(), Task::default());
        runtime.block_on(reward.score(&trajectory, &task, &Reward::default()))
    }

    /// Waits for the process whose id is in `file` to be gone.
    fn wait_gone(file: &std::path::Path) {
        let id: i32 = std::fs::read_to_string(file).unwrap().trim().parse().unwrap();
        let begun = std::time::Instant::now();
        // A zombie still has a folder, and a state that says so.
        let lives = || {
            std::fs::read_to_string(format!("/proc/{id}/stat"))
                .is_ok_and(|stat| !stat.contains(") Z"))
        };
        while lives() {
            assert!(begun.elapsed() < Duration::from_secs(20), "process {id} lives on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn what_a_hanging_program_began_ends_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let script = format!("sleep 300 & echo $! > {}; wait", file.display());
        let error = score(&shell(&script, 2000)).unwrap_err();
        assert!(matches!(error, RewardError::Timeout { .. }), "{error}");
        wait_gone(&file);
    }

    #[test]
    fn a_number_counts_though_a_process_left_behind_holds_the_output() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let script = format!("sleep 300 & echo $! > {}; echo 0.5", file.display());
        assert_eq!(score(&shell(&script, 20_000)).unwrap(), 0.5);
        wait_gone(&file);
    }
}
