//! What kernels are told, as `kernels/*.cu` and `*.cuh` have it.

use super::driver::Address;

/// A struct that a kernel takes by value.
///
/// # Safety
/// It must have the layout of the kernel's own struct.
pub(super) unsafe trait Params: Copy + 'static {}

macro_rules! params {
    ($($(#[$meta:meta])* struct $name:ident { $($field:ident: $type:ty,)* })*) => {
        $(
            $(#[$meta])*
            #[repr(C)]
            #[derive(Debug, Clone, Copy, Default)]
            pub(super) struct $name { $(pub $field: $type,)* }

            // SAFETY: the fields are those of the struct of this name in the kernels, in their order.
            unsafe impl Params for $name {}
        )*
    };
}

params! {
    /// `linear.cuh`
    struct Ahead {
        at: Address,
        panel_bytes: u64,
        panels: u32, bytes: u32,
    }

    /// `linear.cuh`
    struct LinearParams {
        weights: Address, scales: Address, x: Address, out: Address, bias: Address, residual: Address,
        gamma: Address, beta: Address, gain: Address, partial: Address, counters: Address,
        panel_bytes: u64,
        rows: u32, inputs: u32, outputs: u32,
        x_stride: u32, out_stride: u32, residual_stride: u32, gain_stride: u32, gain_each: u32,
        activation: u32, norm: u32,
        scale: f32, eps: f32,
        rows_in: u32, rows_out: u32, channels: u32, step: u32, padding: u32, dilation: u32,
        splits: u32,
        ahead: [Ahead; 4],
    }

    /// `lookup.cu`
    struct LookupParams {
        weights: Address, scales: Address, ids: Address, x: Address, out: Address,
        panel_bytes: u64,
        rows: u32, cols: u32, table_rows: u32, count: u32, id_stride: u32, x_stride: u32,
        accumulate: u32,
    }

    /// `attention.cuh`
    struct AttentionParams {
        slot: Address, q: Address, out: Address, k: Address, v: Address, parts: Address, counters: Address,
        layer: u32, rows: u32, keys: u32, n_heads: u32, group: u32, head_dim: u32,
        q_stride: u32, k_stride: u32, v_stride: u32, sequences: u32,
        scale: f32, window: u32,
        before: u32, until: u32, total: u32,
        splits: u32,
        head: u32, out_row: u32, capacity: u32,
    }

    /// `append.cuh`
    struct AppendParams {
        slot: Address, k: Address, v: Address, q: Address, q_out: Address, table: Address,
        k_gamma: Address, q_gamma: Address,
        layer: u32, rows: u32, columns: u32, q_columns: u32,
        k_stride: u32, v_stride: u32, q_stride: u32, q_out_stride: u32,
        head_dim: u32, interleaved: u32, before: u32, total: u32,
        k_eps: f32, q_eps: f32,
    }

    /// `decode_append.cuh`
    struct DecodeParams { attention: AttentionParams, append: AppendParams, }

    /// `map.cu`
    struct MapParams {
        a: Address, b: Address, c: Address, ids: Address, out: Address,
        rows: u32, cols: u32, a_stride: u32, b_stride: u32, b_rows: u32, out_stride: u32,
        kind: u32, x_rows: u32,
        a_scale: f32, b_scale: f32,
    }

    /// `rows.cu`
    struct NormParams {
        x: Address, gamma: Address, beta: Address, gain: Address, out: Address,
        rows: u32, cols: u32, groups: u32, x_stride: u32, gain_stride: u32, gain_each: u32, layer: u32,
        eps: f32,
    }

    /// `rows.cu`
    struct SoftmaxParams { x: Address, out: Address, rows: u32, cols: u32, x_stride: u32, }

    /// `rows.cu`
    struct StatisticsParams {
        x: Address, weights: Address, out: Address,
        rows: u32, cols: u32, x_stride: u32, weights_stride: u32,
        floor: f32,
    }

    /// `lstm.cu`
    struct LstmParams {
        weights: Address, scales: Address, gates: Address, out: Address, slot: Address,
        panel_bytes: u64,
        rows: u32, hidden: u32,
    }

    /// `history.cu`
    struct HistoryParams {
        x: Address, rate: Address, gain: Address, out: Address, slot: Address,
        rows: u32, cols: u32, before: u32, offset: u32, x_stride: u32,
    }

    /// `publish.cu`
    struct PublishParams { results: Address, to: Address, run: Address, words: u32, mark: u32, }

    /// `choose.cu`
    struct ChooseParams {
        logits: Address, controls: Address, allowed: Address, seen: Address, seeds: Address, found: Address,
        tokens: Address, logprobs: Address, counters: Address,
        rows: u32, cols: u32, stride: u32, controls_stride: u32, k: u32, split: u32, slices: u32, kept: u32,
    }

    /// `filter.cu`
    struct FilterParams {
        logits: Address, controls: Address, allowed: Address, seen: Address, out: Address,
        rows: u32, cols: u32, stride: u32, controls_stride: u32,
    }
}
