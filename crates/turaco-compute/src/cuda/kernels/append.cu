// Keys and values of rows to the caches of a slot. Heads of keys and queries may be normed and rotated on the way; queries go where
// the attention will find them. Blocks of a row are side by side in y, and the rows of all sequences in x. Attention to one new
// position of each sequence does all of it itself where it can (`decode_append.cuh`).

constexpr u32 APPEND_THREADS = 128;

// One number of a row of a cache.
__device__ __forceinline__ void store_number(char *row, u32 column, u32 format, float x, float factor) {
    if (format == 0) ((float *)row)[column] = x;
    else if (format == BYTES) ((u8 *)row)[column] = (u8)to_byte(x, factor);
    else ((u16 *)row)[column] = format == 1 ? to_f16(x) : (u16)to_bf16(x);
}

// Where a row goes: its place among the keys and among the values; nothing stays of rows that newer ones replace.
struct Target {
    char *key;
    char *value;
    u32 format;
    u32 head_dim; // of numbers that share a scale
    bool stays;

    // The scale of a head, which turns bytes back into numbers.
    __device__ __forceinline__ void store_scale(const AppendParams &p, char *row, u32 head, u32 largest) const {
        ((float *)(row + scales_at(p.columns)))[head] = byte_scale(largest);
    }
};

__device__ __forceinline__ Target target_of(const AppendParams &p, u32 row, u32 count, u32 appended) {
    const u32 each = p.rows == 1 ? 1 : quotient(p.rows, count);
    const u32 index = p.rows == 1 ? 0 : quotient(row, each);
    const u32 nth = quotient(p.before, count) + row - index * each;
    const Sequence &sequence = p.slot->sequences[index];
    Target target;
    target.format = sequence.format;
    target.head_dim = max(sequence.head_dim, 1u);
    // Of rows that do not all fit, the last ones stay.
    target.stays = nth + sequence.capacity >= appended;
    const u64 row_bytes = row_bytes_of(sequence, p.columns);
    const u64 all = sequence.capacity * row_bytes;
    target.key = sequence.cache + 2 * p.layer * all + place(sequence, sequence.length + nth) * row_bytes;
    target.value = target.key + all;
    return target;
}

// One row of what is moved.
struct Source {
    const float *k;
    const float *v;
    const float *q;
    float *q_out;
    const float *table; // null: no rotation
    u32 q_columns;

    __device__ __forceinline__ Source(const AppendParams &p, u32 row)
        : k(p.k + (u64)row * p.k_stride), v(p.v + (u64)row * p.v_stride), q(p.q ? p.q + (u64)row * p.q_stride : nullptr),
          q_out(p.q_out + (u64)row * p.q_out_stride), table(p.table ? p.table + (u64)row * p.head_dim : nullptr),
          q_columns(p.q ? p.q_columns : 0) {}
    __device__ __forceinline__ const float *of(Kind kind) const { return kind == KEY ? k : kind == VALUE ? v : q; }
};

// Whether neighbouring threads of a warp, eight columns each, have whole heads of that many columns.
__device__ __forceinline__ bool fits_a_warp(u32 head_dim) {
    const u32 threads = head_dim / UNIT;
    return head_dim % UNIT == 0 && threads > 0 && threads <= WARP && (threads & (threads - 1)) == 0;
}

// Eight of all columns of a row: keys, then values, then queries. Beyond the end the last ones again.
struct Unit {
    Kind kind;
    u32 column;
    Eight x;

    __device__ __forceinline__ Unit(const AppendParams &p, const Source &from, u32 i, u32 units) {
        const u32 at = min(i, units - 1) * UNIT;
        kind = at < p.columns ? KEY : at < 2 * p.columns ? VALUE : QUERY;
        column = at - kind * p.columns;
        const float *table = kind == VALUE ? nullptr : from.table, *gamma = gamma_of(p, kind);
        const u32 head = table || gamma ? column / p.head_dim * p.head_dim : column;
        x.choose(p, table, head, column);
        x.load_gamma(gamma, head);
        x.load_angles(p, table);
        x.load(from.of(kind));
    }
};

// In vectors. All threads of a warp stay together: they share what their heads add up to.
__device__ __forceinline__ void move_eights(const AppendParams &p, const Source &from, const Target &target, Unit unit, u32 units,
                                            u32 start, u32 stride) {
    for (u32 i = start; i - i % WARP < units; i += stride) {
        if (i != start) unit = Unit(p, from, i, units);
        Eight &x = unit.x;
        const Kind kind = unit.kind;
        const u32 column = unit.column;
        x.turn(p, kind);
        float factor = 1.0f;
        char *to = kind == VALUE ? target.value : target.key;
        if (target.format == BYTES) {
            const u32 largest = x.largest_of_head(target.head_dim);
            factor = byte_factor(largest);
            if (i < units && kind != QUERY && target.stays && column % target.head_dim == 0)
                target.store_scale(p, to, column / target.head_dim, largest);
        }
        if (i >= units) continue;
        if (kind == QUERY) {
            *(float4 *)(from.q_out + x.first) = x.a;
            *(float4 *)(from.q_out + x.second) = x.b;
        } else if (target.stays) {
            x.store(to, target.format, factor);
        }
    }
}

