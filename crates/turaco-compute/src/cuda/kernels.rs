//! The kernels, by the module they are compiled in and their name there.

use super::plan::grids::{Card, FewRows, has_tiles, matvec_cut, matvec_cuts};
use super::plan::{FEW_ROWS, FEW_ROWS_IN_TILES};
use crate::device::WeightType;

/// A file of kernels, compiled for one choice of what is settled before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Module {
    /// Few rows times a matrix.
    Matvec(WeightType, MatvecCut),
    /// Many rows times a matrix; rows of a tile.
    Matmul(WeightType, u32),
    Lookup(WeightType),
    Append,
    /// Attention of few queries; columns of a head, and queries of a block.
    Decode(u32, u32),
    /// The same where it appends one new position of each sequence itself.
    DecodeAppend(u32, u32),
    /// Attention of several queries; columns of a head, and whether all products are in f32.
    Attention(u32, bool),
    Scores(u32),
    Map,
    Rows,
    Lstm(WeightType),
    History,
    Choose,
    Filter,
    Publish,
}

/// How `matvec.cu` cuts its work: rows and outputs of a block, warps that share its inputs out, the bytes of weights that each of
/// them asks for ahead, the bytes that the block has for inputs, and whether weights have two halves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct MatvecCut {
    pub rows: u32,
    pub columns: u32,
    pub warps: u32,
    pub ring: u32,
    pub room: u32,
    pub gated: bool,
}

const PRELUDE: &str = include_str!("kernels/prelude.cuh");
const STATES: &str = include_str!("kernels/states.cuh");
const LINEAR: &str = include_str!("kernels/linear.cuh");
const ATTENTION: &str = include_str!("kernels/attention.cuh");
const APPEND: &str = include_str!("kernels/append.cuh");
const DECODE_APPEND: &str = include_str!("kernels/decode_append.cuh");
const DECODE: &str = include_str!("kernels/decode.cu");
const CHOICE: &str = include_str!("kernels/choose.cuh");

impl Module {
    /// Its name, for people and files.
    pub fn name(self) -> String {
        match self {
            Self::Matvec(weights, cut) => {
                format!(
                    "matvec-{}-{}-{}-{}{}-{}-{}",
                    weights.name(),
                    cut.rows,
                    cut.columns,
                    cut.warps,
                    if cut.gated { "-gated" } else { "" },
                    cut.ring,
                    cut.room
                )
            }
            Self::Matmul(weights, rows) => format!("matmul-{}-{rows}", weights.name()),
            Self::Lookup(weights) => format!("lookup-{}", weights.name()),
            Self::Append => "append".into(),
            Self::Decode(columns, queries) => format!("decode-{columns}-{queries}"),
            Self::DecodeAppend(columns, queries) => format!("decode-append-{columns}-{queries}"),
            Self::Attention(columns, true) => format!("attention-{columns}-exact"),
            Self::Attention(columns, false) => format!("attention-{columns}"),
            Self::Scores(columns) => format!("scores-{columns}"),
            Self::Map => "map".into(),
            Self::Rows => "rows".into(),
            Self::Lstm(weights) => format!("lstm-{}", weights.name()),
            Self::History => "history".into(),
            Self::Choose => "choose".into(),
            Self::Filter => "filter".into(),
            Self::Publish => "publish".into(),
        }
    }

    /// Its source.
    pub fn source(self) -> String {
        let parts: &[&str] = match self {
            Self::Matvec(..) => &[LINEAR, include_str!("kernels/matvec.cu")],
            Self::Matmul(..) => &[LINEAR, include_str!("kernels/matmul.cu")],
            Self::Lookup(_) => &[LINEAR, include_str!("kernels/lookup.cu")],
            Self::Append => &[STATES, ATTENTION, APPEND, include_str!("kernels/append.cu")],
            Self::Decode(..) => &[STATES, ATTENTION, DECODE],
            Self::DecodeAppend(..) => &[STATES, ATTENTION, APPEND, DECODE_APPEND, DECODE],
            Self::Attention(..) => &[STATES, ATTENTION, include_str!("kernels/attention.cu")],
            Self::Scores(_) => &[STATES, ATTENTION, include_str!("kernels/scores.cu")],
            Self::Map => &[include_str!("kernels/map.cu")],
            Self::Rows => &[include_str!("kernels/rows.cu")],
            Self::Lstm(_) => &[STATES, include_str!("kernels/lstm.cu")],
            Self::History => &[STATES, include_str!("kernels/history.cu")],
            Self::Choose => &[CHOICE, include_str!("kernels/choose.cu")],
            Self::Filter => &[CHOICE, include_str!("kernels/filter.cu")],
            Self::Publish => &[include_str!("kernels/publish.cu")],
        };
        [&[PRELUDE], parts].concat().join("\n")
    }

