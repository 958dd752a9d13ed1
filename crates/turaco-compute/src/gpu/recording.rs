//! A run with its times: what lies between two marks is a pass of its own, between two looks at the device's clock. A device
//! without a clock gets a submission for each pass, and the host waits for it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::context::Context;
use super::executable::GpuExecutable;
use crate::error::Result;
use crate::graph::{Op, Scope};
use crate::step::Bindings;
use crate::trace::{self, Detail, Name};

/// Times that one set takes.
const MOST_TIMES: usize = wgpu::QUERY_SET_MAX_QUERIES as usize;

/// Takes the times of a recorded run.
pub(super) struct Clock {
    times: wgpu::QuerySet,
    /// Times as the device writes them, and as the host reads them behind the outputs.
    resolved: wgpu::Buffer,
    readback: wgpu::Buffer,
    capacity: usize,
}

impl Clock {
    fn new(context: &Context, capacity: usize, result_bytes: usize) -> Result<Self> {
        let times = context.device.create_query_set(&wgpu::QuerySetDescriptor {
            label: None,
            ty: wgpu::QueryType::Timestamp,
            count: capacity as u32,
        });
        let bytes = 8 * capacity;
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        let resolved = context.buffer(bytes as u64, usage, "times of a step")?;
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let readback = (result_bytes.next_multiple_of(8) + bytes) as u64;
        Ok(Self {
            times,
            resolved,
            readback: context.buffer(readback, usage, "times of a step")?,
            capacity,
        })
    }
}

/// When some operations began and ended.
type Times = (Instant, Instant);

impl GpuExecutable {
    /// All operations, with spans for the scopes (and the operations) that are as fine as `detail`.
    #[cold]
    pub(super) fn run_recorded(
        &mut self,
        detail: Detail,
        bindings: &Bindings<'_, '_>,
    ) -> Result<()> {
        let scopes: Vec<Scope> = self
            .scopes
            .iter()
            .filter(|scope| scope.detail <= detail && scope.first < scope.end)
            .cloned()
            .collect();
        let pieces = self.pieces(&scopes, detail);
        let times = if self.context.tick.is_some() && 2 * pieces.len() <= MOST_TIMES {
            self.run_by_clock(&pieces, bindings)?
        } else {
            self.run_by_pieces(&pieces, bindings)?
        };
        let begin_of = |op: usize| {
            let piece = pieces.iter().position(|&(first, _)| first == op);
            piece.map_or_else(Instant::now, |piece| times[piece].0)
        };
        let end_of = |op: usize| {
            let piece = pieces.iter().position(|&(_, end)| end == op);
            piece.map_or_else(Instant::now, |piece| times[piece].1)
        };
        // Inner spans end first.
        let names: Vec<&'static str> = self.ops.iter().map(Op::name).collect();
        for (index, name) in names.into_iter().enumerate() {
            if detail >= Detail::Operations {
                let times = (begin_of(index), end_of(index + 1));
                trace::record(name.into(), Detail::Operations, times, None);
            }
            for scope in scopes.iter().rev().filter(|scope| scope.end == index + 1) {
                let name = Name::Shared(Arc::clone(&scope.name));
                let times = (begin_of(scope.first), end_of(scope.end));
                trace::record(name, scope.detail, times, None);
            }
        }
        Ok(())
    }

    /// Operations between two neighbouring marks.
    fn pieces(&self, scopes: &[Scope], detail: Detail) -> Vec<(usize, usize)> {
        let n_ops = self.ops.len();
        let mut marks: Vec<usize> = match detail {
            Detail::Operations => (0..=n_ops).collect(),
            _ => scopes
                .iter()
                .flat_map(|scope| [scope.first, scope.end])
                .chain([0, n_ops])
                .collect(),
        };
        marks.sort_unstable();
        marks.dedup();
        marks.windows(2).map(|pair| (pair[0], pair[1])).collect()
    }

    /// The dispatches of operations.
    fn dispatches(&self, (first, end): (usize, usize)) -> (usize, usize) {
        let before = |op: usize| op.checked_sub(1).map_or(0, |op| self.plan.ends[op]);
        (before(first), before(end))
    }

