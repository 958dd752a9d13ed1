//! Decoding encoded windows: greedy, sampling, beam search.
//!
//! Follows `DecodingTask`, `GreedyDecoder`, `BeamSearchDecoder` and `MaximumLikelihoodRanker` of openai-whisper's
//! `decoding.py`, over any number of windows at once. A step allocates nothing: everything that it needs is kept from
//! the step before.

use std::mem::take;

use crate::models::whisper::{Choice, Sequence, Session, Window};
use crate::recycle::recycle;
use crate::text::compression_ratio;
use crate::tokenizer::WhisperTokenizer;
use crate::{Control, Result, trace};

use super::token_rules::TokenRules;

/// How tokens are searched for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Search {
    /// The most probable token each time.
    Greedy,
    /// `samples` draws at a temperature above 0, the best of which is kept.
    Sample {
        /// Divides the logits.
        temperature: f64,
        /// Sequences drawn.
        samples: usize,
    },
    /// Beam search.
    Beam {
        /// Hypotheses kept.
        size: usize,
        /// The search ends after `round(size * patience)` finished hypotheses.
        patience: f64,
    },
}

impl Search {
    fn n_rows(self) -> usize {
        match self {
            Self::Greedy => 1,
            Self::Sample { samples, .. } => samples.max(1),
            Self::Beam { size, .. } => size.max(1),
        }
    }

    /// 0 except when sampling.
    pub fn temperature(self) -> f64 {
        match self {
            Self::Sample { temperature, .. } => temperature,
            _ => 0.0,
        }
    }
}

/// What goes before the first sampled token.
#[derive(Debug, Clone, Default)]
pub struct Prompt {
    /// All tokens in order: context, start of transcript, language, task, prefix.
    pub tokens: Vec<u32>,
    /// Index of the start-of-transcript token.
    pub sot_index: usize,
    /// How many tokens at the end are a forced prefix, which the timestamp rules see as sampled.
    pub n_prefix: usize,
}

impl Prompt {
    /// The forced tokens at the end.
    fn prefix(&self) -> &[u32] {
        &self.tokens[self.tokens.len() - self.n_prefix..]
    }
}

/// Settings of one decoding run.
#[derive(Debug, Clone, Copy)]
pub struct SearchOptions<'a> {
    /// How to search.
    pub search: Search,
    /// Which tokens may come.
    pub rules: &'a TokenRules,
    /// Most tokens that are sampled.
    pub sample_len: usize,
    /// Google's length normalisation; `None` divides by the length.
    pub length_penalty: Option<f64>,
    /// Divides the logits of tokens that were sampled before; 1 = off.
    pub repetition_penalty: f64,
    /// Seed of sampling, different for every window.
    pub seed: u64,
}

/// The decoded text of one window.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// The forced prefix and the sampled tokens, without the end.
    pub tokens: Vec<u32>,
    /// Text of the tokens, stripped.
    pub text: String,
    /// Mean log-probability, the end included.
    pub avg_logprob: f64,
    /// Probability of the no-speech token at the start of the transcript.
    pub no_speech_prob: f64,
    /// Temperature that was used.
    pub temperature: f64,
    /// Bytes of text over bytes of compressed text.
    pub compression_ratio: f64,
}

/// One hypothesis.
#[derive(Debug, Clone, Default)]
struct Hypothesis {
    tokens: Vec<u32>,
    sum_logprob: f32,
}

impl Hypothesis {
    fn with_capacity(n_tokens: usize) -> Self {
        Self {
            tokens: Vec::with_capacity(n_tokens),
            sum_logprob: 0.0,
        }
    }

    /// Become `parent` and one more token.
    fn follow(&mut self, parent: &Self, candidate: &Candidate) {
        self.tokens.clone_from(&parent.tokens);
        self.tokens.push(candidate.token);
        self.sum_logprob = candidate.sum_logprob;
    }
}

