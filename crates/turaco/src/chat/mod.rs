//! Conversations with a language model that hears: text and sound in, text out.
//!
//! [`ChatModel`] is the loaded model, [`ChatSession`] one conversation, [`Message`] what is said in it. A turn of the model is an
//! iterator that gives text as it comes.
//!
//! ```no_run
//! use turaco::chat::{AudioClip, ChatModel, ChatOptions, Delta, Message, Part};
//! # fn main() -> turaco::Result<()> {
//! let control = turaco::Control::new();
//! let model = ChatModel::load_path("models/voxtral".as_ref(), &Default::default(), &control)?;
//! let clip = AudioClip::new(&turaco::Audio::open("talk.mp3")?)?;
//! let messages = [Message::User(vec![clip.into(), Part::from("What is this about?")])];
//! let mut session = model.session();
//! for delta in session.generate(&messages, &ChatOptions::new(), &control)? {
//!     if let Delta::Text { text } = delta? {
//!         print!("{text}");
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Inside, from messages to text: `prompt` lays a conversation out as tokens, `session` knows which of them the model has seen,
//! `token_stream` lets it hear and read the rest and choose the next ones (together with other conversations: `shared_steps`),
//! `generation` makes text and calls of functions of
//! those.

mod generation;
mod memories;
mod message;
mod model;
mod options;
mod prompt;
mod session;
mod shared_steps;
mod stop_words;
mod token_stream;
mod tool_calls;

pub use generation::{Delta, FinishReason, Generation, Summary, Usage};
pub use memories::KeptSession;
pub use message::{AudioClip, Message, Part, Tool, ToolCall};
pub use model::ChatModel;
pub use options::{ChatOptions, ToolChoice};
pub use prompt::{PromptLayout, PromptOptions, PromptPart};
pub use session::ChatSession;
pub use token_stream::ChatTimings;
pub use tool_calls::call_id_like;
