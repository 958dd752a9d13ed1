//! Waiting for a buffer without blocking the thread, which a page in a browser must not.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context as Task, Poll, Waker};

use super::context::lock;

type Mapping = std::result::Result<(), wgpu::BufferAsyncError>;

/// The answer to a request for a buffer, as a future.
#[derive(Clone, Default)]
pub(super) struct Arrival(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    answer: Option<Mapping>,
    waker: Option<Waker>,
}

impl Arrival {
    /// The answer is here.
    pub fn settle(&self, answer: Mapping) {
        let mut state = lock(&self.0);
        state.answer = Some(answer);
        if let Some(waker) = state.waker.take() {
            drop(state);
            waker.wake();
        }
    }
}

impl Future for Arrival {
    type Output = Mapping;

    fn poll(self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<Mapping> {
        let mut state = lock(&self.0);
        match state.answer.take() {
            Some(answer) => Poll::Ready(answer),
            None => {
                state.waker = Some(task.waker().clone());
                Poll::Pending
            }
        }
    }
}
