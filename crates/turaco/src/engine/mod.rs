//! Loaded models by name, for programs that serve many requests: each is loaded once, kept for a while, and works for all.
//!
//! [`Engine::load`] gives a [`ModelLease`] on a model, loaded now if it is not there yet; a model nobody has a lease on can be
//! unloaded, by [`Engine::unload_idle`] after [`EngineOptions::keep_alive`], or to make room for another one. The work on one
//! device goes through its [`DeviceQueue`] in turns of one step each, so that a short request is not stuck behind a long one.
//! [`Engine::listen`] opens a stream of sound to a model that hears streams; all streams of a model advance together.

mod catalog;
mod live;
mod models;

pub use crate::device_queue::{DeviceQueue, Job, QueueLimits, Turn, Urgency};
pub use catalog::{Catalog, KnownModel, ModelKind};
pub use live::{LiveEvent, LiveRound, LiveSession};
pub use models::{Engine, EngineOptions, LoadedFacts, LoadedModel, ModelLease};
