// q8 panels, see `weights_q8.wgsl`, four outputs at a time: a column of the result is four inputs of one output.
@group(0) @binding(1) var<storage, read> weights: array<vec4<u32>>;

fn line_factors(panel: u32, block: u32, lane: u32) -> vec4<f32> {
    return halves(panel * (p.panel_words / 4u) + block * 68u, lane);
}

fn bytes(word: u32) -> vec4<f32> {
    let bytes = vec4<u32>(word, word >> 8u, word >> 16u, word >> 24u) & vec4<u32>(255u);
    return vec4<f32>(bytes) - vec4<f32>(128.0);
}

fn lines(panel: u32, quad: u32, lane: u32) -> mat4x4<f32> {
    let block = panel * (p.panel_words / 4u) + quad / 8u * 68u;
    let words = weights[block + 4u + quad % 8u * 8u + lane];
    return mat4x4<f32>(bytes(words.x), bytes(words.y), bytes(words.z), bytes(words.w));
}

fn times(values: mat4x4<f32>, x: vec4<f32>) -> vec4<f32> {
    return x * values;
}
