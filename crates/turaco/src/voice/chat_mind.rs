//! A mind of this machine: a language model that hears.

use std::sync::Arc;

use crate::chat::{
    self, AudioClip, ChatModel, ChatOptions, ChatSession, Delta, FinishReason, Part, ToolCall,
    call_id_like,
};
use crate::engine::{DeviceQueue, Urgency};
use crate::{Control, Result};

use super::conversation::{Message, Role};
use super::mind::{Answered, Brief, Mind};

/// A language model that listens to the questions itself. It keeps what it has read of a conversation, so that a turn costs no more
/// than what is new.
#[derive(Debug)]
pub struct ChatMind {
    session: ChatSession,
    options: ChatOptions,
    n_answers: u64,
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
            n_answers: 0,
        }
    }

    /// It thinks in turns with whatever else uses its device.
    #[must_use]
    pub fn in_turns(mut self, queue: &Arc<DeviceQueue>) -> Self {
        self.session.take_turns(queue, Urgency::Talk);
        self
    }
}

impl Mind for ChatMind {
    fn hears(&self) -> bool {
        true
    }

    fn room(&self) -> Option<usize> {
        // The rest is for the answer, for instructions and functions, and for words that are more tokens than usual.
        Some(self.session.model().config().max_positions / 2)
    }

    fn answer(
        &mut self,
        brief: Brief<'_>,
        control: &Control,
        say: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<Answered> {
        let context = brief.context;
        let mut messages: Vec<chat::Message> = Vec::with_capacity(context.len());
        for (index, said) in context.iter().enumerate() {
            // Models take instructions at the beginning only, and answer what a user says.
            let is_first = index == 0 && context.len() > 1;
            messages.push(match said.role {
                Role::System if !is_first => chat::Message::user(&said.text),
                _ => message(said),
            });
        }
        let mut options = self.options.clone();
        // Every answer has ids of calls of its own.
        options.seed = options.seed.wrapping_add(self.n_answers);
        self.n_answers += 1;
        options.max_tokens = brief.options.max_tokens.or(options.max_tokens);
        options.temperature = brief.options.temperature.unwrap_or(options.temperature);
        if !brief.options.tools.is_empty() {
            options.tools.clone_from(&brief.options.tools);
        }
        options.tool_choice.clone_from(&brief.options.tool_choice);
        let mut answered = Answered::default();
        for delta in self.session.generate(&messages, &options, control)? {
            match delta? {
                Delta::Text { text } => say(&text)?,
                Delta::ToolCall(call) => answered.calls.push(call),
                Delta::End(summary) => {
                    let usage = summary.usage;
                    answered.cut = summary.reason == FinishReason::Length;
                    answered = answered.tokens(usage.prompt_tokens, usage.completion_tokens);
                    break;
                }
            }
        }
        Ok(answered)
    }

    fn take_warning(&mut self) -> Option<String> {
        self.session.take_late_warning()
    }
}

fn message(message: &Message) -> chat::Message {
    match (message.role, &message.sound) {
        (Role::System, _) => chat::Message::system(&message.text),
        (Role::Assistant, _) => chat::Message::Assistant {
            text: message.text.clone(),
            // Clients may have made up ids of their own.
            tool_calls: message
                .calls
                .iter()
                .map(|call| ToolCall {
                    id: call_id_like(&call.id),
                    ..call.clone()
                })
                .collect(),
            continues: false,
        },
        (Role::Tool, _) => {
            let id = message.call_id.as_deref().unwrap_or_default();
            chat::Message::tool(call_id_like(id), &message.text)
        }
        (Role::User, Some(sound)) => {
            chat::Message::User(vec![Part::Audio(AudioClip::heard(Arc::clone(sound)))])
        }
        (Role::User, None) => chat::Message::user(&message.text),
    }
}
