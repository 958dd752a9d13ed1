//! From named tensors of a checkpoint to weights on a device.

use std::sync::Arc;

use turaco_compute::{Device, Matrix, Vector, WeightType};

use crate::Result;
use crate::weights::{DType, Tensor, Weights};

/// Uploads the tensors of one checkpoint; [`at`](Self::at) descends along the names' dots, so that load functions
/// mirror the checkpoint's tree.
#[derive(Debug, Clone)]
pub struct Loader<'a> {
    weights: &'a Weights,
    device: &'a Device,
    weight_type: WeightType,
    checking: bool,
    prefix: String,
}

impl<'a> Loader<'a> {
    /// A loader at the root of `weights`; matrices are stored as `weight_type`.
    pub fn new(weights: &'a Weights, device: &'a Device, weight_type: WeightType) -> Self {
        Self {
            weights,
            device,
            weight_type,
            checking: false,
            prefix: String::new(),
        }
    }

    /// A loader that looks for values that are no numbers when it reads a tensor, so that a file of many gigabytes is
    /// read once and not twice.
    #[must_use]
    pub fn checking(self) -> Self {
        Self {
            checking: true,
            ..self
        }
    }

    /// The same loader below `name`.
    #[must_use]
    pub fn at(&self, name: impl std::fmt::Display) -> Self {
        Self {
            prefix: format!("{}{name}.", self.prefix),
            ..self.clone()
        }
    }

    /// The same loader with another type of matrix.
    #[must_use]
    pub fn with_weight_type(&self, weight_type: WeightType) -> Self {
        Self {
            weight_type,
            ..self.clone()
        }
    }

    /// How this loader stores matrices.
    pub fn weight_type(&self) -> WeightType {
        self.weight_type
    }

    /// The device that this loader uploads to.
    pub fn device(&self) -> &Device {
        self.device
    }

    /// A tensor of the checkpoint.
    ///
    /// # Errors
    /// It is missing or has another shape; with [`checking`](Self::checking), also if it holds a value that is no number.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let name = format!("{}{name}", self.prefix);
        let tensor = self.weights.get(&name, shape)?;
        if self.checking && !tensor.is_finite() {
            return Err(crate::weights::invalid(
                self.weights.path(),
                format!("tensor `{name}` holds infinite values or NaN"),
            ));
        }
        Ok(tensor)
    }

    /// The first size of a tensor whose shape is not known from elsewhere.
    ///
    /// # Errors
    /// It is missing.
    pub fn first_size(&self, name: &str) -> Result<usize> {
        let name = format!("{}{name}", self.prefix);
        Ok(self.weights.require(&name)?.n_rows())
    }

    /// A tensor whose shape is not known from elsewhere.
    ///
    /// # Errors
    /// It is missing.
    pub fn tensor_of_any_shape(&self, name: &str) -> Result<&'a Tensor> {
        self.weights.require(&format!("{}{name}", self.prefix))
    }

    /// Whether the checkpoint holds this tensor.
    pub fn has(&self, name: &str) -> bool {
        self.weights
            .find(&format!("{}{name}", self.prefix))
            .is_some()
    }

    /// Several `[rows, cols]` matrices stacked by rows into one, in the loader's weight type.
    ///
    /// # Errors
    /// A tensor is missing or has another shape, or the device has no memory.
    pub fn matrix(&self, names: &[&str], rows: usize, cols: usize) -> Result<Arc<Matrix>> {
        let tensors = names
            .iter()
            .map(|name| self.tensor(name, &[rows, cols]))
            .collect::<Result<Vec<_>>>()?;
        self.stacked(&tensors)
    }

    /// Matrices that were read by [`tensor`](Self::tensor), stacked by rows into one, in the loader's weight type.
    ///
    /// # Errors
    /// Different widths, or the device has no memory.
    pub fn stacked(&self, tensors: &[Tensor]) -> Result<Arc<Matrix>> {
        let sources: Vec<_> = tensors.iter().map(Tensor::matrix).collect();
        // Bytes with a scale per row stay what they are; blocks of them would be rounded again.
        let are_rows = |t: &Tensor| t.dtype == DType::I8 && t.row_scales.is_some();
        let weight_type = match self.weight_type {
            WeightType::Q8 if tensors.iter().all(are_rows) => WeightType::Int8,
            weight_type => weight_type,
        };
        let matrix = self.device.matrix(&sources, weight_type)?;
        // The device has a copy now, except of what it can use where it is.
        for tensor in tensors {
            if !matches!(tensor.dtype, DType::Panels(_)) {
                tensor.bytes.release();
            }
        }
        Ok(matrix)
    }

    /// A vector of `len` values.
    ///
    /// # Errors
    /// It is missing or has another shape.
    pub fn vector(&self, name: &str, len: usize) -> Result<Arc<Vector>> {
        Ok(self.device.vector(&self.tensor(name, &[len])?.to_f32())?)
    }

    /// A vector of `len` values, if the checkpoint has it.
    ///
    /// # Errors
    /// It has another shape.
    pub fn optional_vector(&self, name: &str, len: usize) -> Result<Option<Arc<Vector>>> {
        if self.has(name) {
            self.vector(name, len).map(Some)
        } else {
            Ok(None)
        }
    }

    /// Several vectors of `len` values one after the other; an absent name (`None`) stands for zeros.
    ///
    /// # Errors
    /// One is missing or has another shape.
    pub fn vectors(&self, names: &[Option<&str>], len: usize) -> Result<Arc<Vector>> {
        let mut values = Vec::with_capacity(names.len() * len);
        for name in names {
            match name {
                Some(name) => values.extend(self.tensor(name, &[len])?.to_f32()),
                None => values.resize(values.len() + len, 0.0),
            }
        }
        Ok(self.device.vector(&values)?)
    }
}
