// One layer of the caches of a batch.

@caches @group(2) @binding($i) var<storage, read_write> cache$i: array<u32>;

fn cache_word(which: u32, at: u32) -> u32 {
    switch which {
        @caches case $iu: { return cache$i[at]; }
        default: { return 0u; }
    }
}

fn set_cache_word(which: u32, at: u32, word: u32) {
    switch which {
        @caches case $iu: { cache$i[at] = word; }
        default: {}
    }
}
