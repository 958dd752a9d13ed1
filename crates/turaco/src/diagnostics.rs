//! What this machine has, and whether it computes right; what `turaco doctor` shows.

use std::sync::Arc;

use turaco_compute::cpu::physical_cores;
use turaco_compute::{
    Bindings, CpuOptions, DType, Device, Epilogue, HostMatrix, Isa, StepBuilder, WeightType,
};

use crate::asr::VadOptions;
use crate::asr::vad::speech_timestamps;
use crate::features::{LogMel, MelFilterBank, N_FFT, SAMPLE_RATE};
use crate::{Audio, Result};

/// The processor and what is used of it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Machine {
    /// Operating system.
    pub os: &'static str,
    /// Architecture.
    pub arch: &'static str,
    /// Instruction set extensions that matter for speed, as the processor reports them.
    pub cpu_features: Vec<&'static str>,
    /// Tiers of kernels that can run here, slowest first.
    pub kernels: Vec<&'static str>,
    /// The tier that runs.
    pub chosen_kernels: &'static str,
    /// Cores that this process may use.
    pub physical_cores: usize,
    /// The processor as a device, for people.
    pub device: String,
    /// NVIDIA's cards as CUDA shows them, then all graphics processors, for people; the first of those is what `--device wgpu` is.
    pub graphics: Vec<String>,
}

impl Machine {
    /// Look at this machine.
    pub fn detect() -> Self {
        Self {
            os: std::env::consts::OS,
            arch: std::env::consts::ARCH,
            cpu_features: cpu_features(),
            kernels: Isa::available().into_iter().map(Isa::name).collect(),
            chosen_kernels: Isa::best().name(),
            physical_cores: physical_cores(),
            device: Device::cpu(CpuOptions::default()).description(),
            graphics: graphics(),
        }
    }
}

fn graphics() -> Vec<String> {
    cards().into_iter().chain(adapters()).collect()
}

#[cfg(feature = "cuda")]
fn cards() -> Vec<String> {
    let describe = |card: turaco_compute::cuda::CardSummary| {
        format!(
            "cuda {} (compute capability {}.{}; {} multiprocessors; {} MiB)",
            card.name,
            card.capability / 10,
            card.capability % 10,
            card.multiprocessors,
            card.memory >> 20
        )
    };
    turaco_compute::cuda::cards()
        .into_iter()
        .map(describe)
        .collect()
}

#[cfg(not(feature = "cuda"))]
fn cards() -> Vec<String> {
    Vec::new()
}

#[cfg(feature = "wgpu")]
fn adapters() -> Vec<String> {
    let describe = |adapter: turaco_compute::gpu::AdapterSummary| {
        let kind = match (adapter.software, adapter.own_memory) {
            (true, _) => "imitated in software",
            (false, true) => "memory of its own",
            (false, false) => "shares the processor's memory",
        };
        format!(
            "{} {} ({}; {kind}; buffers up to {} MiB; {})",
            adapter.interface.name(),
            adapter.name,
            adapter.driver,
            adapter.max_binding >> 20,
            adapter.features.join(", ")
        )
    };
    let adapters = turaco_compute::gpu::adapters();
    adapters.into_iter().map(describe).collect()
}

#[cfg(not(feature = "wgpu"))]
fn adapters() -> Vec<String> {
    Vec::new()
}

/// What a graphics processor runs, and whether it computes right.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct GraphicsTest {
    /// Its name.
    pub adapter: String,
    /// What it does, and the kernel that does it: its variant and sizes.
    pub kernels: Vec<(&'static str, String)>,
    /// What came of keeping compiled shaders, so that they are not compiled again, where they are kept in a file.
    pub kept: Option<String>,
    /// Every operation compared with the processor.
    pub check: Check,
}

/// Compare every operation on every graphics processor with the processor; imitated ones only where there is no other.
/// Takes a few seconds where shaders or kernels have to be compiled.
pub fn graphics_self_test() -> Vec<GraphicsTest> {
    test_cards().into_iter().chain(test_adapters()).collect()
}

