// What the kernels of attention share: their parameters, and where the keys and values of a head lie, be it a cache or rows.

// Columns that kernels are made for: the width of a head, rounded up to a multiple of 32, at most 256.
#ifndef COLUMNS
#define COLUMNS 256
#endif

struct AttentionParams {
    const Slot *slot; // or null: keys and values are rows
    const float *q;
    float *out; // rows of all sequences, side by side the heads
    const float *k;
    const float *v;
    float *parts;      // decode: room for the parts of `splits`
    u32 *counters;     // decode: zeros, before and after
    u32 layer;
    u32 rows, keys;    // queries of a sequence; keys of a sequence without a cache
    u32 n_heads, group, head_dim; // group: query heads of a key head
    u32 q_stride, k_stride, v_stride;
    u32 sequences;
    float scale;
    u32 window;        // positions that a query sees, its own included; 0 for all, before and after
    // With a cache: rows of all sequences that the run had appended before those of the queries, with them, and in the end.
    u32 before, until, total;
    u32 splits;        // decode: parts at most
    u32 head, out_row, capacity; // scores: the head, where its rows begin in the result, numbers of a row of it
};

// Times this, powers of e are powers of two.
constexpr float LOG2_E = 1.4426950408889634f;

// Most divisors here are 1, and a division takes as long as a load.
__device__ __forceinline__ u32 quotient(u32 x, u32 by) { return by == 1 ? x : x / by; }

// What is loaded at once, and the numbers in it: 16 bytes, or 8 of bytes, which become as many numbers as halves do.
template <u32 FORMAT> struct Vectors { using Type = uint4; };
template <> struct Vectors<BYTES> { using Type = uint2; };
template <u32 FORMAT> using Vector = typename Vectors<FORMAT>::Type;
template <u32 FORMAT> constexpr u32 NUMBERS = FORMAT == 0 ? 4 : 8;
template <u32 FORMAT> constexpr u32 SIZE = FORMAT == 0 ? 4 : FORMAT == BYTES ? 1 : 2; // of a number

// Bytes without their factor: put into the fraction of 2^23, they are a difference away.
__device__ __forceinline__ float byte_number(u32 word, u32 i) {
    return __uint_as_float(__byte_perm(word, 0x4b000000u, 0x7440u | i)) - 8388736.0f;
}

__device__ __forceinline__ uint4 nothing(const uint4 &) { return make_uint4(0, 0, 0, 0); }
__device__ __forceinline__ uint2 nothing(const uint2 &) { return make_uint2(0, 0); }

__device__ __forceinline__ void unpack_bytes(const uint2 &raw, float (&x)[8]) {
#pragma unroll
    for (u32 i = 0; i < 4; i++) x[i] = byte_number(raw.x, i), x[4 + i] = byte_number(raw.y, i);
}

template <u32 FORMAT> __device__ __forceinline__ void unpack(const Vector<FORMAT> &raw, float (&x)[NUMBERS<FORMAT>]) {
    if constexpr (FORMAT == BYTES) {
        unpack_bytes(raw, x);
        return;
    } else {
    const u32 words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        if constexpr (FORMAT == 0) {
            x[i] = __uint_as_float(words[i]);
        } else {
            x[2 * i] = FORMAT == 1 ? f16_low(words[i]) : bf16_low(words[i]);
            x[2 * i + 1] = FORMAT == 1 ? f16_high(words[i]) : bf16_high(words[i]);
        }
    }
    }
}

// One number of a row, of bytes without its factor.
__device__ __forceinline__ float number_at(const char *row, u32 column, u32 format) {
    if (format == 0) return ((const float *)row)[column];
    if (format == BYTES) return (float)((const u8 *)row)[column] - 128.0f;
    const u16 bits = ((const u16 *)row)[column];
    return format == 1 ? from_f16(bits) : bf16_low(bits);
}

// Keys and values of one key head of a sequence.
struct Keys {
    const char *keys;
    const char *values;
    u64 key_bytes, value_bytes; // from one to the next
    u32 format;
    u32 turn, capacity;  // as of a `Sequence`
    u32 oldest, end;     // the positions that there are
    u32 position;        // that of the first query
    u32 scale_at;        // bytes: from a head of a key to its factor
    bool aligned;        // whether a vector of a head can be loaded at once

    __device__ __forceinline__ u32 place(u32 position) const {
        return (position >= turn ? position : position + capacity) - turn;
    }
    __device__ __forceinline__ const char *key(u32 position) const { return keys + place(position) * key_bytes; }
    __device__ __forceinline__ const char *value(u32 position) const { return values + place(position) * value_bytes; }
    // What the numbers of a head of a key or value have to be multiplied with.
    __device__ __forceinline__ float scale_of(const char *row) const {
        return format == BYTES ? *(const float *)(row + scale_at) : 1.0f;
    }
};

__device__ __forceinline__ Keys keys_of(const AttentionParams &p, u32 index, u32 kv_head, u32 kv_heads) {
    Keys found;
    if (p.slot) {
        const Sequence &sequence = p.slot->sequences[index];
        const u32 width = kv_heads * p.head_dim;
        found.format = sequence.format;
        found.turn = sequence.turn;
        found.capacity = sequence.capacity;
        found.oldest = sequence.first;
        // What a run appends is shared out evenly.
        found.end = sequence.length + quotient(p.until, p.sequences);
        found.position = sequence.length + quotient(p.before, p.sequences);
        const u32 column = kv_head * p.head_dim;
        found.key_bytes = found.value_bytes = row_bytes_of(sequence, width);
        const u64 all = sequence.capacity * found.key_bytes;
        found.keys = sequence.cache + 2 * p.layer * all + (u64)column * size_of(found.format);
        found.scale_at = scales_at(width) + 4 * kv_head - column;
        found.values = found.keys + all;
    } else {
        found.format = found.turn = found.oldest = found.position = found.scale_at = 0;
        found.capacity = found.end = p.keys;
        found.key_bytes = (u64)p.k_stride * 4;
        found.value_bytes = (u64)p.v_stride * 4;
        found.keys = (const char *)(p.k + kv_head * p.head_dim) + (u64)index * p.keys * found.key_bytes;
        found.values = (const char *)(p.v + kv_head * p.head_dim) + (u64)index * p.keys * found.value_bytes;
    }
    const u64 all = (u64)found.keys | (u64)found.values | found.key_bytes | found.value_bytes;
    found.aligned = found.format == BYTES ? (all | p.head_dim) % 8 == 0 : (all | p.head_dim * size_of(found.format)) % 16 == 0;
    return found;
}

// The positions that a query sees: from `begin` to before `end`.
struct Sight {
    u32 begin, end;
};

__device__ __forceinline__ Sight sight_of(const AttentionParams &p, const Keys &keys, u32 position) {
    Sight sight = {keys.oldest, keys.end};
    if (p.window != 0) {
        sight.end = min(sight.end, position + 1);
        if (position + 1 > p.window) sight.begin = max(sight.begin, position + 1 - p.window);
    }
    return sight;
}
