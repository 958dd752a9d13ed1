//! What the talker is given before it speaks: vectors of text and of the codec, added up position by position.
//!
//! The layouts are those of `Qwen3TTSForConditionalGeneration.generate` and `generate_icl_prompt`.

use super::{Qwen3Tts, Runner};
use crate::{Control, Result};

/// The voice that a prompt asks for.
#[derive(Debug, Clone, Copy)]
pub enum VoicePrompt<'a> {
    /// None: it is described, or left to the model.
    None,
    /// A row of the codec embedding.
    Speaker(u32),
    /// A vector of the speaker encoder, as wide as the talker.
    Vector(&'a [f32]),
    /// A vector and the recording that it is from.
    InContext(&'a [f32], Reference<'a>),
    /// The voice of a recording without a vector: what this model said before. The layout of a recording in context; not
    /// among the reference's.
    Continued(Reference<'a>),
}

/// A recording and what is said in it.
#[derive(Debug, Clone, Copy)]
pub struct Reference<'a> {
    /// Codes of its frames, `[frames, n_codes]`.
    pub codes: &'a [u32],
    /// Tokens of its text.
    pub text: &'a [u32],
}

/// A turn of the one that speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// Tokens that open it.
    pub role: Vec<u32>,
    /// Tokens of the text.
    pub text: Vec<u32>,
}

/// What to say, and how.
#[derive(Debug, Clone, Copy)]
pub struct PromptRequest<'a> {
    /// The text.
    pub turn: &'a Turn,
    /// Tokens of the whole instruction turn; empty without one.
    pub instruct: &'a [u32],
    /// The codec's entry of the language; `None` leaves it to the model.
    pub language: Option<u32>,
    /// The voice.
    pub voice: VoicePrompt<'a>,
    /// The whole text in front (`false`), or one token in front and one beside each frame.
    pub streams_text: bool,
}

/// A prompt, ready for the talker.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    /// `[positions, dim]`.
    pub rows: Vec<f32>,
    /// Text vectors for the frames that follow, `[frames, dim]`; behind them comes [`pad`](Self::pad).
    pub trailing: Vec<f32>,
    /// The vector of "no more text", `[dim]`.
    pub pad: Vec<f32>,
}

impl Prompt {
    /// The text vector that goes with frame `frame`, `[dim]`.
    pub fn word_beside(&self, frame: usize, dim: usize) -> &[f32] {
        let word = self.trailing.get(frame * dim..(frame + 1) * dim);
        word.unwrap_or(&self.pad)
    }

    /// The prompt and all frames `codes [frames, n_codes]` that followed it, `[positions, dim]`: what a talker reads that takes
    /// over.
    pub fn rows_behind(&self, model: &Qwen3Tts, codes: &[u32]) -> Vec<f32> {
        let dim = self.pad.len();
        let mut rows = self.rows.clone();
        for (frame, codes) in codes.chunks_exact(model.config.n_codes).enumerate() {
            let at = rows.len();
            rows.extend_from_slice(self.word_beside(frame, dim));
            model.add_frame(codes, &mut rows[at..]);
        }
        rows
    }
}

impl Qwen3Tts {
    /// The tokens of a turn. The reference tokenises `<|im_start|>assistant\n` + text + `<|im_end|>…` and cuts it by position,
    /// so that line ends in front of the text become part of the role.
    pub fn turn(&self, text: &str) -> Turn {
        let tokens = self.tokenizer.encode(&format!("assistant\n{text}"));
        let (role, text) = tokens.split_at(tokens.len().min(2));
        Turn {
            role: [&[self.config.text_tokens.im_start], role].concat(),
            text: text.to_vec(),
        }
    }

    /// The tokens of an instruction: a whole turn of the user.
    pub fn instruct_tokens(&self, instruct: &str) -> Vec<u32> {
        let text = &self.config.text_tokens;
        let mut tokens = vec![text.im_start];
        tokens.extend(self.tokenizer.encode(&format!("user\n{instruct}")));
        tokens.push(text.im_end);
        tokens.extend(self.tokenizer.encode("\n"));
        tokens
    }

    /// The sum of the embeddings of a frame's codes, added to `to [dim]`.
    fn add_frame(&self, codes: &[u32], to: &mut [f32]) {
        for (table, &code) in self.codec_embeddings.iter().zip(codes) {
            table.add_row(code, to);
        }
    }

    /// Whether these are codes of whole frames.
    fn are_codes(&self, codes: &[u32]) -> bool {
        let n_codes = self.config.n_codes;
        codes.len().is_multiple_of(n_codes)
            && codes
                .iter()
                .all(|&code| (code as usize) < self.config.codebook_size)
    }
}

