// f16 panels, see `weights_f16.wgsl`, four outputs at a time: a column of the result is one input of four outputs.
@group(0) @binding(1) var<storage, read> weights: array<vec2<u32>>;

fn line_factors(panel: u32, block: u32, lane: u32) -> vec4<f32> {
    return vec4<f32>(1.0);
}

fn line(at: u32) -> vec4<f32> {
    let words = weights[at];
    return vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y));
}

fn lines(panel: u32, quad: u32, lane: u32) -> mat4x4<f32> {
    let at = panel * (p.panel_words / 2u) + quad * 32u + lane;
    let left = p.inputs - 4u * quad;
    let zero = vec4<f32>(0.0);
    return mat4x4<f32>(
        line(at),
        select(zero, line(at + 8u), left > 1u),
        select(zero, line(at + 16u), left > 2u),
        select(zero, line(at + 24u), left > 3u),
    );
}

fn times(values: mat4x4<f32>, x: vec4<f32>) -> vec4<f32> {
    return values * x;
}
