//! The size of data after zlib compression at level 6, without the compressed bytes.
//!
//! Compressed sizes depend on how a compressor searches for matches and cuts blocks, so this follows zlib's default
//! compressor step by step: lazy matching over hash chains, blocks of 16,383 symbols, and for each block the smallest
//! of stored, fixed-code and dynamic-code form (RFC 1951) with zlib's way of building the codes.

const MIN_MATCH: usize = 3;
const MAX_MATCH: usize = 258;
const WINDOW_SIZE: usize = 1 << 15;
/// Bytes that the compressor wants to see ahead before it takes a decision.
const MIN_LOOKAHEAD: usize = MAX_MATCH + MIN_MATCH + 1;
/// Matches lie at most this far back.
const MAX_DISTANCE: usize = WINDOW_SIZE - MIN_LOOKAHEAD;
/// A match of three bytes from further away costs more than three literals.
const TOO_FAR: usize = 4096;

// Level 6.
/// From a match of this length on, the search for a better one is shortened.
const GOOD_LENGTH: usize = 8;
/// From a match of this length on, no better one is searched for.
const MAX_LAZY: usize = 16;
/// A match of this length ends the search.
const NICE_LENGTH: usize = 128;
/// How many earlier places are looked at.
const MAX_CHAIN: usize = 128;
/// A block ends when this many literals and matches are collected.
const BLOCK_SYMBOLS: usize = (1 << 14) - 1;

const END_OF_BLOCK: usize = 256;
const N_LITERAL_CODES: usize = 286;
const N_DISTANCE_CODES: usize = 30;
const MAX_CODE_BITS: u8 = 15;
const N_LENGTH_CODES: usize = 19;
const MAX_LENGTH_CODE_BITS: u8 = 7;
/// The order in which the lengths of the length codes are sent.
const LENGTH_CODE_ORDER: [usize; N_LENGTH_CODES] = [
    16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
];

/// Bytes of `data` in zlib format (header and checksum included).
pub(super) fn zlib_size(data: &[u8]) -> usize {
    let mut bits = BitCount::default();
    Matcher::new(data).compress(|block, stored, last| {
        block.write(stored, last, &mut bits);
        *block = Block::new();
    });
    2 + bits.bytes() + 4
}

/// How many bits were written.
#[derive(Default)]
struct BitCount(u64);

impl BitCount {
    fn bytes(&self) -> usize {
        self.0.div_ceil(8) as usize
    }
}

/// The search for matches.
struct Matcher<'a> {
    data: &'a [u8],
    /// The latest place with each hash. Place 0, and the first place after the window has moved on, is no place.
    head: Vec<usize>,
    /// The place before, with the same hash, by place modulo window size.
    previous: Vec<usize>,
    /// Where the window of at most two window sizes begins.
    base: usize,
    /// How far data were read into the window.
    read: usize,
    position: usize,
}

impl<'a> Matcher<'a> {
    fn new(data: &'a [u8]) -> Self {
        Self {
            data,
            head: vec![0; 1 << 15],
            previous: vec![0; WINDOW_SIZE],
            base: 0,
            read: 0,
            position: 0,
        }
    }

