//! Constrained choice of the next token; the rules are in [`ChooseTokens`](crate::ChooseTokens).

use std::ops::Range;

use crate::cpu::simd::{Kernel, Simd, math};

/// What one row of the choice needs.
#[derive(Clone, Copy)]
pub(crate) struct Choice<'a> {
    pub logits: &'a [f32],
    /// Bit `i % 32` of word `i / 32` is token `i`.
    pub allowed: &'a [u32],
    pub seen: Option<&'a [u32]>,
    pub temperature: f32,
    pub penalty: f32,
    pub prefer: bool,
    pub seed: [u32; 2],
    pub prefer_from: usize,
}

fn bit(words: &[u32], index: usize) -> bool {
    words[index / 32] >> (index % 32) & 1 != 0
}

impl Choice<'_> {
    /// The logit of a token after penalty and mask; NaN counts as forbidden.
    pub fn adjusted(&self, token: usize) -> f32 {
        let mut logit = self.logits[token];
        if !bit(self.allowed, token) || logit.is_nan() {
            return f32::NEG_INFINITY;
        }
        if self.penalty != 1.0 && self.seen.is_some_and(|seen| bit(seen, token)) {
            logit = if logit > 0.0 {
                logit / self.penalty
            } else {
                logit * self.penalty
            };
        }
        // An infinite logit would make every probability NaN.
        logit.min(f32::MAX)
    }
}

/// `log(sum(exp(values)))`, minus infinity for nothing.
fn log_sum_exp(values: impl Iterator<Item = f32> + Clone) -> f64 {
    let max = values.clone().fold(f32::NEG_INFINITY, f32::max);
    if max == f32::NEG_INFINITY {
        return f64::from(max);
    }
    let sum: f64 = values.map(|value| f64::from(value - max).exp()).sum();
    f64::from(max) + sum.ln()
}

/// Fill `tokens` and `logprobs` (of equal length `k`) for one row, best first.
pub(crate) struct Choose<'a> {
    pub choice: Choice<'a>,
    pub tokens: &'a mut [u32],
    pub logprobs: &'a mut [f32],
}

/// The best tokens so far, in the slices that become the result.
struct Best<'a> {
    tokens: &'a mut [u32],
    ranks: &'a mut [f32],
}

impl Best<'_> {
    /// What a token has to exceed to be taken.
    fn threshold(&self) -> f32 {
        self.ranks.last().copied().unwrap_or(f32::INFINITY)
    }

    /// Tokens come in ascending order, so equal ranks stay behind the earlier token.
    fn offer(&mut self, token: usize, rank: f32) {
        if rank > self.threshold() {
            let place = self.ranks.partition_point(|&other| other >= rank);
            self.ranks[place..].rotate_right(1);
            self.tokens[place..].rotate_right(1);
            self.ranks[place] = rank;
            self.tokens[place] = token as u32;
        }
    }
}

impl Choose<'_> {
    fn best(&mut self) -> Best<'_> {
        self.tokens.fill(u32::MAX);
        self.logprobs.fill(f32::NEG_INFINITY);
        Best {
            tokens: self.tokens,
            ranks: self.logprobs,
        }
    }

    /// From ranks to log-probabilities.
    fn finish(self, total: f64) {
        for (token, logprob) in self.tokens.iter().zip(self.logprobs) {
            *logprob = match *token {
                u32::MAX => f32::NEG_INFINITY,
                token => (f64::from(self.choice.adjusted(token as usize)) - total) as f32,
            };
        }
    }
}

