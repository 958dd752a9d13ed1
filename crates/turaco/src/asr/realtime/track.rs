//! The text of one delay: where its decoder is, and what it said.

use crate::models::voxtral_realtime::DecoderState;

use super::events::{Alternative, RealtimeEvent, TrackKind};
use super::guesser::Guesser;
use super::options::Plan;
use super::recognizer::RealtimeRecognizer;
use super::timeline::Timeline;
use super::transcript::{Progress, TextToken, Transcript};

/// Most alternatives of a token that are shown beside it.
const SHOWN_ALTERNATIVES: usize = 2;

/// Candidates that are looked at for alternatives: some may be markers.
pub(super) const CANDIDATES: usize = 8;

/// A decoder on its way along the audio vectors of a session. Vectors are numbered from the start of the stream.
#[derive(Debug)]
pub(super) struct Track {
    pub kind: TrackKind,
    pub decoder: DecoderState,
    /// The vector that goes into the decoder next.
    pub next: usize,
    /// The vector at the decoder's position 0.
    origin: usize,
    /// The first vector that this track does not use any more, once the end is known.
    pub end: Option<usize>,
    /// The token behind the last position.
    token: u32,
    /// Whether the model ended its text.
    ended: bool,
    /// Whether a token other than the end was chosen since the last start.
    said_something: bool,
    transcript: Transcript,
    guesser: Guesser,
    /// Steps that chose a token.
    pub n_steps: usize,
}

/// What may be chosen at a position, best first.
pub(super) struct Candidates<'a> {
    pub tokens: &'a [u32],
    pub logprobs: &'a [f32],
}

/// What tracks of a session share.
#[derive(Clone, Copy)]
pub(super) struct Common<'a> {
    pub recognizer: &'a RealtimeRecognizer,
    pub plan: &'a Plan,
    pub timeline: &'a Timeline,
}

impl Candidates<'_> {
    /// The chosen token and what else it could have been, when that is asked for and it is text. A candidate is shown
    /// while it is less likely by at most the share `cutoff` (as in voxtral.c). Parts of characters are no text: none is
    /// shown beside others, and the caller asks for nothing beside one.
    fn alternatives(&self, recognizer: &RealtimeRecognizer, cutoff: f64) -> Vec<Alternative> {
        let best = self
            .logprobs
            .first()
            .map_or(0.0, |&logprob| f64::from(logprob));
        let ordinary = self
            .tokens
            .iter()
            .zip(self.logprobs)
            .filter_map(|(&token, &logprob)| {
                let text = str::from_utf8(recognizer.tokenizer().text(token)?).ok()?;
                Some((text.to_owned(), f64::from(logprob)))
            });
        ordinary
            .take_while(|(_, logprob)| 1.0 - (logprob - best).exp() <= cutoff)
            .take(1 + SHOWN_ALTERNATIVES)
            .map(|(text, logprob)| Alternative {
                text,
                probability: logprob.exp(),
            })
            .collect()
    }
}

impl Track {
    /// A track whose decoder has gone along the vectors before `next`.
    pub fn new(kind: TrackKind, decoder: DecoderState, next: usize, token: u32) -> Self {
        Self {
            kind,
            decoder,
            next,
            origin: 0,
            end: None,
            token,
            ended: false,
            said_something: true,
            transcript: Transcript::default(),
            guesser: Guesser::default(),
            n_steps: 0,
        }
    }

    /// Vectors that can go in now, if there are `n_vectors` in all.
    pub fn n_ready(&self, n_vectors: usize) -> usize {
        match self.ended {
            true => 0,
            false => self
                .end
                .unwrap_or(usize::MAX)
                .min(n_vectors)
                .saturating_sub(self.next),
        }
    }

    /// Whether the text has ended for good.
    pub fn is_over(&self) -> bool {
        self.ended
    }

    /// Vectors that belong to the prompt and still have to go in, the last of which brings the first token.
    pub fn prompt_left(&self, prompt_len: usize) -> usize {
        (self.origin + prompt_len).saturating_sub(self.next)
    }

    /// The tokens beside the next `count` vectors; within the prompt they are known.
    pub fn tokens(&self, count: usize, recognizer: &RealtimeRecognizer, out: &mut Vec<u32>) {
        let control = recognizer.control();
        let prompt_left = self.prompt_left(recognizer.prompt_len(self.decoder.delay()));
        for index in 0..count {
            out.push(match (prompt_left, self.next + index - self.origin) {
                (0, _) => self.token,
                (_, 0) => control.start,
                _ => control.pad,
            });
        }
    }

    /// How many tokens behind the known one are worth guessing.
    pub fn n_guesses(&self) -> usize {
        self.guesser.n_guesses()
    }

    /// The token beside the next vector, and `count` guesses of those behind it.
    pub fn guesses(&self, count: usize, recognizer: &RealtimeRecognizer, out: &mut Vec<u32>) {
        let mut token = self.token;
        out.push(token);
        for _ in 0..count {
            token = self.guesser.guess(token, recognizer.control().pad);
            out.push(token);
        }
    }

