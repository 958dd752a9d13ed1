//! Linear layers: `out = activation(x wᵀ + bias)` and what commonly follows, for packed weights of any type.
//!
//! Two ways through a matrix. With few rows of activations (at most [`STREAM_ROWS`]) the weights are the work: each
//! panel is read once, front to back, and multiplied with all rows as exact f32 products. With more rows the
//! arithmetic is the work: activations are repacked ([`left`]) into strips, rounded to what the multiplying
//! instruction takes, and register tiles sweep a block of rows that stays in the second-level cache. Int8, q8 and q4 go
//! the second way for any number of rows; the sums of int8, and those of each block of q8 and q4, are exact integers,
//! hence results are equal on every instruction set.
//!
//! No result depends on the number of threads: a task owns whole outputs and adds in a fixed order.

/// Calls `$kernel::<N>` for the run-time number of rows `N`.
macro_rules! by_rows {
    ($kernel:ident, $rows:expr, [$($n:literal)*], $arguments:tt) => {
        match $rows {
            // SAFETY: the caller's promise, passed on.
            $($n => unsafe { $kernel::<$n> $arguments },)*
            rows => debug_assert!(false, "no kernel for {rows} rows"),
        }
    };
}

mod blocks;
mod choice;
mod epilogue;
mod left;
mod scalar;

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_bf16;

#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod simd128;

#[cfg(test)]
mod tests;

#[cfg(target_arch = "x86_64")]
pub(in crate::cpu) use avx512::transpose as transpose_avx512;
pub use epilogue::{Activation, Epilogue};

use crate::cpu::isa::Isa;
use crate::cpu::memory::Buffer;
use crate::cpu::packed::{PANEL, PackedMatrix, Shared, WeightType};
use crate::cpu::pool::Pool;
use crate::{Error, Result};
use choice::Kernels;
use epilogue::{Block, Sums};
use left::{BLOCK, BlockForm, Correction, Left, WIDE_WORDS};
use std::mem::MaybeUninit;

/// Most rows that are multiplied as they stream by.
const STREAM_ROWS: usize = 8;

/// Inputs of the pieces of a panel that a streaming kernel takes in turns when it has not registers for all rows: even,
/// and small enough that the second turn finds the weights in the first-level cache.
const STREAM_PIECE: usize = 256;

/// Rows that pick the same kernels as any larger number.
const MANY_ROWS: usize = 32;

/// Most rows of a register tile.
const MAX_TILE_ROWS: usize = 12;

/// Most panels for which packing rows of f32 costs more than it brings.
const FEW_PANELS: usize = 12;

/// Most rows of a block.
const MAX_BLOCK_ROWS: usize = 384;

/// Strips for each thread that are worth a block of its own.
const MIN_OWN_STRIPS: usize = 3;

/// Bytes of weights worth a task of their own.
const MIN_TASK_BYTES: usize = 48 << 10;

/// Activations worth packing as a task of their own.
const MIN_PACK: usize = 16 << 10;

/// Bytes of weights of a task in a large matrix: long enough streams, short enough to share a busy machine.
const TASK_BYTES: usize = 1 << 20;

/// Adds the products of `rows` rows of `k` inputs with a panel to `state`, which is `[rows][2][32]`: even inputs
/// go to the first sum, odd ones to the second.
///
/// Arguments: `rows` (up to the kernel's number), `k`, `x`, the distance between rows of `x`, the panel at an even input, `state`.
///
/// Safety: `x` must be readable for `rows` rows of `k` values, the panel for `k` inputs rounded up to whole groups, and
/// `state` writable.
type StreamFn = unsafe fn(usize, usize, *const f32, usize, *const u8, *mut f32);

/// Adds the product of a strip and a panel to a tile.
///
/// Arguments: `rows` (up to the kernel's tile), `steps`, the strip `[steps][words][rows]` (see [`left`]), the panel, the
/// sums `[rows][32]` (f32, or i32 for int8).
///
/// Safety: all must be readable (the sums writable) for these sizes. With f32 activations the panel is f32.
type TileFn = unsafe fn(usize, usize, *const u32, *const u8, *mut u32);

