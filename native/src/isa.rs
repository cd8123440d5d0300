//! The one place that decides which instructions run.
//!
//! A path is a table of row kernels. Everything above (`ring`, `power`, `fixed_base`) is written
//! once against [`Kernels`]. A path that computes several ciphertexts per instruction also offers
//! the traits of `batch`, and the operations ask for those first.

use crate::batch::{BatchHolder, BatchPowers, BatchSpace};
use crate::error::{KernelError, Result};
use crate::private_key::Prime;
use crate::ring::SquareRing;
use crate::slots::{PackRow, SlotLayout, UnpackRow};
use crate::streebog::Compress;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// `u64`/`u128` Rust, on every architecture.
    Portable,
    /// x86-64 with BMI2 and ADX: mulx with two carry chains; AVX2 for table scans.
    Adx,
    /// `Adx` with AVX-512 IFMA: eight ciphertexts per instruction for batches.
    Avx512Ifma,
}

/// Instructions that ordinary loops are compiled for.
#[cfg(x86_paths)]
pub enum Vectors {
    /// What every processor of the architecture has.
    Baseline,
    Avx2,
    /// F, BW, DQ and VL.
    Avx512,
}

/// Fastest first.
pub const ALL: [Isa; 3] = [Isa::Avx512Ifma, Isa::Adx, Isa::Portable];

/// `acc += x * y`; see asm/mul_acc_adx.S for the contract.
type MulAcc = unsafe fn(*mut u64, *const u64, usize, *const u64, usize) -> u64;
/// Montgomery reduction with its multiplier; see asm/redc_adx.S for the contract.
type Redc = unsafe fn(*mut u64, *const u64, usize, u64, *mut u64) -> u64;
/// Copy row `index` of a table of `rows` rows into `out`, reading every row.
type Select = unsafe fn(*mut u64, *const u64, usize, usize, usize);

/// Row kernels of one path. Lengths are positive multiples of [`LIMB_BLOCK`].
pub struct Kernels {
    mul_acc: MulAcc,
    redc: Redc,
    select: Select,
}

/// Moduli are padded to a multiple of this many limbs, so that kernels unroll without tails.
pub const LIMB_BLOCK: usize = 8;

impl Kernels {
    /// `acc += x * y`; returns the carry. `acc` is exactly as long as both together.
    pub fn mul_acc(&self, acc: &mut [u64], x: &[u64], y: &[u64]) -> u64 {
        assert!(acc.len() == x.len() + y.len() && !x.is_empty() && !y.is_empty());
        assert!(x.len().is_multiple_of(LIMB_BLOCK) && y.len().is_multiple_of(LIMB_BLOCK));
        // SAFETY: lengths checked above; the path was checked to be available.
        unsafe { (self.mul_acc)(acc.as_mut_ptr(), x.as_ptr(), x.len(), y.as_ptr(), y.len()) }
    }

    /// Reduce `acc` (twice the modulus' length) in place and store the multiplier in `m`.
    pub fn redc(&self, acc: &mut [u64], modulus: &[u64], neg_inv: u64, m: &mut [u64]) -> u64 {
        let limbs = modulus.len();
        assert!(acc.len() == 2 * limbs && m.len() == limbs);
        assert!(limbs > 0 && limbs.is_multiple_of(LIMB_BLOCK));
        // SAFETY: lengths checked above; the path was checked to be available.
        unsafe { (self.redc)(acc.as_mut_ptr(), modulus.as_ptr(), limbs, neg_inv, m.as_mut_ptr()) }
    }

    /// Copy row `index` of `table` into `out` with a memory trace that does not depend on it.
    pub fn select(&self, out: &mut [u64], table: &[u64], index: usize) {
        let width = out.len();
        assert!(width > 0 && width.is_multiple_of(2 * LIMB_BLOCK));
        assert!(table.len().is_multiple_of(width));
        // SAFETY: the table holds a whole number of rows as wide as `out`.
        unsafe {
            (self.select)(out.as_mut_ptr(), table.as_ptr(), table.len() / width, width, index)
        }
    }
}

