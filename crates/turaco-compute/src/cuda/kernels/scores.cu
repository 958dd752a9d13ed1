// The softmax input of one head: a key per thread, for some rows of queries. Keys that are gone count as never seen.

constexpr u32 SCORE_THREADS = 128;
constexpr u32 SCORE_ROWS = 8;

KERNEL(SCORE_THREADS, scores, AttentionParams) {
    follow();
    __shared__ float queries[COLUMNS * SCORE_ROWS];
    const u32 index = blockIdx.z;
    const u32 row = blockIdx.y * SCORE_ROWS;
    const Keys keys = keys_of(p, index, p.head / p.group, p.n_heads / p.group);
    if (blockIdx.x * SCORE_THREADS >= keys.end || row >= p.rows) return;
    const u32 rows = min(SCORE_ROWS, p.rows - row);
    const u32 first = index * p.rows + row;
    for (u32 i = threadIdx.x; i < p.head_dim * SCORE_ROWS; i += SCORE_THREADS) {
        const u32 nth = i % SCORE_ROWS, column = i / SCORE_ROWS;
        const float *q = p.q + (u64)(first + nth) * p.q_stride + p.head * p.head_dim;
        queries[i] = nth < rows ? q[column] : 0.0f;
    }
    __syncthreads();

    const u32 position = blockIdx.x * SCORE_THREADS + threadIdx.x;
    if (position >= min(keys.end, p.capacity)) return;
    float sum[SCORE_ROWS];
#pragma unroll
    for (u32 nth = 0; nth < SCORE_ROWS; nth++) sum[nth] = position < keys.oldest ? MINUS_INFINITY : 0.0f;
    if (position >= keys.oldest) {
        const char *key = keys.key(position);
        if (keys.aligned && keys.format != BYTES) {
            const u32 width = 16 / size_of(keys.format);
#pragma unroll 4
            for (u32 column = 0; column < p.head_dim; column += width) {
                const uint4 raw = *(const uint4 *)(key + column * size_of(keys.format));
                float x[8];
                if (keys.format == 0) unpack<0>(raw, *(float(*)[4])x);
                else if (keys.format == 1) unpack<1>(raw, x);
                else unpack<2>(raw, x);
#pragma unroll
                for (u32 i = 0; i < 8; i++) {
                    if (i >= width) break;
#pragma unroll
                    for (u32 nth = 0; nth < SCORE_ROWS; nth++) sum[nth] += queries[(column + i) * SCORE_ROWS + nth] * x[i];
                }
            }
        } else {
            for (u32 column = 0; column < p.head_dim; column++) {
                const float x = number_at(key, column, keys.format) * keys.scale_of(key);
#pragma unroll
                for (u32 nth = 0; nth < SCORE_ROWS; nth++) sum[nth] += queries[column * SCORE_ROWS + nth] * x;
            }
        }
    }
    float *out = p.out + (u64)(p.out_row + first) * p.capacity + position;
#pragma unroll
    for (u32 nth = 0; nth < SCORE_ROWS; nth++) {
        if (nth < rows) out[(u64)nth * p.capacity] = sum[nth] * p.scale;
    }
}
