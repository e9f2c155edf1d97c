//! The arithmetic of a decoder step on the CPU, f32.
//!
//! Every output element is summed in an order that depends only on its own inputs, not on how many
//! rows are computed together: a row's result is bit-identical in any batch.

pub mod attention;
mod bytes;
pub mod low_rank;
pub mod matmul;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
pub mod quantized;
pub mod rows;
pub mod simd;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

use simd::{Kernel, Simd};

/// The best instruction set that the CPU has.
#[derive(Debug, Clone, Copy)]
pub enum Isa {
    /// AVX-512 with its products of bytes (VNNI).
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni(x86::Avx512<x86::Vnni>),
    /// AVX-512.
    #[cfg(target_arch = "x86_64")]
    Avx512(x86::Avx512<x86::Avx2>),
    /// AVX2 with fused multiply-add.
    #[cfg(target_arch = "x86_64")]
    Avx2(x86::Avx2),
    /// NEON with its products of bytes.
    #[cfg(target_arch = "aarch64")]
    NeonDotprod(neon::Neon<true>),
    /// NEON.
    #[cfg(target_arch = "aarch64")]
    Neon(neon::Neon<false>),
    /// Plain Rust.
    Portable(portable::Portable),
}

impl Isa {
    /// The best first.
    pub(super) fn available() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let vector = [
            x86::Avx512::detect(x86::Vnni::detect()).map(Self::Avx512Vnni),
            x86::Avx512::detect(x86::Avx2::detect()).map(Self::Avx512),
            x86::Avx2::detect().map(Self::Avx2),
        ];
        #[cfg(target_arch = "aarch64")]
        let vector =
            [neon::Neon::detect().map(Self::NeonDotprod), neon::Neon::detect().map(Self::Neon)];
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let vector = [None::<Self>; 0];
        vector.into_iter().flatten().chain([Self::Portable(portable::Portable)])
    }

    /// Looks at the CPU.
    pub fn detect() -> Self {
        Self::available().next().unwrap_or(Self::Portable(portable::Portable))
    }

    /// Adjacent lines in a panel of packed weights: enough to keep the multipliers busy with a
    /// single row while leaving registers for several.
    pub fn panel_lines(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni(_) | Self::Avx512(_) => 4,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => 2,
            #[cfg(target_arch = "aarch64")]
            Self::NeonDotprod(_) | Self::Neon(_) => 2,
            Self::Portable(_) => 1,
        }
    }

    /// Whether a multiply-add is rounded once. All sets for which it is give the same bits.
    #[cfg(test)]
    pub(super) fn is_fused(self) -> bool {
        !matches!(self, Self::Portable(_)) || portable::IS_FUSED
    }

    /// Runs a kernel on the set.
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the value proves that the CPU has the features.
            Self::Avx512Vnni(simd) => unsafe { run_avx512_vnni(kernel, simd) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the value proves that the CPU has the features.
            Self::Avx512(simd) => unsafe { run_avx512(kernel, simd) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the value proves that the CPU has the features.
            Self::Avx2(simd) => unsafe { run_avx2(kernel, simd) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: the value proves that the CPU has the features.
            Self::NeonDotprod(simd) => unsafe { run_neon_dotprod(kernel, simd) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: the value proves that the CPU has the features.
            Self::Neon(simd) => unsafe { run_neon(kernel, simd) },
            Self::Portable(simd) => kernel.run(simd),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
fn run_avx512_vnni<K: Kernel>(kernel: K, simd: impl Simd) -> K::Output {
    kernel.run(simd)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma,f16c")]
fn run_avx512<K: Kernel>(kernel: K, simd: impl Simd) -> K::Output {
    kernel.run(simd)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn run_avx2<K: Kernel>(kernel: K, simd: impl Simd) -> K::Output {
    kernel.run(simd)
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon,dotprod")]
fn run_neon_dotprod<K: Kernel>(kernel: K, simd: impl Simd) -> K::Output {
    kernel.run(simd)
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
fn run_neon<K: Kernel>(kernel: K, simd: impl Simd) -> K::Output {
    kernel.run(simd)
}
