// Softmax of a row by one workgroup; a row of only minus infinity becomes zeros.

struct Params {
    rows: u32,
    cols: u32,
    x_offset: u32,
    x_stride: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    SUBGROUP_INPUTS
) {
    SUBGROUP_START
    let row = flat(group, groups);
    if row >= p.rows {
        return;
    }
    let base = p.x_offset + row * p.x_stride;
    var most = LOWEST;
    for (var i = thread; i < p.cols; i += 256u) {
        most = max(most, x[base + i]);
    }
    most = highest(thread, most);
    var sum = 0.0;
    for (var i = thread; i < p.cols; i += 256u) {
        sum += exp(max(x[base + i], LOWEST) - most);
    }
    sum = total(thread, sum);
    let factor = select(1.0 / sum, 0.0, most <= LOWEST);
    for (var i = thread; i < p.cols; i += 256u) {
        out[row * p.cols + i] = exp(max(x[base + i], LOWEST) - most) * factor;
    }
}
