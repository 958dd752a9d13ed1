// A tile of 64 rows and 64 outputs; each of 256 threads adds up 4 by 4 of it from inputs and weights in workgroup memory.

const DEPTH: u32 = 8u; // quads of inputs that are staged at a time

var<workgroup> staged_rows: array<vec4<f32>, DEPTH * 64u>;
var<workgroup> staged_outputs: array<Staged, DEPTH * 64u>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let tiles = (p.outputs + 63u) / 64u;
    let task = flat(group, groups);
    let first_output = task % tiles * 64u;
    let first_row = task / tiles * 64u;
    let column = thread % 16u;
    let row = thread / 16u * 4u;
    let quads = (p.inputs + 3u) / 4u;
    let panels = (p.outputs + 31u) / 32u;
    @4 var sum$i = vec4<f32>(0.0);
    for (var chunk = 0u; chunk < quads; chunk += DEPTH) {
        for (var i = thread; i < 64u * DEPTH; i += 256u) {
            staged_rows[i % DEPTH * 64u + i / DEPTH] = input_quad(first_row + i / DEPTH, chunk + i % DEPTH);
            let output = first_output + i % 64u;
            let panel = min(output / 32u, panels - 1u);
            let quad = chunk + i / 64u;
            var values = vec4<f32>(0.0);
            if quad < quads {
                values = quad_values(panel, quad, output % 32u, factors(panel, quad / 8u, output % 32u));
            }
            staged_outputs[i] = Staged(values);
        }
        workgroupBarrier();
        for (var quad = 0u; quad < DEPTH; quad++) {
            let at = quad * 64u;
            let w0 = vec4<f32>(staged_outputs[at + column]);
            let w1 = vec4<f32>(staged_outputs[at + column + 16u]);
            let w2 = vec4<f32>(staged_outputs[at + column + 32u]);
            let w3 = vec4<f32>(staged_outputs[at + column + 48u]);
            @4 let x$i = staged_rows[at + row + $iu];
            @4 sum$i += vec4<f32>(dot(x$i, w0), dot(x$i, w1), dot(x$i, w2), dot(x$i, w3));
        }
        workgroupBarrier();
    }
    for (var j = 0u; j < 4u; j++) {
        let output = first_output + column + 16u * j;
        @4 write(first_row + row + $iu, output, sum$i[j]);
    }
}
