// Layer norm of a row, or root-mean-square norm of a group of its columns, by one workgroup.

struct Params {
    tasks: u32,
    // Columns of a group, and groups of a row.
    cols: u32,
    groups: u32,
    x_offset: u32,
    x_stride: u32,
    eps: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> gamma: array<f32>;
@group(0) @binding(3) var<storage, read> beta: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    SUBGROUP_INPUTS
) {
    SUBGROUP_START
    let task = flat(group, groups);
    if task >= p.tasks {
        return;
    }
    let base = p.x_offset + task / p.groups * p.x_stride + task % p.groups * p.cols;
    let to = task * p.cols;
    var mean = 0.0;
    if LAYER {
        var sum = 0.0;
        for (var i = thread; i < p.cols; i += 128u) {
            sum += x[base + i];
        }
        mean = total(thread, sum) / f32(p.cols);
    }
    var squares = 0.0;
    for (var i = thread; i < p.cols; i += 128u) {
        let value = x[base + i] - mean;
        squares += value * value;
    }
    let factor = 1.0 / sqrt(total(thread, squares) / f32(p.cols) + p.eps);
    for (var i = thread; i < p.cols; i += 128u) {
        let value = (x[base + i] - mean) * factor * gamma[i];
        if LAYER {
            out[to + i] = value + beta[i];
        } else {
            out[to + i] = value;
        }
    }
}
