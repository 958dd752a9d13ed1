//! Attention to one new position of each sequence appends it itself: what it gives is what a call for the append and one for the
//! attention give, to the bit, in whatever order threads and blocks run.

use turaco_compute::{
    AttentionShape, Bindings, CacheShape, CpuOptions, DType, Device, KvCache, Mask, SlotBinding,
    Step, StepBuilder,
};
use turaco_cuda_emulator::{Behaviour, Order};

use super::{Card, numbers, open};

/// How queries and keys are rotated.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Rotations {
    None,
    Halves,
    Neighbours,
    /// Side by side, in one operation.
    Together,
    /// After a norm of every head.
    Normed,
    KeysAlone,
}

#[derive(Debug, Clone, Copy)]
struct Case {
    dtype: DType,
    ring: bool,
    rotations: Rotations,
    /// Query heads, key heads, and columns of a head.
    heads: (usize, usize, usize),
    lengths: &'static [usize],
    /// Columns before the queries.
    margin: usize,
}

const CASE: Case = Case {
    dtype: DType::F16,
    ring: false,
    rotations: Rotations::Halves,
    heads: (4, 2, 64),
    lengths: &[9],
    margin: 0,
};

/// Positions that a query sees, and those that a ring and another cache have room for: what a ring gives up is the first one out of
/// sight.
const WINDOW: usize = 900;
const RING: usize = 900;
const CAPACITY: usize = 1000;

/// Runs that follow each other.
const STEPS: usize = 3;

impl Case {
    fn kv_dim(&self) -> usize {
        self.heads.1 * self.heads.2
    }

    fn columns(&self) -> usize {
        self.margin + self.heads.0 * self.heads.2 + 2 * self.kv_dim()
    }

    /// Caches with as many positions as the case asks for.
    fn caches(&self, device: &Device) -> Vec<KvCache> {
        let shape = CacheShape {
            n_layers: 2,
            capacity: if self.ring { RING } else { CAPACITY },
            kv_dim: self.kv_dim(),
            head_dim: self.heads.2,
            dtype: self.dtype,
        };
        let filled = |(nth, &length): (usize, &usize)| {
            let mut cache = match self.ring {
                true => device.ring_cache(shape).unwrap(),
                false => device.kv_cache(shape).unwrap(),
            };
            let mut left = length;
            while left > 0 {
                let rows = left.min(RING);
                left -= rows;
                let mut step = StepBuilder::new(device);
                let [k, v] = [0, 1].map(|_| step.input(rows, shape.kv_dim));
                let slot = step.cache_slot();
                step.cache_append(slot, 1, k, v).unwrap();
                let mut step = step.finish().unwrap();
                let given = [1, 2].map(|seed| numbers(rows * shape.kv_dim, seed + 10 * nth + left));
                step.run(&mut Bindings {
                    inputs: &[&given[0], &given[1]],
                    ids: &[],
                    slots: &mut [SlotBinding::Write(&mut [&mut cache])],
                })
                .unwrap();
            }
            cache
        };
        self.lengths.iter().enumerate().map(filled).collect()
    }

    /// One new position of each sequence; one that shows its scores appends in a call of its own.
    fn step(&self, device: &Device, shows_scores: bool) -> Step {
        let (n, (n_heads, n_kv_heads, head_dim)) = (self.lengths.len(), self.heads);
        let (width, kv_dim) = (n_heads * head_dim, self.kv_dim());
        let mut step = StepBuilder::new(device);
        let x = step.input(n, self.columns());
        let positions = step.input_ids(n, 1);
        let slot = step.cache_slot();
        let columns =
            |step: &mut StepBuilder, at, width| step.columns(x, self.margin + at, width).unwrap();
        let q = columns(&mut step, 0, width);
        let k = columns(&mut step, width, kv_dim);
        let v = columns(&mut step, width + kv_dim, kv_dim);
        let neighbours = self.rotations == Rotations::Neighbours;
        let rotate = |step: &mut StepBuilder, x| {
            let rotated = step.rope(x, positions, head_dim, 1e4, neighbours);
            rotated.unwrap()
        };
        let (q, k) = match self.rotations {
            Rotations::None => (q, k),
            Rotations::Halves | Rotations::Neighbours => {
                (rotate(&mut step, q), rotate(&mut step, k))
            }
            Rotations::KeysAlone => (q, rotate(&mut step, k)),
            Rotations::Together => {
                let both = columns(&mut step, 0, width + kv_dim);
                let both = rotate(&mut step, both);
                let q = step.columns(both, 0, width).unwrap();
                (q, step.columns(both, width, kv_dim).unwrap())
            }
            Rotations::Normed => {
                let gammas = [3, 4].map(|seed| device.vector(&numbers(head_dim, seed)).unwrap());
                let q = step.rms_norm(q, &gammas[0], 1e-5).unwrap();
                let k = step.rms_norm(k, &gammas[1], 1e-3).unwrap();
                (rotate(&mut step, q), rotate(&mut step, k))
            }
        };
        step.cache_append(slot, 1, k, v).unwrap();
        let shape = AttentionShape {
            n_heads,
            n_kv_heads,
            head_dim,
            scale: 0.4,
            mask: Mask::Window(WINDOW),
        };
        let attended = match shows_scores {
            true => {
                let scores = step.cached_attention_scores(q, slot, 1, n, shape, &[0], 4 * CAPACITY);
                scores.unwrap().0
            }
            false => step.cached_attention(q, slot, 1, n, shape).unwrap(),
        };
        step.output(attended);
        step.finish().unwrap()
    }

