//! How conversations are laid out as tokens, by the version of the vocabulary.
//!
//! Follows the instruct tokenizers of mistral-common: v7, v11 (calls with an id and arguments as parts of their own) and v13
//! (tools before the first turn of the user, calls without ids, a system prompt beside sound).

use std::path::Path;

use serde_json::{Value, json};

use super::message::{AudioClip, Message, Part, Tool, ToolCall, is_call_id, tools_text};
use super::tool_calls::call_id_of;
use crate::text::python::dump_json;
use crate::tokenizer::Tekken;
use crate::weights::invalid;
use crate::{Error, Result};

/// A part of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub enum PromptPart {
    /// Tokens.
    Tokens(Vec<u32>),
    /// Sound, with as many audio tokens as it takes.
    Audio(AudioClip),
}

/// Prompts of one vocabulary.
#[derive(Debug, Clone)]
pub struct PromptLayout {
    version: Version,
    tokens: ControlTokens,
}

/// What is different between the versions of vocabularies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Version {
    V7,
    V11,
    V13,
}

/// Tokens that stand for no text; what is `None` is not in the vocabulary.
#[derive(Debug, Clone, Copy)]
pub(super) struct ControlTokens {
    start: u32,
    pub end: u32,
    begin_turn: u32,
    end_turn: u32,
    begin_tools: u32,
    end_tools: u32,
    begin_result: u32,
    end_result: u32,
    pub call: u32,
    begin_system: u32,
    end_system: u32,
    result_content: u32,
    begin_audio: u32,
    transcribe: Option<u32>,
    pub arguments: Option<u32>,
    pub call_id: Option<u32>,
}

/// What a conversation is laid out with.
#[derive(Debug, Clone, Copy, Default)]
pub struct PromptOptions<'a> {
    /// Functions that may be called.
    pub tools: &'a [Tool],
    /// Where a system prompt is not possible beside sound, put it in front of the first turn of the user, as text.
    pub system_as_text: bool,
}

impl PromptLayout {
    /// The layout of the vocabulary in the file `path`.
    ///
    /// # Errors
    /// A version before v7, or a vocabulary without the tokens that prompts are made of.
    pub fn new(path: &Path, tokenizer: &Tekken) -> Result<Self> {
        let version = match tokenizer.version() {
            None | Some(7..=10) => Version::V7,
            Some(11 | 12) => Version::V11,
            Some(13..) => Version::V13,
            Some(version) => {
                let message = format!(
                    "key `config.version` is v{version}, expected v7 or later: prompts of older versions have no sound"
                );
                return Err(invalid(path, message));
            }
        };
        Ok(Self {
            version,
            tokens: ControlTokens::new(path, tokenizer)?,
        })
    }

    pub(super) fn tokens(&self) -> ControlTokens {
        self.tokens
    }

    /// The token that ends a turn.
    pub(crate) fn end(&self) -> u32 {
        self.tokens.end
    }

    /// Whether the model was made to write down what is said.
    pub fn can_transcribe(&self) -> bool {
        self.tokens.transcribe.is_some()
    }

    /// The prompt that lets the model write down a recording; `language` is an ISO 639-1 code, `None` leaves it to the model.
    pub fn transcription(
        &self,
        tokenizer: &Tekken,
        clip: &AudioClip,
        language: Option<&str>,
    ) -> Vec<PromptPart> {
        let tokens = self.tokens;
        let mut prompt = Prompt::new(tokenizer, &tokens);
        prompt.push(tokens.begin_turn);
        prompt.audio(clip);
        prompt.push(tokens.end_turn);
        if let Some(language) = language {
            prompt.text(&format!("lang:{language}"));
        }
        tokens.transcribe.into_iter().for_each(|id| prompt.push(id));
        prompt.parts
    }