impl PromptRequest<'_> {
    /// Tokens of text that a prompt is made of, wherever they stand in it: no more than these go through the model.
    pub fn n_tokens(&self) -> usize {
        let reference = match self.voice {
            VoicePrompt::InContext(_, reference) | VoicePrompt::Continued(reference) => {
                reference.text.len()
            }
            _ => 0,
        };
        self.instruct.len() + self.turn.role.len() + self.turn.text.len() + reference
    }
}

impl Runner {
    /// Put a prompt together.
    ///
    /// # Errors
    /// A voice vector of another width, codes or tokens that the model does not know, cancellation, or a failed device.
    pub fn prompt(&mut self, request: &PromptRequest<'_>, control: &Control) -> Result<Prompt> {
        let model = self.model().clone();
        let config = model.config();
        let (codec, text) = (&config.codec_tokens, &config.text_tokens);
        let dim = config.talker.dim;
        if let VoicePrompt::Vector(vector) | VoicePrompt::InContext(vector, _) = request.voice
            && vector.len() != dim
        {
            return Err(turaco_compute::Error::Shape {
                what: "voice vector".into(),
                expected: format!("{dim} values (it is from a model of another size)"),
                found: format!("{}", vector.len()),
            }
            .into());
        }
        if let VoicePrompt::InContext(_, reference) | VoicePrompt::Continued(reference) =
            request.voice
            && !model.are_codes(reference.codes)
        {
            return Err(turaco_compute::Error::Shape {
                what: "codes of a reference recording".into(),
                expected: format!(
                    "frames of {} codes below {}",
                    config.n_codes, config.codebook_size
                ),
                found: format!("{} codes of another codec", reference.codes.len()),
            }
            .into());
        }
        let special = self.project_text(&[text.tts_pad, text.tts_bos, text.tts_eos], control)?;
        let (pad, rest) = special.split_at(dim);
        let (bos, eos) = rest.split_at(dim);
        let entry = |id: u32| model.codec_embeddings[0].row(id);

        let mut rows = self.project_text(request.instruct, control)?;
        rows.extend(self.project_text(&request.turn.role, control)?);
        let language = match request.language {
            Some(language) => vec![codec.think, codec.think_bos, language, codec.think_eos],
            None => vec![codec.nothink, codec.think_bos, codec.think_eos],
        };
        for id in language {
            push_sum(&mut rows, pad, &entry(id));
        }
        match request.voice {
            VoicePrompt::None | VoicePrompt::Continued(_) => {}
            VoicePrompt::Speaker(id) => push_sum(&mut rows, pad, &entry(id)),
            VoicePrompt::Vector(vector) | VoicePrompt::InContext(vector, _) => {
                push_sum(&mut rows, pad, vector);
            }
        }
        push_sum(&mut rows, bos, &entry(codec.pad));

        let mut trailing = Vec::new();
        if let VoicePrompt::InContext(_, reference) | VoicePrompt::Continued(reference) =
            request.voice
        {
            let whole: Vec<u32> = [reference.text, &request.turn.text].concat();
            let mut words = self.project_text(&whole, control)?;
            words.extend_from_slice(eos);
            let mut codes = entry(codec.bos);
            for frame in reference.codes.chunks_exact(config.n_codes) {
                let at = codes.len();
                codes.resize(at + dim, 0.0);
                model.add_frame(frame, &mut codes[at..]);
            }
            if request.streams_text {
                for (nth, code) in codes.chunks_exact(dim).enumerate() {
                    let word = words.get(nth * dim..(nth + 1) * dim).unwrap_or(pad);
                    push_sum(&mut rows, word, code);
                }
                trailing.extend_from_slice(words.get(codes.len()..).unwrap_or_default());
            } else {
                let beside_text = entry(codec.pad);
                for word in words.chunks_exact(dim) {
                    push_sum(&mut rows, word, &beside_text);
                }
                for code in codes.chunks_exact(dim) {
                    push_sum(&mut rows, pad, code);
                }
            }
        } else if request.streams_text {
            // Without any text, what comes first is the end of the turn, as in the reference.
            let mut words = match &request.turn.text[..] {
                [] => self.project_text(&[text.im_end], control)?,
                tokens => self.project_text(tokens, control)?,
            };
            words.extend_from_slice(eos);
            push_sum(&mut rows, &words[..dim], &entry(codec.bos));
            trailing.extend_from_slice(&words[dim..]);
        } else {
            let beside_text = entry(codec.pad);
            for word in self
                .project_text(&request.turn.text, control)?
                .chunks_exact(dim)
            {
                push_sum(&mut rows, word, &beside_text);
            }
            push_sum(&mut rows, eos, &beside_text);
            push_sum(&mut rows, pad, &entry(codec.bos));
        }
        Ok(Prompt {
            rows,
            trailing,
            pad: pad.to_vec(),
        })
    }
}

fn push_sum(rows: &mut Vec<f32>, a: &[f32], b: &[f32]) {
    rows.extend(a.iter().zip(b).map(|(a, b)| a + b));
}
