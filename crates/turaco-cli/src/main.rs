//! The `turaco` command.
#![forbid(unsafe_code)]

fn main() {}
