//! OpenAI's HTTP interface.

pub mod chat;
pub mod chat_request;
pub mod models;
pub mod options;
pub mod speech;
pub mod speech_request;
pub mod transcriptions;
pub mod voices;
