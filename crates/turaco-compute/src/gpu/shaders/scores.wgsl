// The softmax input of one head: a key of a row per thread.

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = flat(group, groups) * 64u + thread;
    if i >= n_rows() * n_keys() {
        return;
    }
    let row = i / n_keys();
    let position = i % n_keys();
    let base = p.head / p.group * p.head_dim;
    var sum = 0.0;
    for (var column = 0u; column < p.head_dim; column++) {
        sum += query(first_row(0u) + row, p.head, column) * key(0u, position, base + column);
    }
    out[(p.out_row + first_row(0u) + row) * p.capacity + position] = sum * p.scale;
}
