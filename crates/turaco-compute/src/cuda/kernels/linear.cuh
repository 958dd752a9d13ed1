// What the linear maps share: their parameters, how weights of the type WEIGHTS (numbered as `WeightType` is in Rust) lie in
// panels of 32 outputs, and what is done to a sum before it is written.

#define F32 0
#define F16 1
#define BF16 2
#define INT8 3
#define Q8 4
#define Q4 5

// Whether products go through tiles of bf16 that a warp holds together; else they are plain ones.
#if WEIGHTS >= BF16 && __CUDA_ARCH__ >= 800
#define TILES 1
#else
#define TILES 0
#endif

// So many bytes of each of so many panels.
struct Ahead {
    const char *at;
    u64 panel_bytes;
    u32 panels, bytes;
};

struct LinearParams {
    const uint4 *weights;  // panels of 32 outputs, panel_bytes apart
    const float *scales;   // int8: one for each row, padded to whole panels
    const float *x;
    float *out;
    const float *bias;     // or null, as all up to `counters`
    const float *residual;
    const float *gamma;    // of a norm of x's rows that comes first
    const float *beta;     // of a layer norm
    const float *gain;     // of an rms norm: row r / gain_each of it multiplies row r
    float *partial;        // sums of parts of the inputs
    u32 *counters;         // zeros before and after, one for each tile
    u64 panel_bytes;
    u32 rows, inputs, outputs;
    u32 x_stride, out_stride, residual_stride, gain_stride, gain_each;
    u32 activation, norm;  // norm: 0 none, 1 layer, 2 rms
    float scale, eps;      // result = activation(x W^T + bias) * scale + residual
    u32 rows_in, rows_out, channels, step, padding, dilation; // of a convolution
    u32 splits;            // parts that the inputs are cut into
    // Weights that calls to come will read, for this one to bring nearer.
    Ahead ahead[4];
};

// A step is 32 inputs of a panel: LEAD bytes of scales, then lines of 128 bytes.
constexpr u32 LINE = 128;
constexpr u32 LEAD = WEIGHTS == Q8 ? 64 : WEIGHTS == Q4 ? 128 : 0;
constexpr u32 LINES = WEIGHTS == F32 ? 32 : WEIGHTS <= BF16 ? 16 : WEIGHTS == Q4 ? 4 : 8;
constexpr u32 STEP_BYTES = LEAD + LINES * LINE;
constexpr u32 QUADS = 8;         // of inputs in a step
constexpr u32 LOADS = LINES / 4; // lines of a step for each of the four threads that share an output

// The line of a step that the load number `nth` of thread `t` of four reads: so that its inputs are whole quads.
__device__ __forceinline__ u32 line_of(u32 nth, u32 t) {
    if (WEIGHTS == BF16) return nth / 2 * 8 + 2 * t + nth % 2;
    if (WEIGHTS == INT8 || WEIGHTS == Q8) return 2 * t + nth;
    return 4 * nth + t;
}

// Where a quad of a step belongs among the pairs that the products of tiles take: the thread, and which half of its four.
__device__ __forceinline__ u32 quad_thread(u32 quad) { return WEIGHTS == BF16 ? quad % 4 : quad / 2; }
__device__ __forceinline__ u32 quad_half(u32 quad) { return WEIGHTS == BF16 ? quad / 4 : quad % 2; }

// Four numbers rounded to bf16, in pairs as `unpack` orders weights: bytes come two apart.
__device__ __forceinline__ uint2 rounded_pairs(float4 v) {
    if (WEIGHTS == BF16) return make_uint2(pack_bf16(v.x, v.y), pack_bf16(v.z, v.w));
    return make_uint2(pack_bf16(v.x, v.z), pack_bf16(v.y, v.w));
}

