//! Which kernels an instruction set has for which type of weights.

use super::left::Left;
#[cfg(target_arch = "aarch64")]
use super::neon;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
use super::simd128;
use super::{
    Around, FEW_PANELS, InPlace, PackFn, STREAM_ROWS, StoreFn, StreamFn, TileFn, WidenFn, Windows,
    blocks, scalar,
};
#[cfg(target_arch = "x86_64")]
use super::{MAX_BLOCK_ROWS, amx, avx2, avx512, avx512_bf16};
use crate::cpu::isa::Isa;
use crate::cpu::packed::{PackedMatrix, WeightType};

/// Rows of a block where the multiplying instruction works on rows.
const BLOCK_ROWS: usize = 96;

/// Bytes of activations that a block of rows may have, to stay in the second-level cache.
const BLOCK_BYTES: usize = 640 << 10;

/// What one instruction set has for one weight type.
#[derive(Clone, Copy)]
pub(super) struct Kernels {
    /// None for the integer types.
    pub(super) stream: Option<StreamFn>,
    /// Rows that `stream` takes at once.
    pub(super) stream_rows: usize,
    /// Most rows for which streaming beats tiles.
    pub(super) stream_up_to: usize,
    /// For panels that `tile` does not take as they are.
    pub(super) widen: Option<WidenFn>,
    /// Whether `widen` does no more than to complete the last step of a panel.
    pub(super) completes_only: bool,
    pub(super) tile: TileFn,
    /// As `tile`, for sums that begin at zero and need not be written before; for [shifted](Left::Int8) activations all rows begin
    /// with what is written to the first.
    pub(super) first_tile: Option<TileFn>,
    pub(super) tile_rows: usize,
    /// Rows of strips and sums are padded to multiples of this.
    pub(super) row_multiple: usize,
    pub(super) block_rows: usize,
    pub(super) block_bytes: usize,
    /// Whether tiles ask for the next part of a panel while they multiply.
    pub(super) asks_ahead: bool,
    /// Around the tiles of a thread.
    pub(super) around: Option<Around>,
    pub(super) left: Left,
    pub(super) store: StoreFn,
    pub(super) pack: PackFn,
    /// For activations that need not be packed.
    pub(super) unpacked: Option<InPlace>,
}

