// The states that a run binds to the slots of a step. The host writes this table before each run, so that one recorded graph
// serves all runs: kernels find lengths and addresses here.

// The format of a cache of bytes: 128 above whole numbers, which have a factor for each head and position. Behind the bytes of a
// position are the factors of its heads.
constexpr u32 BYTES = 3;

// One sequence's cache: for each layer first the keys, then the values of `capacity` positions, `kv_dim` numbers each.
struct Sequence {
    char *cache;
    u32 length;   // positions before this run
    u32 first;    // the oldest position that is still there
    u32 turn;     // the first position of the present turn around a ring's storage; 0 without a ring
    u32 capacity;
    u32 format;   // 0 f32, 1 f16, 2 bf16, 3 bytes
    u32 head_dim; // bytes: numbers that share a factor
};

// A slot: its sequences in order, or a buffer of f32.
struct Slot {
    float *buffer;
    u32 count;    // sequences
    u32 appended; // positions that the run appends to each of them
    Sequence sequences[1]; // as many as there are
};

// Bytes of a number.
__device__ __forceinline__ u32 size_of(u32 format) { return format == 0 ? 4 : format == BYTES ? 1 : 2; }

// Where the factors of a position of so many bytes begin.
__device__ __forceinline__ u32 scales_at(u32 columns) { return (columns + 15) / 16 * 16; }

// Bytes of the keys of a position.
__device__ __forceinline__ u64 row_bytes_of(const Sequence &sequence, u32 columns) {
    if (sequence.format != BYTES) return (u64)columns * size_of(sequence.format);
    return scales_at(columns) + (columns / max(sequence.head_dim, 1u) + 3) / 4 * 16;
}

// Where a position is stored: those before the present turn are at the end.
__device__ __forceinline__ u32 place(const Sequence &sequence, u32 position) {
    return (position >= sequence.turn ? position : position + sequence.capacity) - sequence.turn;
}
