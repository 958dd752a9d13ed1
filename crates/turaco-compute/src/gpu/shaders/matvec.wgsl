// A few rows times a panel of 32 outputs. Eight threads with four outputs each read a line of weights; SLICES such groups
// take a block of 32 inputs each, and their sums are added up at the end. A norm of the rows comes first, and a second
// panel of the same matrix may be multiplied to `silu(first) * second`.

const THREADS: u32 = 8u * SLICES;
const QUADS: u32 = 8u * SLICES; // of inputs that are staged at a time

var<workgroup> staged: array<vec4<f32>, ROWS * QUADS>;
var<workgroup> sums: array<vec4<f32>, THREADS>;

@normed @group(0) @binding(7) var<storage, read> gamma: array<f32>;
@normed @group(0) @binding(8) var<storage, read> beta: array<f32>; // or what multiplies the norm, per row

@normed fn gamma_quad(quad: u32) -> vec4<f32> {
@normed     let at = 4u * quad;
@normed     return vec4<f32>(gamma[at], gamma[at + 1u], gamma[at + 2u], gamma[at + 3u]);
@normed }

@normed fn beta_quad(offset: u32, quad: u32) -> vec4<f32> {
@normed     let at = offset + 4u * quad;
@normed     return vec4<f32>(beta[at], beta[at + 1u], beta[at + 2u], beta[at + 3u]);
@normed }

// The norm of four inputs of a row. Beyond its end it may be anything finite: the row's inputs are zeros there.
@normed fn normed(x: vec4<f32>, row: u32, quad: u32, mean: f32, factor: f32) -> vec4<f32> {
@normed     let left = p.inputs - min(p.inputs, 4u * quad);
@normed     let inside = vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(left);
@normed     var value = (x - vec4<f32>(mean)) * factor * gamma_quad(quad);
@layer      value += beta_quad(0u, quad);
@normed     if p.gain_each != 0u {
@normed         value *= beta_quad(p.gain_offset + row / p.gain_each * p.gain_stride, quad);
@normed     }
@normed     return select(vec4<f32>(0.0), value, inside);
@normed }

@normed fn ones(quad: u32) -> vec4<f32> {
@normed     let left = p.inputs - min(p.inputs, 4u * quad);
@normed     return select(vec4<f32>(0.0), vec4<f32>(1.0), vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(left));
@normed }

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    SUBGROUP_INPUTS
) {
    SUBGROUP_START
    let lane = thread % 8u;
    let slice = thread / 8u;
    let panels = (p.outputs + 31u) / 32u;
    let task = flat(group, groups);
    let panel = task % panels;
    let first_row = task / panels * ROWS;
    if first_row >= p.rows {
        return;
    }
    let quads = (p.inputs + 3u) / 4u;
    @rows var mean$i = 0.0;
    @rows var factor$i = 1.0;
    @normed {
    @layer @rows var sum$i = 0.0;
    @layer for (var quad = thread; quad < quads; quad += THREADS) {
    @layer     @rows sum$i += dot(input_quad(first_row + $iu, quad), vec4<f32>(1.0));
    @layer }
    @layer @rows mean$i = total(thread, sum$i) / f32(p.inputs);
    @normed @rows var squares$i = 0.0;
    @normed for (var quad = thread; quad < quads; quad += THREADS) {
    @normed     let inside = ones(quad);
    @normed     @rows let x$i = input_quad(first_row + $iu, quad) - mean$i * inside;
    @normed     @rows squares$i += dot(x$i, x$i);
    @normed }
    @normed @rows factor$i = 1.0 / sqrt(total(thread, squares$i) / f32(p.inputs) + p.eps);
    @normed }
    @rows var sum$i = vec4<f32>(0.0);
    @gated @rows var second$i = vec4<f32>(0.0);
    for (var chunk = 0u; chunk < quads; chunk += QUADS) {
        let quad = chunk + thread;
        @rows staged[$iu * QUADS + thread] = input_quad(first_row + $iu, quad);
        @normed @rows staged[$iu * QUADS + thread] = normed(staged[$iu * QUADS + thread], first_row + $iu, quad, mean$i, factor$i);
        workgroupBarrier();
        let count = min(QUADS, quads - chunk);
        let begin = slice * 8u;
        let end = min(begin + 8u, count);
        if begin < end {
            @rows var part$i = vec4<f32>(0.0);
            @gated @rows var second_part$i = vec4<f32>(0.0);
            @rows var inputs$i = 0.0;
            for (var quad = begin; quad < end; quad++) {
                let values = lines(panel, chunk + quad, lane);
                @gated let second_values = lines(panel + panels, chunk + quad, lane);
                @rows let x$i = staged[$iu * QUADS + quad];
                @rows part$i += times(values, x$i);
                @gated @rows second_part$i += times(second_values, x$i);
                @minimum @rows inputs$i += dot(x$i, vec4<f32>(1.0));
            }
            let block = (chunk + begin) / 8u;
            let factor = line_factors(panel, block, lane);
            @rows sum$i += part$i * factor;
            @minimum let minimum = line_minimums(panel, block, lane);
            @minimum @rows sum$i += inputs$i * minimum;
            @gated let second_factor = line_factors(panel + panels, block, lane);
            @gated @rows second$i += second_part$i * second_factor;
            @gated @minimum let second_minimum = line_minimums(panel + panels, block, lane);
            @gated @minimum @rows second$i += inputs$i * second_minimum;
        }
        workgroupBarrier();
    }
    @plain @rows finish(first_row + $iu, panel, thread, sum$i);
    @gated @rows finish(first_row + $iu, panel, thread, sum$i, second$i);
}

// The sum of output `thread` over all slices, for the first 32 threads.
fn gathered(thread: u32, sum: vec4<f32>) -> f32 {
    sums[thread] = sum;
    workgroupBarrier();
    var result = 0.0;
    if thread < 32u {
        for (var slice = 0u; slice < SLICES; slice++) {
            result += sums[slice * 8u + thread / 4u][thread % 4u];
        }
    }
    workgroupBarrier();
    return result;
}

@plain fn finish(row: u32, panel: u32, thread: u32, sum: vec4<f32>) {
@gated fn finish(row: u32, panel: u32, thread: u32, sum: vec4<f32>, second: vec4<f32>) {
    var value = gathered(thread, sum);
    @gated let up = gathered(thread, second);
    @gated value = value * sigmoid(value) * up;
    if thread < 32u {
        value = write(row, panel * 32u + thread, value);
    }
    @chosen choose(row, panel, thread, value);
}
