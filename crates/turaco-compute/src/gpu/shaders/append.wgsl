// Keys and values of a sequence's rows to its cache, one word per thread.

struct Params {
    columns: u32,
    k_offset: u32,
    k_stride: u32,
    v_offset: u32,
    v_stride: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> k: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let width = row_words(p.columns);
    let i = flat(group, groups) * 64u + thread;
    if i >= sequence.appended * width {
        return;
    }
    let row = i / width;
    let column = i % width * PER_WORD;
    let k_at = p.k_offset + (sequence.index * sequence.appended + row) * p.k_stride + column;
    let v_at = p.v_offset + (sequence.index * sequence.appended + row) * p.v_stride + column;
    var key = vec2<f32>(k[k_at], 0.0);
    var value = vec2<f32>(v[v_at], 0.0);
    if column + 1u < p.columns {
        key.y = k[k_at + 1u];
        value.y = v[v_at + 1u];
    }
    let to = (sequence.length + row) * width + i % width;
    cache[to] = pack(key);
    cache[sequence.values + to] = pack(value);
}
