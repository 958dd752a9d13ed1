// The parts of an attention to a single query: a workgroup for each head.

struct Params {
    n_heads: u32,
    head_dim: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> parts: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let task = flat(group, groups);
    if task >= batch.count * p.n_heads {
        return;
    }
    // One query per sequence: its row is the sequence's number.
    let place = batch.sequences[task / p.n_heads].index * p.n_heads + task % p.n_heads;
    let width = p.head_dim + 2u;
    let base = place * MAX_SPLITS * width;
    var most = LOWEST;
    for (var part = 0u; part < batch.splits; part++) {
        most = max(most, parts[base + part * width + p.head_dim]);
    }
    var sum = 0.0;
    for (var part = 0u; part < batch.splits; part++) {
        let at = base + part * width + p.head_dim;
        sum += parts[at + 1u] * exp(parts[at] - most);
    }
    let factor = select(0.0, 1.0 / sum, sum > 0.0);
    for (var column = thread; column < p.head_dim; column += 64u) {
        var mixed = 0.0;
        for (var part = 0u; part < batch.splits; part++) {
            let at = base + part * width;
            mixed += parts[at + column] * exp(parts[at + p.head_dim] - most);
        }
        out[place * p.head_dim + column] = mixed * factor;
    }
}
