//! One stream of sound on its way to text.

use std::sync::Arc;
use std::time::Instant;

use crate::asr::timings::Timings;
use crate::audio::Resampler;
use crate::features::LogMelStream;
use crate::models::voxtral_realtime::{EncoderState, Runner};
use crate::trace;
use crate::{Error, Result};

use super::events::{RealtimeEvent, TrackKind};
use super::options::Plan;
use super::recognizer::RealtimeRecognizer;
use super::timeline::Timeline;
use super::track::{Common, Track};

/// A stream of sound on its way to text. Dropping it at any moment frees all it holds.
///
/// What comes out depends on the sound alone, not on the sizes of the pieces it is pushed in. Memory does not grow with
/// the length of the stream.
#[derive(Debug)]
pub struct RealtimeSession {
    pub(super) recognizer: Arc<RealtimeRecognizer>,
    pub(super) plan: Plan,
    incoming: Option<Incoming>,
    stream: LogMelStream,
    /// Frames that were not encoded yet, `[frame][mel]`.
    pub(super) frames: Vec<f32>,
    pub(super) encoder: EncoderState,
    /// The audio vectors from number `first_vector` on, `[vectors][dim]`.
    pub(super) vectors: Vec<f32>,
    pub(super) first_vector: usize,
    pub(super) tracks: Vec<Track>,
    timeline: Timeline,
    /// Samples of sound and of inserted silence, at the model's rate.
    n_sound: u64,
    n_silence: u64,
    /// More than one interval of sound is encoded at a time, where it is there.
    hurried: bool,
    /// Frames that are encoded although they are no whole chunk.
    pub(super) flushing: bool,
    finished: bool,
    events: Vec<RealtimeEvent>,
    timings: RealtimeTimings,
}

/// The rate of the sound since the start or the last silence.
#[derive(Debug)]
struct Incoming {
    sample_rate: u32,
    /// To the model's rate, where it is another.
    resampler: Option<Resampler>,
}

/// Where the time of a session went.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[non_exhaustive]
pub struct RealtimeTimings {
    /// Seconds for log-mel features.
    pub features: f64,
    /// Seconds in the encoder; of a run for several sessions, this session's share.
    pub encoder: f64,
    /// Seconds in the decoder for prompts.
    pub prefill: f64,
    /// Seconds in the decoder for tokens; of a batch, this session's share.
    pub decoder: f64,
    /// Tokens that were chosen, markers of all kinds included.
    pub steps: usize,
    /// Steps of the decoder after prompts: fewer than tokens, where several were guessed right at once.
    pub passes: usize,
    /// Tokens of text.
    pub text_tokens: usize,
    /// Pieces of sound that were encoded.
    pub chunks: usize,
    /// Runs of the encoder: of one for several sessions, this session's share, so that those of all sessions add up.
    pub encoder_runs: f64,
}

impl From<RealtimeTimings> for Timings {
    fn from(timings: RealtimeTimings) -> Self {
        Self {
            features: timings.features,
            encoder: timings.encoder,
            decoder: timings.prefill + timings.decoder,
            windows: timings.chunks,
            tokens: timings.steps,
            ..Self::default()
        }
    }
}

impl RealtimeSession {
    pub(super) fn new(recognizer: Arc<RealtimeRecognizer>, plan: Plan) -> Result<Self> {
        let mut worker = recognizer.take_worker();
        let started = Instant::now();
        let session = Self::at_start(&recognizer, plan, &mut worker.runner);
        recognizer.give_back(worker);
        let mut session = session?;
        session.timings.prefill = started.elapsed().as_secs_f64();
        Ok(session)
    }