#[cfg(feature = "cuda")]
fn test_cards() -> Vec<GraphicsTest> {
    let cards = turaco_compute::cuda::cards().into_iter().enumerate();
    let test = |(index, card): (usize, turaco_compute::cuda::CardSummary)| {
        let options = turaco_compute::CudaOptions {
            index: Some(index),
            kernel_cache: crate::load::kernel_cache(),
            ..turaco_compute::CudaOptions::default()
        };
        graphics_test(Device::cuda(&options), format!("cuda {}", card.name))
    };
    cards.map(test).collect()
}

#[cfg(not(feature = "cuda"))]
fn test_cards() -> Vec<GraphicsTest> {
    Vec::new()
}

#[cfg(feature = "wgpu")]
fn test_adapters() -> Vec<GraphicsTest> {
    let adapters = turaco_compute::gpu::adapters();
    let real = adapters.iter().any(|adapter| !adapter.software);
    let tested = adapters.iter().enumerate();
    tested
        .filter(|(index, adapter)| !adapter.software || (!real && *index == 0))
        .map(|(index, adapter)| {
            let options = turaco_compute::GpuOptions {
                index: Some(index),
                shader_cache: crate::load::kernel_cache(),
                ..turaco_compute::GpuOptions::default()
            };
            graphics_test(Device::gpu(options), adapter.name.clone())
        })
        .collect()
}

#[cfg(not(feature = "wgpu"))]
fn test_adapters() -> Vec<GraphicsTest> {
    Vec::new()
}

#[cfg(any(feature = "cuda", feature = "wgpu"))]
fn graphics_test(opened: turaco_compute::Result<Device>, name: String) -> GraphicsTest {
    match opened {
        Ok(device) => GraphicsTest {
            kernels: (device.kernels().into_iter())
                .map(|choice| (choice.operation, choice.kernel))
                .collect(),
            check: every_operation(&device, &name),
            kept: device.keep_kernels().map(|kept| described(&kept)),
            adapter: name,
        },
        Err(error) => GraphicsTest {
            adapter: name,
            kernels: Vec::new(),
            kept: None,
            check: Check {
                name: GRAPHICS,
                passed: false,
                detail: error.to_string(),
            },
        },
    }
}

/// What came of keeping compiled shaders, for people.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
fn described(kept: &turaco_compute::KeptKernels) -> String {
    let made = kept.made;
    let Some(file) = kept.file.as_ref().map(|file| file.display()) else {
        return format!("{made} made; keeping them is left to the driver");
    };
    let found = match kept.compiled {
        Some(0) => format!("all {made} came from {file}"),
        Some(compiled) => format!("{compiled} of {made} compiled, the others came from {file}"),
        None => {
            format!("{made} made; the driver keeps none in {file}, at most in a cache of its own")
        }
    };
    match &kept.failure {
        Some(failure) => format!("{found}, which cannot be written: {failure}"),
        None => found,
    }
}

#[cfg(any(feature = "cuda", feature = "wgpu"))]
const GRAPHICS: &str = "graphics operations";

#[cfg(any(feature = "cuda", feature = "wgpu"))]
fn every_operation(device: &Device, name: &str) -> Check {
    let comparisons =
        turaco_compute::self_test::compare(device, &Device::cpu(CpuOptions::default()));
    let mut failed: Vec<String> = Vec::new();
    let mut last_error = String::new();
    for comparison in comparisons.iter().filter(|comparison| !comparison.passed()) {
        let operation = comparison.operation;
        match &comparison.difference {
            Ok(difference) => failed.push(format!("{operation} differs by {difference:.1e}")),
            Err(error) => {
                // A device that is lost says the same to all that follow.
                let error = error.to_string();
                if error != last_error {
                    failed.push(format!("{operation}: {error}"));
                }
                last_error = error;
            }
        }
    }
    Check {
        name: GRAPHICS,
        passed: failed.is_empty(),
        detail: if failed.is_empty() {
            format!("{} on {name} agree with the processor", comparisons.len())
        } else {
            format!("on {name}: {}", failed.join("; "))
        },
    }
}

