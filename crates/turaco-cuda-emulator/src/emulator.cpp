// An imitation of libcuda and libnvrtc: kernels are compiled with the machine's C++ compiler and run on the processor. It
// counts what is asked of it, refuses what a driver refuses, and fails where a test wants it to.
#include "device.h"
#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim

#include <cstdio>
#include <csignal>
#include <cstdlib>
#include <deque>
#include <dlfcn.h>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>
#include <functional>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#define EXPORT extern "C" __attribute__((visibility("default")))
typedef int CUresult;
enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_IMAGE = 200, NOT_FOUND = 500, NOT_READY = 600,
       ILLEGAL_ADDRESS = 700, LAUNCH_FAILED = 719, NOT_SUPPORTED = 801, CAPTURE_UNSUPPORTED = 900 };

static std::recursive_mutex everything;
#define LOCK std::lock_guard<std::recursive_mutex> lock(everything)

// ---- what tests see and ask for

// Launches of kernels, of graphs, copies to and from the device with their bytes, allocations, captures, compilations.
enum Count { KERNELS, GRAPHS, UPLOADS, UPLOADED, DOWNLOADS, DOWNLOADED, ALLOCATIONS, CAPTURES, COMPILATIONS, COUNTS };
static uint64_t counts[COUNTS];
static uint64_t memory_total = 1ull << 34, memory_used = 0;
static int devices = 1, capability = 90, processors = 4;
static int64_t fail_launch_in = -1, hang_in = -1;
static bool lost = false, hanging = false;

// In which order threads and blocks run, where nothing tells them to wait: each in turn, the last ones first, or any (the same in
// every run). What a kernel gives may not depend on it; the first takes the least time.
enum Order { FORWARD, BACKWARD, SHUFFLED };
static Order order = FORWARD;

EXPORT void turaco_emulator_counts(uint64_t *to) { LOCK; std::memcpy(to, counts, sizeof(counts)); }
// 0: bytes of memory; 1: devices; 2: capability (90 = 9.0); 3: a launch fails after so many; 4: one hangs; 5: all is well again; 6: processors; 7: the order.
EXPORT void turaco_emulator_set(int what, int64_t value) {
    LOCK;
    switch (what) {
        case 0: memory_total = (uint64_t)value; break;
        case 1: devices = (int)value; break;
        case 2: capability = (int)value; break;
        case 3: fail_launch_in = value; break;
        case 4: hang_in = value; break;
        case 6: processors = (int)value; break;
        case 7: order = (Order)value; break;
        case 5: lost = hanging = false; fail_launch_in = hang_in = -1; break;
    }
}

// ---- fibers

constexpr size_t STACK = 128 << 10;

struct Context {
#if defined(__x86_64__)
    void *stack_pointer = nullptr;
#else
    ucontext_t context;
#endif
};

