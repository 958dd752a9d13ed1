// Keys and values that are rows of values, sequence after sequence.

@group(0) @binding(2) var<storage, read> k_values: array<f32>;
@group(0) @binding(3) var<storage, read> v_values: array<f32>;

fn n_sequences() -> u32 {
    return p.sequences;
}

fn n_keys(index: u32) -> u32 {
    return p.keys;
}

fn first_position(index: u32) -> u32 {
    return 0u;
}

fn oldest_position(index: u32) -> u32 {
    return 0u;
}

fn first_row(index: u32) -> u32 {
    return index * p.rows;
}

fn key(index: u32, position: u32, column: u32) -> f32 {
    return k_values[p.k_offset + (index * p.keys + position) * p.k_stride + column];
}

fn key_pair(index: u32, position: u32, column: u32) -> vec2<f32> {
    let at = p.k_offset + (index * p.keys + position) * p.k_stride + column;
    return vec2<f32>(k_values[at], k_values[at + 1u]);
}

fn value(index: u32, position: u32, column: u32) -> f32 {
    return v_values[p.v_offset + (index * p.keys + position) * p.v_stride + column];
}

fn value_pair(index: u32, position: u32, column: u32) -> vec2<f32> {
    let at = p.v_offset + (index * p.keys + position) * p.v_stride + column;
    return vec2<f32>(v_values[at], v_values[at + 1u]);
}
