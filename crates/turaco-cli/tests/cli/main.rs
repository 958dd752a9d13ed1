//! The `turaco` program as users run it.

mod bench;
mod chat;
mod config;
mod documents;
mod exit_codes;
mod graphics;
mod inputs;
mod listen;
mod models;
mod output;
mod serve;
mod speak;
mod speak_options;
mod support;
mod talk;
mod usage;
