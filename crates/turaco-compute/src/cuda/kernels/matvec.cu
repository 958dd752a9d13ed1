// A few rows times COLUMNS of the 32 outputs of a panel. WARPS warps share the steps of 32 inputs out among them, and their
// sums are added up at the end. Weights go from memory to registers, DEPTH steps ahead, and are read once for all rows.
//
// Eight groups of four threads have COLUMNS / 8 neighbouring outputs each; the threads of a group have different inputs. In
// tiles (see TILES) inputs are split into three bf16 that add up to them exactly, each a column of its own, so that sums are
// those of f32; from 16 rows on they are rounded to bf16, as `matmul` does.

constexpr u32 THREADS = WARPS * WARP;
constexpr u32 WORDS = COLUMNS / 8;                     // of a line that a thread reads
constexpr u32 SCALE_WORDS = (WORDS + 1) / 2;           // that hold the scales of its outputs
constexpr u32 OUTPUTS = WEIGHTS == F16 ? 2 * WORDS : WORDS; // that a thread adds up
constexpr u32 ROOM = 36 << 10;                         // bytes for inputs

template <u32 COUNT> __device__ __forceinline__ void load_words(u32 (&to)[COUNT], const char *from) {
    if constexpr (COUNT == 4) {
        const uint4 v = load_once((const uint4 *)from);
        to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
    } else if constexpr (COUNT == 2) {
        const uint2 v = load_once((const uint2 *)from);
        to[0] = v.x, to[1] = v.y;
    } else {
        to[0] = load_once((const u32 *)from);
    }
}

// What a thread has of a step.
struct Step {
    u32 words[LOADS][WORDS];
    u32 scales[LEAD ? SCALE_WORDS : 1];
    u32 minimums[LEAD ? SCALE_WORDS : 1];

    // Zeros beyond the panel's end.
    __device__ __forceinline__ void load(const char *panel, u32 panel_bytes, u32 step, u32 first, u32 group, u32 t) {
        const u32 base = step * STEP_BYTES;
        // A line of f16 is two inputs: four groups of threads for each.
        const u32 column = WEIGHTS == F16 ? group / 4 * 64 + first * 2 + group % 4 * WORDS * 4 : (first + group * WORDS) * 4;
#pragma unroll
        for (u32 nth = 0; nth < LOADS; nth++) {
            const u32 at = base + LEAD + line_of(nth, t) * LINE + column;
            if (at < panel_bytes) {
                load_words(words[nth], panel + at);
            } else {
#pragma unroll
                for (u32 i = 0; i < WORDS; i++) words[nth][i] = 0;
            }
        }
        if constexpr (LEAD != 0) {
            const u32 at = base + (first + group * WORDS) * 2 / 4 * 4;
            const bool inside = base < panel_bytes;
#pragma unroll
            for (u32 i = 0; i < SCALE_WORDS; i++) scales[i] = minimums[i] = 0;
            if (inside) load_words(scales, panel + at);
            if (WEIGHTS == Q4 && inside) load_words(minimums, panel + at + 64);
        }
    }
};

// The number of one of a thread's outputs among those that it has scales for.
__device__ __forceinline__ float scale_of(const u32 (&scales)[LEAD ? SCALE_WORDS : 1], u32 output, u32 group) {
    const bool high = WORDS == 1 ? group % 2 == 1 : output % 2 == 1;
    return high ? f16_high(scales[output / 2]) : f16_low(scales[output / 2]);
}

