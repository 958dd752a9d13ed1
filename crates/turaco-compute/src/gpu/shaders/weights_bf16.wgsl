// bf16 panels: [inputs / 2][32 outputs][2 inputs]; a word is two inputs of one output.
@group(0) @binding(1) var<storage, read> weights: array<u32>;

fn factors(panel: u32, block: u32, lane: u32) -> vec2<f32> {
    return vec2<f32>(1.0, 0.0);
}

fn quad_of(panel: u32, quad: u32, lane: u32) -> vec4<f32> {
    let at = panel * p.panel_words + quad * 64u + lane;
    let low = weights[at];
    let high = select(0u, weights[at + 32u], p.inputs - 4u * quad > 2u);
    return bitcast<vec4<f32>>(vec4<u32>(
        low << 16u,
        low & 0xffff0000u,
        high << 16u,
        high & 0xffff0000u,
    ));
}
