//! Who answers: something that is given a conversation and writes.

use crate::chat::ToolCall;
use crate::{Control, Result};

use super::conversation::Message;
use super::request::AnswerOptions;

/// What is to be answered.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Brief<'a> {
    /// Instructions, then the conversation; the last messages are the user's, or results of functions.
    pub context: &'a [Message],
    /// What the answer may be.
    pub options: &'a AnswerOptions,
}

impl<'a> Brief<'a> {
    /// An answer to the end of `context`.
    pub fn new(context: &'a [Message], options: &'a AnswerOptions) -> Self {
        Self { context, options }
    }
}

/// What an answer took.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Answered {
    /// Tokens of what was read, if known.
    pub prompt_tokens: Option<usize>,
    /// Tokens of what was written, if known.
    pub completion_tokens: Option<usize>,
    /// The answer was ended by a limit.
    pub cut: bool,
    /// Functions whose results the mind waits for.
    pub calls: Vec<ToolCall>,
}

impl Answered {
    /// With numbers of tokens.
    #[must_use]
    pub fn tokens(mut self, prompt: usize, completion: usize) -> Self {
        self.prompt_tokens = Some(prompt);
        self.completion_tokens = Some(completion);
        self
    }

    /// With functions that are to be called.
    #[must_use]
    pub fn calls(mut self, calls: Vec<ToolCall>) -> Self {
        self.calls = calls;
        self
    }
}

/// Writes answers. A session owns its mind, which may remember what it has read.
pub trait Mind: Send {
    /// Whether it listens to the sound of a question itself, so that nobody has to write it down first.
    fn hears(&self) -> bool {
        false
    }

    /// Tokens of a conversation that it can be given, by [`Message::tokens`], if it knows.
    fn room(&self) -> Option<usize> {
        None
    }

    /// Answer the end of a conversation; `say` takes the text bit by bit, and fails when nobody listens any more.
    ///
    /// # Errors
    /// Whatever keeps it from answering; what was said until then counts.
    fn answer(
        &mut self,
        brief: Brief<'_>,
        control: &Control,
        say: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<Answered>;

    /// What happened since the last call that users should know, such as a device that failed.
    fn take_warning(&mut self) -> Option<String> {
        None
    }
}
