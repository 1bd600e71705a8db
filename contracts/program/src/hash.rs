//! SHA-256 by the runtime.

/// The hash of `parts` one after the other.
#[inline(always)]
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    #[cfg(any(target_os = "solana", target_arch = "bpf"))]
    {
        let mut hash = [0u8; 32];
        // SAFETY: a slice of slices has the layout the syscall reads, pointer and length pairs; the result has 32 bytes.
        unsafe {
            pinocchio::syscalls::sol_sha256(
                parts.as_ptr() as *const u8,
                parts.len() as u64,
                hash.as_mut_ptr(),
            );
        }
        hash
    }
    #[cfg(not(any(target_os = "solana", target_arch = "bpf")))]
    unreachable!("hashes are made by the runtime: {parts:?}")
}
