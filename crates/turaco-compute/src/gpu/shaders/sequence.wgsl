// Some sequences of a batch. A cache holds for every position the words of its keys, and from `values` on those of its
// values.

struct Sequence {
    // Its number among all sequences of the step.
    index: u32,
    // Positions before this run.
    length: u32,
    // Its cache among those that are bound.
    which: u32,
    values: u32,
    // The oldest position that is still there, and the first one of the present turn around its storage.
    first: u32,
    turn: u32,
    capacity: u32,
    unused: u32,
}

struct Batch {
    count: u32,
    // Positions that this run appends to each.
    appended: u32,
    // Parts that keys are cut into for a single query, and keys of a part.
    splits: u32,
    split_keys: u32,
    unused: vec4<u32>,
    sequences: array<Sequence, MAX_BATCH>,
}

@group(1) @binding(0) var<uniform> batch: Batch;

// Where a position is stored: those before the present turn are at the end.
fn place(sequence: u32, position: u32) -> u32 {
    let turn = batch.sequences[sequence].turn;
    return select(position + batch.sequences[sequence].capacity, position, position >= turn) - turn;
}