/// One way for the beams of a window to go on.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    /// The beam that it continues.
    row: usize,
    token: u32,
    /// Of the whole hypothesis.
    sum_logprob: f32,
    /// Number of the candidate in the order of rows, which decides between equal scores as in the reference.
    order: usize,
}

/// The hypotheses of one window.
#[derive(Debug)]
struct Group {
    window: usize,
    /// Being extended; for beam search best first.
    active: Vec<Hypothesis>,
    /// Memory for the beams of the next step.
    next: Vec<Hypothesis>,
    /// The row in the step before of each active beam.
    parents: Vec<usize>,
    /// Ended, in the order in which they ended, best first within a step.
    finished: Vec<Hypothesis>,
    no_speech_prob: f64,
}

/// Decodes windows with one session, keeping the memory of sequences and steps for the next call.
#[derive(Debug, Default)]
pub struct WindowDecoder {
    sequences: Vec<Sequence>,
    buffers: Buffers,
}

/// What one step needs, kept for the next one.
#[derive(Debug, Default)]
struct Buffers {
    rows: RowInputs,
    candidates: Vec<Candidate>,
    placement: Placement,
    /// Always empty between steps, as is `sequences`.
    windows: Vec<&'static Window>,
    sequences: Vec<&'static mut Sequence>,
}

/// Host side of a step's inputs, row after row.
#[derive(Debug, Default)]
struct RowInputs {
    last_tokens: Vec<u32>,
    allowed: Vec<u32>,
    seen: Vec<u32>,
    controls: Vec<f32>,
    seeds: Vec<u32>,
    /// What the rules see of one row.
    history: Vec<u32>,
}

/// Which beam's memory goes where.
#[derive(Debug, Default)]
struct Placement {
    /// Whether a new beam has taken over an old one's memory.
    taken: Vec<bool>,
    /// The old row whose memory each new row takes over.
    source: Vec<usize>,
}

impl WindowDecoder {
    /// A decoder without memory yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sequences whose memory is kept.
    pub fn n_sequences(&self) -> usize {
        self.sequences.len()
    }

    /// Decode every window after its prompt. All prompts have the same length.
    ///
    /// # Errors
    /// A prompt that does not fit, a failed device, or cancellation.
    pub fn decode(
        &mut self,
        session: &mut Session,
        tokenizer: &WhisperTokenizer,
        windows: &[&Window],
        prompts: &[Prompt],
        options: &SearchOptions<'_>,
        control: &Control,
    ) -> Result<Vec<Decoded>> {
        let _span = trace::span("search");
        let rows_per_window = options.search.n_rows();
        while self.sequences.len() < windows.len() * rows_per_window {
            self.sequences.push(session.new_sequence()?);
        }
        let mut run = Run {
            session,
            eot: tokenizer.eot(),
            n_text_ctx: 0,
            windows,
            prompts,
            options,
            sequences: &mut self.sequences,
            buffers: &mut self.buffers,
        };
        run.n_text_ctx = run.session.model().config().n_text_ctx;
        let groups = run.search(tokenizer.no_speech(), control)?;
        Ok(groups
            .into_iter()
            .map(|group| {
                let prefix = prompts.get(group.window).map_or(&[][..], Prompt::prefix);
                decoded(group, prefix, tokenizer, options)
            })
            .collect())
    }
}

/// One call of [`WindowDecoder::decode`].
struct Run<'a> {
    session: &'a mut Session,
    eot: u32,
    n_text_ctx: usize,
    windows: &'a [&'a Window],
    prompts: &'a [Prompt],
    options: &'a SearchOptions<'a>,
    sequences: &'a mut Vec<Sequence>,
    buffers: &'a mut Buffers,
}

