//! Causal convolutions over a stream: each sees its own input and what it keeps of the past, so that a stream gives the
//! same samples however it is cut into runs.

use std::sync::Arc;

use turaco_compute::{
    Activation, ConvShape, Epilogue, Matrix, Slot, Snake, StepBuilder, Value, Vector,
};

use super::Loader;
use super::conv::taps_outermost;
use crate::Result;
use crate::weights::Tensor;

/// Where each convolution keeps its past in the one state buffer of a stream.
#[derive(Debug, Clone, Copy, Default)]
pub struct StateLayout {
    len: usize,
}

impl StateLayout {
    /// Values of the buffer that all parts take together.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no parts.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn take(&mut self, rows: usize, cols: usize) -> Past {
        let offset = self.len;
        self.len += rows * cols;
        Past { offset, rows }
    }
}

/// Rows of the past, and where they are.
#[derive(Debug, Clone, Copy)]
struct Past {
    offset: usize,
    rows: usize,
}

impl Past {
    /// `[rows + x.rows, x.cols]`: the past and `x`, through `snake` if there is one.
    fn before(
        self,
        step: &mut StepBuilder,
        x: Value,
        snake: Option<&Snake>,
        state: Slot,
    ) -> Result<Value> {
        Ok(match (self.rows, snake) {
            (0, None) => x,
            (0, Some(snake)) => step.snake(x, snake)?,
            _ => step.history(x, snake, (state, self.offset), self.rows)?,
        })
    }
}

/// A snake below `loader`: `alpha` and `beta` are the logarithms of its rate and of the divisor of its gain.
///
/// # Errors
/// A tensor is missing or has another shape.
pub fn load_snake(loader: &Loader<'_>, width: usize) -> Result<Snake> {
    let alpha = loader.tensor("alpha", &[width])?.to_f32();
    let beta = loader.tensor("beta", &[width])?.to_f32();
    let rate: Vec<f32> = alpha.iter().map(|alpha| alpha.exp()).collect();
    let gain: Vec<f32> = beta.iter().map(|beta| 1.0 / (beta.exp() + 1e-9)).collect();
    Ok(Snake {
        rate: loader.device().vector(&rate)?,
        gain: loader.device().vector(&gain)?,
    })
}

/// Taps of a [`CausalConv1d`], and how far they and its outputs are apart.
#[derive(Debug, Clone, Copy)]
pub struct Taps {
    /// How many.
    pub kernel: usize,
    /// Rows from one to the next.
    pub dilation: usize,
    /// Rows of the input for each row of the output.
    pub stride: usize,
}

impl Taps {
    /// Neighbours, and an output for each row.
    pub const fn new(kernel: usize) -> Self {
        Self {
            kernel,
            dilation: 1,
            stride: 1,
        }
    }

    /// The same at a distance.
    #[must_use]
    pub const fn dilated(self, dilation: usize) -> Self {
        Self { dilation, ..self }
    }

    /// The same with fewer outputs.
    #[must_use]
    pub const fn strided(self, stride: usize) -> Self {
        Self { stride, ..self }
    }
}

/// A convolution that sees `(kernel - 1) * dilation + 1 - stride` rows before its own.
#[derive(Debug)]
pub struct CausalConv1d {
    weight: Arc<Matrix>,
    bias: Option<Arc<Vector>>,
    taps: Taps,
    past: Past,
}

