// Many rows times many outputs: a block makes a tile of TILE_ROWS by TILE_ROWS (64 or 128) of the result. Inputs come in steps
// of 32: weights as they are, by copies in the background two steps ahead, x through registers one step ahead, rounded to
// bf16 or tf32. With splits, each block of a tile has a part of the inputs, and the last to finish adds the parts up.

constexpr u32 TILE = TILE_ROWS;
constexpr u32 THREADS = 2 * TILE;
constexpr u32 PANELS = TILE / PANEL;

// Where a quad of inputs of one row comes from.
template <bool WINDOWS> struct Inputs {
    const LinearParams &p;
    bool whole;
    u32 position, channel; // of a window's quad

    __device__ __forceinline__ Inputs(const LinearParams &p) : p(p), position(0), channel(0) {
        whole = whole_quads(p.x, p.x_stride) && (WINDOWS ? p.channels : p.inputs) % 4 == 0;
    }

    // The quad that follows calls are for.
    __device__ __forceinline__ void seek(u32 quad) {
        if (WINDOWS) {
            position = 4 * quad / p.channels;
            channel = 4 * quad % p.channels;
        }
    }

    // What `quad_of` wants to know of a row: the first row of its sequence, and where its window begins.
    __device__ __forceinline__ uint2 place(u32 row) const {
        if (!WINDOWS) return make_uint2(row, 0);
        return make_uint2(row / p.rows_out * p.rows_in, row % p.rows_out * p.step);
    }

    // Wraps around, to beyond the last row, in the padding before.
    __device__ __forceinline__ const float *row_at(uint2 place, u32 nth) const {
        const u32 row = place.y + nth * p.dilation - p.padding;
        return row < p.rows_in ? p.x + (u64)(place.x + row) * p.x_stride : nullptr;
    }

    template <bool WHOLE> __device__ __forceinline__ float4 quad_of(uint2 place, u32 quad) const {
        if (!WINDOWS) return row_quad<WHOLE>(p.x + (u64)place.x * p.x_stride, quad, p.inputs);
        float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (4 * quad >= p.inputs) return v;
        if (WHOLE) {
            const float *row = row_at(place, position);
            return row ? *(const float4 *)(row + channel) : v;
        }
        float each[4];
        u32 nth = position, at = channel;
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            const float *row = 4 * quad + i < p.inputs ? row_at(place, nth) : nullptr;
            each[i] = row ? row[at] : 0.0f;
            if (++at == p.channels) at = 0, nth++;
        }
        return make_float4(each[0], each[1], each[2], each[3]);
    }
};

// The first step of this block's part, and the one after its last.
__device__ __forceinline__ uint2 part_of(const LinearParams &p, u32 step_inputs) {
    const u32 steps = (p.inputs + step_inputs - 1) / step_inputs;
    const u32 each = (steps + p.splits - 1) / p.splits;
    const u32 first = min(steps, blockIdx.y * each);
    return make_uint2(first, min(steps, first + each));
}

// Leaves this block's sums where the others of the tile find them; the last block has the sums of all and is told so.
template <u32 COUNT> __device__ __forceinline__ bool joined(const LinearParams &p, float (&sums)[COUNT]) {
    if (p.splits == 1) return true;
    __shared__ u32 arrived;
    float4 *parts = (float4 *)p.partial + (u64)blockIdx.x * p.splits * (TILE * TILE / 4) + threadIdx.x;
    float4 *own = parts + blockIdx.y * (TILE * TILE / 4);
#pragma unroll
    for (u32 i = 0; i < COUNT / 4; i++)
        own[i * THREADS] = make_float4(sums[4 * i], sums[4 * i + 1], sums[4 * i + 2], sums[4 * i + 3]);
    __syncthreads();
    if (threadIdx.x == 0) arrived = count_up(p.counters + blockIdx.x, p.splits - 1);
    __syncthreads();
    if (arrived != p.splits - 1) return false;
#pragma unroll
    for (u32 i = 0; i < COUNT; i++) sums[i] = 0.0f;
    for (u32 part = 0; part < p.splits; part++) {
#pragma unroll
        for (u32 i = 0; i < COUNT / 4; i++) {
            const float4 v = __ldcg(parts + part * (TILE * TILE / 4) + i * THREADS);
            sums[4 * i] += v.x, sums[4 * i + 1] += v.y, sums[4 * i + 2] += v.z, sums[4 * i + 3] += v.w;
        }
    }
    return true;
}