impl Run<'_> {
    fn search(&mut self, no_speech: u32, control: &Control) -> Result<Vec<Group>> {
        let prompt_len = self.prompts.first().map_or(0, |prompt| prompt.tokens.len());
        let mut groups = self.prefill(no_speech)?;
        let mut done: Vec<Group> = Vec::with_capacity(groups.len());
        let mut sampled = usize::from(!matches!(self.options.search, Search::Sample { .. }));
        loop {
            self.retire(&mut groups, &mut done);
            if groups.is_empty()
                || sampled >= self.options.sample_len
                || prompt_len + sampled > self.n_text_ctx
            {
                break;
            }
            control.check()?;
            self.step(&mut groups, prompt_len)?;
            sampled += 1;
        }
        done.extend(groups);
        done.sort_by_key(|group| group.window);
        Ok(done)
    }

    /// Feed the prompts, choose the first tokens, and spread the prompts' keys over all rows.
    fn prefill(&mut self, no_speech: u32) -> Result<Vec<Group>> {
        let _span = trace::span("prefill");
        let n = self.windows.len();
        let rows = self.options.search.n_rows();
        let prompt_len = self.prompts.first().map_or(0, |prompt| prompt.tokens.len());
        let tokens: Vec<u32> = self
            .prompts
            .iter()
            .flat_map(|p| p.tokens.iter().copied())
            .collect();
        let k = self.candidates();
        let n_tokens = self.options.sample_len + 1;
        let hypotheses = |n| -> Vec<Hypothesis> {
            std::iter::repeat_with(|| Hypothesis::with_capacity(n_tokens))
                .take(n)
                .collect()
        };
        let n_beams = match self.options.search {
            Search::Beam { size, .. } => size,
            _ => 0,
        };
        let mut groups: Vec<Group> = (0..n)
            .map(|window| Group {
                window,
                active: hypotheses(rows),
                next: hypotheses(n_beams),
                parents: Vec::with_capacity(n_beams),
                finished: Vec::new(),
                no_speech_prob: 0.0,
            })
            .collect();
        let sot_index = self.prompts.first().map_or(0, |prompt| prompt.sot_index);
        self.buffers.rows.clear();
        self.buffers.rows.history.reserve(self.n_text_ctx);
        for (window, prompt) in self.prompts.iter().enumerate() {
            let seed = (window as u64, 0);
            self.buffers.rows.push(self.options, prompt, &[], seed);
        }
        // Sequence `window * rows` is the first row of its window.
        let mut firsts: Vec<&mut Sequence> =
            self.sequences.iter_mut().step_by(rows).take(n).collect();
        for sequence in &mut firsts {
            sequence.truncate(0);
        }
        let choice = self.buffers.rows.choice(self.options, k);
        let chosen =
            self.session
                .prefill(&mut firsts, self.windows, &tokens, sot_index, &choice)?;
        let logits = chosen.logits()?;
        let n_vocab = logits.len() / (2 * n).max(1);
        let sampling = matches!(self.options.search, Search::Sample { .. });
        for (w, group) in groups.iter_mut().enumerate() {
            let probe = &logits[2 * w * n_vocab..(2 * w + 1) * n_vocab];
            group.no_speech_prob = softmax_at(probe, no_speech as usize);
            let range = w * k..(w + 1) * k;
            let (tokens, logprobs) = (&chosen.tokens[range.clone()], &chosen.logprobs[range]);
            match self.options.search {
                // All beams are equal at the start, so that one row's candidates are everybody's.
                Search::Beam { size, patience } => {
                    let candidates = &mut self.buffers.candidates;
                    candidates.clear();
                    add_candidates(candidates, &group.active[0], 0, tokens, logprobs);
                    advance_beams(group, candidates, size, patience, self.eot);
                }
                Search::Greedy => {
                    group.active[0].tokens.push(tokens[0]);
                    group.active[0].sum_logprob = logprobs[0];
                }
                // Every row draws for itself in the first step, which repeats the prompt's last token.
                Search::Sample { .. } => {}
            }
        }
        for w in 0..n {
            let (first, others) = self.sequences[w * rows..(w + 1) * rows]
                .split_first_mut()
                .expect("every window has a row");
            for other in others {
                other.truncate(0);
                self.session.copy_sequence(first, other, 0)?;
            }
        }
        if sampling {
            for sequence in &mut self.sequences[..n * rows] {
                sequence.truncate(prompt_len - 1);
            }
        }
        Ok(groups)
    }

    /// One more token for every row of every group.
    fn step(&mut self, groups: &mut [Group], prompt_len: usize) -> Result<()> {
        let _span = trace::span("step");
        let rows = self.options.search.n_rows();
        let k = self.candidates();
        let position = groups.first().map_or(0, |g| g.active[0].tokens.len()) as u64;
        self.buffers.rows.clear();
        for group in groups.iter() {
            let prompt = &self.prompts[group.window];
            for (row, hypothesis) in group.active.iter().enumerate() {
                let seed = ((group.window * rows + row) as u64, position);
                let inputs = &mut self.buffers.rows;
                inputs.push(self.options, prompt, &hypothesis.tokens, seed);
            }
        }
        let mut windows: Vec<&Window> = recycle(take(&mut self.buffers.windows));
        let mut sequences: Vec<&mut Sequence> = recycle(take(&mut self.buffers.sequences));
        // Groups are in the order of their windows.
        let mut decoding = groups.iter().peekable();
        for (window, chunk) in self.sequences.chunks_mut(rows).enumerate() {
            if decoding.next_if(|group| group.window == window).is_some() {
                windows.extend(std::iter::repeat_n(self.windows[window], rows));
                sequences.extend(chunk);
            }
        }
        let choice = self.buffers.rows.choice(self.options, k);
        let last_tokens = &self.buffers.rows.last_tokens;
        let chosen = self
            .session
            .step(&mut sequences, &windows, last_tokens, &choice)?;
        self.buffers.windows = recycle(windows);
        self.buffers.sequences = recycle(sequences);

        let row_choices = chosen.tokens.chunks(k).zip(chosen.logprobs.chunks(k));
        let mut row_choices = row_choices.into_iter();
        for group in groups.iter_mut() {
            let choices = row_choices.by_ref().take(rows);
            match self.options.search {
                Search::Beam { size, patience } => {
                    let candidates = &mut self.buffers.candidates;
                    candidates.clear();
                    for (row, (tokens, logprobs)) in choices.enumerate() {
                        add_candidates(candidates, &group.active[row], row, tokens, logprobs);
                    }
                    advance_beams(group, candidates, size, patience, self.eot);
                }
                _ => {
                    for (hypothesis, (tokens, logprobs)) in group.active.iter_mut().zip(choices) {
                        // A row that has ended repeats its end without a cost.
                        if hypothesis.tokens.last() == Some(&self.eot) {
                            hypothesis.tokens.push(self.eot);
                        } else {
                            hypothesis.tokens.push(tokens[0]);
                            hypothesis.sum_logprob += logprobs[0];
                        }
                    }
                }
            }
        }
        for group in groups.iter() {
            self.reorder(group.window, &group.parents, prompt_len)?;
        }
        Ok(())
    }

    /// Give beam `i` of a window the keys of beam `parents[i]`. Beams that keep a parent move without a copy; only
    /// additional children of the same parent are copied.
    fn reorder(&mut self, window: usize, parents: &[usize], prompt_len: usize) -> Result<()> {
        let rows = parents.len();
        let chunk = &mut self.sequences[window * self.options.search.n_rows()..][..rows];
        let Placement { taken, source } = &mut self.buffers.placement;
        taken.clear();
        taken.resize(rows, false);
        source.clear();
        source.resize(rows, usize::MAX);
        for (slot, &parent) in source.iter_mut().zip(parents) {
            if !taken[parent] {
                taken[parent] = true;
                *slot = parent;
            }
        }
        let mut free = (0..rows).filter(|&row| !taken[row]);
        for (slot, &parent) in source.iter_mut().zip(parents) {
            if *slot == usize::MAX {
                *slot = free.next().expect("as many rows as sources");
                let (from, to) = pair_mut(chunk, parent, *slot);
                to.truncate(prompt_len);
                self.session.copy_sequence(from, to, prompt_len)?;
            }
        }
        permute(chunk, source);
        Ok(())
    }

    /// Move groups that are complete to `done`.
    fn retire(&self, groups: &mut Vec<Group>, done: &mut Vec<Group>) {
        let complete = |group: &Group| match self.options.search {
            Search::Beam { size, patience } => {
                group.finished.len() >= max_finished(size, patience) || group.active.is_empty()
            }
            _ => group
                .active
                .iter()
                .all(|h| h.tokens.last() == Some(&self.eot)),
        };
        let mut i = 0;
        while i < groups.len() {
            if complete(&groups[i]) {
                done.push(groups.remove(i));
            } else {
                i += 1;
            }
        }
    }

    fn candidates(&self) -> usize {
        match self.options.search {
            Search::Beam { size, .. } => (size + 1).min(self.session.model().config().n_vocab),
            _ => 1,
        }
    }
}