impl CausalConv1d {
    /// `{name}.weight` `[c_out, c_in, kernel]`, and `{name}.bias` where present.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load(
        loader: &Loader<'_>,
        name: &str,
        (c_in, c_out): (usize, usize),
        taps: Taps,
        layout: &mut StateLayout,
    ) -> Result<Self> {
        let at = loader.at(name);
        let kernel = taps.kernel;
        let stored = at.tensor("weight", &[c_out, c_in, kernel])?;
        let values = taps_outermost(&stored.to_f32(), c_in, kernel);
        stored.bytes.release();
        let seen = (kernel - 1) * taps.dilation + 1;
        Ok(Self {
            weight: at.stacked(&[Tensor::from_f32(&[c_out, kernel * c_in], &values)])?,
            bias: at.optional_vector("bias", c_out)?,
            taps,
            past: layout.take(seen.saturating_sub(taps.stride), c_in),
        })
    }

    /// `x [rows, c_in]` to `[rows, c_out]`; `snake` comes before the convolution.
    ///
    /// # Errors
    /// `x` has another width.
    pub fn forward(
        &self,
        step: &mut StepBuilder,
        x: Value,
        snake: Option<&Snake>,
        state: Slot,
    ) -> Result<Value> {
        let seen = self.past.before(step, x, snake, state)?;
        self.over(step, x, seen, Activation::None)
    }

    /// The same, and a snake after the convolution too.
    ///
    /// # Errors
    /// `x` has another width.
    pub fn forward_between(
        &self,
        step: &mut StepBuilder,
        x: Value,
        (before, after): (&Snake, &Snake),
        state: Slot,
    ) -> Result<Value> {
        let seen = self.past.before(step, x, Some(before), state)?;
        let shape = self.shape(x);
        Ok(step.conv1d_then_snake(seen, &self.weight, self.bias.as_ref(), after, shape)?)
    }

    /// `x [rows, c_in]` to `[rows / stride, c_out]`, rounded up with rows of zeros: the end of a stream then. `activation`
    /// follows the convolution.
    ///
    /// # Errors
    /// `x` has another width.
    pub fn forward_activated(
        &self,
        step: &mut StepBuilder,
        x: Value,
        activation: Activation,
        state: Slot,
    ) -> Result<Value> {
        let seen = self.past.before(step, x, None, state)?;
        self.over(step, x, seen, activation)
    }

    /// Over `x` and the rows before it.
    fn over(
        &self,
        step: &mut StepBuilder,
        x: Value,
        seen: Value,
        activation: Activation,
    ) -> Result<Value> {
        let shape = self.shape(x);
        Ok(step.conv1d(seen, &self.weight, self.bias.as_ref(), activation, shape)?)
    }

    /// For so many rows.
    fn shape(&self, x: Value) -> ConvShape {
        let Taps {
            kernel,
            dilation,
            stride,
        } = self.taps;
        let missing = x.rows().next_multiple_of(stride) - x.rows();
        ConvShape {
            kernel,
            dilation,
            stride,
            padding: (0, missing),
            ..ConvShape::default()
        }
    }

    /// The same for a convolution of one row, which is a linear map, with what may follow one.
    ///
    /// # Errors
    /// `x` or the residual have another shape, or the convolution sees the past.
    pub fn forward_with(
        &self,
        step: &mut StepBuilder,
        x: Value,
        epilogue: Epilogue,
    ) -> Result<Value> {
        let bias = self.bias.clone();
        Ok(step.linear(x, &self.weight, Epilogue { bias, ..epilogue })?)
    }
}

/// A convolution to one column: samples. Several of them are made side by side, since products have many outputs anyway.
#[derive(Debug)]
pub struct CausalOutputConv1d {
    weight: Arc<Matrix>,
    bias: Option<Arc<Vector>>,
    /// Rows that a window sees, of which each begins `block` rows after the one before.
    seen: usize,
    block: usize,
    past: Past,
}

impl CausalOutputConv1d {
    /// `{name}.weight` `[1, c_in, kernel]`, and `{name}.bias` where present; every run has a multiple of `block` rows.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load(
        loader: &Loader<'_>,
        name: &str,
        c_in: usize,
        kernel: usize,
        block: usize,
        layout: &mut StateLayout,
    ) -> Result<Self> {
        let at = loader.at(name);
        let stored = at.tensor("weight", &[1, c_in, kernel])?.to_f32();
        let taps = taps_outermost(&stored, c_in, kernel);
        let seen = kernel + block - 1;
        let mut weight = vec![0.0; block * seen * c_in];
        for (index, row) in weight.chunks_exact_mut(seen * c_in).enumerate() {
            row[index * c_in..][..kernel * c_in].copy_from_slice(&taps);
        }
        let bias = if at.has("bias") {
            let bias = at.tensor("bias", &[1])?.to_f32();
            Some(at.device().vector(&bias.repeat(block))?)
        } else {
            None
        };
        Ok(Self {
            weight: at.stacked(&[Tensor::from_f32(&[block, seen * c_in], &weight)])?,
            bias,
            seen,
            block,
            past: layout.take(kernel - 1, c_in),
        })
    }

    /// `x [rows, c_in]` to `[rows, 1]`; `snake` comes before the convolution.
    ///
    /// # Errors
    /// `x` has another width, or rows that are no whole blocks.
    pub fn forward(
        &self,
        step: &mut StepBuilder,
        x: Value,
        snake: Option<&Snake>,
        state: Slot,
    ) -> Result<Value> {
        let seen = self.past.before(step, x, snake, state)?;
        let shape = ConvShape {
            kernel: self.seen,
            stride: self.block,
            ..ConvShape::default()
        };
        let blocks = step.conv1d(
            seen,
            &self.weight,
            self.bias.as_ref(),
            Activation::None,
            shape,
        )?;
        Ok(step.reshape(blocks, 1)?)
    }
}

