//! How a turn is generated.

use super::message::Tool;
use crate::models::voxtral_mini::Draw;
use crate::{Error, Result};

/// Whether a model calls functions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// As it likes.
    #[default]
    Auto,
    /// Never.
    None,
    /// At least one.
    Required,
    /// This one.
    Named(String),
}

/// Options of [`ChatSession::generate`](super::ChatSession::generate).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ChatOptions {
    /// 0 = always the most probable token; what the publisher recommends for conversations is 0.2.
    pub temperature: f32,
    /// Only the most probable tokens that together have this probability; 1 = all.
    pub top_p: f32,
    /// Only so many of the most probable tokens; 0 = all.
    pub top_k: usize,
    /// The same seed draws the same text.
    pub seed: u64,
    /// Tokens at most; `None` = [`MAX_TOKENS`](Self::MAX_TOKENS), or what is left of the model's positions.
    pub max_tokens: Option<usize>,
    /// The text ends in front of the first of these.
    pub stop: Vec<String>,
    /// Functions that the model may call.
    pub tools: Vec<Tool>,
    /// Whether it calls them. Where a call is demanded the turn begins as one, and is an error if it does not become one.
    pub tool_choice: ToolChoice,
    /// Where the model has no system prompt beside sound, put it in front of the first turn of the user, as text.
    pub system_as_text: bool,
}

impl Default for ChatOptions {
    fn default() -> Self {
        Self {
            temperature: 0.2,
            top_p: 0.95,
            top_k: 0,
            seed: 0,
            max_tokens: None,
            stop: Vec::new(),
            tools: Vec::new(),
            tool_choice: ToolChoice::Auto,
            system_as_text: false,
        }
    }
}

macro_rules! setters {
    ($($(#[$meta:meta])* $name:ident: $kind:ty),* $(,)?) => {
        $($(#[$meta])*
        #[must_use]
        pub fn $name(mut self, $name: $kind) -> Self {
            self.$name = $name.into();
            self
        })*
    };
}

impl ChatOptions {
    /// Tokens of a turn at most unless something else is asked for.
    pub const MAX_TOKENS: usize = 4096;

    /// All defaults.
    pub fn new() -> Self {
        Self::default()
    }

    setters! {
        /// 0 = always the most probable token.
        temperature: f32,
        /// Only the most probable tokens that together have this probability.
        top_p: f32,
        /// Only so many of the most probable tokens.
        top_k: usize,
        /// The same seed draws the same text.
        seed: u64,
        /// Tokens at most.
        max_tokens: usize,
        /// The text ends in front of the first of these.
        stop: Vec<String>,
        /// Functions that the model may call.
        tools: Vec<Tool>,
        /// Whether it calls them.
        tool_choice: ToolChoice,
        /// Put a system prompt where there is none in front of the first turn of the user.
        system_as_text: bool,
    }

    /// Functions that the model is told of.
    pub(super) fn offered(&self) -> &[Tool] {
        match self.tool_choice {
            ToolChoice::None => &[],
            _ => &self.tools,
        }
    }

    /// Names of the functions of which one has to be called; none if none has to.
    ///
    /// # Errors
    /// A function that is not there.
    pub(super) fn demanded(&self) -> Result<Vec<String>> {
        let mut names = self.tools.iter().map(|tool| tool.name().to_owned());
        let names: Vec<String> = match &self.tool_choice {
            ToolChoice::Auto | ToolChoice::None => return Ok(Vec::new()),
            ToolChoice::Required => names.collect(),
            ToolChoice::Named(name) => names.find(|known| known == name).into_iter().collect(),
        };
        match names.is_empty() {
            false => Ok(names),
            true => Err(Error::InvalidOption {
                option: "tool_choice",
                message: "the function that is demanded is none of `tools`".into(),
            }),
        }
    }

    /// # Errors
    /// A value that is outside of its range.
    pub(super) fn draw(&self) -> Result<Draw> {
        for (option, value, most) in [
            ("temperature", self.temperature, 10.0),
            ("top_p", self.top_p, 1.0),
        ] {
            if !(0.0..=most).contains(&value) {
                return Err(Error::InvalidOption {
                    option,
                    message: format!("{value} is outside 0 to {most}"),
                });
            }
        }
        if self.max_tokens == Some(0) {
            return Err(Error::InvalidOption {
                option: "max_tokens",
                message: "expected at least 1".into(),
            });
        }
        Ok(Draw {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            seed: self.seed,
        })
    }
}
