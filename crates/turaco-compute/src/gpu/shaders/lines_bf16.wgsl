// bf16 panels, see `weights_bf16.wgsl`, four outputs at a time: a column of the result is four inputs of one output.
@group(0) @binding(1) var<storage, read> weights: array<vec4<u32>>;

fn line_factors(panel: u32, block: u32, lane: u32) -> vec4<f32> {
    return vec4<f32>(1.0);
}

fn widened(low: u32, high: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(vec4<u32>(low << 16u, low & 0xffff0000u, high << 16u, high & 0xffff0000u));
}

fn lines(panel: u32, quad: u32, lane: u32) -> mat4x4<f32> {
    let at = panel * (p.panel_words / 4u) + quad * 16u + lane;
    let low = weights[at];
    let high = select(vec4<u32>(0u), weights[at + 8u], p.inputs - 4u * quad > 2u);
    return mat4x4<f32>(
        widened(low.x, high.x),
        widened(low.y, high.y),
        widened(low.z, high.z),
        widened(low.w, high.w),
    );
}

fn times(values: mat4x4<f32>, x: vec4<f32>) -> vec4<f32> {
    return x * values;
}
