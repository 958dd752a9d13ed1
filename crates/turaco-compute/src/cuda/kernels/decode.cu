// Attention of few queries per sequence, usually one: a block takes up to QUERIES queries (rows times query heads) of one key
// head and one part of the keys. Some lanes of a warp, a team, share the columns of a key, and every team sums up for itself
// what its keys give; blocks put their teams together, and the last block of a head to end puts the parts together. Where each
// sequence has one new position, the call also appends it to the cache.

#ifndef QUERIES
#define QUERIES 8 // a power of two up to 8
#endif

// Whether it does (`decode_append.cuh`). All queries of a key head are of one block then.
#ifndef APPENDS
#define APPENDS 0
using DecodeParams = AttentionParams;
#endif

constexpr u32 DECODE_THREADS = 128;
constexpr u32 WARPS = DECODE_THREADS / WARP;
constexpr u32 PART_KEYS = 64; // of a part at least
constexpr u32 MOST_SPLITS = 128;

constexpr u32 power_of_two(u32 x) {
    u32 power = 1;
    while (power < x) power *= 2;
    return power;
}

// How a warp shares out keys of a format.
template <u32 FORMAT, bool PLAIN = false> struct Team {
    static constexpr u32 WIDTH = NUMBERS<FORMAT>;
    static constexpr u32 VECTORS = (COLUMNS + WIDTH - 1) / WIDTH;
    static constexpr u32 LANES = VECTORS < WARP ? power_of_two(VECTORS) : WARP;
    static constexpr u32 EACH = (VECTORS + LANES - 1) / LANES; // vectors of a lane
    static constexpr u32 TEAMS = WARP / LANES;
    // That a team loads at once: the same bytes of all formats, as far as there are registers for their scores.
    static constexpr u32 KEYS = PLAIN ? 1 : (FORMAT == 0 || (FORMAT == BYTES && QUERIES <= 2) ? 8 : 4) / EACH;
    static constexpr u32 STEP = KEYS * TEAMS; // keys that a warp loads at once
};

// Numbers of 16 bits have the most teams.
constexpr u32 STATES = WARPS * Team<1>::TEAMS;
// Putting parts together takes about as long as six rounds of keys: less than that stays in one part.
constexpr u32 ALONE = 6 * WARPS * Team<1>::STEP;
constexpr u32 PART_WIDTH = COLUMNS + 4; // of a query of a part: what was summed, then the maximum and the sum of shares

// What a block leaves for each query and team.
struct Sums {
    float mixed[STATES][QUERIES][COLUMNS];
    float most[STATES][QUERIES];
    float sum[STATES][QUERIES];
};

// The queries of a block.
struct Queries {
    u32 first, count; // numbered by row, then by head
    u32 kv_head;

    __device__ __forceinline__ u32 row(const AttentionParams &p, u32 i) const {
        return APPENDS || p.rows == 1 ? 0 : quotient(first + i, p.group);
    }
    __device__ __forceinline__ u32 head(const AttentionParams &p, u32 i) const {
        return kv_head * p.group + first + i - row(p, i) * p.group;
    }
};

// 16 bytes of a key, or with PLAIN numbers of any format and place as 4 f32.
template <u32 FORMAT, bool PLAIN>
__device__ __forceinline__ Vector<FORMAT> load_vector(const char *row, u32 column, u32 width, u32 format, float scale) {
    if constexpr (PLAIN) {
        u32 words[4];
#pragma unroll
        for (u32 i = 0; i < 4; i++) words[i] = column + i < width ? __float_as_uint(number_at(row, column + i, format) * scale) : 0;
        return make_uint4(words[0], words[1], words[2], words[3]);
    } else {
        return __ldcg((const Vector<FORMAT> *)(row + column * SIZE<FORMAT>));
    }
}

