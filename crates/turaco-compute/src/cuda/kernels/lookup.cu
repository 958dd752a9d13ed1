// Rows of a table of weights added up: a block for a row of the result, quads of columns for threads.

constexpr u32 THREADS = 128;

struct LookupParams {
    const uint4 *weights;
    const float *scales; // int8: one for each row
    const u32 *ids;      // or null: row r takes table row r modulo the table
    const float *x;      // what the rows are added to, or null
    float *out;          // rows of `cols`
    u64 panel_bytes;
    u32 rows, cols, table_rows, count;
    u32 id_stride, x_stride, accumulate;
};

KERNEL(THREADS, lookup, LookupParams) {
    follow();
    const u32 row = blockIdx.x;
    const u32 count = p.ids ? p.count : 1;
    const u32 *ids = p.ids + (u64)row * p.id_stride;
    const float *x = p.x ? p.x + (u64)row * p.x_stride : nullptr;
    float *out = p.out + (u64)row * p.cols;
    const bool whole = p.cols % 4 == 0 && whole_quads(p.out, 0) && whole_quads(p.x, p.x ? p.x_stride : 0);
    for (u32 quad = blockIdx.y * THREADS + threadIdx.x; 4 * quad < p.cols; quad += gridDim.y * THREADS) {
        float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (x) sum = whole ? row_quad<true>(x, quad, p.cols) : row_quad<false>(x, quad, p.cols);
        if (p.accumulate) {
            const float4 before = whole ? row_quad<true>(out, quad, p.cols) : row_quad<false>(out, quad, p.cols);
            sum.x += before.x, sum.y += before.y, sum.z += before.z, sum.w += before.w;
        }
#pragma unroll 4
        for (u32 nth = 0; nth < count; nth++) {
            const u32 id = p.ids ? min(ids[nth], p.table_rows - 1) : row % p.table_rows;
            const char *panel = (const char *)p.weights + id / PANEL * p.panel_bytes;
            const float scale = WEIGHTS == INT8 ? p.scales[id] : 1.0f;
            const float4 v = weight_quad(panel, (u32)p.panel_bytes, quad, id % PANEL, scale);
            sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
        }
        if (whole) {
            *(float4 *)(out + 4 * quad) = sum;
        } else {
            const float each[4] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
            for (u32 i = 0; i < 4; i++)
                if (4 * quad + i < p.cols) out[4 * quad + i] = each[i];
        }
    }
}
