//! What sampling may choose from: top-k and top-p; the rules are in [`FilterTokens`](crate::FilterTokens).
//!
//! Plain code on every instruction set: it selects and sorts, once per token.

use crate::cpu::kernels::choose_tokens::Choice;

/// One row.
pub(crate) struct Filter<'a> {
    /// Logits, bit sets, penalty and temperature.
    pub choice: Choice<'a>,
    /// 0 = all.
    pub top_k: usize,
    /// 1 = all.
    pub top_p: f32,
    /// As long as the logits.
    pub scratch: &'a mut [f32],
    pub out: &'a mut [f32],
}

impl Filter<'_> {
    pub fn run(self) {
        let Self {
            choice,
            top_k,
            top_p,
            scratch,
            out,
        } = self;
        for (token, out) in out.iter_mut().enumerate() {
            *out = choice.adjusted(token);
        }
        if choice.temperature <= 0.0 {
            return;
        }
        let mut least = f32::NEG_INFINITY;
        if (1..out.len()).contains(&top_k) {
            scratch.copy_from_slice(out);
            let (_, last, _) = scratch.select_nth_unstable_by(top_k - 1, |a, b| b.total_cmp(a));
            least = *last;
        }
        if top_p < 1.0 {
            let left = keep(out, least, scratch);
            left.sort_unstable_by(|a, b| b.total_cmp(a));
            least = least_of_top_p(left, choice.temperature, top_p).unwrap_or(least);
        }
        for out in out {
            if *out < least {
                *out = f32::NEG_INFINITY;
            }
        }
    }
}

/// The logits that are not below `least`, at the start of `to`.
fn keep<'a>(logits: &[f32], least: f32, to: &'a mut [f32]) -> &'a mut [f32] {
    let mut count = 0;
    for &logit in logits {
        if logit >= least && logit > f32::NEG_INFINITY {
            to[count] = logit;
            count += 1;
        }
    }
    &mut to[..count]
}

/// The lowest logit that stays: one stays if those above it have less than `top_p` together.
fn least_of_top_p(descending: &[f32], temperature: f32, top_p: f32) -> Option<f32> {
    let highest = *descending.first()?;
    let mass = |logit: f32| f64::from((logit - highest) / temperature).exp();
    let total: f64 = descending.iter().map(|&logit| mass(logit)).sum();
    let enough = (f64::from(top_p) * total).max(f64::MIN_POSITIVE);
    let (mut least, mut above) = (highest, 0.0);
    for equal in descending.chunk_by(|a, b| a == b) {
        if above >= enough {
            break;
        }
        least = equal[0];
        above += mass(least) * equal.len() as f64;
    }
    Some(least)
}
