// One result from few values of at most two views, for every row and column of the output.

struct MapParams {
    const float *a;
    const float *b;
    const float *c;
    const u32 *ids;
    float *out;
    u32 rows, cols, a_stride, b_stride, b_rows, out_stride; // out_stride 0: rows lie next to each other
    u32 kind, x_rows;
    float a_scale, b_scale;
};

constexpr u32 MAP_THREADS = 256;

__device__ __forceinline__ float a_at(const MapParams &p, u32 row, u32 col) { return p.a[(u64)row * p.a_stride + col]; }
__device__ __forceinline__ float b_at(const MapParams &p, u32 row, u32 col) { return p.b[(u64)row * p.b_stride + col]; }
__device__ __forceinline__ float4 quad_at(const float *from, u32 stride, u32 row, u32 col) {
    return *(const float4 *)(from + (u64)row * stride + col);
}
__device__ __forceinline__ float4 a_quad(const MapParams &p, u32 row, u32 col) { return quad_at(p.a, p.a_stride, row, col); }
__device__ __forceinline__ float4 b_quad(const MapParams &p, u32 row, u32 col) { return quad_at(p.b, p.b_stride, row, col); }

// A function that has `one(p, row, col)` and `four(p, row, col)`, at every place. A grid has a thread for each result, or
// fewer: then its threads go around, by four results that lie next to each other where that is possible.
template <class Function> __device__ __forceinline__ void over(const MapParams &p) {
    follow();
    const u32 stride = p.out_stride == 0 ? p.cols : p.out_stride;
    const u32 count = p.rows * p.cols;
    const u32 threads = gridDim.x * MAP_THREADS;
    const u32 thread = blockIdx.x * MAP_THREADS + threadIdx.x;
    const bool aligned = p.cols % 4 == 0 && in_quads(p.out, stride) && in_quads(p.a, p.a_stride) && in_quads(p.b, p.b_stride) &&
                         in_quads(p.c, 0);
    if (aligned && count > threads) {
        const u32 quads = p.cols / 4;
        for (u32 i = thread; i < count / 4; i += threads) {
            const u32 row = i / quads, col = i % quads * 4;
            *(float4 *)(p.out + (u64)row * stride + col) = Function::four(p, row, col);
        }
        return;
    }
    for (u32 i = thread; i < count; i += threads) {
        const u32 row = i / p.cols, col = i % p.cols;
        p.out[(u64)row * stride + col] = Function::one(p, row, col);
    }
}

struct Activated {
    static __device__ __forceinline__ float one(const MapParams &p, u32 row, u32 col) {
        return activate(a_at(p, row, col), p.kind);
    }
    static __device__ __forceinline__ float4 four(const MapParams &p, u32 row, u32 col) {
        const float4 a = a_quad(p, row, col);
        if (p.kind == 0) return a;
        return make_float4(activate(a.x, p.kind), activate(a.y, p.kind), activate(a.z, p.kind), activate(a.w, p.kind));
    }
};

struct Sum {
    static __device__ __forceinline__ float of(const MapParams &p, float a, float b) { return a * p.a_scale + b * p.b_scale; }
    static __device__ __forceinline__ float one(const MapParams &p, u32 row, u32 col) {
        return of(p, a_at(p, row, col), b_at(p, row % p.b_rows, col));
    }
    static __device__ __forceinline__ float4 four(const MapParams &p, u32 row, u32 col) {
        const float4 a = a_quad(p, row, col), b = b_quad(p, row % p.b_rows, col);
        return make_float4(of(p, a.x, b.x), of(p, a.y, b.y), of(p, a.z, b.z), of(p, a.w, b.w));
    }
};

__device__ __forceinline__ float4 product_of(float4 a, float4 b) {
    return make_float4(a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w);
}

// The `b_rows` rows of `b` over and over.
struct Product {
    static __device__ __forceinline__ float one(const MapParams &p, u32 row, u32 col) {
        return a_at(p, row, col) * b_at(p, row % p.b_rows, col);
    }
    static __device__ __forceinline__ float4 four(const MapParams &p, u32 row, u32 col) {
        return product_of(a_quad(p, row, col), b_quad(p, row % p.b_rows, col));
    }
};

struct SwiGlu {
    static __device__ __forceinline__ float of(float gate, float up) { return gate * sigmoid(gate) * up; }
    static __device__ __forceinline__ float one(const MapParams &p, u32 row, u32 col) {
        return of(a_at(p, row, col), b_at(p, row, col));
    }
    static __device__ __forceinline__ float4 four(const MapParams &p, u32 row, u32 col) {
        const float4 a = a_quad(p, row, col), b = b_quad(p, row, col);
        return make_float4(of(a.x, b.x), of(a.y, b.y), of(a.z, b.z), of(a.w, b.w));
    }
};

// `b` has the cosines, then the sines of a row's angles. Halves of `kind` columns turn against each other; neighbours if
// `x_rows` is 1.
struct Rotated {
    static __device__ __forceinline__ float one(const MapParams &p, u32 row, u32 col) {
        const u32 half = p.kind / 2, i = col % p.kind;
        u32 other, pair;
        bool second;
        if (p.x_rows != 0) {
            other = col ^ 1, pair = i / 2, second = i % 2 == 1;
        } else {
            second = i >= half;
            other = second ? col - half : col + half, pair = second ? i - half : i;
        }
        const float x = a_at(p, row, col), y = a_at(p, row, other);
        const float cosine = b_at(p, row, pair), sine = b_at(p, row, half + pair);
        return x * cosine + (second ? y : -y) * sine;
    }
    static __device__ __forceinline__ float4 four(const MapParams &p, u32 row, u32 col) {
        return make_float4(one(p, row, col), one(p, row, col + 1), one(p, row, col + 2), one(p, row, col + 3));
    }
};