/// As [`TileFn`] for rows of f32 that lie in the input as they are.
///
/// Arguments: `rows` (up to the kernel's tile), inputs, the first row, the distance between rows, the panel, the sums.
///
/// Safety: as there.
type RowsFn = unsafe fn(usize, usize, *const f32, usize, *const u8, *mut u32);

/// As [`TileFn`] for rows that are rounded, but not laid out.
///
/// Arguments: `rows`, `steps`, the first row, bytes from one row to the next, for each step the bytes from a row to its inputs,
/// the panel, the sums.
///
/// Safety: as there; rows are readable up to whole tiles.
type ImageFn = unsafe fn(usize, usize, *const u8, usize, *const u32, *const u8, *mut u32);

/// Kernels that take activations which are not packed.
#[derive(Clone, Copy)]
enum InPlace {
    /// As they are.
    Rows(RowsFn),
    /// Rounded, row after row; the first kernel begins sums, the second goes on with them. Neighbouring windows share rows, so that
    /// each is rounded once and not once for each tap.
    Image(ImageFn, ImageFn, RoundFn),
}

/// Rounds values to what an image has. Safety: the instruction set must be there.
type RoundFn = unsafe fn(&[f32], &mut [u32]);

/// Widens part of a panel to what the tile multiplies, so that all strips of a block share the work.
///
/// Arguments: inputs (whole steps of the panel), the panel, room for as many inputs, rounded up to whole steps of the
/// tile, of 32 outputs.
///
/// Safety: the panel must be readable for the inputs, the room writable.
type WidenFn = unsafe fn(usize, *const u8, *mut f32);

/// [`epilogue::store`]. Safety: as there.
type StoreFn = unsafe fn(&Block<'_>);

/// [`left::pack`]. Safety: the instruction set must be there.
type PackFn = unsafe fn(Left, &[f32], usize, usize, &mut [u32], &mut [f32]);

/// What makes a thread ready for tiles, and what ends that. Safety: the instruction set must be there.
type Around = (unsafe fn(), unsafe fn());

/// On a boundary of cache lines, so that no vector crosses one.
#[repr(align(64))]
struct Aligned<T>(T);

/// The elements of an array that is not written yet, each by itself.
fn room_of<T, const N: usize>(
    array: &mut MaybeUninit<Aligned<[T; N]>>,
) -> &mut [MaybeUninit<T>; N] {
    // SAFETY: an array of elements that need not be initialised lies where the array would; nothing is read.
    unsafe { &mut *array.as_mut_ptr().cast() }
}

/// Where a task keeps the sums of a block of rows, and a part of a panel that is widened.
struct Room {
    sums: MaybeUninit<Aligned<[[u32; PANEL]; MAX_BLOCK_ROWS]>>,
    wide: MaybeUninit<Aligned<[u32; WIDE_WORDS]>>,
}

impl Room {
    #[inline(always)]
    const fn new() -> Self {
        Self {
            sums: MaybeUninit::uninit(),
            wide: MaybeUninit::uninit(),
        }
    }
}

/// Memory for repacked activations, kept between calls.
#[derive(Debug, Default)]
pub struct LinearScratch {
    buffer: Option<Buffer>,
}

impl LinearScratch {
    /// Scratch without memory; it grows at the first call that needs some.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes room for `bytes`, the largest [`linear_scratch_bytes`] of the calls to come.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; the old memory is kept then.
    pub fn reserve(&mut self, bytes: usize) -> Result<()> {
        if self.buffer.as_ref().map_or(0, Buffer::len) < bytes {
            self.buffer = Some(Buffer::zeroed(bytes, "linear scratch")?);
        }
        Ok(())
    }

    /// Room for `scales` row scales and `elements` packed activations.
    fn parts(&mut self, scales: usize, elements: usize) -> Result<(&mut [f32], &mut [u32])> {
        let padded = scales.next_multiple_of(16);
        self.reserve(4 * (padded + elements))?;
        let Some(buffer) = &mut self.buffer else {
            return Ok((&mut [], &mut []));
        };
        let (head, tail) = buffer.as_slice_mut::<u32>().split_at_mut(padded);
        Ok((
            &mut bytemuck::cast_slice_mut(head)[..scales],
            &mut tail[..elements],
        ))
    }
}

/// Bytes of scratch that [`linear`] needs for `m` rows and this matrix, on any instruction set.
pub fn linear_scratch_bytes(m: usize, w: &PackedMatrix) -> usize {
    if m <= 1 && !w.weight_type().is_integer() {
        return 0;
    }
    let words = match w.weight_type() {
        WeightType::F32 | WeightType::F16 => w.padded_k(),
        WeightType::Bf16 => w.padded_k().next_multiple_of(BLOCK),
        WeightType::Int8 => w.padded_k().next_multiple_of(2 * BLOCK) / 4,
        WeightType::Q8 | WeightType::Q4 => {
            let widest = Left::Blocks(BlockForm::Pairs, Correction::Zero);
            w.padded_k() / BLOCK * widest.step_words()
        }
    };
    let rows = m.next_multiple_of(16);
    4 * (rows + rows * words)
}

/// A linear layer: for each row of `x: [m, k]`, `out: [m, n] = activation(x wᵀ + bias) * scale [+ residual] [+ out]`.
///
/// Products and sums are f32 for f32 and f16 weights, and for bf16 weights with up to 8 rows; with more rows bf16
/// weights meet activations rounded to bf16 where the machine multiplies those
/// ([`has_bf16_products`](crate::cpu::has_bf16_products)). For int8 each row
/// of activations is rounded to bytes by its largest magnitude, and the sums are exact; for q8 and q4 every 32 inputs
/// of a row are. A row with infinity or NaN gives NaN then.
///
/// Scratch grows when it is too small; reserve [`linear_scratch_bytes`] before a loop that must not allocate.
///
/// # Errors
/// [`Error::Shape`] if slices do not fit `m` and the matrix; [`Error::OutOfMemory`] from growing the scratch.
#[allow(
    clippy::too_many_arguments,
    reason = "a kernel takes its operands one by one"
)]
pub fn linear(
    isa: Isa,
    pool: &Pool,
    x: &[f32],
    m: usize,
    w: &PackedMatrix,
    epilogue: &Epilogue<'_>,
    scratch: &mut LinearScratch,
    out: &mut [f32],
) -> Result<()> {
    let rows = Windows::rows(w.k());
    linear_of_windows(isa, pool, (x, rows), m, w, epilogue, false, scratch, out)
}