    /// The prompt of a conversation, behind which the model's next turn comes.
    ///
    /// # Errors
    /// Messages in an order that no conversation has, calls without results, a system prompt where this version has none.
    pub fn chat(
        &self,
        tokenizer: &Tekken,
        messages: &[Message],
        options: PromptOptions<'_>,
    ) -> Result<Vec<PromptPart>> {
        self.check(messages)?;
        let messages = self.settle_system(messages, options)?;
        let turns = merged(&messages);
        let is_user = |turn: &Turn<'_>| matches!(turn, Turn::User(_));
        let tools_at = match self.version {
            Version::V13 => turns.iter().position(is_user),
            _ => turns.iter().rposition(is_user),
        };
        let tokens = self.tokens;
        let mut prompt = Prompt::new(tokenizer, &tokens);
        for (index, turn) in turns.iter().enumerate() {
            match turn {
                Turn::System(text) => {
                    prompt.push(tokens.begin_system);
                    prompt.text(text);
                    prompt.push(tokens.end_system);
                }
                Turn::User(parts) => {
                    if Some(index) == tools_at && !options.tools.is_empty() {
                        prompt.push(tokens.begin_tools);
                        prompt.text(&tools_text(options.tools));
                        prompt.push(tokens.end_tools);
                    }
                    prompt.push(tokens.begin_turn);
                    for part in parts {
                        match part {
                            Part::Text(text) => prompt.text(text),
                            Part::Audio(clip) => prompt.audio(clip),
                        }
                    }
                    prompt.push(tokens.end_turn);
                }
                Turn::Assistant {
                    text,
                    tool_calls,
                    continues,
                } => {
                    prompt.text(text.trim_end_matches(' '));
                    self.calls(&mut prompt, tool_calls)?;
                    if !continues {
                        prompt.push(tokens.end);
                    }
                }
                Turn::Tool { call_id, content } => {
                    prompt.push(tokens.begin_result);
                    if self.version < Version::V13 {
                        prompt.text(call_id);
                        prompt.push(tokens.result_content);
                    }
                    prompt.text(content);
                    prompt.push(tokens.end_result);
                }
            }
        }
        Ok(prompt.parts)
    }

    fn calls(&self, prompt: &mut Prompt<'_>, calls: &[&ToolCall]) -> Result<()> {
        if calls.is_empty() {
            return Ok(());
        }
        let tokens = self.tokens;
        if self.version == Version::V7 {
            let call = |call: &&ToolCall| json!({"name": call.name, "arguments": arguments(call), "id": call.id});
            let list: Value = calls.iter().map(call).collect();
            prompt.push(tokens.call);
            prompt.text(&dump_json(&list));
            return Ok(());
        }
        for call in calls {
            prompt.push(tokens.call);
            prompt.text(&call.name);
            if self.version == Version::V11 {
                prompt.push(known(tokens.call_id, "[CALL_ID]")?);
                prompt.text(&call.id);
            }
            prompt.push(known(tokens.arguments, "[ARGS]")?);
            prompt.text(&dump_json(&arguments(call)));
        }
        Ok(())
    }

    /// The beginning of a turn in which one of the functions `names` is called. Ids of calls depend on `seed` alone.
    pub(super) fn begin_call(
        &self,
        tokenizer: &Tekken,
        names: &[String],
        seed: u64,
    ) -> Result<Vec<u32>> {
        let tokens = self.tokens;
        let mut beginning = vec![tokens.call];
        // Where a piece ends is as in whole calls, so that the model sees what it knows.
        match (names, self.version) {
            ([name], Version::V7) => {
                let text = format!("[{{\"name\": \"{name}\", \"arguments\":");
                beginning.extend(tokenizer.encode(&text));
            }
            ([name], version) => {
                beginning.extend(tokenizer.encode(name));
                if version == Version::V11 {
                    beginning.push(known(tokens.call_id, "[CALL_ID]")?);
                    beginning.extend(tokenizer.encode(&call_id_of(seed)));
                }
                beginning.push(known(tokens.arguments, "[ARGS]")?);
            }
            (_, Version::V7) => beginning.extend(tokenizer.encode("[{\"name\":")),
            _ => {}
        }
        Ok(beginning)
    }

