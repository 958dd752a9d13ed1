// What sampling may choose from: penalty and mask, then top-k and top-p, a block for each row. The lowest logit that stays is
// found digit by digit, in numbers whose order is that of the logits. Probabilities are added as integers, so that the order
// in which threads come does not matter.

struct FilterParams {
    const float *logits;
    const float *controls;
    const u32 *allowed;
    const u32 *seen;
    float *out;
    u32 rows, cols, stride, controls_stride;
};

constexpr u32 FILTER_THREADS = 1024;
constexpr u32 FILTER_HELD = 4; // logits of a thread that stay in registers
constexpr u32 BINS = 2048;     // values of a digit

// The sums of weights of the logits with each value of a digit, in two halves: there is no fast 64-bit sum in shared memory.
struct Bins {
    u32 low[BINS];
    u32 high[BINS];
    u64 sums[FILTER_THREADS / WARP];
    u64 left; // of the target, below the digit that was found
    u32 digit;
    bool all; // whether all logits with this digit are wanted
};

// All logits of a row, a thread's first ones from registers.
struct Row {
    Rules rules;
    u32 cols;
    float held[FILTER_HELD];

    // The thread's logits from token `first` on, so many threads apart; minus infinity beyond the row.
    __device__ __forceinline__ void load(float (&values)[FILTER_HELD], u32 first) const {
        Given given[FILTER_HELD];
#pragma unroll
        for (u32 i = 0; i < FILTER_HELD; i++) given[i] = read_token(rules, min(first + i * FILTER_THREADS, cols - 1));
#pragma unroll
        for (u32 i = 0; i < FILTER_HELD; i++) {
            const u32 token = first + i * FILTER_THREADS;
            values[i] = token < cols ? adjusted(rules, given[i], token) : MINUS_INFINITY;
        }
    }
    // Calls `use` with every token of the thread and its logit, and with some beyond the row.
    template <class Use> __device__ __forceinline__ void each(Use use) const {
#pragma unroll
        for (u32 i = 0; i < FILTER_HELD; i++) use(threadIdx.x + i * FILTER_THREADS, held[i]);
#pragma unroll 1
        for (u32 first = threadIdx.x + FILTER_HELD * FILTER_THREADS; first < cols; first += FILTER_HELD * FILTER_THREADS) {
            float values[FILTER_HELD];
            load(values, first);
#pragma unroll
            for (u32 i = 0; i < FILTER_HELD; i++) use(first + i * FILTER_THREADS, values[i]);
        }
    }
};

// The highest number that logits of a weight of at least `target` together reach, or a lower one that no others with a weight
// reach; 0 if all of them have less.
template <class Weight> __device__ __forceinline__ u32 select(const Row &row, Bins &bins, u64 target, Weight weight) {
    const u32 thread = threadIdx.x, lane = thread % WARP, warp = thread / WARP;
    u32 prefix = 0;
#pragma unroll 1
    for (u32 level = 0; level < 3; level++) {
        // Digits of 11, 11 and 10 bits.
        const u32 shift = level == 0 ? 21 : level == 1 ? 10 : 0;
        const u32 mask = level == 2 ? 1023 : 2047;
        const u32 known = level == 0 ? 0 : level == 1 ? 0xffe00000u : 0xfffffc00u;
        for (u32 i = thread; i < BINS; i += FILTER_THREADS) bins.low[i] = bins.high[i] = 0;
        __syncthreads();
        row.each([&](u32, float value) {
            const u32 order = order_of(value);
            if ((order & known) != prefix) return;
            const u64 each = weight(value);
            if (each == 0) return;
            const u32 bin = order >> shift & mask, low = (u32)each;
            const u32 before = atomicAdd(&bins.low[bin], low);
            const u32 high = (u32)(each >> 32) + (before + low < before ? 1 : 0);
            if (high != 0) atomicAdd(&bins.high[bin], high);
        });
        __syncthreads();
        // From the highest digit down: two digits for each thread.
        const u32 first = BINS - 1 - 2 * thread;
        const u64 upper = (u64)bins.high[first] << 32 | bins.low[first];
        const u64 both = upper + ((u64)bins.high[first - 1] << 32 | bins.low[first - 1]);
        u64 sum = both;
#pragma unroll
        for (u32 step = 1; step < WARP; step *= 2) {
            const u64 below = __shfl_up_sync(0xffffffffu, sum, step);
            if (lane >= step) sum += below;
        }
        if (lane == WARP - 1) bins.sums[warp] = sum;
        __syncthreads();
        u64 above = sum - both;
        for (u32 i = 0; i < warp; i++) above += bins.sums[i];
        if (above < target && above + both >= target) {
            const bool is_upper = above + upper >= target;
            bins.digit = is_upper ? first : first - 1;
            bins.left = target - (is_upper ? above : above + upper);
            bins.all = bins.left == (is_upper ? upper : both - upper);
        }
        if (thread == FILTER_THREADS - 1 && above + both < target) bins.digit = BINS;
        __syncthreads();
        if (bins.digit == BINS) return 0;
        prefix |= bins.digit << shift;
        // As a rule two digits tell the last of the best from the others.
        if (bins.all) break;
        target = bins.left;
    }
    return prefix;
}

// The sum over the block, exactly.
__device__ __forceinline__ u64 total_of(u64 value, u64 *room) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
    if (threadIdx.x % WARP == 0) room[threadIdx.x / WARP] = value;
    __syncthreads();
    u64 sum = 0;
#pragma unroll 8
    for (u32 warp = 0; warp < FILTER_THREADS / WARP; warp++) sum += room[warp];
    return sum;
}

KERNEL(1024, filter_tokens, FilterParams) {
    follow();
    __shared__ Bins bins;
    __shared__ float room[FILTER_THREADS / WARP];
    const float *controls = p.controls + (u64)blockIdx.x * p.controls_stride;
    const float temperature = controls[0], top_k = controls[2], top_p = controls[3];
    float *out = p.out + (u64)blockIdx.x * p.cols;
    Row row = {rules_of(p.logits, p.allowed, p.seen, controls[1], blockIdx.x, p.cols, p.stride), p.cols};
    row.load(row.held, threadIdx.x);

    u32 least = 0;
    if (temperature > 0.0f && top_k >= 1.0f && top_k < (float)p.cols)
        least = select(row, bins, (u64)top_k, [](float value) { return value > MINUS_INFINITY ? (u64)1 : (u64)0; });
    if (temperature > 0.0f && top_p < 1.0f) {
        float most = MINUS_INFINITY;
        row.each([&](u32, float value) { most = fmaxf(most, value); });
        most = block_max<FILTER_THREADS>(most, room);
        // In units of 2^-40 of the most probable token.
        const auto mass = [=](float value) {
            const bool counts = value > MINUS_INFINITY && order_of(value) >= least;
            return counts ? (u64)(expf((value - most) / temperature) * 1099511627776.0f) : (u64)0;
        };
        u64 sum = 0;
        row.each([&](u32, float value) { sum += mass(value); });
        sum = total_of(sum, bins.sums);
        const u64 enough = (u64)ceil(fmax((double)top_p * (double)sum, 1.0));
        least = max(least, select(row, bins, enough, mass));
    }
    row.each([&](u32 token, float value) {
        if (token < p.cols) out[token] = order_of(value) >= least ? value : MINUS_INFINITY;
    });
}
