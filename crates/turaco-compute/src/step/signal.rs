//! Operations of networks that make or read sound: convolutions that go on from run to run, periodic activations,
//! statistics over time.

use std::sync::Arc;

use super::{ConvShape, StepBuilder, check, shape};
use crate::device::{Matrix, Vector};
use crate::error::Result;
use crate::graph::{Activation, Op, Slot, SlotKind, Snake, Value, ValueSource};

impl StepBuilder {
    /// The same values in rows of `cols` columns, without a copy: `[rows, cols * n]` is `[rows * n, cols]`.
    ///
    /// # Errors
    /// `x` is a window of columns, or does not fill whole rows.
    pub fn reshape(&mut self, x: Value, cols: usize) -> Result<Value> {
        let len = x.rows() * x.cols();
        let whole = !self.has_gaps(x);
        check(
            "reshape",
            whole && cols > 0 && len.is_multiple_of(cols),
            || {
                (
                    format!("whole rows that fill rows of {cols}"),
                    format!("{}{}", shape(x), if whole { "" } else { " of wider rows" }),
                )
            },
        )?;
        let of = match self.graph.values[x.id as usize].1 {
            ValueSource::Reshaped { of } => of,
            _ => x.id,
        };
        Ok(self.value(len / cols, cols, ValueSource::Reshaped { of }))
    }

    /// Rows `first..first + rows` of `x`, without a copy.
    ///
    /// # Errors
    /// `x` has not so many rows.
    pub fn rows(&mut self, x: Value, first: usize, rows: usize) -> Result<Value> {
        check("rows", first + rows <= x.rows(), || {
            (
                format!("at most {} rows", x.rows()),
                format!("{first} + {rows}"),
            )
        })?;
        let source = ValueSource::Rows {
            of: x.id,
            first: first as u32,
        };
        Ok(self.value(rows, x.cols(), source))
    }

    /// Whether other columns lie between the rows of a value.
    fn has_gaps(&self, x: Value) -> bool {
        x.rows > 1 && self.row_distance(x.id) != x.cols
    }

    /// Values from one row to the next.
    fn row_distance(&self, id: u32) -> u32 {
        let (value, source) = self.graph.values[id as usize];
        match source {
            ValueSource::Columns { of, .. } | ValueSource::Rows { of, .. } => self.row_distance(of),
            _ => value.cols,
        }
    }

    /// A convolution as [`conv1d`](Self::conv1d), and a snake of its result.
    ///
    /// # Errors
    /// As there, or a snake of another width.
    pub fn conv1d_then_snake(
        &mut self,
        x: Value,
        weight: &Arc<Matrix>,
        bias: Option<&Arc<Vector>>,
        snake: &Snake,
        conv: ConvShape,
    ) -> Result<Value> {
        let out = self.conv1d(x, weight, bias, Activation::None, conv)?;
        self.check_snake(snake, out)?;
        if let Some(Op::Conv1d { snake: after, .. }) = self.graph.ops.last_mut() {
            *after = Some(snake.clone());
        }
        Ok(out)
    }

    /// What a causal convolution sees of a stream: the `rows` rows before `x`, then `x` (through `snake`, if one is
    /// given): `[rows + x.rows, x.cols]`. The last `rows` rows are carried over to the next run in values `offset..offset + rows *
    /// x.cols` of the state buffer; a buffer of zeros is the silence before a stream.
    ///
    /// # Errors
    /// A slot of another kind, or a snake of another width.
    pub fn history(
        &mut self,
        x: Value,
        snake: Option<&Snake>,
        (state, offset): (Slot, usize),
        rows: usize,
    ) -> Result<Value> {
        check(
            "history",
            self.graph.slots[state.0] == SlotKind::Buffer,
            || ("a state buffer".into(), "a cache".into()),
        )?;
        if let Some(snake) = snake {
            self.check_snake(snake, x)?;
        }
        let out = self.computed(rows + x.rows(), x.cols());
        let op = Op::History {
            x,
            snake: snake.cloned(),
            state,
            offset,
            rows,
            out,
        };
        Ok(self.push(op, out))
    }