    /// Gives out each block with the number of its bytes, if they are still in the window and may be stored as they
    /// are, and whether it is the last.
    fn compress(&mut self, mut emit: impl FnMut(&mut Block, Option<usize>, bool)) {
        let mut block = Block::new();
        let mut block_start = 0;
        let stored = |block_start: &mut usize, position: usize, base: usize| {
            let length = position - *block_start;
            let in_window = *block_start >= base;
            *block_start = position;
            in_window.then_some(length)
        };
        // A match is only taken if the next place has no longer one; until then, its first byte is `pending`.
        let mut pending = false;
        let mut match_length = MIN_MATCH - 1;
        let mut match_start = 0;
        loop {
            if self.read - self.position < MIN_LOOKAHEAD {
                self.fill_window();
            }
            let lookahead = self.read - self.position;
            if lookahead == 0 {
                break;
            }
            let candidate = if lookahead >= MIN_MATCH {
                self.insert(self.position)
            } else {
                self.base
            };
            let (last_length, last_start) = (match_length, match_start);
            match_length = MIN_MATCH - 1;
            if candidate > self.base
                && last_length < MAX_LAZY
                && self.position - candidate <= MAX_DISTANCE
            {
                (match_length, match_start) =
                    self.longest_match(candidate, last_length, last_start);
                if match_length == MIN_MATCH && self.position - match_start > TOO_FAR {
                    match_length = MIN_MATCH - 1;
                }
            }
            if last_length >= MIN_MATCH && match_length <= last_length {
                let full = block.add_match(self.position - 1 - last_start, last_length);
                let end = self.position - 1 + last_length;
                for place in self.position + 1..end {
                    if place + MIN_MATCH <= self.read {
                        self.insert(place);
                    }
                }
                self.position = end;
                pending = false;
                match_length = MIN_MATCH - 1;
                if full {
                    emit(
                        &mut block,
                        stored(&mut block_start, self.position, self.base),
                        false,
                    );
                }
            } else {
                if pending && block.add_literal(self.data[self.position - 1]) {
                    emit(
                        &mut block,
                        stored(&mut block_start, self.position, self.base),
                        false,
                    );
                }
                pending = true;
                self.position += 1;
            }
        }
        if pending {
            block.add_literal(self.data[self.position - 1]);
        }
        emit(
            &mut block,
            stored(&mut block_start, self.position, self.base),
            true,
        );
    }

    /// Reads on, moving the window when its first half is no longer needed.
    fn fill_window(&mut self) {
        while self.read - self.position < MIN_LOOKAHEAD {
            if self.position - self.base >= WINDOW_SIZE + MAX_DISTANCE {
                self.base += WINDOW_SIZE;
            }
            if self.read == self.data.len() {
                break;
            }
            self.read = self.data.len().min(self.base + 2 * WINDOW_SIZE);
        }
    }

    /// Enters the three bytes at `place` and gives the place where their hash was seen last.
    fn insert(&mut self, place: usize) -> usize {
        let [a, b, c] = [0, 1, 2].map(|i| usize::from(self.data[place + i]));
        let hash = ((a << 10) ^ (b << 5) ^ c) & 0x7fff;
        let candidate = std::mem::replace(&mut self.head[hash], place);
        self.previous[place % WINDOW_SIZE] = candidate;
        candidate
    }

    /// The longest match for the current position that is longer than `best_length`, with where it starts; `best_start`
    /// is kept if there is none.
    fn longest_match(
        &self,
        mut candidate: usize,
        mut best_length: usize,
        mut best_start: usize,
    ) -> (usize, usize) {
        let ahead = &self.data[self.position..self.read.min(self.position + MAX_MATCH)];
        let lookahead = self.read - self.position;
        let nice_length = NICE_LENGTH.min(lookahead);
        let limit = self.base.max(self.position.saturating_sub(MAX_DISTANCE));
        let mut chain = if best_length >= GOOD_LENGTH {
            MAX_CHAIN / 4
        } else {
            MAX_CHAIN
        };
        loop {
            let length = ahead
                .iter()
                .zip(&self.data[candidate..])
                .take_while(|(here, there)| here == there)
                .count();
            if length > best_length {
                best_length = length;
                best_start = candidate;
                if length >= nice_length {
                    break;
                }
            }
            candidate = self.previous[candidate % WINDOW_SIZE];
            chain -= 1;
            if candidate <= limit || chain == 0 {
                break;
            }
        }
        (best_length.min(lookahead), best_start)
    }
}

/// What a block holds, by code.
struct Block {
    literals: [u32; N_LITERAL_CODES],
    distances: [u32; N_DISTANCE_CODES],
    symbols: usize,
}

impl Block {
    fn new() -> Self {
        let mut literals = [0; N_LITERAL_CODES];
        literals[END_OF_BLOCK] = 1;
        Self {
            literals,
            distances: [0; N_DISTANCE_CODES],
            symbols: 0,
        }
    }

    /// Returns whether the block is full.
    fn add_literal(&mut self, byte: u8) -> bool {
        self.literals[usize::from(byte)] += 1;
        self.symbols += 1;
        self.symbols == BLOCK_SYMBOLS
    }

    /// Returns whether the block is full.
    fn add_match(&mut self, distance: usize, length: usize) -> bool {
        self.literals[length_code(length)] += 1;
        self.distances[distance_code(distance)] += 1;
        self.symbols += 1;
        self.symbols == BLOCK_SYMBOLS
    }

