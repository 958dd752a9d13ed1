// Sum and maximum over the THREADS threads of a workgroup, for all of them; a power of two.

var<workgroup> reduced: array<f32, THREADS>;

fn total(thread: u32, value: f32) -> f32 {
    reduced[thread] = value;
    workgroupBarrier();
    for (var step = THREADS / 2u; step > 0u; step /= 2u) {
        if thread < step {
            reduced[thread] += reduced[thread + step];
        }
        workgroupBarrier();
    }
    let result = reduced[0];
    workgroupBarrier();
    return result;
}

fn highest(thread: u32, value: f32) -> f32 {
    reduced[thread] = value;
    workgroupBarrier();
    for (var step = THREADS / 2u; step > 0u; step /= 2u) {
        if thread < step {
            reduced[thread] = max(reduced[thread], reduced[thread + step]);
        }
        workgroupBarrier();
    }
    let result = reduced[0];
    workgroupBarrier();
    return result;
}
