// Sum and maximum over the THREADS threads of a workgroup, for all of them, by subgroups.

var<private> subgroup_number: u32;
var<private> subgroup_count: u32;
var<private> subgroup_lane: u32;
var<workgroup> reduced: array<f32, THREADS>;

fn total(thread: u32, value: f32) -> f32 {
    let part = subgroupAdd(value);
    if subgroup_lane == 0u {
        reduced[subgroup_number] = part;
    }
    workgroupBarrier();
    var result = 0.0;
    for (var i = 0u; i < subgroup_count; i++) {
        result += reduced[i];
    }
    workgroupBarrier();
    return result;
}

fn highest(thread: u32, value: f32) -> f32 {
    let part = subgroupMax(value);
    if subgroup_lane == 0u {
        reduced[subgroup_number] = part;
    }
    workgroupBarrier();
    var result = reduced[0];
    for (var i = 1u; i < subgroup_count; i++) {
        result = max(result, reduced[i]);
    }
    workgroupBarrier();
    return result;
}
