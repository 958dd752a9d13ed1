// Norms and softmax of rows, and statistics over rows: sums in a fixed order, so that every run gives the same bits.

struct NormParams {
    const float *x;
    const float *gamma;
    const float *beta; // null for none
    const float *gain; // null for none; a row for every `gain_each` rows
    float *out;
    u32 rows, cols, groups, x_stride, gain_stride, gain_each, layer; // layer: the mean is taken away first
    float eps;
};

constexpr u32 ROW_THREADS = 256;

// Where one norm reads and writes.
struct Norm {
    const float *x;
    const float *gain;
    float *out;
};

__device__ __forceinline__ Norm norm_at(const NormParams &p, u32 task) {
    const u32 row = task / p.groups, group = task % p.groups;
    const float *gain = p.gain ? p.gain + (u64)(row / p.gain_each) * p.gain_stride + group * p.cols : nullptr;
    return {p.x + (u64)row * p.x_stride + group * p.cols, gain, p.out + (u64)task * p.cols};
}

__device__ __forceinline__ float normed(const NormParams &p, const Norm &at, u32 col, float apart, float factor) {
    float value = apart * factor * p.gamma[col];
    if (p.beta) value += p.beta[col];
    if (at.gain) value *= at.gain[col];
    return value;
}

__device__ __forceinline__ float4 quad_from(const float *from, u32 quad) { return ((const float4 *)from)[quad]; }

__device__ __forceinline__ float4 normed(const NormParams &p, const Norm &at, u32 quad, float4 x, float mean, float factor,
                                         float4 gamma) {
    float4 value = make_float4((x.x - mean) * factor * gamma.x, (x.y - mean) * factor * gamma.y,
                               (x.z - mean) * factor * gamma.z, (x.w - mean) * factor * gamma.w);
    if (p.beta) {
        const float4 beta = quad_from(p.beta, quad);
        value.x += beta.x, value.y += beta.y, value.z += beta.z, value.w += beta.w;
    }
    if (at.gain) {
        const float4 gain = quad_from(at.gain, quad);
        value.x *= gain.x, value.y *= gain.y, value.z *= gain.z, value.w *= gain.w;
    }
    return value;
}

__device__ __forceinline__ bool norm_in_quads(const NormParams &p) {
    return p.cols % 4 == 0 && in_quads(p.x, p.x_stride) && in_quads(p.out, 0) && in_quads(p.gamma, 0) && in_quads(p.beta, 0) &&
           in_quads(p.gain, p.gain_stride);
}

__device__ __forceinline__ float squares_of(float4 x, float mean) {
    const float a = x.x - mean, b = x.y - mean, c = x.z - mean, d = x.w - mean;
    return (a * a + b * b) + (c * c + d * d);
}

// A block for each norm.
KERNEL(256, norm_rows, NormParams) {
    follow();
    __shared__ float room[ROW_THREADS / WARP];
    constexpr u32 HELD = 4; // quads of a thread that stay in registers
    const u32 thread = threadIdx.x;
    const Norm at = norm_at(p, blockIdx.x);
    const float share = 1.0f / (float)p.cols;
    float mean = 0.0f;
    if (norm_in_quads(p) && p.cols <= 4 * HELD * ROW_THREADS) {
        const u32 quads = p.cols / 4;
        float4 held[HELD], gamma[HELD];
#pragma unroll
        for (u32 i = 0; i < HELD; i++) {
            const u32 quad = thread + i * ROW_THREADS;
            if (quad < quads) held[i] = quad_from(at.x, quad), gamma[i] = quad_from(p.gamma, quad);
        }
        if (p.layer) {
            float sum = 0.0f;
#pragma unroll
            for (u32 i = 0; i < HELD; i++)
                if (thread + i * ROW_THREADS < quads) sum += (held[i].x + held[i].y) + (held[i].z + held[i].w);
            mean = block_sum<ROW_THREADS>(sum, room) * share;
        }
        float sum = 0.0f;
#pragma unroll
        for (u32 i = 0; i < HELD; i++)
            if (thread + i * ROW_THREADS < quads) sum += squares_of(held[i], mean);
        const float factor = rsqrtf(block_sum<ROW_THREADS>(sum, room) * share + p.eps);
#pragma unroll
        for (u32 i = 0; i < HELD; i++) {
            const u32 quad = thread + i * ROW_THREADS;
            if (quad < quads) ((float4 *)at.out)[quad] = normed(p, at, quad, held[i], mean, factor, gamma[i]);
        }
        return;
    }
    if (p.layer) {
        float sum = 0.0f;
        for (u32 col = thread; col < p.cols; col += ROW_THREADS) sum += at.x[col];
        mean = block_sum<ROW_THREADS>(sum, room) * share;
    }
    float sum = 0.0f;
    for (u32 col = thread; col < p.cols; col += ROW_THREADS) {
        const float apart = at.x[col] - mean;
        sum += apart * apart;
    }
    const float factor = rsqrtf(block_sum<ROW_THREADS>(sum, room) * share + p.eps);
    for (u32 col = thread; col < p.cols; col += ROW_THREADS) at.out[col] = normed(p, at, col, at.x[col] - mean, factor);
}