impl Isa {
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Adx => "adx",
            Self::Avx512Ifma => "avx512ifma",
        }
    }

    pub fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(x86_paths)]
            Self::Adx => {
                // Valgrind runs the instructions of ADX but does not list them.
                is_x86_feature_detected!("bmi2")
                    && (is_x86_feature_detected!("adx") || cfg!(feature = "memcheck"))
                    && is_x86_feature_detected!("avx2")
            }
            #[cfg(x86_paths)]
            Self::Avx512Ifma => {
                Self::Adx.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512ifma")
            }
            #[cfg(not(x86_paths))]
            Self::Adx | Self::Avx512Ifma => false,
        }
    }

    /// The path called `name`; an error if it is unknown or cannot run here.
    pub fn by_name(name: &str) -> Result<Self> {
        ALL.into_iter()
            .find(|isa| isa.name() == name && isa.is_available())
            .ok_or(KernelError::UnavailableIsa)
    }

    /// The fastest path this processor runs.
    pub fn best() -> Self {
        ALL.into_iter().find(|isa| isa.is_available()).unwrap_or(Self::Portable)
    }

    pub fn kernels(self) -> &'static Kernels {
        match self {
            Self::Portable => &crate::portable::KERNELS,
            #[cfg(x86_paths)]
            Self::Adx | Self::Avx512Ifma => &crate::adx::KERNELS,
            #[cfg(not(x86_paths))]
            Self::Adx | Self::Avx512Ifma => unreachable!("an unavailable path was chosen"),
        }
    }

    /// Whether this path may permute and transform 64 bytes at once.
    #[cfg(x86_paths)]
    fn has_wide_bytes(self) -> bool {
        self == Self::Avx512Ifma
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vbmi")
            && is_x86_feature_detected!("gfni")
    }

    /// The widest registers that ordinary loops may be compiled for.
    #[cfg(x86_paths)]
    pub fn vectors(self) -> Vectors {
        match self {
            Self::Avx512Ifma
                if is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vl") =>
            {
                Vectors::Avx512
            }
            Self::Portable => Vectors::Baseline,
            Self::Adx | Self::Avx512Ifma => Vectors::Avx2,
        }
    }

    /// Whether this path has fused multiply-add besides AVX2.
    #[cfg(x86_paths)]
    pub fn fuses(self) -> bool {
        self != Self::Portable && is_x86_feature_detected!("fma")
    }

    /// How rows of slots are packed.
    pub fn pack_row(self, layout: &SlotLayout) -> PackRow {
        #[cfg(x86_paths)]
        if self.has_wide_bytes() && crate::slots_vbmi::fits(layout.slot_bits) {
            return crate::slots_vbmi::pack_row;
        }
        let _ = layout;
        crate::slots::pack_row
    }

    /// How rows of slots are unpacked.
    pub fn unpack_row(self, layout: &SlotLayout) -> UnpackRow {
        #[cfg(x86_paths)]
        if self.has_wide_bytes() && crate::slots_vbmi::fits(layout.slot_bits) {
            return crate::slots_vbmi::unpack_row;
        }
        let _ = layout;
        crate::slots::unpack_row
    }

    /// The compression function of Streebog.
    pub fn streebog(self) -> Compress {
        #[cfg(x86_paths)]
        if self.has_wide_bytes() {
            return crate::streebog_gfni::compress;
        }
        crate::streebog::compress
    }

    /// Batch arithmetic modulo the square of the ring's modulus, if this path has it for its size.
    pub fn batch_space(self, ring: &SquareRing) -> Option<Box<dyn BatchSpace>> {
        #[cfg(x86_paths)]
        if self == Self::Avx512Ifma {
            return Some(Box::new(crate::ifma::LaneSpace::new(ring)?));
        }
        let _ = ring;
        None
    }

    /// Batch powers of one base, given with its inverse as elements of the ring.
    pub fn batch_powers(
        self,
        ring: &SquareRing,
        base: &[u64],
        inverse: &[u64],
        exponent_bits: usize,
        window: usize,
    ) -> Option<Box<dyn BatchPowers>> {
        #[cfg(x86_paths)]
        if self == Self::Avx512Ifma {
            let powers =
                crate::ifma::LaneEncryptor::new(ring, base, inverse, exponent_bits, window)?;
            return Some(Box::new(powers));
        }
        let _ = (ring, base, inverse, exponent_bits, window);
        None
    }

    /// Batch operations of the holder of the primes.
    pub fn batch_holder(
        self,
        primes: [&Prime; 2],
        n_limbs: usize,
        exponent_bits: usize,
        window: usize,
    ) -> Option<Box<dyn BatchHolder>> {
        #[cfg(x86_paths)]
        if self == Self::Avx512Ifma {
            let holder = crate::ifma::LaneHolder::new(primes, n_limbs, exponent_bits, window)?;
            return Some(Box::new(holder));
        }
        let _ = (primes, n_limbs, exponent_bits, window);
        None
    }
}

/// IFMA multiply-adds of eight lanes per second on one core of this processor, if it has them.
pub fn ifma_rate() -> Option<f64> {
    #[cfg(x86_paths)]
    if Isa::Avx512Ifma.is_available() {
        return Some(crate::ifma::multiply_adds_per_second());
    }
    None
}

/// Names of the detected features that matter to present or planned paths, space separated.
pub fn detected_flags() -> String {
    let mut flags: Vec<&str> = Vec::new();
    #[cfg(x86_paths)]
    {
        let detected = [
            ("bmi2", is_x86_feature_detected!("bmi2")),
            ("adx", is_x86_feature_detected!("adx")),
            ("avx2", is_x86_feature_detected!("avx2")),
            ("avx512f", is_x86_feature_detected!("avx512f")),
            ("avx512bw", is_x86_feature_detected!("avx512bw")),
            ("avx512dq", is_x86_feature_detected!("avx512dq")),
            ("avx512ifma", is_x86_feature_detected!("avx512ifma")),
            ("avx512vl", is_x86_feature_detected!("avx512vl")),
            ("avx512vbmi", is_x86_feature_detected!("avx512vbmi")),
            ("gfni", is_x86_feature_detected!("gfni")),
        ];
        flags.extend(detected.iter().filter(|(_, on)| *on).map(|(name, _)| *name));
    }
    #[cfg(target_arch = "aarch64")]
    {
        if std::arch::is_aarch64_feature_detected!("neon") {
            flags.push("neon");
        }
    }
    flags.sort_unstable();
    flags.join(" ")
}

pub const fn table(mul_acc: MulAcc, redc: Redc, select: Select) -> Kernels {
    Kernels { mul_acc, redc, select }
}
