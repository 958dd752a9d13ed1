// Attention of many queries per sequence: a block takes neighbouring queries of one head and visits the keys in tiles that lie
// in shared memory as f32; a higher maximum rescales what was summed. With EXACT=1 all products are of f32. With EXACT=0 they
// are of tf32 by matrix instructions, where queries and shares, and keys and values of f32 or bytes, are split into two numbers each:
// as exact, but for infinities. Heads wider than 128, and cards without such instructions, always get products of f32.

#ifndef EXACT
#define EXACT 1
#endif
#if !EXACT && COLUMNS <= 128 && (!defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800)
#define MATRIX 1
#else
#define MATRIX 0
#endif

constexpr u32 ATTENTION_THREADS = 128;
constexpr u32 TILE_QUERIES = MATRIX || COLUMNS <= 64 ? 64 : COLUMNS <= 128 ? 32 : 16;
constexpr u32 TILE_KEYS = MATRIX && COLUMNS <= 64 ? 64 : COLUMNS <= 128 ? 32 : 16;
// Rows of a tile are four banks apart, so that neighbouring rows and columns of a warp do not meet.
constexpr u32 TILE_STRIDE = COLUMNS + 4;

// The keys or the values of a tile that begins at position `first`; zeros where there are none.
template <u32 FORMAT>
__device__ __forceinline__ void load_vectors(float *tile, const Keys &keys, const char *rows, u64 row_bytes, u32 first, u32 end,
                                             u32 width) {
    constexpr u32 WIDTH = NUMBERS<FORMAT>, VECTORS = COLUMNS / WIDTH, ALL = TILE_KEYS * VECTORS;
    constexpr u32 AT_ONCE = 4; // loads of a thread under way
    constexpr bool EVEN = ALL % (AT_ONCE * ATTENTION_THREADS) == 0;
#pragma unroll 1
    for (u32 some = 0; some < ALL; some += AT_ONCE * ATTENTION_THREADS) {
        Vector<FORMAT> raw[AT_ONCE];
        float scale[AT_ONCE]; // of bytes
#pragma unroll
        for (u32 i = 0; i < AT_ONCE; i++) {
            const u32 at = some + i * ATTENTION_THREADS + threadIdx.x;
            const u32 position = first + at / VECTORS, column = at % VECTORS * WIDTH;
            raw[i] = nothing(raw[i]);
            scale[i] = 0.0f;
            if ((EVEN || at < ALL) && position < end && column < width) {
                const char *row = rows + keys.place(position) * row_bytes;
                raw[i] = *(const Vector<FORMAT> *)(row + column * SIZE<FORMAT>);
                if (FORMAT == BYTES) scale[i] = keys.scale_of(row);
            }
        }
#pragma unroll
        for (u32 i = 0; i < AT_ONCE; i++) {
            const u32 at = some + i * ATTENTION_THREADS + threadIdx.x;
            if (!EVEN && at >= ALL) break;
            float *to = tile + at / VECTORS * TILE_STRIDE + at % VECTORS * WIDTH;
            float x[WIDTH];
            unpack<FORMAT>(raw[i], x);
            if constexpr (FORMAT == BYTES) {
#pragma unroll
                for (u32 j = 0; j < WIDTH; j++) x[j] *= scale[i];
            }
#pragma unroll
            for (u32 j = 0; j < WIDTH; j += 4) *(float4 *)(to + j) = make_float4(x[j], x[j + 1], x[j + 2], x[j + 3]);
        }
    }
}