    /// `given` went in, of which all but the first were guesses; `chosen` came out behind each. Keeps what was right and
    /// returns how many positions that is.
    pub fn verify(
        &mut self,
        given: &[u32],
        chosen: &[u32],
        recognizer: &RealtimeRecognizer,
    ) -> usize {
        let pad = recognizer.control().pad;
        let right = given[1..]
            .iter()
            .zip(chosen)
            .take_while(|(guess, token)| guess == token);
        let kept = 1 + right.count();
        self.decoder.forget(given.len() - kept);
        if let (Some(&token), Some(&follower)) = (given.first(), chosen.first()) {
            let was_right = self.guesser.guess(token, pad) == follower;
            self.guesser.judge(was_right);
        }
        for (&token, &follower) in given[..kept].iter().zip(chosen) {
            if follower != recognizer.control().end {
                self.guesser.learn(token, follower);
            }
        }
        kept
    }

    /// `count` vectors went in without a choice.
    pub fn advance(&mut self, count: usize) {
        self.next += count;
    }

    /// `count` vectors went in; these are the candidates for the token behind the last.
    pub fn choose(
        &mut self,
        count: usize,
        candidates: &Candidates<'_>,
        common: Common<'_>,
        events: &mut Vec<RealtimeEvent>,
    ) {
        let Common {
            recognizer,
            plan,
            timeline,
        } = common;
        self.next += count;
        self.n_steps += 1;
        let control = recognizer.control();
        let (Some(&token), Some(&logprob)) =
            (candidates.tokens.first(), candidates.logprobs.first())
        else {
            return;
        };
        // The token behind vector p is about the sound that came `delay` vectors before.
        let heard =
            self.next as i64 - (recognizer.config().n_left_pad + self.decoder.delay()) as i64;
        let seconds = |vectors: i64| {
            let config = recognizer.config();
            let sample = timeline.sound_sample(vectors * config.samples_per_token() as i64);
            sample as f64 / f64::from(config.sample_rate)
        };
        let (start, end) = (seconds(heard - 1), seconds(heard));
        self.token = token;
        if token == control.end {
            self.end_of_text(end, recognizer, plan.continuous, events);
            return;
        }
        self.said_something = true;
        let mut progress = Progress::default();
        match recognizer.tokenizer().text(token) {
            Some(bytes) => {
                let alternatives = match plan.alternatives {
                    Some(cutoff) if str::from_utf8(bytes).is_ok() => {
                        candidates.alternatives(recognizer, cutoff)
                    }
                    _ => Vec::new(),
                };
                let text_token = TextToken {
                    id: token,
                    bytes,
                    alternatives: &alternatives,
                    logprob: f64::from(logprob),
                    start,
                    end,
                };
                self.transcript.token(text_token, &mut progress);
                self.tell(progress, end, alternatives, events);
            }
            None => {
                if token == control.word {
                    self.transcript.announce(start);
                } else {
                    self.transcript.silence(&mut progress);
                }
                self.tell(progress, end, Vec::new(), events);
            }
        }
    }

    /// The model says that nothing follows. In a stream something may: a fresh decoder goes along the last vectors again
    /// with the prompt, so that its first token is the one that is due next, and no sound is lost or heard twice.
    fn end_of_text(
        &mut self,
        time: f64,
        recognizer: &RealtimeRecognizer,
        continues: bool,
        events: &mut Vec<RealtimeEvent>,
    ) {
        self.close(events);
        if self.said_something || !continues {
            events.push(RealtimeEvent::End {
                track: self.kind,
                time,
                continues,
            });
        }
        if !continues {
            self.ended = true;
        } else if self.said_something {
            let prompt_len = recognizer.prompt_len(self.decoder.delay());
            self.decoder.restart();
            self.origin = (self.next + 1).saturating_sub(prompt_len);
            self.next = self.origin;
            self.said_something = false;
        } else {
            // It ends again at once: there is nothing to say.
            self.token = recognizer.control().pad;
        }
    }

    /// The text so far becomes complete.
    pub fn close(&mut self, events: &mut Vec<RealtimeEvent>) {
        let mut progress = Progress::default();
        self.transcript.close(&mut progress);
        let time = progress.words.last().map_or(0.0, |word| word.end);
        self.tell(progress, time, Vec::new(), events);
    }

    fn tell(
        &self,
        progress: Progress,
        time: f64,
        alternatives: Vec<Alternative>,
        events: &mut Vec<RealtimeEvent>,
    ) {
        let track = self.kind;
        if !progress.text.is_empty() {
            events.push(RealtimeEvent::Text {
                track,
                text: progress.text,
                time,
                alternatives,
            });
        }
        let words = progress.words.into_iter();
        events.extend(words.map(|word| RealtimeEvent::Word { track, word }));
        if track == TrackKind::Settled {
            events.extend(progress.segments.into_iter().map(RealtimeEvent::Segment));
        }
    }
}
