// A cache of f32 numbers.

const PER_WORD: u32 = 1u;

fn row_words(columns: u32) -> u32 {
    return columns;
}

fn cached(which: u32, row: u32, column: u32) -> f32 {
    return bitcast<f32>(cache_word(which, row + column));
}

fn cached_pair(which: u32, row: u32, column: u32) -> vec2<f32> {
    return vec2<f32>(cached(which, row, column), cached(which, row, column + 1u));
}

fn pack(x: vec2<f32>) -> u32 {
    return bitcast<u32>(x.x);
}