__device__ __forceinline__ void load_tile(float *tile, const Keys &keys, const char *rows, u64 row_bytes, u32 first, u32 end,
                                          u32 width) {
    if (!keys.aligned) {
        for (u32 at = threadIdx.x; at < TILE_KEYS * COLUMNS; at += ATTENTION_THREADS) {
            const u32 position = first + at / COLUMNS, column = at % COLUMNS;
            float x = 0.0f;
            if (position < end && column < width) {
                const char *row = rows + keys.place(position) * row_bytes;
                x = number_at(row, column, keys.format) * keys.scale_of(row);
            }
            tile[at / COLUMNS * TILE_STRIDE + column] = x;
        }
    } else if (keys.format == 0) {
        load_vectors<0>(tile, keys, rows, row_bytes, first, end, width);
    } else if (keys.format == 1) {
        load_vectors<1>(tile, keys, rows, row_bytes, first, end, width);
    } else if (keys.format == BYTES) {
        load_vectors<BYTES>(tile, keys, rows, row_bytes, first, end, width);
    } else {
        load_vectors<2>(tile, keys, rows, row_bytes, first, end, width);
    }
}

// What a block works on: queries from `row` on of a head of a sequence, and the positions that one of them sees.
struct Task {
    const float *q; // the first query
    float *out;
    u32 rows;       // queries
    u32 position;   // that of the first query
    Sight all;
};

// Whether all queries of the task see all keys of the tile from `first` on.
__device__ __forceinline__ bool sees_all(const AttentionParams &p, const Task &task, u32 first) {
    if (first + TILE_KEYS > task.all.end) return false;
    return p.window == 0 || (first + TILE_KEYS - 1 <= task.position && task.position + TILE_QUERIES - 1 - first < p.window);
}

// `all` are the positions that some query of the block sees, and there are keys for.
__device__ __forceinline__ bool sees(const AttentionParams &p, const Sight &all, u32 position, u32 key) {
    return key < all.end && (p.window == 0 || (key <= position && position - key < p.window));
}

#if MATRIX

// Matrix instructions take the first 11 digits of a number. The rest of it has 13, of which it does not matter what becomes of
// the last two.
__device__ __forceinline__ u32 first_of(float x) { return __float_as_uint(x) & 0xffffe000u; }
__device__ __forceinline__ u32 rest_of(float x) { return __float_as_uint(x - __uint_as_float(first_of(x))); }

struct Left {
    u32 first[4], rest[4];
};

__device__ __forceinline__ Left left_of(float a, float b, float c, float d) {
    return {{first_of(a), first_of(b), first_of(c), first_of(d)}, {rest_of(a), rest_of(b), rest_of(c), rest_of(d)}};
}

// Small terms first. Numbers of 16 bits have no more digits than the first: FINE ones are f32, or
// bytes times their factor.
template <bool FINE> __device__ __forceinline__ void multiply(float (&d)[4], const Left &a, float b0, float b1) {
    u32 first[2] = {__float_as_uint(b0), __float_as_uint(b1)};
    if constexpr (FINE) {
        const u32 rest[2] = {rest_of(b0), rest_of(b1)};
        first[0] = first_of(b0);
        first[1] = first_of(b1);
        mma_tf32(d, a.first, rest);
    }
    mma_tf32(d, a.rest, first);
    mma_tf32(d, a.first, first);
}

