//! Which instruction sets this machine has, and proof of it.
//!
//! A kernel that needs special instructions takes a token. The only way to get a token is the check in its
//! constructor, so holding one is proof. [`Isa`] is the run-time choice between them, made once per process.

/// One tier of instructions, from the plain reference upwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Isa {
    /// Plain Rust; the reference for every other tier.
    Scalar,
    /// wasm `simd128` (chosen at compile time).
    Simd128,
    /// Arm NEON. `dotprod`, `i8mm` and `bf16` are checked separately by the kernels that use them.
    Neon,
    /// AVX2 + FMA + F16C.
    Avx2,
    /// AVX-512 F, BW, VL, DQ.
    Avx512,
    /// AVX-512 with VNNI (int8 dot products) and BF16 dot products.
    Avx512Dot,
    /// The same and AMX: products of whole tiles of bf16 or bytes.
    Amx,
}

impl Isa {
    /// All tiers that this machine can run, slowest first. Always starts with [`Isa::Scalar`].
    pub fn available() -> Vec<Self> {
        let mut tiers = vec![Self::Scalar];
        #[cfg(target_arch = "x86_64")]
        {
            if Avx2::new().is_some() {
                tiers.push(Self::Avx2);
            }
            if Avx512::new().is_some() {
                tiers.push(Self::Avx512);
            }
            if Avx512Dot::new().is_some() {
                tiers.push(Self::Avx512Dot);
            }
            if Amx::new().is_some() {
                tiers.push(Self::Amx);
            }
        }
        #[cfg(target_arch = "aarch64")]
        if Neon::new().is_some() {
            tiers.push(Self::Neon);
        }
        #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
        tiers.push(Self::Simd128);
        tiers
    }

    /// The fastest tier of this machine.
    pub fn best() -> Self {
        static BEST: std::sync::OnceLock<Isa> = std::sync::OnceLock::new();
        *BEST.get_or_init(|| Self::available().into_iter().max().unwrap_or(Self::Scalar))
    }

    /// Name as `turaco doctor` shows it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Simd128 => "simd128",
            Self::Neon => "neon",
            Self::Avx2 => "avx2+fma",
            Self::Avx512 => "avx512",
            Self::Avx512Dot => "avx512 vnni+bf16",
            Self::Amx => "avx512 amx",
        }
    }
}

/// Proof that AVX2, FMA and F16C are present.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy)]
pub struct Avx2(());

#[cfg(target_arch = "x86_64")]
impl Avx2 {
    /// The token, if this machine has the instructions.
    pub fn new() -> Option<Self> {
        (is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c"))
        .then_some(Self(()))
    }
}

/// Proof that AVX-512 F, BW, VL and DQ are present (and everything of [`Avx2`]).
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy)]
pub struct Avx512(());

#[cfg(target_arch = "x86_64")]
impl Avx512 {
    /// The token, if this machine has the instructions.
    pub fn new() -> Option<Self> {
        (Avx2::new().is_some()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq"))
        .then_some(Self(()))
    }
}

/// Proof that AVX-512 VNNI and BF16 are present (and everything of [`Avx512`]).
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy)]
pub struct Avx512Dot(());

#[cfg(target_arch = "x86_64")]
impl Avx512Dot {
    /// The token, if this machine has the instructions.
    pub fn new() -> Option<Self> {
        (Avx512::new().is_some()
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("avx512bf16"))
        .then_some(Self(()))
    }
}

/// Proof that AMX with bf16 and int8 is present (and everything of [`Avx512Dot`]), and that the operating system lets
/// this process use it.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy)]
pub struct Amx(());

#[cfg(target_arch = "x86_64")]
impl Amx {
    /// The token, if this machine has the instructions. The first call asks the operating system for them.
    pub fn new() -> Option<Self> {
        static GRANTED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
        (Avx512Dot::new().is_some() && *GRANTED.get_or_init(|| has_amx() && may_use_amx()))
            .then_some(Self(()))
    }
}

/// Whether the processor has tiles of bf16 and bytes, and the system keeps them over a switch of threads.
#[cfg(target_arch = "x86_64")]
fn has_amx() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
    const OSXSAVE: u32 = 1 << 27;
    const BF16_TILE_INT8: u32 = 1 << 22 | 1 << 24 | 1 << 25;
    /// Configuration and data of tiles.
    const TILE_STATE: u64 = 0b11 << 17;
    /// # Safety
    /// XSAVE must be enabled.
    #[target_feature(enable = "xsave")]
    unsafe fn enabled_states() -> u64 {
        // SAFETY: register 0 is always there, the caller promises the rest.
        unsafe { _xgetbv(0) }
    }
    if __cpuid(0).eax < 7 || __cpuid(1).ecx & OSXSAVE == 0 {
        return false;
    }
    let tiles = __cpuid_count(7, 0).edx & BF16_TILE_INT8 == BF16_TILE_INT8;
    // SAFETY: the bit of OSXSAVE was just checked.
    tiles && unsafe { enabled_states() } & TILE_STATE == TILE_STATE
}

/// Linux enlarges the saved state of a process only when asked.
#[cfg(target_arch = "x86_64")]
fn may_use_amx() -> bool {
    #[cfg(target_os = "linux")]
    {
        const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
        const XFEATURE_XTILEDATA: libc::c_long = 18;
        // SAFETY: the call takes two numbers and touches no memory of ours.
        let refused = unsafe {
            libc::syscall(
                libc::SYS_arch_prctl,
                ARCH_REQ_XCOMP_PERM,
                XFEATURE_XTILEDATA,
            )
        };
        refused == 0
    }
    // Elsewhere nobody has tried this yet.
    #[cfg(not(target_os = "linux"))]
    false
}

/// Proof that Arm NEON is present.
#[cfg(target_arch = "aarch64")]
#[derive(Debug, Clone, Copy)]
pub struct Neon(());

#[cfg(target_arch = "aarch64")]
impl Neon {
    /// The token, if this machine has the instructions.
    pub fn new() -> Option<Self> {
        std::arch::is_aarch64_feature_detected!("neon").then_some(Self(()))
    }
}