    /// What is settled when it is compiled.
    pub fn defines(self) -> Vec<String> {
        let weights = |weights: WeightType| {
            let number = WeightType::ALL.iter().position(|&other| other == weights);
            format!("WEIGHTS={}", number.unwrap_or(0))
        };
        match self {
            Self::Matvec(kind, cut) => vec![
                weights(kind),
                format!("ROWS={}", cut.rows),
                format!("COLUMNS={}", cut.columns),
                format!("WARPS={}", cut.warps),
                format!("GATED={}", u8::from(cut.gated)),
                format!("RING={}", cut.ring),
                format!("ROOM={}", cut.room),
            ],
            Self::Matmul(kind, rows) => vec![weights(kind), format!("TILE_ROWS={rows}")],
            Self::Lookup(kind) | Self::Lstm(kind) => vec![weights(kind)],
            Self::Decode(columns, queries) => {
                vec![format!("COLUMNS={columns}"), format!("QUERIES={queries}")]
            }
            Self::DecodeAppend(columns, queries) => vec![
                format!("COLUMNS={columns}"),
                format!("QUERIES={queries}"),
                "APPENDS=1".into(),
            ],
            Self::Attention(columns, exact) => {
                vec![
                    format!("COLUMNS={columns}"),
                    format!("EXACT={}", u8::from(exact)),
                ]
            }
            Self::Scores(columns) => vec![format!("COLUMNS={columns}")],
            _ => Vec::new(),
        }
    }

    /// Shared memory that a block of its kernels has beside what they have themselves.
    pub fn shared_bytes(self) -> u32 {
        match self {
            Self::Matvec(_, cut) => cut.warps * cut.ring + cut.room,
            _ => 0,
        }
    }

    /// Every file of kernels at least once, with every type of weights that it takes.
    pub fn samples(card: Card) -> Vec<Self> {
        let mut all = vec![
            Self::Append,
            Self::Map,
            Self::Rows,
            Self::History,
            Self::Choose,
            Self::Filter,
            Self::Publish,
            Self::Attention(128, false),
            Self::Attention(64, true),
            Self::Decode(128, 4),
            Self::DecodeAppend(128, 4),
            Self::Scores(64),
        ];
        for weights in WeightType::ALL {
            let few = |rows, panels, gated| {
                let map = FewRows {
                    rows,
                    weights,
                    panels,
                    inputs: 1024,
                    gated,
                };
                Self::Matvec(weights, matvec_cut(&map, card))
            };
            all.extend([
                few(1, card.processors + 1, true),
                few(8, card.processors / 2, false),
            ]);
            all.push(Self::Matmul(weights, 128));
            all.extend([Self::Lookup(weights), Self::Lstm(weights)]);
        }
        all
    }

    /// Those that models of common sizes call on a card.
    pub fn common(card: Card) -> Vec<Self> {
        let mut all = vec![
            Self::Append,
            Self::Map,
            Self::Rows,
            Self::Lstm(WeightType::F32),
            Self::History,
            Self::Choose,
            Self::Filter,
            Self::Publish,
        ];
        for weights in WeightType::ALL {
            all.push(Self::Lookup(weights));
            all.extend([64, 128].map(|rows| Self::Matmul(weights, rows)));
            let most = match has_tiles(weights) {
                true => FEW_ROWS_IN_TILES,
                false => FEW_ROWS,
            };
            for rows in std::iter::successors(Some(1), |rows| Some(2 * rows))
                .take_while(|&rows| rows <= most)
            {
                let cuts = matvec_cuts(rows, weights, card);
                all.extend(cuts.into_iter().map(|cut| Self::Matvec(weights, cut)));
            }
        }
        // Heads of test-size models are narrow.
        for columns in [32, 64, 128] {
            all.extend([true, false].map(|exact| Self::Attention(columns, exact)));
            for queries in [1, 2, 4, 8] {
                all.push(Self::Decode(columns, queries));
                all.push(Self::DecodeAppend(columns, queries));
            }
            all.push(Self::Scores(columns));
        }
        all
    }
}
