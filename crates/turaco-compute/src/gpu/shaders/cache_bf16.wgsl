// A cache of bf16 numbers, two in a word.

const PER_WORD: u32 = 2u;

fn row_words(columns: u32) -> u32 {
    return (columns + 1u) / 2u;
}

fn cached(which: u32, row: u32, column: u32) -> f32 {
    let both = cached_pair(which, row, column);
    return select(both.x, both.y, (column & 1u) == 1u);
}

fn cached_pair(which: u32, row: u32, column: u32) -> vec2<f32> {
    let word = cache_word(which, row + column / 2u);
    return bitcast<vec2<f32>>(vec2<u32>(word << 16u, word & 0xffff0000u));
}

// To the nearest bf16, halves to even.
fn narrow(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    if (bits & 0x7fffffffu) > 0x7f800000u {
        return (bits >> 16u) | 0x40u;
    }
    return (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
}

fn pack(x: vec2<f32>) -> u32 {
    return narrow(x.x) | (narrow(x.y) << 16u);
}
