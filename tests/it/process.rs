//! The `server` binary as a process of its own.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use nix::sys::signal::{SigHandler, Signal, kill, signal};

use crate::eventually::eventually_blocking;
use crate::loopback::Loopback;

/// A command of the binary, without environment variables that affect it.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_server"));
    command.args(arguments).env_remove("OPENAI_API_KEY").env_remove("RUST_LOG");
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PROMPT_R1_")) {
        command.env_remove(name);
    }
    command
}

/// Has the process of a command ignore SIGHUP or not, whatever this one does.
pub fn with_hangup(command: &mut Command, is_ignored: bool) -> &mut Command {
    let handler = if is_ignored { SigHandler::SigIgn } else { SigHandler::SigDfl };
    // SAFETY: between fork and exec, only `signal` is called, which is allowed there.
    unsafe {
        command.pre_exec(move || {
            signal(Signal::SIGHUP, handler)?;
            Ok(())
        })
    }
}

/// Runs a command to its end; returns its exit status and output.
pub fn run(arguments: &[&str]) -> (i32, String) {
    outcome(&command(arguments).output().unwrap())
}

/// Runs a command whose output is not read.
pub fn run_unread(arguments: &[&str]) -> (i32, String) {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    outcome(&command(arguments).stdout(writer).stderr(Stdio::piped()).output().unwrap())
}

/// The exit status, and both outputs.
pub fn outcome(output: &Output) -> (i32, String) {
    let text = [&output.stdout[..], &output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8(text).unwrap())
}

/// Writes `server.toml` into `folder`, where the keys are stored as well. `top` comes first: keys
/// of the whole file, then tables. The large model `test` is at `upstream`, with the keys of
/// `endpoint`, and needs no API key unless they set one.
pub fn configuration(folder: &Path, upstream: &Loopback, top: &str, endpoint: &str) -> PathBuf {
    let path = folder.join("server.toml");
    let store = folder.join("keys.db");
    let no_key = if endpoint.contains("api_key_env") { "" } else { "api_key_env = \"\"\n" };
    let text = format!(
        "access.store = {store:?}\n{top}\n\
         [large_models.test]\nurl = {:?}\nmodel = \"m\"\n{no_key}{endpoint}\n",
        upstream.url()
    );
    std::fs::write(&path, text).unwrap();
    path
}

/// `server serve`, killed when dropped.
pub struct Process {
    pub url: String,
    pub log: Log,
    child: Child,
}

/// The standard error of a process so far.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<String>>);

impl Log {
    pub fn text(&self) -> String {
        self.0.lock().unwrap().clone()
    }

    /// Returns when the log has this text.
    pub fn wait_for(&self, text: &str) -> String {
        let what = || format!("`{text}` in the log:\n{}\n", self.text());
        eventually_blocking(what, || self.text().contains(text));
        self.text()
    }
}

impl Process {
    /// Serves with this configuration file on a free port, and returns once it listens.
    pub fn serve(config: &Path) -> Self {
        Self::start(command(&["serve", "--listen", "127.0.0.1:0", "--config"]).arg(config))
    }

    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = Log::default();
        let shared = log.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let mut log = shared.0.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        let line = log.wait_for("listening on ");
        let url = line.split("listening on ").nth(1).unwrap().split_whitespace().next().unwrap();
        Self { url: url.to_owned(), log, child }
    }

    pub fn id(&self) -> i32 {
        self.child.id() as i32
    }

    /// Asks it to stop, and waits for its end.
    pub fn stop(&mut self) -> i32 {
        kill(nix::unistd::Pid::from_raw(self.id()), Signal::SIGTERM).unwrap();
        self.child.wait().unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
