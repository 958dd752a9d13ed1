//! The only place that knows how recognition is called.

use crate::commands::Context;
use crate::exit::Failure;

/// A loaded recogniser.
pub struct Recogniser;

impl Recogniser {
    /// Find, fetch and load the model of the command line.
    pub fn load(context: &Context) -> Result<Self, Failure> {
        Err(Failure::model(format!(
            "model `{}` cannot be loaded: this build has no recogniser",
            context.global.model
        )))
    }
}
