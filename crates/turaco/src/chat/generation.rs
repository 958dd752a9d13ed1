//! A turn of the model while it is generated.

use serde::Serialize;

use super::message::ToolCall;
use super::options::ChatOptions;
use super::stop_words::StopWords;
use super::token_stream::{ChatTimings, TokenStream};
use super::tool_calls;
use crate::tokenizer::TextAssembler;
use crate::{Error, Result};

/// Some of a turn.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Delta {
    /// More text: whole characters, to be put behind the text so far.
    Text {
        /// The new characters.
        text: String,
    },
    /// The model calls a function.
    ToolCall(ToolCall),
    /// The turn is over; nothing comes behind this.
    End(Summary),
}

/// Why a turn is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FinishReason {
    /// The model ended it, or a word that was named as its end.
    Stop,
    /// There were as many tokens as there may be.
    Length,
    /// The model waits for the results of functions.
    ToolCalls,
}

impl FinishReason {
    /// Its name in protocols.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
        }
    }
}

/// Tokens of a turn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Usage {
    /// Of the whole conversation before it, sound included.
    pub prompt_tokens: usize,
    /// Of those, how many were known from the turn before.
    pub cached_tokens: usize,
    /// Generated, the one that ends the turn included.
    pub completion_tokens: usize,
}

/// What is known at the end of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Summary {
    /// Why it is over.
    pub reason: FinishReason,
    /// How long it is.
    pub usage: Usage,
    /// Where the time went.
    pub timings: ChatTimings,
}

/// A call of a function that has to come.
#[derive(Debug)]
pub(super) struct Demand {
    /// Functions that it may be.
    pub names: Vec<String>,
    /// Its first tokens, which the prompt ends with.
    pub beginning: Vec<u32>,
}

/// A turn while it is generated: text as it comes, calls of functions, and a summary at the end. After an error nothing comes.
#[derive(Debug)]
pub struct Generation<'a> {
    stream: TokenStream<'a>,
    text: TextAssembler,
    stop: StopWords,
    /// Tokens behind the one that begins calls of functions.
    calls: Option<Vec<u32>>,
    /// Functions of which one has to be called; none if none has to.
    demanded: Vec<String>,
    seed: u64,
    /// What comes next, the first last.
    ready: Vec<Delta>,
    is_over: bool,
}

impl<'a> Generation<'a> {
    pub(super) fn new(
        stream: TokenStream<'a>,
        options: &ChatOptions,
        demand: Option<Demand>,
    ) -> Self {
        let demand = demand.map(|demand| (demand.names, demand.beginning[1..].to_vec()));
        let (demanded, calls) = demand.unzip();
        Self {
            stream,
            text: TextAssembler::new(),
            stop: StopWords::new(&options.stop),
            calls,
            demanded: demanded.unwrap_or_default(),
            seed: options.seed,
            ready: Vec::new(),
            is_over: false,
        }
    }

    /// How long the turn is so far.
    pub fn usage(&self) -> Usage {
        let (prompt_tokens, cached_tokens) = self.stream.prompt_tokens();
        Usage {
            prompt_tokens,
            cached_tokens,
            completion_tokens: self.stream.n_tokens(),
        }
    }

    /// Where the time went so far.
    pub fn timings(&self) -> ChatTimings {
        self.stream.timings()
    }

    fn advance(&mut self) -> Result<()> {
        let Some((token, _)) = self.stream.next_token()? else {
            return self.finish(FinishReason::Length);
        };
        let model = self.stream.model();
        let tokens = model.layout().tokens();
        if token == tokens.end {
            return self.finish(FinishReason::Stop);
        } else if let Some(calls) = &mut self.calls {
            calls.push(token);
        } else if token == tokens.call {
            self.calls = Some(Vec::new());
        } else {
            let text = match model.tokenizer().text(token) {
                Some(bytes) => self.text.push(bytes),
                // A control token ends what may be a character.
                None => self.text.finish(),
            };
            let (text, is_end) = self.stop.push(&text);
            if is_end {
                self.end(text, Vec::new(), FinishReason::Stop);
            } else if !text.is_empty() {
                self.ready.push(Delta::Text { text });
            }
        }
        Ok(())
    }

    /// The last token has come.
    fn finish(&mut self, reason: FinishReason) -> Result<()> {
        let rest = self.text.finish();
        let (mut text, is_end) = self.stop.push(&rest);
        if !is_end {
            text.push_str(&self.stop.finish());
        }
        let model = self.stream.model();
        let (tokenizer, tokens) = (model.tokenizer(), model.layout().tokens());
        let Some(ids) = self.calls.take() else {
            self.end(text, Vec::new(), reason);
            return Ok(());
        };
        let calls = tool_calls::parse(tokenizer, &tokens, &ids, self.seed);
        let calls = calls.and_then(|mut calls| {
            let may_be = |name: &String| self.demanded.is_empty() || self.demanded.contains(name);
            calls.retain(|call| may_be(&call.name));
            (!calls.is_empty()).then_some(calls)
        });
        match calls {
            Some(calls) => self.end(text, calls, FinishReason::ToolCalls),
            None if !self.demanded.is_empty() => {
                self.stream.leave();
                return Err(Error::InvalidOption {
                    option: "tool_choice",
                    message: match reason {
                        FinishReason::Length => {
                            "the call that is demanded is longer than max_tokens"
                        }
                        _ => "what the model wrote in place of the call that is demanded is none",
                    }
                    .into(),
                });
            }
            // What is no call is text, so that nothing is lost.
            None => {
                text.push_str(&tokenizer.decode(&ids, false));
                self.end(text, Vec::new(), reason);
            }
        }
        Ok(())
    }

    fn end(&mut self, text: String, calls: Vec<ToolCall>, reason: FinishReason) {
        self.is_over = true;
        self.stream.leave();
        self.ready.push(Delta::End(Summary {
            reason,
            usage: self.usage(),
            timings: self.timings(),
        }));
        let calls = calls.into_iter().rev().map(Delta::ToolCall);
        self.ready.extend(calls);
        if !text.is_empty() {
            self.ready.push(Delta::Text { text });
        }
    }
}

impl Iterator for Generation<'_> {
    type Item = Result<Delta>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(delta) = self.ready.pop() {
                return Some(Ok(delta));
            }
            if self.is_over {
                return None;
            }
            if let Err(error) = self.advance() {
                self.is_over = true;
                return Some(Err(error));
            }
        }
    }
}