// Of the keys from `begin` on; all queries see those in `common`. Queries that were made ready are in shared memory.
template <u32 FORMAT, bool PLAIN>
__device__ __forceinline__ void sum_up(const AttentionParams &p, const Keys &keys, const Queries &queries, u32 index, u32 begin,
                                       u32 end, Sight common, const float (*ready)[COLUMNS], Sums &sums) {
    using T = Team<FORMAT, PLAIN>;
    // From one lane, so that the compiler knows that a warp stays together.
    const u32 lane = threadIdx.x % WARP, warp = __shfl_sync(0xffffffffu, threadIdx.x / WARP, 0);
    const u32 team = lane / T::LANES, member = lane % T::LANES;
    float q[QUERIES][T::EACH][T::WIDTH], mixed[QUERIES][T::EACH][T::WIDTH], most[QUERIES], sum[QUERIES];
    const float scale = p.scale * LOG2_E;
    const float *from[QUERIES];
    if (APPENDS) {
#pragma unroll
        for (u32 i = 0; i < QUERIES; i++) from[i] = ready[i];
    } else if (p.rows == 1) {
        const float *first = p.q + (u64)index * p.q_stride + queries.head(p, 0) * p.head_dim;
#pragma unroll
        for (u32 i = 0; i < QUERIES; i++) from[i] = first + i * p.head_dim;
    } else {
#pragma unroll
        for (u32 i = 0; i < QUERIES; i++) {
            from[i] = p.q + (u64)(index * p.rows + queries.row(p, i)) * p.q_stride + queries.head(p, i) * p.head_dim;
        }
    }
    const bool aligned = APPENDS || ((u64)p.q % 16 == 0 && p.q_stride % 4 == 0 && p.head_dim % 4 == 0);
#pragma unroll
    for (u32 i = 0; i < QUERIES; i++) {
        most[i] = LOWEST;
        sum[i] = 0.0f;
#pragma unroll
        for (u32 c = 0; c < T::EACH; c++) {
#pragma unroll
            for (u32 j = 0; j < T::WIDTH; j++) q[i][c][j] = mixed[i][c][j] = 0.0f;
        }
    }
    if (aligned) {
#pragma unroll
        for (u32 i = 0; i < QUERIES; i++) {
#pragma unroll
            for (u32 c = 0; c < T::EACH; c++) {
#pragma unroll
                for (u32 j = 0; j < T::WIDTH; j += 4) {
                    const u32 column = (member + c * T::LANES) * T::WIDTH + j;
                    float4 four = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
                    if (i < queries.count && column < p.head_dim) four = *(const float4 *)(from[i] + column);
                    q[i][c][j] = four.x * scale;
                    q[i][c][j + 1] = four.y * scale;
                    q[i][c][j + 2] = four.z * scale;
                    q[i][c][j + 3] = four.w * scale;
                }
            }
        }
    } else {
#pragma unroll
        for (u32 i = 0; i < QUERIES; i++) {
#pragma unroll
            for (u32 c = 0; c < T::EACH; c++) {
#pragma unroll
                for (u32 j = 0; j < T::WIDTH; j++) {
                    const u32 column = (member + c * T::LANES) * T::WIDTH + j;
                    if (i < queries.count && column < p.head_dim) q[i][c][j] = from[i][column] * scale;
                }
            }
        }
    }
    for (u32 base = begin + warp * T::STEP; base < end; base += WARPS * T::STEP) {
        Vector<FORMAT> k[T::KEYS][T::EACH], v[T::KEYS][T::EACH];
        float k_scale[T::KEYS], v_scale[T::KEYS]; // of bytes
#pragma unroll
        for (u32 n = 0; n < T::KEYS; n++) {
            const u32 position = base + n * T::TEAMS + team;
            const u64 place = keys.place(position);
            const char *key = keys.keys + place * keys.key_bytes, *value = keys.values + place * keys.value_bytes;
            k_scale[n] = v_scale[n] = 1.0f;
            if ((FORMAT == BYTES || PLAIN) && position < end) k_scale[n] = keys.scale_of(key), v_scale[n] = keys.scale_of(value);
#pragma unroll
            for (u32 c = 0; c < T::EACH; c++) {
                const u32 column = (member + c * T::LANES) * T::WIDTH;
                k[n][c] = v[n][c] = nothing(k[n][c]);
                if (position < end && column < p.head_dim) {
                    k[n][c] = load_vector<FORMAT, PLAIN>(key, column, p.head_dim, keys.format, k_scale[n]);
                    v[n][c] = load_vector<FORMAT, PLAIN>(value, column, p.head_dim, keys.format, v_scale[n]);
                }
            }
        }
        float score[T::KEYS][QUERIES];
#pragma unroll
        for (u32 n = 0; n < T::KEYS; n++) {
#pragma unroll
            for (u32 i = 0; i < QUERIES; i++) score[n][i] = 0.0f;
#pragma unroll
            for (u32 c = 0; c < T::EACH; c++) {
                float x[T::WIDTH];
                unpack<FORMAT>(k[n][c], x);
#pragma unroll
                for (u32 i = 0; i < QUERIES; i++) {
#pragma unroll
                    for (u32 j = 0; j < T::WIDTH; j++) score[n][i] += q[i][c][j] * x[j];
                }
            }
        }
#pragma unroll
        for (u32 step = T::LANES / 2; step > 0; step /= 2) {
#pragma unroll
            for (u32 n = 0; n < T::KEYS; n++) {
#pragma unroll
                for (u32 i = 0; i < QUERIES; i++) score[n][i] += __shfl_xor_sync(0xffffffffu, score[n][i], step);
            }
        }
        if constexpr (FORMAT == BYTES) {
#pragma unroll
            for (u32 n = 0; n < T::KEYS; n++) {
#pragma unroll
                for (u32 i = 0; i < QUERIES; i++) score[n][i] *= k_scale[n];
            }
        }
        if (base < common.begin || base + T::STEP > common.end) {
#pragma unroll
            for (u32 i = 0; i < QUERIES; i++) {
                Sight sight = common;
                if (!APPENDS && p.rows > 1) sight = sight_of(p, keys, keys.position + queries.row(p, i));
#pragma unroll
                for (u32 n = 0; n < T::KEYS; n++) {
                    const u32 position = base + n * T::TEAMS + team;
                    if (position >= end || position < sight.begin || position >= sight.end) score[n][i] = MINUS_INFINITY;
                }
            }
        }
#pragma unroll
        for (u32 i = 0; i < QUERIES; i++) {
            float next = most[i];
#pragma unroll
            for (u32 n = 0; n < T::KEYS; n++) next = fmaxf(next, score[n][i]);
            const float kept = exp2f(most[i] - next);
            most[i] = next;
            sum[i] *= kept;
#pragma unroll
            for (u32 n = 0; n < T::KEYS; n++) {
                score[n][i] = exp2f(score[n][i] - next);
                sum[i] += score[n][i];
                if constexpr (FORMAT == BYTES) score[n][i] *= v_scale[n];
            }
#pragma unroll
            for (u32 c = 0; c < T::EACH; c++) {
#pragma unroll
                for (u32 j = 0; j < T::WIDTH; j++) mixed[i][c][j] *= kept;
            }
        }
#pragma unroll
        for (u32 n = 0; n < T::KEYS; n++) {
#pragma unroll
            for (u32 c = 0; c < T::EACH; c++) {
                float x[T::WIDTH];
                unpack<FORMAT>(v[n][c], x);
#pragma unroll
                for (u32 i = 0; i < QUERIES; i++) {
#pragma unroll
                    for (u32 j = 0; j < T::WIDTH; j++) mixed[i][c][j] += score[n][i] * x[j];
                }
            }
        }
    }
    const u32 state = warp * T::TEAMS + team;
#pragma unroll
    for (u32 i = 0; i < QUERIES; i++) {
#pragma unroll
        for (u32 c = 0; c < T::EACH; c++) {
            const u32 column = (member + c * T::LANES) * T::WIDTH;
#pragma unroll
            for (u32 j = 0; j < T::WIDTH; j += 4) {
                const float *x = mixed[i][c] + j;
                if (column + j < COLUMNS) *(float4 *)(sums.mixed[state][i] + column + j) = make_float4(x[0], x[1], x[2], x[3]);
            }
        }
        if (member == 0) {
            sums.most[state][i] = most[i];
            sums.sum[state][i] = sum[i];
        }
    }
}