/// How the rows of a product lie in its input: row `r` is `taps` pieces of `cols` values, the first at `r * cols` and each of
/// the others `dilation * cols` further on. With several taps these are the windows of a convolution, which overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// Pieces of a row.
    pub taps: usize,
    /// Values of a piece.
    pub cols: usize,
    /// Rows from one piece to the next.
    pub dilation: usize,
}

impl Windows {
    /// Rows of `k` values, one after the other.
    pub const fn rows(k: usize) -> Self {
        Self {
            taps: 1,
            cols: k,
            dilation: 1,
        }
    }

    /// Whether [`linear_of_windows`] takes `m` such windows as they are.
    pub fn fit(self, isa: Isa, weight_type: WeightType, m: usize, uniform: bool) -> bool {
        let kernels = Kernels::new(isa, weight_type, if uniform { MANY_ROWS } else { m });
        self.taps == 1
            || self.stream_by(&kernels, m, uniform)
            || self.cols.is_multiple_of(kernels.left.step_inputs())
                && !matches!(kernels.left, Left::Int8 { .. } | Left::Int8Rows)
    }

    /// Bytes of scratch that [`linear_of_windows`] needs for `m` such windows.
    pub fn scratch_bytes(self, isa: Isa, m: usize, w: &PackedMatrix, uniform: bool) -> usize {
        let kernels = Kernels::new(isa, w.weight_type(), if uniform { MANY_ROWS } else { m });
        match kernels.in_place(self, w) {
            Some(InPlace::Rows(_)) => 0,
            Some(InPlace::Image(..)) => 4 * (16 + self.image_words(&kernels, m, w)),
            None if self.stream_by(&kernels, m, uniform) => 0,
            None => linear_scratch_bytes(if uniform { m.max(2) } else { m }, w),
        }
    }

    /// Words of an image, and of the offsets before it.
    fn image_words(self, kernels: &Kernels, m: usize, w: &PackedMatrix) -> usize {
        let steps = w.padded_k().div_ceil(kernels.left.step_inputs());
        let rows = m + (self.taps - 1) * self.dilation + kernels.row_multiple;
        steps.next_multiple_of(16) + rows * self.cols / 2
    }

