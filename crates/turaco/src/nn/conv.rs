//! Convolution over time.

use std::sync::Arc;

use turaco_compute::{
    Activation, ConvShape, DType, HostMatrix, Matrix, StepBuilder, Value, Vector,
};

use super::Loader;
use crate::Result;

/// A convolution over rows (time).
#[derive(Debug, Clone)]
pub struct Conv1d {
    weight: Arc<Matrix>,
    bias: Option<Arc<Vector>>,
    kernel: usize,
    stride: usize,
    dilation: usize,
    padding: usize,
}

impl Conv1d {
    /// `{name}.weight` `[c_out, c_in, kernel]` as every checkpoint stores it, and `{name}.bias` where present.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load(
        loader: &Loader<'_>,
        name: &str,
        (c_in, c_out): (usize, usize),
        (kernel, stride, padding): (usize, usize, usize),
    ) -> Result<Self> {
        let at = loader.at(name);
        let stored = at.tensor("weight", &[c_out, c_in, kernel])?.to_f32();
        let taps = taps_outermost(&stored, c_in, kernel);
        let bytes = bytemuck::cast_slice(&taps);
        let matrix = HostMatrix {
            dtype: DType::F32,
            rows: c_out,
            cols: c_in * kernel,
            bytes,
            row_scales: None,
            storage: None,
        };
        let weight = loader.device().matrix(&[matrix], loader.weight_type())?;
        let bias = at.optional_vector("bias", c_out)?;
        Ok(Self {
            weight,
            bias,
            kernel,
            stride,
            dilation: 1,
            padding,
        })
    }

    /// The same with taps that see rows `dilation` apart.
    #[must_use]
    pub fn dilated(self, dilation: usize) -> Self {
        Self { dilation, ..self }
    }

    /// `x [n_sequences * rows, c_in]` to `[n_sequences * rows_out, c_out]`.
    ///
    /// # Errors
    /// `x` has another width or is too short.
    pub fn forward(
        &self,
        step: &mut StepBuilder,
        x: Value,
        n_sequences: usize,
        activation: Activation,
    ) -> Result<Value> {
        let padding = (self.padding, self.padding);
        self.forward_padded(step, x, n_sequences, activation, padding)
    }

    /// The same with other numbers of zero rows before and after.
    ///
    /// # Errors
    /// `x` has another width or is too short.
    pub fn forward_padded(
        &self,
        step: &mut StepBuilder,
        x: Value,
        n_sequences: usize,
        activation: Activation,
        padding: (usize, usize),
    ) -> Result<Value> {
        let shape = ConvShape {
            n_sequences,
            kernel: self.kernel,
            stride: self.stride,
            padding,
            dilation: self.dilation,
        };
        Ok(step.conv1d(x, &self.weight, self.bias.as_ref(), activation, shape)?)
    }
}

/// `[c_out, c_in, kernel]` as every checkpoint stores it to `[c_out, kernel, c_in]` as devices want it: a window of rows is
/// one contiguous input then.
pub(crate) fn taps_outermost(stored: &[f32], c_in: usize, kernel: usize) -> Vec<f32> {
    let mut taps = vec![0.0f32; stored.len()];
    let width = (c_in * kernel).max(1);
    for (out, row) in taps.chunks_exact_mut(width).zip(stored.chunks_exact(width)) {
        for (channel, window) in row.chunks_exact(kernel.max(1)).enumerate() {
            for (position, &value) in window.iter().enumerate() {
                out[position * c_in + channel] = value;
            }
        }
    }
    taps
}
