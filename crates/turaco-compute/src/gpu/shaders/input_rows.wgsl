// The input of a linear map: four columns of a row, zeros beyond its end.
fn input_quad(row: u32, quad: u32) -> vec4<f32> {
    let column = 4u * quad;
    if row >= p.rows || column >= p.inputs {
        return vec4<f32>(0.0);
    }
    let at = p.x_offset + row * p.x_stride + column;
    let left = p.inputs - column;
    if left >= 4u {
        return vec4<f32>(x[at], x[at + 1u], x[at + 2u], x[at + 3u]);
    }
    var values = vec4<f32>(x[at], 0.0, 0.0, 0.0);
    if left > 1u {
        values.y = x[at + 1u];
    }
    if left > 2u {
        values.z = x[at + 2u];
    }
    return values;
}
