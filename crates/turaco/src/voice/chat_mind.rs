//! A mind of this machine: a language model that hears.

use std::sync::Arc;

use crate::chat::{
    self, AudioClip, ChatModel, ChatOptions, ChatSession, Delta, FinishReason, Part,
};
use crate::{Control, Result};

use super::conversation::{Message, Role};
use super::mind::{Answered, Mind};

/// A language model that listens to the questions itself. It keeps what it has read of a conversation, so that a turn costs no more
/// than what is new.
#[derive(Debug)]
pub struct ChatMind {
    session: ChatSession,
    options: ChatOptions,
}

impl ChatMind {
    /// A mind for one conversation.
    pub fn new(model: &Arc<ChatModel>, options: ChatOptions) -> Self {
        Self {
            session: model.session(),
            // The instructions of a conversation are to be followed whether or not the model has a place for them.
            options: ChatOptions {
                system_as_text: true,
                ..options
            },
        }
    }
}

impl Mind for ChatMind {
    fn hears(&self) -> bool {
        true
    }

    fn answer(
        &mut self,
        context: &[Message],
        control: &Control,
        say: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<Answered> {
        let mut messages: Vec<chat::Message> = Vec::with_capacity(context.len());
        for (index, said) in context.iter().enumerate() {
            // Models take instructions at the beginning only, and answer what a user says.
            let is_first = index == 0 && context.len() > 1;
            messages.push(match said.role {
                Role::System if !is_first => chat::Message::user(&said.text),
                _ => message(said),
            });
        }
        for delta in self.session.generate(&messages, &self.options, control)? {
            match delta? {
                Delta::Text { text } => say(&text)?,
                Delta::End(summary) => {
                    let usage = summary.usage;
                    return Ok(Answered {
                        cut: summary.reason == FinishReason::Length,
                        ..Answered::default().tokens(usage.prompt_tokens, usage.completion_tokens)
                    });
                }
                Delta::ToolCall(_) => {}
            }
        }
        Ok(Answered::default())
    }
}

fn message(message: &Message) -> chat::Message {
    match (message.role, &message.sound) {
        (Role::System, _) => chat::Message::system(&message.text),
        (Role::Assistant, _) => chat::Message::assistant(&message.text),
        (Role::User, Some(sound)) => {
            chat::Message::User(vec![Part::Audio(AudioClip::heard(Arc::clone(sound)))])
        }
        (Role::User, None) => chat::Message::user(&message.text),
    }
}
