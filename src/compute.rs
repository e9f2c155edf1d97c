//! CPU-bound work of requests, on its own threads: async workers stay free, concurrency is bounded,
//! and deep recursion has a large stack.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::oneshot;

/// The stack of each thread. Only touched pages take memory.
pub const STACK_BYTES: usize = 64 * 1024 * 1024;
/// Below this many bytes, the work takes less time than handing it to another thread.
const MAX_INLINE_BYTES: usize = 64 * 1024;
/// How many jobs may wait for a thread.
const MAX_QUEUED_JOBS: usize = 256;

/// Work that was not finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ComputeError {
    /// The queue is full.
    #[error("the server has too much to compute")]
    QueueFull,
    /// The deadline passed.
    #[error("the computation did not finish before its deadline")]
    TimedOut,
    /// The work panicked.
    #[error("the computation failed")]
    Panicked,
}

/// Signals work to stop: its deadline has passed, or its caller is gone.
#[derive(Debug, Clone)]
pub struct StopSignal {
    is_abandoned: Arc<AtomicBool>,
    deadline: Instant,
}

impl StopSignal {
    /// Whether the caller has stopped waiting for the result.
    pub fn should_stop(&self) -> bool {
        self.is_abandoned.load(Ordering::Relaxed) || Instant::now() >= self.deadline
    }
}

type Job = Box<dyn FnOnce() + Send>;

static JOB_SENDER: LazyLock<SyncSender<Job>> = LazyLock::new(start);

/// Runs `work` and waits for its result until `deadline`. Work that may take long must poll the
/// [`StopSignal`]. Work whose caller leaves before it starts is not started.
///
/// # Errors
/// When the queue is full, the deadline passes, or the work panics.
pub async fn run<T: Send + 'static>(
    deadline: Instant,
    work: impl FnOnce(&StopSignal) -> T + Send + 'static,
) -> Result<T, ComputeError> {
    let stop = StopSignal { is_abandoned: Arc::default(), deadline };
    let abandoned = AbandonOnDrop(Arc::clone(&stop.is_abandoned));
    let (sender, receiver) = oneshot::channel();
    let job: Job = Box::new(move || {
        if !stop.should_stop() {
            // The caller may have left by now.
            let _ = sender.send(work(&stop));
        }
    });
    JOB_SENDER.try_send(job).map_err(|_| ComputeError::QueueFull)?;
    let result = tokio::time::timeout_at(deadline.into(), receiver).await;
    drop(abandoned);
    match result {
        Ok(Ok(result)) => Ok(result),
        Ok(Err(_)) if Instant::now() < deadline => Err(ComputeError::Panicked),
        _ => Err(ComputeError::TimedOut),
    }
}

/// Runs work on `bytes` of text: inline if they are few, otherwise as [`run`] does.
///
/// # Errors
/// As [`run`].
pub async fn run_on<T: Send + 'static>(
    bytes: usize,
    deadline: Instant,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ComputeError> {
    if is_much(bytes) { run(deadline, move |_| work()).await } else { Ok(work()) }
}

/// Runs work on `bytes` of text on this thread. If they are many, this worker's other tasks move to
/// another thread meanwhile (`block_in_place`). For work that takes linear time and borrows its
/// input.
pub fn in_place<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    let is_shared = || {
        let runtime = Handle::try_current().map(|runtime| runtime.runtime_flavor());
        matches!(runtime, Ok(RuntimeFlavor::MultiThread))
    };
    if is_much(bytes) && is_shared() { tokio::task::block_in_place(work) } else { work() }
}

/// The message of a panic that was caught.
pub fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

/// Whether so many bytes are worth another thread.
fn is_much(bytes: usize) -> bool {
    bytes > MAX_INLINE_BYTES
}

struct AbandonOnDrop(Arc<AtomicBool>);

impl Drop for AbandonOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Starts the threads. They live as long as the process.
fn start() -> SyncSender<Job> {
    let (sender, receiver) = sync_channel(MAX_QUEUED_JOBS);
    let receiver = Arc::new(Mutex::new(receiver));
    let threads = thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 8));
    for number in 0..threads {
        let receiver = Arc::clone(&receiver);
        let thread = thread::Builder::new()
            .name(format!("compute-{number}"))
            .stack_size(STACK_BYTES)
            .spawn(move || serve(&receiver));
        if let Err(error) = thread {
            tracing::error!(%error, "cannot start a thread for computations");
        }
    }
    sender
}

fn serve(receiver: &Mutex<Receiver<Job>>) {
    loop {
        let job = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        if catch_unwind(AssertUnwindSafe(job)).is_err() {
            tracing::error!("a computation panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[tokio::test]
    async fn work_ends_with_its_result_or_a_reason() {
        assert_eq!(run(soon(), |_| 7).await, Ok(7));
        let panicked = run(soon(), |_| -> u8 { panic!("on purpose") }).await;
        assert_eq!(panicked, Err(ComputeError::Panicked));
        let past = Instant::now();
        assert_eq!(run(past, |_| ()).await, Err(ComputeError::TimedOut));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn others_go_on_while_a_thread_is_taken() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let work =
            tokio::spawn(async move { in_place(MAX_INLINE_BYTES + 1, || receiver.recv().is_ok()) });
        // The only worker is taken by now, or will be.
        let other = tokio::spawn(async move { sender.send(()).is_ok() });
        assert!(other.await.unwrap() && work.await.unwrap());
    }

    #[tokio::test]
    async fn a_thread_that_is_alone_works_all_the_same() {
        assert_eq!(in_place(MAX_INLINE_BYTES + 1, || 7), 7);
    }

    #[tokio::test]
    async fn work_learns_that_its_caller_is_gone() {
        let (sender, stopped) = oneshot::channel();
        let (begun, running) = oneshot::channel();
        let work = tokio::spawn(run(soon(), move |stop| {
            begun.send(()).unwrap();
            while !stop.should_stop() {
                thread::yield_now();
            }
            sender.send(()).unwrap();
        }));
        running.await.unwrap();
        work.abort();
        stopped.await.unwrap();
    }
}
