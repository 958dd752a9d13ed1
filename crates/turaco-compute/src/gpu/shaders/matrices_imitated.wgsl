// What cooperative matrices do, by the threads of a subgroup, each with its share of the sums: to test what is around them on
// adapters without.
const SHARE: u32 = SIZE * SIZE / LANES;
alias SumMatrix = array<f32, SHARE>;

fn multiplied(rows: u32, outputs: u32, sum: SumMatrix, lane: u32) -> SumMatrix {
    var result = sum;
    for (var i = 0u; i < SHARE; i++) {
        let at = i * LANES + lane;
        for (var k = 0u; k < SIZE; k++) {
            let x = f32(staged_rows[rows + at / SIZE * ROW_STRIDE + k]);
            result[i] += x * f32(staged_outputs[outputs + k * OUTPUT_STRIDE + at % SIZE]);
        }
    }
    return result;
}

fn store(sum: SumMatrix, to: u32, lane: u32) {
    var values = sum;
    for (var i = 0u; i < SHARE; i++) {
        let at = i * LANES + lane;
        sums[to + at / SIZE * SUM_STRIDE + at % SIZE] = values[i];
    }
}
