// One result per thread from at most two views and a list of numbers.

struct Params {
    rows: u32,
    cols: u32,
    a_offset: u32,
    a_stride: u32,
    b_offset: u32,
    b_stride: u32,
    b_rows: u32,
    ids_offset: u32,
    out_offset: u32,
    kind: u32,
    a_scale: f32,
    b_scale: f32,
    out_stride: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a_values: array<f32>;
@group(0) @binding(2) var<storage, read> b_values: array<f32>;
@group(0) @binding(3) var<storage, read> ids: array<u32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

fn a(row: u32, col: u32) -> f32 {
    return a_values[p.a_offset + row * p.a_stride + col];
}

fn b(row: u32, col: u32) -> f32 {
    return b_values[p.b_offset + row * p.b_stride + col];
}

fn add(row: u32, col: u32) -> f32 {
    return a(row, col) * p.a_scale + b(row % p.b_rows, col) * p.b_scale;
}

fn activated(row: u32, col: u32) -> f32 {
    return activate(a(row, col), p.kind);
}

fn swiglu(row: u32, col: u32) -> f32 {
    let gate = a(row, col);
    return gate * sigmoid(gate) * b(row, col);
}

fn multiplied(row: u32, col: u32) -> f32 {
    return a(row, col) * b(row / p.b_rows, col);
}

fn magnitude(row: u32, col: u32) -> f32 {
    let real = a(row, col);
    let imaginary = a(row, col + p.cols);
    return sqrt(real * real + imaginary * imaginary);
}

fn gathered(row: u32, col: u32) -> f32 {
    return a(min(ids[p.ids_offset + row], p.b_rows - 1u), col);
}

// `kind` rows of each sequence become columns; `b_rows` is the number of its columns.
fn transposed(row: u32, col: u32) -> f32 {
    return a(row / p.b_rows * p.kind + col, row % p.b_rows);
}

// `b` has the cosines, then the sines of a row's angles; `kind` is the width of a head, odd for neighbouring pairs.
fn rotated(row: u32, col: u32) -> f32 {
    let width = p.kind & 0xfffffffeu;
    let half = width / 2u;
    let head = col / width * width;
    let i = col % width;
    let interleaved = (p.kind & 1u) == 1u;
    let pair = select(i % half, i / 2u, interleaved);
    let second = select(i >= half, (i & 1u) == 1u, interleaved);
    let first_at = head + select(pair, 2u * pair, interleaved);
    let second_at = head + select(pair + half, 2u * pair + 1u, interleaved);
    let x = a(row, first_at);
    let y = a(row, second_at);
    let cosine = b(row, pair);
    let sine = b(row, half + pair);
    return select(x * cosine - y * sine, y * cosine + x * sine, second);
}

// The numbers are the bits of gains.
fn snake(row: u32, col: u32) -> f32 {
    let x = a(row, col);
    let rate = b_values[p.b_offset + col];
    return x + bitcast<f32>(ids[p.ids_offset + col]) * sine_squared(rate * x);
}

// `b` has `kind` taps of every column; the numbers are the bits of biases, if `b_rows` is 1.
fn depthwise(row: u32, col: u32) -> f32 {
    var sum = 0.0;
    if p.b_rows == 1u {
        sum = bitcast<f32>(ids[p.ids_offset + col]);
    }
    for (var tap = 0u; tap < p.kind; tap++) {
        sum += a(row + tap, col) * b(tap, col);
    }
    return sum;
}

fn product(row: u32, col: u32) -> f32 {
    return a(row, col) * b(row % p.b_rows, col);
}

fn repeated(row: u32, col: u32) -> f32 {
    return a(row % p.b_rows, col);
}

// `b_rows` rows of `a`, weighed by `b` if `kind` is 1; the second half of the columns are deviations, of variances that are
// at least `a_scale`.
fn statistic(row: u32, col: u32) -> f32 {
    let half = p.cols / 2u;
    let column = col % half;
    let alike = 1.0 / f32(p.b_rows);
    var mean = 0.0;
    for (var i = 0u; i < p.b_rows; i++) {
        if p.kind == 1u {
            mean += b(i, column) * a(i, column);
        } else {
            mean += alike * a(i, column);
        }
    }
    if col < half {
        return mean;
    }
    var variance = 0.0;
    for (var i = 0u; i < p.b_rows; i++) {
        let apart = a(i, column) - mean;
        var weight = alike;
        if p.kind == 1u {
            weight = b(i, column);
        }
        variance += weight * apart * apart;
    }
    return sqrt(max(variance, p.a_scale));
}

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = flat(group, groups) * 256u + thread;
    if i < p.rows * p.cols {
        let row = i / p.cols;
        let col = i % p.cols;
        out[p.out_offset + row * p.out_stride + col] = FUNCTION(row, col);
    }
}