    /// Several runs one after the other.
    fn run(&self, device: &Device, shows_scores: bool) -> Vec<f32> {
        let mut caches = self.caches(device);
        let mut step = self.step(device, shows_scores);
        let mut all = Vec::new();
        for nth in 0..STEPS {
            let x = numbers(caches.len() * self.columns(), 50 + nth);
            let positions: Vec<u32> = caches.iter().map(|cache| cache.len() as u32).collect();
            let mut caches: Vec<&mut KvCache> = caches.iter_mut().collect();
            step.run(&mut Bindings {
                inputs: &[&x],
                ids: &[&positions],
                slots: &mut [SlotBinding::Write(&mut caches)],
            })
            .unwrap();
            all.extend_from_slice(step.output(0).unwrap());
        }
        all
    }

    /// Kernels of a run, without the one that writes its results for the host.
    fn calls(&self, card: &Card, device: &Device) -> u64 {
        let mut caches = self.caches(device);
        let mut caches: Vec<&mut KvCache> = caches.iter_mut().collect();
        let mut step = self.step(device, false);
        let before = card.counts();
        step.run(&mut Bindings {
            inputs: &[&numbers(caches.len() * self.columns(), 5)],
            ids: &[&vec![0; caches.len()]],
            slots: &mut [SlotBinding::Write(&mut caches)],
        })
        .unwrap();
        card.counts().since(&before).kernels - 1
    }

    /// That a run on the card takes so many calls, gives the same bits in any order as one that shows its scores, and what the
    /// processor gives.
    fn check(&self, card: &Card, calls: u64) {
        let device = open();
        assert_eq!(self.calls(card, &device), calls, "{self:?}");
        let expected = self.run(&Device::cpu(CpuOptions::default()), false);
        let apart = self.run(&device, true);
        let tolerance = match self.dtype {
            DType::F32 => 2e-5,
            DType::I8 => 3e-2,
            _ => 4e-3,
        };
        for (found, expected) in apart.iter().zip(&expected) {
            assert!(
                (found - expected).abs() <= tolerance,
                "{self:?}: {found}, not {expected}"
            );
        }
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        for order in [Order::Forward, Order::Backward, Order::Shuffled] {
            card.behave(Behaviour::Order(order));
            let found = self.run(&device, false);
            assert_eq!(bits(&found), bits(&apart), "{self:?} {order:?}");
        }
    }
}

#[test]
fn attention_appends_what_is_new_itself() {
    let Some(card) = Card::new() else { return };
    let dtypes = [DType::F32, DType::F16, DType::Bf16, DType::I8];
    // All formats, beyond the end of a ring and in caches that are empty at first.
    for dtype in dtypes {
        for (ring, lengths) in [
            (false, &[0, 400][..]),
            (true, &[RING - 2, 5, 2 * RING - 1, 400, RING + 40]),
        ] {
            for rotations in [Rotations::Halves, Rotations::Normed] {
                let case = Case {
                    dtype,
                    ring,
                    lengths,
                    rotations,
                    ..CASE
                };
                case.check(&card, 1);
            }
        }
    }
    // All rotations, heads of all widths in groups of all sizes, in several parts.
    for (rotations, heads) in [
        (Rotations::None, (3, 3, 64)),
        (Rotations::Halves, (8, 1, 128)),
        (Rotations::Neighbours, (4, 1, 128)),
        (Rotations::Together, (7, 1, 128)),
        (Rotations::Normed, (8, 1, 256)),
        (Rotations::Neighbours, (6, 2, 16)),
        (Rotations::Together, (4, 2, 32)),
        (Rotations::Normed, (10, 2, 8)),
    ] {
        for (dtype, margin) in [(DType::F16, 4), (DType::I8, 0), (DType::F32, 0)] {
            let case = Case {
                dtype,
                rotations,
                heads,
                margin,
                lengths: &[950],
                ..CASE
            };
            case.check(&card, 1);
        }
    }
}

#[test]
fn what_attention_cannot_append_itself_takes_a_call_more() {
    let Some(card) = Card::new() else { return };
    let other = |case: Case| case.check(&card, 2);
    // Two blocks for the queries of a key head, heads that are no power of two, rows that do not come in vectors.
    for heads in [(9, 1, 32), (4, 2, 24), (4, 2, 4)] {
        other(Case { heads, ..CASE });
    }
    other(Case { margin: 2, ..CASE });
    other(Case {
        rotations: Rotations::KeysAlone,
        ..CASE
    });
}
