// A tile of 64 rows and 64 outputs as four blocks of 32 by 32. A subgroup adds up one block from cooperative matrices of
// SIZE by SIZE; where there are fewer than four subgroups, they go over the inputs again for the other blocks. With factors
// of 16 bits, rows and weights are scaled by powers of two to where the largest one is between 128 and 256: nothing
// exceeds f16, and what falls below it is nothing beside the largest.

const ROW_STRIDE: u32 = 4u * DEPTH + PADDING;
const OUTPUT_STRIDE: u32 = 64u + PADDING;
const SUM_STRIDE: u32 = 68u;

// Every size is a multiple of 16 bytes: drivers may want matrices to begin at such places.
var<workgroup> staged_rows: array<Factor, 64u * ROW_STRIDE>; // the inputs of a row side by side
var<workgroup> staged_outputs: array<Factor, 4u * DEPTH * OUTPUT_STRIDE>; // the outputs for an input side by side
var<workgroup> sums: array<f32, 2u * SIZE * SUM_STRIDE>;
var<workgroup> passes_of_all: vec4<u32>;
@scaled var<workgroup> scales_of_rows: array<f32, 64>;

// The power of two with a biased exponent.
@scaled fn power(exponent: u32) -> f32 {
@scaled     return bitcast<f32>(exponent << 23u);
@scaled }

// What brings the largest of some values, given by its bits, to between 128 and 256; never more than 120 powers of two, so
// that its inverse is a number too.
@scaled fn scale_of(bits: u32) -> f32 {
@scaled     return power(clamp(261u - (bits >> 23u), 7u, 247u));
@scaled }

// One by a power of two.
@scaled fn inverse(scale: f32) -> f32 {
@scaled     return power(254u - (bitcast<u32>(scale) >> 23u));
@scaled }

@scaled fn largest_bits(x: vec4<f32>) -> u32 {
@scaled     let bits = bitcast<vec4<u32>>(x) & vec4<u32>(0x7fffffffu);
@scaled     return max(max(bits.x, bits.y), max(bits.z, bits.w));
@scaled }

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @matrices @builtin(subgroup_id) subgroup: u32,
    @matrices @builtin(num_subgroups) subgroups: u32,
) {
    @imitated let subgroup = thread / LANES;
    @imitated let subgroups = THREADS / LANES;
    let tiles = (p.outputs + 63u) / 64u;
    let task = flat(group, groups);
    let first_output = task % tiles * 64u;
    let first_row = task / tiles * 64u;
    let quads = (p.inputs + 3u) / 4u;
    let panels = (p.outputs + 31u) / 32u;
    @scaled // Eight threads for each row.
    @scaled for (var first = 0u; first < 64u; first += THREADS / 8u) {
    @scaled     let row = first + thread / 8u;
    @scaled     var bits = 0u;
    @scaled     for (var quad = thread % 8u; quad < quads; quad += 8u) {
    @scaled         bits = max(bits, largest_bits(input_quad(first_row + row, quad)));
    @scaled     }
    @scaled     // Infinities and NaN stay what they are with any scale.
    @scaled     sums[8u * row + thread % 8u] = bitcast<f32>(min(bits, 0x7f000000u));
    @scaled }
    @scaled workgroupBarrier();
    @scaled for (var row = thread; row < 64u; row += THREADS) {
    @scaled     var bits = 0u;
    @scaled     for (var i = 0u; i < 8u; i++) {
    @scaled         bits = max(bits, bitcast<u32>(sums[8u * row + i]));
    @scaled     }
    @scaled     scales_of_rows[row] = scale_of(bits);
    @scaled }
    if thread == 0u {
        passes_of_all = vec4<u32>((3u + subgroups) / subgroups);
    }
    // The same for all, which barriers in a loop need.
    let passes = workgroupUniformLoad(&passes_of_all).x;
    for (var pass_number = 0u; pass_number < passes; pass_number++) {
        // Were there more than four subgroups, some would do the same.
        let block = (pass_number * subgroups + subgroup) % 4u;
        let block_row = block / 2u;
        let block_column = block % 2u * 32u;
        for (var i = thread; i < SIZE * SUM_STRIDE; i += THREADS) {
            sums[i] = 0.0;
        }
        workgroupBarrier();
        @matrices @down @across var sum$i_$j = coopLoadT<SumMatrix>(&sums[0], SUM_STRIDE);
        @imitated @down @across var sum$i_$j = SumMatrix();
        for (var chunk = 0u; chunk < quads; chunk += DEPTH) {
            for (var i = thread; i < 64u * DEPTH; i += THREADS) {
                let row = i / DEPTH;
                var inputs = input_quad(first_row + row, chunk + i % DEPTH);
                @scaled inputs *= scales_of_rows[row];
                let at = row * ROW_STRIDE + i % DEPTH * 4u;
                @4 staged_rows[at + $iu] = Factor(inputs[$i]);
                let output = first_output + i % 64u;
                let panel = min(output / 32u, panels - 1u);
                let quad = chunk + i / 64u;
                var values = vec4<f32>(0.0);
                if quad < quads {
                    values = quad_values(panel, quad, output % 32u, factors(panel, quad / 8u, output % 32u));
                }
                @scaled values *= p.weights_scale;
                let to = i / 64u * 4u * OUTPUT_STRIDE + i % 64u;
                @4 staged_outputs[to + $iu * OUTPUT_STRIDE] = Factor(values[$i]);
            }
            workgroupBarrier();
            for (var input = 0u; input < 4u * DEPTH; input += SIZE) {
                @matrices @down let x$i = coopLoadT<RowMatrix>(&staged_rows[(block_row * 32u + $iu * SIZE) * ROW_STRIDE + input], ROW_STRIDE);
                @matrices @across let w$j = coopLoadT<OutputMatrix>(&staged_outputs[input * OUTPUT_STRIDE + block_column + $ju * SIZE], OUTPUT_STRIDE);
                @matrices @down @across sum$i_$j = coopMultiplyAdd(x$i, w$j, sum$i_$j);
                @imitated @down @across sum$i_$j = multiplied((block_row * 32u + $iu * SIZE) * ROW_STRIDE + input, input * OUTPUT_STRIDE + block_column + $ju * SIZE, sum$i_$j, thread % LANES);
            }
            workgroupBarrier();
        }
        // A line of matrices at a time goes through workgroup memory.
        for (var line = 0u; line < 32u / SIZE; line++) {
            @matrices @down @across if line == $iu { coopStoreT(sum$i_$j, &sums[block_row * SIZE * SUM_STRIDE + block_column + $ju * SIZE], SUM_STRIDE); }
            @imitated @down @across if line == $iu { store(sum$i_$j, block_row * SIZE * SUM_STRIDE + block_column + $ju * SIZE, thread % LANES); }
            workgroupBarrier();
            for (var i = thread; i < 2u * SIZE * 64u; i += THREADS) {
                let staged = i / 64u;
                let column = i % 64u;
                let row = staged / SIZE * 32u + line * SIZE + staged % SIZE;
                // Blocks of other passes are not there.
                if (staged / SIZE * 2u + column / 32u) / subgroups == pass_number {
                    var sum = sums[staged * SUM_STRIDE + column];
                    @scaled sum = sum * inverse(scales_of_rows[row]) * inverse(p.weights_scale);
                    write(first_row + row, first_output + column, sum);
                }
            }
            workgroupBarrier();
        }
    }
}
