//! Files of random numbers that look like a model's: what the `random` modules of the models share.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use half::bf16;
use serde_json::{Value, json};

use crate::{Control, Error, Result};

/// How the values of a tensor are spread.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Spread {
    /// Around 0, so that a product of a row keeps the size of its input.
    Matrix,
    /// The same for so many inputs.
    Inputs(usize),
    /// Around this, a tenth of it.
    Around(f32),
    /// Around 0.
    Bias,
    /// 1 and more.
    Usage,
}

/// A tensor to write: its name, its shape, and how its values are spread.
pub(super) type RandomTensor = (String, Vec<usize>, Spread);

/// Creates the file `name` in `folder`.
///
/// # Errors
/// When the file system refuses, naming the file.
pub(super) fn write_file(
    folder: &Path,
    name: &str,
    content: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<()> {
    let path = folder.join(name);
    let write = || {
        let mut out = BufWriter::with_capacity(1 << 20, File::create(&path)?);
        content(&mut out)?;
        out.flush()
    };
    write().map_err(|source| Error::Io {
        action: "write",
        path: path.clone(),
        source,
    })
}

/// Creates the file `name` in `folder` with a JSON text.
///
/// # Errors
/// As [`write_file`].
pub(super) fn write_json(folder: &Path, name: &str, value: &Value) -> Result<()> {
    write_file(folder, name, |out| {
        serde_json::to_writer_pretty(out, value).map_err(io::Error::from)
    })
}

/// Creates the safetensors file `name` in `folder`: values that depend on `seed` alone, as bf16 or (`wide`) f32.
///
/// # Errors
/// As [`write_file`], or on cancellation.
pub(super) fn write_tensors(
    folder: &Path,
    name: &str,
    tensors: &[RandomTensor],
    wide: bool,
    seed: u64,
    control: &Control,
) -> Result<()> {
    let (dtype, bytes) = if wide { ("F32", 4) } else { ("BF16", 2) };
    let written = write_file(folder, name, |out| {
        let mut end = 0;
        let mut header = serde_json::Map::new();
        for (name, shape, _) in tensors {
            let begin = end;
            end += bytes * shape.iter().product::<usize>();
            header.insert(
                name.clone(),
                json!({"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}),
            );
        }
        let mut header = serde_json::to_vec(&header)?;
        header.resize(header.len().next_multiple_of(8), b' ');
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        let mut random = Random::new(seed);
        let mut done = 0;
        for (_, shape, kind) in tensors {
            control.check().map_err(io::Error::other)?;
            let len: usize = shape.iter().product();
            let width = len / shape[0].max(1);
            let (center, spread) = match *kind {
                Spread::Matrix => (0.0, 1.0 / (width as f32).sqrt()),
                Spread::Inputs(inputs) => (0.0, 1.0 / (inputs as f32).sqrt()),
                Spread::Around(center) => (center, 0.1 * center),
                Spread::Bias => (0.0, 0.02),
                Spread::Usage => (1.0, 1.0),
            };
            let positive = matches!(kind, Spread::Usage);
            for _ in 0..len {
                let noise = random.next();
                let noise = if positive { noise.abs() } else { noise };
                let value = center + spread * noise;
                if wide {
                    out.write_all(&value.to_le_bytes())?;
                } else {
                    out.write_all(&bf16::from_f32(value).to_le_bytes())?;
                }
            }
            done += bytes * len;
            control.report(done as f64, Some(end as f64));
        }
        Ok(())
    });
    // Of a file that was not finished, this is the reason.
    control.check()?;
    written
}

/// Control tokens of a Tekken vocabulary.
const N_SPECIAL: usize = 1000;

/// A `tekken.json` of bytes and made-up words, with these control tokens, for a model with `n_vocab` tokens; `audio` is its
/// section about audio.
pub(super) fn tekken_json(
    n_vocab: usize,
    special: &[(usize, &str)],
    (pattern, version): (&str, &str),
    audio: &Value,
) -> Value {
    let n_special = N_SPECIAL.min(n_vocab / 2);
    let vocab: Vec<_> = (0..n_vocab - n_special)
        .map(|rank| {
            let bytes = match u8::try_from(rank) {
                Ok(byte) => vec![byte],
                Err(_) => format!(" w{rank}").into_bytes(),
            };
            json!({"rank": rank, "token_bytes": STANDARD.encode(bytes), "token_str": null})
        })
        .collect();
    let special: Vec<_> = (0..n_special)
        .map(|rank| {
            let name = match special.iter().find(|(id, _)| *id == rank) {
                Some((_, name)) => (*name).to_owned(),
                None => format!("<SPECIAL_{rank}>"),
            };
            json!({"rank": rank, "token_str": name, "is_control": true})
        })
        .collect();
    json!({
        "config": {
            "pattern": pattern,
            "num_vocab_tokens": vocab.len(),
            "default_vocab_size": n_vocab,
            "default_num_special_tokens": n_special,
            "version": version,
        },
        "vocab": vocab,
        "special_tokens": special,
        "audio": audio,
    })
}

/// Sums of four uniform numbers: nearly normal, variance 1.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    fn next(&mut self) -> f32 {
        // Xorshift (Marsaglia 2003) with Vigna's multiplier.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bits = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d);
        let sum: u32 = (0..4)
            .map(|part| (bits >> (16 * part)) as u32 & 0xffff)
            .sum();
        // Four numbers of variance 1/12 each around 2.
        (sum as f32 / 65_536.0 - 2.0) * 3.0f32.sqrt()
    }
}
