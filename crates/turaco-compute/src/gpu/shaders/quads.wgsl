// Four inputs of one output of a panel, as they are meant; inputs that the matrix does not have may be anything finite.
fn quad_values(panel: u32, quad: u32, lane: u32, factor: vec2<f32>) -> vec4<f32> {
    return quad_of(panel, quad, lane) * factor.x + vec4<f32>(factor.y);
}
