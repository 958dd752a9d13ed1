// What an append does with eight columns of a head: its norm, its rotation, and the format of the cache. `append.cu` does it, and
// `decode.cu` where attention appends what is new itself.

constexpr u32 UNIT = 8; // columns of a thread that moves whole vectors

enum Kind { KEY, VALUE, QUERY };

struct AppendParams {
    const Slot *slot;
    const float *k;
    const float *v;
    const float *q; // or null: nothing to rotate besides the keys
    float *q_out;
    const float *table; // for each row half a head of cosines, then as many sines; null: no rotation
    const float *k_gamma; // of norms of heads; null for none
    const float *q_gamma;
    u32 layer, rows, columns, q_columns; // rows of all sequences of this append
    u32 k_stride, v_stride, q_stride, q_out_stride, head_dim, interleaved, before, total;
    float k_eps, q_eps;
};

// As a cache of bf16 holds it: the nearest, halves to even.
__device__ __forceinline__ u32 to_bf16(float value) {
    const u32 bits = __float_as_uint(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (bits >> 16) | 0x40u;
    return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}

// What turns the numbers of a head, of which the largest has these bits, into bytes; 0 if none of them is any.
__device__ __forceinline__ float byte_factor(u32 largest) {
    const float factor = 127.0f / __uint_as_float(largest);
    return fabsf(factor) <= -LOWEST ? factor : 0.0f;
}

// What turns bytes back into numbers, of which the largest has these bits.
__device__ __forceinline__ float byte_scale(u32 largest) { return __uint_as_float(largest) / 127.0f; }

// The nearest byte, halves to even, 128 above what it stands for: it appears in the low bits of a large sum.
__device__ __forceinline__ u32 to_byte(float value, float factor) {
    return (__float_as_uint(__fadd_rn(__fmul_rn(value, factor), 12582912.0f)) & 255) ^ 128;
}

// Four neighbouring columns of a row.
__device__ __forceinline__ void store_four(char *row, u32 column, u32 format, float4 x, float factor) {
    if (format == 0) {
        *(float4 *)(row + 4 * column) = x;
    } else if (format == 1) {
        *(uint2 *)(row + 2 * column) = make_uint2(to_f16(x.x) | (u32)to_f16(x.y) << 16, to_f16(x.z) | (u32)to_f16(x.w) << 16);
    } else if (format == BYTES) {
        *(u32 *)(row + column) =
            to_byte(x.x, factor) | to_byte(x.y, factor) << 8 | to_byte(x.z, factor) << 16 | to_byte(x.w, factor) << 24;
    } else {
        *(uint2 *)(row + 2 * column) = make_uint2(to_bf16(x.x) | to_bf16(x.y) << 16, to_bf16(x.z) | to_bf16(x.w) << 16);
    }
}

__device__ __forceinline__ const float *gamma_of(const AppendParams &p, Kind kind) {
    return kind == KEY ? p.k_gamma : kind == QUERY ? p.q_gamma : nullptr;
}

// What a norm multiplies a head of these squares with.
__device__ __forceinline__ float norm_factor(const AppendParams &p, Kind kind, float squares) {
    return rsqrtf(squares * (1.0f / (float)p.head_dim) + (kind == KEY ? p.k_eps : p.q_eps));
}

// Eight columns: two times four neighbours, which begin at `first` and `second`, and what norms and rotates them.
struct Eight {
    float4 a, b, cosines, sines, gamma_a, gamma_b;
    u32 first, second;
    u32 pair; // the first of the angles

    // Those from `column` on of a head that begins at `head`, or as many that a rotation of halves takes together.
    __device__ __forceinline__ void choose(const AppendParams &p, bool is_rotated, u32 head, u32 column) {
        first = column;
        second = column + 4;
        pair = (column - head) / 2;
        if (is_rotated && !p.interleaved) {
            first = head + pair;
            second = first + p.head_dim / 2;
        }
    }
    // Of a norm, which is null for none. These are weights.
    __device__ __forceinline__ void load_gamma(const float *gamma, u32 head) {
        gamma_a = gamma_b = make_float4(1.0f, 1.0f, 1.0f, 1.0f);
        if (gamma) {
            gamma_a = *(const float4 *)(gamma + first - head);
            gamma_b = *(const float4 *)(gamma + second - head);
        }
    }
    // The angles of a position; null without a rotation. The host gives them.
    __device__ __forceinline__ void load_angles(const AppendParams &p, const float *table) {
        cosines = sines = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (table) {
            cosines = *(const float4 *)(table + pair);
            sines = *(const float4 *)(table + p.head_dim / 2 + pair);
        }
    }
    __device__ __forceinline__ void load(const float *x) {
        a = *(const float4 *)(x + first);
        b = *(const float4 *)(x + second);
    }
    __device__ __forceinline__ float squares() const {
        return (a.x * a.x + a.y * a.y) + (a.z * a.z + a.w * a.w) + ((b.x * b.x + b.y * b.y) + (b.z * b.z + b.w * b.w));
    }
    // The bits of the largest number, whatever its sign.
    __device__ __forceinline__ u32 largest() const {
        const float each[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
        u32 most = 0;
#pragma unroll
        for (u32 i = 0; i < 8; i++) most = max(most, __float_as_uint(each[i]) & 0x7fffffffu);
        return most;
    }
    __device__ __forceinline__ void norm(float factor) {
        a = make_float4(a.x * factor * gamma_a.x, a.y * factor * gamma_a.y, a.z * factor * gamma_a.z, a.w * factor * gamma_a.w);
        b = make_float4(b.x * factor * gamma_b.x, b.y * factor * gamma_b.y, b.z * factor * gamma_b.z, b.w * factor * gamma_b.w);
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
    // The norm and the rotation of whole heads, of which neighbouring threads have eight columns each. All threads of a warp do it.
    __device__ __forceinline__ void turn(const AppendParams &p, Kind kind) {
        if (p.k_gamma || p.q_gamma) {
            float all = squares();
            for (u32 step = p.head_dim / UNIT / 2; step > 0; step /= 2) all += __shfl_xor_sync(0xffffffffu, all, step);
            if (gamma_of(p, kind)) norm(norm_factor(p, kind, all));
        }
        if (p.table && kind != VALUE) rotate(p.interleaved);
    }
    // The largest number of heads of so many columns, which all threads of a warp look for.
    __device__ __forceinline__ u32 largest_of_head(u32 head_dim) const {
        u32 most = largest();
        for (u32 step = head_dim / UNIT / 2; step > 0; step /= 2) most = max(most, __shfl_xor_sync(0xffffffffu, most, step));
        return most;
    }
    // To a row of a cache; `factor` makes bytes of them.
    __device__ __forceinline__ void store(char *row, u32 format, float factor) const {
        store_four(row, first, format, a, factor);
        store_four(row, second, format, b, factor);
    }
};
