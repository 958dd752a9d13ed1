// The end of a run: its results to memory of the host, and behind them the number of the run, for which the host is waiting.

struct PublishParams {
    const u32 *results;
    u32 *to;        // memory of the host
    const u32 *run; // the number, as the host gave it
    u32 words, mark; // how many results there are, and where the number goes
};

constexpr u32 PUBLISH_THREADS = 256;

KERNEL(256, publish, PublishParams) {
    follow();
    for (u32 i = threadIdx.x; i < p.words; i += PUBLISH_THREADS) p.to[i] = p.results[i];
    // Each thread's results are there before the number is.
    __threadfence_system();
    __syncthreads();
    if (threadIdx.x == 0) *(volatile u32 *)(p.to + p.mark) = *p.run;
}