impl Kernels {
    /// The kernels of `isa`, or of the best tier below it that the machine has, for `m` rows.
    pub(super) fn new(isa: Isa, weight_type: WeightType, m: usize) -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            use crate::cpu::isa::{Amx, Avx2, Avx512, Avx512Dot};
            if isa >= Isa::Amx
                && m >= amx::from(weight_type)
                && Amx::new().is_some()
                && let Some(kernels) = Self::amx(weight_type, m)
            {
                return kernels;
            }
            if isa >= Isa::Avx512Dot && Avx512Dot::new().is_some() {
                return Self::avx512(weight_type, true);
            }
            // Without dot products the older integer kernels are as good: AVX-512 has no sign instruction.
            if isa >= Isa::Avx512 && Avx512::new().is_some() && !weight_type.is_integer() {
                return Self::avx512(weight_type, false);
            }
            if isa >= Isa::Avx2 && Avx2::new().is_some() {
                return Self::avx2(weight_type);
            }
        }
        #[cfg(target_arch = "aarch64")]
        if isa >= Isa::Neon && crate::cpu::isa::Neon::new().is_some() {
            return Self::neon(weight_type);
        }
        #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
        if isa >= Isa::Simd128 {
            return Self::simd128(weight_type);
        }
        let _ = (isa, m);
        Self::scalar(weight_type)
    }

    /// How activations are taken that are not packed, if that is better.
    pub(super) fn in_place(&self, windows: Windows, w: &PackedMatrix) -> Option<InPlace> {
        self.unpacked.filter(|in_place| match in_place {
            InPlace::Rows(_) => windows.taps > 1 || w.n_panels() <= FEW_PANELS,
            InPlace::Image(..) => windows.taps > 1,
        })
    }

    fn scalar(weight_type: WeightType) -> Self {
        let plain = Self {
            stream: None,
            stream_rows: scalar::STREAM_ROWS,
            stream_up_to: STREAM_ROWS,
            widen: None,
            completes_only: false,
            tile: scalar::tile_f32,
            first_tile: None,
            tile_rows: scalar::ROWS,
            row_multiple: 1,
            block_rows: BLOCK_ROWS,
            block_bytes: BLOCK_BYTES,
            asks_ahead: false,
            around: None,
            left: Left::Float,
            store: scalar::store,
            pack: scalar::pack,
            unpacked: None,
        };
        match weight_type {
            WeightType::F32 => plain.streaming(scalar::stream_f32),
            WeightType::F16 => plain
                .streaming(scalar::stream_f16)
                .widening(scalar::widen_f16),
            WeightType::Bf16 => plain
                .streaming(scalar::stream_bf16)
                .widening(scalar::widen_bf16),
            WeightType::Int8 => plain.tiles(scalar::tile_int8, Left::Int8 { shifted: false }),
            WeightType::Q8 => plain.tiles(blocks::scalar::tile_q8, blocks::scalar::LEFT_Q8),
            WeightType::Q4 => plain.tiles(blocks::scalar::tile_q4, blocks::scalar::LEFT_Q4),
        }
    }

    #[cfg(target_arch = "aarch64")]
    fn neon(weight_type: WeightType) -> Self {
        let dot = std::arch::is_aarch64_feature_detected!("dotprod");
        let plain = Self {
            stream: None,
            stream_rows: neon::STREAM_ROWS,
            stream_up_to: neon::STREAM_UP_TO,
            widen: None,
            completes_only: false,
            tile: neon::tile_f32,
            first_tile: None,
            tile_rows: neon::ROWS,
            row_multiple: 1,
            block_rows: BLOCK_ROWS,
            block_bytes: BLOCK_BYTES,
            asks_ahead: false,
            around: None,
            left: Left::Float,
            store: neon::store,
            pack: neon::pack,
            unpacked: None,
        };
        let matrix = dot && std::arch::is_aarch64_feature_detected!("i8mm");
        let (int8, q8, q4): (TileFn, TileFn, TileFn) = if matrix {
            (
                neon::tile_int8_dot,
                blocks::neon_matrix::tile_q8,
                blocks::neon_matrix::tile_q4,
            )
        } else if dot {
            (
                neon::tile_int8_dot,
                blocks::neon::tile_q8_dot,
                blocks::neon::tile_q4_dot,
            )
        } else {
            (
                neon::tile_int8_widen,
                blocks::neon::tile_q8_widen,
                blocks::neon::tile_q4_widen,
            )
        };
        match weight_type {
            WeightType::F32 => plain.streaming(neon::stream_f32),
            WeightType::F16 => plain.streaming(neon::stream_f16).widening(neon::widen_f16),
            WeightType::Bf16 if crate::cpu::has_bf16_products() => Self {
                stream_up_to: STREAM_ROWS,
                ..plain.tiles(neon::tile_bf16_dot, Left::Bf16)
            }
            .streaming(neon::stream_bf16),
            WeightType::Bf16 => plain
                .streaming(neon::stream_bf16)
                .widening(neon::widen_bf16),
            WeightType::Int8 => plain.tiles(int8, Left::Int8 { shifted: false }),
            WeightType::Q8 => plain.tiles(q8, blocks::neon::LEFT_Q8),
            WeightType::Q4 => plain.tiles(q4, blocks::neon::LEFT_Q4),
        }
    }

    #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
    fn simd128(weight_type: WeightType) -> Self {
        let plain = Self {
            stream: None,
            stream_rows: simd128::STREAM_ROWS,
            stream_up_to: simd128::STREAM_UP_TO,
            widen: None,
            completes_only: false,
            tile: simd128::tile_f32,
            first_tile: None,
            tile_rows: simd128::ROWS,
            row_multiple: 1,
            block_rows: BLOCK_ROWS,
            block_bytes: BLOCK_BYTES,
            asks_ahead: false,
            around: None,
            left: Left::Float,
            store: simd128::store,
            pack: simd128::pack,
            unpacked: None,
        };
        match weight_type {
            WeightType::F32 => plain.streaming(simd128::stream_f32),
            WeightType::F16 => plain
                .streaming(simd128::stream_f16)
                .widening(simd128::widen_f16),
            WeightType::Bf16 => plain
                .streaming(simd128::stream_bf16)
                .widening(simd128::widen_bf16),
            WeightType::Int8 => plain.tiles(simd128::tile_int8, Left::Int8 { shifted: false }),
            WeightType::Q8 => plain.tiles(blocks::simd128::tile_q8, blocks::simd128::LEFT_Q8),
            WeightType::Q4 => plain.tiles(blocks::simd128::tile_q4, blocks::simd128::LEFT_Q4),
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn avx2(weight_type: WeightType) -> Self {
        let plain = Self {
            stream: None,
            stream_rows: avx2::STREAM_ROWS,
            stream_up_to: avx2::STREAM_UP_TO,
            widen: None,
            completes_only: false,
            tile: avx2::tile_f32,
            first_tile: None,
            tile_rows: if weight_type.is_integer() {
                avx2::INTEGER_ROWS
            } else {
                avx2::ROWS
            },
            row_multiple: 1,
            block_rows: BLOCK_ROWS,
            block_bytes: BLOCK_BYTES,
            asks_ahead: false,
            around: None,
            left: Left::Float,
            store: avx2::store,
            pack: avx2::pack,
            unpacked: None,
        };
        match weight_type {
            WeightType::F32 => Self {
                unpacked: Some(InPlace::Rows(avx2::rows_f32)),
                ..plain.streaming(avx2::stream_f32)
            },
            WeightType::F16 => plain.streaming(avx2::stream_f16).widening(avx2::widen_f16),
            WeightType::Bf16 => plain
                .streaming(avx2::stream_bf16)
                .widening(avx2::widen_bf16),
            WeightType::Int8 => plain.tiles(avx2::tile_int8, Left::Int8 { shifted: false }),
            WeightType::Q8 => plain.tiles(blocks::avx2::tile_q8, blocks::avx2::LEFT_Q8),
            WeightType::Q4 => plain.tiles(blocks::avx2::tile_q4, blocks::avx2::LEFT_Q4),
        }
    }

    /// None for types that would lose digits.
    #[cfg(target_arch = "x86_64")]
    fn amx(weight_type: WeightType, m: usize) -> Option<Self> {
        // A single strip meets each panel once, as it comes from memory.
        let streams = m <= amx::ROWS;
        let plain = Self {
            tile_rows: amx::ROWS,
            row_multiple: amx::TILE_ROWS,
            block_rows: MAX_BLOCK_ROWS,
            block_bytes: 2 * BLOCK_BYTES,
            stream: None,
            asks_ahead: false,
            around: Some((amx::begin, amx::end)),
            pack: amx::pack,
            unpacked: Some(InPlace::Image(
                amx::first_image,
                amx::next_image,
                amx::round,
            )),
            first_tile: Some(amx::first_bf16),
            ..Self::avx512(weight_type, true).tiles(amx::tile_bf16, Left::Bf16Rows)
        };
        Some(match weight_type {
            WeightType::F32 | WeightType::F16 => return None,
            WeightType::Bf16 => Self {
                first_tile: Some(if streams {
                    amx::stream_bf16
                } else {
                    amx::first_bf16
                }),
                completes_only: true,
                ..plain
            }
            .widening(amx::widen_bf16),
            WeightType::Int8 => Self {
                first_tile: Some(if streams {
                    amx::stream_int8
                } else {
                    amx::first_int8
                }),
                unpacked: None,
                completes_only: true,
                ..plain.tiles(amx::tile_int8, Left::Int8Rows)
            }
            .widening(amx::widen_int8),
            WeightType::Q8 => plain.widening(amx::widen_q8),
            WeightType::Q4 => plain.widening(amx::widen_q4),
        })
    }

    #[cfg(target_arch = "x86_64")]
    fn avx512(weight_type: WeightType, dot: bool) -> Self {
        let plain = Self {
            stream: None,
            stream_rows: avx512::STREAM_ROWS,
            stream_up_to: STREAM_ROWS,
            widen: None,
            completes_only: false,
            tile: avx512::tile_f32,
            first_tile: None,
            tile_rows: avx512::ROWS,
            row_multiple: 1,
            block_rows: BLOCK_ROWS,
            block_bytes: BLOCK_BYTES,
            asks_ahead: false,
            around: None,
            left: Left::Float,
            store: avx512::store,
            pack: if dot { avx512::pack_dot } else { avx512::pack },
            unpacked: None,
        };
        match weight_type {
            WeightType::F32 => Self {
                unpacked: Some(InPlace::Rows(avx512::rows_f32)),
                ..plain.streaming(avx512::stream_f32)
            },
            WeightType::F16 => plain
                .streaming(avx512::stream_f16)
                .widening(avx512::widen_f16),
            WeightType::Bf16 if dot => Self {
                asks_ahead: true,
                first_tile: Some(avx512_bf16::first_tile),
                unpacked: Some(InPlace::Image(
                    avx512_bf16::first_image,
                    avx512_bf16::next_image,
                    avx512_bf16::round,
                )),
                ..plain.tiles(avx512_bf16::tile, Left::Bf16)
            }
            .streaming(avx512::stream_bf16),
            WeightType::Bf16 => plain
                .streaming(avx512::stream_bf16)
                .widening(avx512::widen_bf16),
            WeightType::Int8 => Self {
                asks_ahead: true,
                first_tile: Some(avx512::first_int8),
                ..plain.tiles(avx512::tile_int8, Left::Int8 { shifted: true })
            },
            WeightType::Q8 => Self {
                asks_ahead: true,
                ..plain.tiles(blocks::avx512::tile_q8, blocks::avx512::LEFT_Q8)
            },
            WeightType::Q4 => Self {
                asks_ahead: true,
                ..plain.tiles(blocks::avx512::tile_q4, blocks::avx512::LEFT_Q4)
            },
        }
    }

    fn streaming(self, stream: StreamFn) -> Self {
        Self {
            stream: Some(stream),
            ..self
        }
    }

    fn widening(self, widen: WidenFn) -> Self {
        Self {
            widen: Some(widen),
            ..self
        }
    }

    fn tiles(self, tile: TileFn, left: Left) -> Self {
        Self { tile, left, ..self }
    }
}
