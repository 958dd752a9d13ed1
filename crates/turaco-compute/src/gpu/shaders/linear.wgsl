// What a linear map takes and gives: activation(x W^T + bias) * scale + residual, for the outputs of one buffer of weights.

struct Params {
    rows: u32,
    inputs: u32,
    outputs: u32,
    panel_words: u32,
    x_offset: u32,
    x_stride: u32,
    out_offset: u32,
    out_stride: u32,
    residual_offset: u32,
    residual_stride: u32,
    // Where the outputs begin in the bias; bit 31 if there is one.
    bias: u32,
    has_residual: u32,
    activation: u32,
    scale: f32,
    // Convolutions: rows of a sequence before and after, columns of a row, stride, padding, dilation.
    rows_in: u32,
    rows_out: u32,
    channels: u32,
    stride: u32,
    padding: u32,
    dilation: u32,
    // A norm before the products; what multiplies it, with the rows that each row of that is for (0 without).
    eps: f32,
    gain_offset: u32,
    gain_stride: u32,
    gain_each: u32,
    // A choice of tokens after the products: the token of the first output, and as `choose_rules.wgsl` has them.
    first_token: u32,
    vocabulary: u32,
    split: u32,
    kept: u32,
    controls_offset: u32,
    controls_stride: u32,
    allowed_offset: u32,
    seen_offset: u32,
    seeds_offset: u32,
    // The power of two that brings weights to where f16 is exact, for cooperative matrices.
    weights_scale: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(3) var<storage, read> x: array<f32>;
@mapped @group(0) @binding(4) var<storage, read> bias: array<f32>;
@mapped @group(0) @binding(5) var<storage, read> residual: array<f32>;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;

// Write an output and return it.
fn write(row: u32, output: u32, sum: f32) -> f32 {
    if row >= p.rows || output >= p.outputs {
        return 0.0;
    }
    var value = sum;
    @mapped if p.bias >= 0x80000000u {
    @mapped     value += bias[(p.bias & 0x7fffffffu) + output];
    @mapped }
    value = activate(value, p.activation) * p.scale;
    @mapped if p.has_residual != 0u {
    @mapped     value += residual[p.residual_offset + row * p.residual_stride + output];
    @mapped }
    out[p.out_offset + row * p.out_stride + output] = value;
    return value;
}
