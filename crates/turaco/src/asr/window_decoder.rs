//! Decoding encoded windows: greedy, sampling, beam search.
//!
//! Follows `DecodingTask`, `GreedyDecoder`, `BeamSearchDecoder` and `MaximumLikelihoodRanker` of openai-whisper's
//! `decoding.py`, over any number of windows at once.

use crate::models::whisper::{Choice, Sequence, Session, Window};
use crate::text::compression_ratio;
use crate::tokenizer::WhisperTokenizer;
use crate::{Control, Result};

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
    /// Sampled tokens without the end.
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

/// The hypotheses of one window.
#[derive(Debug)]
struct Group {
    window: usize,
    /// Being extended; for beam search best first.
    active: Vec<Hypothesis>,
    /// Ended, in the order in which they ended, best first within a step.
    finished: Vec<Hypothesis>,
    no_speech_prob: f64,
}

/// Decodes windows with one session, keeping the sequences' memory for the next call.
#[derive(Debug, Default)]
pub struct WindowDecoder {
    sequences: Vec<Sequence>,
    buffers: ChoiceBuffers,
}

/// Host side of a step's inputs.
#[derive(Debug, Default)]
struct ChoiceBuffers {
    allowed: Vec<u32>,
    seen: Vec<u32>,
    controls: Vec<f32>,
    seeds: Vec<u32>,
}

