// CUDA C as C++ for the processor: put before a kernel's source. The threads of a block are fibers of one thread, which
// change places where they wait for each other, so that every run is the same and nothing is reordered.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <algorithm>
#include <vector>

#define TURACO_EMULATOR 1

using std::max;
using std::min;

struct dim3 { unsigned x = 1, y = 1, z = 1; };
struct uint2 { unsigned x, y; };
struct uint4 { unsigned x, y, z, w; };
struct int4 { int x, y, z, w; };
struct float2 { float x, y; };
struct float4 { float x, y, z, w; };
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

// What a thread copies to shared memory in the background, in the groups that it waits for.
struct Copies {
    struct Copy { void *to; const void *from; unsigned bytes; bool wanted; };
    std::vector<Copy> asked;
    std::vector<size_t> groups; // where each ends
    size_t done = 0, done_groups = 0;

    void clear() {
        asked.clear();
        groups.clear();
        done = done_groups = 0;
    }
    bool is_under_way() const {
        for (size_t i = done; i < asked.size(); i++)
            if (asked[i].wanted) return true;
        return false;
    }
    // A copy may happen at any time until it is waited for.
    void ask(Copy copy, bool at_once) {
        // Something to read where it is asked for; what is copied at a time lies in one page.
        if (copy.wanted) (void)*(const volatile char *)copy.from;
        asked.push_back(copy);
        if (at_once) run(copy);
    }
    void wait(size_t pending, bool at_once) {
        for (; done_groups + pending < groups.size(); done_groups++) {
            for (; done < groups[done_groups]; done++)
                if (!at_once) run(asked[done]);
        }
        if (done == asked.size()) clear();
    }
    static void run(const Copy &copy) {
        if (copy.wanted) std::memcpy(copy.to, copy.from, copy.bytes);
        else std::memset(copy.to, 0, copy.bytes);
    }
};

// One thread of the running block.
struct Fiber {
    dim3 thread, block, block_dim, grid_dim;
    unsigned lane;
    unsigned turns;       // exchanges so far: lanes are never more than one apart
    bool waited;          // for the call before
    struct Warp *warp;
    Copies copies;
};

// What the lanes of a warp show each other.
struct Warp {
    uint64_t values[2][32];
    unsigned fragments[2][32][6];
};

// What the library of the emulator lends to a compiled kernel.
struct Hooks {
    Fiber *current;
    void (*wait_block)();
    void (*wait_warp)();
    void (*wait_previous)();
    void *dynamic_shared;
    bool copies_at_once;
};

extern "C" { __attribute__((weak, visibility("default"))) Hooks *turaco_hooks; }

#define threadIdx (turaco_hooks->current->thread)
#define blockIdx (turaco_hooks->current->block)
#define blockDim (turaco_hooks->current->block_dim)
#define gridDim (turaco_hooks->current->grid_dim)
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__
#define __restrict__ __restrict
#define __shared__ static
#define __constant__ static const
#define DYNAMIC_SHARED(type, name) type *const name = (type *)turaco_hooks->dynamic_shared
#define __align__(n) alignas(n)
#define __launch_bounds__(...)
#define __grid_constant__

#define KERNEL(threads, name, Params)                                                                   \
    static void name##_body(const Params &p);                                                           \
    extern "C" __attribute__((visibility("default"))) const unsigned long name##_bytes = sizeof(Params); \
    extern "C" __attribute__((visibility("default"))) const unsigned name##_threads = (threads);        \
    extern "C" __attribute__((visibility("default"))) void name(const void *params) {                   \
        name##_body(*(const Params *)params);                                                           \
    }                                                                                                   \
    static void name##_body(const Params &p)

#define RESIDENT_KERNEL(threads, blocks, name, Params) KERNEL(threads, name, Params)

static inline void __syncthreads() { turaco_hooks->wait_block(); }
static inline void __syncwarp(unsigned = 0xffffffffu) { turaco_hooks->wait_warp(); }
static inline void __threadfence() {}
static inline void __threadfence_block() {}
static inline void __threadfence_system() {}