impl RowInputs {
    /// Forget all rows.
    fn clear(&mut self) {
        self.last_tokens.clear();
        self.allowed.clear();
        self.seen.clear();
        self.controls.clear();
        self.seeds.clear();
    }

    /// The rules, controls and seed of one more row, after `sampled` tokens. `(row, position)` tells its random numbers
    /// apart from others.
    fn push(
        &mut self,
        options: &SearchOptions<'_>,
        prompt: &Prompt,
        sampled: &[u32],
        (row, position): (u64, u64),
    ) {
        let last = sampled.last().or(prompt.tokens.last());
        self.last_tokens.push(last.copied().unwrap_or_default());
        self.history.clear();
        self.history.extend_from_slice(prompt.prefix());
        self.history.extend_from_slice(sampled);
        let words = options.rules.words();
        let start = self.allowed.len();
        self.allowed.resize(start + words, 0);
        let allowed = &mut self.allowed[start..];
        options
            .rules
            .allowed(&self.history, prompt.n_prefix, allowed);
        let temperature = options.search.temperature() as f32;
        let prefer = f32::from(u8::from(options.rules.timestamps()));
        self.controls
            .extend([temperature, options.repetition_penalty as f32, prefer]);
        let seed = mix(mix(options.seed ^ mix(row)) ^ position);
        self.seeds.extend([seed as u32, (seed >> 32) as u32]);
        if options.repetition_penalty != 1.0 {
            let start = self.seen.len();
            self.seen.resize(start + words, 0);
            for &token in &self.history {
                if let Some(word) = self.seen[start..].get_mut(token as usize / 32) {
                    *word |= 1 << (token % 32);
                }
            }
        }
    }

