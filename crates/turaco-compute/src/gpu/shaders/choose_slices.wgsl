// One slice of 1024 tokens of a row; every thread looks at four of them.

@group(0) @binding(4) var<storage, read_write> found: array<u32>;

// The maximum of some values of all threads, and the sum of their exponentials relative to it; LOWEST does not count.
fn summary(thread: u32, values: vec4<f32>) -> vec2<f32> {
    let most = highest(thread, max(max(values.x, values.y), max(values.z, values.w)));
    let counted = values > vec4<f32>(LOWEST);
    let shares = select(vec4<f32>(0.0), exp(values - vec4<f32>(most)), counted);
    return vec2<f32>(most, total(thread, dot(shares, vec4<f32>(1.0))));
}

// The best candidates among `values` of all threads, from place `to` on.
fn candidates(thread: u32, values: vec4<f32>, ranks_of: vec4<f32>, first: u32, to: u32) {
    var last_rank = 0.0;
    var last_token = NOBODY;
    for (var nth = 0u; nth < p.kept; nth++) {
        var best_rank = LOWEST;
        var best_token = NOBODY;
        for (var i = 0u; i < 4u; i++) {
            let token = first + thread + 256u * i;
            let after = nth == 0u || ranks_of[i] < last_rank || (ranks_of[i] == last_rank && token > last_token);
            if values[i] > LOWEST && after && better(ranks_of[i], token, best_rank, best_token) {
                best_rank = ranks_of[i];
                best_token = token;
            }
        }
        compare(thread, best_rank, best_token);
        last_rank = ranks[0];
        last_token = holders[0];
        if thread == 0u {
            found[to + 2u * nth] = bitcast<u32>(last_rank);
            found[to + 2u * nth + 1u] = last_token;
        }
        workgroupBarrier();
        if last_token == NOBODY {
            // There are no more: nothing comes after the least.
            last_rank = LOWEST;
        }
    }
}

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    SUBGROUP_INPUTS
) {
    SUBGROUP_START
    let task = flat(group, groups);
    let row = task / p.slices;
    if row >= p.rows {
        return;
    }
    let control = p.controls_offset + row * p.controls_stride;
    let temperature = controls[control];
    let penalty = controls[control + 1u];
    let seed_at = p.seeds_offset + 2u * row;
    let seed = vec2<u32>(given[seed_at], given[seed_at + 1u]);
    let first = task % p.slices * 1024u;
    var others = vec4<f32>(LOWEST);
    var preferred = vec4<f32>(LOWEST);
    var ranks_of = vec4<f32>(LOWEST);
    for (var i = 0u; i < 4u; i++) {
        let token = first + thread + 256u * i;
        if token < p.vocabulary {
            let value = adjusted(row, token, penalty);
            if token < p.split {
                others[i] = value;
            } else {
                preferred[i] = value;
            }
            ranks_of[i] = value;
            if temperature > 0.0 && value > LOWEST {
                ranks_of[i] = value / temperature + noise(seed, token);
            }
        }
    }
    let to = task * slice_words();
    let of_others = summary(thread, others);
    let of_preferred = summary(thread, preferred);
    if thread == 0u {
        found[to] = bitcast<u32>(of_others.x);
        found[to + 1u] = bitcast<u32>(of_others.y);
        found[to + 2u] = bitcast<u32>(of_preferred.x);
        found[to + 3u] = bitcast<u32>(of_preferred.y);
    }
    candidates(thread, others, ranks_of, first, to + 4u);
    candidates(thread, preferred, ranks_of, first, to + 4u + 2u * p.kept);
}
