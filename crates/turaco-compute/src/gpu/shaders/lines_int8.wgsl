// int8 panels, see `weights_int8.wgsl`, four outputs at a time: a column of the result is four inputs of one output.
@group(0) @binding(1) var<storage, read> weights: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> row_scales: array<vec4<f32>>;

fn line_factors(panel: u32, block: u32, lane: u32) -> vec4<f32> {
    return row_scales[panel * 8u + lane];
}

fn bytes(word: u32) -> vec4<f32> {
    let bytes = bitcast<vec4<i32>>(vec4<u32>(word << 24u, word << 16u, word << 8u, word));
    return vec4<f32>(bytes >> vec4<u32>(24u));
}

fn lines(panel: u32, quad: u32, lane: u32) -> mat4x4<f32> {
    let words = weights[panel * (p.panel_words / 4u) + quad * 8u + lane];
    return mat4x4<f32>(bytes(words.x), bytes(words.y), bytes(words.z), bytes(words.w));
}

fn times(values: mat4x4<f32>, x: vec4<f32>) -> vec4<f32> {
    return x * values;
}
