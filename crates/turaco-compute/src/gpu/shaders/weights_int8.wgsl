// int8 panels: [inputs / 4][32 outputs][4 inputs]; one scale per output.
@group(0) @binding(1) var<storage, read> weights: array<u32>;
@group(0) @binding(2) var<storage, read> row_scales: array<f32>;

fn factors(panel: u32, block: u32, lane: u32) -> vec2<f32> {
    return vec2<f32>(row_scales[panel * 32u + lane], 0.0);
}

fn quad_of(panel: u32, quad: u32, lane: u32) -> vec4<f32> {
    let word = weights[panel * p.panel_words + quad * 32u + lane];
    let bytes = bitcast<vec4<i32>>(vec4<u32>(word << 24u, word << 16u, word << 8u, word));
    return vec4<f32>(bytes >> vec4<u32>(24u));
}
