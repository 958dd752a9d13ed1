// ROWS rows times COLUMNS of the 32 outputs of a panel; if GATED, of those of two halves of the weights. WARPS warps share the
// steps of 32 inputs out among them, and their sums are added up at the end. Inputs are put in ROOM bytes, as many steps at a
// time as it holds. Weights are read once for all rows: they are copied in the background to a ring of RING bytes for each warp,
// where every thread reads what it copied itself, so that nobody has to wait for others. (Registers would not do: a thread
// cannot wait for some of its loads to registers and not for those after them.)
//
// Eight groups of four threads have COLUMNS / 8 neighbouring outputs each; the threads of a group have different inputs. In
// tiles (see TILES) inputs are split into three bf16 that add up to them exactly, each a column of its own, so that sums are
// those of f32; from 16 rows on they are rounded to bf16, as `matmul` does.

constexpr u32 HEIGHT = ROWS;
constexpr u32 HALVES = GATED ? 2 : 1;                  // of the weights
constexpr u32 THREADS = WARPS * WARP;
constexpr u32 WORDS = COLUMNS / 8;                     // of a line that a thread reads
constexpr u32 SCALE_WORDS = (WORDS + 1) / 2;           // that hold the scales of its outputs
#if !TILES
constexpr u32 OUTPUTS = WEIGHTS == F16 ? 2 * WORDS : WORDS; // that a thread adds up
#endif

// A step of a warp in its ring: for each load the words of all threads, then their scales, then their minimums.
constexpr u32 LOADED = WARP * WORDS * 4;
constexpr u32 SCALED = LEAD ? WARP * SCALE_WORDS * 4 : 0;
constexpr u32 STEP_COPY = LOADS * LOADED + (WEIGHTS == Q4 ? 2 : 1) * SCALED;

// Where a thread's share of a step is in memory, and where it is copied to; of the latter there is one for each step on its way.
struct Share {
    const char *lines;
    const char *scales;
    u32 left; // of the panel from the lines on: what is beyond is zeros

    __device__ __forceinline__ void begin(const char *panel, u32 panel_bytes, u32 step, u32 first, u32 lane) {
        const u32 group = lane / 4, t = lane % 4;
        // A line of f16 is two inputs: four groups of threads for each.
        const u32 column = WEIGHTS == F16 ? group / 4 * 64 + first * 2 + group % 4 * WORDS * 4 : (first + group * WORDS) * 4;
        const u32 at = step * STEP_BYTES + LEAD + line_of(0, t) * LINE + column;
        lines = panel + at;
        scales = panel + step * STEP_BYTES + (first + group * WORDS) * 2 / 4 * 4;
        left = panel_bytes > at ? panel_bytes - at : 0;
    }

    // Asks for what is so many bytes further on.
    __device__ __forceinline__ void ask(Place words_to, Place scales_to, u32 offset) const {
#pragma unroll
        for (u32 nth = 0; nth < LOADS; nth++) {
            const u32 at = offset + (line_of(nth, 0) - line_of(0, 0)) * LINE;
            // Those with scales have whole steps.
            copy_once<WORDS * 4>(words_to + nth * LOADED, lines + at, LEAD != 0 || at < left);
        }
        if constexpr (LEAD != 0) {
            copy_once<SCALE_WORDS * 4>(scales_to, scales + offset, true);
            if (WEIGHTS == Q4) copy_once<SCALE_WORDS * 4>(scales_to + SCALED, scales + offset + 64, true);
        }
    }

    __device__ __forceinline__ void go_on(u32 offset) {
        lines += offset;
        scales += offset;
        left = left > offset ? left - offset : 0;
    }
};

// What a thread has of a step.
struct Step {
    u32 words[LOADS][WORDS];
    u32 scales[LEAD ? SCALE_WORDS : 1];
    u32 minimums[LEAD ? SCALE_WORDS : 1];

    // What was asked for and has come.
    __device__ __forceinline__ void take(Place words_at, Place scales_at) {
#pragma unroll
        for (u32 nth = 0; nth < LOADS; nth++) read_words(words[nth], words_at + nth * LOADED);
        if constexpr (LEAD != 0) {
            read_words(scales, scales_at);
            if (WEIGHTS == Q4) read_words(minimums, scales_at + SCALED);
        }
    }
};

