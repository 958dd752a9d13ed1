// The input of a convolution as rows: the windows it sees, zeros before and after a sequence.
fn input_value(row: u32, column: u32) -> f32 {
    if column >= p.inputs {
        return 0.0;
    }
    let sequence = row / p.rows_out;
    // Not below zero where it is used: the padding is taken off last.
    let padded = row % p.rows_out * p.stride + column / p.channels * p.dilation;
    if padded < p.padding || padded - p.padding >= p.rows_in {
        return 0.0;
    }
    let base = sequence * p.rows_in + padded - p.padding;
    return x[p.x_offset + base * p.x_stride + column % p.channels];
}

fn input_quad(row: u32, quad: u32) -> vec4<f32> {
    if row >= p.rows {
        return vec4<f32>(0.0);
    }
    let column = 4u * quad;
    return vec4<f32>(
        input_value(row, column),
        input_value(row, column + 1u),
        input_value(row, column + 2u),
        input_value(row, column + 3u),
    );
}
