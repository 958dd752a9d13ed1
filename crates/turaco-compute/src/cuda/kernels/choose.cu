// The choice of the next tokens, in one launch. Each block looks at a slice of the tokens of a row and writes down its
// maximum, its sum of exponentials and its best candidates; the last block of a row puts all of them together. A slice has
// only preferred tokens or none, so that whether those are preferred can be decided at the end.

struct ChooseParams {
    const float *logits;
    const float *controls;
    const u32 *allowed;
    const u32 *seen;
    const u32 *seeds;
    float *found;
    u32 *tokens;
    float *logprobs;
    u32 *counters;
    u32 rows, cols, stride, controls_stride, k, split, slices, kept;
};

constexpr u32 CHOOSE_THREADS = 256;
constexpr u32 CHOOSE_EACH = 4; // tokens of a thread
constexpr u32 CHOOSE_SLICE = CHOOSE_THREADS * CHOOSE_EACH;
constexpr u32 NOBODY = 0xffffffffu;

// The natural logarithm of a positive normal number, operation by operation as the processor has it: the noise of a token is
// the same on both, to the last bit.
__device__ __forceinline__ float same_ln(float x) {
    const u32 bits = __float_as_uint(x);
    float exponent = (float)((int)(bits >> 23) - 127);
    float mantissa = __uint_as_float((bits & 0x007fffffu) | 0x3f800000u);
    if (mantissa > 1.41421356f) mantissa *= 0.5f, exponent += 1.0f;
    const float r = mantissa - 1.0f, square = r * r;
    float sum = 0.06746492f;
    sum = fmaf(sum, r, -0.116756156f);
    sum = fmaf(sum, r, 0.11888211f);
    sum = fmaf(sum, r, -0.124055974f);
    sum = fmaf(sum, r, 0.14219546f);
    sum = fmaf(sum, r, -0.16667995f);
    sum = fmaf(sum, r, 0.20002119f);
    sum = fmaf(sum, r, -0.2500001f);
    sum = fmaf(sum, r, 0.33333313f);
    float tail = sum * r * square;
    tail = fmaf(square, -0.5f, tail);
    tail = fmaf(exponent, 1.4286068e-6f, tail);
    return fmaf(exponent, 0.69314575f, r + tail);
}

__device__ __forceinline__ u32 mix_bits(u32 x) {
    x ^= x >> 16;
    x *= 0x85ebca6bu;
    x ^= x >> 13;
    x *= 0xc2b2ae35u;
    return x ^ x >> 16;
}

// What a draw adds to the logit over the temperature: standard Gumbel noise of a token.
__device__ __forceinline__ float with_noise(float value, u32 low, u32 high, u32 token) {
    const u32 hash = mix_bits(mix_bits((token * 0x9e3779b9u) ^ low) ^ high);
    const float uniform_number = ((float)(hash >> 9) + 0.5f) * (1.0f / 8388608.0f);
    return value - same_ln(0.0f - same_ln(uniform_number));
}

// A candidate as one number: the higher, the better; of equal ranks the lower token's is the higher one. 0 is nobody.
__device__ __forceinline__ u64 candidate_of(float rank, u32 token) {
    return rank > MINUS_INFINITY ? (u64)order_of(rank) << 32 | ~token : 0;
}
__device__ __forceinline__ u32 token_of(u64 candidate) { return ~(u32)candidate; }
__device__ __forceinline__ float rank_of(u64 candidate) { return float_of((u32)(candidate >> 32)); }

__device__ __forceinline__ u64 best_of(u64 a, u64 b) { return a > b ? a : b; }

// The best of all threads' candidates. `room` is for one number of each warp, and another one's at the next call.
__device__ __forceinline__ u64 block_best(u64 mine, u64 *room) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) mine = best_of(mine, __shfl_xor_sync(0xffffffffu, mine, step));
    if (threadIdx.x % WARP == 0) room[threadIdx.x / WARP] = mine;
    __syncthreads();
    u64 best = room[0];
#pragma unroll
    for (u32 warp = 1; warp < CHOOSE_THREADS / WARP; warp++) best = best_of(best, room[warp]);
    return best;
}

