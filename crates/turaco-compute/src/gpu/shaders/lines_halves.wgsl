// The factors of four outputs, of 32 f16 numbers that begin at line `at`.
fn halves(at: u32, lane: u32) -> vec4<f32> {
    let words = weights[at + lane / 2u];
    let pair = select(words.xy, words.zw, (lane & 1u) == 1u);
    return vec4<f32>(unpack2x16float(pair.x), unpack2x16float(pair.y));
}
