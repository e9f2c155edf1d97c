//! What the allocator does with freed memory.

/// Makes the allocator keep freed memory for the next step.
///
/// A step frees hundreds of megabytes of activations and asks for them again at once. Unless told
/// otherwise, glibc hands them back to the system each time, and a third of a small model's step goes into
/// getting pages. For processes that train; one that serves should give memory back.
pub fn keep_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        /// The most that glibc takes.
        const MMAP_LIMIT: i32 = 32 << 20;
        // SAFETY: it takes plain numbers. A value that it does not take changes nothing.
        unsafe {
            libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
            libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_LIMIT);
        }
    }
}