/// Compile the kernels for NVIDIA's cards of a compute capability (90 for 9.0) into the folder where they are looked for; returns how
/// many files that were, and the folder. No card is needed for it, only NVRTC.
///
/// # Errors
/// No NVRTC, or a capability that it does not know; a build without CUDA.
#[cfg(feature = "cuda")]
pub fn compile_ahead(capability: u32) -> crate::Result<(usize, std::path::PathBuf)> {
    let Some(folder) = crate::load::kernel_cache() else {
        return Err(crate::Error::Compute(turaco_compute::Error::Unsupported {
            what: "keeping kernels".into(),
            reason: "there is no home folder; set XDG_CACHE_HOME".into(),
        }));
    };
    let count = {
        use turaco_compute::cuda::{KernelSet, compile_ahead};
        compile_ahead(KernelSet::Common, capability, &folder, &|_, _| ())?
    };
    Ok((count, folder))
}

/// This build knows no CUDA.
///
/// # Errors
/// Always.
#[cfg(not(feature = "cuda"))]
pub fn compile_ahead(_: u32) -> crate::Result<(usize, std::path::PathBuf)> {
    Err(crate::Error::Compute(turaco_compute::Error::Unsupported {
        what: "compiling kernels".into(),
        reason: "this build was made without the feature `cuda`".into(),
    }))
}

/// The processor's name, as far as the system tells; else its architecture.
pub fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == "model name").then(|| value.trim().to_owned())
    });
    name.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// One part of the self test.
#[derive(Debug, Clone, PartialEq)]
pub struct Check {
    /// What was tried.
    pub name: &'static str,
    /// Whether it came out right.
    pub passed: bool,
    /// What came out.
    pub detail: String,
}

/// Compare the kernels that run here with the plain ones, and see that features and voice activity detection give what
/// they must. Takes well under a second.
pub fn self_test() -> Vec<Check> {
    [
        // Largest difference relative to the largest value: rounding order, 8 bits of mantissa, 7 bits of integers.
        ("linear f32", linear(WeightType::F32, 1e-5)),
        ("linear bf16", linear(WeightType::Bf16, 2e-2)),
        ("linear int8", linear(WeightType::Int8, 3e-2)),
        ("linear q8", linear(WeightType::Q8, 3e-2)),
        ("linear q4", linear(WeightType::Q4, 2e-1)),
        ("log-mel of a tone", log_mel()),
        ("no speech in silence", silence()),
    ]
    .into_iter()
    .map(|(name, outcome)| match outcome {
        Ok((passed, detail)) => Check {
            name,
            passed,
            detail,
        },
        Err(error) => Check {
            name,
            passed: false,
            detail: error.to_string(),
        },
    })
    .collect()
}

/// A linear map by the fastest kernels and by the plain ones in f32.
fn linear(weight_type: WeightType, tolerance: f32) -> Result<(bool, String)> {
    // Odd sizes, so that tails are computed too.
    let (rows, inputs, outputs) = (5, 131, 97);
    let x = noise(rows * inputs, 1);
    let weights = noise(outputs * inputs, 2);
    let run = |isa: Isa, weight_type: WeightType| -> Result<Vec<f32>> {
        let device = Device::cpu(CpuOptions {
            isa: Some(isa),
            ..CpuOptions::default()
        });
        let bytes: Vec<u8> = weights.iter().flat_map(|w| w.to_le_bytes()).collect();
        let source = HostMatrix {
            dtype: DType::F32,
            rows: outputs,
            cols: inputs,
            bytes: &bytes,
            row_scales: None,
            storage: None,
        };
        let matrix = Arc::new(device.matrix(&[source], weight_type)?);
        let mut step = StepBuilder::new(&device);
        let input = step.input(rows, inputs);
        let output = step.linear(input, &matrix, Epilogue::default())?;
        step.output(output);
        let mut step = step.finish()?;
        step.run(&mut Bindings {
            inputs: &[&x],
            ids: &[],
            slots: &mut [],
        })?;
        Ok(step.output(0)?.to_vec())
    };
    let plain = run(Isa::Scalar, WeightType::F32)?;
    let fast = run(Isa::best(), weight_type)?;
    let largest = plain.iter().fold(0.0f32, |max, value| max.max(value.abs()));
    let difference = plain
        .iter()
        .zip(&fast)
        .map(|(a, b)| (a - b).abs())
        // NaN counts as a difference.
        .fold(0.0f32, |max, d| if d <= max { max } else { d });
    let relative = difference / largest;
    Ok((
        relative <= tolerance,
        format!("relative difference {relative:.1e}, allowed {tolerance:.0e}"),
    ))
}

