// The choice of tokens begins where their logits are made: what `choose_slices.wgsl` finds in a slice, of a panel of 32
// tokens. The first 32 threads hold a logit each.

@group(0) @binding(9) var<storage, read> given: array<u32>;
@group(0) @binding(10) var<storage, read_write> found: array<u32>;

var<workgroup> panel_values: array<f32, 32>;
var<workgroup> panel_ranks: array<f32, 32>;
var<workgroup> panel_shares: array<f32, 32>;

fn bit_of(offset: u32, row: u32, token: u32) -> bool {
    let words = (p.vocabulary + 31u) / 32u;
    return ((given[offset + row * words + token / 32u] >> (token % 32u)) & 1u) == 1u;
}

fn choose(row: u32, panel: u32, thread: u32, logit: f32) {
    let mine = thread < 32u && row < p.rows;
    let first = p.first_token + panel * 32u;
    let token = first + thread;
    var value = LOWEST;
    var rank = LOWEST;
    if mine && panel * 32u + thread < p.outputs {
        let control = p.controls_offset + row * p.controls_stride;
        let temperature = bitcast<f32>(given[control]);
        let penalty = bitcast<f32>(given[control + 1u]);
        var seen = false;
        if p.seen_offset != 0xffffffffu && penalty != 1.0 {
            seen = bit_of(p.seen_offset, row, token);
        }
        value = ruled(logit, bit_of(p.allowed_offset, row, token), seen, penalty);
        rank = value;
        if temperature > 0.0 && value > LOWEST {
            let seed_at = p.seeds_offset + 2u * row;
            rank = value / temperature + noise(vec2<u32>(given[seed_at], given[seed_at + 1u]), token);
        }
    }
    if thread < 32u {
        panel_values[thread] = value;
        panel_ranks[thread] = rank;
    }
    workgroupBarrier();
    // Of the others and of the preferred tokens: the maximum, how many there are, and how many come before mine.
    var most = vec2<f32>(LOWEST);
    var count = vec2<u32>(0u);
    var before = 0u;
    let group = select(0u, 1u, token >= p.split);
    if thread < 32u {
        for (var i = 0u; i < 32u; i++) {
            let other = panel_values[i];
            if other > LOWEST {
                let group_of = select(0u, 1u, first + i >= p.split);
                most[group_of] = max(most[group_of], other);
                count[group_of] += 1u;
                if group_of == group && better(panel_ranks[i], i, rank, thread) {
                    before += 1u;
                }
            }
        }
        panel_shares[thread] = select(0.0, exp(value - most[group]), value > LOWEST);
    }
    workgroupBarrier();
    if mine {
        let panels = (p.vocabulary + 31u) / 32u;
        let to = (row * panels + first / 32u) * (4u + 4u * p.kept);
        if value > LOWEST && before < p.kept {
            let at = to + 4u + 2u * (group * p.kept + before);
            found[at] = bitcast<u32>(rank);
            found[at + 1u] = token;
        }
        // Places that nobody takes, and the sums, by a thread for each group.
        if thread < 2u {
            for (var nth = count[thread]; nth < p.kept; nth++) {
                let at = to + 4u + 2u * (thread * p.kept + nth);
                found[at] = bitcast<u32>(LOWEST);
                found[at + 1u] = NOBODY;
            }
            var sum = 0.0;
            for (var i = 0u; i < 32u; i++) {
                let group_of = select(0u, 1u, first + i >= p.split);
                sum += select(0.0, panel_shares[i], group_of == thread);
            }
            found[to + 2u * thread] = bitcast<u32>(most[thread]);
            found[to + 2u * thread + 1u] = bitcast<u32>(sum);
        }
    }
    workgroupBarrier();
}