    /// Whether weights stream by: the kernels for that want all values of a row one after the other.
    fn stream_by(self, kernels: &Kernels, m: usize, uniform: bool) -> bool {
        let few = kernels.stream.is_some() && m <= kernels.stream_up_to;
        few && !uniform && (self.taps == 1 || self.dilation == 1)
    }
}

/// [`linear`] of the windows of a convolution, for windows that [`fit`](Windows::fit). With `uniform` the same kernels do any
/// number of rows, so that a row gets the same bits in any company.
///
/// # Errors
/// As [`linear`].
#[allow(
    clippy::too_many_arguments,
    reason = "a kernel takes its operands one by one"
)]
pub fn linear_of_windows(
    isa: Isa,
    pool: &Pool,
    (x, windows): (&[f32], Windows),
    m: usize,
    w: &PackedMatrix,
    epilogue: &Epilogue<'_>,
    uniform: bool,
    scratch: &mut LinearScratch,
    out: &mut [f32],
) -> Result<()> {
    check((x, windows), m, w, epilogue, out)?;
    if out.is_empty() {
        return Ok(());
    }
    let kernels = Kernels::new(isa, w.weight_type(), if uniform { MANY_ROWS } else { m });
    let call = Call {
        kernels,
        pool,
        x,
        windows,
        m,
        w,
        epilogue,
        out: Shared::new(out),
    };
    match kernels.stream {
        Some(stream) if windows.stream_by(&kernels, m, uniform) => call.stream(stream),
        _ => call.multiply(scratch)?,
    }
    Ok(())
}

fn check(
    (x, windows): (&[f32], Windows),
    m: usize,
    w: &PackedMatrix,
    epilogue: &Epilogue<'_>,
    out: &[f32],
) -> Result<()> {
    let length =
        |what: &str, rows: usize, columns: usize, found: usize| match rows.checked_mul(columns) {
            Some(expected) if expected == found => Ok(()),
            _ => Err(Error::Shape {
                what: format!(
                    "{what} of a linear layer of {} inputs and {} outputs",
                    w.k(),
                    w.n()
                ),
                expected: format!("{rows} x {columns} values"),
                found: found.to_string(),
            }),
        };
    let more = windows.taps.saturating_sub(1) * windows.dilation;
    let rows = if m == 0 { 0 } else { m + more };
    length("input", rows, windows.cols, x.len())?;
    length("windows", windows.taps, windows.cols, w.k())?;
    length("output", m, w.n(), out.len())?;
    if let Some(bias) = epilogue.bias {
        length("bias", 1, w.n(), bias.len())?;
    }
    if let Some((rate, gain)) = epilogue.snake {
        length("snake", 1, w.n(), rate.len())?;
        length("snake", 1, w.n(), gain.len())?;
    }
    if let Some(residual) = epilogue.residual {
        length("residual", m, w.n(), residual.len())?;
    }
    Ok(())
}

/// The operands of one call, checked to fit each other.
struct Call<'a> {
    kernels: Kernels,
    pool: &'a Pool,
    x: &'a [f32],
    windows: Windows,
    m: usize,
    w: &'a PackedMatrix,
    epilogue: &'a Epilogue<'a>,
    out: Shared<f32>,
}