#if defined(__x86_64__)
extern "C" void turaco_switch(void **from, void *to);
asm(R"(
.text
.globl turaco_switch
.hidden turaco_switch
.type turaco_switch,@function
turaco_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");
#endif

enum State { READY, AT_WARP, AT_BLOCK, AT_PREVIOUS, DONE };

struct Thread {
    Fiber fiber;
    Context context;
    State state = READY;
    char *stack = nullptr;
};

static Hooks hooks;
static Context scheduler;
static std::deque<Thread> threads;
static std::vector<Warp> warps;
static Thread *running;
static void (*kernel)(const void *);
static const void *kernel_params;

static void switch_to(Context &from, Context &to) {
#if defined(__x86_64__)
    turaco_switch(&from.stack_pointer, to.stack_pointer);
#else
    swapcontext(&from.context, &to.context);
#endif
}
static void wait_in(State state) {
    running->state = state;
    switch_to(running->context, scheduler);
}
static void wait_block() { wait_in(AT_BLOCK); }
static void wait_warp() { wait_in(AT_WARP); }

// A call may begin before the one before it has ended: until its threads have waited for that one, what kernels write is out of
// their reach in blocks that are watched. Weights and what the host gives are the rest: memory that the card did not fill when it
// was new.
static bool watching = false, touched = false, unfinished = false;
static void reach(bool allowed);
static void wait_previous() {
    running->fiber.waited = true;
    if (watching) wait_in(AT_PREVIOUS);
}
static struct sigaction faults_before;
static void on_fault(int, siginfo_t *, void *) {
    if (!watching) {
        sigaction(SIGSEGV, &faults_before, nullptr); // what follows is the process's business
        return;
    }
    touched = true;
    wait_in(DONE);
}
static void watch() {
    static bool installed = false;
    if (!installed) {
        struct sigaction action = {};
        action.sa_sigaction = on_fault;
        action.sa_flags = SA_SIGINFO | SA_NODEFER;
        sigaction(SIGSEGV, &action, &faults_before);
        installed = true;
    }
    reach(false);
    watching = true;
}
static void watch_no_more() {
    watching = false;
    reach(true);
}

static void fiber_main() {
    kernel(kernel_params);
    wait_in(DONE);
    abort();
}
static void prepare(Thread &thread) {
    if (!thread.stack)
        thread.stack = (char *)mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
#if defined(__x86_64__)
    void **top = (void **)(thread.stack + STACK);
    *--top = nullptr;             // keeps the stack aligned as after a call
    *--top = (void *)fiber_main;  // where the switch returns to
    for (int i = 0; i < 6; i++) *--top = nullptr;
    thread.context.stack_pointer = top;
#else
    getcontext(&thread.context.context);
    thread.context.context.uc_stack.ss_sp = thread.stack;
    thread.context.context.uc_stack.ss_size = STACK;
    thread.context.context.uc_link = nullptr;
    makecontext(&thread.context.context, fiber_main, 0);
#endif
    thread.state = READY;
}

static unsigned random_below(unsigned count) {
    static uint64_t state = 88172645463325252ull;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (unsigned)(state >> 33) % count;
}
// Numbers below `count` in that order.
static void arrange(std::vector<unsigned> &numbers, unsigned count) {
    numbers.resize(count);
    for (unsigned i = 0; i < count; i++) numbers[i] = order == BACKWARD ? count - 1 - i : i;
    if (order == SHUFFLED)
        for (unsigned i = count; i > 1; i--) std::swap(numbers[i - 1], numbers[random_below(i)]);
}

// How many threads of a block waited for the call before. Blocks that find nothing to do may leave without.
enum Waited { NONE, SOME, ALL };
static Waited run_block(dim3 block, dim3 grid_dim, dim3 block_dim) {
    unsigned count = block_dim.x * block_dim.y * block_dim.z;
    if (threads.size() < count) threads.resize(count);
    if (warps.size() < (count + 31) / 32) warps.resize((count + 31) / 32);
    for (unsigned i = 0; i < count; i++) {
        Thread &thread = threads[i];
        prepare(thread);
        thread.fiber.thread.x = i % block_dim.x;
        thread.fiber.thread.y = i / block_dim.x % block_dim.y;
        thread.fiber.thread.z = i / block_dim.x / block_dim.y;
        thread.fiber.block = block;
        thread.fiber.grid_dim = grid_dim;
        thread.fiber.block_dim = block_dim;
        thread.fiber.lane = i % 32;
        thread.fiber.turns = 0;
        thread.fiber.waited = false;
        thread.fiber.copies.clear();
        thread.fiber.warp = &warps[i / 32];
    }
    static std::vector<unsigned> warp_order, lane_order;
    unsigned done = 0;
    while (done < count) {
        bool moved = false;
        arrange(warp_order, (count + 31) / 32);
        for (unsigned warp : warp_order) {
            unsigned first = 32 * warp, end = std::min(count, first + 32);
            for (;;) {
                arrange(lane_order, end - first);
                for (unsigned lane : lane_order) {
                    unsigned i = first + lane;
                    if (threads[i].state != READY) continue;
                    moved = true;
                    running = &threads[i];
                    hooks.current = &threads[i].fiber;
                    switch_to(scheduler, threads[i].context);
                    if (threads[i].state == DONE) done++;
                }
                // A warp goes on when all that are left of it have come.
                unsigned waiting = 0, elsewhere = 0;
                for (unsigned i = first; i < end; i++) {
                    waiting += threads[i].state == AT_WARP;
                    elsewhere += threads[i].state == AT_BLOCK || threads[i].state == AT_PREVIOUS;
                }
                if (waiting == 0 || elsewhere > 0) break;
                for (unsigned i = first; i < end; i++)
                    if (threads[i].state == AT_WARP) threads[i].state = READY;
            }
        }
        unsigned at_block = 0, at_previous = 0;
        for (unsigned i = 0; i < count; i++) {
            at_block += threads[i].state == AT_BLOCK;
            at_previous += threads[i].state == AT_PREVIOUS;
        }
        if (at_previous > 0 && at_previous + done == count) {
            watch_no_more();
            for (unsigned i = 0; i < count; i++)
                if (threads[i].state == AT_PREVIOUS) threads[i].state = READY;
            moved = true;
        }
        if (at_block > 0 && at_block + done == count) {
            for (unsigned i = 0; i < count; i++)
                if (threads[i].state == AT_BLOCK) threads[i].state = READY;
            moved = true;
        }
        if (!moved) {
            fprintf(stderr, "the threads of a block wait for each other in different places\n");
            abort();
        }
    }
    if (watching) watch_no_more();
    unsigned waited = 0;
    for (unsigned i = 0; i < count; i++) {
        waited += threads[i].fiber.waited;
        unfinished |= threads[i].fiber.copies.is_under_way();
    }
    return waited == 0 ? NONE : waited == count ? ALL : SOME;
}

// ---- modules and launches

struct Function {
    std::string name;
    void (*call)(const void *);
    size_t bytes;
    unsigned threads;
    unsigned most_shared = 48 << 10; // bytes that a call may ask for
    mutable unsigned watched = 0;
};
struct Module {
    void *library;
    Hooks **slot;
    std::map<std::string, std::unique_ptr<Function>> functions;
};

// Shared memory of the running block that its call has asked for: behind it is a page that nobody may touch.
constexpr size_t MOST_SHARED = 256 << 10;
static void *dynamic_shared(size_t bytes) {
    static char *mapped = nullptr;
    if (!mapped) {
        mapped = (char *)mmap(nullptr, MOST_SHARED + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        mprotect(mapped + MOST_SHARED, 4096, PROT_NONE);
    }
    char *at = mapped + MOST_SHARED - (bytes + 15) / 16 * 16;
    std::memset(at, 0xff, bytes); // not a number, for whoever reads what nobody wrote
    return at;
}

// `early`: it may begin before the call before it has ended.
static CUresult launch(const Function *function, dim3 grid, dim3 block, unsigned shared, const void *params, bool early) {
    if (hanging) return SUCCESS;
    if (hang_in >= 0 && hang_in-- == 0) { hanging = true; return SUCCESS; }
    if (fail_launch_in >= 0 && fail_launch_in-- == 0) lost = true;
    if (lost) return ILLEGAL_ADDRESS;
    counts[KERNELS]++;
    kernel = function->call;
    kernel_params = params;
    static std::vector<unsigned> blocks;
    arrange(blocks, grid.x * grid.y * grid.z);
    // Watching takes time: the first calls of a kernel, then some; their first blocks, their last, and any one of the others.
    const unsigned middle = random_below((unsigned)blocks.size());
    const bool watched = early && (function->watched++ < 16 || function->watched % 61 == 0);
    bool waited = true, any_waited = false;
    for (unsigned i : blocks) {
        hooks.dynamic_shared = dynamic_shared(shared);
        // As late as may be, at once, or either of the two.
        hooks.copies_at_once = order == BACKWARD || (order == SHUFFLED && random_below(2) == 1);
        if (watched && (i == blocks.front() || i == blocks.back() || i == blocks[middle])) watch();
        const Waited of_block = run_block({i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y}, grid, block);
        any_waited |= of_block == ALL;
        waited = of_block != SOME && (any_waited || i != blocks.back());
        if (unfinished) {
            fprintf(stderr, "%s ends before what it copies in the background has come\n", function->name.c_str());
            unfinished = false;
            return LAUNCH_FAILED;
        }
        if (touched || (early && !waited)) {
            fprintf(stderr, "%s %s the call before it\n", function->name.c_str(),
                    touched ? "reaches for memory that kernels write before it waits for" : "does not wait for");
            touched = false;
            return LAUNCH_FAILED;
        }
    }
    return SUCCESS;
}

EXPORT CUresult cuModuleLoadData(Module **out, const void *image) {
    LOCK;
    // The image is the path of a library behind a mark.
    if (std::memcmp(image, "EMULATED", 8) != 0) return INVALID_IMAGE;
    void *library = dlopen((const char *)image + 8, RTLD_NOW | RTLD_LOCAL);
    if (!library) { fprintf(stderr, "%s\n", dlerror()); return INVALID_IMAGE; }
    hooks.wait_block = wait_block;
    hooks.wait_warp = wait_warp;
    hooks.wait_previous = wait_previous;
    auto slot = (Hooks **)dlsym(library, "turaco_hooks");
    if (!slot) return INVALID_IMAGE;
    *slot = &hooks;
    *out = new Module{library, slot, {}};
    return SUCCESS;
}
EXPORT CUresult cuModuleUnload(Module *module) {
    LOCK;
    dlclose(module->library);
    delete module;
    return SUCCESS;
}
EXPORT CUresult cuModuleGetFunction(Function **out, Module *module, const char *name) {
    LOCK;
    auto &slot = module->functions[name];
    if (!slot) {
        auto call = (void (*)(const void *))dlsym(module->library, name);
        auto bytes = (const unsigned long *)dlsym(module->library, (std::string(name) + "_bytes").c_str());
        auto most = (const unsigned *)dlsym(module->library, (std::string(name) + "_threads").c_str());
        if (!call || !bytes || !most) { module->functions.erase(name); return NOT_FOUND; }
        slot.reset(new Function{name, call, *bytes, *most});
    }
    *out = slot.get();
    return SUCCESS;
}

// Shared memory that a block may have at most, beside what the compiler has settled.
static int most_shared() {
    if (capability < 80) return 64 << 10;
    if (capability == 80 || capability == 87) return 163 << 10;
    return capability >= 90 && capability < 120 ? 227 << 10 : 99 << 10;
}
EXPORT CUresult cuFuncSetAttribute(Function *function, int what, int value) {
    LOCK;
    switch (what) {
        case 8: // bytes of shared memory that a call may ask for
            if (value < 0 || value > most_shared()) return INVALID_VALUE;
            function->most_shared = (unsigned)value;
            return SUCCESS;
        case 9: return value >= -1 && value <= 100 ? SUCCESS : INVALID_VALUE; // the share of the first cache that is to be shared memory
        default: return INVALID_VALUE;
    }
}

// ---- memory: every allocation ends where a page that nobody may touch begins

struct Allocation { char *mapped; size_t mapped_bytes, bytes; bool written; };
static std::map<uint64_t, Allocation> allocations;

// Whether memory that kernels write may be touched.
static void reach(bool allowed) {
    for (auto &[at, allocation] : allocations)
        if (allocation.written) mprotect(allocation.mapped, allocation.mapped_bytes - 4096, allowed ? PROT_READ | PROT_WRITE : PROT_NONE);
}

static bool inside(uint64_t at, size_t bytes) {
    auto next = allocations.upper_bound(at);
    if (next == allocations.begin()) return false;
    --next;
    return at + bytes <= next->first + next->second.bytes;
}

EXPORT CUresult cuMemAlloc_v2(uint64_t *out, size_t bytes) {
    LOCK;
    if (bytes == 0) return INVALID_VALUE;
    if (lost) return ILLEGAL_ADDRESS;
    if (memory_used + bytes > memory_total) return OUT_OF_MEMORY;
    size_t page = 4096, rounded = (bytes + 255) / 256 * 256, mapped_bytes = (rounded + page - 1) / page * page + page;
    char *mapped = (char *)mmap(nullptr, mapped_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) return OUT_OF_MEMORY;
    mprotect(mapped + mapped_bytes - page, page, PROT_NONE);
    char *at = mapped + mapped_bytes - page - rounded;
    if (rounded < (64 << 20)) std::memset(at, 0xff, rounded); // not a number, for whoever reads what nobody wrote
    allocations[(uint64_t)at] = {mapped, mapped_bytes, bytes, false};
    memory_used += bytes;
    counts[ALLOCATIONS]++;
    *out = (uint64_t)at;
    return SUCCESS;
}
EXPORT CUresult cuMemFree_v2(uint64_t at) {
    LOCK;
    auto found = allocations.find(at);
    if (found == allocations.end()) return INVALID_VALUE;
    munmap(found->second.mapped, found->second.mapped_bytes);
    memory_used -= found->second.bytes;
    allocations.erase(found);
    return SUCCESS;
}
EXPORT CUresult cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
    LOCK;
    *free_bytes = memory_total - memory_used;
    *total = memory_total;
    return SUCCESS;
}
EXPORT CUresult cuMemHostAlloc(void **out, size_t bytes, unsigned) {
    LOCK;
    *out = aligned_alloc(64, (bytes + 63) / 64 * 64);
    return *out ? SUCCESS : OUT_OF_MEMORY;
}
EXPORT CUresult cuMemFreeHost(void *at) { LOCK; free(at); return SUCCESS; }

// ---- streams and graphs

struct Node { std::function<CUresult()> run; };
struct Graph { std::vector<Node> nodes; };
// `after_kernel`: whether the last thing in it is a call of a kernel.
struct Stream { Graph *capture = nullptr; bool after_kernel = false; };
struct Event { uint64_t at; };

static CUresult act(Stream *stream, std::function<CUresult()> run, bool is_kernel = false) {
    stream->after_kernel = is_kernel;
    if (stream->capture) {
        stream->capture->nodes.push_back({std::move(run)});
        return SUCCESS;
    }
    return run();
}

EXPORT CUresult cuStreamCreate(Stream **out, unsigned) { LOCK; *out = new Stream; return SUCCESS; }
EXPORT CUresult cuStreamDestroy_v2(Stream *stream) { LOCK; delete stream; return SUCCESS; }
EXPORT CUresult cuStreamQuery(Stream *stream) {
    LOCK;
    if (stream->capture) return CAPTURE_UNSUPPORTED;
    return lost ? ILLEGAL_ADDRESS : hanging ? NOT_READY : SUCCESS;
}
EXPORT CUresult cuStreamBeginCapture_v2(Stream *stream, int) {
    LOCK;
    if (stream->capture) return CAPTURE_UNSUPPORTED;
    counts[CAPTURES]++;
    stream->after_kernel = false;
    stream->capture = new Graph;
    return SUCCESS;
}
EXPORT CUresult cuStreamEndCapture(Stream *stream, Graph **out) {
    LOCK;
    if (!stream->capture) return CAPTURE_UNSUPPORTED;
    *out = stream->capture;
    stream->capture = nullptr;
    return SUCCESS;
}
EXPORT CUresult cuGraphInstantiateWithFlags(Graph **out, Graph *graph, unsigned long long) { LOCK; *out = new Graph(*graph); return SUCCESS; }
EXPORT CUresult cuGraphDestroy(Graph *graph) { LOCK; delete graph; return SUCCESS; }
EXPORT CUresult cuGraphExecDestroy(Graph *graph) { LOCK; delete graph; return SUCCESS; }
EXPORT CUresult cuGraphLaunch(Graph *graph, Stream *stream) {
    LOCK;
    if (stream->capture) return CAPTURE_UNSUPPORTED;
    counts[GRAPHS]++;
    for (auto &node : graph->nodes)
        if (CUresult result = node.run()) return result;
    return SUCCESS;
}
struct Attribute { int id, unused; int value[16]; };
struct Launch { unsigned gx, gy, gz, bx, by, bz, shared; Stream *stream; Attribute *attributes; unsigned n_attributes; };
EXPORT CUresult cuLaunchKernelEx(const Launch *given, Function *function, void **params, void **extra) {
    LOCK;
    auto [gx, gy, gz, bx, by, bz, shared, stream, attributes, n_attributes] = *given;
    bool early = false;
    for (unsigned i = 0; i < n_attributes; i++) {
        // Programmatic stream serialization: it takes a card that can, and another kernel to follow.
        if (attributes[i].id != 6) return INVALID_VALUE;
        if (capability < 90) return NOT_SUPPORTED;
        early = attributes[i].value[0] != 0;
        if (early && !stream->after_kernel) return INVALID_VALUE;
    }
    if (gx == 0 || gy == 0 || gz == 0 || gy > 65535 || gz > 65535 || gx > 2147483647u) return INVALID_VALUE;
    if (bx * by * bz == 0 || bx * by * bz > function->threads || shared > function->most_shared || extra || !params) return INVALID_VALUE;
    std::vector<char> copy((const char *)params[0], (const char *)params[0] + function->bytes);
    const dim3 grid = {gx, gy, gz}, block = {bx, by, bz};
    return act(stream, [=]() { return launch(function, grid, block, shared, copy.data(), early); }, true);
}
EXPORT CUresult cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, Stream *stream) {
    LOCK;
    return act(stream, [=]() -> CUresult {
        if (lost) return ILLEGAL_ADDRESS;
        if (!inside(to, bytes)) return INVALID_VALUE;
        counts[UPLOADS]++;
        counts[UPLOADED] += bytes;
        std::memcpy((void *)to, from, bytes);
        return SUCCESS;
    });
}
EXPORT CUresult cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, Stream *stream) {
    LOCK;
    return act(stream, [=]() -> CUresult {
        if (lost) return ILLEGAL_ADDRESS;
        if (!inside(from, bytes)) return INVALID_VALUE;
        counts[DOWNLOADS]++;
        counts[DOWNLOADED] += bytes;
        std::memcpy(to, (const void *)from, bytes);
        return SUCCESS;
    });
}
struct Plane {
    size_t from_x, from_y; unsigned from_kind; const void *from_host; uint64_t from; void *from_array; size_t from_pitch;
    size_t to_x, to_y; unsigned to_kind; void *to_host; uint64_t to; void *to_array; size_t to_pitch;
    size_t bytes, rows;
};
EXPORT CUresult cuMemcpy2DAsync_v2(const Plane *given, Stream *stream) {
    LOCK;
    Plane plane = *given;
    if (plane.from_kind != 2 || plane.to_kind != 2 || plane.bytes > plane.from_pitch || plane.bytes > plane.to_pitch) return INVALID_VALUE;
    return act(stream, [=]() -> CUresult {
        if (lost) return ILLEGAL_ADDRESS;
        for (size_t row = 0; row < plane.rows; row++) {
            uint64_t from = plane.from + row * plane.from_pitch, to = plane.to + row * plane.to_pitch;
            if (!inside(from, plane.bytes) || !inside(to, plane.bytes)) return INVALID_VALUE;
            std::memmove((void *)to, (const void *)from, plane.bytes);
        }
        return SUCCESS;
    });
}
EXPORT CUresult cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, Stream *stream) {
    LOCK;
    return act(stream, [=]() -> CUresult {
        if (!inside(to, bytes)) return INVALID_VALUE;
        std::prev(allocations.upper_bound(to))->second.written = true;
        std::memset((void *)to, value, bytes);
        return SUCCESS;
    });
}
EXPORT CUresult cuEventCreate(Event **out, unsigned) { LOCK; *out = new Event{0}; return SUCCESS; }
EXPORT CUresult cuEventDestroy_v2(Event *event) { LOCK; delete event; return SUCCESS; }
static uint64_t now() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}
EXPORT CUresult cuEventRecord(Event *event, Stream *stream) {
    LOCK;
    return act(stream, [=]() -> CUresult { event->at = now(); return SUCCESS; });
}
EXPORT CUresult cuEventElapsedTime(float *out, Event *from, Event *to) { LOCK; *out = (float)((double)(to->at - from->at) * 1e-6); return SUCCESS; }

