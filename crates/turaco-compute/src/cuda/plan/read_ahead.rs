//! What calls of `matvec.cu` bring from memory to the card's second cache for the call of it that comes next. Before such a call
//! ends, it has asked for all of its own weights; until the next one begins to ask for many, memory would have nothing to do, the
//! longer the more comes between the two.

use super::super::kernels::MatvecCut;
use super::super::params::LinearParams;
use super::Planner;
use super::grids::first_lines;

/// The calls of a plan that read their weights once.
#[derive(Default)]
pub(super) struct ReadAhead {
    /// What the first of them reads first.
    first: Option<First>,
    /// Where the last of them is among the calls.
    last: Option<usize>,
}

/// The weights that a call reads first.
#[derive(Clone, Copy)]
struct First {
    weights: u64,
    panel_bytes: u64,
    panels: u32,
    lines: u32,
}

impl Planner<'_> {
    /// The last call is one of `matvec.cu` with so many panels of weights: the one before it shall bring the first of them nearer.
    pub(super) fn read_ahead(&mut self, cut: MatvecCut, panels: usize, params: &LinearParams) {
        let Some(last) = self.launches.len().checked_sub(1) else {
            return;
        };
        // What comes must not drive out what came, before it is read.
        let room = self.context.second_cache / 4;
        let size = (panels, params.panel_bytes as usize);
        let (panels, lines) = first_lines(cut, size, room, self.context.card().processors);
        let first = First {
            weights: params.weights,
            panel_bytes: params.panel_bytes,
            panels: panels as u32,
            lines: lines as u32,
        };
        self.tell_last(first);
        self.read_ahead.first.get_or_insert(first);
        self.read_ahead.last = Some(last);
    }

    /// All calls are there. The next run will begin as this one did.
    pub(super) fn read_ahead_of_next_run(&mut self) {
        if let Some(first) = self.read_ahead.first {
            self.tell_last(first);
        }
    }

    fn tell_last(&mut self, first: First) {
        let last = self.read_ahead.last;
        let Some(launch) = last.and_then(|last| self.launches.get_mut(last)) else {
            return;
        };
        // SAFETY: calls of `matvec.cu` are made of this struct.
        let params: &mut LinearParams = unsafe { launch.params_mut() };
        params.next = first.weights;
        params.next_panel_bytes = first.panel_bytes;
        params.next_panels = first.panels;
        params.next_lines = first.lines;
    }
}