// The sum of all threads' values, in a fixed order.
__device__ __forceinline__ double block_total(double value, double *room) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
    if (threadIdx.x % WARP == 0) room[threadIdx.x / WARP] = value;
    __syncthreads();
    double sum = 0.0;
#pragma unroll
    for (u32 warp = 0; warp < CHOOSE_THREADS / WARP; warp++) sum += room[warp];
    return sum;
}

// What a slice found begins with its maximum and its sum; its candidates follow, best first.
__device__ __forceinline__ u64 summary_of(float most, float sum) {
    return (u64)__float_as_uint(sum) << 32 | __float_as_uint(most);
}
__device__ __forceinline__ float most_of(u64 summary) { return __uint_as_float((u32)summary); }
__device__ __forceinline__ float sum_of(u64 summary) { return __uint_as_float((u32)(summary >> 32)); }

__device__ __forceinline__ float part_of(float value, float most) {
    return value > MINUS_INFINITY ? expf(value - most) : 0.0f;
}

KERNEL(256, choose, ChooseParams) {
    follow();
    constexpr u32 WARPS = CHOOSE_THREADS / WARP;
    constexpr u32 HELD = 3072; // words of what was found that shared memory has room for
    __shared__ u64 best_room[2][WARPS];
    __shared__ float float_room[2][WARPS];
    __shared__ double sums_room[2][WARPS];
    __shared__ u64 held[HELD];
    __shared__ u32 is_last;
    const u32 thread = threadIdx.x, slice = blockIdx.x, row = blockIdx.y;
    const u32 first_preferred = (p.split + CHOOSE_SLICE - 1) / CHOOSE_SLICE; // slice
    const u32 first = slice < first_preferred ? slice * CHOOSE_SLICE : p.split + (slice - first_preferred) * CHOOSE_SLICE;
    const u32 end = min(first + CHOOSE_SLICE, slice < first_preferred ? p.split : p.cols);
    const float *controls = p.controls + (u64)row * p.controls_stride;
    const float temperature = controls[0];
    const bool prefer = controls[2] != 0.0f;
    const u32 low = mix_bits(p.seeds[2 * row]), high = mix_bits(p.seeds[2 * row + 1] + 0x85ebca6bu);
    const Rules rules = rules_of(p.logits, p.allowed, p.seen, controls[1], row, p.cols, p.stride);
    const u32 words = 1 + p.kept; // of 8 bytes, in a slice
    u64 *found = (u64 *)p.found + (u64)row * p.slices * words;
    u64 *to = found + (u64)slice * words;

    Given given[CHOOSE_EACH];
    float values[CHOOSE_EACH];
    u64 candidates[CHOOSE_EACH];
    u64 mine = 0;
    float most = MINUS_INFINITY;
#pragma unroll
    for (u32 i = 0; i < CHOOSE_EACH; i++) {
        const u32 token = first + thread + i * CHOOSE_THREADS;
        given[i] = read_token(rules, min(token, p.cols - 1));
    }
#pragma unroll
    for (u32 i = 0; i < CHOOSE_EACH; i++) {
        const u32 token = first + thread + i * CHOOSE_THREADS;
        values[i] = token < end ? adjusted(rules, given[i], token) : MINUS_INFINITY;
        const float rank = temperature > 0.0f ? with_noise(values[i] / temperature, low, high, token) : values[i];
        candidates[i] = candidate_of(rank, token);
        mine = best_of(mine, candidates[i]);
        most = fmaxf(most, values[i]);
    }
    most = warp_max(most);
    if (thread % WARP == 0) float_room[0][thread / WARP] = most;
    u64 best = block_best(mine, best_room[0]);
    most = float_room[0][0];
#pragma unroll
    for (u32 warp = 1; warp < WARPS; warp++) most = fmaxf(most, float_room[0][warp]);

    float sum = 0.0f;
#pragma unroll
    for (u32 i = 0; i < CHOOSE_EACH; i++) sum += part_of(values[i], most);
    sum = warp_sum(sum);
    if (thread % WARP == 0) float_room[1][thread / WARP] = sum;
    for (u32 nth = 0; nth < p.kept; nth++) {
        if (best == 0) {
            for (u32 i = nth + thread; i < p.kept; i += CHOOSE_THREADS) to[1 + i] = 0;
            break;
        }
        if (thread == 0) to[1 + nth] = best;
        if (nth + 1 == p.kept) break;
        if (best == mine) {
            mine = 0;
#pragma unroll
            for (u32 i = 0; i < CHOOSE_EACH; i++) {
                if (candidates[i] == best) candidates[i] = 0;
                mine = best_of(mine, candidates[i]);
            }
        }
        best = block_best(mine, best_room[(nth + 1) % 2]);
    }
    __syncthreads();
    if (thread == 0) {
        float total = 0.0f;
#pragma unroll
        for (u32 warp = 0; warp < WARPS; warp++) total += float_room[1][warp];
        to[0] = summary_of(most, total);
        is_last = count_up(p.counters + row, p.slices - 1) == p.slices - 1;
    }
    __syncthreads();
    if (!is_last) return;

    const u64 *all = found;
    if (p.slices * words <= HELD) {
        for (u32 i = thread; i < p.slices * words; i += CHOOSE_THREADS) held[i] = __ldcg(found + i);
        __syncthreads();
        all = held;
    }
    // Others, then preferred ones.
    float highest[2] = {MINUS_INFINITY, MINUS_INFINITY};
    for (u32 i = thread; i < p.slices; i += CHOOSE_THREADS) {
        const float of_slice = most_of(all[(u64)i * words]);
        if (i < first_preferred) highest[0] = fmaxf(highest[0], of_slice);
        else highest[1] = fmaxf(highest[1], of_slice);
    }
    highest[0] = warp_max(highest[0]);
    highest[1] = warp_max(highest[1]);
    if (thread % WARP == 0) {
        float_room[0][thread / WARP] = highest[0];
        float_room[1][thread / WARP] = highest[1];
    }
    __syncthreads();
#pragma unroll
    for (u32 warp = 0; warp < WARPS; warp++) {
        highest[0] = fmaxf(highest[0], float_room[0][warp]);
        highest[1] = fmaxf(highest[1], float_room[1][warp]);
    }
    most = fmaxf(highest[0], highest[1]);
    // Both sums are relative to the larger maximum. If the preferred one vanishes, it is not preferred either.
    double sums[2] = {0.0, 0.0};
    for (u32 i = thread; i < p.slices; i += CHOOSE_THREADS) {
        const u64 summary = all[(u64)i * words];
        const double part = (double)sum_of(summary) * (double)part_of(most_of(summary), most);
        if (i < first_preferred) sums[0] += part;
        else sums[1] += part;
    }
    sums[0] = block_total(sums[0], sums_room[0]);
    sums[1] = block_total(sums[1], sums_room[1]);
    const bool only_preferred = prefer && (double)most + log(sums[1]) > (double)highest[0];
    const double total = (double)most + log(only_preferred ? sums[1] : sums[0] + sums[1]);

    // Each thread has the lists of some slices, and of them the best candidate that is left.
    const u32 from = (only_preferred ? first_preferred : 0) + thread;
    mine = 0;
    for (u32 i = from; i < p.slices; i += CHOOSE_THREADS) mine = best_of(mine, all[(u64)i * words + 1]);
    for (u32 nth = 0; nth < p.k; nth++) {
        best = block_best(mine, best_room[nth % 2]);
        const u64 at = (u64)row * p.k + nth;
        if (best == 0) {
            if (thread == 0) p.tokens[at] = NOBODY, p.logprobs[at] = MINUS_INFINITY;
            continue;
        }
        if (mine != best) continue;
        const u32 token = token_of(best);
        const float value = temperature > 0.0f ? adjusted(rules, read_token(rules, token), token) : rank_of(best);
        p.tokens[at] = token;
        p.logprobs[at] = (float)((double)value - total);
        mine = 0;
        for (u32 i = from; i < p.slices; i += CHOOSE_THREADS) {
            const u64 *list = all + (u64)i * words + 1;
            for (u32 place = 0; place < p.kept; place++) {
                const u64 candidate = list[place];
                if (candidate < best) {
                    mine = best_of(mine, candidate);
                    break;
                }
            }
        }
    }
}
