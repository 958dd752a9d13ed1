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
        // The device wants the kernel position outermost, so that a window of rows is one contiguous input.
        let mut taps = vec![0.0f32; stored.len()];
        for (out, row) in taps
            .chunks_exact_mut(c_in * kernel)
            .zip(stored.chunks_exact(c_in * kernel))
        {
            for (channel, window) in row.chunks_exact(kernel).enumerate() {
                for (position, &value) in window.iter().enumerate() {
                    out[position * c_in + channel] = value;
                }
            }
        }
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
        let bias = if at.has("bias") {
            Some(at.vector("bias", c_out)?)
        } else {
            None
        };
        Ok(Self {
            weight,
            bias,
            kernel,
            stride,
            padding,
        })
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
        };
        Ok(step.conv1d(x, &self.weight, self.bias.as_ref(), activation, shape)?)
    }
}
