//! A conversation: what the model was told, kept for the next turn.

use std::sync::Arc;

use super::generation::{Demand, Generation};
use super::message::{AudioClip, Message};
use super::model::ChatModel;
use super::options::ChatOptions;
use super::prompt::{PromptOptions, PromptPart};
use super::token_stream::TokenStream;
use crate::device_queue::{DeviceQueue, Urgency};
use crate::load::memory::{available, refuse};
use crate::models::voxtral_mini::{DecoderState, Draw, Runner};
use crate::{Control, Error, Result};

/// A conversation. Dropping it at any moment frees all it holds.
///
/// Keys and values of the last prompt and of the answer to it stay: of the next prompt only what is new goes through the model.
#[derive(Debug)]
pub struct ChatSession {
    model: Arc<ChatModel>,
    /// The model that was asked for; another one goes on when its device fails.
    original: Arc<ChatModel>,
    /// Whose turns it takes, and how urgently.
    turns: Option<(Arc<DeviceQueue>, Urgency)>,
    pub(super) state: Option<DecoderState>,
    /// What stands at each position of the state.
    pub(super) rows: Vec<Row>,
    /// Sound that rows are about.
    clips: Vec<(u32, AudioClip)>,
    next_clip: u32,
}

/// What a conversation knows: kept, so that another one that begins alike need not hear and read it again.
#[derive(Debug, Default)]
pub(super) struct Memory {
    state: Option<DecoderState>,
    rows: Vec<Row>,
    clips: Vec<(u32, AudioClip)>,
    next_clip: u32,
}

impl Memory {
    /// Positions that are known.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Positions that there is memory for.
    pub fn capacity(&self) -> usize {
        self.state.as_ref().map_or(0, DecoderState::capacity)
    }

    /// Positions at which a prompt is the same.
    pub fn common(&self, prompt: &[PromptPart]) -> usize {
        let mut rows = self.rows.iter().peekable();
        let mut common = 0;
        for part in prompt {
            match part {
                PromptPart::Tokens(ids) => {
                    for id in ids {
                        if rows.next() != Some(&Row::Token(*id)) {
                            return common;
                        }
                        common += 1;
                    }
                }
                PromptPart::Audio(clip) => {
                    let Some(&&Row::Audio { clip: number, .. }) = rows.peek() else {
                        return common;
                    };
                    let mut clips = self.clips.iter();
                    if !clips.any(|(known, heard)| *known == number && heard == clip) {
                        return common;
                    }
                    let is_of =
                        |row: &&Row| matches!(row, Row::Audio { clip, .. } if *clip == number);
                    while rows.next_if(is_of).is_some() {
                        common += 1;
                    }
                }
            }
        }
        common
    }
}

/// What stands at a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Row {
    Token(u32),
    /// Audio vector `index` of a clip.
    Audio {
        clip: u32,
        index: u32,
    },
}

impl ChatSession {
    pub(super) fn new(original: &Arc<ChatModel>) -> Self {
        Self {
            model: original.active(),
            original: Arc::clone(original),
            turns: None,
            state: None,
            rows: Vec::new(),
            clips: Vec::new(),
            next_clip: 0,
        }
    }

    /// The loaded model.
    pub fn model(&self) -> &Arc<ChatModel> {
        &self.model
    }

    /// As [`ChatModel::take_late_warning`], of the model that was asked for.
    pub fn take_late_warning(&self) -> Option<String> {
        self.original.take_late_warning()
    }

    /// Tokens that are kept from the last turn.
    pub fn cached_tokens(&self) -> usize {
        self.rows.len()
    }

    /// Forget everything that was said, and free its memory.
    pub fn clear(&mut self) {
        self.recall(Memory::default());
    }

    /// From now on it uses the device in turns with whoever else takes turns of `queue`.
    pub fn take_turns(&mut self, queue: &Arc<DeviceQueue>, urgency: Urgency) {
        self.turns = Some((Arc::clone(queue), urgency));
    }

    /// What it knows, which it forgets.
    pub(super) fn take_memory(&mut self) -> Memory {
        self.settle();
        Memory {
            state: self.state.take(),
            rows: std::mem::take(&mut self.rows),
            clips: std::mem::take(&mut self.clips),
            next_clip: self.next_clip,
        }
    }

    /// Know what another conversation with the same model knew.
    pub(super) fn recall(&mut self, memory: Memory) {
        self.state = memory.state;
        self.rows = memory.rows;
        self.clips = memory.clips;
        self.next_clip = memory.next_clip;
    }

    /// Go on with another loaded model, which has heard and read nothing yet.
    pub(super) fn move_to(&mut self, model: &Arc<ChatModel>) {
        self.model = Arc::clone(model);
        self.state = None;
        self.rows.clear();
    }

