//! Running the program in an empty home, and things for it to work on.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

/// A home without models, configuration or network.
pub struct Home {
    folder: TempDir,
}

/// What a run of the program left.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Home {
    pub fn new() -> Self {
        Self {
            folder: TempDir::new().unwrap(),
        }
    }

    /// A path in the home.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A file in the home.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    /// The program with these arguments, not started yet.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_turaco"));
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            let ours = [
                "TURACO_", "HF_", "XDG_", "CLICOLOR", "NO_COLOR", "RUST_LOG", "SSL_",
            ];
            if ours.iter().any(|prefix| text.starts_with(prefix)) || text.ends_with("_PROXY") {
                command.env_remove(&name);
            }
        }
        command
            .args(args)
            .current_dir(self.folder.path())
            .env("HOME", self.folder.path())
            .env("HF_HUB_CACHE", self.path("hub"))
            .env("HF_HUB_OFFLINE", "1")
            .env("COLUMNS", "100")
            .stdin(Stdio::null());
        command
    }

    /// Run the program with these arguments.
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Run {
        run(&mut self.command(args))
    }
}

/// Run to the end.
pub fn run(command: &mut Command) -> Run {
    command.output().unwrap().into()
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Run {
    /// It failed with `code`, said `words` on stderr and nothing on stdout.
    #[track_caller]
    pub fn fails(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
        assert!(self.stderr.starts_with("error: "), "{self:?}");
        for word in words {
            assert!(self.stderr.contains(word), "no {word:?} in {self:?}");
        }
    }

    /// It succeeded; its stdout.
    #[track_caller]
    pub fn succeeds(&self) -> &str {
        assert_eq!(self.code, 0, "{self:?}");
        &self.stdout
    }
}

/// 16 kHz mono WAV of `seconds` of a tone.
pub fn wav(seconds: f64) -> Vec<u8> {
    let samples: Vec<i16> = (0..(seconds * 16_000.0) as usize)
        .map(|index| ((index as f64 * 0.17).sin() * 8000.0) as i16)
        .collect();
    let data = samples.len() as u32 * 2;
    let mut bytes = Vec::new();
    bytes.extend_from_slice(b"RIFF");
    bytes.extend_from_slice(&(36 + data).to_le_bytes());
    bytes.extend_from_slice(b"WAVEfmt ");
    bytes.extend_from_slice(&16u32.to_le_bytes());
    for value in [1u16, 1] {
        bytes.extend_from_slice(&value.to_le_bytes());
    }
    bytes.extend_from_slice(&16_000u32.to_le_bytes());
    bytes.extend_from_slice(&32_000u32.to_le_bytes());
    for value in [2u16, 16] {
        bytes.extend_from_slice(&value.to_le_bytes());
    }
    bytes.extend_from_slice(b"data");
    bytes.extend_from_slice(&data.to_le_bytes());
    for sample in samples {
        bytes.extend_from_slice(&sample.to_le_bytes());
    }
    bytes
}

/// Real speech that comes with the repository.
pub fn speech() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/audio/jfk.wav")
}

/// Sizes of a model with random weights: small enough to be made for each run of the tests.
const WIDTH: usize = 16;
const MELS: usize = 80;
const AUDIO_POSITIONS: usize = 1500;
const TEXT_POSITIONS: usize = 448;

/// A multilingual Whisper model with random weights. What it says is nonsense, but always the same nonsense.
pub fn model() -> &'static Path {
    static MODEL: OnceLock<PathBuf> = OnceLock::new();
    MODEL.get_or_init(|| random_model("multilingual", 51_865))
}

/// An English one.
pub fn english_model() -> &'static Path {
    static MODEL: OnceLock<PathBuf> = OnceLock::new();
    MODEL.get_or_init(|| random_model("english", 51_864))
}

/// Options that keep the random models from talking without end.
pub const SHORT: [&str; 6] = [
    "--beam-size=1",
    "--temperature=0",
    "--temperature-increment-on-fallback=none",
    "--max-new-tokens=6",
    "--language=en",
    "--threads=1",
];

fn random_model(name: &str, n_vocab: usize) -> PathBuf {
    let folder =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let config = serde_json::json!({
        "model_type": "whisper",
        "num_mel_bins": MELS, "max_source_positions": AUDIO_POSITIONS, "max_target_positions": TEXT_POSITIONS,
        "d_model": WIDTH, "encoder_layers": 1, "decoder_layers": 1,
        "encoder_attention_heads": 2, "decoder_attention_heads": 2,
        "encoder_ffn_dim": 2 * WIDTH, "decoder_ffn_dim": 2 * WIDTH, "vocab_size": n_vocab,
        "activation_function": "gelu", "scale_embedding": false,
    });
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    fs::write(folder.join("model.safetensors"), safetensors(n_vocab)).unwrap();
    folder
}

fn safetensors(n_vocab: usize) -> Vec<u8> {
    let mut shapes: Vec<(String, Vec<usize>)> = vec![
        ("encoder.conv1.weight".into(), vec![WIDTH, MELS, 3]),
        ("encoder.conv1.bias".into(), vec![WIDTH]),
        ("encoder.conv2.weight".into(), vec![WIDTH, WIDTH, 3]),
        ("encoder.conv2.bias".into(), vec![WIDTH]),
        (
            "encoder.embed_positions.weight".into(),
            vec![AUDIO_POSITIONS, WIDTH],
        ),
        (
            "decoder.embed_positions.weight".into(),
            vec![TEXT_POSITIONS, WIDTH],
        ),
        ("decoder.embed_tokens.weight".into(), vec![n_vocab, WIDTH]),
    ];
    for (side, attentions) in [
        ("encoder", &["self_attn"][..]),
        ("decoder", &["self_attn", "encoder_attn"]),
    ] {
        let layer = format!("{side}.layers.0");
        for attention in attentions {
            for projection in ["q_proj", "k_proj", "v_proj", "out_proj"] {
                let name = format!("{layer}.{attention}.{projection}");
                shapes.push((format!("{name}.weight"), vec![WIDTH, WIDTH]));
                if projection != "k_proj" {
                    shapes.push((format!("{name}.bias"), vec![WIDTH]));
                }
            }
            for part in ["weight", "bias"] {
                shapes.push((
                    format!("{layer}.{attention}_layer_norm.{part}"),
                    vec![WIDTH],
                ));
            }
        }
        for (name, rows, cols) in [("fc1", 2 * WIDTH, WIDTH), ("fc2", WIDTH, 2 * WIDTH)] {
            shapes.push((format!("{layer}.{name}.weight"), vec![rows, cols]));
            shapes.push((format!("{layer}.{name}.bias"), vec![rows]));
        }
        for part in ["weight", "bias"] {
            shapes.push((format!("{layer}.final_layer_norm.{part}"), vec![WIDTH]));
            shapes.push((format!("{side}.layer_norm.{part}"), vec![WIDTH]));
        }
    }
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    let mut state = 1u64;
    for (name, shape) in shapes {
        let start = data.len();
        for _ in 0..shape.iter().product::<usize>() {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let value = ((state >> 40) as f32 / (1 << 24) as f32 - 0.5) * 0.4;
            data.extend_from_slice(&value.to_le_bytes());
        }
        header.insert(
            format!("model.{name}"),
            serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]}),
        );
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(&data);
    bytes
}

/// Whether this machine has a graphics processor, in software at least.
pub fn has_graphics() -> bool {
    let found = Home::new().run(["doctor"]).stdout.contains("\ngraphics ");
    if !found {
        eprintln!("SKIPPED: no graphics processor");
    }
    found
}
