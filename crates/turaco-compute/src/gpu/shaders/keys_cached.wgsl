// Keys and values in the cache of the one sequence that a dispatch is for.

fn n_keys() -> u32 {
    return sequence.length + sequence.appended * p.keys;
}

fn first_position() -> u32 {
    return sequence.length;
}

fn first_row(index: u32) -> u32 {
    return sequence.index * p.rows;
}

fn n_rows() -> u32 {
    return p.rows;
}

fn key(index: u32, position: u32, column: u32) -> f32 {
    return cached(position * row_words(p.columns), column);
}

fn key_pair(index: u32, position: u32, column: u32) -> vec2<f32> {
    return cached_pair(position * row_words(p.columns), column);
}

fn value(index: u32, position: u32, column: u32) -> f32 {
    return cached(sequence.values + position * row_words(p.columns), column);
}
