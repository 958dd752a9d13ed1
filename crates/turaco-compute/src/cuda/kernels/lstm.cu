// The recurrent half of an LSTM, row after row by one block. `gates` has the products with the inputs and the biases.
// WEIGHTS is the type of the weights: 0 f32, 1 f16, 2 bf16, 3 int8, 4 q8, 5 q4.

struct LstmParams {
    const uint4 *weights;
    const float *scales; // int8: of every output
    const float *gates;
    float *out;
    const Slot *slot;
    u64 panel_bytes;
    u32 rows, hidden;
};

constexpr u32 LSTM_THREADS = 512;
constexpr u32 LSTM_WARPS = LSTM_THREADS / WARP;
constexpr u32 LSTM_HIDDEN = 1024; // at most
constexpr u32 CELLS = LSTM_HIDDEN / LSTM_THREADS; // of a thread

#if WEIGHTS == 1
constexpr u32 OUTPUTS = 8; // of a panel, whose weights a lane reads at once
#else
constexpr u32 OUTPUTS = 4;
#endif
constexpr u32 LANES = PANEL / OUTPUTS; // that read the same inputs
#if WEIGHTS == 0
constexpr u32 STEP = 1; // inputs of which a lane reads weights at once
#elif WEIGHTS == 1
constexpr u32 STEP = 1;
#elif WEIGHTS == 2
constexpr u32 STEP = 2;
#elif WEIGHTS == 3
constexpr u32 STEP = 4;
#elif WEIGHTS == 4
constexpr u32 STEP = 8; // a quad, and the one 16 inputs behind it
#else
constexpr u32 STEP = 8;
#endif
constexpr u32 CHUNK = STEP * WARP / LANES; // inputs that a warp takes at once
constexpr u32 BATCH = WEIGHTS < 4 ? 8 : 4; // chunks that are on their way at once

// Bytes of a word, signed or not, as numbers.
__device__ __forceinline__ float signed_byte(u32 word, u32 i) { return (float)((int)(word << (24 - 8 * i)) >> 24); }
__device__ __forceinline__ float byte_of(u32 word, u32 i) { return (float)(word >> 8 * i & 0xff); }

// What a lane has loaded of a chunk.
struct Loaded {
#if WEIGHTS == 4
    uint4 first, second;
    uint2 scales;
#elif WEIGHTS == 5
    uint4 first;
    uint2 scales, minimums;
#else
    uint4 first;
#endif
};

// A lane's weights of chunk `chunk` of a panel; zeros beyond the last input.
__device__ __forceinline__ Loaded load_chunk(const uint4 *panel, u32 chunk, u32 inputs) {
    const u32 lane = threadIdx.x % WARP;
    Loaded loaded = {};
#if WEIGHTS == 4
    const uint4 *block = panel + chunk * 68; // 1088 bytes
    if (chunk * CHUNK < inputs) {
        loaded.scales = ((const uint2 *)block)[lane % LANES];
        loaded.first = block[4 + lane];
        loaded.second = block[36 + lane];
    }
#elif WEIGHTS == 5
    const uint4 *block = panel + chunk * 40; // 640 bytes
    if (chunk * CHUNK < inputs) {
        loaded.scales = ((const uint2 *)block)[lane % LANES];
        loaded.minimums = ((const uint2 *)block)[8 + lane % LANES];
        loaded.first = block[8 + lane];
    }
#else
    if (chunk * CHUNK + lane / LANES * STEP < inputs) loaded.first = panel[chunk * WARP + lane];
#endif
    return loaded;
}

// Adds the products with the state.
__device__ __forceinline__ void add_products(float (&sums)[OUTPUTS], const Loaded &loaded, u32 chunk, const float *state) {
    const u32 group = threadIdx.x % WARP / LANES;
    const float *h = state + chunk * CHUNK + group * (WEIGHTS == 4 ? 4 : STEP);
    const u32 words[4] = {loaded.first.x, loaded.first.y, loaded.first.z, loaded.first.w};
#if WEIGHTS == 0
#pragma unroll
    for (u32 i = 0; i < 4; i++) sums[i] = fmaf(__uint_as_float(words[i]), h[0], sums[i]);
#elif WEIGHTS == 1
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        sums[2 * i] = fmaf(f16_low(words[i]), h[0], sums[2 * i]);
        sums[2 * i + 1] = fmaf(f16_high(words[i]), h[0], sums[2 * i + 1]);
    }
#elif WEIGHTS == 2
#pragma unroll
    for (u32 i = 0; i < 4; i++) sums[i] = fmaf(bf16_high(words[i]), h[1], fmaf(bf16_low(words[i]), h[0], sums[i]));
#elif WEIGHTS == 3
#pragma unroll
    for (u32 i = 0; i < 4; i++)
#pragma unroll
        for (u32 j = 0; j < 4; j++) sums[i] = fmaf(signed_byte(words[i], j), h[j], sums[i]);
#else
    const u32 halves[2] = {loaded.scales.x, loaded.scales.y};
#if WEIGHTS == 4
    const u32 more[4] = {loaded.second.x, loaded.second.y, loaded.second.z, loaded.second.w};
#else
    const u32 minimums[2] = {loaded.minimums.x, loaded.minimums.y};
    float total = 0.0f;