impl WindowDecoder {
    /// A decoder without memory yet.
    pub fn new() -> Self {
        Self::default()
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
            .map(|group| decoded(group, tokenizer, options))
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
    buffers: &'a mut ChoiceBuffers,
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
        let n = self.windows.len();
        let rows = self.options.search.n_rows();
        let prompt_len = self.prompts.first().map_or(0, |prompt| prompt.tokens.len());
        let tokens: Vec<u32> = self
            .prompts
            .iter()
            .flat_map(|p| p.tokens.iter().copied())
            .collect();
        let k = self.candidates();
        let starts: Vec<(&[u32], usize)> = self
            .prompts
            .iter()
            .map(|p| (&p.tokens[p.tokens.len() - p.n_prefix..], p.n_prefix))
            .collect();
        let mut groups: Vec<Group> = (0..n)
            .map(|window| Group {
                window,
                active: vec![Hypothesis::default(); rows],
                finished: Vec::new(),
                no_speech_prob: 0.0,
            })
            .collect();
        let sot_index = self.prompts.first().map_or(0, |prompt| prompt.sot_index);
        let seed_rows: Vec<u64> = (0..n as u64).collect();
        self.fill_choice(&starts, &seed_rows, 0);
        // Sequence `window * rows` is the first row of its window.
        let mut firsts: Vec<&mut Sequence> =
            self.sequences.iter_mut().step_by(rows).take(n).collect();
        for sequence in &mut firsts {
            sequence.truncate(0);
        }
        let choice = self.buffers.choice(self.options, k);
        let chosen =
            self.session
                .prefill(&mut firsts, self.windows, &tokens, sot_index, &choice)?;
        let n_vocab = chosen.logits.len() / (2 * n).max(1);
        let sampling = matches!(self.options.search, Search::Sample { .. });
        for (w, group) in groups.iter_mut().enumerate() {
            let probe = &chosen.logits[2 * w * n_vocab..(2 * w + 1) * n_vocab];
            group.no_speech_prob = softmax_at(probe, no_speech as usize);
            let range = w * k..(w + 1) * k;
            let pairs = chosen.tokens[range.clone()]
                .iter()
                .zip(&chosen.logprobs[range]);
            match self.options.search {
                // All beams are equal at the start, so that one row's candidates are everybody's.
                Search::Beam { size, patience } => {
                    let candidates = pairs
                        .map(|(&token, &logprob)| (0, token, logprob))
                        .collect();
                    advance_beams(group, candidates, size, patience, self.eot);
                }
                Search::Greedy => {
                    for (&token, &logprob) in pairs {
                        group.active[0] = Hypothesis {
                            tokens: vec![token],
                            sum_logprob: logprob,
                        };
                    }
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
        let rows = self.options.search.n_rows();
        let k = self.candidates();
        let n_prefixes: Vec<usize> = self.prompts.iter().map(|p| p.n_prefix).collect();
        let histories: Vec<Vec<u32>> = groups
            .iter()
            .flat_map(|group| {
                let prompt = &self.prompts[group.window];
                let prefix = &prompt.tokens[prompt.tokens.len() - prompt.n_prefix..];
                group
                    .active
                    .iter()
                    .map(move |h| [prefix, &h.tokens].concat())
            })
            .collect();
        let forced: Vec<(&[u32], usize)> = histories
            .iter()
            .enumerate()
            .map(|(i, h)| (h.as_slice(), n_prefixes[groups[i / rows].window]))
            .collect();
        let seed_rows: Vec<u64> = groups
            .iter()
            .flat_map(|group| (0..rows).map(|row| (group.window * rows + row) as u64))
            .collect();
        let position = groups.first().map_or(0, |g| g.active[0].tokens.len());
        self.fill_choice(&forced, &seed_rows, position as u64);
        let last_tokens: Vec<u32> = groups
            .iter()
            .flat_map(|g| {
                let prompt_end = self.prompts[g.window].tokens.last();
                g.active
                    .iter()
                    .map(move |h| h.tokens.last().or(prompt_end).copied().unwrap_or_default())
            })
            .collect();
        let windows: Vec<&Window> = groups
            .iter()
            .flat_map(|g| std::iter::repeat_n(self.windows[g.window], rows))
            .collect();
        let mut in_use = vec![false; self.windows.len()];
        for group in groups.iter() {
            in_use[group.window] = true;
        }
        let mut sequences: Vec<&mut Sequence> = self
            .sequences
            .chunks_mut(rows)
            .zip(&in_use)
            .filter(|(_, used)| **used)
            .flat_map(|(chunk, _)| chunk.iter_mut())
            .collect();
        let choice = self.buffers.choice(self.options, k);
        let chosen = self
            .session
            .step(&mut sequences, &windows, &last_tokens, &choice)?;

        let mut moves: Vec<(usize, Vec<usize>)> = Vec::new();
        for (g, group) in groups.iter_mut().enumerate() {
            let base = g * rows;
            match self.options.search {
                Search::Beam { size, patience } => {
                    let mut candidates = Vec::with_capacity(rows * k);
                    for row in 0..rows {
                        let range = (base + row) * k..(base + row + 1) * k;
                        let pairs = chosen.tokens[range.clone()]
                            .iter()
                            .zip(&chosen.logprobs[range]);
                        candidates.extend(pairs.map(|(&token, &logprob)| (row, token, logprob)));
                    }
                    let parents = advance_beams(group, candidates, size, patience, self.eot);
                    moves.push((group.window, parents));
                }
                _ => {
                    for (row, hypothesis) in group.active.iter_mut().enumerate() {
                        // A row that has ended repeats its end without a cost.
                        if hypothesis.tokens.last() == Some(&self.eot) {
                            hypothesis.tokens.push(self.eot);
                        } else {
                            hypothesis.tokens.push(chosen.tokens[(base + row) * k]);
                            hypothesis.sum_logprob += chosen.logprobs[(base + row) * k];
                        }
                    }
                }
            }
        }
        for (window, parents) in moves {
            self.reorder(window, &parents, prompt_len)?;
        }
        Ok(())
    }

    /// Give beam `i` of a window the keys of beam `parents[i]`. Beams that keep a parent move without a copy; only
    /// additional children of the same parent are copied.
    fn reorder(&mut self, window: usize, parents: &[usize], prompt_len: usize) -> Result<()> {
        let rows = self.options.search.n_rows();
        let chunk = &mut self.sequences[window * rows..(window + 1) * rows];
        let mut taken = vec![false; rows];
        // source[i]: the old row whose memory new row i takes over.
        let mut source = vec![usize::MAX; rows];
        for (i, &parent) in parents.iter().enumerate() {
            if !taken[parent] {
                taken[parent] = true;
                source[i] = parent;
            }
        }
        let mut free = (0..rows)
            .filter(|&row| !taken[row])
            .collect::<Vec<_>>()
            .into_iter();
        let mut copies = Vec::new();
        for (i, slot) in source.iter_mut().enumerate() {
            if *slot == usize::MAX {
                *slot = free.next().expect("as many rows as sources");
                copies.push((parents.get(i).copied().unwrap_or(0), *slot));
            }
        }
        for (from, to) in copies {
            let (from, to) = pair_mut(chunk, from, to);
            to.truncate(prompt_len);
            self.session.copy_sequence(from, to, prompt_len)?;
        }
        permute(chunk, &mut source);
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

    /// Fill the rows' rules, controls and seeds.
    fn fill_choice(&mut self, histories: &[(&[u32], usize)], seed_rows: &[u64], position: u64) {
        let options = self.options;
        let words = options.rules.words();
        let buffers = &mut *self.buffers;
        buffers.allowed.resize(histories.len() * words, 0);
        buffers.controls.clear();
        buffers.seeds.clear();
        buffers.seen.clear();
        for ((&(history, forced), &seed_row), allowed) in histories
            .iter()
            .zip(seed_rows)
            .zip(buffers.allowed.chunks_exact_mut(words))
        {
            options.rules.allowed(history, forced, allowed);
            let temperature = options.search.temperature() as f32;
            let prefer = f32::from(u8::from(options.rules.timestamps()));
            buffers
                .controls
                .extend([temperature, options.repetition_penalty as f32, prefer]);
            let seed = mix(mix(options.seed ^ mix(seed_row)) ^ position);
            buffers.seeds.extend([seed as u32, (seed >> 32) as u32]);
            if options.repetition_penalty != 1.0 {
                let start = buffers.seen.len();
                buffers.seen.resize(start + words, 0);
                for &token in history {
                    if let Some(word) = buffers.seen[start..].get_mut(token as usize / 32) {
                        *word |= 1 << (token % 32);
                    }
                }
            }
        }
    }
}

impl ChoiceBuffers {
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

/// One step of beam search over `(row, token, logprob)` candidates. Returns the parent row of each new beam.
fn advance_beams(
    group: &mut Group,
    candidates: Vec<(usize, u32, f32)>,
    size: usize,
    patience: f64,
    eot: u32,
) -> Vec<usize> {
    let mut scored: Vec<(f32, usize, u32)> = candidates
        .into_iter()
        .filter(|&(_, token, _)| token != u32::MAX)
        .map(|(row, token, logprob)| (group.active[row].sum_logprob + logprob, row, token))
        .collect();
    // Stable, so that equal scores keep the order of rows as in the reference.
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut beams = Vec::with_capacity(size);
    let mut parents = Vec::with_capacity(size);
    let mut newly_finished = Vec::new();
    for (sum_logprob, row, token) in scored {
        let mut tokens = group.active[row].tokens.clone();
        tokens.push(token);
        let hypothesis = Hypothesis {
            tokens,
            sum_logprob,
        };
        if token == eot {
            newly_finished.push(hypothesis);
        } else {
            beams.push(hypothesis);
            parents.push(row);
            if beams.len() == size {
                break;
            }
        }
    }
    for hypothesis in newly_finished {
        if group.finished.len() >= max_finished(size, patience) {
            break;
        }
        group.finished.push(hypothesis);
    }
    if let Some(last) = beams.last().cloned() {
        // Fewer candidates than beams (tiny vocabularies): the rest repeats the last as a passenger of no value.
        while beams.len() < size {
            beams.push(Hypothesis {
                sum_logprob: f32::NEG_INFINITY,
                ..last.clone()
            });
            parents.push(parents[parents.len() - 1]);
        }
    }
    group.active = beams;
    parents
}

/// Choose the best hypothesis of a window.
fn decoded(group: Group, tokenizer: &WhisperTokenizer, options: &SearchOptions<'_>) -> Decoded {
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
    let text = tokenizer.decode(&hypothesis.tokens).trim().to_owned();
    Decoded {
        avg_logprob: f64::from(hypothesis.sum_logprob) / (hypothesis.tokens.len() as f64 + 1.0),
        no_speech_prob,
        temperature: options.search.temperature(),
        compression_ratio: compression_ratio(&text),
        tokens: hypothesis.tokens,
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
        let candidates = vec![
            (0, 9, -0.1),
            (0, 3, -0.5),
            (0, 4, -3.0),
            (1, 3, -0.2),
            (1, 9, -0.3),
            (1, 5, -9.0),
        ];
        let parents = advance_beams(&mut group, candidates, 2, 1.0, 9);
        assert_eq!(parents, [0, 1]);
        let tokens: Vec<_> = group.active.iter().map(|h| h.tokens.clone()).collect();
        assert_eq!(tokens, [[1, 3], [2, 3]]);
        // The second end (-2.3) ranks below the second beam (-2.2): the walk had stopped before it.
        assert_eq!(group.finished.len(), 1);
        assert_eq!(group.finished[0].tokens, [1, 9]);
    }

    #[test]
    fn patience_rounds_like_the_reference() {
        assert_eq!(max_finished(5, 1.0), 5);
        assert_eq!(max_finished(3, 2.0), 6);
        assert_eq!(max_finished(5, 0.5), 2);
        assert_eq!(max_finished(1, 0.1), 1);
    }
}