__device__ __forceinline__ void add_scaled(float4 &to, const float4 &x, float factor) {
    to.x += x.x * factor;
    to.y += x.y * factor;
    to.z += x.z * factor;
    to.w += x.w * factor;
}

// Four columns of the result.
__device__ __forceinline__ void write_out(const AttentionParams &p, const Queries &queries, u32 index, u32 i, u32 column,
                                          float4 x, float sum) {
    if (i >= queries.count) return;
    const float factor = sum > 0.0f ? 1.0f / sum : 0.0f;
    const u32 row = index * p.rows + queries.row(p, i);
    float *to = p.out + ((u64)row * p.n_heads + queries.head(p, i)) * p.head_dim + column;
    if (column < p.head_dim) to[0] = x.x * factor;
    if (column + 1 < p.head_dim) to[1] = x.y * factor;
    if (column + 2 < p.head_dim) to[2] = x.z * factor;
    if (column + 3 < p.head_dim) to[3] = x.w * factor;
}

// All parts of a block's queries, in their order.
__device__ __forceinline__ void merge(const AttentionParams &p, const Queries &queries, u32 index, const float *from, u32 parts,
                                      Sums &sums) {
    // First each part's share of the whole, kept where the teams were.
    float *const factors = &sums.mixed[0][0][0];
    constexpr u32 FOURS = QUERIES * COLUMNS / 4;
    constexpr u32 SPAN = FOURS < DECODE_THREADS ? FOURS : DECODE_THREADS;
    constexpr u32 TEAMS = DECODE_THREADS / SPAN;
    float4 *const mixtures = (float4 *)(factors + QUERIES * MOST_SPLITS);
    for (u32 i = threadIdx.x / WARP; i < QUERIES; i += WARPS) {
        const u32 lane = threadIdx.x % WARP;
        float2 stats[MOST_SPLITS / WARP]; // maximum and sum
        float most = LOWEST, sum = 0.0f;
#pragma unroll
        for (u32 n = 0; n < MOST_SPLITS / WARP; n++) {
            const u32 part = n * WARP + lane;
            stats[n] = make_float2(LOWEST, 0.0f);
            if (part < parts) stats[n] = __ldcg((const float2 *)(from + (part * QUERIES + i) * PART_WIDTH + COLUMNS));
        }
#pragma unroll
        for (u32 n = 0; n < MOST_SPLITS / WARP; n++) most = fmaxf(most, stats[n].x);
        most = warp_max(most);
#pragma unroll
        for (u32 n = 0; n < MOST_SPLITS / WARP; n++) {
            const float factor = exp2f(stats[n].x - most);
            if (n * WARP + lane < parts) factors[(n * WARP + lane) * QUERIES + i] = factor;
            sum += factor * stats[n].y;
        }
        sum = warp_sum(sum);
        if (lane == 0) sums.sum[0][i] = sum;
    }
    __syncthreads();
    // Where columns are few, teams of threads take some of the parts each.
    const u32 team = threadIdx.x / SPAN;
    for (u32 at = threadIdx.x % SPAN; at < FOURS; at += SPAN) {
        const u32 i = at / (COLUMNS / 4), column = at % (COLUMNS / 4) * 4;
        float4 mixed = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (team < TEAMS) {
#pragma unroll 8
            for (u32 part = team; part < parts; part += TEAMS) {
                const float4 x = __ldcg((const float4 *)(from + (part * QUERIES + i) * PART_WIDTH + column));
                add_scaled(mixed, x, factors[part * QUERIES + i]);
            }
        }
        if constexpr (TEAMS > 1) {
            mixtures[threadIdx.x] = mixed;
            __syncthreads();
        }
        if (team > 0) return;
#pragma unroll
        for (u32 other = 1; other < TEAMS; other++) add_scaled(mixed, mixtures[other * SPAN + at], 1.0f);
        write_out(p, queries, index, i, column, mixed, sums.sum[0][i]);
    }
}

