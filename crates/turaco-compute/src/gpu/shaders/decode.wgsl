// Attention of a single query per sequence: a workgroup takes up to QUERIES query heads of one key head and one part of the
// keys, 128 at a time. Each thread scores a key, then the threads share out the values: a pair of columns each, several
// keys at once. Parts are put together by `merge.wgsl`.

@group(0) @binding(5) var<storage, read_write> parts: array<f32>;

var<workgroup> queries: array<vec2<f32>, QUERIES * PAIRS>;
var<workgroup> shares: array<f32, QUERIES * 128u>;
var<workgroup> mixtures: array<vec2<f32>, 128>;

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    SUBGROUP_INPUTS
) {
    SUBGROUP_START
    let blocks = (p.group + QUERIES - 1u) / QUERIES;
    let n_kv_heads = p.n_heads / p.group;
    let task = flat(group, groups);
    let part = task % batch.splits;
    let kv_head = task / batch.splits % n_kv_heads;
    let block = task / batch.splits / n_kv_heads % blocks;
    let index = task / batch.splits / n_kv_heads / blocks;
    if index >= n_sequences() {
        return;
    }
    let base = kv_head * p.head_dim;
    let pairs = (p.head_dim + 1u) / 2u;
    let count = min(QUERIES, p.group - block * QUERIES);
    let head = kv_head * p.group + block * QUERIES;
    let row = first_row(index);
    for (var i = thread; i < QUERIES * pairs; i += 128u) {
        let nth = i / pairs;
        let column = i % pairs * 2u;
        var pair = vec2<f32>(0.0);
        if nth < count {
            pair.x = query(row, head + nth, column);
            if column + 1u < p.head_dim {
                pair.y = query(row, head + nth, column + 1u);
            }
        }
        queries[nth * PAIRS + i % pairs] = pair;
    }
    workgroupBarrier();

    let position = first_position(index);
    var begin = 0u;
    var end = n_keys(index);
    if p.window != 0u {
        end = min(end, position + 1u);
        begin = select(0u, position + 1u - p.window, position + 1u > p.window);
    }
    begin = max(begin, oldest_position(index));
    begin += part * batch.split_keys;
    end = min(end, begin + batch.split_keys);

    // The threads that have a pair of columns of every `teams`th key.
    let teams = 128u / pairs;
    let team = thread / pairs;
    let pair_column = thread % pairs * 2u;
    @queries var most$i = LOWEST;
    @queries var sum$i = 0.0;
    @queries var mixed$i = vec2<f32>(0.0);
    for (; begin < end; begin += 128u) {
        let key_position = begin + thread;
        @queries var score$i = LOWEST;
        if key_position < end {
            @queries var product$i = 0.0;
            for (var pair = 0u; pair < pairs; pair++) {
                let both = key_both(index, key_position, base, 2u * pair);
                @queries product$i += dot(queries[$iu * PAIRS + pair], both);
            }
            @queries score$i = product$i * p.scale;
        }
        @queries let next$i = max(most$i, highest(thread, score$i));
        @queries let share$i = select(exp(score$i - next$i), 0.0, score$i <= LOWEST);
        @queries shares[$iu * 128u + thread] = share$i;
        @queries let kept$i = exp(most$i - next$i);
        @queries sum$i = sum$i * kept$i + share$i;
        @queries mixed$i *= kept$i;
        @queries most$i = next$i;
        workgroupBarrier();
        if team < teams {
            let length = min(128u, end - begin);
            for (var i = team; i < length; i += teams) {
                let values = value_both(index, begin + i, base, pair_column);
                @queries mixed$i += shares[$iu * 128u + i] * values;
            }
        }
        workgroupBarrier();
    }
    @queries finish(row, head + $iu, $iu < count, part, thread, most$i, total(thread, sum$i), mixed$i);
}

// One head of the result, or of a part of it: what was summed, then the maximum and the sum of shares.
fn finish(row: u32, head: u32, wanted: bool, part: u32, thread: u32, most: f32, sum: f32, mixed: vec2<f32>) {
    let pairs = (p.head_dim + 1u) / 2u;
    let teams = 128u / pairs;
    mixtures[thread] = mixed;
    workgroupBarrier();
    if wanted && thread < pairs {
        var both = vec2<f32>(0.0);
        for (var team = 0u; team < teams; team++) {
            both += mixtures[team * pairs + thread];
        }
        let column = 2u * thread;
        if batch.splits == 1u {
            let factor = select(0.0, 1.0 / sum, sum > 0.0);
            let to = (row * p.n_heads + head) * p.head_dim + column;
            out[to] = both.x * factor;
            if column + 1u < p.head_dim {
                out[to + 1u] = both.y * factor;
            }
        } else {
            let to = ((row * p.n_heads + head) * MAX_SPLITS + part) * (p.head_dim + 2u);
            parts[to + column] = both.x;
            if column + 1u < p.head_dim {
                parts[to + column + 1u] = both.y;
            }
            if thread == 0u {
                parts[to + p.head_dim] = most;
                parts[to + p.head_dim + 1u] = sum;
            }
        }
    }
    workgroupBarrier();
}