    fn check(&self, messages: &[Message]) -> Result<()> {
        let Some(last) = messages.last() else {
            return Err(wrong("there is none: expected at least one"));
        };
        let can_answer = match last {
            Message::User(_) | Message::Tool { .. } => true,
            Message::Assistant { continues, .. } => *continues,
            Message::System(_) => false,
        };
        if !can_answer {
            return Err(wrong(format!(
                "the last one is of role `{}`: expected `user`, `tool`, or an `assistant` that is to go on",
                last.role()
            )));
        }
        for pair in messages.windows(2) {
            let [before, after] = pair else { continue };
            let fits = match (before, after) {
                (Message::Tool { .. } | Message::Assistant { .. }, Message::Tool { .. }) => true,
                (_, Message::Tool { .. }) => false,
                (Message::Assistant { continues, .. }, _) if *continues => false,
                (Message::Assistant { .. } | Message::Tool { .. }, Message::System(_)) => false,
                _ => true,
            };
            if !fits {
                return Err(wrong(format!(
                    "one of role `{}` cannot follow one of role `{}`",
                    after.role(),
                    before.role()
                )));
            }
        }
        if matches!(messages.first(), Some(Message::Tool { .. })) {
            return Err(wrong("the first one is of role `tool`"));
        }
        self.check_calls(messages)
    }

    /// Every call has a result, and ids are such as the model knows.
    fn check_calls(&self, messages: &[Message]) -> Result<()> {
        let mut open = 0_usize;
        for message in messages {
            match message {
                Message::Assistant {
                    text,
                    tool_calls,
                    continues,
                } => {
                    if text.is_empty() && tool_calls.is_empty() && !continues {
                        return Err(wrong(
                            "one of role `assistant` has neither text nor calls of functions",
                        ));
                    }
                    if open > 0 {
                        break;
                    }
                    open = tool_calls.len();
                    tool_calls
                        .iter()
                        .try_for_each(|call| self.check_id(&call.id))?;
                }
                Message::Tool { call_id, .. } => {
                    let Some(left) = open.checked_sub(1) else {
                        return Err(wrong("there are more results of functions than calls"));
                    };
                    open = left;
                    self.check_id(call_id)?;
                }
                Message::User(_) | Message::System(_) if open > 0 => break,
                Message::User(_) | Message::System(_) => {}
            }
        }
        match open {
            0 => Ok(()),
            _ => Err(wrong("there are calls of functions without results")),
        }
    }

    fn check_id(&self, id: &str) -> Result<()> {
        if self.version == Version::V13 || is_call_id(id) {
            return Ok(());
        }
        Err(wrong(format!(
            "`{}` is no id of a call: expected nine letters and digits",
            id.escape_debug()
        )))
    }

    /// Before v13 models were not trained with a system prompt and sound.
    fn settle_system(
        &self,
        messages: &[Message],
        options: PromptOptions<'_>,
    ) -> Result<Vec<Message>> {
        let is_system = |message: &Message| matches!(message, Message::System(_));
        let mut messages = messages.to_vec();
        let clash = messages.iter().any(is_system) && messages.iter().any(Message::has_audio);
        if self.version == Version::V13 || !clash {
            return Ok(messages);
        }
        if !options.system_as_text {
            return Err(wrong(
                "this model has no system prompt in conversations with sound: put the instruction into the user's message, or \
                 have that done (`system_as_text`)",
            ));
        }
        let mut instructions = Vec::new();
        messages.retain(|message| match message {
            Message::System(text) => {
                instructions.push(Part::Text(text.clone()));
                false
            }
            _ => true,
        });
        let first = messages.iter_mut().find_map(|message| match message {
            Message::User(parts) => Some(parts),
            _ => None,
        });
        if let Some(parts) = first {
            parts.splice(0..0, instructions);
        }
        Ok(messages)
    }
}

impl ControlTokens {
    fn new(path: &Path, tokenizer: &Tekken) -> Result<Self> {
        let by_name = |name: &str| tokenizer.special(name);
        // Every published vocabulary that names them has them in these places.
        let find = |name: &str, usual: u32| {
            let id = by_name(name).unwrap_or(usual);
            if (id as usize) < tokenizer.n_special() {
                return Ok(id);
            }
            let message = format!("the vocabulary has no token `{name}`");
            Err(invalid(path, message))
        };
        Ok(Self {
            start: find("<s>", 1)?,
            end: find("</s>", 2)?,
            begin_turn: find("[INST]", 3)?,
            end_turn: find("[/INST]", 4)?,
            begin_tools: find("[AVAILABLE_TOOLS]", 5)?,
            end_tools: find("[/AVAILABLE_TOOLS]", 6)?,
            begin_result: find("[TOOL_RESULTS]", 7)?,
            end_result: find("[/TOOL_RESULTS]", 8)?,
            call: find("[TOOL_CALLS]", 9)?,
            begin_system: find("[SYSTEM_PROMPT]", 17)?,
            end_system: find("[/SYSTEM_PROMPT]", 18)?,
            result_content: find("[TOOL_CONTENT]", 19)?,
            begin_audio: find("[BEGIN_AUDIO]", 25)?,
            transcribe: by_name("[TRANSCRIBE]"),
            arguments: by_name("[ARGS]"),
            call_id: by_name("[CALL_ID]"),
        })
    }
}

