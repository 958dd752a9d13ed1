// The rows before a run from its state, then the rows of the run, through a snake if there is one.

struct Params {
    rows: u32,
    cols: u32,
    // Values of the state that are written first, and where they begin.
    before: u32,
    state_offset: u32,
    x_offset: u32,
    x_stride: u32,
    has_snake: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> rates: array<f32>;
@group(0) @binding(3) var<storage, read> gains: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
@group(1) @binding(0) var<storage, read_write> state: array<f32>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = flat(group, groups) * 256u + thread;
    if i >= p.rows * p.cols {
        return;
    }
    if i < p.before {
        out[i] = state[p.state_offset + i];
        return;
    }
    let row = (i - p.before) / p.cols;
    let col = (i - p.before) % p.cols;
    var value = x[p.x_offset + row * p.x_stride + col];
    if p.has_snake != 0u {
        value += gains[col] * sine_squared(rates[col] * value);
    }
    out[i] = value;
}