    fn choice(&self, options: &SearchOptions<'_>, k: usize) -> Choice<'_> {
        Choice {
            allowed: &self.allowed,
            seen: (options.repetition_penalty != 1.0).then_some(self.seen.as_slice()),
            controls: &self.controls,
            seeds: &self.seeds,
            k,
        }
    }
}

fn max_finished(size: usize, patience: f64) -> usize {
    // Python's round: halves go to the even neighbour.
    (size as f64 * patience).round_ties_even().max(1.0) as usize
}

/// Add the ways in which `beam`, row `row` of its window, can go on.
fn add_candidates(
    candidates: &mut Vec<Candidate>,
    beam: &Hypothesis,
    row: usize,
    tokens: &[u32],
    logprobs: &[f32],
) {
    for (&token, &logprob) in tokens.iter().zip(logprobs) {
        if token != u32::MAX {
            candidates.push(Candidate {
                row,
                token,
                sum_logprob: beam.sum_logprob + logprob,
                order: candidates.len(),
            });
        }
    }
}

/// One step of beam search: the best candidates become the beams, `group.parents` the rows that they came from.
fn advance_beams(
    group: &mut Group,
    candidates: &mut [Candidate],
    size: usize,
    patience: f64,
    eot: u32,
) {
    candidates.sort_unstable_by(|a, b| {
        let by_score = b.sum_logprob.total_cmp(&a.sum_logprob);
        by_score.then(a.order.cmp(&b.order))
    });
    let Group {
        active,
        next,
        parents,
        finished,
        ..
    } = group;
    parents.clear();
    for candidate in candidates.iter() {
        let parent = &active[candidate.row];
        if candidate.token == eot {
            if finished.len() < max_finished(size, patience) {
                let mut hypothesis = Hypothesis::with_capacity(parent.tokens.len() + 1);
                hypothesis.follow(parent, candidate);
                finished.push(hypothesis);
            }
        } else {
            next[parents.len()].follow(parent, candidate);
            parents.push(candidate.row);
            if parents.len() == size {
                break;
            }
        }
    }
    let Some(&last) = parents.last() else {
        active.clear();
        return;
    };
    // Fewer candidates than beams (tiny vocabularies): the rest repeats the last as a passenger of no value.
    while parents.len() < size {
        let (made, rest) = next.split_at_mut(parents.len());
        rest[0].tokens.clone_from(&made[made.len() - 1].tokens);
        rest[0].sum_logprob = f32::NEG_INFINITY;
        parents.push(last);
    }
    std::mem::swap(active, next);
}

/// Choose the best hypothesis of a window.
fn decoded(
    group: Group,
    prefix: &[u32],
    tokenizer: &WhisperTokenizer,
    options: &SearchOptions<'_>,
) -> Decoded {
    let Group {
        active,
        mut finished,
        no_speech_prob,
        ..
    } = group;
    match options.search {
        Search::Beam { size, .. } => {
            if finished.len() < size {
                let mut rest: Vec<_> = active
                    .into_iter()
                    .filter(|h| h.sum_logprob > f32::NEG_INFINITY)
                    .collect();
                rest.sort_by(|a, b| b.sum_logprob.total_cmp(&a.sum_logprob));
                finished.extend(rest.into_iter().take(size - finished.len()));
            }
        }
        _ => finished = active,
    }
    let eot = tokenizer.eot();
    let mut best: Option<(f64, Hypothesis)> = None;
    for mut hypothesis in finished {
        let length = hypothesis
            .tokens
            .iter()
            .position(|&t| t == eot || t == u32::MAX);
        hypothesis
            .tokens
            .truncate(length.unwrap_or(hypothesis.tokens.len()));
        let length = hypothesis.tokens.len() as f64;
        let penalty = match options.length_penalty {
            None => length.max(1.0),
            Some(alpha) => ((5.0 + length) / 6.0).powf(alpha),
        };
        let score = f64::from(hypothesis.sum_logprob) / penalty;
        if best.as_ref().is_none_or(|(top, _)| score > *top) {
            best = Some((score, hypothesis));
        }
    }
    let hypothesis = best.map(|(_, hypothesis)| hypothesis).unwrap_or_default();
    // The prefix is part of what was said, as in faster-whisper.
    let tokens = [prefix, &hypothesis.tokens].concat();
    let text = tokenizer.decode(&tokens).trim().to_owned();
    Decoded {
        avg_logprob: f64::from(hypothesis.sum_logprob) / (hypothesis.tokens.len() as f64 + 1.0),
        no_speech_prob,
        temperature: options.search.temperature(),
        compression_ratio: compression_ratio(&text),
        tokens,
        text,
    }
}

/// `softmax(logits)[index]`.
pub fn softmax_at(logits: &[f32], index: usize) -> f64 {
    let Some(&logit) = logits.get(index) else {
        return 0.0;
    };
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&l| f64::from((l - max).exp())).sum();
    f64::from((logit - max).exp()) / sum
}

