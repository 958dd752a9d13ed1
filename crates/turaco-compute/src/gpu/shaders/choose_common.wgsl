// Noise, penalty and order of the constrained choice of tokens, wherever the logits are.

// The natural logarithm of a positive normal number, the fit that the processor uses: built-in ones are too rough for noise.
fn ln(x: f32) -> f32 {
    let bits = bitcast<u32>(x);
    var exponent = f32(bits >> 23u) - 127.0;
    var mantissa = bitcast<f32>((bits & 0x007fffffu) | 0x3f800000u);
    if mantissa > 1.4142135 {
        mantissa *= 0.5;
        exponent += 1.0;
    }
    let r = mantissa - 1.0;
    var sum = 0.06746492;
    sum = sum * r - 0.116756156;
    sum = sum * r + 0.11888211;
    sum = sum * r - 0.124055974;
    sum = sum * r + 0.14219546;
    sum = sum * r - 0.16667995;
    sum = sum * r + 0.20002119;
    sum = sum * r - 0.2500001;
    sum = sum * r + 0.33333313;
    let tail = sum * r * r * r - 0.5 * r * r + exponent * 1.4286068e-6;
    return exponent * 0.69314575 + (r + tail);
}

fn mix_bits(word: u32) -> u32 {
    var x = word ^ (word >> 16u);
    x *= 0x85ebca6bu;
    x ^= x >> 13u;
    x *= 0xc2b2ae35u;
    return x ^ (x >> 16u);
}

// Standard Gumbel noise of a token.
fn noise(seed: vec2<u32>, token: u32) -> f32 {
    let first = mix_bits((token * 0x9e3779b9u) ^ mix_bits(seed.x));
    let hash = mix_bits(first ^ mix_bits(seed.y + 0x85ebca6bu));
    let uniform_number = (f32(hash >> 9u) + 0.5) / 8388608.0;
    return -ln(-ln(uniform_number));
}

// A logit after penalty and mask; LOWEST if its token may not be.
fn ruled(logit: f32, allowed: bool, seen: bool, penalty: f32) -> f32 {
    if !allowed || is_nan(logit) {
        return LOWEST;
    }
    var value = clamp(logit, LOWEST, -LOWEST);
    if seen && value > LOWEST {
        value = select(value * penalty, value / penalty, value > 0.0);
        value = clamp(value, LOWEST, -LOWEST);
    }
    return value;
}

const NOBODY: u32 = 0xffffffffu;

// Whether a candidate is better than another; of equals the lower token is. The fields are (rank, token).
fn better(rank: f32, token: u32, than_rank: f32, than_token: u32) -> bool {
    return token != NOBODY && (than_token == NOBODY || rank > than_rank || (rank == than_rank && token < than_token));
}