static inline unsigned __float_as_uint(float x) { unsigned u; std::memcpy(&u, &x, 4); return u; }
static inline float __uint_as_float(unsigned u) { float x; std::memcpy(&x, &u, 4); return x; }
static inline int __float_as_int(float x) { return (int)__float_as_uint(x); }
static inline float __int_as_float(int u) { return __uint_as_float((unsigned)u); }
#define __expf(x) expf(x)
#define __logf(x) logf(x)
static inline float __fdividef(float a, float b) { return a / b; }
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline float __frcp_rn(float x) { return 1.0f / x; }
static inline float __fmul_rn(float a, float b) { volatile float c = a * b; return c; }
static inline float __fadd_rn(float a, float b) { volatile float c = a + b; return c; }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __clz(unsigned x) { return x ? __builtin_clz(x) : 32; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)(((uint64_t)a * b) >> 32); }
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned s) {
    uint64_t both = ((uint64_t)b << 32) | a;
    unsigned r = 0;
    for (int i = 0; i < 4; i++) r |= (unsigned)((both >> (8 * ((s >> (4 * i)) & 7))) & 0xff) << (8 * i);
    return r;
}
static inline int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 4; i++) c += (int)(int8_t)(a >> (8 * i)) * (int)(int8_t)(b >> (8 * i));
    return c;
}
template <class T> static inline T __ldg(const T *p) { return *p; }
template <class T> static inline T __ldcg(const T *p) { return *p; }

template <class T> static inline T turaco_exchange(T value, unsigned source) {
    Fiber *me = turaco_hooks->current;
    unsigned turn = me->turns++ & 1;
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(T));
    me->warp->values[turn][me->lane] = bits;
    turaco_hooks->wait_warp();
    bits = me->warp->values[turn][source & 31];
    T result;
    std::memcpy(&result, &bits, sizeof(T));
    return result;
}
template <class T> static inline T __shfl_sync(unsigned, T v, int lane, int width = 32) {
    unsigned me = turaco_hooks->current->lane;
    return turaco_exchange(v, (me & ~(unsigned)(width - 1)) | ((unsigned)lane & (unsigned)(width - 1)));
}
template <class T> static inline T __shfl_xor_sync(unsigned, T v, int mask, int = 32) {
    return turaco_exchange(v, turaco_hooks->current->lane ^ (unsigned)mask);
}
template <class T> static inline T __shfl_down_sync(unsigned, T v, unsigned by, int = 32) {
    unsigned me = turaco_hooks->current->lane;
    return turaco_exchange(v, me + by < 32 ? me + by : me);
}
template <class T> static inline T __shfl_up_sync(unsigned, T v, unsigned by, int = 32) {
    unsigned me = turaco_hooks->current->lane;
    return turaco_exchange(v, me >= by ? me - by : me);
}
static inline unsigned __ballot_sync(unsigned, int wanted) {
    Fiber *me = turaco_hooks->current;
    unsigned turn = me->turns++ & 1;
    me->warp->values[turn][me->lane] = wanted != 0;
    turaco_hooks->wait_warp();
    unsigned bits = 0;
    for (unsigned lane = 0; lane < 32; lane++) bits |= (unsigned)me->warp->values[turn][lane] << lane;
    return bits;
}
static inline int __any_sync(unsigned m, int wanted) { return __ballot_sync(m, wanted) != 0; }

static inline unsigned atomicAdd(unsigned *at, unsigned v) { unsigned old = *at; *at += v; return old; }
static inline float atomicAdd(float *at, float v) { float old = *at; *at += v; return old; }
static inline unsigned atomicMax(unsigned *at, unsigned v) { unsigned old = *at; *at = std::max(old, v); return old; }
static inline unsigned atomicInc(unsigned *at, unsigned last) { unsigned old = *at; *at = old >= last ? 0 : old + 1; return old; }
static inline unsigned atomicExch(unsigned *at, unsigned v) { unsigned old = *at; *at = v; return old; }

static inline float from_f16(unsigned short bits) {
    unsigned sign = (bits & 0x8000u) << 16, exponent = (bits >> 10) & 31, mantissa = bits & 1023;
    if (exponent == 0) return __uint_as_float(sign) + (sign ? -1.0f : 1.0f) * std::ldexp((float)mantissa, -24);
    if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | mantissa << 13);
    return __uint_as_float(sign | (exponent + 112) << 23 | mantissa << 13);
}
static inline unsigned short to_f16(float value) {
    unsigned u = __float_as_uint(value), sign = (u >> 16) & 0x8000u;
    float size = std::fabs(value);
    if (value != value) return (unsigned short)(sign | 0x7e00u);
    if (size >= 65520.0f) return (unsigned short)(sign | 0x7c00u);
    if (size < 6.103515625e-05f) return (unsigned short)(sign | (unsigned)std::nearbyint(std::ldexp(size, 24)));
    unsigned w = __float_as_uint(size);
    w += 0xfffu + ((w >> 13) & 1);
    return (unsigned short)(sign | ((w >> 13) - (112u << 10)));
}
static inline unsigned turaco_bf16(float value) {
    unsigned u = __float_as_uint(value);
    if (value != value) return 0x7fffu;
    return (u + 0x7fffu + ((u >> 16) & 1)) >> 16;
}
static inline unsigned pack_bf16(float low, float high) { return turaco_bf16(low) | turaco_bf16(high) << 16; }
static inline unsigned add_bf16(unsigned a, unsigned b) {
    auto half = [](unsigned both, int odd) { return __uint_as_float(odd ? both & 0xffff0000u : both << 16); };
    return pack_bf16(half(a, 0) + half(b, 0), half(a, 1) + half(b, 1));
}
static inline unsigned bits_or(unsigned word, unsigned mask, unsigned others) { return (word & mask) | others; }
static inline unsigned to_tf32(float value) {
    unsigned u = __float_as_uint(value);
    if ((u & 0x7f800000u) == 0x7f800000u) return u;
    return (u + 0x1000u) & ~0x1fffu;
}

