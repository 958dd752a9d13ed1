//! Steps of several conversations at once.
//!
//! A step reads every weight of the decoder, for one conversation or for eight. Conversations run on threads of their own and know
//! nothing of each other; where several want their next token, one of the threads takes the others along.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::device_queue::{Job, Turn};
use crate::models::voxtral_mini::{DecoderState, Draw, Runner, VoxtralMini};
use crate::{Control, Error, Result};

/// Conversations in one step.
const MOST: usize = 8;

/// How long a step waits for conversations that are between two tokens, unless that was for nothing the last time. Somebody who
/// does not read what is written for him costs the others no more than this.
const PATIENCE: Duration = Duration::from_millis(2);

/// Between two looks whether a conversation was cancelled.
const LOOK: Duration = Duration::from_millis(50);

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
    /// Somebody waits for a turn on the device, and will run a step then.
    is_led: bool,
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
    chosen: Option<Chosen>,
}

/// What a step chose for a conversation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chosen {
    pub token: u32,
    pub logprob: f32,
    /// How long the step took.
    pub time: Duration,
    /// Conversations in it.
    pub together: usize,
}

/// The turns in which a conversation may use the device, and what may end its waiting for one.
pub(super) type Turns<'a> = Option<(&'a mut Job, &'a Control)>;

impl Queue {
    fn take_done(&mut self, number: u64) -> Option<Ticket> {
        let place = self
            .done
            .iter()
            .position(|ticket| ticket.number == number)?;
        Some(self.done.swap_remove(place))
    }

    fn withdraw(&mut self, number: u64) -> Option<Ticket> {
        let mut waiting = self.waiting.iter();
        let place = waiting.position(|ticket| ticket.number == number)?;
        Some(self.waiting.remove(place))
    }
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
    ///
    /// Where turns are taken, one conversation waits for a turn, and takes along whoever waits by then. Somebody who comes without
    /// turns may hold one already, and never waits for those who wait for one.
    pub fn step(
        &self,
        state: DecoderState,
        row: Vec<f32>,
        draw: Draw,
        mut turns: Turns<'_>,
    ) -> (DecoderState, Result<Option<Chosen>>) {
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
            if let Some(ticket) = queue.take_done(number) {
                if let (Some((job, _)), Some(chosen)) = (&mut turns, &ticket.chosen) {
                    job.charge(chosen.time / chosen.together as u32);
                }
                return (ticket.state, Ok(ticket.chosen));
            }
            let is_cancelled = turns
                .as_ref()
                .is_some_and(|(_, control)| control.is_cancelled());
            // What is in a step already comes back with it.
            if is_cancelled && let Some(ticket) = queue.withdraw(number) {
                drop(queue);
                self.changed.notify_all();
                return (ticket.state, Err(Error::Cancelled));
            }
            if queue.is_running || is_cancelled || (queue.is_led && turns.is_some()) {
                deadline = None;
                queue = self.wait(queue, LOOK);
                continue;
            }
            let now = Instant::now();
            let left = deadline
                .get_or_insert(now + PATIENCE)
                .saturating_duration_since(now);
            let are_missing = queue.waiting.len() < queue.present.min(MOST);
            if are_missing && !queue.come_alone && !left.is_zero() {
                queue = self.wait(queue, left);
                continue;
            }
            queue.come_alone = queue.present > 1 && queue.waiting.len() == 1;
            let Some((job, control)) = &mut turns else {
                let (after, mine) = self.take_along(queue, number, None);
                match mine {
                    Some((state, chosen)) => return (state, chosen.map(Some)),
                    None => queue = after,
                }
                continue;
            };
            queue.is_led = true;
            drop(queue);
            let turn = job.turn(control);
            queue = self.lock();
            queue.is_led = false;
            self.changed.notify_all();
            let Ok(mut turn) = turn else {
                // Only cancelling ends the waiting.
                continue;
            };
            while queue.is_running {
                queue = self.wait(queue, LOOK);
            }
            let is_waiting = |ticket: &Ticket| ticket.number == number;
            if !queue.waiting.iter().any(is_waiting) {
                continue;
            }
            let (after, mine) = self.take_along(queue, number, Some(&mut turn));
            drop(turn);
            match mine {
                Some((state, chosen)) => return (state, chosen.map(Some)),
                None => queue = after,
            }
        }
    }

    /// Run a step for those who wait. Others that were first are served first: then there is nothing for `number` yet.
    fn take_along<'a>(
        &'a self,
        mut queue: MutexGuard<'a, Queue>,
        number: u64,
        turn: Option<&mut Turn<'_>>,
    ) -> (
        MutexGuard<'a, Queue>,
        Option<(DecoderState, Result<Chosen>)>,
    ) {
        queue.is_running = true;
        let taken = queue.waiting.len().min(MOST);
        let mut tickets: Vec<Ticket> = queue.waiting.drain(..taken).collect();
        drop(queue);
        if let Some(turn) = turn {
            turn.share(taken);
        }
        let ran = self.run(&mut tickets);
        let mut queue = self.lock();
        queue.is_running = false;
        let mine = tickets.iter().position(|ticket| ticket.number == number);
        let mine = mine.map(|index| tickets.swap_remove(index));
        queue.done.append(&mut tickets);
        self.changed.notify_all();
        let mine = mine.map(|ticket| {
            let chosen = ran.and_then(|()| ticket.chosen.ok_or(Error::Cancelled));
            (ticket.state, chosen)
        });
        (queue, mine)
    }

    fn wait<'a>(&self, queue: MutexGuard<'a, Queue>, most: Duration) -> MutexGuard<'a, Queue> {
        let waited = self.changed.wait_timeout(queue, most);
        waited.unwrap_or_else(PoisonError::into_inner).0
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
        let started = Instant::now();
        let chosen = runner.next_tokens(&mut states, &rows, &draws)?;
        let pairs = chosen.tokens.iter().zip(chosen.logprobs);
        let pairs: Vec<(u32, f32)> = pairs.map(|(&token, &logprob)| (token, logprob)).collect();
        let (time, together) = (started.elapsed(), tickets.len());
        for (ticket, (token, logprob)) in tickets.iter_mut().zip(pairs) {
            ticket.chosen = Some(Chosen {
                token,
                logprob,
                time,
                together,
            });
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
