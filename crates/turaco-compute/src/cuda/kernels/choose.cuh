// Penalty, mask and noise of the choice of tokens.

// What a row gives to its tokens.
struct Rules {
    const float *logits;
    const u32 *allowed;
    const u32 *seen; // null for none
    float penalty;
};

__device__ __forceinline__ Rules rules_of(const float *logits, const u32 *allowed, const u32 *seen, float penalty, u32 row,
                                          u32 cols, u32 stride) {
    const u64 words = (u64)row * ((cols + 31) / 32);
    return {logits + (u64)row * stride, allowed + words, seen ? seen + words : nullptr, penalty};
}

// What decides about a token, as it is in memory. Reading is apart from the rules, so that many tokens are on their way at
// once.
struct Given {
    float logit;
    u32 allowed, seen; // words of the bit sets
};

__device__ __forceinline__ Given read_token(const Rules &rules, u32 token) {
    return {rules.logits[token], rules.allowed[token / 32], rules.seen ? rules.seen[token / 32] : 0};
}

// A logit after penalty and mask; minus infinity if its token may not be.
__device__ __forceinline__ float adjusted(const Rules &rules, const Given &given, u32 token) {
    float logit = given.logit;
    if (given.seen >> token % 32 & 1) logit = logit > 0.0f ? logit / rules.penalty : logit * rules.penalty;
    // An infinite logit would make every probability NaN; a NaN is no logit.
    const bool may = given.allowed >> token % 32 & 1;
    return may && logit > MINUS_INFINITY ? fminf(logit, -LOWEST) : MINUS_INFINITY;
}

// A number whose order is that of floats, the two zeros alike; none is 0 but the bits of a NaN.
__device__ __forceinline__ u32 order_of(float x) {
    const u32 bits = __float_as_uint(x + 0.0f);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float float_of(u32 order) {
    return __uint_as_float(order >> 31 ? order & 0x7fffffffu : ~order);
}
