// A cache of f16 numbers, two in a word.

const PER_WORD: u32 = 2u;

fn row_words(columns: u32) -> u32 {
    return (columns + 1u) / 2u;
}

fn cached(which: u32, row: u32, column: u32) -> f32 {
    let both = unpack2x16float(cache_word(which, row + column / 2u));
    return select(both.x, both.y, (column & 1u) == 1u);
}

fn cached_pair(which: u32, row: u32, column: u32) -> vec2<f32> {
    return unpack2x16float(cache_word(which, row + column / 2u));
}

// To the nearest f16, halves to even; `pack2x16float` may round either way.
fn narrow(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    let sign = (bits >> 16u) & 0x8000u;
    let magnitude = bits & 0x7fffffffu;
    if magnitude > 0x7f800000u {
        return sign | 0x7e00u;
    }
    if magnitude >= 0x477ff000u {
        return sign | 0x7c00u;
    }
    if magnitude < 0x38800000u {
        // Subnormal: adding a half brings the digits to the end of the mantissa.
        return sign | (bitcast<u32>(bitcast<f32>(magnitude) + 0.5) - 0x3f000000u);
    }
    return sign | ((magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13u) & 1u)) >> 13u);
}

fn pack(x: vec2<f32>) -> u32 {
    return narrow(x.x) | (narrow(x.y) << 16u);
}