/// A transposed convolution, trimmed on the right to `stride` rows for each row of its input.
///
/// Row `t * stride + j` of its result is the sum over `i` of `x[t - i]` times the weights at `j + i * stride`: a causal
/// convolution of `ceil(kernel / stride)` taps to `stride * c_out` columns, whose rows are cut up afterwards.
#[derive(Debug)]
pub struct CausalUpsample1d {
    weight: Arc<Matrix>,
    bias: Option<Arc<Vector>>,
    taps: usize,
    c_out: usize,
    past: Past,
}

impl CausalUpsample1d {
    /// `{name}.weight` `[c_in, c_out, kernel]`, and `{name}.bias` where present.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load(
        loader: &Loader<'_>,
        name: &str,
        (c_in, c_out): (usize, usize),
        (kernel, stride): (usize, usize),
        layout: &mut StateLayout,
    ) -> Result<Self> {
        let at = loader.at(name);
        let stored = at.tensor("weight", &[c_in, c_out, kernel])?;
        let values = stored.to_f32();
        stored.bytes.release();
        let taps = kernel.div_ceil(stride);
        let width = taps * c_in;
        let mut weight = vec![0.0; stride * c_out * width];
        for (channel, values) in values.chunks_exact(c_out * kernel).enumerate() {
            for (out, values) in values.chunks_exact(kernel).enumerate() {
                for (position, &value) in values.iter().enumerate() {
                    let (back, phase) = (position / stride, position % stride);
                    let row = phase * c_out + out;
                    weight[row * width + (taps - 1 - back) * c_in + channel] = value;
                }
            }
        }
        drop(values);
        let bias = if at.has("bias") {
            let bias = at.tensor("bias", &[c_out])?.to_f32();
            Some(at.device().vector(&bias.repeat(stride))?)
        } else {
            None
        };
        Ok(Self {
            weight: at.stacked(&[Tensor::from_f32(&[stride * c_out, width], &weight)])?,
            bias,
            taps,
            c_out,
            past: layout.take(taps - 1, c_in),
        })
    }

    /// `x [rows, c_in]` to `[rows * stride, c_out]`; `snake` comes before the convolution.
    ///
    /// # Errors
    /// `x` has another width.
    pub fn forward(
        &self,
        step: &mut StepBuilder,
        x: Value,
        snake: Option<&Snake>,
        state: Slot,
    ) -> Result<Value> {
        let seen = self.past.before(step, x, snake, state)?;
        let shape = ConvShape {
            kernel: self.taps,
            ..ConvShape::default()
        };
        let wide = step.conv1d(
            seen,
            &self.weight,
            self.bias.as_ref(),
            Activation::None,
            shape,
        )?;
        Ok(step.reshape(wide, self.c_out)?)
    }
}

/// A causal convolution of every column by itself.
#[derive(Debug)]
pub struct CausalDepthwiseConv1d {
    /// `[kernel, cols]`.
    weight: Arc<Vector>,
    bias: Option<Arc<Vector>>,
    kernel: usize,
    past: Past,
}

impl CausalDepthwiseConv1d {
    /// `{name}.weight` `[cols, 1, kernel]`, and `{name}.bias` where present.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load(
        loader: &Loader<'_>,
        name: &str,
        cols: usize,
        kernel: usize,
        layout: &mut StateLayout,
    ) -> Result<Self> {
        let at = loader.at(name);
        let stored = at.tensor("weight", &[cols, 1, kernel])?.to_f32();
        let weight: Vec<f32> = (0..kernel)
            .flat_map(|tap| stored[tap..].iter().step_by(kernel).copied())
            .collect();
        Ok(Self {
            weight: at.device().vector(&weight)?,
            bias: at.optional_vector("bias", cols)?,
            kernel,
            past: layout.take(kernel - 1, cols),
        })
    }

    /// `x [rows, cols]` to the same shape.
    ///
    /// # Errors
    /// `x` has another width.
    pub fn forward(&self, step: &mut StepBuilder, x: Value, state: Slot) -> Result<Value> {
        let seen = self.past.before(step, x, None, state)?;
        Ok(step.depthwise_conv1d(seen, &self.weight, self.bias.as_ref(), self.kernel)?)
    }
}
