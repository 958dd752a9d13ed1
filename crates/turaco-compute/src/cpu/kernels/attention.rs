//! Attention with online softmax (Dao et al. 2022; Milakov and Gimelshein 2018): keys are visited in blocks, and the
//! sum so far is rescaled when a block raises the maximum, so that no matrix of all scores exists.

use crate::cpu::cache::{CacheNumber, KEY_BLOCK, Layer};
use crate::graph::{AttentionShape, Mask};

use super::Rows;

/// Where keys and values come from.
pub(crate) trait KeyValues {
    /// `scores[i] = q . key[start + i]` for the head at columns `column..column + q.len()`.
    fn scores(&self, q: &[f32], column: usize, start: usize, scores: &mut [f32]);
    /// `out += weight * value[position]` for the head at columns `column..column + out.len()`.
    fn add_value(&self, column: usize, position: usize, weight: f32, out: &mut [f32]);
}

impl KeyValues for (Rows<'_>, Rows<'_>) {
    fn scores(&self, q: &[f32], column: usize, start: usize, scores: &mut [f32]) {
        for (index, score) in scores.iter_mut().enumerate() {
            *score = dot(q, &self.0.row(start + index)[column..][..q.len()]);
        }
    }

    fn add_value(&self, column: usize, position: usize, weight: f32, out: &mut [f32]) {
        let value = &self.1.row(position)[column..][..out.len()];
        for (out, &value) in out.iter_mut().zip(value) {
            *out += weight * value;
        }
    }
}

impl<T: CacheNumber> KeyValues for Layer<'_, T> {
    fn scores(&self, q: &[f32], column: usize, start: usize, scores: &mut [f32]) {
        // Blocks of the kernel and of the cache may be shifted against each other under a window.
        let mut done = 0;
        while done < scores.len() {
            let position = start + done;
            let (block, lane) = (position / KEY_BLOCK, position % KEY_BLOCK);
            let count = (KEY_BLOCK - lane).min(scores.len() - done);
            let keys =
                &self.keys[(block * self.kv_dim + column) * KEY_BLOCK..][..q.len() * KEY_BLOCK];
            let mut sums = [0.0_f32; KEY_BLOCK];
            for (&q, keys) in q.iter().zip(keys.chunks_exact(KEY_BLOCK)) {
                for (sum, key) in sums.iter_mut().zip(keys) {
                    *sum += q * key.widen();
                }
            }
            scores[done..done + count].copy_from_slice(&sums[lane..lane + count]);
            done += count;
        }
    }

    fn add_value(&self, column: usize, position: usize, weight: f32, out: &mut [f32]) {
        let value = &self.values[position * self.kv_dim + column..][..out.len()];
        for (out, value) in out.iter_mut().zip(value) {
            *out += weight * value.widen();
        }
    }
}

/// Keys that a query at `position` sees, of `n_keys`.
pub(crate) fn visible(mask: Mask, position: usize, n_keys: usize) -> std::ops::Range<usize> {
    match mask {
        Mask::Full => 0..n_keys,
        Mask::Causal => 0..(position + 1).min(n_keys),
        Mask::Window(width) => {
            let end = (position + 1).min(n_keys);
            (position + 1).saturating_sub(width).min(end)..end
        }
    }
}

/// Attention of one sequence: query `i` is at position `first_position + i`. `captured` gets the scaled scores of the
/// listed heads, head after head, `q.len()` rows of `capacity` each.
pub(crate) fn attention_scalar(
    q: Rows<'_>,
    keys: &impl KeyValues,
    n_keys: usize,
    first_position: usize,
    shape: &AttentionShape,
    out: &mut [f32],
) {
    let AttentionShape {
        n_heads,
        n_kv_heads,
        head_dim,
        scale,
        mask,
    } = *shape;
    let per_kv_head = n_heads / n_kv_heads;
    for (index, (q, out)) in q
        .iter()
        .zip(out.chunks_exact_mut(n_heads * head_dim))
        .enumerate()
    {
        let seen = visible(mask, first_position + index, n_keys);
        for (head, (q, out)) in q
            .chunks_exact(head_dim)
            .zip(out.chunks_exact_mut(head_dim))
            .enumerate()
        {
            let column = head / per_kv_head * head_dim;
            let (mut max, mut sum) = (f32::NEG_INFINITY, 0.0_f32);
            out.fill(0.0);
            for start in seen.clone().step_by(KEY_BLOCK) {
                let mut scores = [0.0; KEY_BLOCK];
                let scores = &mut scores[..KEY_BLOCK.min(seen.end - start)];
                keys.scores(q, column, start, scores);
                let highest = scores
                    .iter()
                    .fold(max, |max, &score| max.max(score * scale));
                let correction = (max - highest).exp();
                if max != highest && max != f32::NEG_INFINITY {
                    sum *= correction;
                    out.iter_mut().for_each(|out| *out *= correction);
                }
                max = highest;
                for (offset, score) in scores.iter().enumerate() {
                    let weight = (score * scale - max).exp();
                    sum += weight;
                    keys.add_value(column, start + offset, weight, out);
                }
            }
            if sum > 0.0 {
                out.iter_mut().for_each(|out| *out /= sum);
            }
        }
    }
}

/// The scaled scores of one head of every query against all keys: `out[i][key]`, rows of `capacity` values.
pub(crate) fn capture_scores_scalar(
    q: Rows<'_>,
    keys: &impl KeyValues,
    n_keys: usize,
    shape: &AttentionShape,
    head: usize,
    capacity: usize,
    out: &mut [f32],
) {
    let column = head / (shape.n_heads / shape.n_kv_heads) * shape.head_dim;
    for (q, out) in q.iter().zip(out.chunks_exact_mut(capacity.max(1))) {
        let out = &mut out[..n_keys];
        keys.scores(
            &q[head * shape.head_dim..][..shape.head_dim],
            column,
            0,
            out,
        );
        out.iter_mut().for_each(|score| *score *= shape.scale);
    }
}

/// Dot product in 16 partial sums.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0_f32; 16];
    let (a16, b16) = (a.chunks_exact(16), b.chunks_exact(16));
    let tail: f32 = a16
        .remainder()
        .iter()
        .zip(b16.remainder())
        .map(|(a, b)| a * b)
        .sum();
    for (a, b) in a16.zip(b16) {
        for lane in 0..16 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f32>() + tail
}