// A warp has 16 queries. Of a tile 16 x 8, a lane holds columns 2 * pair and 2 * pair + 1 of rows `line` and `line + 8`.
template <bool FINE>
__device__ __forceinline__ void attend(const AttentionParams &p, const Keys &keys, const Task &task, float *key_tile,
                                       float *value_tile) {
    const u32 lane = threadIdx.x % WARP, line = lane / 4, pair = lane % 4;
    const u32 row = threadIdx.x / WARP * 16 + line;
    float q[COLUMNS / 8][4], mixed[COLUMNS / 8][4], most[2] = {LOWEST, LOWEST}, sum[2] = {0.0f, 0.0f};
    const float scale = p.scale * LOG2_E;
#pragma unroll
    for (u32 c = 0; c < COLUMNS / 8; c++) {
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            const u32 nth = row + i % 2 * 8, column = c * 8 + i / 2 * 4 + pair;
            q[c][i] = nth < task.rows && column < p.head_dim ? task.q[(u64)nth * p.q_stride + column] * scale : 0.0f;
            mixed[c][i] = 0.0f;
        }
    }
    for (u32 first = task.all.begin; first < task.all.end; first += TILE_KEYS) {
        __syncthreads();
#pragma unroll 1
        for (u32 of_values = 0; of_values < 2; of_values++) {
            load_tile(of_values ? value_tile : key_tile, keys, of_values ? keys.values : keys.keys,
                      of_values ? keys.value_bytes : keys.key_bytes, first, task.all.end, p.head_dim);
        }
        __syncthreads();
        float score[TILE_KEYS / 8][4];
#pragma unroll
        for (u32 n = 0; n < TILE_KEYS / 8; n++) score[n][0] = score[n][1] = score[n][2] = score[n][3] = 0.0f;
#pragma unroll
        for (u32 c = 0; c < COLUMNS / 8; c++) {
            const Left a = left_of(q[c][0], q[c][1], q[c][2], q[c][3]);
#pragma unroll
            for (u32 n = 0; n < TILE_KEYS / 8; n++) {
                const float *b = key_tile + (n * 8 + line) * TILE_STRIDE + c * 8 + pair;
                multiply<FINE>(score[n], a, b[0], b[4]);
            }
        }
        if (!sees_all(p, task, first)) {
#pragma unroll
            for (u32 n = 0; n < TILE_KEYS / 8; n++) {
#pragma unroll
                for (u32 i = 0; i < 4; i++) {
                    const u32 position = task.position + row + i / 2 * 8, key = first + n * 8 + 2 * pair + i % 2;
                    if (!sees(p, task.all, position, key)) score[n][i] = MINUS_INFINITY;
                }
            }
        }
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            float next = most[half];
#pragma unroll
            for (u32 n = 0; n < TILE_KEYS / 8; n++) next = fmaxf(next, fmaxf(score[n][2 * half], score[n][2 * half + 1]));
            next = fmaxf(next, __shfl_xor_sync(0xffffffffu, next, 1));
            next = fmaxf(next, __shfl_xor_sync(0xffffffffu, next, 2));
            const float kept = exp2f(most[half] - next);
            most[half] = next;
            sum[half] *= kept;
#pragma unroll
            for (u32 n = 0; n < TILE_KEYS / 8; n++) {
#pragma unroll
                for (u32 i = 2 * half; i < 2 * half + 2; i++) {
                    score[n][i] = exp2f(score[n][i] - next);
                    sum[half] += score[n][i];
                }
            }
#pragma unroll
            for (u32 c = 0; c < COLUMNS / 8; c++) {
                mixed[c][2 * half] *= kept;
                mixed[c][2 * half + 1] *= kept;
            }
        }
        // The two neighbours that a lane holds are taken as columns `pair` and `pair + 4` of the left side: which is which does
        // not matter, as long as the values agree.
#pragma unroll
        for (u32 n = 0; n < TILE_KEYS / 8; n++) {
            const Left a = left_of(score[n][0], score[n][2], score[n][1], score[n][3]);
#pragma unroll
            for (u32 c = 0; c < COLUMNS / 8; c++) {
                const float *b = value_tile + (n * 8 + 2 * pair) * TILE_STRIDE + c * 8 + line;
                multiply<FINE>(mixed[c], a, b[0], b[TILE_STRIDE]);
            }
        }
    }
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        sum[half] += __shfl_xor_sync(0xffffffffu, sum[half], 1);
        sum[half] += __shfl_xor_sync(0xffffffffu, sum[half], 2);
        const float factor = sum[half] > 0.0f ? 1.0f / sum[half] : 0.0f;
        const u32 nth = row + half * 8;
        if (nth >= task.rows) continue;
        float *to = task.out + (u64)nth * p.n_heads * p.head_dim;
#pragma unroll
        for (u32 c = 0; c < COLUMNS / 8; c++) {
            const u32 column = c * 8 + 2 * pair;
            if (column < p.head_dim) to[column] = mixed[c][2 * half] * factor;
            if (column + 1 < p.head_dim) to[column + 1] = mixed[c][2 * half + 1] * factor;
        }
    }
}

#else

