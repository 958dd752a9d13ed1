// What `decode.cu` does where it appends the one new position of each sequence itself, which `append.cu` would else have done in a
// call of its own. Every block norms and rotates the queries that it has and leaves them in shared memory. The block with the last
// part of the keys, the new one among them, also brings that key and its value to the cache. No other block reads them, and nobody
// sees what they take the place of, so that no block has to wait for another.

struct DecodeParams : AttentionParams {
    AppendParams append;
};

// Eight columns of a head: of one of the queries of a key head, then of its new key, then of its new value.
struct Piece {
    Kind kind;
    u32 head, column; // which of the queries it is of, and where it begins in its head
    Eight x;

    // That of a thread, of which the weights and the angles are asked for; beyond the end one of the value again.
    __device__ __forceinline__ Piece(const DecodeParams &p, u32 index, u32 i) {
        const u32 threads = p.head_dim / UNIT;
        head = min(i / threads, p.group + 1);
        column = i % threads * UNIT;
        kind = head < p.group ? QUERY : head == p.group ? KEY : VALUE;
        const bool is_rotated = p.append.table && kind != VALUE;
        x.choose(p.append, is_rotated, 0, column);
        x.load_gamma(gamma_of(p.append, kind), 0);
        x.load_angles(p.append, is_rotated ? p.append.table + (u64)index * p.head_dim : nullptr);
    }
    __device__ __forceinline__ void load(const DecodeParams &p, u32 index, u32 kv_head) {
        const AppendParams &from = p.append;
        const float *rows = kind == QUERY ? from.q : kind == KEY ? from.k : from.v;
        const u32 stride = kind == QUERY ? from.q_stride : kind == KEY ? from.k_stride : from.v_stride;
        const u32 nth = kind == QUERY ? kv_head * p.group + head : kv_head;
        x.load(rows + (u64)index * stride + nth * p.head_dim);
    }
    // To where the attention will find it: a query to shared memory, and what is new to the cache if this block `appends` it. All
    // threads of a warp stay together, as they share what their heads add up to.
    __device__ __forceinline__ void bring(const DecodeParams &p, const Keys &keys, bool appends, float (*queries)[COLUMNS]) {
        x.turn(p.append, kind);
        char *to = (char *)(kind == VALUE ? keys.value(keys.position) : keys.key(keys.position));
        float factor = 1.0f;
        if (keys.format == BYTES) {
            const u32 largest = x.largest_of_head(p.head_dim);
            factor = byte_factor(largest);
            if (appends && kind != QUERY && column == 0) *(float *)(to + keys.scale_at) = byte_scale(largest);
        }
        if (kind == QUERY) {
            *(float4 *)(queries[head] + x.first) = x.a;
            *(float4 *)(queries[head] + x.second) = x.b;
        } else if (appends) {
            x.store(to, keys.format, factor);
        }
    }
};

// All pieces of a block of so many threads, of which each has its first one already.
template <u32 THREADS>
__device__ __forceinline__ void bring_all(const DecodeParams &p, Piece piece, const Keys &keys, u32 index, u32 kv_head,
                                          bool is_last, float (*queries)[COLUMNS]) {
    const u32 pieces = (p.group + (is_last ? 2 : 0)) * (p.head_dim / UNIT);
    for (u32 i = threadIdx.x; i - i % WARP < pieces; i += THREADS) {
        if (i != threadIdx.x) {
            piece = Piece(p, index, i);
            piece.load(p, index, kv_head);
        }
        piece.bring(p, keys, is_last && i < pieces, queries);
    }
}