    fn at_start(
        recognizer: &Arc<RealtimeRecognizer>,
        plan: Plan,
        runner: &mut Runner,
    ) -> Result<Self> {
        let start = recognizer.silent_start(runner)?;
        let mut encoder = runner.new_encoder_state(plan.most_tokens)?;
        runner.copy_encoder_state(&start.encoder, &mut encoder)?;
        let n_vectors = start.vectors.len() / recognizer.config().decoder.dim;
        let kinds = [
            (TrackKind::Settled, Some(plan.delay)),
            (TrackKind::Draft, plan.draft),
        ];
        let mut tracks = Vec::new();
        for (kind, delay) in kinds {
            let Some(delay) = delay else { continue };
            let decoder = recognizer.silent_decoder(runner, delay, &start.vectors)?;
            let pad = recognizer.control().pad;
            tracks.push(Track::new(kind, decoder, n_vectors, pad));
        }
        Ok(Self {
            recognizer: Arc::clone(recognizer),
            plan,
            incoming: None,
            stream: start.stream.clone(),
            frames: start.frames.clone(),
            encoder,
            vectors: start.vectors.clone(),
            first_vector: 0,
            tracks,
            timeline: Timeline::default(),
            n_sound: 0,
            n_silence: 0,
            hurried: false,
            flushing: false,
            finished: false,
            events: Vec::new(),
            timings: RealtimeTimings::default(),
        })
    }

    /// The loaded model.
    pub fn recognizer(&self) -> &Arc<RealtimeRecognizer> {
        &self.recognizer
    }

    /// Seconds of sound that were pushed.
    pub fn seconds(&self) -> f64 {
        self.n_sound as f64 / f64::from(self.recognizer.config().sample_rate)
    }

    /// Where the time went.
    pub fn timings(&self) -> RealtimeTimings {
        RealtimeTimings {
            steps: self.tracks.iter().map(|track| track.n_steps).sum(),
            ..self.timings
        }
    }

    /// Hear more: mono samples at `sample_rate` (which may change behind a [`flush`](Self::flush) only), and tell what came
    /// of it.
    ///
    /// # Errors
    /// A stream that was finished, another rate than before, or a failed device.
    pub fn push(&mut self, samples: &[f32], sample_rate: u32) -> Result<Vec<RealtimeEvent>> {
        self.feed(samples, sample_rate)?;
        self.advance()?;
        Ok(self.take_events())
    }