// A sum of products to the result.
__device__ __forceinline__ float finished(const LinearParams &p, u32 row, u32 output, float sum) {
    if (p.bias) sum += p.bias[output];
    sum = activate(sum, p.activation) * p.scale;
    if (p.residual) sum += p.residual[(u64)row * p.residual_stride + output];
    return sum;
}

// Four neighbouring outputs of a row.
__device__ __forceinline__ void write_quad(const LinearParams &p, u32 row, u32 output, float4 v, bool whole) {
    if (row >= p.rows) return;
    float *to = p.out + (u64)row * p.out_stride + output;
    const float sums[4] = {v.x, v.y, v.z, v.w};
    float results[4];
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        const float factor = WEIGHTS == INT8 && output + i < p.outputs ? p.scales[output + i] : 1.0f;
        if (output + i < p.outputs) results[i] = finished(p, row, output + i, sums[i] * factor);
    }
    if (whole && output + 4 <= p.outputs) {
        *(float4 *)to = make_float4(results[0], results[1], results[2], results[3]);
    } else {
#pragma unroll
        for (u32 i = 0; i < 4; i++)
            if (output + i < p.outputs) to[i] = results[i];
    }
}

#if TILES || (WEIGHTS == F16 && __CUDA_ARCH__ >= 800)
// Products of tiles. Each warp has a panel of outputs and half of the rows: tiles of 16 outputs by 8 rows.
constexpr u32 ROWS_OF_WARP = TILE / 2;
constexpr u32 TILE_COLUMNS = ROWS_OF_WARP / 8;
constexpr u32 UNITS = STEP_BYTES / 16;                  // of 16 bytes in a step of a panel
constexpr u32 ADDED = WEIGHTS == Q4 ? TILE : 2;
constexpr u32 STAGES = 3;                               // steps of weights
constexpr u32 COPIES = (PANELS * UNITS + THREADS - 1) / THREADS;
constexpr u32 FETCHES = TILE * QUADS / THREADS;         // quads of x for each thread
constexpr u32 ROW_BYTES = WEIGHTS == F16 ? 128 : 64;    // of a step of x
constexpr u32 ROW_UNITS = ROW_BYTES / 16;
constexpr u32 BUFFERS = WEIGHTS == F16 && TILE == 128 ? 1 : 2; // of steps of x, as there is room

// Whether a thread's four outputs of a panel are eight apart, and not neighbours: of bf16, units of neighbours come two words at a
// time where the products take them one at a time, and moving each costs as much as a product.
constexpr bool APART = WEIGHTS == BF16;
constexpr u32 OUTPUTS = 4;

// Units of a line change places, so that threads which read different lines find them in different banks.
__device__ __forceinline__ u32 mixed(u32 line, u32 unit) {
    return unit ^ 2 * ((WEIGHTS == Q4 || WEIGHTS == F16 ? line : line / 2) % 4);
}

