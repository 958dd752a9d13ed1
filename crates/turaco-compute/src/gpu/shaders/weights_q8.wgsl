// q8 panels: blocks of 32 inputs, [32 f16 scales][8][32 outputs][4 inputs without sign].
@group(0) @binding(1) var<storage, read> weights: array<u32>;

fn half_at(word: u32, lane: u32) -> f32 {
    let both = unpack2x16float(weights[word + lane / 2u]);
    return select(both.x, both.y, (lane & 1u) == 1u);
}

fn factors(panel: u32, block: u32, lane: u32) -> vec2<f32> {
    return vec2<f32>(half_at(panel * p.panel_words + block * 272u, lane), 0.0);
}

fn quad_of(panel: u32, quad: u32, lane: u32) -> vec4<f32> {
    let block = panel * p.panel_words + quad / 8u * 272u;
    let word = weights[block + 16u + quad % 8u * 32u + lane];
    let bytes = vec4<u32>(word, word >> 8u, word >> 16u, word >> 24u) & vec4<u32>(255u);
    return vec4<f32>(bytes) - vec4<f32>(128.0);
}
