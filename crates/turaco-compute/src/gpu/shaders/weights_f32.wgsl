// f32 panels: [inputs][32 outputs].
@group(0) @binding(1) var<storage, read> weights: array<f32>;

fn factors(panel: u32, block: u32, lane: u32) -> vec2<f32> {
    return vec2<f32>(1.0, 0.0);
}

fn quad_of(panel: u32, quad: u32, lane: u32) -> vec4<f32> {
    let at = panel * p.panel_words + quad * 128u + lane;
    let left = p.inputs - 4u * quad;
    return vec4<f32>(
        weights[at],
        select(0.0, weights[at + 32u], left > 1u),
        select(0.0, weights[at + 64u], left > 2u),
        select(0.0, weights[at + 96u], left > 3u),
    );
}