    /// Writes the block in its smallest form. `stored` is the number of its bytes if they may be written as they are.
    fn write(&self, stored: Option<usize>, last: bool, bits: &mut BitCount) {
        let literal_lengths = code_lengths(&self.literals, MAX_CODE_BITS);
        let distance_lengths = code_lengths(&self.distances, MAX_CODE_BITS);
        let dynamic = dynamic_header_bits(&literal_lengths, &distance_lengths)
            + coded_bits(&self.literals, &literal_lengths, extra_literal_bits)
            + coded_bits(&self.distances, &distance_lengths, extra_distance_bits);
        let fixed = coded_bits(&self.literals, &fixed_literal_lengths(), extra_literal_bits)
            + coded_bits(&self.distances, &[5; N_DISTANCE_CODES], extra_distance_bits);
        // Forms are compared by whole bytes with the three bits of the block header.
        let dynamic_bytes = (3 + dynamic).div_ceil(8);
        let fixed_bytes = (3 + fixed).div_ceil(8);
        bits.0 += 3;
        match stored {
            Some(length) if length as u64 + 4 <= dynamic_bytes.min(fixed_bytes) => {
                bits.0 = (bits.0.div_ceil(8) + 4 + length as u64) * 8;
            }
            _ if fixed_bytes <= dynamic_bytes => bits.0 += fixed,
            _ => bits.0 += dynamic,
        }
        if last {
            bits.0 = bits.0.div_ceil(8) * 8;
        }
    }
}

/// Bits of all symbols with their codes and extra bits.
fn coded_bits(counts: &[u32], lengths: &[u8], extra: impl Fn(usize) -> u32) -> u64 {
    counts
        .iter()
        .zip(lengths)
        .enumerate()
        .map(|(code, (&count, &length))| {
            u64::from(count) * u64::from(u32::from(length) + extra(code))
        })
        .sum()
}

fn fixed_literal_lengths() -> [u8; N_LITERAL_CODES] {
    std::array::from_fn(|code| match code {
        0..=143 => 8,
        144..=255 => 9,
        256..=279 => 7,
        _ => 8,
    })
}

/// The code of a match length: steps that double in width after every four.
fn length_code(length: usize) -> usize {
    match length {
        MAX_MATCH => 285,
        3..=10 => 254 + length,
        _ => {
            let offset = length - MIN_MATCH;
            let extra = offset.ilog2() as usize - 2;
            257 + 4 * extra + (offset >> extra)
        }
    }
}

fn extra_literal_bits(code: usize) -> u32 {
    match code {
        265..=284 => (code as u32 - 261) / 4,
        _ => 0,
    }
}

/// The code of a distance: steps that double in width after every two.
fn distance_code(distance: usize) -> usize {
    let offset = distance - 1;
    if offset < 4 {
        return offset;
    }
    let extra = offset.ilog2() as usize - 1;
    2 * extra + (offset >> extra)
}

fn extra_distance_bits(code: usize) -> u32 {
    (code as u32 / 2).saturating_sub(1)
}

/// Bits of the header that describes the codes of a dynamic block.
fn dynamic_header_bits(literal_lengths: &[u8], distance_lengths: &[u8]) -> u64 {
    let mut counts = [0; N_LENGTH_CODES];
    count_length_codes(literal_lengths, &mut counts);
    count_length_codes(distance_lengths, &mut counts);
    let lengths = code_lengths(&counts, MAX_LENGTH_CODE_BITS);
    let sent = LENGTH_CODE_ORDER
        .iter()
        .rposition(|&code| lengths[code] != 0)
        .map_or(0, |last| last + 1)
        .max(4);
    let extra = |code| match code {
        16 => 2,
        17 => 3,
        18 => 7,
        _ => 0,
    };
    5 + 5 + 4 + 3 * sent as u64 + coded_bits(&counts, &lengths, extra)
}

