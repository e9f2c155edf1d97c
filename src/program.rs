//! Runs an external program that reads one input and writes one output.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::time::timeout;

/// The longest output, bytes.
const MAX_OUTPUT: usize = 64 * 1024;
/// How long to keep reading the output of a program that has ended.
const DRAIN: Duration = Duration::from_millis(200);
/// How much of an error output is shown, characters.
const MAX_SHOWN_CHARS: usize = 200;

/// Runs `program` with `input` on its standard input, and returns its standard output. Dropping the
/// future kills the program and the processes that it started.
///
/// # Errors
/// A reason in words: the program cannot be started, ends with a failure, or writes too much or no
/// UTF-8.
pub async fn run(program: &str, arguments: &[String], input: &[u8]) -> Result<String, String> {
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
    if !status.success() {
        let complaint = String::from_utf8_lossy(&complaint);
        return Err(format!("it ended with {status}: {}", tail(&complaint)));
    }
    if output.len() > MAX_OUTPUT {
        return Err(format!("its output is longer than {MAX_OUTPUT} bytes"));
    }
    String::from_utf8(output).map_err(|_| "its output is not UTF-8".to_owned())
}

/// The words of a command that are files, such as a script: what the program does depends on them.
pub fn files<'w>(words: impl IntoIterator<Item = &'w String>) -> Vec<PathBuf> {
    words.into_iter().map(PathBuf::from).filter(|path| path.is_file()).collect()
}

/// The end of an error output, where most programs say what went wrong.
fn tail(text: &str) -> &str {
    let text = text.trim();
    let cut = text.char_indices().rev().nth(MAX_SHOWN_CHARS - 1).map_or(0, |(at, _)| at);
    text.get(cut..).unwrap_or_default()
}

/// The beginning of a text, for an error.
pub fn head(text: &str) -> String {
    text.trim().chars().take(MAX_SHOWN_CHARS).collect()
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

/// Reads the head of a pipe, one byte more than the limit at most; the rest is drained, so that the
/// writer is never stuck.
async fn read(pipe: Option<impl AsyncRead + Unpin>, head: &mut Vec<u8>) {
    if let Some(mut pipe) = pipe {
        let _cut = (&mut pipe).take(MAX_OUTPUT as u64 + 1).read_to_end(head).await;
        let _rest = tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await;
    }
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;

    use super::*;

    async fn shell(script: &str) -> Result<String, String> {
        run("sh", &["-c".to_owned(), script.to_owned()], b"input").await
    }

    /// Waits for the process whose id is in `file` to be gone.
    async fn wait_gone(file: &Path) {
        let id: i32 = std::fs::read_to_string(file).unwrap().trim().parse().unwrap();
        let begun = std::time::Instant::now();
        // A zombie still has a folder, and a state that says so.
        let lives = || {
            std::fs::read_to_string(format!("/proc/{id}/stat"))
                .is_ok_and(|stat| !stat.contains(") Z"))
        };
        while lives() {
            assert!(begun.elapsed() < Duration::from_secs(20), "process {id} lives on");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn what_a_dropped_program_began_ends_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let script = format!("sleep 300 & echo $! > {}; wait", file.display());
        assert!(timeout(Duration::from_secs(2), shell(&script)).await.is_err());
        wait_gone(&file).await;
    }

    #[tokio::test]
    async fn an_output_counts_though_a_process_left_behind_holds_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let script = format!("sleep 300 & echo $! > {}; echo 0.5", file.display());
        assert_eq!(shell(&script).await.unwrap(), "0.5\n");
        wait_gone(&file).await;
    }

    #[tokio::test]
    async fn a_failure_has_the_error_output_and_a_cut_output_is_none() {
        assert_eq!(shell("cat").await.unwrap(), "input");
        let error = shell("echo half; echo no such table >&2; exit 3").await.unwrap_err();
        assert_eq!(error, "it ended with exit status: 3: no such table");
        let error =
            shell("yes trace | head -c 9000 >&2; echo KeyError >&2; exit 1").await.unwrap_err();
        assert!(error.ends_with("trace\nKeyError") && error.len() < 250, "{error}");
        let error = shell("yes | head -c 65537").await.unwrap_err();
        assert_eq!(error, "its output is longer than 65536 bytes");
        assert_eq!(shell("yes | head -c 65536").await.unwrap().len(), 65536);
        assert_eq!(shell(r"printf '\377'").await.unwrap_err(), "its output is not UTF-8");
        let error = run("/no/such/program", &[], b"").await.unwrap_err();
        assert!(error.starts_with("it cannot be started"), "{error}");
    }
}
