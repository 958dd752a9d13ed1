//! Where test data and real weights are, and how to compare with them.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::Value;
use turaco::weights::Weights;
use turaco::{Audio, Control};

/// A file of `testdata/`.
pub fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../testdata")
        .join(name)
}

/// The larger reference set beside a developer's checkout; a user's clone has none.
pub fn shared(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared")
        .join(name);
    path.exists().then_some(path)
}

/// Real weights, from the cache or fetched as a user's first run would.
pub fn real_model(name: &'static str) -> PathBuf {
    static LOCK: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one_download_at_a_time = LOCK.lock().unwrap();
    turaco::hub::ensure(name, false, &Control::new(), &|notice| {
        eprintln!("{notice}")
    })
    .unwrap_or_else(|error| panic!("the tests need the weights of {name}: {error}"))
}

/// One of the clips that the goldens were made from, if this checkout has it.
pub fn clip(name: &str) -> Option<Audio> {
    let path = match name {
        "jfk" => testdata("audio/jfk.wav"),
        "test_speech" | "5s_dont_worry_about_him" => testdata(&format!("audio/{name}.wav")),
        _ => shared(&format!("audio/night1968/{name}.wav"))?,
    };
    Some(Audio::open(path).expect("test audio can be read"))
}

/// A JSON file of `testdata/`.
pub fn json(name: &str) -> Value {
    let path = testdata(name);
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).expect("test data is JSON")
}

/// The tensors of a golden file.
pub fn tensors(path: &Path) -> Weights {
    turaco::weights::safetensors::parse(path, &turaco::weights::Bytes::map(path).unwrap()).unwrap()
}

/// Fail with the name of the stage, the first difference and the largest one.
pub fn assert_close(stage: &str, actual: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(actual.len(), expected.len(), "{stage}: number of values");
    let differs = |(a, e): (&f32, &f32)| (a - e).abs() > tolerance || a.is_nan() != e.is_nan();
    let worst = actual
        .iter()
        .zip(expected)
        .map(|(a, e)| (a - e).abs())
        .fold(0.0f32, f32::max);
    if let Some(index) = actual.iter().zip(expected).position(differs) {
        panic!(
            "{stage}: value {index} is {} instead of {}; the largest difference is {worst} (tolerance {tolerance})",
            actual[index], expected[index]
        );
    }
    eprintln!("{stage}: largest difference {worst:.1e}");
}

/// A model that several tests use, loaded once.
pub fn loaded(name: &'static str) -> &'static turaco::Transcriber {
    static TINY_EN: OnceLock<turaco::Transcriber> = OnceLock::new();
    static BASE: OnceLock<turaco::Transcriber> = OnceLock::new();
    static TINY_RANDOM: OnceLock<turaco::Transcriber> = OnceLock::new();
    let load = |path: &Path| {
        let options = turaco::LoadOptions::new().compute_type(turaco::ComputeType::F32);
        turaco::Transcriber::load_path(path, &options, &Control::new()).expect("the model loads")
    };
    match name {
        "tiny.en" => TINY_EN.get_or_init(|| load(&real_model("tiny.en"))),
        "base" => BASE.get_or_init(|| load(&real_model("base"))),
        _ => TINY_RANDOM.get_or_init(|| load(&testdata("whisper/tiny-random"))),
    }
}

/// How much a test asks of an emulated card, which runs one thread after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// Seconds.
    Small,
    /// Minutes: only where `TURACO_TEST_CARD` is set, to `emulated` or, on a machine with a card, to anything else.
    Large,
}

/// Graphics processors, imitated ones too: one through Vulkan, Metal or DirectX, and one of NVIDIA's through CUDA.
pub fn graphics_processors(effort: Effort) -> Vec<turaco_compute::Device> {
    #[cfg_attr(not(any(feature = "wgpu", feature = "cuda")), allow(unused_mut))]
    let mut found = Vec::new();
    #[cfg(feature = "wgpu")]
    {
        let options = turaco_compute::GpuOptions {
            software: true,
            ..turaco_compute::GpuOptions::default()
        };
        match turaco_compute::Device::gpu(options) {
            Ok(gpu) => found.push(gpu),
            Err(error) => eprintln!("SKIPPED on graphics processors: {error}"),
        }
    }
    #[cfg(not(feature = "cuda"))]
    let _ = effort;
    #[cfg(feature = "cuda")]
    if has_card(effort) {
        let options = turaco_compute::CudaOptions::default();
        found.push(turaco_compute::Device::cuda(&options).expect("the card opens"));
    }
    found
}

/// Whether `cuda` is a device here: a card where `TURACO_TEST_CARD` says that there is one, else an emulated one.
#[cfg(feature = "cuda")]
pub fn has_card(effort: Effort) -> bool {
    let asked_for = std::env::var_os("TURACO_TEST_CARD");
    if asked_for.as_ref().is_some_and(|card| card != "emulated") {
        return true;
    }
    if asked_for.is_none() && effort == Effort::Large {
        eprintln!(
            "SKIPPED on an emulated card, as it takes minutes: TURACO_TEST_CARD=emulated does it"
        );
        return false;
    }
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    if let Some(library) = turaco_cuda_emulator::library() {
        let libraries = turaco_compute::cuda::Libraries {
            driver: library.clone(),
            compiler: library,
        };
        return libraries.use_them();
    }
    eprintln!(
        "SKIPPED on NVIDIA's cards: there is neither one nor a C++ compiler to imitate it with"
    );
    false
}

/// A model on an emulated card, if there is one.
#[cfg(feature = "cuda")]
pub fn loaded_on_card(path: &Path) -> Option<turaco::Transcriber> {
    let options = turaco::LoadOptions::new()
        .compute_type(turaco::ComputeType::F32)
        .device("cuda");
    has_card(Effort::Large).then(|| {
        turaco::Transcriber::load_path(path, &options, &Control::new()).expect("the model loads")
    })
}

/// A model on a graphics processor, if there is one (an imitated one will do).
#[cfg(feature = "wgpu")]
pub fn loaded_on_gpu(path: &Path) -> Option<turaco::Transcriber> {
    let options = turaco::LoadOptions::new()
        .compute_type(turaco::ComputeType::F32)
        .device("wgpu");
    match turaco::Transcriber::load_path(path, &options, &Control::new()) {
        Ok(transcriber) => {
            let plain = std::env::var_os("TURACO_GPU_PLAIN").is_some();
            let device = transcriber.device_description();
            assert_eq!(device.contains(", plain"), plain, "{device}");
            Some(transcriber)
        }
        Err(turaco::Error::Compute(error)) => {
            eprintln!("SKIPPED on graphics processors: {error}");
            None
        }
        Err(error) => panic!("the model loads: {error}"),
    }
}
