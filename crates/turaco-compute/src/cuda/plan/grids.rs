//! Into how many blocks of how many threads calls are cut: what kernels expect, and what keeps a card busy.

use super::super::kernels::MatvecCut;
use crate::cpu::packed::PANEL;
use crate::device::WeightType;
use crate::graph::AttentionShape;

/// Threads of a block of `lookup.cu`, each of which has four columns.
pub(super) const LOOKUP_THREADS: u32 = 128;

/// Threads of a block of `map.cu` and `history.cu`.
pub(super) const MAP_THREADS: u32 = 256;

/// Threads of a block of `rows.cu`; norms of few columns are done by a warp each.
pub(super) const ROW_THREADS: u32 = 256;
pub(super) const MOST_GROUP_COLUMNS: usize = 256;
pub(super) const GROUPS_AT_ONCE: usize = 8;

/// Threads of a block of `statistics`, which has 32 columns.
pub(super) const STATISTICS_THREADS: u32 = 1024;

pub(super) const LSTM_THREADS: u32 = 512;
pub(super) const FILTER_THREADS: u32 = 1024;
pub(super) const CHOICE_THREADS: u32 = 256;

/// Tokens of a slice of `choose.cu`.
pub(super) const CHOICE_SLICE: usize = 1024;

/// Threads of the kernels of attention, and rows or queries of a block.
pub(super) const ATTENTION_THREADS: u32 = 128;
pub(super) const DECODE_THREADS: u32 = 128;
pub(super) const APPEND_THREADS: u32 = 128;
pub(super) const SCORES_THREADS: u32 = 128;
const SCORES_ROWS: usize = 8;

/// Most parts that the keys of a query are cut into.
pub(super) const MOST_SPLITS: usize = 64;

/// Most queries of a block of `decode.cu`, and of a key head of a sequence for it to be used.
pub(super) const MOST_DECODE_QUERIES: usize = 8;
pub(super) const FEW_QUERIES: usize = 16;

/// What of a card decides how calls are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Card {
    pub processors: usize,
    /// Compute capability: 90 for 9.0.
    pub capability: u32,
}

impl Card {
    /// Shared memory that a block may have, in KiB.
    fn shared(self) -> usize {
        match self.capability {
            0..80 => 64,
            80 | 87 => 163,
            90..120 => 227,
            _ => 99,
        }
    }

    /// Bytes of weights that a warp of `matvec.cu` asks for ahead: as many as the blocks that are to be on a processor at once have
    /// room for, and at least those of a step.
    fn ring(self, map: &FewRows, warps: u32, blocks_each: usize) -> usize {
        // Steps of a warp are 4 KiB, as far as they are not of f32.
        let is_large = map.gated && matches!(map.weights, WeightType::F16 | WeightType::Bf16);
        match warps {
            _ if map.weights == WeightType::F32 => 8 << 10,
            _ if self.shared() < 200 && is_large => 8 << 10,
            _ if self.shared() < 200 => 4 << 10,
            4 if blocks_each <= 3 || is_large => 12 << 10,
            4 => 6 << 10,
            // Two blocks of one call, or of two, that begin one beside the other.
            _ => 8 << 10,
        }
    }

    /// Bytes that a block of it has for inputs: all of a long row, where no other block of the call is on the processor; little,
    /// where shared memory is.
    fn room(self, map: &FewRows, blocks_each: usize) -> usize {
        match blocks_each {
            0 | 1 if self.shared() > 200 && map.inputs > LONG_ROW => 60 << 10,
            _ if self.shared() < 200 && map.rows <= 2 => 8 << 10,
            _ => 24 << 10,
        }
    }
}

/// Inputs of which the smaller room holds all.
const LONG_ROW: usize = 4096;

/// What `matvec.cu` has of shared memory beside its rings and its inputs, in KiB, or less.
const MATVEC_SHARED: usize = 5;

/// Warps of it that a processor has registers for.
const MATVEC_WARPS: usize = 16;

/// Bytes of a line of weights.
pub(super) const LINE: usize = 128;

/// A map of few rows.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct FewRows {
    pub rows: usize,
    pub weights: WeightType,
    /// Panels of outputs.
    pub panels: usize,
    pub inputs: usize,
    /// Whether it has as many panels once more, of another half.
    pub gated: bool,
}