// A thread has some queries, 16 apart, and of a tile of scores some keys, 8 apart; the 8 threads that share queries are
// neighbours. Of the result it has four columns at a time, 32 apart.
__device__ __forceinline__ void attend(const AttentionParams &p, const Keys &keys, const Task &task) {
    constexpr u32 ROWS = TILE_QUERIES / 16, KEYS = TILE_KEYS / 8, FOURS = COLUMNS / 32;
    constexpr u32 SHARE_STRIDE = TILE_KEYS + 4;
    __align__(16) __shared__ float query_tile[TILE_QUERIES * TILE_STRIDE];
    __align__(16) __shared__ float tile[TILE_KEYS * TILE_STRIDE]; // keys, then values
    __align__(16) __shared__ float shares[TILE_QUERIES * SHARE_STRIDE];
    const u32 line = threadIdx.x / 8, member = threadIdx.x % 8;
    const float scale = p.scale * LOG2_E;
    for (u32 at = threadIdx.x; at < TILE_QUERIES * COLUMNS; at += ATTENTION_THREADS) {
        const u32 nth = at / COLUMNS, column = at % COLUMNS;
        const bool wanted = nth < task.rows && column < p.head_dim;
        query_tile[nth * TILE_STRIDE + column] = wanted ? task.q[(u64)nth * p.q_stride + column] * scale : 0.0f;
    }
    float4 mixed[ROWS][FOURS];
    float most[ROWS], sum[ROWS];
#pragma unroll
    for (u32 i = 0; i < ROWS; i++) {
        most[i] = LOWEST;
        sum[i] = 0.0f;
#pragma unroll
        for (u32 c = 0; c < FOURS; c++) mixed[i][c] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
    for (u32 first = task.all.begin; first < task.all.end; first += TILE_KEYS) {
        __syncthreads();
        load_tile(tile, keys, keys.keys, keys.key_bytes, first, task.all.end, p.head_dim);
        __syncthreads();
        float score[ROWS][KEYS];
#pragma unroll
        for (u32 i = 0; i < ROWS; i++) {
#pragma unroll
            for (u32 j = 0; j < KEYS; j++) score[i][j] = 0.0f;
        }
#pragma unroll 4
        for (u32 column = 0; column < COLUMNS; column += 4) {
            float4 a[ROWS], b[KEYS];
#pragma unroll
            for (u32 i = 0; i < ROWS; i++) a[i] = *(const float4 *)(query_tile + (line + 16 * i) * TILE_STRIDE + column);
#pragma unroll
            for (u32 j = 0; j < KEYS; j++) b[j] = *(const float4 *)(tile + (member + 8 * j) * TILE_STRIDE + column);
#pragma unroll
            for (u32 i = 0; i < ROWS; i++) {
#pragma unroll
                for (u32 j = 0; j < KEYS; j++) {
                    score[i][j] += a[i].x * b[j].x;
                    score[i][j] += a[i].y * b[j].y;
                    score[i][j] += a[i].z * b[j].z;
                    score[i][j] += a[i].w * b[j].w;
                }
            }
        }
        const bool whole = sees_all(p, task, first);
#pragma unroll
        for (u32 i = 0; i < ROWS; i++) {
            const u32 row = line + 16 * i;
            float next = most[i];
#pragma unroll
            for (u32 j = 0; j < KEYS; j++) {
                if (!whole && !sees(p, task.all, task.position + row, first + member + 8 * j)) score[i][j] = MINUS_INFINITY;
                next = fmaxf(next, score[i][j]);
            }
            next = fmaxf(next, __shfl_xor_sync(0xffffffffu, next, 1));
            next = fmaxf(next, __shfl_xor_sync(0xffffffffu, next, 2));
            next = fmaxf(next, __shfl_xor_sync(0xffffffffu, next, 4));
            const float kept = exp2f(most[i] - next);
            most[i] = next;
            sum[i] *= kept;
#pragma unroll
            for (u32 j = 0; j < KEYS; j++) {
                const float share = exp2f(score[i][j] - next);
                sum[i] += share;
                shares[row * SHARE_STRIDE + member + 8 * j] = share;
            }
#pragma unroll
            for (u32 c = 0; c < FOURS; c++) {
                mixed[i][c].x *= kept;
                mixed[i][c].y *= kept;
                mixed[i][c].z *= kept;
                mixed[i][c].w *= kept;
            }
        }
        __syncthreads();
        load_tile(tile, keys, keys.values, keys.value_bytes, first, task.all.end, p.head_dim);
        __syncthreads();
#pragma unroll 2
        for (u32 key = 0; key < TILE_KEYS; key += 4) {
            float4 some[ROWS];
#pragma unroll
            for (u32 i = 0; i < ROWS; i++) some[i] = *(const float4 *)(shares + (line + 16 * i) * SHARE_STRIDE + key);
#pragma unroll
            for (u32 n = 0; n < 4; n++) {
#pragma unroll
                for (u32 c = 0; c < FOURS; c++) {
                    const float4 x = *(const float4 *)(tile + (key + n) * TILE_STRIDE + 32 * c + 4 * member);
#pragma unroll
                    for (u32 i = 0; i < ROWS; i++) {
                        const float share = n == 0 ? some[i].x : n == 1 ? some[i].y : n == 2 ? some[i].z : some[i].w;
                        mixed[i][c].x += share * x.x;
                        mixed[i][c].y += share * x.y;
                        mixed[i][c].z += share * x.z;
                        mixed[i][c].w += share * x.w;
                    }
                }
            }
        }
    }
#pragma unroll
    for (u32 i = 0; i < ROWS; i++) {
        sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], 1);
        sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], 2);
        sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], 4);
        const float factor = sum[i] > 0.0f ? 1.0f / sum[i] : 0.0f;
        const u32 nth = line + 16 * i;
        if (nth >= task.rows) continue;
        float *to = task.out + (u64)nth * p.n_heads * p.head_dim;
