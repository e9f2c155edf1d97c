//! A runtime for low-priority background work.

use std::io;

use tokio::runtime::{Builder, Handle, Runtime};

/// A runtime with one thread, which yields to threads that answer requests.
pub struct Background {
    /// `Some` until it is dropped.
    runtime: Option<Runtime>,
    handle: Handle,
}

impl Background {
    /// Starts it. `name` is the name of its thread.
    pub fn start(name: &str) -> io::Result<Self> {
        let mut builder = Builder::new_multi_thread();
        let builder = builder.worker_threads(1).thread_name(name).on_thread_start(lower_priority);
        let runtime = builder.enable_all().build()?;
        let handle = runtime.handle().clone();
        Ok(Self { runtime: Some(runtime), handle })
    }

    /// Calls `make` on a thread of this runtime, so that what it creates runs here, and threads
    /// that it starts inherit the low priority.
    pub fn make<T: Send>(&self, make: impl FnOnce() -> T + Send) -> io::Result<T> {
        let made = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                lower_priority();
                let _entered = self.handle.enter();
                make()
            });
            thread.join()
        });
        made.map_err(|_| io::Error::other("a thread in the background panicked"))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // Blocking on its threads is not allowed in async contexts.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Lowers the priority of the current thread, if the system supports it.
///
/// The policy SCHED_IDLE, not a nice value: the scheduler treats a core that runs only such work as
/// idle, and preempts it at once for an ordinary thread. A busy core still gives it about three
/// thousandths of its time.
fn lower_priority() {
    #[cfg(target_os = "linux")]
    // SAFETY: it reads a struct that lives that long; on Linux, process 0 is the calling thread.
    unsafe {
        use nix::libc::{SCHED_IDLE, sched_param, sched_setscheduler};
        // If it fails, the thread keeps its priority.
        sched_setscheduler(0, SCHED_IDLE, &sched_param { sched_priority: 0 });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn all_its_threads_give_way_and_only_they() {
        // SAFETY: takes and gives plain numbers.
        let policy = || unsafe { nix::libc::sched_getscheduler(0) };
        let before = policy();
        let background = Background::start("test").unwrap();
        let (made, inherited, spawned) = background
            .make(|| {
                let inherited = std::thread::spawn(policy).join().unwrap();
                (policy(), inherited, Handle::current().spawn(async move { policy() }))
            })
            .unwrap();
        let expected = [nix::libc::SCHED_IDLE; 3];
        assert_eq!([made, inherited, spawned.await.unwrap()], expected);
        assert_eq!(policy(), before);
    }
}