/// A prompt that is being put together.
struct Prompt<'a> {
    tokenizer: &'a Tekken,
    begin_audio: u32,
    parts: Vec<PromptPart>,
}

impl<'a> Prompt<'a> {
    fn new(tokenizer: &'a Tekken, tokens: &ControlTokens) -> Self {
        Self {
            tokenizer,
            begin_audio: tokens.begin_audio,
            parts: vec![PromptPart::Tokens(vec![tokens.start])],
        }
    }

    fn append(&mut self, ids: &[u32]) {
        match self.parts.last_mut() {
            Some(PromptPart::Tokens(last)) => last.extend_from_slice(ids),
            _ => self.parts.push(PromptPart::Tokens(ids.to_vec())),
        }
    }

    fn push(&mut self, id: u32) {
        self.append(&[id]);
    }

    fn text(&mut self, text: &str) {
        let ids = self.tokenizer.encode(text);
        self.append(&ids);
    }

    fn audio(&mut self, clip: &AudioClip) {
        self.push(self.begin_audio);
        self.parts.push(PromptPart::Audio(clip.clone()));
    }
}

/// Messages of one role side by side.
enum Turn<'a> {
    System(&'a str),
    User(Vec<Part>),
    Assistant {
        text: String,
        tool_calls: Vec<&'a ToolCall>,
        continues: bool,
    },
    Tool {
        call_id: &'a str,
        content: &'a str,
    },
}

/// What stands between texts that are joined.
const BETWEEN: &str = "\n\n";

/// Users and assistants that speak several times in a row say all of it in one turn.
fn merged(messages: &[Message]) -> Vec<Turn<'_>> {
    let mut turns: Vec<Turn<'_>> = Vec::new();
    for message in messages {
        match (turns.last_mut(), message) {
            (Some(Turn::User(parts)), Message::User(more)) => add_parts(parts, more),
            (_, Message::User(parts)) => {
                let mut joined = Vec::new();
                add_parts(&mut joined, parts);
                turns.push(Turn::User(joined));
            }
            (
                Some(Turn::Assistant {
                    text,
                    tool_calls,
                    continues,
                }),
                Message::Assistant {
                    text: more,
                    tool_calls: calls,
                    continues: goes_on,
                },
            ) => {
                join(text, more);
                tool_calls.extend(calls);
                *continues |= goes_on;
            }
            (
                _,
                Message::Assistant {
                    text,
                    tool_calls,
                    continues,
                },
            ) => turns.push(Turn::Assistant {
                text: text.clone(),
                tool_calls: tool_calls.iter().collect(),
                continues: *continues,
            }),
            (_, Message::System(text)) => turns.push(Turn::System(text)),
            (_, Message::Tool { call_id, content }) => turns.push(Turn::Tool { call_id, content }),
        }
    }
    turns
}

fn add_parts(parts: &mut Vec<Part>, more: &[Part]) {
    for part in more {
        match (parts.last_mut(), part) {
            (_, Part::Text(text)) if text.is_empty() => {}
            (Some(Part::Text(before)), Part::Text(text)) => join(before, text),
            _ => parts.push(part.clone()),
        }
    }
}

fn join(text: &mut String, more: &str) {
    if !text.is_empty() && !more.is_empty() {
        text.push_str(BETWEEN);
    }
    text.push_str(more);
}

/// The arguments of a call as JSON; what is none stays text.
fn arguments(call: &ToolCall) -> Value {
    match call.arguments.as_str() {
        "" => json!({}),
        text => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
    }
}

fn known(token: Option<u32>, name: &str) -> Result<u32> {
    token.ok_or_else(|| Error::InvalidOption {
        option: "tools",
        message: format!("this model's vocabulary has no token `{name}`: it cannot call functions"),
    })
}

fn wrong(message: impl Into<String>) -> Error {
    Error::InvalidOption {
        option: "messages",
        message: message.into(),
    }
}
