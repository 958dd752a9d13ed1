//! Constrained choice of the next token; the rules are in [`ChooseTokens`](crate::ChooseTokens).

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
    fn adjusted(&self, token: usize) -> f32 {
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
fn log_sum_exp(values: impl Iterator<Item = f32> + Clone) -> f32 {
    let max = values.clone().fold(f32::NEG_INFINITY, f32::max);
    if max == f32::NEG_INFINITY {
        return max;
    }
    let sum: f64 = values.map(|value| f64::from(value - max).exp()).sum();
    (f64::from(max) + sum.ln()) as f32
}

/// Fill `tokens` and `logprobs` (of equal length `k`) for one row, best first.
pub(crate) fn choose_scalar(choice: &Choice<'_>, tokens: &mut [u32], logprobs: &mut [f32]) {
    let vocabulary = choice.logits.len();
    let split = choice.prefer_from.min(vocabulary);
    let mut first = 0;
    if choice.prefer {
        let preferred = log_sum_exp((split..vocabulary).map(|token| choice.adjusted(token)));
        let highest = (0..split)
            .map(|token| choice.adjusted(token))
            .fold(f32::NEG_INFINITY, f32::max);
        if preferred > highest {
            first = split;
        }
    }
    let total = log_sum_exp((first..vocabulary).map(|token| choice.adjusted(token)));
    let rank = |token: usize| {
        let logit = choice.adjusted(token);
        if choice.temperature > 0.0 && logit > f32::NEG_INFINITY {
            logit / choice.temperature + gumbel(choice.seed, token as u32)
        } else {
            logit
        }
    };
    let mut best = vec![f32::NEG_INFINITY; tokens.len()];
    tokens.fill(u32::MAX);
    for token in first..vocabulary {
        let value = rank(token);
        // Equal values stay behind the earlier token.
        let place = best.partition_point(|&other| other >= value);
        if value > f32::NEG_INFINITY && place < best.len() {
            best[place..].rotate_right(1);
            tokens[place..].rotate_right(1);
            best[place] = value;
            tokens[place] = token as u32;
        }
    }
    for (token, logprob) in tokens.iter().zip(logprobs) {
        *logprob = match *token {
            u32::MAX => f32::NEG_INFINITY,
            token => choice.adjusted(token as usize) - total,
        };
    }
}

/// Noise with the standard Gumbel distribution that depends only on the seed and the token.
///
/// 23 bits of a hash become a number strictly between 0 and 1, all of them exact in f32, so that every device has the
/// same one.
pub(crate) fn gumbel(seed: [u32; 2], token: u32) -> f32 {
    let uniform = ((hash(seed, token) >> 9) as f32 + 0.5) * (1.0 / 8_388_608.0);
    -(-uniform.ln()).ln()
}

/// A counter-based hash: two rounds of the 32-bit finaliser of MurmurHash3, each keyed by one half of the seed.
pub(crate) fn hash(seed: [u32; 2], token: u32) -> u32 {
    let first = mix(token.wrapping_mul(0x9e37_79b9) ^ mix(seed[0]));
    mix(first ^ mix(seed[1].wrapping_add(0x85eb_ca6b)))
}

fn mix(mut x: u32) -> u32 {
    x ^= x >> 16;
    x = x.wrapping_mul(0x85eb_ca6b);
    x ^= x >> 13;
    x = x.wrapping_mul(0xc2b2_ae35);
    x ^ x >> 16
}
