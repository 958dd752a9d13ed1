//! Long short-term memory, after its linear maps.

use crate::cpu::simd::{Kernel, Simd, math};

/// One time step from the four gates' inputs (order i, f, g, o, as many as `h` each) to the new `h` and `c`.
pub(crate) struct Cell<'a> {
    pub gates: &'a [f32],
    pub h: &'a mut [f32],
    pub c: &'a mut [f32],
}

impl Kernel for Cell<'_> {
    type Output = ();

    fn run_scalar(self) {
        let hidden = self.h.len();
        let gate = |which: usize, i: usize| self.gates[which * hidden + i];
        let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
        for i in 0..hidden {
            let (input, forget, output) = (
                sigmoid(gate(0, i)),
                sigmoid(gate(1, i)),
                sigmoid(gate(3, i)),
            );
            self.c[i] = forget * self.c[i] + input * gate(2, i).tanh();
            self.h[i] = output * self.c[i].tanh();
        }
    }

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let hidden = self.h.len();
        assert!(self.gates.len() == 4 * hidden && self.c.len() == hidden);
        let mut at = 0;
        while at < hidden {
            let end = hidden.min(at + S::LANES);
            let gate = |which: usize| {
                let values = &self.gates[which * hidden + at..which * hidden + end];
                if values.len() == S::LANES {
                    s.load(values)
                } else {
                    s.load_part(values, 0.0)
                }
            };
            let (input, forget) = (math::sigmoid(s, gate(0)), math::sigmoid(s, gate(1)));
            let (cell, output) = (math::tanh(s, gate(2)), math::sigmoid(s, gate(3)));
            let (c, h) = (&mut self.c[at..end], &mut self.h[at..end]);
            if c.len() == S::LANES {
                let new = s.fma(forget, s.load(c), s.mul(input, cell));
                s.store(c, new);
                s.store(h, s.mul(output, math::tanh(s, new)));
            } else {
                let new = s.fma(forget, s.load_part(c, 0.0), s.mul(input, cell));
                s.store_part(c, new);
                s.store_part(h, s.mul(output, math::tanh(s, new)));
            }
            at = end;
        }
    }
}
