//! Steps of several conversations at once.
//!
//! A step reads every weight of the decoder, for one conversation or for eight. Conversations run on threads of their own and know
//! nothing of each other; where several want their next token, one of the threads takes the others along.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::Result;
use crate::models::voxtral_mini::{DecoderState, Draw, Runner, VoxtralMini};

/// Conversations in one step.
const MOST: usize = 8;

/// How long a step waits for conversations that are between two tokens, unless that was for nothing the last time. Somebody who
/// does not read what is written for him costs the others no more than this.
const PATIENCE: Duration = Duration::from_millis(2);

/// Where the conversations of a model meet.
#[derive(Debug)]
pub(super) struct SharedSteps {
    queue: Mutex<Queue>,
    changed: Condvar,
    /// Compiled steps; held by who runs one.
    runner: Mutex<Runner>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<Ticket>,
    done: Vec<Ticket>,
    /// Somebody runs a step.
    is_running: bool,
    /// Conversations whose next token comes soon.
    present: usize,
    /// The last wait for others was for nothing: whoever runs them lets only one at a time come here.
    come_alone: bool,
    last_number: u64,
}

/// A conversation that wants its next token, or got it.
#[derive(Debug)]
struct Ticket {
    number: u64,
    state: DecoderState,
    /// The embedding of its last token.
    row: Vec<f32>,
    draw: Draw,
    /// The token and its log-probability.
    chosen: Option<(u32, f32)>,
}

impl SharedSteps {
    pub fn new(model: &Arc<VoxtralMini>) -> Self {
        Self {
            queue: Mutex::default(),
            changed: Condvar::new(),
            runner: Mutex::new(Runner::new(model)),
        }
    }

    /// A conversation begins to generate.
    pub fn join(&self) {
        let mut queue = self.lock();
        queue.present += 1;
        queue.come_alone = false;
    }

    /// It is over.
    pub fn leave(&self) {
        let mut queue = self.lock();
        queue.present = queue.present.saturating_sub(1);
        drop(queue);
        self.changed.notify_all();
    }

    /// Feed a row to a conversation and choose its next token, maybe together with others. The state comes back in any case;
    /// without a token if a step that somebody else ran has failed.
    pub fn step(
        &self,
        state: DecoderState,
        row: Vec<f32>,
        draw: Draw,
    ) -> (DecoderState, Result<Option<(u32, f32)>>) {
        let mut queue = self.lock();
        queue.last_number += 1;
        let number = queue.last_number;
        queue.waiting.push(Ticket {
            number,
            state,
            row,
            draw,
            chosen: None,
        });
        if queue.is_running {
            queue.come_alone = false;
        }
        self.changed.notify_all();
        // From when on a step could be run.
        let mut deadline = None;
        loop {
            let mine = queue.done.iter().position(|ticket| ticket.number == number);
            if let Some(index) = mine {
                let ticket = queue.done.swap_remove(index);
                return (ticket.state, Ok(ticket.chosen));
            }
            if queue.is_running {
                deadline = None;
                queue = self
                    .changed
                    .wait(queue)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let now = Instant::now();
            let left = deadline
                .get_or_insert(now + PATIENCE)
                .saturating_duration_since(now);
            let are_missing = queue.waiting.len() < queue.present.min(MOST);
            if are_missing && !queue.come_alone && !left.is_zero() {
                let waited = self.changed.wait_timeout(queue, left);
                queue = waited.unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            queue.come_alone = queue.present > 1 && queue.waiting.len() == 1;
            queue.is_running = true;
            let taken = queue.waiting.len().min(MOST);
            let mut tickets: Vec<Ticket> = queue.waiting.drain(..taken).collect();
            drop(queue);
            let ran = self.run(&mut tickets);
            queue = self.lock();
            queue.is_running = false;
            let mine = tickets.iter().position(|ticket| ticket.number == number);
            let mine = mine.map(|index| tickets.swap_remove(index));
            queue.done.append(&mut tickets);
            self.changed.notify_all();
            // Others that were first are served first; then it is this one's turn again.
            if let Some(ticket) = mine {
                return (ticket.state, ran.map(|()| ticket.chosen));
            }
        }
    }

    fn run(&self, tickets: &mut [Ticket]) -> Result<()> {
        let rows: Vec<f32> = tickets
            .iter()
            .flat_map(|ticket| &ticket.row)
            .copied()
            .collect();
        let draws: Vec<Draw> = tickets.iter().map(|ticket| ticket.draw).collect();
        let mut runner = self.runner.lock().unwrap_or_else(PoisonError::into_inner);
        let mut states: Vec<&mut DecoderState> =
            tickets.iter_mut().map(|ticket| &mut ticket.state).collect();
        let chosen = runner.next_tokens(&mut states, &rows, &draws)?;
        let pairs = chosen.tokens.iter().zip(chosen.logprobs);
        let pairs: Vec<(u32, f32)> = pairs.map(|(&token, &logprob)| (token, logprob)).collect();
        for (ticket, pair) in tickets.iter_mut().zip(pairs) {
            ticket.chosen = Some(pair);
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
