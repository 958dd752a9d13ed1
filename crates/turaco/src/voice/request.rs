//! What an answer may be, and answers that are asked for in so many words.

use crate::chat::{Tool, ToolChoice};
use crate::tts::SpeakOptions;

use super::conversation::{Message, Which};

/// What an answer may be.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct AnswerOptions {
    /// Functions that the mind may call.
    pub tools: Vec<Tool>,
    /// Whether it calls them.
    pub tool_choice: ToolChoice,
    /// Tokens at most; `None` = as the mind likes.
    pub max_tokens: Option<usize>,
    /// 0 = always the most probable words; `None` = as the mind likes.
    pub temperature: Option<f32>,
    /// Whether it is said, if there is a voice.
    pub speak: bool,
}

impl Default for AnswerOptions {
    fn default() -> Self {
        Self {
            tools: Vec::new(),
            tool_choice: ToolChoice::Auto,
            max_tokens: None,
            temperature: None,
            speak: true,
        }
    }
}

/// An answer that is asked for; what is `None` is as in the session.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct AnswerRequest {
    /// What the mind is told before everything else.
    pub instructions: Option<String>,
    /// What the answer may be.
    pub options: Option<AnswerOptions>,
    /// How it is said.
    pub speech: Option<SpeakOptions>,
    /// What is answered in place of the conversation.
    pub input: Option<Vec<InputPart>>,
    /// The answer is no part of the conversation.
    pub aside: bool,
}

/// A part of what is answered.
#[derive(Debug, Clone)]
pub enum InputPart {
    /// Something new.
    Message(Message),
    /// Something of the conversation.
    Kept(Which),
}
