// Two neighbouring columns of a head, the second one zero if it has none. Heads of an odd number of columns do not begin at
// whole words.
fn key_both(index: u32, position: u32, base: u32, column: u32) -> vec2<f32> {
    if ODD {
        var both = vec2<f32>(key(index, position, base + column), 0.0);
        if column + 1u < p.head_dim {
            both.y = key(index, position, base + column + 1u);
        }
        return both;
    }
    return key_pair(index, position, base + column);
}

fn value_both(index: u32, position: u32, base: u32, column: u32) -> vec2<f32> {
    if ODD {
        var both = vec2<f32>(value(index, position, base + column), 0.0);
        if column + 1u < p.head_dim {
            both.y = value(index, position, base + column + 1u);
        }
        return both;
    }
    return value_pair(index, position, base + column);
}