/// Counts the codes by which a list of code lengths is sent: lengths 0 to 15, 16 = repeat the last 3 to 6 times,
/// 17 and 18 = repeat zero 3 to 10 and 11 to 138 times.
fn count_length_codes(lengths: &[u8], counts: &mut [u32]) {
    // Codes after the last used one are not sent.
    let used = lengths
        .iter()
        .rposition(|&length| length != 0)
        .map_or(0, |last| last + 1);
    let lengths = &lengths[..used];
    let mut last = None;
    let mut start = 0;
    while start < lengths.len() {
        let length = lengths[start];
        let run = lengths[start..]
            .iter()
            .take_while(|&&other| other == length)
            .count();
        // A length of its own is sent before it can be repeated.
        let longest = match (length, last) {
            (0, _) => 138,
            (_, Some(last)) if last == length => 6,
            _ => 7,
        };
        let run = run.min(longest);
        let shortest = if longest == 7 { 4 } else { 3 };
        if run < shortest {
            counts[usize::from(length)] += run as u32;
        } else if length != 0 {
            counts[usize::from(length)] += u32::from(last != Some(length));
            counts[16] += 1;
        } else {
            counts[if run <= 10 { 17 } else { 18 }] += 1;
        }
        last = Some(length);
        start += run;
    }
}

/// Huffman code lengths of at most `max_bits`, one for each count, 0 for codes that do not occur.
///
/// Equal counts are told apart as zlib does, by the depth of the subtree and the state of its heap, because the header
/// of a dynamic block depends on it.
fn code_lengths(counts: &[u32], max_bits: u8) -> Vec<u8> {
    let mut tree = Tree {
        count: counts.to_vec(),
        depth: vec![0; counts.len()],
        heap: Vec::new(),
    };
    tree.heap
        .extend((0..counts.len()).filter(|&code| counts[code] != 0));
    // A code needs two members; codes that do not occur fill up.
    while tree.heap.len() < 2 {
        let filler = match tree.heap.first() {
            None => 0,
            Some(&only) if only < 2 => only + 1,
            Some(_) => 0,
        };
        tree.count[filler] = 1;
        tree.heap.push(filler);
    }
    for place in (0..tree.heap.len() / 2).rev() {
        tree.sift_down(place);
    }
    // Nodes in the order in which they are joined, and their parents.
    let mut joined = Vec::new();
    let mut parent = vec![0; counts.len()];
    while tree.heap.len() > 1 {
        let first = tree.heap.swap_remove(0);
        tree.sift_down(0);
        let second = tree.heap[0];
        let node = tree.count.len();
        tree.count.push(tree.count[first] + tree.count[second]);
        tree.depth
            .push(tree.depth[first].max(tree.depth[second]) + 1);
        parent.push(0);
        parent[first] = node;
        parent[second] = node;
        joined.extend([first, second]);
        tree.heap[0] = node;
        tree.sift_down(0);
    }

    let mut lengths = vec![0; tree.count.len()];
    let mut leaves_by_length = [0usize; 16];
    let mut too_long = 0usize;
    for &node in joined.iter().rev() {
        let mut length = lengths[parent[node]] + 1;
        if length > max_bits {
            length = max_bits;
            too_long += 1;
        }
        lengths[node] = length;
        if node < counts.len() {
            leaves_by_length[usize::from(length)] += 1;
        }
    }
    let max_bits = usize::from(max_bits);
    if too_long > 0 {
        // Move leaves down until the lengths make a code again, then hand the lengths out anew, the longest to the
        // rarest.
        while too_long > 0 {
            let shorter = (1..max_bits)
                .rev()
                .find(|&length| leaves_by_length[length] > 0)
                .unwrap_or(1);
            leaves_by_length[shorter] -= 1;
            leaves_by_length[shorter + 1] += 2;
            leaves_by_length[max_bits] -= 1;
            too_long = too_long.saturating_sub(2);
        }
        let mut leaves = joined.iter().filter(|&&node| node < counts.len());
        for length in (1..=max_bits).rev() {
            for &leaf in leaves.by_ref().take(leaves_by_length[length]) {
                lengths[leaf] = length as u8;
            }
        }
    }
    lengths.truncate(counts.len());
    lengths
}

/// Nodes of a Huffman tree that is being built, in a heap with the rarest on top.
struct Tree {
    count: Vec<u32>,
    depth: Vec<u8>,
    heap: Vec<usize>,
}

