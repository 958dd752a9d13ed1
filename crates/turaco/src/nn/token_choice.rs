//! The choice of the next token of every sequence in a step.

use turaco_compute::{ChooseTokens, FilterTokens, Ids, StepBuilder, Value};

use crate::Result;

/// The inputs of a choice of one token for each row of logits.
#[derive(Debug, Clone, Copy)]
pub struct TokenChoice {
    /// Bits of the tokens that may be chosen, `[rows, ceil(vocab / 32)]`.
    pub allowed: Ids,
    /// Bits of those that a penalty applies to, of the same shape.
    pub seen: Option<Ids>,
    /// Temperature, penalty, 0: `[rows, 3]`.
    pub controls: Value,
    /// Temperature, penalty, top-k, top-p where anything is drawn by chance: `[rows, 4]`.
    pub filter: Option<Value>,
}

impl TokenChoice {
    /// Tokens and their log-probabilities, `[rows, 1]` each. `all` has the bits of every token.
    ///
    /// # Errors
    /// Inputs of other shapes.
    pub fn record(
        &self,
        step: &mut StepBuilder,
        logits: Value,
        seeds: Ids,
        all: Ids,
    ) -> Result<(Ids, Value)> {
        // The filter applies the penalty and the mask, so that nothing is left of them for the choice.
        let (logits, allowed, seen) = match self.filter {
            Some(controls) => {
                let filter = FilterTokens {
                    allowed: self.allowed,
                    seen: self.seen,
                    controls,
                };
                (step.filter_tokens(logits, filter)?, all, None)
            }
            None => (logits, self.allowed, self.seen),
        };
        let choose = ChooseTokens {
            allowed,
            seen,
            controls: self.controls,
            seeds,
            prefer_from: 0,
            k: 1,
        };
        Ok(step.choose_tokens(logits, choose)?)
    }
}
