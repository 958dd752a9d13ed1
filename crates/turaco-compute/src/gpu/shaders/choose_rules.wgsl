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

// The logit of a token after penalty and mask; LOWEST if it may not be.
fn adjusted(row: u32, token: u32, penalty: f32) -> f32 {
    let words = (p.vocabulary + 31u) / 32u;
    let word = row * words + token / 32u;
    let logit = logits[p.logits_offset + row * p.logits_stride + token];
    let allowed = ((given[p.allowed_offset + word] >> (token % 32u)) & 1u) == 1u;
    var seen = false;
    if p.seen_offset != 0xffffffffu && penalty != 1.0 {
        seen = ((given[p.seen_offset + word] >> (token % 32u)) & 1u) == 1u;
    }
    return ruled(logit, allowed, seen, penalty);
}

// What a slice found: the maximum and the sum of exponentials of the other tokens and of the preferred ones, then its
// best candidates of both as (rank, token).
fn slice_words() -> u32 {
    return 4u + 4u * p.kept;
}

var<workgroup> ranks: array<f32, 256>;
var<workgroup> holders: array<u32, 256>;

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
