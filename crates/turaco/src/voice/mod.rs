//! Conversations by voice: who speaks when, what was said, and answers that are thought and said at the same time.
//!
//! ```text
//! sound ─► listener (turns) ─► ear (text) ─► thinker (a Mind) ─► speaker (sound)
//!              └──────────── speech interrupts ─────────┴───────────────┘
//! ```
//!
//! [`VoiceSession`] is one conversation; [`VoiceModels`] is what many of them share. A [`Mind`] answers: a model that hears for
//! itself, or a chat endpoint that is given text. Times of every stage come with the end of each answer ([`TurnTimings`]).

mod answer;
mod chat_mind;
mod clauses;
pub mod conversation;
mod ear;
#[cfg(feature = "hub")]
mod endpoint;
pub mod events;
mod listener;
mod live_ear;
pub mod mind;
pub mod options;
mod passing;
pub mod request;
pub mod session;
mod shared;
mod speaker;
mod thinker;
pub mod timings;

pub use crate::chat::ToolChoice;
pub use chat_mind::ChatMind;
pub use clauses::ClauseSplitter;
pub use conversation::{Conversation, ConversationOptions, Message, Place, Role, Summary, Which};
#[cfg(feature = "hub")]
pub use endpoint::{ChatEndpoint, EndpointOptions};
pub use events::{AnswerEnd, VoiceEvent};
pub use listener::LISTENING_RATE;
pub use mind::{Answered, Brief, Mind};
pub use options::{Detection, Eagerness, TurnOptions, VoiceOptions};
pub use request::{AnswerOptions, AnswerRequest, InputPart};
pub use session::{VoiceModels, VoiceSession};
pub use timings::TurnTimings;
