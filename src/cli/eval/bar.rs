//! The progress of an evaluation: a bar on a terminal, otherwise an occasional line.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::eval::rows::Outcome;
use crate::eval::run::EvalProgress;

/// Shows progress.
pub(super) struct Bar {
    bar: ProgressBar,
    is_terminal: bool,
    failed: u64,
    last_line: Instant,
}

/// The interval between two lines.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

impl Bar {
    pub(super) fn new() -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let style = "{bar:30} {pos}/{len} {per_sec} {elapsed} left {eta}  {msg}";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        Self { bar, is_terminal, failed: 0, last_line: Instant::now() }
    }

    /// `total` answers are to be scored.
    pub(super) fn begin_scoring(&mut self, total: usize) {
        self.bar.set_message("scoring");
        self.bar.set_length(total as u64);
        self.bar.set_position(0);
        self.bar.reset_eta();
    }

    /// One more answer is scored.
    pub(super) fn scored(&mut self) {
        self.bar.inc(1);
        self.show("answers scored");
    }

    fn show(&mut self, what: &str) {
        if !self.is_terminal && self.last_line.elapsed() >= LINE_INTERVAL {
            self.last_line = Instant::now();
            let total = self.bar.length().unwrap_or(0);
            tracing::info!("{} of {total} {what}, {} failed", self.bar.position(), self.failed);
        }
    }
}

impl EvalProgress for Bar {
    fn begin(&mut self, done: usize, total: usize) {
        self.bar.set_length(total as u64);
        self.bar.set_position(done as u64);
        self.bar.reset_eta();
        if done > 0 {
            tracing::info!("{done} of {total} rows exist already");
        }
    }

    fn row(&mut self, arm: &str, outcome: &Outcome) {
        self.bar.inc(1);
        if let Outcome::Failed { error, .. } = outcome {
            self.failed += 1;
            // One is enough; the report counts them all.
            if self.failed == 1 {
                self.bar.suspend(|| tracing::warn!("`{arm}` failed: {error}"));
            }
            self.bar.set_message(format!("{} failed", self.failed));
        }
        self.show("rows");
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
