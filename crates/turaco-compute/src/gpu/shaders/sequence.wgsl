// One sequence of a batch and its cache: for every position the words of its keys, and from `values` on those of its values.

struct Sequence {
    // Its number in the batch.
    index: u32,
    // Positions before this run, and those that it appends.
    length: u32,
    appended: u32,
    values: u32,
}

@group(1) @binding(0) var<storage, read_write> cache: array<u32>;
@group(2) @binding(0) var<uniform> sequence: Sequence;