    /// Bring out what was said so far, as at the end of a sentence: the model hears silence until its text is complete.
    /// The stream goes on behind that silence, which does not count in times.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn flush(&mut self) -> Result<Vec<RealtimeEvent>> {
        self.feed_silence()?;
        self.advance()?;
        self.close_texts();
        Ok(self.take_events())
    }

    /// The end of the sound: the rest of the text.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn finish(&mut self) -> Result<Vec<RealtimeEvent>> {
        self.feed_end()?;
        self.advance()?;
        self.close_texts();
        Ok(self.take_events())
    }

    /// Take samples without doing any of the work; [`RealtimeBatch`](super::RealtimeBatch) does it for several
    /// sessions at once.
    ///
    /// # Errors
    /// A stream that was finished, or another rate than before.
    pub fn feed(&mut self, samples: &[f32], sample_rate: u32) -> Result<()> {
        self.check_open()?;
        let incoming = match &mut self.incoming {
            Some(incoming) => incoming,
            none => {
                let wanted = self.recognizer.config().sample_rate;
                let resampler = match sample_rate == wanted {
                    true => None,
                    false => Some(Resampler::new(sample_rate, wanted)?),
                };
                none.insert(Incoming {
                    sample_rate,
                    resampler,
                })
            }
        };
        if incoming.sample_rate != sample_rate {
            return Err(Error::InvalidOption {
                option: "sample_rate",
                message: format!(
                    "{sample_rate} Hz in the middle of a stream of {} Hz",
                    incoming.sample_rate
                ),
            });
        }
        let mut resampled = Vec::new();
        let samples = match &mut incoming.resampler {
            None => samples,
            Some(resampler) => {
                resampler.push(samples, &mut resampled);
                &resampled
            }
        };
        self.n_sound += samples.len() as u64;
        self.hear(samples);
        Ok(())
    }

    /// Samples or silence to frames. What is not a number is silence. Nothing is kept of what no text is made of.
    fn hear(&mut self, samples: &[f32]) {
        if self.is_over() {
            self.frames.clear();
            return;
        }
        let started = Instant::now();
        let _span = trace::span("mel");
        let log_mel = self.recognizer.log_mel();
        if samples.iter().all(|sample| sample.is_finite()) {
            log_mel.push(&mut self.stream, samples, &mut self.frames);
        } else {
            let mended: Vec<f32> = samples
                .iter()
                .map(|&sample| if sample.is_finite() { sample } else { 0.0 })
                .collect();
            log_mel.push(&mut self.stream, &mended, &mut self.frames);
        }
        self.timings.features += started.elapsed().as_secs_f64();
    }

    /// The silence that brings out the rest of the text.
    pub(super) fn feed_silence(&mut self) -> Result<()> {
        self.check_open()?;
        self.drain_resampler();
        let config = self.recognizer.config();
        let per_token = config.samples_per_token() as u64;
        let so_far = self.n_sound + self.n_silence;
        let right_pad = config.right_pad(self.plan.longest_delay()) as u64;
        let silence = so_far.next_multiple_of(per_token) - so_far + right_pad * per_token;
        self.timeline.insert(so_far, silence);
        self.n_silence += silence;
        self.hear(&vec![0.0; silence as usize]);
        self.flushing = true;
        Ok(())
    }

    pub(super) fn feed_end(&mut self) -> Result<()> {
        self.feed_silence()?;
        self.finished = true;
        // The last frames look half a window ahead.
        let half_window = self.recognizer.config().n_fft / 2;
        self.hear(&vec![0.0; half_window]);
        let config = self.recognizer.config();
        let per_token = config.samples_per_token() as u64;
        let total = (self.n_sound + self.n_silence) / per_token + config.n_left_pad as u64;
        let longest = self.plan.longest_delay();
        for track in &mut self.tracks {
            // A shorter delay needs less silence.
            let unused = longest - track.decoder.delay();
            track.end = Some(total as usize - unused);
        }
        Ok(())
    }

    fn drain_resampler(&mut self) {
        if let Some(resampler) = self.incoming.take().and_then(|sound| sound.resampler) {
            let mut rest = Vec::new();
            resampler.finish(&mut rest);
            self.n_sound += rest.len() as u64;
            self.hear(&rest);
        }
    }

    fn check_open(&self) -> Result<()> {
        if self.finished {
            return Err(Error::InvalidOption {
                option: "session",
                message: "the stream was finished; begin a new session".into(),
            });
        }
        Ok(())
    }

    /// Do the work that the sound so far allows.
    fn advance(&mut self) -> Result<()> {
        let recognizer = Arc::clone(&self.recognizer);
        let mut worker = recognizer.take_worker();
        let done = worker.advance(&mut [self]);
        recognizer.give_back(worker);
        done
    }

    /// Whether the model ended its text and is not asked to go on: no sound changes anything any more.
    pub fn is_over(&self) -> bool {
        self.tracks.iter().all(Track::is_over)
    }

    /// Whether the encoder has heard anything yet: those that have and those that have not share no run.
    pub(super) fn encoder_has_begun(&self) -> bool {
        self.encoder.has_begun()
    }

    /// The events that were not taken yet.
    pub fn take_events(&mut self) -> Vec<RealtimeEvent> {
        std::mem::take(&mut self.events)
    }

    /// Give up the rest of the sound: what was heard of a sentence that is still open becomes a segment.
    pub fn close(&mut self) -> Vec<RealtimeEvent> {
        self.finished = true;
        self.close_texts();
        self.take_events()
    }

    pub(super) fn close_texts(&mut self) {
        let before = self.events.len();
        for track in &mut self.tracks {
            track.close(&mut self.events);
        }
        self.keep_within_sound(before);
    }

    /// The silence that brings out the rest of a text is no part of what was said.
    fn keep_within_sound(&mut self, first: usize) {
        let rate = f64::from(self.recognizer.config().sample_rate);
        let heard = self.n_sound as f64 / rate;
        for event in &mut self.events[first..] {
            event.keep_within(heard);
        }
    }

    /// Audio vectors made so far.
    pub(super) fn n_vectors(&self) -> usize {
        self.first_vector + self.vectors.len() / self.recognizer.config().decoder.dim
    }

    /// Frames to encode now: whole chunks, and when flushing what is left of whole tokens.
    pub(super) fn frames_ready(&self) -> usize {
        let config = self.recognizer.config();
        let per_token = config.frames_per_token() * config.n_mels;
        let tokens = self.frames.len() / per_token;
        let chunk = self.plan.chunk_tokens;
        let most = match self.hurried {
            true => self.plan.most_tokens / chunk,
            false => 1,
        };
        match (tokens / chunk).min(most) {
            0 if self.flushing => tokens * per_token,
            chunks => chunks * chunk * per_token,
        }
    }

    /// Seconds of sound that are encoded at a time in a hurry.
    pub(super) fn most_seconds(&self) -> f64 {
        self.plan.most_tokens as f64 * self.recognizer.config().token_seconds()
    }

    /// Whether to encode the sound that waits in long pieces instead of one interval after the other: less
    /// work for a machine that does not keep up. The text comes no later, as the sound is there already.
    pub fn hurry(&mut self, hurried: bool) {
        self.hurried = hurried;
    }

    /// The first `len` values of the frames were encoded to these vectors, in this share of a run of so many seconds.
    pub(super) fn encoded(&mut self, len: usize, vectors: &[f32], seconds: f64, share: f64) {
        self.vectors.extend_from_slice(vectors);
        self.frames.drain(..len);
        if self.frames_ready() == 0 {
            self.flushing = false;
        }
        self.timings.chunks += 1;
        self.timings.encoder_runs += share;
        self.timings.encoder += seconds * share;
    }

    /// The vectors from number `first` on.
    pub(super) fn vectors_from(&self, first: usize, count: usize) -> &[f32] {
        let dim = self.recognizer.config().decoder.dim;
        &self.vectors[(first - self.first_vector) * dim..][..count * dim]
    }

    /// Let a track hear what was chosen.
    pub(super) fn choose(
        &mut self,
        track: usize,
        count: usize,
        candidates: &super::track::Candidates<'_>,
    ) {
        let common = Common {
            recognizer: &self.recognizer,
            plan: &self.plan,
            timeline: &self.timeline,
        };
        let before = self.events.len();
        self.tracks[track].choose(count, candidates, common, &mut self.events);
        self.keep_within_sound(before);
        let texts = self.events[before..].iter();
        let is_text = |event: &&RealtimeEvent| matches!(event, RealtimeEvent::Text { .. });
        self.timings.text_tokens += texts.filter(is_text).count();
        self.forget_old_vectors();
    }

    /// Keep the vectors that a fresh start may need again.
    fn forget_old_vectors(&mut self) {
        let prompt = self.recognizer.prompt_len(self.plan.longest_delay());
        let slowest = self.tracks.iter().map(|track| track.next).min();
        let needed = slowest.unwrap_or(0).saturating_sub(prompt);
        // Not for every single one.
        if needed >= self.first_vector + prompt {
            let dim = self.recognizer.config().decoder.dim;
            self.vectors.drain(..(needed - self.first_vector) * dim);
            self.first_vector = needed;
        }
    }

    pub(super) fn add_prefill(&mut self, seconds: f64) {
        self.timings.prefill += seconds;
    }

    pub(super) fn add_decoder_step(&mut self, seconds: f64) {
        self.timings.decoder += seconds;
        self.timings.passes += 1;
    }
}