// ---- devices

EXPORT CUresult cuInit(unsigned) { LOCK; return devices > 0 ? SUCCESS : NO_DEVICE; }
EXPORT CUresult cuDriverGetVersion(int *out) { *out = 12090; return SUCCESS; }
EXPORT CUresult cuDeviceGetCount(int *out) { LOCK; *out = devices; return SUCCESS; }
EXPORT CUresult cuDeviceGet(int *out, int index) { LOCK; if (index >= devices) return INVALID_VALUE; *out = index; return SUCCESS; }
EXPORT CUresult cuDeviceGetName(char *out, int room, int) { snprintf(out, (size_t)room, "emulated card"); return SUCCESS; }
EXPORT CUresult cuDeviceTotalMem_v2(size_t *out, int) { LOCK; *out = memory_total; return SUCCESS; }
EXPORT CUresult cuDeviceGetAttribute(int *out, int what, int) {
    LOCK;
    switch (what) {
        case 16: *out = processors; return SUCCESS;
        case 38: *out = 1 << 20; return SUCCESS;            // bytes of the second cache
        case 75: *out = capability / 10; return SUCCESS;    // capability, major and minor
        case 76: *out = capability % 10; return SUCCESS;
        default: *out = 0; return SUCCESS;
    }
}
EXPORT CUresult cuDevicePrimaryCtxRetain(void **out, int) { static int context; *out = &context; return SUCCESS; }
EXPORT CUresult cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
EXPORT CUresult cuCtxSetCurrent(void *) { return SUCCESS; }
EXPORT CUresult cuGetErrorString(CUresult error, const char **out) {
    switch (error) {
        case SUCCESS: *out = "no error"; break;
        case OUT_OF_MEMORY: *out = "out of memory"; break;
        case NO_DEVICE: *out = "no CUDA-capable device is detected"; break;
        case ILLEGAL_ADDRESS: *out = "an illegal memory access was encountered"; break;
        case LAUNCH_FAILED: *out = "unspecified launch failure"; break;
        default: *out = "an emulated error"; break;
    }
    return SUCCESS;
}

