// What sampling may choose from, by one workgroup per row: the rules of `graph::FilterTokens`. The lowest logit that stays
// is found bit by bit, in numbers that are ordered as the logits are.

@group(0) @binding(4) var<storage, read_write> out: array<f32>;

// Ordered as numbers are.
fn order_of(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    return select(bits | 0x80000000u, ~bits, bits >= 0x80000000u);
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
    let temperature = controls[control];
    let penalty = controls[control + 1u];
    let top_k = controls[control + 2u];
    let top_p = controls[control + 3u];
    var most = LOWEST;
    for (var token = thread; token < p.vocabulary; token += 256u) {
        most = max(most, adjusted(row, token, penalty));
    }
    most = highest(thread, most);

    var least = 0u;
    if temperature > 0.0 && top_k >= 1.0 {
        // The highest number that at least `top_k` logits reach.
        for (var bit = 0x80000000u; bit > 0u; bit /= 2u) {
            var count = 0.0;
            for (var token = thread; token < p.vocabulary; token += 256u) {
                count += select(0.0, 1.0, order_of(adjusted(row, token, penalty)) >= (least | bit));
            }
            if total(thread, count) >= top_k {
                least |= bit;
            }
        }
    }
    if temperature > 0.0 && top_p < 1.0 {
        var mass = 0.0;
        for (var token = thread; token < p.vocabulary; token += 256u) {
            let value = adjusted(row, token, penalty);
            if value > LOWEST && order_of(value) >= least {
                mass += exp((value - most) / temperature);
            }
        }
        let enough = max(top_p * total(thread, mass), 1e-30);
        // The highest number above which the logits still have too much to leave it out.
        var below = 0u;
        for (var bit = 0x80000000u; bit > 0u; bit /= 2u) {
            var above = 0.0;
            for (var token = thread; token < p.vocabulary; token += 256u) {
                let value = adjusted(row, token, penalty);
                if value > LOWEST && order_of(value) >= max(least, below | bit) {
                    above += exp((value - most) / temperature);
                }
            }
            if total(thread, above) >= enough {
                below |= bit;
            }
        }
        least = max(least, below);
    }
    for (var token = thread; token < p.vocabulary; token += 256u) {
        let value = adjusted(row, token, penalty);
        let stays = value > LOWEST && order_of(value) >= least;
        out[row * p.vocabulary + token] = select(bitcast<f32>(p.never), value, stays);
    }
}
