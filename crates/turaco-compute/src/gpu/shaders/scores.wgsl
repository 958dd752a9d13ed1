// The softmax input of one head: a key of a row per thread.

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let task = flat(group, groups);
    let index = task % n_sequences();
    let i = task / n_sequences() * 64u + thread;
    if i >= p.rows * n_keys(index) {
        return;
    }
    let row = i / n_keys(index);
    let position = i % n_keys(index);
    let base = p.head / p.group * p.head_dim;
    var sum = 0.0;
    for (var column = 0u; column < p.head_dim; column++) {
        sum += query(first_row(index) + row, p.head, column) * key(index, position, base + column);
    }
    out[(p.out_row + first_row(index) + row) * p.capacity + position] = sum * p.scale;
}
