//! Reading weight files: which format, which tensors.
//!
//! [`detect::open`] looks at the content of a file or folder and hands it to the reader of its format; all readers
//! give [`Weights`], a map from the names *in the file* to [`Tensor`]s that still lie in the mapped file. Renaming to
//! the names that the models use is done per model (for example [`crate::models::whisper::names`]).
//!
//! Weight files are untrusted: every reader checks lengths, offsets and counts before using them, allocates nothing
//! whose size it has not compared with the file's, and says file, tensor and byte offset when something is wrong.

pub mod apr;
pub mod ct2;
mod cursor;
pub mod detect;
mod finite;
pub mod ggml;
pub mod new_folder;
mod pickle;
pub mod safetensors;
pub mod torch;
mod zip;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use turaco_compute::{HostMatrix, quant};

pub use turaco_compute::{Bytes, DType, WeightType};

pub use detect::{Checkpoint, Extras, Format, Sidecars, open};

use turaco_compute::cpu::packed::{panels_len, stored_values};

use crate::{Error, Result};

/// A stored tensor: row-major, little endian, possibly block-quantised along the last axis.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// How `bytes` are to be read.
    pub dtype: DType,
    /// Sizes, slowest axis first. A scalar has none.
    pub shape: Vec<usize>,
    /// Exactly `dtype.bytes_for(product of shape)` bytes (for panels what their matrix takes), without any alignment.
    pub bytes: Bytes,
    /// For integer types: what each row (index of the first axis) is MULTIPLIED by. One per row, one for a scalar.
    pub row_scales: Option<Arc<[f32]>>,
}

impl Tensor {
    /// A tensor over `bytes`, whose length has to fit.
    ///
    /// Errors are texts that say what does not fit, for the caller to put into context.
    pub fn new(dtype: DType, shape: Vec<usize>, bytes: Bytes) -> std::result::Result<Self, String> {
        let expected = byte_len(dtype, &shape)?;
        if expected != bytes.len() {
            return Err(format!(
                "{dtype} {} takes {expected} bytes, found {}",
                shape_text(&shape),
                bytes.len()
            ));
        }
        Ok(Self {
            dtype,
            shape,
            bytes,
            row_scales: None,
        })
    }

    /// A tensor of `values` in memory.
    ///
    /// # Panics
    /// When `shape` does not hold as many values.
    #[must_use]
    pub fn from_f32(shape: &[usize], values: &[f32]) -> Self {
        assert_eq!(shape.iter().product::<usize>(), values.len());
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        Self {
            dtype: DType::F32,
            shape: shape.to_vec(),
            bytes: bytes.into(),
            row_scales: None,
        }
    }

    /// How many values.
    #[must_use]
    pub fn len(&self) -> usize {
        // Cannot overflow: `bytes` of that size exist.
        self.shape.iter().product()
    }