// The number of one of a thread's outputs among those that it has scales for.
__device__ __forceinline__ float scale_of(const u32 (&scales)[LEAD ? SCALE_WORDS : 1], u32 output, u32 group) {
    const bool high = WORDS == 1 ? group % 2 == 1 : output % 2 == 1;
    return high ? f16_high(scales[output / 2]) : f16_low(scales[output / 2]);
}

struct Matvec {
    // Columns of tiles: all first parts of the rows' inputs, then all second ones.
    static constexpr u32 PARTS = HEIGHT <= 8 ? 3 : 1;
    static constexpr u32 SPLIT = HEIGHT * PARTS;
    static constexpr u32 TILE_COLUMNS = (SPLIT + 7) / 8;
    static constexpr u32 TILE_OUTPUTS = (WORDS + 1) / 2;
    // Steps that a warp asks for ahead, and of how many the loop is unrolled.
    static constexpr u32 SLOT = HALVES * STEP_COPY;
    static constexpr u32 DEPTH = RING / SLOT;
    static constexpr u32 QUAD_BYTES = TILES ? SPLIT * 8 : HEIGHT * 16;
    static constexpr u32 MOST_TURNS = ROOM / (QUAD_BYTES * QUADS) / WARPS;
    static constexpr u32 UNROLL = MOST_TURNS >= 4 && DEPTH % 4 == 0   ? 4
                                  : MOST_TURNS >= 3 && DEPTH % 3 == 0 ? 3
                                  : MOST_TURNS >= 2 && DEPTH % 2 == 0 ? 2
                                                                      : 1;
    // More rows take the registers that this would take.
    static constexpr bool OVERLAP = HEIGHT <= 2;
    // Steps of inputs that are staged at a time, a whole number of turns of all warps.
    static constexpr u32 TURNS = MOST_TURNS / UNROLL * UNROLL;
    static constexpr u32 STAGED = TURNS * WARPS;
    // Of a step of inputs, and of a column of tiles among them.
    static constexpr u32 INPUT_BYTES = TILES ? QUAD_BYTES * QUADS : BLOCK * 4;
    static constexpr u32 COLUMN_BYTES = 64;
    static_assert(DEPTH > 0, "no room for a step in the ring");
    static_assert(TURNS > 0, "no room for a step of each warp");
    // Rows that a thread puts in place in turn, and quads that it reads at once: one of each of them, or one where that takes four
    // loads. (Norms come with up to eight rows, of which a thread has one; this holds for more.)
    static constexpr u32 TURN_ROWS = QUADS * HEIGHT > THREADS ? QUADS * HEIGHT / THREADS : 1;
    template <bool WHOLE> static constexpr u32 BATCH = TURN_ROWS > 1 ? TURN_ROWS : !WHOLE ? 1 : HEIGHT <= 2 ? 3 : 2;
    // Rows that are added up over the warps at a time.
    static constexpr u32 GATHERED = HEIGHT < 16 ? HEIGHT : 16;
    static constexpr u32 RESULTS = (GATHERED * COLUMNS + THREADS - 1) / THREADS;
    static_assert(GATHERED * COLUMNS * 4 <= RING, "no room for sums");
    // Rows of which a warp has squares at a time.
    static constexpr u32 WARP_ROWS = HEIGHT < 4 ? HEIGHT : 4;
    static constexpr u32 SQUARES = TURN_ROWS * WARPS * WARP_ROWS;
    // The host counts on it that there is no more shared memory than this beside rings and inputs.
    static constexpr u32 OTHERS = (WEIGHTS == Q4 ? STAGED * HEIGHT : 1) + 2 * HEIGHT + SQUARES + WARPS;
    static_assert(OTHERS * 4 <= 5 << 10, "more shared memory than the host knows of");

    const LinearParams &p;
    uint2 *staged;   // inputs: pairs, or f32 by rows
    float *sums;     // q4: inputs of a step and row added up
    float *means;
    float *factors;
    float *squares;  // of rows, by turn and warp
    char *ring;      // of this thread's warp
    u32 first_row;
    float square[TURN_ROWS]; // of what this thread put in place
#if TILES
    float total[HALVES][TILE_OUTPUTS][TILE_COLUMNS][4];
#else
    float total[HALVES][HEIGHT][OUTPUTS];
#endif

    static __device__ __forceinline__ u32 last_column(u32 group) {
        return min((TILE_COLUMNS - 1) * 8 + group, SPLIT - 1) - (TILE_COLUMNS - 1) * 8;
    }
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