// As `mma.sync`: the fragments of PTX.
static inline void mma_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    Fiber *me = turaco_hooks->current;
    unsigned turn = me->turns++ & 1;
    auto &room = me->warp->fragments[turn];
    for (int i = 0; i < 4; i++) room[me->lane][i] = a[i];
    for (int i = 0; i < 2; i++) room[me->lane][4 + i] = b[i];
    turaco_hooks->wait_warp();
    auto half = [](unsigned both, int odd) { return __uint_as_float(odd ? both & 0xffff0000u : both << 16); };
    for (int i = 0; i < 4; i++) {
        unsigned row = me->lane / 4 + (i >= 2 ? 8 : 0), col = me->lane % 4 * 2 + (i & 1);
        float sum = 0.0f;
        for (unsigned k = 0; k < 16; k++) {
            unsigned pair = k % 8 / 2, upper = k / 8;
            unsigned left = room[row % 8 * 4 + pair][(row >= 8 ? 1 : 0) + 2 * upper];
            unsigned right = room[col * 4 + pair][4 + upper];
            sum += half(left, k & 1) * half(right, k & 1);
        }
        d[i] += sum;
    }
}
static inline void mma_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    Fiber *me = turaco_hooks->current;
    unsigned turn = me->turns++ & 1;
    auto &room = me->warp->fragments[turn];
    for (int i = 0; i < 4; i++) room[me->lane][i] = a[i];
    for (int i = 0; i < 2; i++) room[me->lane][4 + i] = b[i];
    turaco_hooks->wait_warp();
    for (int i = 0; i < 4; i++) {
        unsigned row = me->lane / 4 + (i >= 2 ? 8 : 0), col = me->lane % 4 * 2 + (i & 1);
        float sum = 0.0f;
        for (unsigned k = 0; k < 8; k++) {
            unsigned left = room[row % 8 * 4 + k % 4][(row >= 8 ? 1 : 0) + (k >= 4 ? 2 : 0)];
            unsigned right = room[col * 4 + k % 4][4 + (k >= 4 ? 1 : 0)];
            sum += __uint_as_float(left & ~0x1fffu) * __uint_as_float(right & ~0x1fffu);
        }
        d[i] += sum;
    }
}
struct Place {
    char *at;
    Place operator+(unsigned bytes) const { return {at + bytes}; }
};
static inline Place place_of(const void *at) { return {(char *)at}; }
template <unsigned COUNT> static inline void read_words(unsigned (&to)[COUNT], Place from) {
    if ((uintptr_t)from.at % sizeof(to) != 0) __builtin_trap();
    std::memcpy(to, from.at, sizeof(to));
}
template <unsigned BYTES> static inline void copy_once(Place place, const void *from, bool wanted) {
    static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "what the card copies at a time");
    char *const to = place.at;
    if (((uintptr_t)to | (wanted ? (uintptr_t)from : 0)) % BYTES != 0) __builtin_trap();
    turaco_hooks->current->copies.ask({to, from, BYTES, wanted}, turaco_hooks->copies_at_once);
}
static inline void copy_async(void *to, const void *from, bool wanted) { copy_once<16>(place_of(to), from, wanted); }
static inline void copy_commit() {
    Copies &copies = turaco_hooks->current->copies;
    copies.groups.push_back(copies.asked.size());
}
template <unsigned pending> static inline void copy_wait() {
    turaco_hooks->current->copies.wait(pending, turaco_hooks->copies_at_once);
}
// Whoever asks for what is not there is found.
static inline void bring_nearer(const char *at, unsigned bytes) {
    if ((uintptr_t)at % 16 != 0 || bytes % 16 != 0) __builtin_trap();
    if (bytes == 0) return;
    (void)*(const volatile char *)at;
    (void)*(const volatile char *)(at + bytes - 1);
}
static inline void let_next_begin() {}
static inline void wait_for_previous() { turaco_hooks->wait_previous(); }
static inline unsigned count_up(unsigned *at, unsigned last) { return atomicInc(at, last); }
