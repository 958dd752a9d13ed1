// What every kernel here uses: short names, conversions, reductions, and the few instructions of the card that CUDA C has no
// words for. NVRTC compiles it without any header of a toolkit. With TURACO_EMULATOR the tests' emulator has defined its own
// versions of everything that is an instruction here.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

constexpr u32 WARP = 32;
constexpr u32 PANEL = 32; // outputs of a panel of weights
constexpr u32 BLOCK = 32; // inputs that share a scale in q8 and q4
#define LOWEST (-3.402823466e+38f)
#define MINUS_INFINITY __uint_as_float(0xff800000u)

#ifndef TURACO_EMULATOR
// A kernel takes one struct, by value; so many threads to a block.
#define KERNEL(threads, name, Params) extern "C" __global__ void __launch_bounds__(threads) name(const __grid_constant__ Params p)

// The same for kernels of which a multiprocessor should hold so many blocks: it limits their registers.
#define RESIDENT_KERNEL(threads, blocks, name, Params) \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name(const __grid_constant__ Params p)

// Shared memory of which the caller says how much there is.
#define DYNAMIC_SHARED(type, name) extern __shared__ type name[]

// f16 from and to f32; the latter rounds halves to even.
__device__ __forceinline__ float from_f16(u16 bits) {
    float value;
    asm("{ .reg .b16 h; mov.b16 h, %1; cvt.f32.f16 %0, h; }" : "=f"(value) : "h"(bits));
    return value;
}
__device__ __forceinline__ u16 to_f16(float value) {
    u16 bits;
    asm("{ .reg .b16 h; cvt.rn.f16.f32 h, %1; mov.b16 %0, h; }" : "=h"(bits) : "f"(value));
    return bits;
}

// Two f32 rounded to bf16, the first in the low half.
__device__ __forceinline__ u32 pack_bf16(float low, float high) {
    u32 both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}

// The sums of two pairs of bf16.
__device__ __forceinline__ u32 add_bf16(u32 a, u32 b) {
    u32 sum;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(sum) : "r"(a), "r"(0x3f803f80u), "r"(b));
    return sum;
}

// Some bits of a word, and others that are set: one instruction, which compilers do not find by themselves.
__device__ __forceinline__ u32 bits_or(u32 word, u32 mask, u32 others) {
    u32 result;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(result) : "r"(word), "r"(mask), "r"(others));
    return result;
}

// f32 rounded to tf32 (10 bits of mantissa), as a product of matrices takes it.
__device__ __forceinline__ u32 to_tf32(float value) {
    u32 bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
    return bits;
}

// d += a b on tiles that a warp holds together: 16 x 8 of f32 from 16 x 16 and 16 x 8 of bf16.
__device__ __forceinline__ void mma_bf16(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// The same from 16 x 8 and 8 x 8 of tf32.
__device__ __forceinline__ void mma_tf32(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// A place in shared memory, in a register: compilers would work it out again for every use.
struct Place {
    u32 at;
    __device__ __forceinline__ Place operator+(u32 bytes) const { return {at + bytes}; }
};
__device__ __forceinline__ Place place_of(const void *at) {
    Place place;
    asm volatile("mov.u32 %0, %1;" : "=r"(place.at) : "r"((u32)__cvta_generic_to_shared(at)));
    return place;
}
__device__ __forceinline__ void read_words(u32 (&to)[4], Place from) {
    asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from.at)
                 : "memory");
}
__device__ __forceinline__ void read_words(u32 (&to)[2], Place from) {
    asm volatile("ld.shared.v2.u32 {%0,%1}, [%2];" : "=r"(to[0]), "=r"(to[1]) : "r"(from.at) : "memory");
}
__device__ __forceinline__ void read_words(u32 (&to)[1], Place from) {
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(to[0]) : "r"(from.at) : "memory");
}

// 16 bytes to shared memory in the background; zeros unless `wanted`.
__device__ __forceinline__ void copy_async(void *to, const void *from, bool wanted) {
    const u32 shared = (u32)__cvta_generic_to_shared(to);
    const u32 bytes = wanted ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(from), "r"(bytes) : "memory");
}

// The same of 4, 8 or 16 bytes of weights, which are read once, all of them before long.
template <u32 BYTES> __device__ __forceinline__ void copy_once(Place to, const void *from, bool wanted) {
    static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "what the card copies at a time");
#if __CUDA_ARCH__ >= 800
    const u32 bytes = wanted ? BYTES : 0;
    if constexpr (BYTES == 16) {
        asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16, %2;" ::"r"(to.at), "l"(from), "r"(bytes) : "memory");
    } else {
        asm volatile("cp.async.ca.shared.global.L2::256B [%0], [%1], %2, %3;" ::"r"(to.at), "l"(from), "n"(BYTES), "r"(bytes)
                     : "memory");
    }
