//! A runtime for work that no answer waits for.

use std::io;

use tokio::runtime::{Builder, Handle, Runtime};

/// How much threads in the background give way: at 10, a busy core gives a tenth to them while an
/// ordinary thread wants it, and all of it otherwise.
#[cfg(target_os = "linux")]
const NICENESS: nix::libc::c_int = 10;

/// A runtime of one thread, which gives way to those that answer.
pub struct Background {
    /// Always there until it is dropped.
    runtime: Option<Runtime>,
    handle: Handle,
}

impl Background {
    /// Starts it. `name` is its thread's.
    pub fn start(name: &str) -> io::Result<Self> {
        let mut builder = Builder::new_multi_thread();
        let builder = builder.worker_threads(1).thread_name(name).on_thread_start(give_way);
        let runtime = builder.enable_all().build()?;
        let handle = runtime.handle().clone();
        Ok(Self { runtime: Some(runtime), handle })
    }

    /// Calls `make` on a thread of this runtime's, so that what it makes runs here, and threads that
    /// it starts give way as well: they inherit that.
    pub fn make<T: Send>(&self, make: impl FnOnce() -> T + Send) -> io::Result<T> {
        let made = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                give_way();
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
        // Waiting for its threads is not allowed where others are served.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Has the present thread give way to others, where the system knows priorities of threads.
fn give_way() {
    #[cfg(target_os = "linux")]
    // SAFETY: both take and give plain numbers; on Linux, process 0 is the calling thread.
    unsafe {
        use nix::libc::{PRIO_PROCESS, getpriority, setpriority};
        if getpriority(PRIO_PROCESS, 0) < NICENESS {
            // Where it fails, the thread stays as it was.
            setpriority(PRIO_PROCESS, 0, NICENESS);
        }
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
        let niceness = || unsafe { nix::libc::getpriority(nix::libc::PRIO_PROCESS, 0) };
        let before = niceness();
        let background = Background::start("test").unwrap();
        let (made, inherited, spawned) = background
            .make(|| {
                let inherited = std::thread::spawn(niceness).join().unwrap();
                (niceness(), inherited, Handle::current().spawn(async move { niceness() }))
            })
            .unwrap();
        assert_eq!([made, inherited, spawned.await.unwrap()], [NICENESS.max(before); 3]);
        assert_eq!(niceness(), before);
    }
}
