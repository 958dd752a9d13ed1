// q4 panels, see `weights_q4.wgsl`, four outputs at a time: a column of the result is four inputs of one output.
@group(0) @binding(1) var<storage, read> weights: array<vec4<u32>>;

fn line_factors(panel: u32, block: u32, lane: u32) -> vec4<f32> {
    return halves(panel * (p.panel_words / 4u) + block * 40u, lane);
}

fn line_minimums(panel: u32, block: u32, lane: u32) -> vec4<f32> {
    return halves(panel * (p.panel_words / 4u) + block * 40u + 4u, lane);
}

fn low_halves(word: u32) -> vec4<f32> {
    return vec4<f32>(vec4<u32>(word, word >> 8u, word >> 16u, word >> 24u) & vec4<u32>(15u));
}

fn lines(panel: u32, quad: u32, lane: u32) -> mat4x4<f32> {
    let block = panel * (p.panel_words / 4u) + quad / 8u * 40u;
    let words = weights[block + 8u + quad % 8u / 2u * 8u + lane] >> vec4<u32>(4u * (quad & 1u));
    return mat4x4<f32>(low_halves(words.x), low_halves(words.y), low_halves(words.z), low_halves(words.w));
}

fn times(values: mat4x4<f32>, x: vec4<f32>) -> vec4<f32> {
    return x * values;
}
