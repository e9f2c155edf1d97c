//! What the allocator does with freed memory while the server runs.

/// Has large blocks go back to the system when they are freed.
///
/// glibc raises by itself the size from which it does so, up to 32 MiB: after one long request, the
/// texts of later ones would stay in the process, in every arena.
pub fn give_back_large_blocks() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        /// Larger than what a usual request takes in one piece.
        const LARGE: i32 = 1 << 20;
        // SAFETY: it takes plain numbers. A value that it does not take changes nothing.
        unsafe {
            nix::libc::mallopt(nix::libc::M_MMAP_THRESHOLD, LARGE);
        }
    }
}
