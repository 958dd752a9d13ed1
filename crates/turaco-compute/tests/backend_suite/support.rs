//! Small helpers: reproducible numbers, weights, comparison.

use std::sync::Arc;

use turaco_compute::{CpuOptions, DType, Device, HostMatrix, Isa, Matrix, WeightType};

/// Reproducible numbers between -1 and 1 (a 64-bit linear congruential generator).
pub struct Numbers(u64);

impl Numbers {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def1)
    }

    pub fn bits(&mut self) -> u32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }

    pub fn next(&mut self) -> f32 {
        (self.bits() >> 8) as f32 / 8_388_608.0 - 1.0
    }

    pub fn take(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.next()).collect()
    }
}

/// A device for every instruction set of this machine, the scalar one first; with one thread and with several.
pub fn devices() -> Vec<Device> {
    let with = |isa, threads| {
        Device::cpu(CpuOptions {
            threads,
            isa: Some(isa),
            ..CpuOptions::default()
        })
    };
    let isas = Isa::available();
    isas.iter()
        .map(|&isa| with(isa, 1))
        .chain(isas.iter().map(|&isa| with(isa, 3)))
        .collect()
}

/// A graphics processor, if this machine has one (imitated ones count), shared by all tests: with all that it offers,
/// and with nothing but what all have.
#[cfg(feature = "wgpu")]
pub fn gpus() -> Vec<Device> {
    static GPUS: std::sync::OnceLock<Vec<Device>> = std::sync::OnceLock::new();
    let open = |plain| {
        let options = turaco_compute::GpuOptions {
            software: true,
            plain,
            ..turaco_compute::GpuOptions::default()
        };
        Device::gpu(options)
            .inspect_err(|error| eprintln!("SKIPPED on graphics processors: {error}"))
            .ok()
    };
    GPUS.get_or_init(|| [false, true].into_iter().filter_map(open).collect())
        .clone()
}

/// Without the feature there is none.
#[cfg(not(feature = "wgpu"))]
pub fn gpus() -> Vec<Device> {
    Vec::new()
}

/// A card as the emulator imitates it, shared by all tests; where NVIDIA's driver is, its first card.
#[cfg(all(feature = "cuda", target_os = "linux", target_arch = "x86_64"))]
pub fn cards() -> Vec<Device> {
    static CARDS: std::sync::OnceLock<Vec<Device>> = std::sync::OnceLock::new();
    let open = || {
        if std::env::var_os("TURACO_TEST_CARD").is_none() {
            let library = turaco_cuda_emulator::library()?;
            let libraries = turaco_compute::cuda::Libraries {
                driver: library.clone(),
                compiler: library,
            };
            let emulator = turaco_cuda_emulator::Emulator::open(&libraries.driver).unwrap();
            let any = turaco_cuda_emulator::Order::Shuffled;
            emulator
                .behave(turaco_cuda_emulator::Behaviour::Order(any))
                .unwrap();
            assert!(libraries.use_them());
        }
        Some(Device::cuda(&turaco_compute::CudaOptions::default()).unwrap())
    };
    CARDS
        .get_or_init(|| {
            let card = open();
            if card.is_none() {
                eprintln!("SKIPPED on NVIDIA's cards: there is neither one nor a C++ compiler to imitate it with");
            }
            card.into_iter().collect()
        })
        .clone()
}

/// Elsewhere there is none.
#[cfg(not(all(feature = "cuda", target_os = "linux", target_arch = "x86_64")))]
pub fn cards() -> Vec<Device> {
    Vec::new()
}

/// [`devices`], graphics processors and cards.
pub fn all_devices() -> Vec<Device> {
    devices().into_iter().chain(gpus()).chain(cards()).collect()
}

/// Upload f32 values exactly.
pub fn matrix(device: &Device, rows: usize, cols: usize, values: &[f32]) -> Arc<Matrix> {
    matrix_of(device, (rows, cols), values, WeightType::F32)
}

/// Upload values as a type.
pub fn matrix_of(
    device: &Device,
    (rows, cols): (usize, usize),
    values: &[f32],
    weight_type: WeightType,
) -> Arc<Matrix> {
    let bytes: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    let source = HostMatrix {
        dtype: DType::F32,
        rows,
        cols,
        bytes: &bytes,
        row_scales: None,
        storage: None,
    };
    device.matrix(&[source], weight_type).unwrap()
}

/// Values agree to `tolerance` relative to the larger of 1 and the expected value.
#[track_caller]
pub fn assert_close(found: &[f32], expected: &[f32], tolerance: f32, case: &str) {
    assert_eq!(found.len(), expected.len(), "{case}: length");
    for (index, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let same = found == expected || (found.is_nan() && expected.is_nan());
        assert!(
            same || (found - expected).abs() <= tolerance * expected.abs().max(1.0),
            "{case}: value {index} is {found}, not {expected}"
        );
    }
}
