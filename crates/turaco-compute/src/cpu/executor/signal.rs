//! Operations of networks that make or read sound.

use super::{Machine, vector};
use crate::cpu::kernels::{depthwise, elementwise, over_rows, snake, statistics};
use crate::cpu::simd::dispatch;
use crate::error::Result;
use crate::graph::{Op, Snake};
use crate::step::SlotBinding;

/// The numbers of a snake.
pub(super) fn rates(snake: &Snake) -> Result<(&[f32], &[f32])> {
    Ok((vector(&snake.rate)?, vector(&snake.gain)?))
}

impl Machine<'_, '_, '_> {
    /// One of the operations of this file.
    pub(super) fn signal(&mut self, op: &Op) -> Result<()> {
        let engine = self.engine;
        match op {
            Op::History {
                x,
                snake,
                state,
                offset,
                rows,
                out,
            } => {
                let SlotBinding::Buffer(buffer) = &mut self.slots[state.0] else {
                    return Ok(());
                };
                let ([target], readable) = self.arena.split([self.plan.views[out.id as usize]]);
                let x = readable.rows(self.plan.views[x.id as usize]);
                let len = rows * x.cols();
                let carried = &mut buffer.storage_mut::<Vec<f32>>()?[*offset..][..len];
                let (before, now) = target.split_at_mut(len);
                before.copy_from_slice(carried);
                let snake = snake.as_ref().map(rates).transpose()?;
                let weight = if snake.is_some() { 4 } else { 1 };
                over_rows(engine, x.len(), weight, now, |range, out| {
                    let x = x.slice(range.start, range.len());
                    match snake {
                        Some((rate, gain)) => {
                            dispatch(engine.isa, snake::Apply { x, rate, gain, out });
                        }
                        None => elementwise::copy(x, out),
                    }
                });
                carried.copy_from_slice(&target[target.len() - len..]);
            }
            Op::Snake { x, snake, out } => {
                let ([target], readable) = self.arena.split([self.plan.views[out.id as usize]]);
                let x = readable.rows(self.plan.views[x.id as usize]);
                let (rate, gain) = rates(snake)?;
                over_rows(engine, x.len(), 4, target, |range, out| {
                    let x = x.slice(range.start, range.len());
                    dispatch(engine.isa, snake::Apply { x, rate, gain, out });
                });
            }
            Op::DepthwiseConv1d {
                x,
                weight,
                bias,
                kernel,
                out,
            } => {
                let view = self.plan.views[out.id as usize];
                let ([target], readable) = self.arena.split([view]);
                let x = readable.rows(self.plan.views[x.id as usize]);
                let weight = vector(weight)?;
                let bias = bias.as_deref().map(vector).transpose()?;
                over_rows(engine, view.rows, *kernel, target, |range, out| {
                    let x = x.slice(range.start, range.len() + kernel - 1);
                    dispatch(
                        engine.isa,
                        depthwise::Depthwise {
                            x,
                            weight,
                            bias,
                            out,
                        },
                    );
                });
            }
            Op::Multiply { a, b, out } => {
                let ([target], readable) = self.arena.split([self.plan.views[out.id as usize]]);
                let a = readable.rows(self.plan.views[a.id as usize]);
                let b = readable.rows(self.plan.views[b.id as usize]);
                over_rows(engine, a.len(), 1, target, |range, out| {
                    let first = range.start;
                    dispatch(engine.isa, elementwise::Multiply { a, b, first, out });
                });
            }
            Op::Concat { parts, out } => {
                let view = self.plan.views[out.id as usize];
                let ([target], readable) = self.arena.split([view]);
                let mut column = 0;
                for part in parts.iter() {
                    let x = readable.rows(self.plan.views[part.id as usize]);
                    for (row, out) in target.chunks_exact_mut(view.cols.max(1)).enumerate() {
                        out[column..column + x.cols()].copy_from_slice(x.row(row % x.len()));
                    }
                    column += x.cols();
                }
            }
            Op::Statistics {
                x,
                weights,
                floor,
                out,
            } => {
                let ([target], readable) = self.arena.split([self.plan.views[out.id as usize]]);
                let x = readable.rows(self.plan.views[x.id as usize]);
                let weights = weights.map(|w| readable.rows(self.plan.views[w.id as usize]));
                dispatch(
                    engine.isa,
                    statistics::Statistics {
                        x,
                        weights,
                        floor: *floor,
                        out: target,
                    },
                );
            }
            _ => {}
        }
        Ok(())
    }
}
