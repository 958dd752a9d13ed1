//! Who answers: something that is given a conversation and writes.

use crate::{Control, Result};

use super::conversation::Message;

/// What an answer took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Answered {
    /// Tokens of what was read, if known.
    pub prompt_tokens: Option<usize>,
    /// Tokens of what was written, if known.
    pub completion_tokens: Option<usize>,
    /// The answer was ended by a limit.
    pub cut: bool,
}

impl Answered {
    /// With numbers of tokens.
    #[must_use]
    pub fn tokens(mut self, prompt: usize, completion: usize) -> Self {
        self.prompt_tokens = Some(prompt);
        self.completion_tokens = Some(completion);
        self
    }
}

/// Writes answers. A session owns its mind, which may remember what it has read.
pub trait Mind: Send {
    /// Whether it listens to the sound of a question itself, so that nobody has to write it down first.
    fn hears(&self) -> bool {
        false
    }

    /// Answer the last messages, which are the user's; `say` takes the text bit by bit, and fails when nobody listens any more.
    ///
    /// # Errors
    /// Whatever keeps it from answering; what was said until then counts.
    fn answer(
        &mut self,
        context: &[Message],
        control: &Control,
        say: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<Answered>;
}
