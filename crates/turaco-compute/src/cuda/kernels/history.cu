// What a stream carries from run to run: the rows before a run come from its state, and the last rows become it.

struct HistoryParams {
    const float *x;
    const float *rate; // null without a snake
    const float *gain;
    float *out;
    const Slot *slot;
    u32 rows, cols, before, offset, x_stride; // rows of `out`; values of the state, and where they begin
};

constexpr u32 HISTORY_THREADS = 256;

// The rows of the state, then the rows of the run, through the snake if there is one.
KERNEL(256, history, HistoryParams) {
    follow();
    const u32 count = p.rows * p.cols;
    const float *state = p.slot->buffer + p.offset;
    for (u32 i = blockIdx.x * HISTORY_THREADS + threadIdx.x; i < count; i += gridDim.x * HISTORY_THREADS) {
        if (i < p.before) {
            p.out[i] = state[i];
            continue;
        }
        const u32 row = (i - p.before) / p.cols, col = (i - p.before) % p.cols;
        float value = p.x[(u64)row * p.x_stride + col];
        if (p.rate) value = fmaf(p.gain[col], sine_squared(p.rate[col] * value), value);
        p.out[i] = value;
    }
}

KERNEL(256, history_keep, HistoryParams) {
    follow();
    const float *last = p.out + (p.rows * p.cols - p.before);
    float *state = p.slot->buffer + p.offset;
    for (u32 i = blockIdx.x * HISTORY_THREADS + threadIdx.x; i < p.before; i += gridDim.x * HISTORY_THREADS) state[i] = last[i];
}
