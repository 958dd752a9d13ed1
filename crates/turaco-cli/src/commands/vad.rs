//! `turaco vad`.

use super::Context;
use crate::args::VadArgs;
use crate::exit::{Failure, Outcome};

/// Print where there is speech.
pub fn run(_args: &VadArgs, _context: &Context) -> Outcome {
    Err(Failure::model("this build has no voice activity detection").into())
}