template <bool WINDOWS> struct Tile {
    const LinearParams &p;
    Inputs<WINDOWS> inputs;
    uint4 (&weights)[STAGES][PANELS * UNITS];
    uint4 (&rows)[BUFFERS][TILE * ROW_UNITS];
    float (&added)[2][ADDED]; // q4: the inputs of a row added up
    u32 first_row, first_panel;
    uint2 (&places)[WINDOWS ? TILE : 1]; // of the rows of windows
    float4 fetched[FETCHES];
    float sums[TILE_COLUMNS * 8]; // of tile i and columns n: eight at 8 n, four for each i

    __device__ __forceinline__ void copy_weights(u32 step, u32 stage) {
        const u32 panels = (p.outputs + PANEL - 1) / PANEL;
#pragma unroll
        for (u32 i = 0; i < COPIES; i++) {
            const u32 item = i * THREADS + threadIdx.x;
            if (PANELS * UNITS % THREADS != 0 && item >= PANELS * UNITS) break;
            const u32 panel = first_panel + item / UNITS, unit = item % UNITS;
            const u32 at = step * STEP_BYTES + unit * 16;
            const bool wanted = panel < panels && at < (u32)p.panel_bytes;
            const char *from = (const char *)p.weights + (wanted ? panel * p.panel_bytes + at : 0);
            u32 to = unit;
            if (unit >= LEAD / 16) {
                const u32 line = (unit - LEAD / 16) / 8, place = (unit - LEAD / 16) % 8;
                to = LEAD / 16 + line * 8 + mixed(line, place);
            }
            copy_async(&weights[stage][item / UNITS * UNITS + to], from, wanted);
        }
    }

    template <bool WHOLE> __device__ __forceinline__ void fetch_quads(u32 quad) {
#pragma unroll
        for (u32 i = 0; i < FETCHES; i++) {
            const u32 row = first_row + i * (THREADS / QUADS) + threadIdx.x / QUADS;
            fetched[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            const uint2 place = WINDOWS ? places[row - first_row] : make_uint2(row, 0);
            if (row < p.rows) fetched[i] = inputs.template quad_of<WHOLE>(place, quad);
        }
    }

    __device__ __forceinline__ void fetch(u32 step) {
        const u32 quad = step * QUADS + threadIdx.x % QUADS;
        inputs.seek(quad);
        if (inputs.whole) fetch_quads<true>(quad);
        else fetch_quads<false>(quad);
    }

    __device__ __forceinline__ void put(u32 buffer) {
        const u32 quad = threadIdx.x % QUADS;
#pragma unroll
        for (u32 i = 0; i < FETCHES; i++) {
            const u32 row = i * (THREADS / QUADS) + threadIdx.x / QUADS;
            const float4 v = fetched[i];
#if WEIGHTS == F16
            // Units of neighbouring rows change places likewise.
            rows[buffer][row * ROW_UNITS + (quad ^ 2 * (row % 4))] =
                make_uint4(to_tf32(v.x), to_tf32(v.y), to_tf32(v.z), to_tf32(v.w));
#else
            const uint2 pairs = rounded_pairs(v);
            ((uint2 *)rows[buffer])[row * 8 + quad_thread(quad) * 2 + quad_half(quad)] = pairs;
            if (WEIGHTS == Q4) {
                float sum = (bf16_low(pairs.x) + bf16_high(pairs.x)) + (bf16_low(pairs.y) + bf16_high(pairs.y));
#pragma unroll
                for (u32 other = 1; other < QUADS; other *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, other);
                if (quad == 0) added[buffer][row] = sum;
            }
#endif
        }
    }

#if WEIGHTS == F16
    __device__ __forceinline__ void multiply(u32 stage, u32 buffer, u32 panel, u32 half, u32 group, u32 t) {
        const uint2 *lines = (const uint2 *)&weights[stage][panel * UNITS];
#pragma unroll
        for (u32 part = 0; part < 4; part++) {
            // Two lines of inputs are one of 128 bytes; a thread has four outputs of each.
            const u32 line = 4 * part + t;
            const uint2 lower = lines[(line * 8 + mixed(line, group / 2)) * 2 + group % 2];
            const uint2 upper = lines[(line * 8 + mixed(line, 4 + group / 2)) * 2 + group % 2];
            u32 a[2][4];
            const u32 low[2] = {lower.x, lower.y}, high[2] = {upper.x, upper.y};
#pragma unroll
            for (u32 m = 0; m < 2; m++) {
                a[m][0] = __float_as_uint(f16_low(low[m]));
                a[m][1] = __float_as_uint(f16_high(low[m]));
                a[m][2] = __float_as_uint(f16_low(high[m]));
                a[m][3] = __float_as_uint(f16_high(high[m]));
            }
#pragma unroll
            for (u32 n = 0; n < TILE_COLUMNS; n++) {
                const u32 row = half * ROWS_OF_WARP + n * 8 + group;
                // Inputs 2 t and 2 t + 1 of eight.
                const u32 unit = row * ROW_UNITS + ((2 * part + t / 2) ^ 2 * (row % 4));
                const uint2 pair = ((const uint2 *)rows[buffer])[unit * 2 + t % 2];
                const u32 b[2] = {pair.x, pair.y};
                float(&to)[2][4] = *(float(*)[2][4])&sums[8 * n];
                mma_tf32(to[0], a[0], b);
                mma_tf32(to[1], a[1], b);
            }
        }
    }
#else
    __device__ __forceinline__ void multiply(u32 stage, u32 buffer, u32 panel, u32 half, u32 group, u32 t) {
        const uint4 *step = &weights[stage][panel * UNITS];
        u32 words[4][LOADS];
#pragma unroll
        for (u32 nth = 0; nth < LOADS; nth++) {
            const u32 line = line_of(nth, t);
            if constexpr (APART) {
                // Each word goes where the products take it.
#pragma unroll
                for (u32 i = 0; i < 4; i++) {
                    const u32 unit = LEAD / 16 + line * 8 + mixed(line, 2 * i + group / 4);
                    words[i][nth] = ((const u32 *)step)[unit * 4 + group % 4];
                }
            } else {
                const uint4 v = step[LEAD / 16 + line * 8 + mixed(line, group)];
                words[0][nth] = v.x, words[1][nth] = v.y, words[2][nth] = v.z, words[3][nth] = v.w;
            }
        }
        u32 a[2][2][4];
#pragma unroll
        for (u32 m = 0; m < 2; m++) {
            u32 even[4], odd[4];
            unpack(words[2 * m], even);
            unpack(words[2 * m + 1], odd);
#pragma unroll
            for (u32 k = 0; k < 2; k++) {
                a[m][k][0] = even[2 * k], a[m][k][1] = odd[2 * k];
                a[m][k][2] = even[2 * k + 1], a[m][k][3] = odd[2 * k + 1];
            }
        }
        float factors[4], minimums[4];
        if constexpr (LEAD != 0) {
            const uint2 scales = ((const uint2 *)step)[group];
            factors[0] = f16_low(scales.x), factors[1] = f16_high(scales.x);
            factors[2] = f16_low(scales.y), factors[3] = f16_high(scales.y);
            if (WEIGHTS == Q4) {
                const uint2 least = ((const uint2 *)step)[8 + group];
                minimums[0] = f16_low(least.x), minimums[1] = f16_high(least.x);
                minimums[2] = f16_low(least.y), minimums[3] = f16_high(least.y);
#pragma unroll
                for (u32 i = 0; i < 4; i++) minimums[i] -= 16.0f * factors[i];
            }
        }
#pragma unroll
        for (u32 n = 0; n < TILE_COLUMNS; n++) {
            const u32 row = half * ROWS_OF_WARP + n * 8;
            const uint4 v = rows[buffer][(row + group) * 4 + t];
            const u32 first[2] = {v.x, v.y}, second[2] = {v.z, v.w};
            float(&to)[2][4] = *(float(*)[2][4])&sums[8 * n];
            float2 extra;
            if (WEIGHTS == Q4) extra = *(const float2 *)&added[buffer][row + 2 * t];
#pragma unroll
            for (u32 m = 0; m < 2; m++) {
                if constexpr (LEAD == 0) {
                    mma_bf16(to[m], a[m][0], first);
                    mma_bf16(to[m], a[m][1], second);
                } else {
                    float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
                    mma_bf16(sum, a[m][0], first);
                    mma_bf16(sum, a[m][1], second);
#pragma unroll
                    for (u32 i = 0; i < 4; i++) {
                        to[m][i] += sum[i] * factors[2 * m + i / 2];
                        if (WEIGHTS == Q4) to[m][i] += (i % 2 ? extra.y : extra.x) * minimums[2 * m + i / 2];
                    }
                }
            }
        }
    }
#endif

    __device__ __forceinline__ void run() {
        const u32 warp = threadIdx.x / WARP, group = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
        const u32 panel = warp % PANELS, half = warp / PANELS;
        const uint2 part = part_of(p, BLOCK);
#pragma unroll
        for (u32 i = 0; i < TILE_COLUMNS * 8; i++) sums[i] = 0.0f;
        if (WINDOWS) {
            if (threadIdx.x < TILE) places[threadIdx.x] = inputs.place(first_row + threadIdx.x);
            __syncthreads();
        }
        let_next_begin();
        for (u32 ahead = 0; ahead < STAGES - 1; ahead++) {
            if (part.x + ahead < part.y) copy_weights(part.x + ahead, ahead);
            copy_commit();
        }
        wait_for_previous();
#pragma unroll 1
        for (u32 ahead = 0; ahead < 2 && part.x + ahead < part.y; ahead++) {
            fetch(part.x + ahead);
            if (ahead == 0) put(0);
        }
        u32 stage = 0, buffer = 0;
        for (u32 step = part.x; step < part.y; step++) {
            copy_wait<STAGES - 2>();
            __syncthreads();
            // All are done with the step before, and with its places.
            if (step + STAGES - 1 < part.y) copy_weights(step + STAGES - 1, (stage + STAGES - 1) % STAGES);
            copy_commit();
            if (BUFFERS == 2) {
                if (step + 1 < part.y) put(buffer ^ 1);
                if (step + 2 < part.y) fetch(step + 2);
                multiply(stage, buffer, panel, half, group, t);
                buffer ^= 1;
            } else {
                multiply(stage, 0, panel, half, group, t);
                __syncthreads();
                if (step + 1 < part.y) put(0);
                if (step + 2 < part.y) fetch(step + 2);
            }
            stage = (stage + 1) % STAGES;
        }
        if (!joined(p, sums)) return;
        finish((first_panel + panel) * PANEL + (APART ? group : 4 * group), first_row + half * ROWS_OF_WARP + 2 * t);
    }

    // As `finished`, of all sums: a thread has the same outputs of all its rows.
    __device__ __forceinline__ void finish(u32 first_output, u32 row) {
        const auto output = [&](u32 i) { return first_output + (APART ? 8 * i : i); };
        float bias[OUTPUTS], factors[OUTPUTS];
#pragma unroll
        for (u32 i = 0; i < OUTPUTS; i++) {
            const bool inside = output(i) < p.outputs;
            bias[i] = p.bias && inside ? p.bias[output(i)] : 0.0f;
            factors[i] = WEIGHTS == INT8 && inside ? p.scales[output(i)] : 1.0f;
        }
#pragma unroll
        for (u32 i = 0; i < TILE_COLUMNS * 8; i++) sums[i] = sums[i] * factors[i % 8 / 2] + bias[i % 8 / 2];
        switch (p.activation) {
            case 0: break;
            case 1: activate_all<1>(); break;
            case 2: activate_all<2>(); break;
            case 3: activate_all<3>(); break;
            case 4: activate_all<4>(); break;
            case 5: activate_all<5>(); break;
            default: activate_all<6>(); break;
        }
        const bool quads = !APART && whole_quads(p.out, p.out_stride) && first_output + OUTPUTS <= p.outputs &&
                           (!p.residual || whole_quads(p.residual, p.residual_stride));
        if (quads) {
            write<true>(output, row);
        } else {
            write<false>(output, row);
        }
    }

    template <u32 KIND> __device__ __forceinline__ void activate_all() {
#pragma unroll
        for (u32 i = 0; i < TILE_COLUMNS * 8; i++) sums[i] = activate(sums[i], KIND);
    }

    // What is added is asked for some rows at a time, before the first is needed.
    template <bool QUADS_AT_ONCE, class Output> __device__ __forceinline__ void write(Output output, u32 first) {
        constexpr u32 AT_ONCE = 2; // columns of tiles, each of two rows
#pragma unroll
        for (u32 n = 0; n < TILE_COLUMNS; n += AT_ONCE) {
            float added[AT_ONCE * 2][OUTPUTS];
#pragma unroll
            for (u32 k = 0; k < AT_ONCE * 2; k++) {
                const u32 row = first + (n + k / 2) * 8 + k % 2;
#pragma unroll
                for (u32 i = 0; i < OUTPUTS; i++) added[k][i] = 0.0f;
                if (!p.residual || row >= p.rows) continue;
                const float *from = p.residual + (u64)row * p.residual_stride;
                if constexpr (QUADS_AT_ONCE) {
                    *(float4 *)added[k] = *(const float4 *)(from + output(0));
                } else {
#pragma unroll
                    for (u32 i = 0; i < OUTPUTS; i++)
                        if (output(i) < p.outputs) added[k][i] = from[output(i)];
                }
            }
#pragma unroll
            for (u32 k = 0; k < AT_ONCE * 2; k++) {
                const u32 row = first + (n + k / 2) * 8 + k % 2;
                if (row >= p.rows) continue;
                float *to = p.out + (u64)row * p.out_stride;
                float results[OUTPUTS];
#pragma unroll
                for (u32 i = 0; i < OUTPUTS; i++)
                    results[i] = sums[8 * (n + k / 2) + 2 * i + k % 2] * p.scale + added[k][i];
                if constexpr (QUADS_AT_ONCE) {
                    *(float4 *)(to + output(0)) = make_float4(results[0], results[1], results[2], results[3]);
                } else {
#pragma unroll
                    for (u32 i = 0; i < OUTPUTS; i++)
                        if (output(i) < p.outputs) to[output(i)] = results[i];
                }
            }
        }
    }
};

template <bool WINDOWS> __device__ __forceinline__ void matmul(const LinearParams &p) {
    __shared__ uint4 weights[STAGES][PANELS * UNITS];
    __shared__ uint4 rows[BUFFERS][TILE * ROW_UNITS];
    __align__(8) __shared__ float added[2][ADDED];
    __shared__ uint2 places[WINDOWS ? TILE : 1];
    const u32 row_tiles = (p.rows + TILE - 1) / TILE;
    Tile<WINDOWS> tile{p, Inputs<WINDOWS>(p), weights, rows, added,
                       blockIdx.x % row_tiles * TILE, blockIdx.x / row_tiles * PANELS, places};
    tile.run();
}
#else
// Plain products in f32.
constexpr u32 DEPTH = 4;               // quads of inputs at a time
constexpr u32 HEIGHT = TILE / 16;      // rows of a thread
constexpr u32 WIDTH = 8;               // outputs of a thread: two quads
constexpr u32 ACROSS = TILE / WIDTH;   // threads across the outputs

template <bool WINDOWS> __device__ __forceinline__ void matmul(const LinearParams &p) {
    __align__(16) __shared__ float weights[DEPTH * 4][TILE];
    __align__(16) __shared__ float rows[DEPTH * 4][TILE + 4];
    constexpr u32 FETCHES = TILE * DEPTH / THREADS;
    const u32 row_tiles = (p.rows + TILE - 1) / TILE;
    const u32 first_row = blockIdx.x % row_tiles * TILE, first_output = blockIdx.x / row_tiles * TILE;
    const u32 across = threadIdx.x % ACROSS, down = threadIdx.x / ACROSS;
    Inputs<WINDOWS> inputs(p);
    follow();
    float sums[HEIGHT * WIDTH];
#pragma unroll
    for (u32 i = 0; i < HEIGHT * WIDTH; i++) sums[i] = 0.0f;
    const uint2 part = part_of(p, 4 * DEPTH);
    for (u32 step = part.x; step < part.y; step++) {
        float4 v[FETCHES], w[FETCHES];
        const u32 quad = step * DEPTH + threadIdx.x % DEPTH;
        inputs.seek(quad);
#pragma unroll
        for (u32 i = 0; i < FETCHES; i++) {
            const u32 row = first_row + i * (THREADS / DEPTH) + threadIdx.x / DEPTH;
            v[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            if (row < p.rows && inputs.whole) v[i] = inputs.template quad_of<true>(inputs.place(row), quad);
            else if (row < p.rows) v[i] = inputs.template quad_of<false>(inputs.place(row), quad);
            const u32 item = i * THREADS + threadIdx.x, output = first_output + item % TILE;
            w[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            if (output < p.outputs) {
                const char *panel = (const char *)p.weights + output / PANEL * p.panel_bytes;
                w[i] = weight_quad(panel, (u32)p.panel_bytes, step * DEPTH + item / TILE, output % PANEL, 1.0f);
            }
        }
        __syncthreads();
#pragma unroll
        for (u32 i = 0; i < FETCHES; i++) {
            const u32 row = i * (THREADS / DEPTH) + threadIdx.x / DEPTH, input = threadIdx.x % DEPTH * 4;
            rows[input][row] = v[i].x, rows[input + 1][row] = v[i].y;
            rows[input + 2][row] = v[i].z, rows[input + 3][row] = v[i].w;
            const u32 item = i * THREADS + threadIdx.x;
            weights[item / TILE * 4][item % TILE] = w[i].x, weights[item / TILE * 4 + 1][item % TILE] = w[i].y;
            weights[item / TILE * 4 + 2][item % TILE] = w[i].z, weights[item / TILE * 4 + 3][item % TILE] = w[i].w;
        }
        __syncthreads();
#pragma unroll 4
        for (u32 input = 0; input < DEPTH * 4; input++) {
            float4 b[WIDTH / 4];
#pragma unroll
            for (u32 i = 0; i < WIDTH / 4; i++) b[i] = *(const float4 *)&weights[input][(i * ACROSS + across) * 4];
#pragma unroll
            for (u32 i = 0; i < HEIGHT; i++) {
                const float a = rows[input][down * HEIGHT + i];
#pragma unroll
                for (u32 j = 0; j < WIDTH / 4; j++) {
                    float *to = &sums[i * WIDTH + 4 * j];
                    to[0] += a * b[j].x, to[1] += a * b[j].y, to[2] += a * b[j].z, to[3] += a * b[j].w;
                }
            }
        }
    }
    if (!joined(p, sums)) return;
    const bool whole = whole_quads(p.out, p.out_stride);
#pragma unroll
    for (u32 i = 0; i < HEIGHT; i++) {
#pragma unroll
        for (u32 j = 0; j < WIDTH / 4; j++) {
            const float *v = &sums[i * WIDTH + 4 * j];
            const u32 output = first_output + (j * ACROSS + across) * 4;
            write_quad(p, first_row + down * HEIGHT + i, output, make_float4(v[0], v[1], v[2], v[3]), whole);
        }
    }
}
#endif

RESIDENT_KERNEL(THREADS, 256 / TILE, matmul, LinearParams) { matmul<false>(p); }
RESIDENT_KERNEL(THREADS, 256 / TILE, matmul_windows, LinearParams) { matmul<true>(p); }
