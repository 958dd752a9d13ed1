// Keys and values in the caches of the sequences that a dispatch is for.

fn n_sequences() -> u32 {
    return batch.count;
}

fn n_keys(index: u32) -> u32 {
    return batch.sequences[index].length + batch.appended * p.keys / p.total;
}

fn first_position(index: u32) -> u32 {
    return batch.sequences[index].length + batch.appended * p.before / p.total;
}

// The oldest position whose keys are still there.
fn oldest_position(index: u32) -> u32 {
    return batch.sequences[index].first;
}

fn first_row(index: u32) -> u32 {
    return batch.sequences[index].index * p.rows;
}

fn key(index: u32, position: u32, column: u32) -> f32 {
    return cached(batch.sequences[index].which, place(index, position) * row_words(p.columns), column);
}

fn key_pair(index: u32, position: u32, column: u32) -> vec2<f32> {
    return cached_pair(batch.sequences[index].which, place(index, position) * row_words(p.columns), column);
}

fn value(index: u32, position: u32, column: u32) -> f32 {
    let sequence = batch.sequences[index];
    return cached(sequence.which, sequence.values + place(index, position) * row_words(p.columns), column);
}

fn value_pair(index: u32, position: u32, column: u32) -> vec2<f32> {
    let sequence = batch.sequences[index];
    return cached_pair(sequence.which, sequence.values + place(index, position) * row_words(p.columns), column);
}
