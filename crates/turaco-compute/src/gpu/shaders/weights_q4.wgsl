// q4 panels: blocks of 32 inputs, [32 f16 scales][32 f16 minimums][4][32 outputs][4 bytes]; the low halves of a word are
// four inputs, the high halves the next four.
@group(0) @binding(1) var<storage, read> weights: array<u32>;

fn half_at(word: u32, lane: u32) -> f32 {
    let both = unpack2x16float(weights[word + lane / 2u]);
    return select(both.x, both.y, (lane & 1u) == 1u);
}

fn factors(panel: u32, block: u32, lane: u32) -> vec2<f32> {
    let at = panel * p.panel_words + block * 160u;
    return vec2<f32>(half_at(at, lane), half_at(at + 16u, lane));
}

fn quad_of(panel: u32, quad: u32, lane: u32) -> vec4<f32> {
    let block = panel * p.panel_words + quad / 8u * 160u;
    let word = weights[block + 32u + quad % 8u / 2u * 32u + lane] >> (4u * (quad & 1u));
    let bytes = vec4<u32>(word, word >> 8u, word >> 16u, word >> 24u) & vec4<u32>(15u);
    return vec4<f32>(bytes);
}