impl Call<'_> {
    /// Few rows: every panel is read once, front to back, and all rows are multiplied with it.
    fn stream(&self, stream: StreamFn) {
        let one = |panel| {
            let (m, k) = (self.m, self.w.k());
            // From one row to the next, which the windows of a convolution share.
            let distance = self.windows.cols;
            let at_once = m.div_ceil(m.div_ceil(self.kernels.stream_rows));
            let mut state = [[[0.0_f32; PANEL]; 2]; STREAM_ROWS];
            let weights = self.w.panel(panel);
            let piece = if m <= at_once { k.max(1) } else { STREAM_PIECE };
            for start in (0..k).step_by(piece) {
                let inputs = piece.min(k - start);
                for row in (0..m).step_by(at_once) {
                    // SAFETY: rows and inputs are within `x`, as was checked; the panel has the inputs that follow `start`, a whole
                    // number of groups in; `state` has room for all rows. The kernel came with its instruction set.
                    unsafe {
                        stream(
                            at_once.min(m - row),
                            inputs,
                            self.x.as_ptr().add(row * distance + start),
                            distance,
                            weights.as_ptr().add(self.w.input_offset(start)),
                            state[row].as_mut_ptr().cast(),
                        );
                    }
                }
            }
            let mut sums = [[0.0_f32; PANEL]; STREAM_ROWS];
            for (sums, [even, odd]) in sums.iter_mut().zip(&state).take(m) {
                *sums = std::array::from_fn(|i| even[i] + odd[i]);
            }
            self.store(panel, 0, m, Sums::Float(&sums));
        };
        self.over_panels(|panels| panels.for_each(one));
    }

    /// Calls `f` for all panels, a contiguous run of them per task.
    fn over_panels(&self, f: impl Fn(std::ops::Range<usize>) + Sync) {
        let panels = self.w.n_panels();
        let bytes = panels * self.w.panel(0).len();
        let threads = self.pool.n_threads();
        let tasks = (bytes / MIN_TASK_BYTES)
            .clamp(1, threads)
            // As many for each thread: two threads need as long for three equal tasks as for four.
            .max((bytes / TASK_BYTES).next_multiple_of(threads))
            .min(threads * 16)
            .min(panels);
        self.pool.run(tasks, &|task| {
            f(panels * task / tasks..panels * (task + 1) / tasks);
        });
    }

    /// Many rows: pack the activations, then tiles.
    fn multiply(&self, scratch: &mut LinearScratch) -> Result<()> {
        let Self { kernels, m, w, .. } = self;
        let (m, k) = (*m, w.k());
        let steps = w.padded_k().div_ceil(kernels.left.step_inputs());
        let words = kernels.left.step_words();
        let padded = |rows: usize| rows.next_multiple_of(kernels.row_multiple);
        let threads = self.pool.n_threads();
        // Strips of nearly equal height: 13 rows are 7 and 6, not 12 and 1. As many for each thread, where each has its own.
        let mut strips = m.div_ceil(kernels.tile_rows);
        if strips >= threads * MIN_OWN_STRIPS {
            strips = strips.next_multiple_of(threads);
        }
        let height = padded(m.div_ceil(strips));
        let strips = m.div_ceil(height);
        let strip_rows = |strip: usize| height.min(m - strip * height);
        let integer = matches!(kernels.left, Left::Int8 { .. } | Left::Int8Rows);
        let shifted = matches!(kernels.left, Left::Int8 { shifted: true });
        let in_place = kernels.in_place(self.windows, w);
        let needed = match in_place {
            Some(InPlace::Rows(_)) => 0,
            Some(InPlace::Image(..)) => self.windows.image_words(kernels, m, w),
            None => padded(m) * steps * words,
        };
        let (scales, packed) = scratch.parts(if integer { m } else { 0 }, needed)?;
        let offset_words = match in_place {
            Some(InPlace::Image(_, _, round)) => self.round(round, steps, packed),
            _ => 0,
        };

        let (scales, packed) = (Shared::new(scales), Shared::new(packed));
        let strip_len = height * steps * words;
        let pack = |strip: usize| {
            let (first, rows) = (strip * height, strip_rows(strip));
            let n_scales = if integer { rows } else { 0 };
            // SAFETY: each strip is written by one task; strips of `height` rows follow each other, with one scale per row.
            let (out, scales) = unsafe {
                (
                    std::slice::from_raw_parts_mut(
                        packed.get().add(strip * strip_len),
                        padded(rows) * steps * words,
                    ),
                    std::slice::from_raw_parts_mut(scales.get().add(first), n_scales),
                )
            };
            let Windows {
                taps,
                cols,
                dilation,
            } = self.windows;
            // One piece of all rows after the other: the pieces of neighbouring rows are neighbours.
            let part = if taps > 1 {
                cols / kernels.left.step_inputs() * words * padded(rows)
            } else {
                out.len()
            };
            for (tap, out) in out.chunks_exact_mut(part.max(1)).take(taps).enumerate() {
                let x = &self.x[(first + tap * dilation) * cols..][..rows * cols];
                // SAFETY: the kernel came with its instruction set.
                unsafe { (kernels.pack)(kernels.left, x, rows, cols, out, scales) };
            }
        };

        let strip_bytes = match in_place {
            Some(InPlace::Rows(_)) => height * self.windows.cols * 4,
            Some(InPlace::Image(..)) => height * self.windows.cols * 2,
            None => strip_len * 4,
        };
        let strips_per_block = (kernels.block_bytes / strip_bytes.max(1))
            .clamp(2, kernels.block_rows / height.max(1))
            .clamp(1, strips);
        let mut blocks = strips.div_ceil(strips_per_block);
        if strips >= threads * MIN_OWN_STRIPS {
            // As many for each thread.
            blocks = blocks.next_multiple_of(threads);
        }
        let block_strips = |block: usize| strips * block / blocks..strips * (block + 1) / blocks;
        let whole_steps = w.padded_k().is_multiple_of(kernels.left.step_inputs());
        let widen = kernels
            .widen
            .filter(|_| !(kernels.completes_only && whole_steps));
        // A single strip finds nothing of the panel in the first-level cache, so it takes it in one piece, if there is no
        // room to widen it into.
        let piece = |strips: usize| match widen {
            None if strips == 1 => steps.max(1),
            _ => kernels.left.tile_steps(),
        };
        let one = |room: &mut Room, block: usize, panel: usize| {
            let strips = block_strips(block);
            let first = strips.start * height;
            let Room { sums: room, wide } = room;
            let room = room_of(room);
            let weights = self.w.panel(panel);
            let first_sums = self.first_sums(panel);
            self.prefetch_scales(panel + 1);
            if let Some((begin, _)) = kernels.around {
                // SAFETY: the kernel came with its instruction set.
                unsafe { begin() };
            }
            // Without any inputs there is still a bias.
            let no_inputs = (steps == 0).then_some((0, 0));
            for (start, count) in pieces(steps, piece(strips.len())).chain(no_inputs) {
                let first_input = start * kernels.left.step_inputs();
                let first_byte = w.input_offset(first_input);
                let part = weights[first_byte..].as_ptr();
                let part = match widen {
                    Some(widen) => {
                        let inputs =
                            (count * kernels.left.step_inputs()).min(w.padded_k() - first_input);
                        // SAFETY: inputs of the panel, at most as many as there is room for.
                        unsafe { widen(inputs, part, wide.as_mut_ptr().cast()) };
                        wide.as_ptr().cast()
                    }
                    None => part,
                };
                let last = start + count == steps;
                let place = |strip: usize| {
                    let first_row = strip * height;
                    first_row - first..first_row - first + padded(strip_rows(strip))
                };
                let finish = |strip: usize, sums: &[MaybeUninit<[u32; PANEL]>]| {
                    let (first_row, rows) = (strip * height, strip_rows(strip));
                    // SAFETY: every piece of the panel was added to the sums of this strip, the first one wrote them.
                    let sums = unsafe { sums[..rows].assume_init_ref() };
                    let sums = match (integer, w.panel_scales(panel)) {
                        (true, Some(column_scales)) => Sums::Integer {
                            sums: bytemuck::cast_slice(sums),
                            // SAFETY: written before, by whoever packed the strip.
                            row_scales: unsafe {
                                std::slice::from_raw_parts(scales.get().add(first_row), rows)
                            },
                            column_scales,
                        },
                        _ => Sums::Float(bytemuck::cast_slice(sums)),
                    };
                    self.store(panel, first_row, rows, sums);
                };
                for strip in strips.clone() {
                    let (first_row, rows) = (strip * height, strip_rows(strip));
                    let sums = &mut room[place(strip)];
                    let begins = start == 0 && count > 0 && kernels.first_tile.is_some();
                    if start == 0 && !begins {
                        sums.fill(MaybeUninit::new(first_sums));
                    } else if start == 0 && shifted {
                        sums[0].write(first_sums);
                    }
                    let tile = match kernels.first_tile {
                        Some(first_tile) if begins => first_tile,
                        _ => kernels.tile,
                    };
                    // Some rows with each piece: many requests at once keep those for weights waiting.
                    let share = |end: usize| rows * end / steps.max(1);
                    let soon = first_row + share(start)..first_row + share(start + count);
                    self.prefetch_output(soon, panel);
                    // Each strip asks for its share of what comes next in the panel (or is the next panel). A single strip
                    // leaves no time for that; kernels for few rows ask by themselves.
                    if strips.len() > 1 && !kernels.asks_ahead {
                        let bytes = w.input_offset(count * kernels.left.step_inputs());
                        let share = bytes.div_ceil(strips.len());
                        let next = first_byte + bytes + (strip - strips.start) * share;
                        prefetch(weights.as_ptr().wrapping_add(next), share);
                    }
                    let target = sums.as_mut_ptr().cast();
                    if count == 0 {
                        // Nothing to add.
                    } else if let Some(InPlace::Rows(tile)) = in_place {
                        // SAFETY: the piece ends within the panel.
                        unsafe {
                            self.rows_in_place(
                                tile,
                                (first_row, rows),
                                (start, count),
                                part,
                                target,
                            )
                        };
                    } else if let Some(InPlace::Image(first_tile, next_tile, _)) = in_place {
                        let tile = if begins { first_tile } else { next_tile };
                        let row_words = self.windows.cols / 2;
                        // SAFETY: the image has a row for each window's first tap, the rows that later taps see, and as many
                        // more as complete a tile; there is an offset for each step. The rest as below.
                        unsafe {
                            let words = packed.get().cast_const();
                            let image = words.add(offset_words + first_row * row_words).cast();
                            tile(
                                rows,
                                count,
                                image,
                                4 * row_words,
                                words.add(start),
                                part,
                                target,
                            );
                        }
                    } else {
                        let x = first_row * steps * words + start * words * padded(rows);
                        // SAFETY: the strip has `steps` steps of `rows` rows of activations, the panel as many, and the
                        // sums have a place for each row. The kernel came with its instruction set.
                        unsafe {
                            let x = packed.get().add(x).cast_const();
                            tile(rows, count, x, part, target);
                        }
                    }
                    // One strip later, so that the last products need not be waited for.
                    if last && strip > strips.start {
                        finish(strip - 1, &room[place(strip - 1)]);
                    }
                }
                if last {
                    finish(strips.end - 1, &room[place(strips.end - 1)]);
                }
            }
            if let Some((_, end)) = kernels.around {
                // SAFETY: as above.
                unsafe { end() };
            }
        };
        let panels = w.n_panels();
        if blocks >= threads {
            // Whoever packs a block multiplies it, so that it stays in one core's cache.
            self.pool.run(blocks, &|block| {
                if in_place.is_none() {
                    block_strips(block).for_each(pack);
                }
                let room = &mut Room::new();
                (0..panels).for_each(|panel| one(room, block, panel));
            });
            return Ok(());
        }
        if in_place.is_none() {
            self.pool
                .run_split(strips, MIN_PACK.div_ceil(height * k), &|part| {
                    part.for_each(pack);
                });
        }
        if blocks == 1 {
            self.over_panels(|panels| {
                let room = &mut Room::new();
                panels.for_each(|panel| one(room, 0, panel));
            });
        } else {
            self.pool.run(blocks * panels, &|task| {
                one(&mut Room::new(), task / panels, task % panels);
            });
        }
        Ok(())
    }

    /// Rounds the whole input into an image behind the offsets of all steps; the length of those.
    fn round(&self, round: RoundFn, steps: usize, words: &mut [u32]) -> usize {
        let Windows {
            taps,
            cols,
            dilation,
        } = self.windows;
        let (offsets, image) = words.split_at_mut(steps.next_multiple_of(16));
        let per_tap = steps / taps.max(1);
        let step_bytes = 2 * self.kernels.left.step_inputs();
        for (step, offset) in offsets.iter_mut().take(steps).enumerate() {
            let (tap, part) = (step / per_tap, step % per_tap);
            *offset = (tap * dilation * cols * 2 + part * step_bytes) as u32;
        }
        let rows = self.x.len() / cols;
        let image = Shared::new(image);
        self.pool
            .run_split(rows, MIN_PACK.div_ceil(cols), &|part: std::ops::Range<
                usize,
            >| {
                let x = &self.x[part.start * cols..part.end * cols];
                // SAFETY: each row is written by one task; the image has room for all. The kernel came with its instruction
                // set.
                unsafe {
                    let out = image.get().add(part.start * cols / 2);
                    round(x, std::slice::from_raw_parts_mut(out, x.len() / 2));
                }
            });
        offsets.len()
    }

    /// Adds the products of inputs `start..start + count` of some rows to their sums, tap by tap.
    ///
    /// # Safety
    /// `panel` must be readable for these inputs, `sums` writable for the rows.
    unsafe fn rows_in_place(
        &self,
        tile: RowsFn,
        (first_row, rows): (usize, usize),
        (start, count): (usize, usize),
        panel: *const u8,
        sums: *mut u32,
    ) {
        let Windows { cols, dilation, .. } = self.windows;
        let mut at = start;
        while at < start + count {
            let (tap, column) = (at / cols, at % cols);
            let inputs = (cols - column).min(start + count - at);
            let first = (first_row + tap * dilation) * cols + column;
            debug_assert!(first + (rows - 1) * cols + inputs <= self.x.len());
            // SAFETY: rows and inputs are within the input, whose length was checked; the caller's promise for the rest. The
            // kernel came with its instruction set.
            unsafe {
                let panel = panel.add((at - start) * 4 * PANEL);
                tile(rows, inputs, self.x.as_ptr().add(first), cols, panel, sums);
            }
            at += inputs;
        }
    }

    /// Asks for the part of the output that a tile will go to, while there is still work to do: its rows are too far
    /// apart for the hardware to guess.
    fn prefetch_output(&self, rows: std::ops::Range<usize>, panel: usize) {
        #[cfg(target_arch = "x86_64")]
        for row in rows {
            let line = self
                .out
                .get()
                .wrapping_add(row * self.w.n() + panel * PANEL)
                .cast::<u8>();
            // Lines for writing: one that is only read first has to be taken from other cores a second time. Processors that do
            // not know the instruction do nothing.
            for at in [0, 64, 127] {
                if at < 127 || !(line as usize).is_multiple_of(64) {
                    // SAFETY: a prefetch may point anywhere.
                    unsafe {
                        std::arch::asm!(
                            "prefetchw [{line}]",
                            line = in(reg) line.wrapping_add(at),
                            options(nostack, preserves_flags, readonly)
                        );
                    }
                }
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (rows, panel);
    }

    /// Asks for what belongs to a panel of int8 besides its weights.
    fn prefetch_scales(&self, panel: usize) {
        if let (Some(scales), Some(sums)) = (self.w.panel_scales(panel), self.w.panel_sums(panel)) {
            prefetch_near(scales.as_ptr().cast(), size_of_val(scales));
            prefetch_near(sums.as_ptr().cast(), size_of_val(sums));
        }
    }

    /// What sums of a panel start from: zeros, or what makes up for shifted activations.
    fn first_sums(&self, panel: usize) -> [u32; PANEL] {
        match (self.kernels.left, self.w.panel_sums(panel)) {
            (Left::Int8 { shifted: true }, Some(sums)) => {
                sums.map(|sum| sum.wrapping_mul(-128) as u32)
            }
            _ => [0; PANEL],
        }
    }

    fn store(&self, panel: usize, first_row: usize, rows: usize, sums: Sums<'_>) {
        let (n, first_column) = (self.w.n(), panel * PANEL);
        let columns = PANEL.min(n - first_column);
        let block = Block {
            sums,
            first_row,
            rows,
            first_column,
            columns,
            n,
            epilogue: self.epilogue,
            out: self.out.get(),
        };
        // SAFETY: lengths were checked in `linear`, and each block of the output belongs to one task. The kernel came
        // with its instruction set.
        unsafe { (self.kernels.store)(&block) };
    }
}

/// Asks for `bytes` bytes, for the second-level cache.
#[inline]
fn prefetch(start: *const u8, bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    for at in (0..bytes).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a prefetch may point anywhere.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(start.wrapping_add(at).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (start, bytes);
}

/// Asks for `bytes` bytes, for the first-level cache.
#[inline]
fn prefetch_near(start: *const u8, bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    for at in (0..bytes).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch may point anywhere.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(at).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (start, bytes);
}

/// Cuts `0..groups` into nearly equal pieces of even length, as (start, length).
fn pieces(groups: usize, at_most: usize) -> impl Iterator<Item = (usize, usize)> {
    let length = groups
        .div_ceil(groups.div_ceil(at_most).max(1))
        .next_multiple_of(2)
        .max(2);
    (0..groups)
        .step_by(length)
        .map(move |start| (start, length.min(groups - start)))
}