// One column of a head after its norm.
__device__ __forceinline__ float normed(const float *x, const float *gamma, float factor, u32 i) {
    return gamma ? x[i] * factor * gamma[i] : x[i];
}

// One column of a head after its norm and its rotation.
__device__ __forceinline__ float turned(const AppendParams &p, const float *x, const float *gamma, float factor,
                                        const float *table, u32 i) {
    const float value = normed(x, gamma, factor, i);
    if (!table) return value;
    const u32 half = p.head_dim / 2;
    const bool second = p.interleaved ? i % 2 == 1 : i >= half;
    const u32 pair = p.interleaved ? i / 2 : second ? i - half : i;
    const float other = normed(x, gamma, factor, p.interleaved ? i ^ 1 : second ? i - half : i + half);
    return value * table[pair] + (second ? other : -other) * table[half + pair];
}

// Heads of any width, a warp for each. Where nothing is done with whole heads, any width will do.
__device__ __forceinline__ void move_heads(const AppendParams &p, const Source &from, const Target &target, u32 start, u32 stride) {
    const u32 lane = threadIdx.x % WARP;
    const u32 width = p.head_dim != 0 ? p.head_dim : target.format == BYTES ? target.head_dim : WARP;
    const u32 heads = (p.columns + width - 1) / width, query_heads = (from.q_columns + width - 1) / width;
    for (u32 head = start / WARP; head < 2 * heads + query_heads; head += stride / WARP) {
        const Kind kind = head < heads ? KEY : head < 2 * heads ? VALUE : QUERY;
        const u32 begin = (head - kind * heads) * width;
        const u32 count = min(width, (kind == QUERY ? from.q_columns : p.columns) - begin);
        const float *x = from.of(kind) + begin, *gamma = gamma_of(p, kind);
        const float *table = kind == VALUE ? nullptr : from.table;
        float factor = 1.0f, byte = 1.0f;
        if (gamma) {
            float squares = 0.0f;
            for (u32 i = lane; i < count; i += WARP) squares += x[i] * x[i];
            factor = norm_factor(p, kind, warp_sum(squares));
        }
        char *to = kind == VALUE ? target.value : target.key;
        if (target.format == BYTES && kind != QUERY) {
            u32 largest = 0;
            for (u32 i = lane; i < count; i += WARP)
                largest = max(largest, __float_as_uint(turned(p, x, gamma, factor, table, i)) & 0x7fffffffu);
            for (u32 step = WARP / 2; step > 0; step /= 2) largest = max(largest, __shfl_xor_sync(0xffffffffu, largest, step));
            byte = byte_factor(largest);
            if (lane == 0 && target.stays) target.store_scale(p, to, begin / target.head_dim, largest);
        }
        for (u32 i = lane; i < count; i += WARP) {
            const float value = turned(p, x, gamma, factor, table, i);
            if (kind == QUERY) from.q_out[begin + i] = value;
            else if (target.stays) store_number(to, begin + i, target.format, value, byte);
        }
    }
}

KERNEL(APPEND_THREADS, append, AppendParams) {
    follow();
    const u32 row = blockIdx.x;
    const Source from(p, row);

    // Whether all of it comes in vectors: rows of a cache then do, too.
    const bool has_queries = from.q_columns > 0;
    const u64 places = (u64)p.k | (u64)p.v | (u64)p.q | (u64)p.table | (u64)p.k_gamma | (u64)p.q_gamma | (has_queries ? (u64)p.q_out : 0);
    const u32 strides = p.k_stride | p.v_stride | (has_queries ? p.q_stride | p.q_out_stride : 0);
    const u32 eights = p.columns | from.q_columns | (p.table ? p.head_dim : 0);
    const bool heads = !(p.k_gamma || p.q_gamma) || fits_a_warp(p.head_dim);
    const u32 start = blockIdx.y * APPEND_THREADS + threadIdx.x, stride = gridDim.y * APPEND_THREADS;
    if (places % 16 == 0 && strides % 4 == 0 && eights % UNIT == 0 && heads) {
        // Asked for before the place where it goes to is: what is far away comes at the same time.
        const u32 units = (2 * p.columns + from.q_columns) / UNIT;
        const Unit first(p, from, start, units);
        const Target target = target_of(p, row, p.slot->count, p.slot->appended);
        if (target.format != BYTES || fits_a_warp(target.head_dim)) {
            move_eights(p, from, target, first, units, start, stride);
            return;
        }
    }
    move_heads(p, from, target_of(p, row, p.slot->count, p.slot->appended), start, stride);
}