#else
    // Older cards do it at once.
#pragma unroll
    for (u32 i = 0; i < BYTES; i += 4) {
        const u32 word = wanted ? *(const u32 *)((const char *)from + i) : 0;
        asm volatile("st.shared.u32 [%0], %1;" ::"r"(to.at + i), "r"(word) : "memory");
    }
#endif
}

// What was asked for since the last of these is a group. Wait for all but the last `pending` groups.
__device__ __forceinline__ void copy_commit() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <u32 pending> __device__ __forceinline__ void copy_wait() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
#endif
}

// Lets bytes, whole units of 16, come from memory to the card's second cache: all threads of a warp ask for the same.
__device__ __forceinline__ void bring_nearer(const char *at, u32 bytes) {
    if (bytes == 0) return;
#if __CUDA_ARCH__ >= 900
    if (threadIdx.x % WARP == 0) asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(at), "r"(bytes) : "memory");
#else
    for (u32 i = threadIdx.x % WARP * 128; i < bytes; i += WARP * 128) asm volatile("prefetch.global.L2 [%0];" ::"l"(at + i));
#endif
}

// The next call of the run may begin when all blocks of this one have said so, or have ended.
__device__ __forceinline__ void let_next_begin() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Waits until the call before has ended and all that it wrote can be seen. Every kernel does so, and of each every block that has
// something to do, which is why all calls before that one have ended too. Until then only weights and what the host gave to the run
// may be read, and nothing may be written.
__device__ __forceinline__ void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Counts up to `last`, then from 0 again; gives the count before. What this block wrote before comes before it for whoever
// counts later: at a block's last barrier, then by one thread, then another barrier.
__device__ __forceinline__ u32 count_up(u32 *at, u32 last) {
    u32 before;
    asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;" : "=r"(before) : "l"(at), "r"(last) : "memory");
    return before;
}
#endif

// How kernels begin that have nothing to do before they wait.
__device__ __forceinline__ void follow() {
    let_next_begin();
    wait_for_previous();
}

__device__ __forceinline__ float bf16_low(u32 both) { return __uint_as_float(both << 16); }
__device__ __forceinline__ float bf16_high(u32 both) { return __uint_as_float(both & 0xffff0000u); }
__device__ __forceinline__ float f16_low(u32 both) { return from_f16((u16)both); }
__device__ __forceinline__ float f16_high(u32 both) { return from_f16((u16)(both >> 16)); }

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
    return value;
}
__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, step));
    return value;
}

// Sum over a block of THREADS threads (a multiple of 32), for all of them. `room` has THREADS / 32 floats in shared memory.
template <u32 THREADS> __device__ __forceinline__ float block_sum(float value, float *room) {
    value = warp_sum(value);
    __syncthreads();
    if (threadIdx.x % WARP == 0) room[threadIdx.x / WARP] = value;
    __syncthreads();
    float sum = 0.0f;
#pragma unroll
    for (u32 warp = 0; warp < THREADS / WARP; warp++) sum += room[warp];
    return sum;
}
template <u32 THREADS> __device__ __forceinline__ float block_max(float value, float *room) {
    value = warp_max(value);
    __syncthreads();
    if (threadIdx.x % WARP == 0) room[threadIdx.x / WARP] = value;
    __syncthreads();
    float most = room[0];
#pragma unroll
    for (u32 warp = 1; warp < THREADS / WARP; warp++) most = fmaxf(most, room[warp]);
    return most;
}

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// Numbered as `Activation` is in Rust.
__device__ __forceinline__ float activate(float x, u32 kind) {
    if (kind == 0) return x;
    switch (kind) {
        case 1: return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
        case 2: return x * sigmoid(x);
        case 3: return fmaxf(x, 0.0f);
        case 4: return sigmoid(x);
        case 5: return x > 0.0f ? x : expm1f(x);
        case 6: return tanhf(x);
        default: return x;
    }
}

// sin(x)^2, the fit that the processor uses: what is left of x modulo pi lies within pi / 2.
__device__ __forceinline__ float sine_squared(float x) {
    const float n = fmaf(x, 0.31830988618379067f, 12582912.0f) - 12582912.0f;
    const float rest = fmaf(n, -0.0009676536f, fmaf(n, -3.140625f, x));
    const float square = rest * rest;
    float sum = fmaf(-3.5407825e-6f, square, 0.00013871641f);
    sum = fmaf(sum, square, -0.003170765f);
    sum = fmaf(sum, square, 0.044441294f);
    sum = fmaf(sum, square, -0.33333215f);
    sum = fmaf(sum, square, 0.9999998f);
    return sum * square;
}

// Whether 16 bytes at a time may be read or written there, and one row further; a null pointer is no hindrance.
__device__ __forceinline__ bool in_quads(const void *at, u32 stride) { return ((u64)at & 15) == 0 && stride % 4 == 0; }