#pragma unroll
        for (u32 c = 0; c < FOURS; c++) {
            const u32 column = 32 * c + 4 * member;
            if (column < p.head_dim) to[column] = mixed[i][c].x * factor;
            if (column + 1 < p.head_dim) to[column + 1] = mixed[i][c].y * factor;
            if (column + 2 < p.head_dim) to[column + 2] = mixed[i][c].z * factor;
            if (column + 3 < p.head_dim) to[column + 3] = mixed[i][c].w * factor;
        }
    }
}

#endif

KERNEL(ATTENTION_THREADS, attention, AttentionParams) {
    follow();
#if MATRIX
    __align__(16) __shared__ float key_tile[TILE_KEYS * TILE_STRIDE];
    __align__(16) __shared__ float value_tile[TILE_KEYS * TILE_STRIDE];
#endif
    const u32 head = blockIdx.y, index = blockIdx.z;
    const Keys keys = keys_of(p, index, quotient(head, p.group), quotient(p.n_heads, p.group));
    const u32 tiles = (p.rows + TILE_QUERIES - 1) / TILE_QUERIES;
    for (u32 nth = blockIdx.x; nth < tiles; nth += gridDim.x) {
        // Those that see the most begin.
        const u32 row = (tiles - 1 - nth) * TILE_QUERIES;
        Task task;
        task.q = p.q + (u64)(index * p.rows + row) * p.q_stride + head * p.head_dim;
        task.out = p.out + ((u64)(index * p.rows + row) * p.n_heads + head) * p.head_dim;
        task.rows = min(TILE_QUERIES, p.rows - row);
        task.position = keys.position + row;
        task.all = sight_of(p, keys, task.position);
        task.all.end = sight_of(p, keys, task.position + task.rows - 1).end;
#if MATRIX
        if (keys.format == 0 || keys.format == BYTES) attend<true>(p, keys, task, key_tile, value_tile);
        else attend<false>(p, keys, task, key_tile, value_tile);
#else
        attend(p, keys, task);
#endif
        __syncthreads();
    }
}