/// How few rows times so many panels of outputs are cut: all blocks at once on the card, and each with many loads under way.
pub(in super::super) fn matvec_cut(map: &FewRows, card: Card) -> MatvecCut {
    let processors = card.processors;
    let rows_at_once = map.rows.next_power_of_two();
    let panels = map.panels * map.rows.div_ceil(rows_at_once);
    let (columns, mut warps) = match panels {
        _ if panels > 2 * processors => (32, 4),
        _ if 2 * panels > processors => (32, 8),
        _ if 4 * panels > processors => (16, 8),
        _ => (8, 8),
    };
    let blocks_each = panels.div_ceil(processors);
    let room = card.room(map, blocks_each);
    let ring = |warps| card.ring(map, warps, blocks_each);
    let fits =
        |warps: u32| warps as usize * ring(warps) + room <= (card.shared() - MATVEC_SHARED) << 10;
    while warps > 4 && !fits(warps) {
        warps /= 2;
    }
    MatvecCut {
        rows: rows_at_once as u32,
        columns,
        warps,
        ring: ring(warps) as u32,
        room: room as u32,
        gated: map.gated,
    }
}

/// How many of a call's panels its first blocks read, those that are on the card at once.
pub(super) fn panels_at_once(cut: MatvecCut, panels: usize, card: Card) -> usize {
    let bytes = (cut.warps * cut.ring + cut.room) as usize;
    let have_room = (card.shared() << 10) / bytes;
    let blocks = card.processors * (MATVEC_WARPS / cut.warps as usize).min(have_room.max(1));
    (blocks * cut.columns as usize / PANEL).min(panels)
}

/// Whether products with such weights go through tensor cores of bf16, where the card has them.
pub(in super::super) fn has_tiles(weights: WeightType) -> bool {
    !matches!(weights, WeightType::F32 | WeightType::F16)
}

/// How a matrix product is cut: rows and outputs of a tile, tiles, and parts of the inputs.
#[derive(Debug, Clone, Copy)]
pub(super) struct MatmulCut {
    pub tile: usize,
    pub tiles: usize,
    pub splits: usize,
}

/// The cut for so many rows, outputs and inputs, so that all of the card works.
pub(super) fn matmul_cut(
    rows: usize,
    outputs: usize,
    inputs: usize,
    processors: usize,
) -> MatmulCut {
    let tiles = |tile: usize| rows.div_ceil(tile) * outputs.div_ceil(tile);
    // A few idle processors cost less than smaller tiles.
    let tile = if 4 * tiles(128) >= 3 * processors {
        128
    } else {
        64
    };
    let tiles = tiles(tile);
    let splits = match tiles {
        _ if 4 * tiles >= 3 * processors => 1,
        // Eight steps of 32 inputs at least.
        _ => (2 * processors)
            .div_ceil(tiles.max(1))
            .min(inputs.div_ceil(32) / 8)
            .max(1),
    };
    MatmulCut {
        tile,
        tiles,
        splits,
    }
}

/// The cut of products whose rows must not depend on how many there are: sums are always taken in the same order, which the parts
/// of the inputs decide and tiles do not.
pub(super) fn uniform_cut(
    rows: usize,
    outputs: usize,
    inputs: usize,
    processors: usize,
) -> MatmulCut {
    /// The tiles that one row would have.
    const SMALL: usize = 64;
    /// Partial sums of many rows take memory.
    const FEW_SPLITS: usize = 4;
    let splits = processors / outputs.div_ceil(SMALL).max(1);
    let tile = match outputs {
        0..=SMALL => SMALL,
        _ => matmul_cut(rows, outputs, inputs, processors).tile,
    };
    MatmulCut {
        tile,
        tiles: rows.div_ceil(tile) * outputs.div_ceil(tile),
        splits: splits.min(inputs.div_ceil(32) / 8).clamp(1, FEW_SPLITS),
    }
}

/// Columns that a kernel of attention is made for: those of a head, in units of 32.
pub(super) fn head_columns(shape: &AttentionShape) -> u32 {
    (shape.head_dim as u32).next_multiple_of(32).max(32)
}

/// Queries of a block of attention.
pub(super) fn attention_queries(columns: u32, exact: bool) -> usize {
    match columns {
        0..=64 => 64,
        65..=128 if !exact => 64,
        65..=128 => 32,
        _ => 16,
    }
}

/// How a call of `decode.cu` is cut: queries of a block, blocks for a sequence, and parts of the keys.
#[derive(Debug, Clone, Copy)]
pub(super) struct DecodeCut {
    pub queries: u32,
    pub blocks: usize,
    pub splits: usize,
}

/// The cut for `rows` queries of each of some sequences; if `uniform`, sums do not depend on how many sequences there are.
pub(super) fn decode_cut(
    rows: usize,
    n_sequences: usize,
    shape: &AttentionShape,
    processors: usize,
    uniform: bool,
) -> DecodeCut {
    const FEWEST_SPLITS: usize = 4;
    let of_head = rows * (shape.n_heads / shape.n_kv_heads);
    let queries = of_head.next_power_of_two().min(MOST_DECODE_QUERIES);
    let blocks = shape.n_kv_heads * of_head.div_ceil(queries);
    // Three blocks fit on a processor at once.
    let splits = match uniform {
        true => FEWEST_SPLITS,
        false => 3 * processors / (n_sequences * blocks).max(1),
    };
    let splits = splits.clamp(FEWEST_SPLITS, MOST_SPLITS);
    DecodeCut {
        queries: queries as u32,
        blocks,
        splits,
    }
}