    /// Whether there are no values.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Size of the first axis; 1 for a scalar.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// The tensor as a matrix for a device: all axes after the first are columns.
    #[must_use]
    pub fn matrix(&self) -> HostMatrix<'_> {
        let rows = self.n_rows();
        HostMatrix {
            dtype: self.dtype,
            rows,
            cols: self.len() / rows.max(1),
            bytes: &self.bytes,
            row_scales: self.row_scales.as_deref(),
            storage: Some(&self.bytes),
        }
    }

    /// All values as `f32`, scales applied: the reference that packed weights are compared with.
    ///
    /// # Panics
    /// When the fields contradict each other, which no reader's do.
    #[must_use]
    pub fn to_f32(&self) -> Vec<f32> {
        if let (DType::Panels(packed), &[rows, cols]) = (self.dtype, self.shape.as_slice()) {
            return stored_values(packed, rows, cols, &self.bytes)
                .expect("shape and bytes of a tensor fit each other");
        }
        let mut values = vec![0.0; self.len()];
        quant::dequantize(self.dtype, &self.bytes, &mut values)
            .expect("shape and bytes of a tensor fit each other");
        if let Some(scales) = &self.row_scales {
            let row_len = self.len() / scales.len().max(1);
            if row_len > 0 {
                for (row, scale) in values.chunks_exact_mut(row_len).zip(scales.iter()) {
                    for value in row {
                        *value *= scale;
                    }
                }
            }
        }
        values
    }

    /// Rows `range` of the first axis, without copying values; `None` when the range is outside or the rows are not whole
    /// blocks.
    #[must_use]
    pub fn rows(&self, range: Range<usize>) -> Option<Self> {
        let n_rows = *self.shape.first()?;
        if range.start > range.end || range.end > n_rows {
            return None;
        }
        let row_len: usize = self.shape[1..].iter().product();
        let row_bytes = self.dtype.bytes_for(row_len)?;
        let mut shape = self.shape.clone();
        shape[0] = range.len();
        Some(Self {
            dtype: self.dtype,
            shape,
            bytes: self
                .bytes
                .get(range.start * row_bytes..range.end * row_bytes)?,
            row_scales: match &self.row_scales {
                Some(scales) => Some(scales.get(range)?.into()),
                None => None,
            },
        })
    }

    /// The same values in another shape; `None` when it holds another number of values, or when there are row scales and
    /// the first axis changes.
    #[must_use]
    pub fn reshape(&self, shape: &[usize]) -> Option<Self> {
        let len = shape
            .iter()
            .try_fold(1usize, |product, &size| product.checked_mul(size))?;
        let whole = matches!(self.dtype, DType::Panels(_)) && *shape != self.shape;
        let rows_change = self.row_scales.is_some() && shape.first() != self.shape.first();
        let row_is_blocks = shape
            .last()
            .copied()
            .unwrap_or(1)
            .is_multiple_of(self.dtype.block_len());
        if len != self.len() || whole || rows_change || !row_is_blocks {
            return None;
        }
        Some(Self {
            shape: shape.to_vec(),
            ..self.clone()
        })
    }

    /// Whether every value (for integer types: every scale) is a finite number. Panels count as finite: the device looks
    /// at them when it takes them, so that a mapped file is not read twice.
    #[must_use]
    pub fn is_finite(&self) -> bool {
        finite::is_finite(self.dtype, &self.bytes)
            && self
                .row_scales
                .as_ref()
                .is_none_or(|scales| scales.iter().all(|scale| scale.is_finite()))
    }
}

/// Tensors by their name in the file.
#[derive(Debug, Clone, Default)]
pub struct Weights {
    path: PathBuf,
    tensors: BTreeMap<String, Tensor>,
}

impl Weights {
    /// No tensors yet, from `path` (the file or folder that messages name).
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_path_buf(),
            tensors: BTreeMap::new(),
        }
    }

    /// Adds a tensor.
    ///
    /// # Errors
    /// When the name exists already.
    pub fn insert(&mut self, name: String, tensor: Tensor) -> Result<()> {
        match self.tensors.entry(name) {
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(tensor);
                Ok(())
            }
            std::collections::btree_map::Entry::Occupied(entry) => Err(invalid(
                &self.path,
                format!("tensor `{}` occurs twice", entry.key()),
            )),
        }
    }

    /// The file or folder that the tensors came from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// All tensors with their names, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// How many tensors.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there are no tensors.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// The tensor of that name, whatever its shape.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// The tensor of that name and shape. Clones share the bytes.
    ///
    /// # Errors
    /// Names the tensor; if it is missing, also the most similar names, else the expected and the found shape.
    pub fn get(&self, name: &str, expected_shape: &[usize]) -> Result<Tensor> {
        let tensor = self.require(name)?;
        if tensor.shape != expected_shape {
            return Err(invalid(
                &self.path,
                format!(
                    "tensor `{name}` has shape {}, expected {}",
                    shape_text(&tensor.shape),
                    shape_text(expected_shape)
                ),
            ));
        }
        Ok(tensor.clone())
    }

    /// The tensor of that name.
    ///
    /// # Errors
    /// Names the missing tensor and the most similar names that exist.
    pub fn require(&self, name: &str) -> Result<&Tensor> {
        self.find(name).ok_or_else(|| {
            let near = similar_names(name, self.names());
            let near = if near.is_empty() {
                "the file has no tensors".to_owned()
            } else {
                format!("similar: `{}`", near.join("`, `"))
            };
            invalid(&self.path, format!("tensor `{name}` is missing ({near})"))
        })
    }

    /// A view that puts `prefix` and a dot before every name it is asked for.
    #[must_use]
    pub fn prefix(&self, prefix: &str) -> Prefixed<'_> {
        Prefixed {
            weights: self,
            prefix: prefix.to_owned(),
        }
    }
}

