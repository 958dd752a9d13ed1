//! The dispatches of operations of networks that make or read sound.

use super::super::memory::View;
use super::super::shader::{Function, Shader};
use super::operations::{map_params, vector};
use super::{Call, Params, Planner};
use crate::error::Result;
use crate::graph::{Op, Slot, Snake, Value};

impl Planner<'_> {
    /// One of the operations of this file.
    pub(super) fn signal(&mut self, op: &Op) -> Result<()> {
        match op {
            Op::History {
                x,
                snake,
                state,
                offset,
                rows,
                out,
            } => {
                let view = self.view(*x);
                let nothing = &self.context.nothing;
                let (rate, gain) = match snake {
                    Some(snake) => (
                        vector(&snake.rate)?.0.clone(),
                        vector(&snake.gain)?.0.clone(),
                    ),
                    None => (nothing.clone(), nothing.clone()),
                };
                let target = self.view(*out);
                let before = rows * x.cols();
                let params = Params::default()
                    .counts([out.rows(), out.cols(), before, *offset])
                    .view(&view)
                    .counts([usize::from(snake.is_some())]);
                let buffers = vec![view.buffer, rate, gain, target.buffer.clone()];
                let len = out.rows() * out.cols();
                self.call_with_state(
                    Shader::History { keep: false },
                    len,
                    *state,
                    params,
                    buffers,
                )?;
                let params = Params::default().counts([before, len - before, *offset]);
                let buffers = vec![target.buffer];
                self.call_with_state(
                    Shader::History { keep: true },
                    before,
                    *state,
                    params,
                    buffers,
                )
            }
            Op::Snake { x, snake, out } => {
                let view = self.view(*x);
                self.snake(snake, &view, *out)
            }
            Op::DepthwiseConv1d {
                x,
                weight,
                bias,
                kernel,
                out,
            } => {
                let numbers = match bias {
                    Some(bias) => vector(bias)?.0.clone(),
                    None => self.context.nothing.clone(),
                };
                let weight = vector(weight)?.0.clone();
                let rows = usize::from(bias.is_some());
                let view = self.view(*x);
                self.map_with_numbers(
                    Function::Depthwise,
                    (&view, *out),
                    weight,
                    numbers,
                    (rows, *kernel),
                )
            }
            Op::Multiply { a, b, out } => {
                let rows = b.rows();
                let (a, b) = (self.view(*a), self.view(*b));
                self.map(Function::Product, *out, &a, Some((&b, rows)), 0, (0.0, 0.0))
            }
            Op::Concat { parts, out } => {
                let target = self.view(*out);
                let mut column = 0;
                for part in parts.iter() {
                    let view = self.view(*part);
                    // As `map_params`, but to some of the columns.
                    let params = Params::default()
                        .counts([out.rows(), part.cols()])
                        .view(&view)
                        .counts([0, 0, part.rows(), 0, column, 0])
                        .number(0.0)
                        .number(0.0)
                        .counts([out.cols()]);
                    let nothing = self.context.nothing.clone();
                    let buffers =
                        vec![view.buffer, nothing.clone(), nothing, target.buffer.clone()];
                    let workgroups = (out.rows() * part.cols()).div_ceil(256);
                    self.call(Shader::Map(Function::Repeat), workgroups, params, buffers)?;
                    column += part.cols();
                }
                Ok(())
            }
            Op::Statistics {
                x,
                weights,
                floor,
                out,
            } => {
                let kind = usize::from(weights.is_some());
                let view = self.view(*x);
                let weights = weights.map_or(view.clone(), |weights| self.view(weights));
                let b = Some((&weights, x.rows()));
                self.map(Function::Statistics, *out, &view, b, kind, (*floor, 0.0))
            }
            _ => Ok(()),
        }
    }

    /// A snake of the rows of `view`, which has the shape of `out`.
    pub(super) fn snake(&mut self, snake: &Snake, view: &View, out: Value) -> Result<()> {
        let numbers = vector(&snake.gain)?.0.clone();
        let rate = vector(&snake.rate)?.0.clone();
        self.map_with_numbers(Function::Snake, (view, out), rate, numbers, (0, 0))
    }

    /// A function of `x`, of a vector or matrix of weights, and of a vector that is passed as numbers.
    fn map_with_numbers(
        &mut self,
        function: Function,
        (view, out): (&View, Value),
        weights: wgpu::Buffer,
        numbers: wgpu::Buffer,
        (rows, kind): (usize, usize),
    ) -> Result<()> {
        let weights = View {
            buffer: weights,
            offset: 0,
            stride: out.cols(),
        };
        let params = map_params(out, view, Some(&weights), kind, (0.0, 0.0), (rows, 0));
        let buffers = vec![
            view.buffer.clone(),
            weights.buffer,
            numbers,
            self.view(out).buffer,
        ];
        let workgroups = (out.rows() * out.cols()).div_ceil(256);
        self.call(Shader::Map(function), workgroups, params, buffers)
    }

    /// Call a shader that has a thread for each of `len` values, with the state buffer of a slot.
    fn call_with_state(
        &mut self,
        shader: Shader,
        len: usize,
        slot: Slot,
        params: Params,
        buffers: Vec<wgpu::Buffer>,
    ) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        let kernel = self.context.kernel(shader)?;
        let layout = (kernel.layout.clone(), kernel.binds);
        let grid = super::grid(len.div_ceil(256));
        let call = Call::WithState { kernel, grid, slot };
        self.push(call, layout, params, buffers);
        Ok(())
    }
}
