// Constrained choice of the next token: the rules of `graph::ChooseTokens`. `choose_slices.wgsl` looks at all tokens, a slice
// of them by a workgroup; `choose_tokens.wgsl` at what the slices found.

struct Params {
    rows: u32,
    vocabulary: u32,
    k: u32,
    // First token of the preferred group, at most the vocabulary.
    split: u32,
    logits_offset: u32,
    logits_stride: u32,
    controls_offset: u32,
    controls_stride: u32,
    allowed_offset: u32,
    // 0xffffffff without.
    seen_offset: u32,
    seeds_offset: u32,
    tokens_offset: u32,
    // The bits of minus infinity, which no constant may be.
    never: u32,
    // Slices of a row, and candidates that each keeps of the preferred tokens and of the others.
    slices: u32,
    kept: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read> controls: array<f32>;
@group(0) @binding(3) var<storage, read> given: array<u32>;

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

// The logit of a token after penalty and mask; LOWEST if it may not be.
fn adjusted(row: u32, token: u32, penalty: f32) -> f32 {
    let words = (p.vocabulary + 31u) / 32u;
    let word = row * words + token / 32u;
    let logit = logits[p.logits_offset + row * p.logits_stride + token];
    if ((given[p.allowed_offset + word] >> (token % 32u)) & 1u) == 0u || is_nan(logit) {
        return LOWEST;
    }
    var value = clamp(logit, LOWEST, -LOWEST);
    if p.seen_offset != 0xffffffffu && penalty != 1.0 {
        if ((given[p.seen_offset + word] >> (token % 32u)) & 1u) == 1u && value > LOWEST {
            value = select(value * penalty, value / penalty, value > 0.0);
            value = clamp(value, LOWEST, -LOWEST);
        }
    }
    return value;
}

// What a slice found: the maximum and the sum of exponentials of the other tokens and of the preferred ones, then its
// best candidates of both as (rank, token).
fn slice_words() -> u32 {
    return 4u + 4u * p.kept;
}

var<workgroup> ranks: array<f32, 256>;
var<workgroup> holders: array<u32, 256>;

const NOBODY: u32 = 0xffffffffu;

// Whether a candidate is better than another; of equals the lower token is. The fields are (rank, token).
fn better(rank: f32, token: u32, than_rank: f32, than_token: u32) -> bool {
    return token != NOBODY && (than_token == NOBODY || rank > than_rank || (rank == than_rank && token < than_token));
}

// Bring the best of all threads' candidates to the first place.
fn compare(thread: u32, rank: f32, token: u32) {
    ranks[thread] = rank;
    holders[thread] = token;
    workgroupBarrier();
    for (var step = 128u; step > 0u; step /= 2u) {
        if thread < step {
            let other = ranks[thread + step];
            let holder = holders[thread + step];
            if better(other, holder, ranks[thread], holders[thread]) {
                ranks[thread] = other;
                holders[thread] = holder;
            }
        }
        workgroupBarrier();
    }
}
