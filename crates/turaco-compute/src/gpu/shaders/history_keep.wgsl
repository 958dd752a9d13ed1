// The end of what a stream has seen becomes its state.

struct Params {
    // Values, where they begin, and where they go.
    count: u32,
    x_offset: u32,
    state_offset: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(1) @binding(0) var<storage, read_write> state: array<f32>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = flat(group, groups) * 256u + thread;
    if i < p.count {
        state[p.state_offset + i] = x[p.x_offset + i];
    }
}