impl Tree {
    fn not_after(&self, a: usize, b: usize) -> bool {
        (self.count[a], self.depth[a]) <= (self.count[b], self.depth[b])
    }

    fn sift_down(&mut self, mut place: usize) {
        let Some(&node) = self.heap.get(place) else {
            return;
        };
        loop {
            let mut child = 2 * place + 1;
            if child >= self.heap.len() {
                break;
            }
            if child + 1 < self.heap.len() && self.not_after(self.heap[child + 1], self.heap[child])
            {
                child += 1;
            }
            if self.not_after(node, self.heap[child]) {
                break;
            }
            self.heap[place] = self.heap[child];
            place = child;
        }
        self.heap[place] = node;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fixed sequence of pseudo-random numbers (Numerical Recipes' generator).
    fn random(state: &mut u32, below: u32) -> u32 {
        *state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        ((u64::from(*state) * u64::from(below)) >> 32) as u32
    }

    /// Sizes that Python's `zlib.compress` (zlib 1.2.13) gives for the same bytes.
    #[test]
    fn sizes_are_those_of_zlib() {
        let mut state = 1;
        for (kind, length, parameter, size) in [
            ("uniform", 0, 2, 8),
            ("uniform", 1, 256, 9),
            ("uniform", 2, 2, 10),
            ("uniform", 100, 2, 44),
            ("uniform", 1000, 4, 361),
            ("uniform", 20000, 2, 3253),
            ("uniform", 20000, 256, 20016),
            ("uniform", 50000, 200, 48225),
            ("uniform", 100000, 256, 100041),
            ("uniform", 300000, 2, 47724),
            ("skewed", 300, 0, 100),
            ("skewed", 5000, 0, 1225),
            ("skewed", 60000, 0, 14276),
            ("words", 50, 0, 46),
            ("words", 1000, 0, 431),
            ("words", 20000, 0, 6492),
            ("words", 100000, 0, 29584),
            ("words", 250000, 0, 72380),
            ("repeated", 100000, 1, 121),
            ("repeated", 100000, 7, 180),
            ("repeated", 70000, 300, 708),
            ("repeated", 200000, 32500, 34012),
            ("repeated", 200000, 32506, 35250),
            ("repeated", 200000, 32600, 200071),
            ("repeated", 100000, 4096, 4896),
        ] {
            let data: Vec<u8> = match kind {
                "uniform" => (0..length)
                    .map(|_| random(&mut state, parameter) as u8)
                    .collect(),
                "skewed" => (0..length)
                    .map(|_| {
                        let mut value = 0;
                        while value < 30 && random(&mut state, 3) == 0 {
                            value += 1;
                        }
                        b'a' + value
                    })
                    .collect(),
                "words" => {
                    let mut text = String::new();
                    while text.len() < length {
                        let word = random(&mut state, 700);
                        text += &format!("w{} ", word * word);
                    }
                    text.into_bytes()[..length].to_vec()
                }
                _ => {
                    let unit: Vec<u8> = (0..parameter)
                        .map(|_| random(&mut state, 256) as u8)
                        .collect();
                    unit.iter().copied().cycle().take(length).collect()
                }
            };
            assert_eq!(zlib_size(&data), size, "{kind} {length} {parameter}");
        }
    }

    #[test]
    fn codes_follow_rfc_1951() {
        let mut first = [0; N_LITERAL_CODES];
        for length in (MIN_MATCH..=MAX_MATCH).rev() {
            first[length_code(length)] = length;
        }
        assert_eq!(first[257..266], [3, 4, 5, 6, 7, 8, 9, 10, 11]);
        assert_eq!(first[280..], [115, 131, 163, 195, 227, 258]);
        for code in 257..284 {
            assert_eq!(
                first[code] + (1 << extra_literal_bits(code)),
                first[code + 1],
                "code {code}"
            );
        }
        let mut first = [0; N_DISTANCE_CODES];
        for distance in (1..=WINDOW_SIZE).rev() {
            first[distance_code(distance)] = distance;
        }
        assert_eq!(first[..6], [1, 2, 3, 4, 5, 7]);
        assert_eq!(first[29], 24577);
        for code in 0..29 {
            assert_eq!(
                first[code] + (1 << extra_distance_bits(code)),
                first[code + 1],
                "code {code}"
            );
        }
    }
}
