//! One suite of cases for every operation, on every device and instruction set.

mod meaning;
mod support;
