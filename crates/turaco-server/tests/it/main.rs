//! The server over real connections on this machine.

mod chat;
mod clients;
mod conversation;
mod faults;
mod limits;
mod network;
mod realtime;
mod responses;
mod sessions;
mod speech;
mod support;
mod transcriptions;
mod web;
