// f16 panels: [inputs][32 outputs], two outputs in a word.
@group(0) @binding(1) var<storage, read> weights: array<u32>;

fn factors(panel: u32, block: u32, lane: u32) -> vec2<f32> {
    return vec2<f32>(1.0, 0.0);
}

fn half_at(word: u32, lane: u32) -> f32 {
    let both = unpack2x16float(weights[word]);
    return select(both.x, both.y, (lane & 1u) == 1u);
}

fn quad_of(panel: u32, quad: u32, lane: u32) -> vec4<f32> {
    let at = panel * p.panel_words + quad * 64u + lane / 2u;
    let left = p.inputs - 4u * quad;
    return vec4<f32>(
        half_at(at, lane),
        select(0.0, half_at(at + 16u, lane), left > 1u),
        select(0.0, half_at(at + 32u, lane), left > 2u),
        select(0.0, half_at(at + 48u, lane), left > 3u),
    );
}
