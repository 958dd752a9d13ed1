// The recurrent half of an LSTM, row after row by one workgroup. `gates` has the products with the inputs and the biases.

struct Params {
    rows: u32,
    inputs: u32, // the width of the state
    panel_words: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(3) var<storage, read> gates: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
@group(1) @binding(0) var<storage, read_write> state: array<f32>;

var<workgroup> previous: array<f32, HIDDEN>;

fn gate(row: u32, output: u32) -> f32 {
    let panel = output / 32u;
    let lane = output % 32u;
    var sum = gates[row * 4u * p.inputs + output];
    for (var quad = 0u; quad * 4u < p.inputs; quad++) {
        let factor = factors(panel, quad / 8u, lane);
        let at = 4u * quad;
        let h = vec4<f32>(previous[at], previous[at + 1u], previous[at + 2u], previous[at + 3u]);
        sum += dot(quad_values(panel, quad, lane, factor), h);
    }
    return sum;
}

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) thread: u32) {
    for (var row = 0u; row < p.rows; row++) {
        for (var i = thread; i < HIDDEN; i += 256u) {
            previous[i] = 0.0;
            if i < p.inputs {
                previous[i] = state[i];
            }
        }
        workgroupBarrier();
        for (var i = thread; i < p.inputs; i += 256u) {
            let kept = sigmoid(gate(row, p.inputs + i)) * state[p.inputs + i];
            let added = sigmoid(gate(row, i)) * tanh_of(gate(row, 2u * p.inputs + i));
            let cell = kept + added;
            let hidden = sigmoid(gate(row, 3u * p.inputs + i)) * tanh_of(cell);
            state[i] = hidden;
            state[p.inputs + i] = cell;
            out[row * p.inputs + i] = hidden;
        }
        storageBarrier();
        workgroupBarrier();
    }
}