    /// `x + gain * sin(rate * x)^2`, see [`Snake`].
    ///
    /// # Errors
    /// A snake of another width.
    pub fn snake(&mut self, x: Value, snake: &Snake) -> Result<Value> {
        self.check_snake(snake, x)?;
        let out = self.computed(x.rows(), x.cols());
        let snake = snake.clone();
        Ok(self.push(Op::Snake { x, snake, out }, out))
    }

    fn check_snake(&self, snake: &Snake, x: Value) -> Result<()> {
        self.check_vector("snake rate", Some(&snake.rate), x.cols())?;
        self.check_vector("snake gain", Some(&snake.gain), x.cols())
    }

    /// Every column convolved over time with its own taps, `weight [kernel, cols]`: `[x.rows - kernel + 1, cols]`.
    ///
    /// # Errors
    /// Taps or a bias of another width, or fewer rows than taps.
    pub fn depthwise_conv1d(
        &mut self,
        x: Value,
        weight: &Arc<Vector>,
        bias: Option<&Arc<Vector>>,
        kernel: usize,
    ) -> Result<Value> {
        self.check_vector(
            "depthwise_conv1d weight",
            Some(weight),
            kernel.saturating_mul(x.cols()),
        )?;
        self.check_vector("depthwise_conv1d bias", bias, x.cols())?;
        check(
            "depthwise_conv1d length",
            kernel > 0 && x.rows() >= kernel,
            || {
                (
                    format!("at least {} rows", kernel.max(1)),
                    format!("{}", x.rows()),
                )
            },
        )?;
        let out = self.computed(x.rows() - kernel + 1, x.cols());
        let op = Op::DepthwiseConv1d {
            x,
            weight: weight.clone(),
            bias: bias.cloned(),
            kernel,
            out,
        };
        Ok(self.push(op, out))
    }

    /// `a * b`, element by element; `b` repeats if it has fewer rows.
    ///
    /// # Errors
    /// Other columns, or rows that are no multiple.
    pub fn multiply(&mut self, a: Value, b: Value) -> Result<Value> {
        check(
            "multiply",
            a.cols == b.cols && b.rows > 0 && a.rows.is_multiple_of(b.rows),
            || (shape(a), shape(b)),
        )?;
        let out = self.computed(a.rows(), a.cols());
        Ok(self.push(Op::Multiply { a, b, out }, out))
    }

    /// The columns of several values side by side; a value of one row is repeated to the rows of the first.
    ///
    /// # Errors
    /// None, or values of different numbers of rows.
    pub fn concat(&mut self, parts: &[Value]) -> Result<Value> {
        let rows = parts.first().map_or(0, |part| part.rows);
        check(
            "concat",
            parts.iter().all(|part| part.rows == rows || part.rows == 1) && !parts.is_empty(),
            || {
                let found: Vec<String> = parts.iter().map(|&part| shape(part)).collect();
                (format!("values of {rows} rows"), found.join(", "))
            },
        )?;
        let cols = parts.iter().map(|part| part.cols()).sum();
        let out = self.computed(rows as usize, cols);
        let parts = parts.into();
        Ok(self.push(Op::Concat { parts, out }, out))
    }

    /// Mean and standard deviation over the rows of `x`, `[1, 2 * x.cols]`: all means, then all deviations
    /// `sqrt(max(variance, floor))`. With `weights` of the same shape, which add up to 1 in each column, both are weighted.
    ///
    /// # Errors
    /// No rows, or weights of another shape.
    pub fn statistics(&mut self, x: Value, weights: Option<Value>, floor: f32) -> Result<Value> {
        let fits = weights.is_none_or(|w| (w.rows, w.cols) == (x.rows, x.cols));
        check("statistics", x.rows > 0 && fits, || {
            (
                "a row, and weights of the same shape".into(),
                format!("{} and {:?}", shape(x), weights.map(shape)),
            )
        })?;
        let out = self.computed(1, 2 * x.cols());
        let op = Op::Statistics {
            x,
            weights,
            floor,
            out,
        };
        Ok(self.push(op, out))
    }
}