    /// Generate the model's next turn. `messages` is the whole conversation; what it shares with the one before is not computed
    /// again. Work begins with the first call of the returned iterator's `next`, and stops when it is dropped or `control`
    /// is cancelled.
    ///
    /// # Errors
    /// Messages that are no conversation, a system prompt beside sound where the model has none, options outside of their
    /// ranges, a function that is demanded and not there, a prompt that is longer than the model's positions, or too many who wait for turns.
    pub fn generate(
        &mut self,
        messages: &[Message],
        options: &ChatOptions,
        control: &Control,
    ) -> Result<Generation<'_>> {
        let draw = options.draw()?;
        let layout = PromptOptions {
            tools: options.offered(),
            system_as_text: options.system_as_text,
        };
        let model = Arc::clone(&self.model);
        let mut prompt = model.layout().chat(model.tokenizer(), messages, layout)?;
        let names = options.demanded()?;
        let mut begun = None;
        if !names.is_empty() {
            let beginning = (model.layout()).begin_call(model.tokenizer(), &names, options.seed)?;
            prompt.push(PromptPart::Tokens(beginning.clone()));
            begun = Some(Demand { names, beginning });
        }
        let most = options.max_tokens.unwrap_or(ChatOptions::MAX_TOKENS);
        let stream = self.stream(&prompt, draw, most, control)?;
        Ok(Generation::new(stream, options, begun))
    }

    /// Generate tokens behind a prompt, at most so many.
    ///
    /// # Errors
    /// A prompt that is longer than the model's positions.
    pub(crate) fn stream(
        &mut self,
        prompt: &[PromptPart],
        draw: Draw,
        max_tokens: usize,
        control: &Control,
    ) -> Result<TokenStream<'_>> {
        let job = match &self.turns {
            Some((queue, urgency)) => Some(queue.enter(*urgency, control)?),
            None => None,
        };
        let rows = self.lay_out(prompt);
        let positions = self.model.config().max_positions;
        if rows.len() >= positions {
            self.drop_clips(&[]);
            return Err(Error::InvalidOption {
                option: "messages",
                message: format!(
                    "they take {} tokens of the model's {positions}, which leaves none for an answer: leave out the oldest, or \
                     shorten the sound",
                    rows.len()
                ),
            });
        }
        let same = |(a, b): (&Row, &Row)| a == b;
        let common = rows.iter().zip(&self.rows).take_while(|pair| same(*pair));
        // The last row always goes through the model: it tells what comes next.
        let shared = common.count().min(rows.len().saturating_sub(1));
        self.truncate(shared);
        self.drop_clips(&rows);
        let most = max_tokens.min(positions - rows.len());
        Ok(TokenStream::new(self, rows, (draw, most), (job, control)))
    }

    /// The rows of a prompt. Sound that was heard before keeps its number.
    fn lay_out(&mut self, prompt: &[PromptPart]) -> Vec<Row> {
        let model = Arc::clone(&self.model);
        let config = model.config();
        let mut rows = Vec::new();
        for part in prompt {
            match part {
                PromptPart::Tokens(ids) => rows.extend(ids.iter().map(|&id| Row::Token(id))),
                PromptPart::Audio(clip) => {
                    let n_chunks = config.n_chunks(clip.samples().len());
                    let number = self.number_of(clip);
                    let count = (n_chunks * config.tokens_per_chunk()) as u32;
                    rows.extend((0..count).map(|index| Row::Audio {
                        clip: number,
                        index,
                    }));
                }
            }
        }
        rows
    }

    fn number_of(&mut self, clip: &AudioClip) -> u32 {
        let known = self.clips.iter().find(|(_, known)| known == clip);
        if let Some((number, _)) = known {
            return *number;
        }
        let number = self.next_clip;
        self.next_clip += 1;
        self.clips.push((number, clip.clone()));
        number
    }

    /// The sound with a number.
    pub(super) fn clip(&self, number: u32) -> Option<&AudioClip> {
        let found = self.clips.iter().find(|(known, _)| *known == number);
        found.map(|(_, clip)| clip)
    }

    /// Keep only sound that rows of the state or of `prompt` are about.
    fn drop_clips(&mut self, prompt: &[Row]) {
        let first = |row: &Row| match row {
            Row::Audio { clip, index: 0 } => Some(*clip),
            _ => None,
        };
        let used: Vec<u32> = self.rows.iter().chain(prompt).filter_map(first).collect();
        self.clips.retain(|(number, _)| used.contains(number));
    }

    fn truncate(&mut self, n_rows: usize) {
        self.rows.truncate(n_rows);
        if let Some(state) = &mut self.state {
            state.truncate(n_rows);
        }
    }

    /// What is known about rows is what the state holds, whatever failed on the way.
    pub(super) fn settle(&mut self) {
        let position = self.state.as_ref().map_or(0, DecoderState::position);
        let known = self.rows.len().min(position);
        self.truncate(known);
    }

    /// The state, with room for `n_positions`.
    pub(super) fn reserve(
        &mut self,
        runner: &Runner,
        n_positions: usize,
    ) -> Result<&mut DecoderState> {
        let state = match self.state.take() {
            Some(mut state) => {
                if n_positions > state.capacity() {
                    check_memory(runner, n_positions)?;
                    runner.reserve(&mut state, n_positions)?;
                }
                state
            }
            None => {
                check_memory(runner, n_positions)?;
                runner.new_state(n_positions)?
            }
        };
        Ok(self.state.insert(state))
    }
}

fn check_memory(runner: &Runner, n_positions: usize) -> Result<()> {
    refuse(runner.state_bytes(n_positions), available(), || {
        ("messages", format!("of {n_positions} tokens"))
    })
}
