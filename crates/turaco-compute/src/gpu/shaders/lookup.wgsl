// Rows of a table of weights, written or added: row `r` of the result takes table row `ids[r]`, or `r` modulo the table.
// A table in several buffers takes one dispatch for each; a row is written by the one that has it. Several numbers for each row
// are added up, if the table is in one buffer.

struct Params {
    rows: u32,
    inputs: u32,
    panel_words: u32,
    // Rows of the table in this buffer, the first one's number, and all of them.
    table_rows: u32,
    first: u32,
    all_rows: u32,
    ids_offset: u32,
    // 1: a list of numbers is given; 2: added to `x`; 4: added to what is there.
    flags: u32,
    x_offset: u32,
    x_stride: u32,
    // Numbers for each row that are taken, and from one row's to the next.
    count: u32,
    ids_stride: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(3) var<storage, read> ids: array<u32>;
@group(0) @binding(4) var<storage, read> x: array<f32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = flat(group, groups);
    if row >= p.rows {
        return;
    }
    for (var nth = 0u; nth < p.count; nth++) {
        var id = row % p.all_rows;
        if (p.flags & 1u) != 0u {
            id = min(ids[p.ids_offset + row * p.ids_stride + nth], p.all_rows - 1u);
        }
        if id < p.first || id - p.first >= p.table_rows {
            continue;
        }
        let panel = (id - p.first) / 32u;
        let lane = (id - p.first) % 32u;
        for (var quad = thread; quad * 4u < p.inputs; quad += 64u) {
            let values = quad_values(panel, quad, lane, factors(panel, quad / 8u, lane));
            for (var i = 0u; i < 4u; i++) {
                let column = 4u * quad + i;
                if column < p.inputs {
                    let at = row * p.inputs + column;
                    var value = values[i];
                    if (p.flags & 2u) != 0u {
                        value += x[p.x_offset + row * p.x_stride + column];
                    }
                    if (p.flags & 4u) != 0u || nth > 0u {
                        value += out[at];
                    }
                    out[at] = value;
                }
            }
        }
    }
}
