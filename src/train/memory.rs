//! Tuning of the allocator.

/// Makes the allocator keep freed memory for the next step.
///
/// A step frees hundreds of megabytes of activations and allocates them again at once. By default,
/// glibc returns them to the system each time, and a third of a small model's step goes into page
/// faults. For processes that train; a server should return memory.
pub fn retain_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        /// The maximum that glibc accepts.
        const MMAP_LIMIT: i32 = 32 << 20;
        // SAFETY: it takes plain numbers. An unsupported value changes nothing.
        unsafe {
            libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
            libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_LIMIT);
        }
    }
}
