//! Which kernels a device runs, for people: what `turaco doctor` lists.

use super::batch::{MAX_SPLITS, SPLIT_KEYS};
use super::context::Context;
use super::plan::MATMUL_ROWS;
use super::shader::{ATTENTION_QUERIES, CHOICE_SLICE, DECODE_QUERIES, MATVEC_ROWS, TILE};
use crate::cpu::packed::PANEL;
use crate::device::KernelChoice;

/// The choices of an open device.
pub(super) fn choices(context: &Context) -> Vec<KernelChoice> {
    let sums = match context.extras.subgroups {
        true => "sums over subgroups",
        false => "sums in workgroup memory",
    };
    let staged = match context.extras.half {
        true => "f16 weights through 16-bit workgroup memory, others through f32",
        false => "f32 workgroup memory",
    };
    let staged = match context.trials().chosen {
        Some(kind) if kind.half => format!(
            "cooperative matrices of {kind}, with rows and weights scaled to fit; weights of f32 through workgroup memory"
        ),
        Some(kind) => format!("cooperative matrices of {kind}"),
        None => staged.to_owned(),
    };
    let mebibytes = |bytes: u64| bytes >> 20;
    let choice = |operation, kernel| KernelChoice { operation, kernel };
    let mut choices = vec![
        choice(
            "linear, few rows",
            format!(
                "panels of {PANEL} outputs, up to {MATVEC_ROWS} rows at a time, with norm and SwiGLU; {sums}"
            ),
        ),
        choice(
            "linear, many rows",
            format!("tiles of {TILE}x{TILE} from {MATMUL_ROWS} rows on; {staged}"),
        ),
        choice(
            "attention",
            format!("{ATTENTION_QUERIES} queries of a head at a time, online softmax"),
        ),
        choice(
            "attention, one query",
            format!(
                "{DECODE_QUERIES} heads of a key head and {} caches at a time, keys in up to {MAX_SPLITS} parts of \
                 {SPLIT_KEYS}; {sums}",
                context.max_caches
            ),
        ),
        choice("norm, softmax", format!("a workgroup a row; {sums}")),
        choice(
            "token choice",
            format!("slices of {CHOICE_SLICE} tokens; {sums}"),
        ),
        choice(
            "memory",
            format!(
                "weights in parts of up to {} MiB, buffers up to {} MiB",
                mebibytes(context.max_weights),
                mebibytes(context.max_buffer)
            ),
        ),
    ];
    choices
        .extend((context.trials().refused.iter()).map(|reason| choice("not used", reason.clone())));
    choices
}