#if TILES
// One word of each line that a thread has, to the four pairs of bf16 that it stands for: exact integers; q4's are 16 too large.
__device__ __forceinline__ void unpack(const u32 (&words)[LOADS], u32 (&pairs)[4]) {
#if WEIGHTS == BF16
    for (u32 i = 0; i < 4; i++) pairs[i] = words[i];
#elif WEIGHTS == Q4
    // 16 + q: the number lies in the upper bits of the fraction.
    pairs[0] = bits_or(words[0] << 3, 0x00780078u, 0x41804180u);
    pairs[1] = bits_or(words[0] >> 5, 0x00780078u, 0x41804180u);
    pairs[2] = bits_or(words[0] >> 1, 0x00780078u, 0x41804180u);
    pairs[3] = bits_or(words[0] >> 9, 0x00780078u, 0x41804180u);
#else
    // 128 plus the lower seven bits, and minus 128 or 256: the highest bit is the lowest of an exponent.
    for (u32 i = 0; i < 2; i++) {
        for (u32 odd = 0; odd < 2; odd++) {
            const u32 word = words[i] >> (8 * odd);
            const u32 sign = WEIGHTS == Q8 ? ~word : word;
            pairs[2 * i + odd] = add_bf16(bits_or(word, 0x007f007fu, 0x43004300u), bits_or(sign, 0x00800080u, 0xc300c300u));
        }
    }
#endif
}
#endif

// Four inputs of one output as f32, zeros beyond the last.
__device__ __forceinline__ float4 weight_quad(const char *panel, u32 panel_bytes, u32 quad, u32 lane, float row_scale) {
    float v[4];
#if WEIGHTS == F32 || WEIGHTS == F16
    constexpr u32 size = WEIGHTS == F32 ? 4 : 2;
    for (u32 i = 0; i < 4; i++) {
        const u32 at = ((4 * quad + i) * PANEL + lane) * size;
        v[i] = 0.0f;
        if (at < panel_bytes) v[i] = WEIGHTS == F32 ? *(const float *)(panel + at) : from_f16(*(const u16 *)(panel + at));
    }
#elif WEIGHTS == BF16
    for (u32 i = 0; i < 2; i++) {
        const u32 at = ((2 * quad + i) * PANEL + lane) * 4;
        const u32 both = at < panel_bytes ? *(const u32 *)(panel + at) : 0;
        v[2 * i] = bf16_low(both);
        v[2 * i + 1] = bf16_high(both);
    }
#elif WEIGHTS == INT8
    const u32 at = (quad * PANEL + lane) * 4;
    const u32 word = at < panel_bytes ? *(const u32 *)(panel + at) : 0;
    for (u32 i = 0; i < 4; i++) v[i] = (float)((int)(word << (24 - 8 * i)) >> 24) * row_scale;
#else
    const char *step = panel + quad / QUADS * STEP_BYTES;
    for (u32 i = 0; i < 4; i++) v[i] = 0.0f;
    if (quad / QUADS * STEP_BYTES < panel_bytes) {
        const float scale = from_f16(((const u16 *)step)[lane]);
        const u32 nth = quad % QUADS;
#if WEIGHTS == Q8
        const u32 word = ((const u32 *)(step + LEAD))[nth * PANEL + lane];
        for (u32 i = 0; i < 4; i++) v[i] = (float)((int)(word >> (8 * i) & 255) - 128) * scale;
#else
        const float minimum = from_f16(((const u16 *)step)[PANEL + lane]);
        const u32 word = ((const u32 *)(step + LEAD))[nth / 2 * PANEL + lane] >> (4 * (nth & 1));
        for (u32 i = 0; i < 4; i++) v[i] = (float)(word >> (8 * i) & 15) * scale + minimum;
#endif
    }
#endif
    return make_float4(v[0], v[1], v[2], v[3]);
}

// Whether quads of rows so far apart can be read at once.
__device__ __forceinline__ bool whole_quads(const float *at, u32 stride) {
    return (u64)at % 16 == 0 && stride % 4 == 0;
}

// Four numbers of a row of `count`, zeros beyond its end. WHOLE if rows are whole quads that can be read at once: then loads
// do not wait for each other in branches.
template <bool WHOLE> __device__ __forceinline__ float4 row_quad(const float *row, u32 quad, u32 count) {
    const u32 at = 4 * quad;
    float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (WHOLE) {
        if (at < count) v = *(const float4 *)(row + at);
    } else {
        if (at < count) v.x = row[at];
        if (at + 1 < count) v.y = row[at + 1];
        if (at + 2 < count) v.z = row[at + 2];
        if (at + 3 < count) v.w = row[at + 3];
    }
    return v;
}
