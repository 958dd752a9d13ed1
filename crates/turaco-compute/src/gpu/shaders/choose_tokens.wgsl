// Constrained choice of the next token, one workgroup per row of logits. The rules are those of `graph::ChooseTokens`.

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
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read> controls: array<f32>;
@group(0) @binding(3) var<storage, read> given: array<u32>;
@group(0) @binding(4) var<storage, read_write> tokens: array<u32>;
@group(0) @binding(5) var<storage, read_write> logprobs: array<f32>;

var<workgroup> ranks: array<f32, 256>;
var<workgroup> holders: array<u32, 256>;

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

// Maximum, and the sum of exponentials relative to `base`, over a range of tokens.
fn maximum(row: u32, begin: u32, end: u32, penalty: f32, thread: u32) -> f32 {
    var most = LOWEST;
    for (var token = begin + thread; token < end; token += 256u) {
        most = max(most, adjusted(row, token, penalty));
    }
    return highest(thread, most);
}

fn exponentials(row: u32, begin: u32, end: u32, penalty: f32, base: f32, thread: u32) -> f32 {
    var sum = 0.0;
    for (var token = begin + thread; token < end; token += 256u) {
        let value = adjusted(row, token, penalty);
        if value > LOWEST {
            sum += exp(value - base);
        }
    }
    return total(thread, sum);
}

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = flat(group, groups);
    if row >= p.rows {
        return;
    }
    let control = p.controls_offset + row * p.controls_stride;
    let temperature = controls[control];
    let penalty = controls[control + 1u];
    let prefer = controls[control + 2u] != 0.0;
    let seed_at = p.seeds_offset + 2u * row;
    let seed = vec2<u32>(given[seed_at], given[seed_at + 1u]);

    let highest_rest = maximum(row, 0u, p.split, penalty, thread);
    let highest_preferred = maximum(row, p.split, p.vocabulary, penalty, thread);
    let most = max(highest_rest, highest_preferred);
    let preferred = exponentials(row, p.split, p.vocabulary, penalty, most, thread);
    let rest = exponentials(row, 0u, p.split, penalty, most, thread);
    var first = 0u;
    var sum = preferred + rest;
    if prefer && preferred > 0.0 {
        if most + ln(preferred) > highest_rest {
            first = p.split;
            sum = preferred;
        }
    }
    let total_logarithm = most + ln(max(sum, 1e-30));

    var last_rank = -LOWEST;
    var last_token = 0xffffffffu;
    for (var nth = 0u; nth < p.k; nth++) {
        var best_rank = LOWEST;
        var best_token = 0xffffffffu;
        for (var token = first + thread; token < p.vocabulary; token += 256u) {
            var rank = adjusted(row, token, penalty);
            if rank > LOWEST {
                if temperature > 0.0 {
                    rank = rank / temperature + noise(seed, token);
                }
                let after = nth == 0u || rank < last_rank || (rank == last_rank && token > last_token);
                // Tokens ascend, so the first of equals stays.
                if after && (rank > best_rank || best_token == 0xffffffffu) {
                    best_rank = rank;
                    best_token = token;
                }
            }
        }
        ranks[thread] = best_rank;
        holders[thread] = best_token;
        workgroupBarrier();
        for (var step = 128u; step > 0u; step /= 2u) {
            if thread < step {
                let other = ranks[thread + step];
                let token = holders[thread + step];
                if other > ranks[thread] || (other == ranks[thread] && token < holders[thread]) {
                    ranks[thread] = other;
                    holders[thread] = token;
                }
            }
            workgroupBarrier();
        }
        last_rank = ranks[0];
        last_token = holders[0];
        workgroupBarrier();
        if thread == 0u {
            let to = row * p.k + nth;
            tokens[p.tokens_offset + to] = last_token;
            if last_token == 0xffffffffu {
                logprobs[to] = bitcast<f32>(p.never);
            } else {
                logprobs[to] = adjusted(row, last_token, penalty) - total_logarithm;
            }
        }
        if last_token == 0xffffffffu {
            last_rank = LOWEST;
        }
    }
}
