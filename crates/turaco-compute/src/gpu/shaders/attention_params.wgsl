struct Params {
    // Queries of a sequence.
    rows: u32,
    // Keys of a sequence; with a cache, the rows of all sequences that the run has appended so far.
    keys: u32,
    n_heads: u32,
    // Query heads of a key head.
    group: u32,
    head_dim: u32,
    // Columns of a cached key.
    columns: u32,
    scale: f32,
    // Positions that a query sees, its own included; 0 for all, before and after.
    window: u32,
    q_offset: u32,
    q_stride: u32,
    k_offset: u32,
    k_stride: u32,
    v_offset: u32,
    v_stride: u32,
    sequences: u32,
    // Captured scores: the head, where its rows begin in the result, and keys of a row.
    head: u32,
    out_row: u32,
    capacity: u32,
    // With a cache: rows that the run had appended before those of the queries, and rows that it appends in the end.
    before: u32,
    total: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> q_values: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

fn query(row: u32, head: u32, column: u32) -> f32 {
    return q_values[p.q_offset + row * p.q_stride + head * p.head_dim + column];
}
