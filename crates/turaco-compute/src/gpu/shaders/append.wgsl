// Keys and values of a batch's rows to its caches, one word per thread; with rotary embedding, keys are rotated on the
// way, and queries where the attention will find them.

struct Params {
    columns: u32,
    q_columns: u32,
    q_offset: u32,
    q_stride: u32,
    k_offset: u32,
    k_stride: u32,
    v_offset: u32,
    v_stride: u32,
    table_offset: u32,
    head_dim: u32,
    // Whether neighbours are rotated against each other, not halves.
    interleaved: u32,
    // Rows of all sequences: of this append, that the run appended to the layer before, that it appends in the end.
    rows: u32,
    before: u32,
    total: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> k: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<f32>;
@rotate @group(0) @binding(3) var<storage, read> q: array<f32>;
@rotate @group(0) @binding(4) var<storage, read> table: array<f32>;
@rotate @group(0) @binding(5) var<storage, read_write> out: array<f32>;

// The column that a column is rotated against, the number of the pair, and whether it is the second of it.
fn pair_of(column: u32) -> vec3<u32> {
    let half = p.head_dim / 2u;
    let i = column % p.head_dim;
    if p.interleaved != 0u {
        return vec3<u32>(column ^ 1u, i / 2u, i & 1u);
    }
    if i < half {
        return vec3<u32>(column + half, i, 0u);
    }
    return vec3<u32>(column - half, i - half, 1u);
}

@rotate fn rotated(x: f32, other: f32, row: u32, pair: u32, second: u32) -> f32 {
@rotate     let at = p.table_offset + row * p.head_dim + pair;
@rotate     let sine = table[at + p.head_dim / 2u];
@rotate     return x * table[at] + select(-other, other, second == 1u) * sine;
@rotate }

fn key_at(row: u32, column: u32) -> f32 {
    let at = p.k_offset + row * p.k_stride;
    @rotate let pair = pair_of(column);
    @rotate return rotated(k[at + column], k[at + pair.x], row, pair.y, pair.z);
    @plain return k[at + column];
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let width = row_words(p.columns);
    let each = width + p.q_columns;
    let task = flat(group, groups);
    let index = task % batch.count;
    let sequence = batch.sequences[index];
    let i = task / batch.count * 64u + thread;
    let rows = batch.appended * p.rows / p.total;
    if i >= rows * each {
        return;
    }
    let nth = i / each;
    let row = sequence.index * rows + nth;
    let word = i % each;
    @rotate if word >= width {
    @rotate     let at = p.q_offset + row * p.q_stride;
    @rotate     let column = word - width;
    @rotate     let pair = pair_of(column);
    @rotate     out[row * p.q_columns + column] = rotated(q[at + column], q[at + pair.x], row, pair.y, pair.z);
    @rotate     return;
    @rotate }
    let column = word * PER_WORD;
    let v_at = p.v_offset + row * p.v_stride + column;
    var key = vec2<f32>(key_at(row, column), 0.0);
    var value = vec2<f32>(v[v_at], 0.0);
    if PER_WORD == 2u && column + 1u < p.columns {
        key.y = key_at(row, column + 1u);
        value.y = v[v_at + 1u];
    }
    // Of rows that do not all fit, the last ones stay.
    let position = batch.appended * p.before / p.total + nth;
    if position + sequence.capacity < batch.appended {
        return;
    }
    let to = place(index, sequence.length + position) * width + word;
    set_cache_word(sequence.which, to, pack(key));
    set_cache_word(sequence.which, sequence.values + to, pack(value));
}