/// The loudest band of a tone holds the tone.
fn log_mel() -> Result<(bool, String)> {
    let frequency = 1000.0;
    let samples: Vec<f32> = (0..16_000)
        .map(|n| (n as f64 * frequency * std::f64::consts::TAU / 16_000.0).sin() as f32 * 0.5)
        .collect();
    let log_mel = LogMel::new(80);
    let mel = log_mel.compute(&samples, 0);
    let frame = mel.n_frames / 2;
    let loudest = (0..mel.n_mels)
        .max_by(|&a, &b| mel.row(a)[frame].total_cmp(&mel.row(b)[frame]))
        .unwrap_or(0);
    let bank = MelFilterBank::new(SAMPLE_RATE, N_FFT, 80, 0.0, 8000.0);
    let (first, weights) = bank.band(loudest);
    let bin = (frequency * N_FFT as f64 / f64::from(SAMPLE_RATE)).round() as usize;
    let holds = (first..first + weights.len()).contains(&bin);
    let finite = mel.data.iter().all(|value| value.is_finite());
    Ok((holds && finite, format!("loudest band {loudest}")))
}

fn silence() -> Result<(bool, String)> {
    let audio = Audio::from_samples(vec![0.0; 16_000], 16_000)?;
    let spans = speech_timestamps(&audio, &VadOptions::default(), &crate::Control::new())?;
    Ok((spans.is_empty(), format!("{} spans found", spans.len())))
}

/// Numbers between -0.5 and 0.5 that are the same everywhere.
fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    (0..len)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u32 << 24) as f32 - 0.5
        })
        .collect()
}

#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
fn cpu_features() -> Vec<&'static str> {
    let mut found = Vec::new();
    macro_rules! look_for {
        ($($name:tt),*) => { $(if std::arch::is_x86_feature_detected!($name) { found.push($name); })* };
    }
    look_for!(
        "sse4.2",
        "avx",
        "avx2",
        "fma",
        "f16c",
        "avxvnni",
        "avx512f",
        "avx512bw",
        "avx512vl",
        "avx512dq",
        "avx512vnni",
        "avx512bf16",
        "avx512fp16"
    );
    found
}

#[cfg(target_arch = "aarch64")]
fn cpu_features() -> Vec<&'static str> {
    let mut found = Vec::new();
    macro_rules! look_for {
        ($($name:tt),*) => { $(if std::arch::is_aarch64_feature_detected!($name) { found.push($name); })* };
    }
    look_for!("neon", "fp16", "dotprod", "i8mm", "bf16", "sve");
    found
}

#[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
fn cpu_features() -> Vec<&'static str> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_computes_right() {
        let graphics = graphics_self_test().into_iter().map(|test| test.check);
        for check in self_test().into_iter().chain(graphics) {
            assert!(check.passed, "{check:?}");
        }
    }

    #[cfg(feature = "wgpu")]
    #[test]
    fn it_is_said_which_shaders_were_compiled() {
        let kept = |file: Option<&str>, compiled, failure: Option<&str>| {
            described(&turaco_compute::KeptKernels {
                file: file.map(Into::into),
                made: 57,
                compiled,
                failure: failure.map(str::to_owned),
            })
        };
        let file = Some("cache/x.shaders");
        assert!(kept(None, None, None).contains("57 made; keeping them is left to the driver"));
        assert_eq!(
            kept(file, Some(0), None),
            "all 57 came from cache/x.shaders"
        );
        assert!(kept(file, Some(3), None).starts_with("3 of 57 compiled"));
        assert!(kept(file, None, None).contains("keeps none in cache/x.shaders"));
        let failed = kept(file, Some(57), Some("no space"));
        assert!(
            failed.ends_with("which cannot be written: no space"),
            "{failed}"
        );
    }

    #[test]
    fn the_chosen_kernels_are_the_last_of_those_that_run() {
        let machine = Machine::detect();
        assert_eq!(machine.kernels.last(), Some(&machine.chosen_kernels));
        assert_eq!(machine.kernels[0], "scalar");
    }
}
