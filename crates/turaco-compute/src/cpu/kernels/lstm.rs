//! Long short-term memory, after its linear maps.

/// One time step from the four gates' inputs (order i, f, g, o, `hidden` each) to the new `h` and `c`.
pub(crate) fn cell(gates: &[f32], h: &mut [f32], c: &mut [f32]) {
    let hidden = h.len();
    let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
    for i in 0..hidden {
        let (input, forget) = (sigmoid(gates[i]), sigmoid(gates[hidden + i]));
        let (cell, output) = (gates[2 * hidden + i].tanh(), sigmoid(gates[3 * hidden + i]));
        c[i] = forget * c[i] + input * cell;
        h[i] = output * c[i].tanh();
    }
}
