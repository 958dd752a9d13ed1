//! The calls of operations of networks that make or read sound.

use super::super::kernels::Module;
use super::super::memory::View;
use super::super::params::{HistoryParams, MapParams, StatisticsParams};
use super::Planner;
use super::grids::{MAP_THREADS, STATISTICS_THREADS, statistics_grid};
use super::operations::{optional, vector};
use crate::error::Result;
use crate::graph::{Op, Snake, Value};

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
                let before = rows * x.cols();
                let params = HistoryParams {
                    x: view.address,
                    rate: optional(snake.as_ref().map(|snake| &*snake.rate))?,
                    gain: optional(snake.as_ref().map(|snake| &*snake.gain))?,
                    out: self.view(*out).address,
                    slot: self.slot(*state),
                    rows: out.rows() as u32,
                    cols: out.cols() as u32,
                    before: before as u32,
                    offset: *offset as u32,
                    x_stride: view.stride as u32,
                };
                let blocks = |values: usize| [values.div_ceil(MAP_THREADS as usize), 1, 1];
                let all = blocks(out.rows() * out.cols());
                self.call((Module::History, "history"), all, MAP_THREADS, params)?;
                self.call(
                    (Module::History, "history_keep"),
                    blocks(before),
                    MAP_THREADS,
                    params,
                )
            }
            Op::Snake { x, snake, out } => {
                let view = self.view(*x);
                self.snake(snake, view, *out)
            }
            Op::DepthwiseConv1d {
                x,
                weight,
                bias,
                kernel,
                out,
            } => {
                let params = MapParams {
                    b: vector(weight)?,
                    b_stride: out.cols() as u32,
                    c: optional(bias.as_deref())?,
                    kind: *kernel as u32,
                    ..self.unary(self.view(*x), *out)
                };
                self.map("map_depthwise", *out, params)
            }
            Op::Multiply { a, b, out } => {
                let params = self.binary(self.view(*a), (self.view(*b), b.rows()), *out);
                self.map("map_product", *out, params)
            }
            Op::Concat { parts, out } => {
                let target = self.view(*out).address;
                let mut column = 0;
                for part in parts.iter() {
                    let params = MapParams {
                        out: target + 4 * column,
                        cols: part.cols() as u32,
                        x_rows: part.rows() as u32,
                        ..self.unary(self.view(*part), *out)
                    };
                    self.map_values("map_repeat", out.rows() * part.cols(), params)?;
                    column += part.cols() as u64;
                }
                Ok(())
            }
            Op::Statistics {
                x,
                weights,
                floor,
                out,
            } => {
                let view = self.view(*x);
                let weights = weights.map(|weights| self.view(weights));
                let params = StatisticsParams {
                    x: view.address,
                    weights: weights.map_or(0, |weights| weights.address),
                    out: self.view(*out).address,
                    rows: x.rows() as u32,
                    cols: x.cols() as u32,
                    x_stride: view.stride as u32,
                    weights_stride: weights.map_or(0, |weights| weights.stride as u32),
                    floor: *floor,
                };
                self.call(
                    (Module::Rows, "statistics"),
                    statistics_grid(x.cols()),
                    STATISTICS_THREADS,
                    params,
                )
            }
            _ => Ok(()),
        }
    }

    /// A snake of the rows of `view`, which has the shape of `out`.
    pub(super) fn snake(&mut self, snake: &Snake, view: View, out: Value) -> Result<()> {
        let params = MapParams {
            b: vector(&snake.rate)?,
            c: vector(&snake.gain)?,
            ..self.unary(view, out)
        };
        self.map("map_snake", out, params)
    }
}
