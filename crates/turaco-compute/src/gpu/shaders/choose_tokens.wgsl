// What the slices of a row found, by one workgroup per row.

@group(0) @binding(4) var<storage, read> found: array<u32>;
@group(0) @binding(5) var<storage, read_write> tokens: array<u32>;
@group(0) @binding(6) var<storage, read_write> logprobs: array<f32>;

// The maximum over all slices, and the sum of exponentials relative to `base`; `place` is the number of the field.
fn maximum(thread: u32, base: u32, place: u32) -> f32 {
    var most = LOWEST;
    for (var slice = thread; slice < p.slices; slice += 256u) {
        most = max(most, bitcast<f32>(found[base + slice * slice_words() + place]));
    }
    return highest(thread, most);
}

fn exponentials(thread: u32, base: u32, place: u32, most: f32) -> f32 {
    var sum = 0.0;
    for (var slice = thread; slice < p.slices; slice += 256u) {
        let at = base + slice * slice_words() + place;
        sum += bitcast<f32>(found[at + 1u]) * exp(bitcast<f32>(found[at]) - most);
    }
    return total(thread, sum);
}

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    SUBGROUP_INPUTS
) {
    SUBGROUP_START
    let row = flat(group, groups);
    if row >= p.rows {
        return;
    }
    let control = p.controls_offset + row * p.controls_stride;
    let penalty = controls[control + 1u];
    let prefer = controls[control + 2u] != 0.0;
    let base = row * p.slices * slice_words();

    let most_of_others = maximum(thread, base, 0u);
    let most = max(most_of_others, maximum(thread, base, 2u));
    let others = exponentials(thread, base, 0u, most);
    let preferred = exponentials(thread, base, 2u, most);
    // Candidates of a slice: the others come first.
    var begin = 0u;
    var sum = others + preferred;
    if prefer && preferred > 0.0 {
        if most + ln(preferred) > most_of_others {
            begin = p.kept;
            sum = preferred;
        }
    }
    let total_logarithm = most + ln(max(sum, 1e-30));
    let groups_of = select(2u, 1u, begin > 0u);

    var last_rank = 0.0;
    var last_token = NOBODY;
    for (var nth = 0u; nth < p.k; nth++) {
        var best_rank = LOWEST;
        var best_token = NOBODY;
        // The best ones of a slice come first: of those after the ones that were taken, none is further behind.
        let each = min(nth + 1u, p.kept);
        for (var i = thread; i < p.slices * groups_of * each; i += 256u) {
            let candidate = i % (groups_of * each);
            let place = begin + candidate / each * p.kept + candidate % each;
            let at = base + i / (groups_of * each) * slice_words() + 4u + 2u * place;
            let rank = bitcast<f32>(found[at]);
            let token = found[at + 1u];
            let after = nth == 0u || rank < last_rank || (rank == last_rank && token > last_token);
            if after && better(rank, token, best_rank, best_token) {
                best_rank = rank;
                best_token = token;
            }
        }
        compare(thread, best_rank, best_token);
        last_rank = ranks[0];
        last_token = holders[0];
        workgroupBarrier();
        if thread == 0u {
            let to = row * p.k + nth;
            tokens[p.tokens_offset + to] = last_token;
            if last_token == NOBODY {
                logprobs[to] = bitcast<f32>(p.never);
            } else {
                logprobs[to] = adjusted(row, last_token, penalty) - total_logarithm;
            }
        }
        if last_token == NOBODY {
            last_rank = LOWEST;
        }
    }
}