impl Kernel for Choose<'_> {
    type Output = ();

    fn run_scalar(mut self) {
        let choice = self.choice;
        let vocabulary = choice.logits.len();
        let split = choice.prefer_from.min(vocabulary);
        let mut first = 0;
        if choice.prefer {
            let preferred = log_sum_exp((split..vocabulary).map(|token| choice.adjusted(token)));
            let highest = (0..split)
                .map(|token| choice.adjusted(token))
                .fold(f32::NEG_INFINITY, f32::max);
            if preferred > f64::from(highest) {
                first = split;
            }
        }
        let total = log_sum_exp((first..vocabulary).map(|token| choice.adjusted(token)));
        let mut best = self.best();
        for token in first..vocabulary {
            let logit = choice.adjusted(token);
            if logit > f32::NEG_INFINITY {
                let rank = if choice.temperature > 0.0 {
                    logit / choice.temperature + gumbel(choice.seed, token as u32)
                } else {
                    logit
                };
                best.offer(token, rank);
            }
        }
        self.finish(total);
    }

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let choice = self.choice;
        let vocabulary = choice.logits.len();
        let split = choice.prefer_from.min(vocabulary);
        let mut highest = [f32::NEG_INFINITY; 2];
        for (highest, range) in highest.iter_mut().zip([0..split, split..vocabulary]) {
            *highest = choice.max(s, range);
        }
        let max = highest[0].max(highest[1]);
        if max == f32::NEG_INFINITY {
            self.best();
            return;
        }
        // Both sums are relative to the larger maximum. If the preferred one underflows, it is not preferred either.
        let preferred = choice.sum_exp(s, split..vocabulary, max);
        let (mut first, mut sum) = (0, preferred);
        if choice.prefer && f64::from(max) + preferred.ln() > f64::from(highest[0]) {
            first = split;
        } else {
            sum += choice.sum_exp(s, 0..split, max);
        }
        let best = self.best();
        if choice.temperature > 0.0 {
            choice.draw(s, first..vocabulary, best);
        } else {
            choice.rank(s, first..vocabulary, best);
        }
        self.finish(f64::from(max) + sum.ln());
    }
}

/// Values summed in single precision before they go to the double precision sum.
const SUM_BLOCK: usize = 512;