/// Two different elements of a slice.
fn pair_mut<T>(slice: &mut [T], from: usize, to: usize) -> (&T, &mut T) {
    if from < to {
        let (left, right) = slice.split_at_mut(to);
        (&left[from], &mut right[0])
    } else {
        let (left, right) = slice.split_at_mut(from);
        (&right[0], &mut left[to])
    }
}

/// `slice[i] = old slice[source[i]]` for a permutation `source`, by swaps.
fn permute<T>(slice: &mut [T], source: &mut [usize]) {
    for i in 0..slice.len() {
        let mut from = source[i];
        // Elements before i were swapped away: follow where they went.
        while from < i {
            from = source[from];
        }
        slice.swap(i, from);
        source[i] = from;
    }
}

/// SplitMix64's finaliser: neighbouring inputs give unrelated outputs.
pub fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn permute_moves_every_element_to_its_place(order in Just((0..9usize).collect::<Vec<_>>()).prop_shuffle()) {
            let old: Vec<usize> = (100..109).collect();
            let mut new = old.clone();
            permute(&mut new, &mut order.clone());
            prop_assert_eq!(new, order.iter().map(|&i| old[i]).collect::<Vec<_>>());
        }
    }

    fn group(active: &[(&[u32], f32)]) -> Group {
        Group {
            window: 0,
            next: vec![Hypothesis::default(); active.len()],
            parents: Vec::new(),
            active: active
                .iter()
                .map(|(tokens, sum)| Hypothesis {
                    tokens: tokens.to_vec(),
                    sum_logprob: *sum,
                })
                .collect(),
            finished: Vec::new(),
            no_speech_prob: 0.0,
        }
    }

    #[test]
    fn beams_keep_the_best_and_finished_ones_leave() {
        let mut group = group(&[(&[1], -1.0), (&[2], -2.0)]);
        let mut candidates = Vec::new();
        for (row, tokens, logprobs) in [
            (0, [9, 3, 4], [-0.1, -0.5, -3.0]),
            (1, [3, 9, 5], [-0.2, -0.3, -9.0]),
        ] {
            let beam = &group.active[row];
            add_candidates(&mut candidates, beam, row, &tokens, &logprobs);
        }
        advance_beams(&mut group, &mut candidates, 2, 1.0, 9);
        assert_eq!(group.parents, [0, 1]);
        let tokens: Vec<_> = group.active.iter().map(|h| h.tokens.clone()).collect();
        assert_eq!(tokens, [[1, 3], [2, 3]]);
        // The second end (-2.3) ranks below the second beam (-2.2): the walk had stopped before it.
        assert_eq!(group.finished.len(), 1);
        assert_eq!(group.finished[0].tokens, [1, 9]);
    }

    #[test]
    fn equal_scores_keep_the_order_of_rows() {
        let mut group = group(&[(&[1], -1.0), (&[2], -1.0), (&[3], -1.0)]);
        let mut candidates = Vec::new();
        for row in 0..3 {
            let tokens = [7, 8].map(|token| token + 10 * row as u32);
            add_candidates(
                &mut candidates,
                &group.active[row],
                row,
                &tokens,
                &[-0.5; 2],
            );
        }
        advance_beams(&mut group, &mut candidates, 3, 1.0, 0);
        let tokens: Vec<_> = group.active.iter().map(|h| h.tokens.clone()).collect();
        assert_eq!(tokens, [[1, 7], [1, 8], [2, 17]]);
    }

    #[test]
    fn missing_candidates_leave_passengers_or_nothing() {
        let mut few = group(&[(&[1], -1.0), (&[2], -2.0)]);
        let mut candidates = Vec::new();
        add_candidates(
            &mut candidates,
            &few.active[1],
            1,
            &[5, u32::MAX],
            &[-0.5, 0.0],
        );
        advance_beams(&mut few, &mut candidates, 2, 1.0, 9);
        assert_eq!(few.parents, [1, 1]);
        assert_eq!(few.active[1].tokens, [2, 5]);
        assert_eq!(few.active[1].sum_logprob, f32::NEG_INFINITY);
        advance_beams(&mut few, &mut [], 2, 1.0, 9);
        assert!(few.active.is_empty() && few.parents.is_empty());
    }

    #[test]
    fn patience_rounds_like_the_reference() {
        assert_eq!(max_finished(5, 1.0), 5);
        assert_eq!(max_finished(3, 2.0), 6);
        assert_eq!(max_finished(5, 0.5), 2);
        assert_eq!(max_finished(1, 0.1), 1);
    }
}
