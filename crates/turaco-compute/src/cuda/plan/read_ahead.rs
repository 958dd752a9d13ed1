//! What calls of `matvec.cu` bring from memory to the card's second cache for those that come next. Before such a call ends, it
//! has asked for all of its own weights; until the next one asks for many, memory would have nothing to do, the longer the more
//! comes between the two. So each brings as much of what follows as the cache may hold, and goes on where the one before it
//! stopped. The last call of a run brings what the first ones of the next run read.

use super::super::kernels::MatvecCut;
use super::super::params::{Ahead, LinearParams};
use super::Planner;
use super::grids::{LINE, panels_at_once};

/// The weights that a call reads.
pub(super) struct Reading {
    /// Where it is among the calls of the plan.
    launch: usize,
    /// Where they begin, and where those of the other half do of a call that has two.
    parts: [Option<u64>; 2],
    panel_bytes: u64,
    /// Panels of a part that the call reads at once, and whether those are all.
    panels: usize,
    is_all: bool,
    /// Bytes of each of them that are near already.
    near: usize,
}

impl Planner<'_> {
    /// The last call is one of `matvec.cu` with so many panels of outputs.
    pub(super) fn read_ahead(&mut self, cut: MatvecCut, panels: usize, params: &LinearParams) {
        let Some(launch) = self.launches.len().checked_sub(1) else {
            return;
        };
        let at_once = panels_at_once(cut, panels, self.context.card());
        let half = panels as u64 * params.panel_bytes;
        self.read_ahead.push(Reading {
            launch,
            parts: [
                Some(params.weights),
                cut.gated.then(|| params.weights + half),
            ],
            panel_bytes: params.panel_bytes,
            panels: at_once,
            is_all: at_once == panels,
            near: 0,
        });
    }

    /// All calls are there: settle what each of them brings.
    pub(super) fn settle_read_ahead(&mut self) {
        // What comes must not drive out what came, before it is read.
        let room = self.context.second_cache / 3;
        let mut calls = std::mem::take(&mut self.read_ahead);
        let Some(last) = calls.len().checked_sub(1) else {
            return;
        };
        // The run begins with what the one before it brought: its last call most of it, and the one before that what is left.
        for nth in std::iter::once(last).chain(0..last) {
            let ahead = bring(&mut calls, nth, room);
            if let Some(launch) = self.launches.get_mut(calls[nth].launch) {
                // SAFETY: calls of `matvec.cu` are made of this struct.
                let params: &mut LinearParams = unsafe { launch.params_mut() };
                params.ahead = ahead;
            }
        }
    }
}

