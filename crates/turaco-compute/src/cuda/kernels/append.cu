// Keys and values of rows to the caches of a slot. With a table of rotations, keys are rotated on the way, and queries where
// the attention will find them. Blocks of a row are side by side in y, and the rows of all sequences in x.

constexpr u32 APPEND_THREADS = 128;
constexpr u32 UNIT = 8; // columns of a thread that moves whole vectors

// As a cache of bf16 holds it: the nearest, halves to even.
__device__ __forceinline__ u32 to_bf16(float value) {
    const u32 bits = __float_as_uint(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (bits >> 16) | 0x40u;
    return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}

__device__ __forceinline__ void store_number(char *row, u32 column, u32 format, float x) {
    if (format == 0) ((float *)row)[column] = x;
    else ((u16 *)row)[column] = format == 1 ? to_f16(x) : (u16)to_bf16(x);
}

__device__ __forceinline__ void store_four(char *row, u32 column, u32 format, float4 x) {
    if (format == 0) {
        *(float4 *)(row + 4 * column) = x;
    } else if (format == 1) {
        *(uint2 *)(row + 2 * column) = make_uint2(to_f16(x.x) | (u32)to_f16(x.y) << 16, to_f16(x.z) | (u32)to_f16(x.w) << 16);
    } else {
        *(uint2 *)(row + 2 * column) = make_uint2(to_bf16(x.x) | to_bf16(x.y) << 16, to_bf16(x.z) | to_bf16(x.w) << 16);
    }
}

// Where a row goes: its place among the keys and among the values; nothing stays of rows that newer ones replace.
struct Target {
    char *key;
    char *value;
    u32 format;
    bool stays;
};

__device__ __forceinline__ Target target_of(const AppendParams &p, u32 row, u32 count, u32 appended) {
    const u32 each = p.rows == 1 ? 1 : quotient(p.rows, count);
    const u32 index = p.rows == 1 ? 0 : quotient(row, each);
    const u32 nth = quotient(p.before, count) + row - index * each;
    const Sequence &sequence = p.slot->sequences[index];
    Target target;
    target.format = sequence.format;
    // Of rows that do not all fit, the last ones stay.
    target.stays = nth + sequence.capacity >= appended;
    const u64 row_bytes = (u64)p.columns * size_of(target.format);
    const u64 all = sequence.capacity * row_bytes;
    target.key = sequence.cache + 2 * p.layer * all + place(sequence, sequence.length + nth) * row_bytes;
    target.value = target.key + all;
    return target;
}

// One column of a row whose heads are rotated, if there is a table.
__device__ __forceinline__ float rotated(const AppendParams &p, const float *x, const float *table, u32 column) {
    if (!table) return x[column];
    const u32 half = p.head_dim / 2;
    const u32 i = column % p.head_dim;
    const bool second = p.interleaved ? i % 2 == 1 : i >= half;
    const u32 pair = p.interleaved ? i / 2 : second ? i - half : i;
    const float other = x[p.interleaved ? column ^ 1 : second ? column - half : column + half];
    return x[column] * table[pair] + (second ? other : -other) * table[half + pair];
}

// Eight columns of such a row: two times four neighbours, which begin at `first` and `second`, and their rotations.
struct Eight {
    float4 a, b, cosines, sines;
    u32 first, second;

    __device__ __forceinline__ void load(const AppendParams &p, const float *x, const float *table, u32 column) {
        first = column;
        second = column + 4;
        cosines = sines = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (table) {
            const u32 half = p.head_dim / 2, head = column / p.head_dim * p.head_dim, pair = (column - head) / 2;
            if (!p.interleaved) {
                first = head + pair;
                second = first + half;
            }
            cosines = *(const float4 *)(table + pair);
            sines = *(const float4 *)(table + half + pair);
        }
        a = *(const float4 *)(x + first);
        b = *(const float4 *)(x + second);
    }
    __device__ __forceinline__ void rotate(u32 interleaved) {
        const float4 x = a, y = b, c = cosines, s = sines;
        if (interleaved) {
            a = make_float4(x.x * c.x - x.y * s.x, x.y * c.x + x.x * s.x, x.z * c.y - x.w * s.y, x.w * c.y + x.z * s.y);
            b = make_float4(y.x * c.z - y.y * s.z, y.y * c.z + y.x * s.z, y.z * c.w - y.w * s.w, y.w * c.w + y.z * s.w);
        } else {
            a = make_float4(x.x * c.x - y.x * s.x, x.y * c.y - y.y * s.y, x.z * c.z - y.z * s.z, x.w * c.w - y.w * s.w);
            b = make_float4(y.x * c.x + x.x * s.x, y.y * c.y + x.y * s.y, y.z * c.z + x.z * s.z, y.w * c.w + x.w * s.w);
        }
    }
};

KERNEL(APPEND_THREADS, append, AppendParams) {
    // Asked for first, and used after what is to be moved has been asked for: what is far away comes at the same time.
    const u32 count = p.slot->count, appended = p.slot->appended;
    const u32 row = blockIdx.x;
    const float *k = p.k + (u64)row * p.k_stride;
    const float *v = p.v + (u64)row * p.v_stride;
    const float *q = p.q ? p.q + (u64)row * p.q_stride : nullptr;
    const u32 q_columns = p.q ? p.q_columns : 0;
    float *q_out = p.q_out + (u64)row * p.q_columns;
    const float *table = p.table ? p.table + (u64)row * p.head_dim : nullptr;

    // Whether all of it comes in vectors: rows of a cache then do, too.
    const u64 places = (u64)p.k | (u64)p.v | (u64)p.q | (u64)p.table | (q_columns > 0 ? (u64)p.q_out : 0);
    const u32 strides = p.k_stride | p.v_stride | (q_columns > 0 ? p.q_stride : 0);
    const u32 eights = p.columns | q_columns | (p.table ? p.head_dim : 0);
    const u32 start = blockIdx.y * APPEND_THREADS + threadIdx.x, stride = gridDim.y * APPEND_THREADS;
    if (places % 16 == 0 && strides % 4 == 0 && eights % UNIT == 0) {
        for (u32 i = start; i < (2 * p.columns + q_columns) / UNIT; i += stride) {
            const u32 at = i * UNIT;
            const bool is_value = at >= p.columns && at < 2 * p.columns, is_query = at >= 2 * p.columns;
            Eight x;
            if (is_query) x.load(p, q, table, at - 2 * p.columns);
            else if (is_value) x.load(p, v, nullptr, at - p.columns);
            else x.load(p, k, table, at);
            const Target target = target_of(p, row, count, appended);
            if (table && !is_value) x.rotate(p.interleaved);
            if (is_query) {
                *(float4 *)(q_out + x.first) = x.a;
                *(float4 *)(q_out + x.second) = x.b;
            } else if (target.stays) {
                char *to = is_value ? target.value : target.key;
                store_four(to, x.first, target.format, x.a);
                store_four(to, x.second, target.format, x.b);
            }
        }
        return;
    }
    const Target target = target_of(p, row, count, appended);
    for (u32 i = start; i < 2 * p.columns + q_columns; i += stride) {
        if (i >= 2 * p.columns) {
            q_out[i - 2 * p.columns] = rotated(p, q, table, i - 2 * p.columns);
        } else if (target.stays) {
            const bool is_value = i >= p.columns;
            const u32 column = is_value ? i - p.columns : i;
            const float x = is_value ? v[column] : rotated(p, k, table, column);
            store_number(is_value ? target.value : target.key, column, target.format, x);
        }
    }
}