// ---- the compiler

struct Program { std::string source, log, image; };

static uint64_t hash_of(const std::string &text) {
    uint64_t h = 1469598103934665603ull;
    for (unsigned char c : text) h = (h ^ c) * 1099511628211ull;
    return h;
}

EXPORT int nvrtcVersion(int *major, int *minor) { *major = 12; *minor = 9; return 0; }
EXPORT const char *nvrtcGetErrorString(int error) { return error == 6 ? "compilation failed" : error ? "an emulated error" : "no error"; }
EXPORT int nvrtcCreateProgram(Program **out, const char *source, const char *, int, const char *const *, const char *const *) {
    *out = new Program{source, "", ""};
    return 0;
}
EXPORT int nvrtcDestroyProgram(Program **program) { delete *program; *program = nullptr; return 0; }
EXPORT int nvrtcCompileProgram(Program *program, int n_options, const char *const *options) {
    std::string defines;
    for (int i = 0; i < n_options; i++)
        if (std::strncmp(options[i], "-D", 2) == 0) defines += std::string(" '") + options[i] + "'";
        else if (std::strncmp(options[i], "--gpu-architecture=sm_", 22) == 0) defines += std::string(" -D__CUDA_ARCH__=") + (options[i] + 22) + "0";
    Dl_info info;
    dladdr((void *)&nvrtcVersion, &info);
    std::string here = info.dli_fname;
    here = here.substr(0, here.rfind('/'));
    struct stat header;
    std::string stamp = stat((here + "/device.h").c_str(), &header) == 0 ? std::to_string(header.st_mtime) : "";
    char name[64];
    snprintf(name, sizeof(name), "%016llx", (unsigned long long)hash_of(program->source + defines + stamp));
    std::string base = here + "/" + name, library = base + ".so";
    { LOCK; counts[COMPILATIONS]++; }
    if (access(library.c_str(), R_OK) != 0) {
        std::string own = base + "." + std::to_string(getpid()) + "." + std::to_string((unsigned long long)(uintptr_t)program);
        FILE *file = fopen((own + ".cpp").c_str(), "w");
        if (!file) return 3;
        fwrite(program->source.data(), 1, program->source.size(), file);
        fclose(file);
        std::string command = "c++ -std=c++17 -O1 -g0 -w -fPIC -shared -fvisibility=hidden -ffp-contract=off" + defines + " -include '" + here + "/device.h' -o '" +
                              own + ".so' '" + own + ".cpp' 2>'" + own + ".log'";
        int status = system(command.c_str());
        if (FILE *log = fopen((own + ".log").c_str(), "r")) {
            char buffer[4096];
            size_t n;
            while ((n = fread(buffer, 1, sizeof(buffer), log)) > 0) program->log.append(buffer, n);
            fclose(log);
        }
        unlink((own + ".log").c_str());
        unlink((own + ".cpp").c_str());
        if (status != 0) return 6;
        if (rename((own + ".so").c_str(), library.c_str()) != 0) return 3;
    }
    program->image = "EMULATED" + library;
    return 0;
}
EXPORT int nvrtcGetProgramLogSize(Program *program, size_t *out) { *out = program->log.size() + 1; return 0; }
EXPORT int nvrtcGetProgramLog(Program *program, char *out) { std::memcpy(out, program->log.c_str(), program->log.size() + 1); return 0; }
EXPORT int nvrtcGetCUBINSize(Program *program, size_t *out) { *out = program->image.size() + 1; return 0; }
EXPORT int nvrtcGetCUBIN(Program *program, char *out) { std::memcpy(out, program->image.c_str(), program->image.size() + 1); return 0; }