    /// Everything in one submission, timed by the device.
    fn run_by_clock(
        &mut self,
        pieces: &[(usize, usize)],
        bindings: &Bindings<'_, '_>,
    ) -> Result<Vec<Times>> {
        let result_bytes = 4 * self.results.len();
        let count = 2 * pieces.len();
        if self
            .clock
            .as_ref()
            .is_none_or(|clock| clock.capacity < count)
        {
            self.clock = Some(Clock::new(&self.context, count.max(2), result_bytes)?);
        }
        let Some(clock) = self.clock.take() else {
            return Ok(Vec::new());
        };
        let begin = Instant::now();
        let mut encoder = self.encoder();
        self.copy_given(&mut encoder);
        let mut first = 0;
        for (piece, &operations) in (0..).zip(pieces) {
            let end = self.dispatches(operations).1;
            let times = wgpu::ComputePassTimestampWrites {
                query_set: &clock.times,
                beginning_of_pass_write_index: Some(2 * piece),
                end_of_pass_write_index: Some(2 * piece + 1),
            };
            self.encode(&mut encoder, (first, end), bindings, Some(times))?;
            first = end;
        }
        // What follows the last operation puts outputs in order.
        let rest = (first, self.plan.dispatches.len());
        self.encode(&mut encoder, rest, bindings, None)?;
        encoder.resolve_query_set(&clock.times, 0..count as u32, &clock.resolved, 0);
        let times_at = result_bytes.next_multiple_of(8);
        let bytes = 8 * count as u64;
        let to = times_at as u64;
        encoder.copy_buffer_to_buffer(&clock.resolved, 0, &clock.readback, to, Some(bytes));
        self.copy_outputs(&mut encoder, &clock.readback);
        self.context.submit(encoder);
        self.given.upload.take_back();
        let mut read = vec![0_u64; (times_at + 8 * count) / 8];
        let all: &mut [u8] = bytemuck::cast_slice_mut(&mut read);
        let what = || "a recorded run".into();
        self.context.read(&clock.readback, all, &what)?;
        let end = Instant::now();
        bytemuck::cast_slice_mut(&mut self.results).copy_from_slice(&all[..result_bytes]);
        let ticks = &read[times_at / 8..];
        self.clock = Some(clock);

        // The clocks meet when the host has the results; no span leaves the run.
        let tick = f64::from(self.context.tick.unwrap_or(1.0));
        let last = ticks.iter().copied().max().unwrap_or(0);
        let host_time = |ticks: u64| {
            let ago = Duration::from_secs_f64((last - ticks) as f64 * tick * 1e-9);
            end.checked_sub(ago).map_or(begin, |time| time.max(begin))
        };
        let worked: f64 = ticks
            .chunks_exact(2)
            .map(|pair| pair[1].saturating_sub(pair[0]) as f64 * tick)
            .sum();
        let counter = &self.context.counters.device_nanoseconds;
        counter.fetch_add(worked as u64, Ordering::Relaxed);
        // A pass may look at the clock while the one before still ends.
        let mut latest = begin;
        Ok(ticks
            .chunks_exact(2)
            .map(|pair| {
                let begin = host_time(pair[0]).max(latest);
                latest = host_time(pair[1]).max(begin);
                (begin, latest)
            })
            .collect())
    }

    /// Every piece in a submission of its own, timed by the host.
    fn run_by_pieces(
        &mut self,
        pieces: &[(usize, usize)],
        bindings: &Bindings<'_, '_>,
    ) -> Result<Vec<Times>> {
        self.submit_given();
        let mut times = Vec::with_capacity(pieces.len());
        let mut first = 0;
        for &operations in pieces {
            let end = self.dispatches(operations).1;
            let begin = Instant::now();
            let names = || {
                let names = self.ops[operations.0..operations.1].iter().map(Op::name);
                names.collect::<Vec<_>>().join(", ")
            };
            self.run_alone((first, end), bindings, &names)?;
            times.push((begin, Instant::now()));
            first = end;
        }
        let mut encoder = self.encoder();
        let rest = (first, self.plan.dispatches.len());
        self.encode(&mut encoder, rest, bindings, None)?;
        self.submit(encoder)?;
        Ok(times)
    }
}