    // Means and factors of a layer norm: some warps for each row.
    template <bool WHOLE> __device__ __forceinline__ void measure(float *room) {
        constexpr u32 AT_ONCE = HEIGHT < WARPS ? HEIGHT : WARPS;
        constexpr u32 TEAM = WARPS / AT_ONCE, LANES = TEAM * WARP;
        const u32 warp = threadIdx.x / WARP, member = threadIdx.x % LANES;
        const float share = 1.0f / (float)p.inputs;
        for (u32 first = 0; first < HEIGHT; first += AT_ONCE) {
            const u32 row = first + warp / TEAM;
            const float *from = row_of(row);
            const float mean = team_sum<TEAM>(gathered<WHOLE, LANES>(from, member, 0.0f, false), room) * share;
            const float sum = team_sum<TEAM>(gathered<WHOLE, LANES>(from, member, mean, true), room);
            if (member == 0) {
                means[row] = mean;
                factors[row] = 1.0f / sqrtf(sum * share + p.eps);
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

    // An rms norm divides all of a row by the same number: the sums can be divided as well, and nothing has to wait until all
    // squares of the row are known. This keeps those of what the thread puts in place.
    template <bool WHOLE>
    __device__ __forceinline__ void square_up(const float4 (&values)[BATCH<WHOLE>], u32 begin, u32 count) {
#pragma unroll
        for (u32 i = 0; i < BATCH<WHOLE>; i++) {
            const float4 &v = values[i];
            const bool mine = begin + i * THREADS + threadIdx.x < count;
            if (mine) square[i % TURN_ROWS] += (v.x * v.x + v.y * v.y) + (v.z * v.z + v.w * v.w);
        }
    }

    // The squares of this warp's rows.
    __device__ __forceinline__ void share_squares() {
        const u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
#pragma unroll
        for (u32 turn = 0; turn < TURN_ROWS; turn++) {
            float sum = square[turn];
#pragma unroll
            for (u32 other = 1; other < WARP; other *= 2) {
                // Lanes of the same row: its quads, and those of the rows that come again.
                if (other < QUADS || other >= QUADS * WARP_ROWS) sum += __shfl_xor_sync(0xffffffffu, sum, other);
            }
            if (lane % QUADS == 0 && lane / QUADS < WARP_ROWS) squares[(turn * WARPS + warp) * WARP_ROWS + lane / QUADS] = sum;
        }
    }

    // What the sums of a row are multiplied with, once all squares are known.
    __device__ __forceinline__ float rms_factor(u32 row) const {
        float sum = 0.0f;
#pragma unroll
        for (u32 i = 0; i < SQUARES / HEIGHT; i++) sum += squares[i * HEIGHT + row];
        return rsqrtf(sum * (1.0f / (float)p.inputs) + p.eps);
    }

    // The norm of quads that were read with their gammas and gains. What is added comes later: not many norms have it.
    template <bool WHOLE>
    __device__ __forceinline__ void norm(float4 (&values)[BATCH<WHOLE>], const float4 (&gammas)[BATCH<WHOLE>],
                                         const float4 (&gains)[BATCH<WHOLE>], u32 first, u32 begin) const {
#pragma unroll
        for (u32 i = 0; i < BATCH<WHOLE>; i++) {
            const u32 item = begin + i * THREADS + threadIdx.x;
            const float4 &gamma = gammas[i];
            float4 &v = values[i];
            if (p.norm == 1) {
                const float mean = means[row_number(item)], factor = factors[row_number(item)];
                v.x = (v.x - mean) * factor, v.y = (v.y - mean) * factor;
                v.z = (v.z - mean) * factor, v.w = (v.w - mean) * factor;
            }
            v.x *= gamma.x, v.y *= gamma.y, v.z *= gamma.z, v.w *= gamma.w;
            // Beyond the end of the row there is nothing, whatever the norm is.
            if (4 * quad_of(first, item) >= p.inputs) v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
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
                const float4 &gain = gains[i];
                float4 &v = values[i];
                v.x *= gain.x, v.y *= gain.y, v.z *= gain.z, v.w *= gain.w;
            }
        }
    }

    // Puts the inputs of the steps from `first` on in place, zeros beyond a row's end.
    template <bool WHOLE> __device__ __forceinline__ void stage(u32 first, u32 steps) {
        const u32 count = min(STAGED, steps - first) * QUADS * HEIGHT;
        for (u32 begin = 0; begin < count; begin += BATCH<WHOLE> * THREADS) {
            float4 values[BATCH<WHOLE>], gammas[BATCH<WHOLE>], gains[BATCH<WHOLE>];
#pragma unroll
            for (u32 i = 0; i < BATCH<WHOLE>; i++) {
                const u32 item = begin + i * THREADS + threadIdx.x;
                // Quads beyond the last step are beyond the row's end as well.
                values[i] = row_quad<WHOLE>(row_of(row_number(item)), quad_of(first, item), p.inputs);
            }
            if (p.norm != 0) {
                // Everything at once, before any of it is looked at.
#pragma unroll
                for (u32 i = 0; i < BATCH<WHOLE>; i++)
                    gammas[i] = row_quad<WHOLE>(p.gamma, quad_of(first, begin + i * THREADS + threadIdx.x), p.inputs);
                if (p.gain) {
#pragma unroll
                    for (u32 i = 0; i < BATCH<WHOLE>; i++) {
                        const u32 item = begin + i * THREADS + threadIdx.x, row = clamped(row_number(item));
                        const float *from = p.gain + (u64)(p.gain_each == 1 ? row : row / p.gain_each) * p.gain_stride;
                        gains[i] = row_quad<WHOLE>(from, quad_of(first, item), p.inputs);
                    }
                }
                if (p.norm == 2) square_up<WHOLE>(values, begin, count);
                norm<WHOLE>(values, gammas, gains, first, begin);
            }
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

    // `inputs`: those of the step; `own`: which of them are the thread's; `added_up`: of q4, the sums of the step's inputs.
    __device__ __forceinline__ void multiply(const Step (&weights)[HALVES], Place inputs, const u32 (&own)[2], Place added_up,
                                             u32 group, u32 t) {
        u32 b[TILE_COLUMNS][4];
        float added[TILE_COLUMNS][2]; // q4: the inputs of the thread's columns
#pragma unroll
        for (u32 n = 0; n < TILE_COLUMNS; n++) {
            read_words(b[n], inputs + own[n + 1 == TILE_COLUMNS] + n * 8 * COLUMN_BYTES);
            if constexpr (WEIGHTS == Q4) {
#pragma unroll
                for (u32 i = 0; i < 2; i++) {
                    const u32 column = n * 8 + t * 2 + i;
                    u32 word[1] = {0};
                    if (n * 8 + i < HEIGHT && column < HEIGHT) read_words(word, added_up + column * 4);
                    added[n][i] = __uint_as_float(word[0]);
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
                        // What all inputs are multiplied with: numbers are 16 too large.
                        least[i] = WEIGHTS == Q4 ? scale_of(weights[half].minimums, output, group) - 16.0f * factor[i] : 0.0f;
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
                        float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
                        mma_bf16(sum, lower, first);
                        mma_bf16(sum, upper, second);
#pragma unroll
                        for (u32 i = 0; i < 4; i++) {
                            to[i] += sum[i] * factor[i / 2];
                            if (WEIGHTS == Q4 && n * 8 + i % 2 < HEIGHT) to[i] += added[n][i % 2] * least[i / 2];
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

    __device__ __forceinline__ float input_at(Place inputs, u32 row, u32 input) const {
        u32 word[1];
        read_words(word, inputs + (row * STAGED * BLOCK + input) * 4);
        return __uint_as_float(word[0]);
    }

    __device__ __forceinline__ void multiply(const Step (&weights)[HALVES], Place inputs, const u32 (&)[2], Place, u32 group,
                                             u32 t) {
        constexpr u32 INPUTS = BLOCK / LINES; // of a line
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
                        const float x = input_at(inputs, row, line * 2 + group / 4);
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
                            total[half][row][i] += w[k] * input_at(inputs, row, line * INPUTS + k);
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

    // Lets weights that calls to come will read come nearer, when this one has asked for all of its own.
    __device__ __forceinline__ void bring_next() const {
        const u32 warps = gridDim.x * WARPS, me = blockIdx.x * WARPS + threadIdx.x / WARP;
#pragma unroll
        for (u32 i = 0; i < sizeof(p.ahead) / sizeof(Ahead); i++) {
            const Ahead &ahead = p.ahead[i];
            for (u32 panel = me; panel < ahead.panels; panel += warps)
                bring_nearer(ahead.at + panel * ahead.panel_bytes, ahead.bytes);
        }
    }

    __device__ __forceinline__ void run(float *room) {
        const u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, group = lane / 4, t = lane % 4;
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
        const Place words_at = place_of(ring + lane * WORDS * 4);
        const Place scales_at = place_of(ring + LOADS * LOADED + lane * SCALE_WORDS * 4);
        Share share[HALVES];
#pragma unroll
        for (u32 half = 0; half < HALVES; half++) share[half].begin(weights[half], panel_bytes, warp, first, lane);
        u32 asked = warp;
        // The step that is so many turns behind the one that is to be asked for.
        const auto ask_for = [&](u32 slot, u32 turn) {
#pragma unroll
            for (u32 half = 0; half < HALVES; half++) {
                const u32 at = slot + half * STEP_COPY;
                share[half].ask(words_at + at, scales_at + at, turn * WARPS * STEP_BYTES);
            }
        };
        const auto ask = [&](u32 slot, u32 turn) {
            if (asked + turn * WARPS < steps) ask_for(slot, turn);
            copy_commit();
        };
        const auto go_on = [&]() {
            asked += UNROLL * WARPS;
#pragma unroll
            for (u32 half = 0; half < HALVES; half++) share[half].go_on(UNROLL * WARPS * STEP_BYTES);
        };
#pragma unroll 1
        for (u32 slot = 0; slot < DEPTH * SLOT; slot += UNROLL * SLOT) {
#pragma unroll
            for (u32 d = 0; d < UNROLL; d++) ask(slot + d * SLOT, d);
            go_on();
        }
        float *flat = &total[0][0][0]
#if TILES
                          [0]
#endif
            ;
#pragma unroll
        for (u32 i = 0; i < sizeof(total) / 4; i++) flat[i] = 0.0f;
#pragma unroll
        for (u32 i = 0; i < TURN_ROWS; i++) square[i] = 0.0f;
        // What does not change from run to run comes now as well: nobody shall wait for it later.
        const u32 output = first_output + threadIdx.x % COLUMNS;
        float factor[HALVES];
#pragma unroll
        for (u32 half = 0; half < HALVES; half++) factor[half] = WEIGHTS == INT8 ? p.scales[half * p.outputs + output] : 1.0f;
        const float bias = p.bias && output < p.outputs ? p.bias[output] : 0.0f;
        if (p.gamma && blockIdx.x == 0 && warp == 0) bring_nearer((const char *)p.gamma, p.inputs / 4 * 16);
        const bool whole = all_whole();
        bool ends = asked >= steps; // whether all has been asked for
        if (ends) bring_next();
        wait_for_previous();
        if (p.norm == 1) {
            if (whole) measure<true>(room);
            else measure<false>(room);
        }

        // Columns beyond the last are not looked at: they may be anything.
        const u32 own[2] = {group * COLUMN_BYTES + t * 16, last_column(group) * COLUMN_BYTES + t * 16};
        const Place inputs = place_of((const char *)staged + warp * INPUT_BYTES), added_up = place_of(sums + warp * HEIGHT);
        u32 slot = 0, turn = 0;
        for (u32 step = warp; step - warp < steps; step += UNROLL * WARPS) {
            if (turn == 0) {
                if (step != warp || p.norm == 1) __syncthreads();
                if (whole) stage<true>(step - warp, steps);
                else stage<false>(step - warp, steps);
                __syncthreads();
            }
            const Place words_slot = words_at + slot, scales_slot = scales_at + slot;
            const Place inputs_at = inputs + turn * WARPS * INPUT_BYTES, added_at = added_up + turn * WARPS * HEIGHT * 4;
            // The sums of a step that has come.
            const auto sum_up = [&](u32 d) {
                Step now[HALVES];
#pragma unroll
                for (u32 half = 0; half < HALVES; half++) {
                    const u32 at = d * SLOT + half * STEP_COPY;
                    now[half].take(words_slot + at, scales_slot + at);
                }
                multiply(now, inputs_at + d * WARPS * INPUT_BYTES, own, added_at + d * WARPS * HEIGHT * 4, group, t);
            };
            // Where every step is there and every one is followed by another, or none, steps need not be told apart: they overlap.
            if (OVERLAP && asked + (UNROLL - 1) * WARPS < steps) {
#pragma unroll
                for (u32 d = 0; d < UNROLL; d++) {
                    copy_wait<DEPTH - 1>();
                    sum_up(d);
                    ask_for(slot + d * SLOT, d);
                    copy_commit();
                }
            } else if (OVERLAP && asked >= steps && step + (UNROLL - 1) * WARPS < steps) {
#pragma unroll
                for (u32 d = 0; d < UNROLL; d++) {
                    copy_wait<DEPTH - 1>();
                    sum_up(d);
                    copy_commit();
                }
            } else {
#pragma unroll
                for (u32 d = 0; d < UNROLL; d++) {
                    copy_wait<DEPTH - 1>();
                    if (step + d * WARPS < steps) sum_up(d);
                    ask(slot + d * SLOT, d);
                }
            }
            go_on();
            slot = slot + UNROLL * SLOT == DEPTH * SLOT ? 0 : slot + UNROLL * SLOT;
            turn = turn + UNROLL == TURNS ? 0 : turn + UNROLL;
            if (!ends && asked >= steps) {
                ends = true;
                bring_next();
            }
        }
        copy_wait<0>();

        // All warps' sums of an output, in order.
        float *const mine = (float *)ring, *const all = (float *)(ring - warp * RING);
        if (p.norm == 2) share_squares();
#pragma unroll
        for (u32 from = 0; from < HEIGHT; from += GATHERED) {
            float results[HALVES][RESULTS], residual[RESULTS];
            // A thread has the same output of all its rows.
            const auto row_of_result = [&](u32 i) { return from + (i * THREADS + threadIdx.x) / COLUMNS; };
            const auto is_result = [&](u32 i) {
                return row_of_result(i) < from + GATHERED && first_row + row_of_result(i) < p.rows && output < p.outputs;
            };
#pragma unroll
            for (u32 i = 0; i < RESULTS; i++) {
                residual[i] = 0.0f;
                if (p.residual && is_result(i))
                    residual[i] = p.residual[(u64)(first_row + row_of_result(i)) * p.residual_stride + output];
            }
#pragma unroll
            for (u32 half = 0; half < HALVES; half++) {
                __syncthreads();
                spread(mine, half, from, group, t);
                if (p.norm == 2 && from + half == 0 && threadIdx.x < HEIGHT) factors[threadIdx.x] = rms_factor(threadIdx.x);
                __syncthreads();
#pragma unroll
                for (u32 i = 0; i < RESULTS; i++) {
                    const u32 item = i * THREADS + threadIdx.x;
                    float sum = 0.0f;
                    if (item < GATHERED * COLUMNS) {
#pragma unroll
                        for (u32 other = 0; other < WARPS; other++) sum += all[other * (RING / 4) + item];
                        if (p.norm == 2) sum *= factors[row_of_result(i)];
                    }
                    results[half][i] = sum * factor[half];
                }
            }
#pragma unroll
            for (u32 i = 0; i < RESULTS; i++) {
                if (!is_result(i)) continue;
                float sum = results[0][i];
                if (GATED) sum = sum * sigmoid(sum) * results[HALVES - 1][i];
                sum = activate(sum + bias, p.activation) * p.scale + residual[i];
                p.out[(u64)(first_row + row_of_result(i)) * p.out_stride + output] = sum;
            }
        }
    }
};

// A multiprocessor holds 16 warps, whose rings are what it takes to keep memory busy. Half as many for sums of many rows, which
// take registers.
RESIDENT_KERNEL(THREADS, (HEIGHT <= (TILES ? 16 : 4) ? 16 : 8) / WARPS, matvec, LinearParams) {
    __shared__ float sums[WEIGHTS == Q4 ? Matvec::STAGED * HEIGHT : 1];
    __shared__ float means[HEIGHT];
    __shared__ float factors[HEIGHT];
    __shared__ float squares[Matvec::SQUARES];
    __shared__ float room[WARPS];
    // Rings, then inputs.
    DYNAMIC_SHARED(uint4, rings);
    uint4 *const staged = rings + WARPS * RING / 16;
    const u32 parts = (p.outputs + COLUMNS - 1) / COLUMNS;
    char *const ring = (char *)rings + threadIdx.x / WARP * RING;
    Matvec work{p, (uint2 *)staged, sums, means, factors, squares, ring, blockIdx.x / parts * HEIGHT};
    work.run(room);
}