KERNEL(DECODE_THREADS, decode, DecodeParams) {
    __align__(16) __shared__ Sums sums;
    __shared__ u32 is_last;
    const u32 index = blockIdx.x;
    let_next_begin();
#if APPENDS
    __align__(16) __shared__ float ready[QUERIES][COLUMNS];
    Piece piece(p, index, threadIdx.x);
#else
    const float (*const ready)[COLUMNS] = nullptr;
#endif
    const u32 of_head = APPENDS ? p.group : p.rows * p.group;
    const u32 blocks = APPENDS || of_head <= QUERIES ? 1 : (of_head + QUERIES - 1) / QUERIES;
    Queries queries;
    queries.kv_head = quotient(blockIdx.y, blocks);
    queries.first = (blockIdx.y - queries.kv_head * blocks) * QUERIES;
    queries.count = min((u32)QUERIES, of_head - queries.first);
    // The host has said where keys are and how many: that can be read before the call before has ended.
    const Keys keys = keys_of(p, index, queries.kv_head, quotient(gridDim.y, blocks));

    // What the queries of the block see together, cut into equal parts.
    const Sight first = sight_of(p, keys, keys.position + queries.row(p, 0));
    const Sight last = sight_of(p, keys, keys.position + queries.row(p, queries.count - 1));
    const u32 count = last.end > first.begin ? last.end - first.begin : 0;
    u32 parts = 1, part_keys = count;
    if (count > ALONE && p.splits > 1) {
        parts = min((count + PART_KEYS - 1) / PART_KEYS, p.splits);
        part_keys = ((count + parts - 1) / parts + 7) / 8 * 8;
        parts = (count + part_keys - 1) / part_keys;
    }
    const u32 part = blockIdx.z;
    // Those that are not needed leave room for the next call at once; the others wait for the call before.
    if (part >= parts) return;
    wait_for_previous();
#if APPENDS
    piece.load(p, index, queries.kv_head);
#endif
    const u32 begin = first.begin + part * part_keys;
    const u32 end = first.begin + min(count, (part + 1) * part_keys);

#if APPENDS
    bring_all<DECODE_THREADS>(p, piece, keys, index, queries.kv_head, part == parts - 1, ready);
    __syncthreads();
#endif

    // What is appended comes in vectors, and so do the caches that it goes to.
    const bool aligned = APPENDS || keys.aligned;
    const Sight common = {last.begin, min(first.end, end)};
    if (!aligned) sum_up<0, true>(p, keys, queries, index, begin, end, common, ready, sums);
    else if (keys.format == 0) sum_up<0, false>(p, keys, queries, index, begin, end, common, ready, sums);
    else if (keys.format == 1) sum_up<1, false>(p, keys, queries, index, begin, end, common, ready, sums);
    else if (keys.format == BYTES) sum_up<BYTES, false>(p, keys, queries, index, begin, end, common, ready, sums);
    else sum_up<2, false>(p, keys, queries, index, begin, end, common, ready, sums);
    const u32 states = WARPS * (aligned && keys.format != 0 ? Team<1>::TEAMS : Team<0>::TEAMS);
    __syncthreads();

    const u32 place = index * gridDim.y + blockIdx.y;
    float *all = p.parts + (u64)place * p.splits * QUERIES * PART_WIDTH;
    for (u32 at = threadIdx.x; at < QUERIES * COLUMNS / 4; at += DECODE_THREADS) {
        const u32 i = at / (COLUMNS / 4), column = at % (COLUMNS / 4) * 4;
        float most = LOWEST, sum = 0.0f;
#pragma unroll 4
        for (u32 state = 0; state < states; state++) most = fmaxf(most, sums.most[state][i]);
        float4 mixed = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 4
        for (u32 state = 0; state < states; state++) {
            const float factor = exp2f(sums.most[state][i] - most);
            sum += factor * sums.sum[state][i];
            add_scaled(mixed, *(const float4 *)(sums.mixed[state][i] + column), factor);
        }
        if (parts == 1) {
            write_out(p, queries, index, i, column, mixed, sum);
        } else {
            float *to = all + (part * QUERIES + i) * PART_WIDTH;
            *(float4 *)(to + column) = mixed;
            if (column == 0) *(float4 *)(to + COLUMNS) = make_float4(most, sum, 0.0f, 0.0f);
        }
    }
    if (parts == 1) return;
    __syncthreads();
    if (threadIdx.x == 0) is_last = count_up(p.counters + place, parts - 1) == parts - 1;
    __syncthreads();
    if (!is_last) return;
    merge(p, queries, index, all, parts, sums);
}
