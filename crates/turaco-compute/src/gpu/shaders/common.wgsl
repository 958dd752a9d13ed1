// What several shaders use. A view is a matrix in a buffer: rows begin at `offset`, `stride` values apart.

// The number of a workgroup in a grid that is folded into two dimensions.
fn flat(group: vec3<u32>, groups: vec3<u32>) -> u32 {
    return group.x + group.y * groups.x;
}

// Stands for minus infinity, which WGSL does not promise to keep.
const LOWEST: f32 = -3.4028234e38;

// Comparisons may not be trusted with NaN; its bits may.
fn is_nan(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}

fn sigmoid(x: f32) -> f32 {
    return 1.0 / (1.0 + exp(min(-x, 88.0)));
}

fn tanh_of(x: f32) -> f32 {
    return 2.0 / (1.0 + exp(clamp(-2.0 * x, -87.0, 88.0))) - 1.0;
}

// x / 2 * erfc(-x / sqrt 2), the fit that the processor uses.
fn gelu(x: f32) -> f32 {
    let z = min(abs(x) * 0.70710678, 9.0);
    let t = 1.0 / (1.0 + 0.4 * z);
    var sum = -0.029595409;
    sum = sum * t + 0.19801876;
    sum = sum * t - 0.49882385;
    sum = sum * t + 0.54745096;
    sum = sum * t - 0.28437883;
    sum = sum * t + 0.27207235;
    sum = sum * t + 0.12967764;
    sum = sum * t + 0.2149195;
    sum = sum * t + 0.22495198;
    sum = sum * t + 0.2257069;
    let tail = sum * t * exp(-z * z);
    return 0.5 * x * select(tail, 2.0 - tail, x > 0.0);
}

// sin(x)^2, the fit that the processor uses: what is left of x modulo pi lies within pi / 2.
fn sine_squared(x: f32) -> f32 {
    let n = round(x * 0.31830987);
    let rest = (x - n * 3.140625) - n * 0.0009676536;
    let square = rest * rest;
    var sum = -3.5407825e-6;
    sum = sum * square + 0.00013871641;
    sum = sum * square - 0.003170765;
    sum = sum * square + 0.044441294;
    sum = sum * square - 0.33333215;
    sum = sum * square + 0.9999998;
    return sum * square;
}

// Numbers as `graph::Activation` has them.
fn activate(x: f32, kind: u32) -> f32 {
    switch kind {
        case 1u: { return gelu(x); }
        case 2u: { return x * sigmoid(x); }
        case 3u: { return max(x, 0.0); }
        case 4u: { return sigmoid(x); }
        case 5u: { return select(x, exp(min(x, 0.0)) - 1.0, x < 0.0); }
        case 6u: { return tanh_of(x); }
        default: { return x; }
    }
}
