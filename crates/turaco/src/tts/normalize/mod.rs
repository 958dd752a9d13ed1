//! Written text as it is said.

mod plain;

pub use plain::plain_text;