impl DecodeCut {
    /// Values that a sequence's parts take.
    pub fn room(self, columns: u32) -> usize {
        self.blocks * self.splits * self.queries as usize * (columns as usize + 4)
    }
}

/// Blocks of `append.cu` for rows of keys, values and queries together.
pub(super) fn append_grid(rows: usize, columns: usize) -> [usize; 3] {
    [
        rows,
        columns.div_ceil(8 * APPEND_THREADS as usize).max(1),
        1,
    ]
}

pub(super) fn scores_grid(rows: usize, capacity: usize, n_sequences: usize) -> [usize; 3] {
    [
        capacity.div_ceil(SCORES_THREADS as usize),
        rows.div_ceil(SCORES_ROWS),
        n_sequences,
    ]
}

pub(super) fn statistics_grid(columns: usize) -> [usize; 3] {
    [columns.div_ceil(32), 1, 1]
}

/// Slices of so many tokens, each of which is before `split` or behind it.
pub(super) fn choice_slices(tokens: usize, split: usize) -> usize {
    split.div_ceil(CHOICE_SLICE) + (tokens - split).div_ceil(CHOICE_SLICE)
}

/// Blocks of `map.cu` for so many values: threads of many take several, in vectors.
pub(super) fn map_blocks(values: usize, processors: usize) -> usize {
    values.div_ceil(MAP_THREADS as usize).min(8 * processors)
}

/// Words that `choose.cu` finds in a slice of which so many candidates are kept.
pub(super) fn choice_words(kept: usize) -> usize {
    2 + 2 * kept
}

/// All cuts of so many rows that matrices of any size have.
pub(in super::super) fn matvec_cuts(
    rows: usize,
    weights: WeightType,
    card: Card,
) -> Vec<MatvecCut> {
    let processors = card.processors;
    let panels = [
        1,
        processors / 4 + 1,
        processors / 2 + 1,
        processors + 1,
        2 * processors + 1,
        3 * processors + 1,
    ];
    let mut cuts: Vec<MatvecCut> = Vec::new();
    for map in maps(rows, weights, &panels, &[LONG_ROW, LONG_ROW + 1]) {
        let cut = matvec_cut(&map, card);
        if !cuts.contains(&cut) {
            cuts.push(cut);
        }
    }
    cuts
}

/// Maps of so many rows, with all of these numbers of panels and of inputs, gated and not.
fn maps(
    rows: usize,
    weights: WeightType,
    panels: &[usize],
    inputs: &[usize],
) -> impl Iterator<Item = FewRows> {
    let each = move |panels| {
        let of = move |inputs| {
            [false, true].map(|gated| FewRows {
                rows,
                weights,
                panels,
                inputs,
                gated,
            })
        };
        inputs.iter().copied().flat_map(of)
    };
    panels.iter().copied().flat_map(each)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_fit_on_every_card_and_hold_a_step() {
        for capability in [75, 80, 86, 87, 89, 90, 100, 103, 120, 121] {
            let card = Card {
                processors: 132,
                capability,
            };
            for weights in WeightType::ALL {
                for rows in [1, 3, 8, 17, 32] {
                    for cut in matvec_cuts(rows, weights, card) {
                        let bytes = (cut.warps * cut.ring + cut.room) as usize;
                        let room = (card.shared() - MATVEC_SHARED) << 10;
                        assert!(bytes <= room, "{capability} {weights:?} {cut:?}");
                        // 32 inputs of as many outputs as a block has, of both halves of a gate.
                        let size = if weights == WeightType::F32 { 4 } else { 2 };
                        let halves = if cut.gated { 2 } else { 1 };
                        assert!(cut.ring >= halves * 32 * cut.columns * size, "{cut:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn cuts_of_all_maps_are_among_those_that_are_compiled_ahead() {
        const PANELS: [usize; 14] = [
            1, 16, 32, 33, 66, 67, 96, 132, 133, 264, 288, 396, 397, 4096,
        ];
        for capability in [75, 80, 86, 90, 120] {
            let card = Card {
                processors: 132,
                capability,
            };
            for weights in WeightType::ALL {
                for rows in [1, 2, 4, 8] {
                    let known = matvec_cuts(rows, weights, card);
                    for map in maps(rows, weights, &PANELS, &[64, 9216]) {
                        let cut = matvec_cut(&map, card);
                        assert!(known.contains(&cut), "{map:?} {cut:?}");
                    }
                }
            }
        }
    }
}
