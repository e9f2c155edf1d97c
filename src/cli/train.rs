//! `server train`: supervised training and GRPO from a configuration file.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

use crate::config::read_toml;
use crate::train::metrics::Values;
use crate::train::sft::{Progress, SftConfig, run_sft};

use super::Failure;

#[derive(Debug, Args)]
pub struct TrainArgs {
    #[command(subcommand)]
    method: Method,
}

#[derive(Debug, Subcommand)]
enum Method {
    /// Learn from given conversations
    Sft(RunArgs),
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Configuration of the run
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Go on from the run's last checkpoint
    #[arg(long)]
    resume: bool,
}

/// Carries `server train` out.
#[allow(clippy::print_stdout, reason = "the finished model's folder is the command's output")]
pub fn run(args: TrainArgs) -> Result<(), Failure> {
    crate::train::memory::keep_freed();
    match args.method {
        Method::Sft(args) => {
            let config: SftConfig = read_toml(&args.config)?;
            let model = run_sft(&config, args.resume, &mut Bar::new()?)?;
            println!("{}", model.display());
        }
    }
    Ok(())
}

/// Shows progress on a terminal, and stops the run cleanly on Ctrl-C.
struct Bar {
    bar: ProgressBar,
    cancelled: Arc<AtomicBool>,
}

impl Bar {
    fn new() -> Result<Self, std::io::Error> {
        let cancelled = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&cancelled);
        // The trainer computes without an async runtime; this thread only waits for the signal.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::spawn(move || {
            if runtime.block_on(tokio::signal::ctrl_c()).is_ok() {
                flag.store(true, Ordering::Relaxed);
            }
        });
        let bar = ProgressBar::new(0);
        if let Ok(style) =
            ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} left {eta}  {msg}")
        {
            bar.set_style(style);
        }
        Ok(Self { bar, cancelled })
    }
}

impl Progress for Bar {
    fn step(&mut self, done: u64, of: u64, values: &Values) {
        let shown: Vec<String> =
            values.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
        self.bar.set_length(of);
        self.bar.set_message(shown.join("  "));
        self.bar.set_position(done);
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}
