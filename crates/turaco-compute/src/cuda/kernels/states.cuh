// The states that a run binds to the slots of a step. The host writes this table before each run, so that one recorded graph
// serves all runs: kernels find lengths and addresses here.

// One sequence's cache: for each layer first the keys, then the values of `capacity` positions, `kv_dim` numbers each.
struct Sequence {
    char *cache;
    u32 length;   // positions before this run
    u32 first;    // the oldest position that is still there
    u32 turn;     // the first position of the present turn around a ring's storage; 0 without a ring
    u32 capacity;
    u32 format;   // 0 f32, 1 f16, 2 bf16
    u32 unused;
};

// A slot: its sequences in order, or a buffer of f32.
struct Slot {
    float *buffer;
    u32 count;    // sequences
    u32 appended; // positions that the run appends to each of them
    Sequence sequences[1]; // as many as there are
};

// Where a position is stored: those before the present turn are at the end.
__device__ __forceinline__ u32 place(const Sequence &sequence, u32 position) {
    return (position >= sequence.turn ? position : position + sequence.capacity) - sequence.turn;
}
