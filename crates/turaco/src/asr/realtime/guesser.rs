//! Guessing tokens ahead.
//!
//! A decode step reads all weights for one position; a few positions more cost nearly nothing. Where the sound of the next
//! positions is there already, their tokens are guessed, all go through in one step, and the guesses that the step itself
//! confirms are kept: the text is the same, the weights are read less often. (Speculative decoding, Leviathan et al. 2023,
//! with a table instead of a draft model.) Guessing is easy here: in a pause every token is the same.

use std::collections::VecDeque;

/// Most tokens that are guessed at a time.
pub(super) const MAX_GUESSES: usize = 3;

/// Tokens whose follower is remembered.
const REMEMBERED: usize = 128;

/// How likely a guess has to be to be worth its row.
const WORTH_A_ROW: f64 = 0.15;

/// Weight of the last guess in the running share of right ones.
const RECENT: f64 = 0.1;

/// What has followed what lately in one text, and how often that was a good guess.
#[derive(Debug, Clone)]
pub(super) struct Guesser {
    /// Token and the one that came behind it last; the most recent pair at the front.
    followers: VecDeque<(u32, u32)>,
    /// Running share of right guesses.
    right: f64,
}

impl Default for Guesser {
    fn default() -> Self {
        Self {
            followers: VecDeque::new(),
            right: 0.5,
        }
    }
}

impl Guesser {
    /// `follower` came behind `token`.
    pub fn learn(&mut self, token: u32, follower: u32) {
        let known = self.followers.iter().position(|(t, _)| *t == token);
        if let Some(index) = known {
            self.followers.remove(index);
        } else if self.followers.len() == REMEMBERED {
            self.followers.pop_back();
        }
        self.followers.push_front((token, follower));
    }

    /// How many guesses are worth making.
    pub fn n_guesses(&self) -> usize {
        let worth = |n: &usize| self.right.powi(*n as i32) >= WORTH_A_ROW;
        (1..=MAX_GUESSES).take_while(worth).count()
    }

    /// What may come behind `token`; `usual` where nothing is known.
    pub fn guess(&self, token: u32, usual: u32) -> u32 {
        let known = self.followers.iter().find(|(t, _)| *t == token);
        known.map_or(usual, |(_, follower)| *follower)
    }

    /// Whether the first guess of a step was right. (Of no guess, how it would have been.)
    pub fn judge(&mut self, was_right: bool) {
        self.right += RECENT * (f64::from(u8::from(was_right)) - self.right);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_last_is_guessed_as_often_as_it_pays() {
        let mut guesser = Guesser::default();
        assert_eq!(guesser.guess(5, 32), 32);
        guesser.learn(5, 7);
        guesser.learn(7, 5);
        guesser.learn(5, 8);
        assert_eq!((guesser.guess(5, 32), guesser.guess(7, 32)), (8, 5));
        assert_eq!(guesser.n_guesses(), 2);
        (0..50).for_each(|_| guesser.judge(true));
        assert_eq!(guesser.n_guesses(), MAX_GUESSES);
        (0..50).for_each(|_| guesser.judge(false));
        assert_eq!(guesser.n_guesses(), 0);
        (0..10_000).for_each(|token| guesser.learn(token, token));
        assert_eq!(guesser.followers.len(), REMEMBERED);
    }
}