// A warp for each norm of at most 256 columns.
KERNEL(256, norm_groups, NormParams) {
    follow();
    const u32 lane = threadIdx.x % WARP;
    const u32 task = blockIdx.x * (ROW_THREADS / WARP) + threadIdx.x / WARP;
    if (task >= p.rows * p.groups) return;
    const Norm at = norm_at(p, task);
    const float share = 1.0f / (float)p.cols;
    float mean = 0.0f;
    if (norm_in_quads(p)) {
        constexpr u32 HELD = 2;
        const u32 quads = p.cols / 4;
        float4 held[HELD], gamma[HELD];
#pragma unroll
        for (u32 i = 0; i < HELD; i++) {
            const u32 quad = lane + i * WARP;
            if (quad < quads) held[i] = quad_from(at.x, quad), gamma[i] = quad_from(p.gamma, quad);
        }
        if (p.layer) {
            float sum = 0.0f;
#pragma unroll
            for (u32 i = 0; i < HELD; i++)
                if (lane + i * WARP < quads) sum += (held[i].x + held[i].y) + (held[i].z + held[i].w);
            mean = warp_sum(sum) * share;
        }
        float sum = 0.0f;
#pragma unroll
        for (u32 i = 0; i < HELD; i++)
            if (lane + i * WARP < quads) sum += squares_of(held[i], mean);
        const float factor = rsqrtf(warp_sum(sum) * share + p.eps);
#pragma unroll
        for (u32 i = 0; i < HELD; i++) {
            const u32 quad = lane + i * WARP;
            if (quad < quads) ((float4 *)at.out)[quad] = normed(p, at, quad, held[i], mean, factor, gamma[i]);
        }
        return;
    }
    constexpr u32 HELD = 8;
    float held[HELD];
#pragma unroll
    for (u32 i = 0; i < HELD; i++) held[i] = lane + i * WARP < p.cols ? at.x[lane + i * WARP] : 0.0f;
    if (p.layer) {
        float sum = 0.0f;
#pragma unroll
        for (u32 i = 0; i < HELD; i++) sum += held[i];
        mean = warp_sum(sum) * share;
    }
    float sum = 0.0f;
#pragma unroll
    for (u32 i = 0; i < HELD; i++) {
        const float apart = held[i] - mean;
        if (lane + i * WARP < p.cols) sum += apart * apart;
    }
    const float factor = rsqrtf(warp_sum(sum) * share + p.eps);
#pragma unroll
    for (u32 i = 0; i < HELD; i++) {
        const u32 col = lane + i * WARP;
        if (col < p.cols) at.out[col] = normed(p, at, col, held[i] - mean, factor);
    }
}

struct SoftmaxParams {
    const float *x;
    float *out;
    u32 rows, cols, x_stride;
};

