//! `turaco doctor`.

use super::Context;
use crate::args::DoctorArgs;
use crate::exit::{Failure, Outcome};

/// Look at this machine.
pub fn run(_args: &DoctorArgs, _context: &Context) -> Outcome {
    Err(Failure::model("not part of this build").into())
}
