//! Turaco over the network: OpenAI's audio interfaces and others that applications know already.
//!
//! [`router`] gives all routes for an engine of loaded models, to be mounted anywhere; [`Server`] is the whole program: it listens,
//! unloads what nobody uses, and ends without breaking off work.
#![forbid(unsafe_code)]

mod app;
mod auth;
mod config;
mod connections;
mod deadline;
mod error;
mod family;
mod health;
mod layer;
mod listener;
mod metrics;
mod openai;
mod pieces;
mod plain_json;
mod realtime;
mod recognition;
mod reference_text;
mod routes;
mod sent;
mod server;
mod sound_room;
mod speech_model;
mod stats;
mod synthesis;
mod tls;
mod traces;
mod upload;
mod web;
mod wyoming;

pub use app::App;
pub use config::{Config, Log, LogLevel};
pub use error::ApiError;
pub use listener::Listener;
pub use routes::router;
pub use server::{Listeners, Server};
pub use tls::Tls;
pub use traces::Traces;