impl Choice<'_> {
    /// The logits of the tokens from `token` on, adjusted; tokens outside of `range` are minus infinity.
    #[inline(always)]
    fn vector<S: Simd>(&self, s: S, token: usize, range: &Range<usize>) -> S::F32 {
        let never = s.splat(f32::NEG_INFINITY);
        let logits = &self.logits[token..];
        let mut value = if logits.len() >= S::LANES {
            s.load(logits)
        } else {
            s.load_part(logits, f32::NEG_INFINITY)
        };
        if self.penalty != 1.0
            && let Some(seen) = self.seen
        {
            let bits = seen[token / 32] >> (token % 32);
            let penalty = s.splat(self.penalty);
            let positive = s.less(s.splat(0.0), value);
            let changed = s.select(positive, s.div(value, penalty), s.mul(value, penalty));
            value = s.select(s.mask_from_bits(bits), changed, value);
        }
        let mut bits = self.allowed[token / 32] >> (token % 32);
        if token < range.start {
            bits &= u32::MAX << (range.start - token).min(31);
        }
        if token + S::LANES > range.end {
            bits &= (1 << (range.end - token)) - 1;
        }
        // Comparing is false for NaN too.
        let value = s.select(s.less(never, value), s.min(value, s.splat(f32::MAX)), never);
        s.select(s.mask_from_bits(bits), value, never)
    }

    /// The first token of the vector that `range` begins in.
    #[inline(always)]
    fn first_vector<S: Simd>(range: &Range<usize>) -> usize {
        range.start / S::LANES * S::LANES
    }

    /// The largest logit.
    #[inline(always)]
    fn max<S: Simd>(&self, s: S, range: Range<usize>) -> f32 {
        let mut max = s.splat(f32::NEG_INFINITY);
        let mut token = Self::first_vector::<S>(&range);
        while token < range.end {
            max = s.max(max, self.vector(s, token, &range));
            token += S::LANES;
        }
        s.reduce_max(max)
    }

    /// `sum(exp(logit - max))`
    #[inline(always)]
    fn sum_exp<S: Simd>(&self, s: S, range: Range<usize>, max: f32) -> f64 {
        let max = s.splat(max);
        let mut total = 0.0;
        let mut token = Self::first_vector::<S>(&range);
        while token < range.end {
            let end = range.end.min(token + SUM_BLOCK);
            let mut sums = s.splat(0.0);
            while token < end {
                let value = s.sub(self.vector(s, token, &range), max);
                sums = s.add(sums, math::exp(s, value));
                token += S::LANES;
            }
            total += f64::from(s.reduce_sum(sums));
        }
        total
    }

    /// Collect the most probable tokens.
    #[inline(always)]
    fn rank<S: Simd>(&self, s: S, range: Range<usize>, mut best: Best<'_>) {
        let mut token = Self::first_vector::<S>(&range);
        while token < range.end {
            let value = self.vector(s, token, &range);
            let mut better = s.mask_bits(s.less(s.splat(best.threshold()), value));
            if better != 0 {
                let values = s.to_array(value);
                while better != 0 {
                    let lane = better.trailing_zeros() as usize;
                    best.offer(token + lane, values[lane]);
                    better &= better - 1;
                }
            }
            token += S::LANES;
        }
    }

    /// Collect the tokens with the highest sums of logit and noise.
    #[inline(always)]
    fn draw<S: Simd>(&self, s: S, range: Range<usize>, mut best: Best<'_>) {
        let temperature = s.splat(self.temperature);
        let mut token = Self::first_vector::<S>(&range);
        while token < range.end {
            let value = s.div(self.vector(s, token, &range), temperature);
            // No noise is greater, so most vectors need none.
            let reachable = s.add(value, s.splat(MAX_GUMBEL));
            if s.mask_bits(s.less(s.splat(best.threshold()), reachable)) != 0 {
                let mut uniform = [0.0; 16];
                for (lane, uniform) in uniform.iter_mut().enumerate() {
                    *uniform = self::uniform(self.seed, (token + lane) as u32);
                }
                let zero = s.splat(0.0);
                // SAFETY: a vector has at most 16 lanes.
                let exponential = s.sub(zero, math::ln(s, unsafe { s.load_ptr(uniform.as_ptr()) }));
                let values = s.to_array(s.sub(value, math::ln(s, exponential)));
                for (lane, &value) in values[..S::LANES].iter().enumerate() {
                    best.offer(token + lane, value);
                }
            }
            token += S::LANES;
        }
    }
}

/// More than the largest noise, `-ln(-ln(1 - 2^-24))`.
const MAX_GUMBEL: f32 = 16.7;

/// Noise with the standard Gumbel distribution that depends only on the seed and the token.
///
/// 23 bits of a hash become a number strictly between 0 and 1, all of them exact in f32, so that every device has the
/// same one.
fn gumbel(seed: [u32; 2], token: u32) -> f32 {
    -(-uniform(seed, token).ln()).ln()
}

#[inline(always)]
fn uniform(seed: [u32; 2], token: u32) -> f32 {
    ((hash(seed, token) >> 9) as f32 + 0.5) * (1.0 / 8_388_608.0)
}

/// A counter-based hash: two rounds of the 32-bit finaliser of MurmurHash3, each keyed by one half of the seed.
#[inline(always)]
fn hash(seed: [u32; 2], token: u32) -> u32 {
    let first = mix(token.wrapping_mul(0x9e37_79b9) ^ mix(seed[0]));
    mix(first ^ mix(seed[1].wrapping_add(0x85eb_ca6b)))
}

#[inline(always)]
fn mix(mut x: u32) -> u32 {
    x ^= x >> 16;
    x = x.wrapping_mul(0x85eb_ca6b);
    x ^= x >> 13;
    x = x.wrapping_mul(0xc2b2_ae35);
    x ^ x >> 16
}
