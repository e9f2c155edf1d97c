//! Tuning of the allocator for a server.

/// Returns large blocks to the system when they are freed.
///
/// By default, glibc raises the threshold for this up to 32 MiB: after one long request, the texts
/// of later ones would stay in the process, in every arena.
pub fn release_large_blocks() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        /// Larger than the largest allocation of a usual request.
        const LARGE: i32 = 1 << 20;
        // SAFETY: it takes plain numbers. An unsupported value changes nothing.
        unsafe {
            nix::libc::mallopt(nix::libc::M_MMAP_THRESHOLD, LARGE);
        }
    }
}