#pragma unroll
    for (u32 j = 0; j < 8; j++) total += h[j];
#endif
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        const float scale = i % 2 == 0 ? f16_low(halves[i / 2]) : f16_high(halves[i / 2]);
        float sum = 0.0f;
#pragma unroll
        for (u32 j = 0; j < 4; j++) {
#if WEIGHTS == 4
            sum = fmaf(byte_of(words[i], j) - 128.0f, h[j], sum);
            sum = fmaf(byte_of(more[i], j) - 128.0f, h[16 + j], sum);
#else
            const u32 both = words[i] >> 8 * j;
            sum = fmaf((float)(both & 15), h[j], sum);
            sum = fmaf((float)(both >> 4 & 15), h[4 + j], sum);
#endif
        }
        sums[i] = fmaf(scale, sum, sums[i]);
#if WEIGHTS == 5
        sums[i] = fmaf(i % 2 == 0 ? f16_low(minimums[i / 2]) : f16_high(minimums[i / 2]), total, sums[i]);
#endif
    }
#endif
}

KERNEL(512, lstm, LstmParams) {
    follow();
    __align__(16) __shared__ float previous[LSTM_HIDDEN]; // h, zeros behind it
    __align__(16) __shared__ float products[4 * LSTM_HIDDEN];
    const u32 thread = threadIdx.x, lane = thread % WARP, warp = thread / WARP;
    const u32 hidden = p.hidden;
    const u32 panels = (4 * hidden + PANEL - 1) / PANEL;
    const u32 chunks = (hidden + CHUNK - 1) / CHUNK;
    // Of few panels several warps share each; their sums lie `apart`.
    const u32 slices = panels < LSTM_WARPS ? LSTM_WARPS / panels : 1;
    const u32 apart = panels * PANEL;
    float *state = p.slot->buffer;
    float cell[CELLS];
#pragma unroll
    for (u32 j = 0; j < CELLS; j++) {
        const u32 i = thread + j * LSTM_THREADS;
        previous[i] = i < hidden ? state[i] : 0.0f;
        cell[j] = i < hidden ? state[hidden + i] : 0.0f;
    }

    for (u32 row = 0; row < p.rows; row++) {
        const float *gates = p.gates + (u64)row * 4 * hidden;
        float gate[CELLS][4];
#pragma unroll
        for (u32 j = 0; j < CELLS; j++) {
            const u32 i = thread + j * LSTM_THREADS;
#pragma unroll
            for (u32 g = 0; g < 4; g++) gate[j][g] = i < hidden ? gates[g * hidden + i] : 0.0f;
        }
        __syncthreads();
        for (u32 task = warp; task < panels * slices; task += LSTM_WARPS) {
            const u32 panel = task % panels, slice = task / panels;
            const uint4 *weights = (const uint4 *)((const char *)p.weights + panel * p.panel_bytes);
            float sums[OUTPUTS];
#pragma unroll
            for (u32 i = 0; i < OUTPUTS; i++) sums[i] = 0.0f;
#pragma unroll 1
            for (u32 first = slice; first < chunks; first += BATCH * slices) {
                Loaded loaded[BATCH];
#pragma unroll
                for (u32 i = 0; i < BATCH; i++) loaded[i] = load_chunk(weights, first + i * slices, hidden);
                __syncwarp(); // keeps the compiler from loading later, one after the other
#pragma unroll
                for (u32 i = 0; i < BATCH; i++)
                    if (first + i * slices < chunks) add_products(sums, loaded[i], first + i * slices, previous);
            }
#pragma unroll
            for (u32 i = 0; i < OUTPUTS; i++) {
#pragma unroll
                for (u32 step = LANES; step < WARP; step *= 2) sums[i] += __shfl_xor_sync(0xffffffffu, sums[i], step);
            }
            if (lane < LANES) {
                float *to = products + slice * apart + panel * PANEL + lane * OUTPUTS;
#pragma unroll
                for (u32 i = 0; i < OUTPUTS; i += 4)
                    *(float4 *)(to + i) = make_float4(sums[i], sums[i + 1], sums[i + 2], sums[i + 3]);
            }
        }
        __syncthreads();
#pragma unroll
        for (u32 j = 0; j < CELLS; j++) {
            const u32 i = thread + j * LSTM_THREADS;
            if (i >= hidden) continue;
#pragma unroll
            for (u32 g = 0; g < 4; g++) {
                const u32 output = g * hidden + i;
                float sum = products[output];
#pragma unroll 1
                for (u32 slice = 1; slice < slices; slice++) sum += products[slice * apart + output];
#if WEIGHTS == 3
                sum *= p.scales[output];
#endif
                gate[j][g] += sum;
            }
            cell[j] = sigmoid(gate[j][1]) * cell[j] + sigmoid(gate[j][0]) * tanhf(gate[j][2]);
            const float h = sigmoid(gate[j][3]) * tanhf(cell[j]);
            previous[i] = h;
            p.out[(u64)row * hidden + i] = h;
        }
    }
#pragma unroll
    for (u32 j = 0; j < CELLS; j++) {
        const u32 i = thread + j * LSTM_THREADS;
        if (i >= hidden) continue;
        state[i] = previous[i];
        state[hidden + i] = cell[j];
    }
}