/// [`Weights`] below a prefix, so that loading code mirrors the tree of the checkpoint.
#[derive(Debug, Clone)]
pub struct Prefixed<'a> {
    weights: &'a Weights,
    prefix: String,
}

impl<'a> Prefixed<'a> {
    /// The tensor `<prefix>.<name>` with that shape; errors as [`Weights::get`].
    pub fn get(&self, name: &str, expected_shape: &[usize]) -> Result<Tensor> {
        self.weights.get(&self.name_of(name), expected_shape)
    }

    /// Whether `<prefix>.<name>` exists.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.weights.find(&self.name_of(name)).is_some()
    }

    /// A view one level further down.
    #[must_use]
    pub fn prefix(&self, prefix: &str) -> Prefixed<'a> {
        Prefixed {
            weights: self.weights,
            prefix: self.name_of(prefix),
        }
    }

    /// The whole name of `name` in here.
    #[must_use]
    pub fn name_of(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }
}

/// Error about the content of a model file.
pub(crate) fn invalid(path: &Path, message: impl Into<String>) -> Error {
    Error::Model {
        path: path.to_path_buf(),
        message: message.into(),
    }
}

/// Error of the system while reading a model file.
pub(crate) fn unreadable(path: &Path, source: std::io::Error) -> Error {
    Error::Io {
        action: "read",
        path: path.to_path_buf(),
        source,
    }
}

/// Maps a model file.
pub(crate) fn map(path: &Path) -> Result<Bytes> {
    Bytes::map(path).map_err(|source| unreadable(path, source))
}

/// Bytes of a tensor of that type and shape; a text when that overflows or a row is no whole number of blocks.
pub(crate) fn byte_len(dtype: DType, shape: &[usize]) -> std::result::Result<usize, String> {
    let row_len = shape.last().copied().unwrap_or(1);
    if !row_len.is_multiple_of(dtype.block_len()) {
        return Err(format!(
            "rows of {row_len} values are no whole number of {dtype} blocks of {}",
            dtype.block_len()
        ));
    }
    if let DType::Panels(packed) = dtype {
        let &[rows, cols] = shape else {
            return Err(format!("panels of shape {}", shape_text(shape)));
        };
        return panels_len(packed, rows, cols)
            .filter(|_| rows.checked_mul(cols).is_some_and(|len| len > 0))
            .ok_or_else(|| format!("shape {} is too large", shape_text(shape)));
    }
    shape
        .iter()
        .try_fold(1usize, |product, &size| product.checked_mul(size))
        .and_then(|len| dtype.bytes_for(len))
        .filter(|&len| isize::try_from(len).is_ok())
        .ok_or_else(|| format!("shape {} is too large", shape_text(shape)))
}

/// `[384, 80, 3]`.
pub(crate) fn shape_text(shape: &[usize]) -> String {
    format!("{shape:?}")
}

/// At most three names that share the most with `name`: first by common ending and beginning, then in order.
fn similar_names<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let common = |a: &mut dyn Iterator<Item = u8>, b: &mut dyn Iterator<Item = u8>| {
        a.zip(b).take_while(|(a, b)| a == b).count()
    };
    let mut scored: Vec<(usize, &str)> = names
        .map(|other| {
            let head = common(&mut name.bytes(), &mut other.bytes());
            let tail = common(&mut name.bytes().rev(), &mut other.bytes().rev());
            (head.saturating_add(tail), other)
        })
        .collect();
    scored.sort_by_key(|&(score, _)| std::cmp::Reverse(score));
    scored
        .into_iter()
        .take(3)
        .map(|(_, other)| printable(other))
        .collect()
}