/// What call `nth` brings, so that `room` bytes behind its own weights are near.
fn bring(calls: &mut [Reading], nth: usize, mut room: usize) -> [Ahead; 4] {
    let mut ahead = [Ahead::default(); 4];
    let mut free = ahead.iter_mut();
    // The two calls that follow.
    for behind in 1..=2.min(calls.len() - 1) {
        let at = (nth + behind) % calls.len();
        let call = &mut calls[at];
        let whole = call.panel_bytes as usize / LINE * LINE;
        let each = call.panels * call.parts.iter().flatten().count();
        room = room.saturating_sub(each * call.near);
        let more = (room / each.max(1) / LINE * LINE).min(whole - call.near);
        if more > 0 {
            for (part, to) in call.parts.iter().flatten().zip(&mut free) {
                *to = Ahead {
                    at: part + call.near as u64,
                    panel_bytes: call.panel_bytes,
                    panels: call.panels as u32,
                    bytes: more as u32,
                };
            }
        }
        call.near += more;
        room = room.saturating_sub(each * more);
        // Not beyond what is not there in whole.
        if !call.is_all || call.near < whole {
            break;
        }
    }
    ahead
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls of so many panels of so many bytes, all read at once.
    fn calls(sizes: &[(usize, u64, bool)]) -> Vec<Reading> {
        let mut at = 0;
        let mut make = |&(panels, panel_bytes, gated): &(usize, u64, bool)| {
            let begin = at;
            at += 1 << 40;
            Reading {
                launch: 0,
                parts: [
                    Some(begin),
                    gated.then(|| begin + panels as u64 * panel_bytes),
                ],
                panel_bytes,
                panels,
                is_all: true,
                near: 0,
            }
        };
        sizes.iter().map(&mut make).collect()
    }

    fn bytes(ahead: &[Ahead]) -> usize {
        let each = |ahead: &Ahead| ahead.panels as usize * ahead.bytes as usize;
        ahead.iter().map(each).sum()
    }

    #[test]
    fn each_call_goes_on_where_the_one_before_stopped() {
        // Two small ones, and one that is larger than the room and has two halves.
        let mut calls = calls(&[(10, 1024, false), (10, 1024, false), (10, 1 << 20, true)]);
        let room = 40 * 1024;
        // The last brings both small ones, and what is left stays free: it never goes on behind two.
        let last = bring(&mut calls, 2, room);
        assert_eq!(bytes(&last), 20 * 1024);
        // The first finds the second there, and brings the beginnings of the third's panels.
        let first = bring(&mut calls, 0, room);
        assert_eq!(bytes(&first[..2]), 30 * 1024 / (20 * 128) * (20 * 128));
        assert_eq!((first[0].at, first[0].bytes), (2 << 40, 1536));
        assert_eq!(first[1].at, (2 << 40) + (10 << 20));
        // The second goes on with them, as far as there is room.
        let second = bring(&mut calls, 1, room);
        assert_eq!((second[0].at, second[0].bytes), ((2 << 40) + 1536, 512));
        assert_eq!(bytes(&second[2..]), 0);
    }

    #[test]
    fn nothing_is_brought_twice_or_from_beyond_a_panel() {
        let sizes = [(3, 1088, false), (5, 640 * 7, true), (1, 64, false)];
        for room in [1 << 30, 9000, 0] {
            let mut calls = calls(&sizes);
            let mut seen: Vec<(u64, u64)> = Vec::new();
            for nth in [2, 0, 1] {
                for ahead in bring(&mut calls, nth, room) {
                    assert_eq!(ahead.bytes % 128, 0);
                    for panel in 0..u64::from(ahead.panels) {
                        let begin = ahead.at + panel * ahead.panel_bytes;
                        seen.push((begin, begin + u64::from(ahead.bytes)));
                    }
                }
            }
            seen.retain(|(begin, end)| begin < end);
            seen.sort_unstable();
            for pair in seen.windows(2) {
                assert!(pair[0].1 <= pair[1].0, "{room}: {seen:?}");
            }
            for &(begin, end) in &seen {
                let (nth, at) = ((begin >> 40) as usize, begin & ((1 << 40) - 1));
                let (panels, panel_bytes, gated) = sizes[nth];
                let panels = panels as u64 * if gated { 2 } else { 1 };
                assert!(at / panel_bytes < panels);
                assert!(end - begin <= panel_bytes - at % panel_bytes);
            }
            if room == 1 << 30 {
                let near: Vec<_> = calls.iter().map(|call| call.near).collect();
                assert_eq!(near, [1024, 640 * 7, 0]);
            }
        }
    }

    #[test]
    fn nothing_comes_behind_a_call_whose_first_blocks_do_not_read_all() {
        let mut calls = calls(&[(4, 1024, false), (4, 1024, false), (4, 1024, false)]);
        calls[1].is_all = false;
        assert_eq!(bytes(&bring(&mut calls, 0, 1 << 20)), 4096);
    }

    #[test]
    fn one_call_alone_brings_nothing() {
        assert_eq!(
            bytes(&bring(&mut calls(&[(4, 4096, false)]), 0, 1 << 20)),
            0
        );
    }
}
