// A few rows times a panel of 32 outputs: 32 threads take an output each and read neighbouring words, eight such groups
// take every eighth block of 32 inputs, and their sums are added up at the end.

const STAGED: u32 = 128u; // quads of inputs that are staged at a time

var<workgroup> staged: array<vec4<f32>, ROWS * STAGED>;
var<workgroup> sums: array<f32, ROWS * 256u>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let lane = thread % 32u;
    let slice = thread / 32u;
    let panels = (p.outputs + 31u) / 32u;
    let task = flat(group, groups);
    let panel = task % panels;
    let first_row = task / panels * ROWS;
    let quads = (p.inputs + 3u) / 4u;
    @rows var sum$i = 0.0;
    for (var chunk = 0u; chunk < quads; chunk += STAGED) {
        for (var i = thread; i < ROWS * STAGED; i += 256u) {
            staged[i] = input_quad(first_row + i / STAGED, chunk + i % STAGED);
        }
        workgroupBarrier();
        let count = min(STAGED, quads - chunk);
        for (var begin = slice * 8u; begin < count; begin += 64u) {
            let factor = factors(panel, (chunk + begin) / 8u, lane);
            let end = min(begin + 8u, count);
            for (var quad = begin; quad < end; quad++) {
                let values = quad_values(panel, chunk + quad, lane, factor);
                @rows sum$i += dot(values, staged[$iu * STAGED + quad]);
            }
        }
        workgroupBarrier();
    }
    @rows sums[$iu * 256u + thread] = sum$i;
    workgroupBarrier();
    for (var i = thread; i < ROWS * 32u; i += 256u) {
        let at = i / 32u * 256u + i % 32u;
        var total = 0.0;
        for (var part = 0u; part < 8u; part++) {
            total += sums[at + part * 32u];
        }
        write(first_row + i / 32u, panel * 32u + i % 32u, total);
    }
}
