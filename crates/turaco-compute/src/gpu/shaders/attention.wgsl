// Attention of QUERIES neighbouring queries of one head by a workgroup of 64 threads. Keys are visited 64 at a time: each
// thread scores one of them, then takes some columns of all their values; a higher maximum rescales what was summed.

var<workgroup> queries: array<vec2<f32>, QUERIES * PAIRS>;
var<workgroup> shares: array<f32, QUERIES * 64u>;

fn visible(position: u32, key: u32) -> bool {
    return p.window == 0u || (key <= position && position - key < p.window);
}

fn columns(index: u32, position: u32, first: u32, thread: u32) -> Columns {
    var result: Columns;
    @columns result COLUMN = select(0.0, value(index, position, first + thread + 64u * $iu), thread + 64u * $iu < p.head_dim);
    return result;
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let tiles = (p.rows + QUERIES - 1u) / QUERIES;
    let task = flat(group, groups);
    let row = task % tiles * QUERIES;
    let head = task / tiles % p.n_heads;
    let index = task / tiles / p.n_heads;
    if index >= n_sequences() {
        return;
    }
    let base = head / p.group * p.head_dim;
    let pairs = (p.head_dim + 1u) / 2u;
    for (var i = thread; i < QUERIES * pairs; i += 64u) {
        let nth = i / pairs;
        let column = i % pairs * 2u;
        var pair = vec2<f32>(0.0);
        if row + nth < p.rows {
            pair.x = query(first_row(index) + row + nth, head, column);
            if column + 1u < p.head_dim {
                pair.y = query(first_row(index) + row + nth, head, column + 1u);
            }
        }
        queries[nth * PAIRS + i % pairs] = pair;
    }
    workgroupBarrier();

    let position = first_position(index) + row;
    var begin = 0u;
    var end = n_keys(index);
    if p.window != 0u {
        end = min(end, position + QUERIES);
        begin = select(0u, (position + 1u - p.window) / 64u * 64u, position + 1u > p.window);
    }
    begin = max(begin, oldest_position(index) / 64u * 64u);
    @queries var most$i = LOWEST;
    @queries var sum$i = 0.0;
    @queries var mixed$i: Columns;
    for (; begin < end; begin += 64u) {
        let key_position = begin + thread;
        @queries var score$i = LOWEST;
        if key_position >= oldest_position(index) && key_position < end {
            @queries var product$i = 0.0;
            for (var pair = 0u; pair < pairs; pair++) {
                let both = key_both(index, key_position, base, 2u * pair);
                @queries product$i += dot(queries[$iu * PAIRS + pair], both);
            }
            @queries score$i = select(LOWEST, product$i * p.scale, visible(position + $iu, key_position));
        }
        @queries shares[$iu * 64u + thread] = score$i;
        workgroupBarrier();
        for (var step = 32u; step > 0u; step /= 2u) {
            if thread < step {
                @queries shares[$iu * 64u + thread] = max(shares[$iu * 64u + thread], shares[$iu * 64u + thread + step]);
            }
            workgroupBarrier();
        }
        @queries let next$i = max(most$i, shares[$iu * 64u]);
        workgroupBarrier();
        @queries let share$i = select(exp(score$i - next$i), 0.0, score$i <= LOWEST);
        @queries shares[$iu * 64u + thread] = share$i;
        @queries let kept$i = exp(most$i - next$i);
        @queries sum$i = sum$i * kept$i + share$i;
        @queries mixed$i *= kept$i;
        @queries most$i = next$i;
        workgroupBarrier();
        let count = min(64u, end - begin);
        // Values that are gone have no share, but they may be anything.
        let skipped = max(begin, oldest_position(index)) - begin;
        for (var i = skipped; i < count; i++) {
            let values = columns(index, begin + i, base, thread);
            @queries mixed$i += shares[$iu * 64u + i] * values;
        }
        workgroupBarrier();
    }
    @queries shares[$iu * 64u + thread] = sum$i;
    workgroupBarrier();
    for (var step = 32u; step > 0u; step /= 2u) {
        if thread < step {
            @queries shares[$iu * 64u + thread] += shares[$iu * 64u + thread + step];
        }
        workgroupBarrier();
    }
    @queries write(first_row(index), row + $iu, head, thread, mixed$i, shares[$iu * 64u]);
}

fn write(first: u32, row: u32, head: u32, thread: u32, mixed: Columns, sum: f32) {
    if row >= p.rows {
        return;
    }
    let factor = select(0.0, 1.0 / sum, sum > 0.0);
    let to = ((first + row) * p.n_heads + head) * p.head_dim;
    @columns if thread + 64u * $iu < p.head_dim { out[to + thread + 64u * $iu] = mixed COLUMN * factor; }
}