struct Gathered {
    static __device__ __forceinline__ u32 from(const MapParams &p, u32 row) { return min(p.ids[row], p.x_rows - 1); }
    static __device__ __forceinline__ float one(const MapParams &p, u32 row, u32 col) { return a_at(p, from(p, row), col); }
    static __device__ __forceinline__ float4 four(const MapParams &p, u32 row, u32 col) { return a_quad(p, from(p, row), col); }
};

struct Magnitude {
    static __device__ __forceinline__ float of(float real, float imaginary) {
        return sqrtf(real * real + imaginary * imaginary);
    }
    static __device__ __forceinline__ float one(const MapParams &p, u32 row, u32 col) {
        return of(a_at(p, row, col), a_at(p, row, col + p.cols));
    }
    static __device__ __forceinline__ float4 four(const MapParams &p, u32 row, u32 col) {
        const float4 a = a_quad(p, row, col), b = a_quad(p, row, col + p.cols);
        return make_float4(of(a.x, b.x), of(a.y, b.y), of(a.z, b.z), of(a.w, b.w));
    }
};

// Of a column `b` has the rate and `c` the gain.
struct Snake {
    static __device__ __forceinline__ float of(float x, float rate, float gain) {
        return fmaf(gain, sine_squared(rate * x), x);
    }
    static __device__ __forceinline__ float one(const MapParams &p, u32 row, u32 col) {
        return of(a_at(p, row, col), p.b[col], p.c[col]);
    }
    static __device__ __forceinline__ float4 four(const MapParams &p, u32 row, u32 col) {
        const float4 x = a_quad(p, row, col), rate = quad_at(p.b, 0, 0, col), gain = quad_at(p.c, 0, 0, col);
        return make_float4(of(x.x, rate.x, gain.x), of(x.y, rate.y, gain.y), of(x.z, rate.z, gain.z), of(x.w, rate.w, gain.w));
    }
};

// `b` has `kind` taps of every column, `c` their biases if there are any.
struct Depthwise {
    static __device__ __forceinline__ float one(const MapParams &p, u32 row, u32 col) {
        float sum = p.c ? p.c[col] : 0.0f;
#pragma unroll 8
        for (u32 tap = 0; tap < p.kind; tap++) sum = fmaf(a_at(p, row + tap, col), b_at(p, tap, col), sum);
        return sum;
    }
    static __device__ __forceinline__ float4 four(const MapParams &p, u32 row, u32 col) {
        float4 sum = p.c ? quad_at(p.c, 0, 0, col) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 4
        for (u32 tap = 0; tap < p.kind; tap++) {
            const float4 a = a_quad(p, row + tap, col), b = b_quad(p, tap, col);
            sum.x = fmaf(a.x, b.x, sum.x), sum.y = fmaf(a.y, b.y, sum.y);
            sum.z = fmaf(a.z, b.z, sum.z), sum.w = fmaf(a.w, b.w, sum.w);
        }
        return sum;
    }
};

// The `x_rows` rows of `a` over and over.
struct Repeated {
    static __device__ __forceinline__ float one(const MapParams &p, u32 row, u32 col) { return a_at(p, row % p.x_rows, col); }
    static __device__ __forceinline__ float4 four(const MapParams &p, u32 row, u32 col) {
        return a_quad(p, row % p.x_rows, col);
    }
};

KERNEL(256, map_activate, MapParams) { over<Activated>(p); }
KERNEL(256, map_add, MapParams) { over<Sum>(p); }
KERNEL(256, map_product, MapParams) { over<Product>(p); }
KERNEL(256, map_swiglu, MapParams) { over<SwiGlu>(p); }
KERNEL(256, map_rotate, MapParams) { over<Rotated>(p); }
KERNEL(256, map_gather, MapParams) { over<Gathered>(p); }
KERNEL(256, map_magnitude, MapParams) { over<Magnitude>(p); }
KERNEL(256, map_snake, MapParams) { over<Snake>(p); }
KERNEL(256, map_depthwise, MapParams) { over<Depthwise>(p); }
KERNEL(256, map_repeat, MapParams) { over<Repeated>(p); }

// Stacked matrices of `x_rows` rows and `b_rows` columns each, transposed by squares: both sides are read and written along
// their rows. Any number of blocks.
KERNEL(256, map_transpose, MapParams) {
    follow();
    constexpr u32 SIDE = 32;
    __shared__ float square[SIDE][SIDE + 1];
    const u32 stride = p.out_stride == 0 ? p.cols : p.out_stride;
    const u32 rows = p.x_rows, cols = p.b_rows;
    const u32 across = (cols + SIDE - 1) / SIDE, down = (rows + SIDE - 1) / SIDE;
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const u32 squares = p.rows / cols * across * down;
    for (u32 nth = blockIdx.x; nth < squares; nth += gridDim.x) {
        const u32 sequence = nth / (across * down);
        const u32 first_row = nth / across % down * SIDE, first_col = nth % across * SIDE;
#pragma unroll
        for (u32 i = warp; i < SIDE; i += MAP_THREADS / WARP) {
            const u32 row = first_row + i, col = first_col + lane;
            if (row < rows && col < cols) square[i][lane] = a_at(p, sequence * rows + row, col);
        }
        __syncthreads();
#pragma unroll
        for (u32 i = warp; i < SIDE; i += MAP_THREADS / WARP) {
            const u32 row = first_col + i, col = first_row + lane;
            if (row < cols && col < rows) p.out[(u64)(sequence * cols + row) * stride + col] = square[lane][i];
        }
        __syncthreads();
    }
}