template <u32 HEIGHT, bool GATED> struct Matvec {
    static constexpr u32 HALVES = GATED ? 2 : 1;
    // Columns of tiles: all first parts of the rows' inputs, then all second ones.
    static constexpr u32 PARTS = HEIGHT <= 8 ? 3 : 1;
    static constexpr u32 SPLIT = HEIGHT * PARTS;
    static constexpr u32 TILE_COLUMNS = (SPLIT + 7) / 8;
    static constexpr u32 TILE_OUTPUTS = (WORDS + 1) / 2;
    // Steps of inputs that are staged at a time, a whole number for each warp.
    static constexpr u32 QUAD_BYTES = TILES ? SPLIT * 8 : HEIGHT * 16;
    static constexpr u32 STAGED = ROOM / (QUAD_BYTES * QUADS) / WARPS * WARPS;
    static constexpr u32 TURNS = STAGED / WARPS;
    // Steps that a thread reads ahead: so many words of it are to be on their way.
    static constexpr u32 FLYING = HEIGHT <= 4 ? 48 : 32;
    static constexpr u32 AHEAD = FLYING / (LOADS * WORDS + (LEAD ? 2 * SCALE_WORDS : 0)) / HALVES;
    static constexpr u32 DEPTH = AHEAD < 1 ? 1 : AHEAD > 6 ? 6 : AHEAD;
    static_assert(STAGED >= WARPS, "no room for a step of each warp");
    // Quads of inputs that a thread reads at once; one where that takes four loads.
    template <bool WHOLE> static constexpr u32 BATCH = WHOLE ? 3 : 1;
    // Rows that are added up over the warps at a time.
    static constexpr u32 GATHERED = HEIGHT < 16 ? HEIGHT : 16;
    static constexpr u32 RESULTS = (GATHERED * COLUMNS + THREADS - 1) / THREADS;
    static_assert(WARPS * GATHERED * COLUMNS * 4 <= ROOM, "no room for sums");

    const LinearParams &p;
    uint2 *staged;   // inputs: pairs, or f32 by rows
    float *sums;     // q4: inputs of a step and row added up
    float *means;
    float *factors;
    u32 first_row;
    Step ahead[DEPTH][HALVES];
#if TILES
    float total[HALVES][TILE_OUTPUTS][TILE_COLUMNS][4];
#else
    float total[HALVES][HEIGHT][OUTPUTS];
#endif

    __device__ __forceinline__ u32 clamped(u32 row) const { return min(first_row + row, p.rows - 1); }
    __device__ __forceinline__ const float *row_of(u32 row) const { return p.x + (u64)clamped(row) * p.x_stride; }

    // Whether everything that goes with inputs can be read in quads.
    __device__ __forceinline__ bool all_whole() const {
        return p.inputs % 4 == 0 && whole_quads(p.x, p.x_stride) && whole_quads(p.gamma, 0) && whole_quads(p.beta, 0) &&
               whole_quads(p.gain, p.gain ? p.gain_stride : 0);
    }

    // What `member` of LANES threads adds up of a row: numbers less the mean, or their squares.
    template <bool WHOLE, u32 LANES>
    __device__ __forceinline__ float gathered(const float *from, u32 member, float mean, bool squared) {
        float sum = 0.0f;
        for (u32 begin = 0; 4 * begin < p.inputs; begin += BATCH<WHOLE> * LANES) {
            float4 values[BATCH<WHOLE>];
#pragma unroll
            for (u32 i = 0; i < BATCH<WHOLE>; i++) values[i] = row_quad<WHOLE>(from, begin + i * LANES + member, p.inputs);
#pragma unroll
            for (u32 i = 0; i < BATCH<WHOLE>; i++) {
                const u32 at = 4 * (begin + i * LANES + member);
                const float each[4] = {values[i].x, values[i].y, values[i].z, values[i].w};
#pragma unroll
                for (u32 k = 0; k < 4; k++) {
                    const float apart = at + k < p.inputs ? each[k] - mean : 0.0f;
                    sum += squared ? apart * apart : apart;
                }
            }
        }
        return sum;
    }

    // Means and factors of the norm: some warps for each row.
    template <bool WHOLE> __device__ __forceinline__ void measure(float *room) {
        constexpr u32 AT_ONCE = HEIGHT < WARPS ? HEIGHT : WARPS;
        constexpr u32 TEAM = WARPS / AT_ONCE, LANES = TEAM * WARP;
        const u32 warp = threadIdx.x / WARP, member = threadIdx.x % LANES;
        const float share = 1.0f / (float)p.inputs;
        for (u32 first = 0; first < HEIGHT; first += AT_ONCE) {
            const u32 row = first + warp / TEAM;
            const float *from = row_of(row);
            float mean = 0.0f;
            if (p.norm == 1) mean = team_sum<TEAM>(gathered<WHOLE, LANES>(from, member, 0.0f, false), room) * share;
            const float squares = team_sum<TEAM>(gathered<WHOLE, LANES>(from, member, mean, true), room);
            if (member == 0) {
                means[row] = mean;
                factors[row] = 1.0f / sqrtf(squares * share + p.eps);
            }
        }
    }

    template <u32 TEAM> static __device__ __forceinline__ float team_sum(float value, float *room) {
        value = warp_sum(value);
        if constexpr (TEAM > 1) {
            const u32 warp = threadIdx.x / WARP;
            __syncthreads();
            if (threadIdx.x % WARP == 0) room[warp] = value;
            __syncthreads();
            value = 0.0f;
#pragma unroll
            for (u32 i = 0; i < TEAM; i++) value += room[warp / TEAM * TEAM + i];
        }
        return value;
    }

    // Of a thread's quads of a part of the inputs: the quad's number in its row, and the row.
    static __device__ __forceinline__ u32 quad_of(u32 first, u32 item) {
        return (first + item / (QUADS * HEIGHT)) * QUADS + item % QUADS;
    }
    static __device__ __forceinline__ u32 row_number(u32 item) { return item / QUADS % HEIGHT; }

    // What multiplies the norm, and what is added, in turn: all at once would take too many registers.
    template <bool WHOLE> __device__ __forceinline__ void norm(float4 (&values)[BATCH<WHOLE>], u32 first, u32 begin) const {
#pragma unroll
        for (u32 i = 0; i < BATCH<WHOLE>; i++) {
            const u32 item = begin + i * THREADS + threadIdx.x, quad = quad_of(first, item);
            const float4 gamma = row_quad<WHOLE>(p.gamma, quad, p.inputs);
            const float mean = means[row_number(item)], factor = factors[row_number(item)];
            float4 &v = values[i];
            v.x = (v.x - mean) * factor * gamma.x;
            v.y = (v.y - mean) * factor * gamma.y;
            v.z = (v.z - mean) * factor * gamma.z;
            v.w = (v.w - mean) * factor * gamma.w;
            // Beyond the end of the row there is nothing, whatever the norm is.
            if (4 * quad >= p.inputs) v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        }
        if (p.norm == 1 && p.beta) {
#pragma unroll
            for (u32 i = 0; i < BATCH<WHOLE>; i++) {
                const float4 beta = row_quad<WHOLE>(p.beta, quad_of(first, begin + i * THREADS + threadIdx.x), p.inputs);
                float4 &v = values[i];
                v.x += beta.x, v.y += beta.y, v.z += beta.z, v.w += beta.w;
            }
        }
        if (p.gain) {
#pragma unroll
            for (u32 i = 0; i < BATCH<WHOLE>; i++) {
                const u32 item = begin + i * THREADS + threadIdx.x;
                const float *from = p.gain + (u64)(clamped(row_number(item)) / p.gain_each) * p.gain_stride;
                const float4 gain = row_quad<WHOLE>(from, quad_of(first, item), p.inputs);
                float4 &v = values[i];
                v.x *= gain.x, v.y *= gain.y, v.z *= gain.z, v.w *= gain.w;
            }
        }
    }

    // Puts the inputs of the steps from `first` on in place, zeros beyond a row's end.
    template <bool WHOLE> __device__ __forceinline__ void stage(u32 first, u32 steps) {
        const u32 count = min(STAGED, steps - first) * QUADS * HEIGHT;
        for (u32 begin = 0; begin < count; begin += BATCH<WHOLE> * THREADS) {
            float4 values[BATCH<WHOLE>];
#pragma unroll
            for (u32 i = 0; i < BATCH<WHOLE>; i++) {
                const u32 item = begin + i * THREADS + threadIdx.x;
                // Quads beyond the last step are beyond the row's end as well.
                values[i] = row_quad<WHOLE>(row_of(row_number(item)), quad_of(first, item), p.inputs);
            }
            if (p.norm != 0) norm<WHOLE>(values, first, begin);
#pragma unroll
            for (u32 i = 0; i < BATCH<WHOLE>; i++) {
                const u32 item = begin + i * THREADS + threadIdx.x;
                put(values[i], item / (QUADS * HEIGHT), row_number(item), item % QUADS, item < count);
            }
        }
    }

#if TILES
    __device__ __forceinline__ void put(float4 v, u32 step, u32 row, u32 quad, bool wanted) {
        const u32 at = step * SPLIT * 8 + quad_thread(quad) * 2 + quad_half(quad);
        if constexpr (PARTS == 1) {
            const uint2 pairs = rounded_pairs(v);
            if (wanted) staged[at + row * 8] = pairs;
            v = make_float4(bf16_low(pairs.x), bf16_high(pairs.x), bf16_low(pairs.y), bf16_high(pairs.y));
        } else {
            float rest[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
            for (u32 part = 0; part < PARTS; part++) {
                u32 bits[4];
#pragma unroll
                for (u32 i = 0; i < 4; i++) {
                    bits[i] = __float_as_uint(rest[i]);
                    const float upper = __uint_as_float(bits[i] & 0xffff0000u);
                    // Infinity is all in its first part.
                    rest[i] = fabsf(rest[i]) <= -LOWEST || rest[i] != rest[i] ? rest[i] - upper : 0.0f;
                }
                const u32 second = WEIGHTS == BF16 ? 1 : 2;
                const u32 low = __byte_perm(bits[0], bits[second], 0x7632);
                const u32 high = __byte_perm(bits[3 - second], bits[3], 0x7632);
                if (wanted) staged[at + (part * HEIGHT + row) * 8] = make_uint2(low, high);
            }
        }
        if constexpr (WEIGHTS == Q4) {
            float sum = (v.x + v.y) + (v.z + v.w);
#pragma unroll
            for (u32 other = 1; other < QUADS; other *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, other);
            if (wanted && quad == 0) sums[step * HEIGHT + row] = sum;
        }
    }

    __device__ __forceinline__ void multiply(const Step (&weights)[HALVES], u32 step, u32 group, u32 t) {
        const uint4 *inputs = (const uint4 *)staged + step * SPLIT * 4 + t;
        u32 b[TILE_COLUMNS][4];
        float added[TILE_COLUMNS][2]; // q4: the inputs of the thread's columns
#pragma unroll
        for (u32 n = 0; n < TILE_COLUMNS; n++) {
            // Columns beyond the last are not looked at: they may be anything.
            const uint4 v = inputs[min(n * 8 + group, SPLIT - 1) * 4];
            b[n][0] = v.x, b[n][1] = v.y, b[n][2] = v.z, b[n][3] = v.w;
            if constexpr (WEIGHTS == Q4) {
#pragma unroll
                for (u32 i = 0; i < 2; i++) {
                    const u32 column = n * 8 + t * 2 + i;
                    added[n][i] = column < HEIGHT ? sums[step * HEIGHT + column] : 0.0f;
                }
            }
        }
#pragma unroll
        for (u32 half = 0; half < HALVES; half++) {
#pragma unroll
            for (u32 m = 0; m < TILE_OUTPUTS; m++) {
                u32 pairs[2][4];
#pragma unroll
                for (u32 i = 0; i < 2; i++) {
                    if (2 * m + i < WORDS) {
                        u32 words[LOADS];
#pragma unroll
                        for (u32 nth = 0; nth < LOADS; nth++) words[nth] = weights[half].words[nth][2 * m + i];
                        unpack(words, pairs[i]);
                    } else {
#pragma unroll
                        for (u32 k = 0; k < 4; k++) pairs[i][k] = 0;
                    }
                }
                const u32 lower[4] = {pairs[0][0], pairs[1][0], pairs[0][1], pairs[1][1]};
                const u32 upper[4] = {pairs[0][2], pairs[1][2], pairs[0][3], pairs[1][3]};
                float factor[2], least[2];
                if constexpr (LEAD != 0) {
#pragma unroll
                    for (u32 i = 0; i < 2; i++) {
                        const u32 output = min(2 * m + i, WORDS - 1);
                        factor[i] = scale_of(weights[half].scales, output, group);
                        least[i] = WEIGHTS == Q4 ? scale_of(weights[half].minimums, output, group) : 0.0f;
                    }
                }
#pragma unroll
                for (u32 n = 0; n < TILE_COLUMNS; n++) {
                    const u32 first[2] = {b[n][0], b[n][1]}, second[2] = {b[n][2], b[n][3]};
                    float(&to)[4] = total[half][m][n];
                    if constexpr (LEAD == 0) {
                        mma_bf16(to, lower, first);
                        mma_bf16(to, upper, second);
                    } else {
                        float sum[4];
#pragma unroll
                        for (u32 i = 0; i < 4; i++) sum[i] = WEIGHTS == Q4 ? -16.0f * added[n][i % 2] : 0.0f;
                        mma_bf16(sum, lower, first);
                        mma_bf16(sum, upper, second);
#pragma unroll
                        for (u32 i = 0; i < 4; i++) {
                            to[i] += sum[i] * factor[i / 2];
                            if (WEIGHTS == Q4 && n * 8 < HEIGHT) to[i] += added[n][i % 2] * least[i / 2];
                        }
                    }
                }
            }
        }
    }

    // Writes this warp's sums of the rows from `first` on.
    __device__ __forceinline__ void spread(float *to, u32 half, u32 first, u32 group, u32 t) {
#pragma unroll
        for (u32 m = 0; m < TILE_OUTPUTS; m++) {
#pragma unroll
            for (u32 n = 0; n < (PARTS == 1 ? TILE_COLUMNS : 1); n++) {
#pragma unroll
                for (u32 i = 0; i < 4; i++) {
                    float(&tiles)[TILE_COLUMNS][4] = total[half][m];
                    float sum = tiles[n][i];
                    u32 row = n * 8 + 2 * t + i % 2;
                    bool mine = row >= first && row < first + GATHERED;
                    if constexpr (HEIGHT == 8) {
                        sum += tiles[1][i] + tiles[2][i];
                    } else if constexpr (HEIGHT == 4) {
                        sum += __shfl_xor_sync(0xffffffffu, sum, 2) + tiles[TILE_COLUMNS - 1][i];
                    } else if constexpr (HEIGHT == 2) {
                        if (t == 3) sum = 0.0f;
                        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
                        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
                    } else if constexpr (HEIGHT == 1) {
                        if (i % 2 == 0) sum += tiles[0][i + 1] + __shfl_xor_sync(0xffffffffu, sum, 1);
                    }
                    const u32 output = group * WORDS + 2 * m + i / 2;
                    if (mine && 2 * m + i / 2 < WORDS) to[(row - first) * COLUMNS + output] = sum;
                }
            }
        }
    }
#else
    __device__ __forceinline__ void put(float4 v, u32 step, u32 row, u32 quad, bool wanted) {
        if (wanted) ((float4 *)staged)[(row * STAGED + step) * QUADS + quad] = v;
    }

    __device__ __forceinline__ void multiply(const Step (&weights)[HALVES], u32 step, u32 group, u32 t) {
        constexpr u32 INPUTS = BLOCK / LINES; // of a line
        const float *inputs = (const float *)staged + step * BLOCK;
#pragma unroll
        for (u32 half = 0; half < HALVES; half++) {
#pragma unroll
            for (u32 nth = 0; nth < LOADS; nth++) {
                const u32 line = line_of(nth, t);
#pragma unroll
                for (u32 i = 0; i < WORDS; i++) {
                    const u32 word = weights[half].words[nth][i];
#if WEIGHTS == F16
                    const float w[2] = {f16_low(word), f16_high(word)};
#pragma unroll
                    for (u32 row = 0; row < HEIGHT; row++) {
                        const float x = inputs[row * STAGED * BLOCK + line * 2 + group / 4];
                        total[half][row][2 * i] += w[0] * x;
                        total[half][row][2 * i + 1] += w[1] * x;
                    }
#else
                    float w[INPUTS];
#pragma unroll
                    for (u32 k = 0; k < INPUTS; k++) {
#if WEIGHTS == F32
                        w[k] = __uint_as_float(word);
#elif WEIGHTS == BF16
                        w[k] = k == 0 ? bf16_low(word) : bf16_high(word);
#elif WEIGHTS == INT8
                        w[k] = (float)((int)(word << (24 - 8 * k)) >> 24);
#elif WEIGHTS == Q8
                        w[k] = (float)((int)(word >> (8 * k) & 255) - 128) * scale_of(weights[half].scales, i, group);
#else
                        w[k] = (float)(word >> (8 * (k % 4) + k / 4 * 4) & 15) * scale_of(weights[half].scales, i, group) +
                               scale_of(weights[half].minimums, i, group);
#endif
                    }
#pragma unroll
                    for (u32 row = 0; row < HEIGHT; row++) {
#pragma unroll
                        for (u32 k = 0; k < INPUTS; k++)
                            total[half][row][i] += w[k] * inputs[row * STAGED * BLOCK + line * INPUTS + k];
                    }
#endif
                }
            }
        }
    }

    __device__ __forceinline__ void spread(float *to, u32 half, u32 first, u32 group, u32 t) {
#pragma unroll
        for (u32 row = 0; row < HEIGHT; row++) {
#pragma unroll
            for (u32 i = 0; i < OUTPUTS; i++) {
                float sum = total[half][row][i];
                sum += __shfl_xor_sync(0xffffffffu, sum, 1);
                sum += __shfl_xor_sync(0xffffffffu, sum, 2);
                if (WEIGHTS == F16) sum += __shfl_xor_sync(0xffffffffu, sum, 16);
                const bool mine = t == 0 && (WEIGHTS != F16 || group < 4);
                if (mine) to[row * COLUMNS + group * OUTPUTS + i] = sum;
            }
        }
    }
#endif

    __device__ __forceinline__ void run(float *room) {
        const u32 warp = threadIdx.x / WARP, group = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
        const u32 parts = (p.outputs + COLUMNS - 1) / COLUMNS;
        const u32 first_output = blockIdx.x % parts * COLUMNS;
        const u32 panel = first_output / PANEL, first = first_output % PANEL;
        const u32 panel_bytes = (u32)p.panel_bytes;
        const u32 steps = (p.inputs + BLOCK - 1) / BLOCK;
        const char *weights[HALVES];
#pragma unroll
        for (u32 half = 0; half < HALVES; half++)
            weights[half] = (const char *)p.weights + (u64)(panel + half * (p.outputs / PANEL)) * p.panel_bytes;

        // Weights first: they come from far away, and neither the call before nor what follows has to do with them.
        let_next_begin();
#pragma unroll
        for (u32 d = 0; d < DEPTH; d++) {
#pragma unroll
            for (u32 half = 0; half < HALVES; half++)
                ahead[d][half].load(weights[half], panel_bytes, d * WARPS + warp, first, group, t);
        }
        float *flat = &total[0][0][0]
#if TILES
                          [0]
#endif
            ;
#pragma unroll
        for (u32 i = 0; i < sizeof(total) / 4; i++) flat[i] = 0.0f;
        const bool whole = all_whole();
        wait_for_previous();
        if (p.norm != 0) {
            if (whole) measure<true>(room);
            else measure<false>(room);
        }

        for (u32 begin = 0; begin * WARPS < steps; begin += DEPTH) {
#pragma unroll
            for (u32 d = 0; d < DEPTH; d++) {
                const u32 turn = begin + d;
                // Only in places where a new part of the inputs can begin.
                if (TURNS % DEPTH != 0 || d == 0) {
                    if (turn % TURNS == 0 && turn * WARPS < steps) {
                        __syncthreads();
                        if (whole) stage<true>(turn * WARPS, steps);
                        else stage<false>(turn * WARPS, steps);
                        __syncthreads();
                    }
                }
                if (turn * WARPS + warp < steps) {
                    multiply(ahead[d], turn % TURNS * WARPS + warp, group, t);
#pragma unroll
                    for (u32 half = 0; half < HALVES; half++)
                        ahead[d][half].load(weights[half], panel_bytes, (turn + DEPTH) * WARPS + warp, first, group, t);
                }
            }
        }

        // All warps' sums of an output, in order.
        float *shared = (float *)staged;
#pragma unroll
        for (u32 from = 0; from < HEIGHT; from += GATHERED) {
            float results[HALVES][RESULTS];
#pragma unroll
            for (u32 half = 0; half < HALVES; half++) {
                __syncthreads();
                spread(shared + warp * GATHERED * COLUMNS, half, from, group, t);
                __syncthreads();
#pragma unroll
                for (u32 i = 0; i < RESULTS; i++) {
                    const u32 item = i * THREADS + threadIdx.x;
                    float sum = 0.0f;
                    if (item < GATHERED * COLUMNS) {
#pragma unroll
                        for (u32 other = 0; other < WARPS; other++) sum += shared[other * GATHERED * COLUMNS + item];
                        const u32 output = first_output + item % COLUMNS;
                        if (WEIGHTS == INT8) sum *= p.scales[half * p.outputs + output];
                    }
                    results[half][i] = sum;
                }
            }
#pragma unroll
            for (u32 i = 0; i < RESULTS; i++) {
                const u32 item = i * THREADS + threadIdx.x;
                const u32 row = first_row + from + item / COLUMNS, output = first_output + item % COLUMNS;
                if (item >= GATHERED * COLUMNS || row >= p.rows || output >= p.outputs) continue;
                float sum = results[0][i];
                if (GATED) sum = sum * sigmoid(sum) * results[HALVES - 1][i];
                p.out[(u64)row * p.out_stride + output] = finished(p, row, output, sum);
            }
        }
    }
};

template <u32 HEIGHT, bool GATED> __device__ __forceinline__ void matvec(const LinearParams &p) {
    using Work = Matvec<HEIGHT, GATED>;
    __shared__ uint4 staged[ROOM / 16];
    __shared__ float sums[WEIGHTS == Q4 ? Work::STAGED * HEIGHT : 1];
    __shared__ float means[HEIGHT];
    __shared__ float factors[HEIGHT];
    __shared__ float room[WARPS];
    const u32 parts = (p.outputs + COLUMNS - 1) / COLUMNS;
    Work work{p, (uint2 *)staged, sums, means, factors, blockIdx.x / parts * HEIGHT};
    work.run(room);
}

// A multiprocessor holds 16 warps: what is on its way is in registers, and none may be moved to memory. Half as many for sums
// of many rows.
#define RESIDENT(rows) (rows <= (TILES ? 16 : 4) || WARPS > 8 ? 16 / WARPS : 8 / WARPS)
#define ENTRIES(rows)                                                                              \
    RESIDENT_KERNEL(THREADS, RESIDENT(rows), matvec_##rows, LinearParams) { matvec<rows, false>(p); } \
    RESIDENT_KERNEL(THREADS, RESIDENT(rows), matvec_##rows##_gated, LinearParams) { matvec<rows, true>(p); }
// With ROWS only the entries for so many rows.
#define ENTRIES_OF(rows) ENTRIES(rows)

#ifdef ROWS
ENTRIES_OF(ROWS)
#else
ENTRIES(1)
ENTRIES(2)
ENTRIES(4)
ENTRIES(8)
#if TILES
ENTRIES(16)
ENTRIES(32)
#endif
#endif