// A block for each row; a row of only minus infinity becomes zeros.
KERNEL(256, softmax_rows, SoftmaxParams) {
    follow();
    __shared__ float room[ROW_THREADS / WARP];
    constexpr u32 HELD = 8; // values of a thread that stay in registers
    const u32 thread = threadIdx.x;
    const float *x = p.x + (u64)blockIdx.x * p.x_stride;
    float *out = p.out + (u64)blockIdx.x * p.cols;
    float held[HELD];
#pragma unroll
    for (u32 i = 0; i < HELD; i++) held[i] = thread + i * ROW_THREADS < p.cols ? x[thread + i * ROW_THREADS] : MINUS_INFINITY;
    float most = MINUS_INFINITY;
#pragma unroll
    for (u32 i = 0; i < HELD; i++) most = fmaxf(most, held[i]);
    for (u32 col = thread + HELD * ROW_THREADS; col < p.cols; col += ROW_THREADS) most = fmaxf(most, x[col]);
    most = block_max<ROW_THREADS>(most, room);
    if (most == MINUS_INFINITY) {
        for (u32 col = thread; col < p.cols; col += ROW_THREADS) out[col] = 0.0f;
        return;
    }
    float sum = 0.0f;
#pragma unroll
    for (u32 i = 0; i < HELD; i++) {
        held[i] = expf(held[i] - most);
        if (thread + i * ROW_THREADS < p.cols) sum += held[i];
    }
    for (u32 col = thread + HELD * ROW_THREADS; col < p.cols; col += ROW_THREADS) sum += expf(x[col] - most);
    const float factor = 1.0f / block_sum<ROW_THREADS>(sum, room);
#pragma unroll
    for (u32 i = 0; i < HELD; i++)
        if (thread + i * ROW_THREADS < p.cols) out[thread + i * ROW_THREADS] = held[i] * factor;
    for (u32 col = thread + HELD * ROW_THREADS; col < p.cols; col += ROW_THREADS) out[col] = expf(x[col] - most) * factor;
}

struct StatisticsParams {
    const float *x;
    const float *weights; // null: all rows count alike
    float *out;
    u32 rows, cols, x_stride, weights_stride;
    float floor;
};

// The sum of what the warps have of 32 columns, for all of them.
__device__ __forceinline__ float sum_of_warps(float value, float (*room)[WARP]) {
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    __syncthreads();
    room[warp][lane] = value;
    __syncthreads();
    float sum = 0.0f;
#pragma unroll 8
    for (u32 i = 0; i < WARP; i++) sum += room[i][lane];
    return sum;
}

// Mean, then standard deviation of each column, a block of 32 warps for 32 columns.
KERNEL(1024, statistics, StatisticsParams) {
    follow();
    __shared__ float room[WARP][WARP];
    const u32 warp = threadIdx.x / WARP;
    const u32 col = blockIdx.x * WARP + threadIdx.x % WARP;
    const bool mine = col < p.cols;
    const float *x = p.x + col;
    const float *weights = p.weights ? p.weights + col : nullptr;
    const float alike = 1.0f / (float)p.rows;
    float mean = 0.0f;
    if (mine) {
#pragma unroll 4
        for (u32 row = warp; row < p.rows; row += WARP) {
            const float value = x[(u64)row * p.x_stride];
            mean += weights ? weights[(u64)row * p.weights_stride] * value : value;
        }
    }
    mean = sum_of_warps(mean, room);
    if (!weights) mean *= alike;
    float variance = 0.0f;
    if (mine) {
#pragma unroll 4
        for (u32 row = warp; row < p.rows; row += WARP) {
            const float apart = x[(u64)row * p.x_stride] - mean;
            variance += (weights ? weights[(u64)row * p.weights_stride] : alike) * apart * apart;
        }
    }
    variance = sum_of_warps(variance, room);
    if (mine && warp == 0) {
        p.out[col] = mean;
        p.out[p.cols + col] = sqrtf(fmaxf(variance, p.floor));
    }
}