/// A name from a file, fit for a one-line message: control characters escaped, at most 120 characters.
pub(crate) fn printable(name: &str) -> String {
    let mut text: String = name
        .chars()
        .take(120)
        .flat_map(|c| {
            if c.is_control() {
                c.escape_default().collect::<Vec<_>>()
            } else {
                vec![c]
            }
        })
        .collect();
    if name.chars().nth(120).is_some() {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights() -> Weights {
        let mut weights = Weights::new(Path::new("some/model.safetensors"));
        for (name, shape) in [
            ("encoder.conv1.weight", vec![2, 3]),
            ("decoder.conv1.weight", vec![6]),
            ("x", vec![]),
        ] {
            let len = shape.iter().product();
            weights
                .insert(name.into(), Tensor::from_f32(&shape, &vec![1.5; len]))
                .unwrap();
        }
        weights
    }

    #[test]
    fn get_names_file_tensor_and_shapes() {
        let weights = weights();
        assert_eq!(
            weights.get("encoder.conv1.weight", &[2, 3]).unwrap().len(),
            6
        );
        let message = weights
            .get("encoder.conv1.weight", &[3, 2])
            .unwrap_err()
            .to_string();
        assert_eq!(
            message,
            "tensor `encoder.conv1.weight` has shape [2, 3], expected [3, 2] [some/model.safetensors]"
        );
        let message = weights
            .prefix("encoder")
            .prefix("conv2")
            .get("weight", &[1])
            .unwrap_err()
            .to_string();
        assert!(
            message.starts_with(
                "tensor `encoder.conv2.weight` is missing (similar: `encoder.conv1.weight`"
            ),
            "{message}"
        );
        assert!(weights.prefix("encoder").contains("conv1.weight"));
    }

    #[test]
    fn duplicate_names_are_errors() {
        let mut weights = weights();
        let message = weights
            .insert("x".into(), Tensor::from_f32(&[], &[0.0]))
            .unwrap_err()
            .to_string();
        assert!(message.contains("`x` occurs twice"), "{message}");
    }

    #[test]
    fn rows_and_scales_go_together() {
        let tensor = Tensor {
            dtype: DType::I8,
            shape: vec![3, 2],
            bytes: vec![1, 2, 3, 4, 0xff, 6].into(),
            row_scales: Some([0.5, 2.0, 10.0].into()),
        };
        assert_eq!(tensor.to_f32(), [0.5, 1.0, 6.0, 8.0, -10.0, 60.0]);
        let rows = tensor.rows(1..3).unwrap();
        assert_eq!(rows.shape, [2, 2]);
        assert_eq!(rows.to_f32(), [6.0, 8.0, -10.0, 60.0]);
        assert!(tensor.rows(2..4).is_none());
        assert!(tensor.reshape(&[2, 3]).is_none());
        assert_eq!(tensor.reshape(&[3, 1, 2]).unwrap().len(), 6);
    }

    #[test]
    fn impossible_sizes_are_texts() {
        assert!(byte_len(DType::F32, &[1 << 40, 1 << 40]).is_err());
        assert!(byte_len(DType::F32, &[1 << 62]).is_err());
        assert!(byte_len(DType::Q8_0, &[2, 31]).is_err());
        assert!(byte_len(DType::Q8_0, &[32, 2]).is_err());
        assert_eq!(byte_len(DType::Q8_0, &[2, 64]), Ok(136));
        assert_eq!(byte_len(DType::F32, &[]), Ok(4));
        assert!(Tensor::new(DType::F32, vec![2], vec![0; 7].into()).is_err());
    }

    #[test]
    fn not_a_number_is_found_in_every_float_type() {
        for (dtype, bytes) in [
            (DType::F32, f32::NAN.to_le_bytes().to_vec()),
            (DType::F64, f64::INFINITY.to_le_bytes().to_vec()),
            (DType::F16, vec![0, 0x7c]),
            (DType::Bf16, vec![0x80, 0xff]),
        ] {
            let len = bytes.len();
            let bad = Tensor::new(dtype, vec![1], bytes.into()).unwrap();
            assert!(!bad.is_finite(), "{dtype}");
            let good = Tensor::new(dtype, vec![1], vec![0; len].into()).unwrap();
            assert!(good.is_finite(), "{dtype}");
        }
        let mut block = vec![0u8; 34];
        block[1] = 0x7c;
        assert!(
            !Tensor::new(DType::Q8_0, vec![32], block.into())
                .unwrap()
                .is_finite()
        );
    }
}
