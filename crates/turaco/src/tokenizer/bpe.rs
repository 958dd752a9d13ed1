//! Byte-level byte pair encoding (Sennrich et al. 2016; the byte alphabet is GPT-2's).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::ops::Range;
use std::sync::OnceLock;

/// The bytes of every token, by id. An id without bytes is an empty token.
#[derive(Debug, Clone, Default)]
pub struct TokenTable {
    bytes: Vec<u8>,
    /// `ends[id]` is where token `id` ends in `bytes`.
    ends: Vec<usize>,
}

impl TokenTable {
    /// Appends the next token.
    pub fn push(&mut self, token: &[u8]) {
        self.bytes.extend_from_slice(token);
        self.ends.push(self.bytes.len());
    }

    /// How many ids there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The bytes of a token; `None` if the id is not in the table.
    pub fn get(&self, id: u32) -> Option<&[u8]> {
        let index = usize::try_from(id).ok()?;
        let end = *self.ends.get(index)?;
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        Some(&self.bytes[start..end])
    }

    /// All tokens in id order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.ends.len()).map(|index| {
            let start = if index == 0 { 0 } else { self.ends[index - 1] };
            &self.bytes[start..self.ends[index]]
        })
    }

    /// Drops the tokens from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.ends.truncate(len);
        self.bytes.truncate(self.ends.last().copied().unwrap_or(0));
    }
}

impl<T: AsRef<[u8]>> FromIterator<T> for TokenTable {
    fn from_iter<I: IntoIterator<Item = T>>(tokens: I) -> Self {
        let mut table = Self::default();
        for token in tokens {
            table.push(token.as_ref());
        }
        table
    }
}

/// One merge rule: the tokens `left` and `right`, side by side, become `merged`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Merge {
    /// Id of the first token.
    pub left: u32,
    /// Id of the second token.
    pub right: u32,
    /// Id of the token that replaces both.
    pub merged: u32,
}

/// The merge engine: joins adjacent tokens, always the pair of lowest rank first.
#[derive(Debug, Clone)]
pub struct Bpe {
    tokens: TokenTable,
    /// Merge rules by pair, with their rank; `None` when the id of the merged token is the rank.
    pairs: Option<HashMap<(u32, u32), (u32, u32)>>,
    /// Made when something is first encoded: recognition itself only decodes.
    ids: OnceLock<HashMap<Box<[u8]>, u32>>,
}

impl Bpe {
    /// A vocabulary whose ids are the merge ranks (tiktoken tables, GPT-2 and Whisper vocabularies): any two
    /// adjacent tokens merge if their concatenation is a token too.
    pub fn from_ranked_tokens(tokens: TokenTable) -> Self {
        Self {
            tokens,
            pairs: None,
            ids: OnceLock::new(),
        }
    }

    /// A vocabulary with explicit merge rules, lowest rank first (Hugging Face). Of two rules for one pair, the later
    /// one holds.
    pub fn from_merges(tokens: TokenTable, merges: &[Merge]) -> Self {
        let pairs = (0u32..)
            .zip(merges)
            .map(|(rank, merge)| ((merge.left, merge.right), (rank, merge.merged)))
            .collect();
        Self {
            tokens,
            pairs: Some(pairs),
            ids: OnceLock::new(),
        }
    }

    /// The token bytes.
    pub fn tokens(&self) -> &TokenTable {
        &self.tokens
    }

    /// The id of the token with exactly these bytes.
    pub fn id_of(&self, bytes: &[u8]) -> Option<u32> {
        let ids = self.ids.get_or_init(|| {
            let mut ids = HashMap::with_capacity(self.tokens.len());
            for (id, token) in (0u32..).zip(self.tokens.iter()) {
                if !token.is_empty() {
                    ids.entry(Box::from(token)).or_insert(id);
                }
            }
            ids
        });
        ids.get(bytes).copied()
    }

    /// Encodes one piece of text and appends the ids to `out`. Bytes that have no token of their
    /// own, which only a broken vocabulary lacks, are left out.
    pub fn encode_piece(&self, piece: &[u8], out: &mut Vec<u32>) {
        if self.pairs.is_none()
            && let Some(id) = self.id_of(piece)
        {
            out.push(id);
            return;
        }
        let mut symbols: Vec<Symbol> = Vec::with_capacity(piece.len());
        for (position, byte) in piece.iter().enumerate() {
            if let Some(id) = self.id_of(std::slice::from_ref(byte)) {
                let index = symbols.len();
                symbols.push(Symbol {
                    id,
                    bytes: position..position + 1,
                    previous: index.checked_sub(1),
                    next: Some(index + 1),
                    merged_away: false,
                });
            }
        }
        if let Some(last) = symbols.last_mut() {
            last.next = None;
        }

        // Candidates by rank, then by place. Symbols only grow, to the right, so a candidate whose left symbol is gone or
        // whose right symbol no longer ends at the same byte is out of date and skipped when it comes up.
        let mut candidates = BinaryHeap::new();
        for left in 1..symbols.len() {
            self.push_candidate(piece, &symbols, left - 1, &mut candidates);
        }
        while let Some(Reverse((_, left, merged, end))) = candidates.pop() {
            let Some(right) = symbols[left].next else {
                continue;
            };
            if symbols[left].merged_away || symbols[right].bytes.end != end {
                continue;
            }
            let next = symbols[right].next;
            symbols[right].merged_away = true;
            symbols[left].id = merged;
            symbols[left].bytes.end = end;
            symbols[left].next = next;
            if let Some(next) = next {
                symbols[next].previous = Some(left);
                self.push_candidate(piece, &symbols, left, &mut candidates);
            }
            if let Some(previous) = symbols[left].previous {
                self.push_candidate(piece, &symbols, previous, &mut candidates);
            }
        }
        out.extend(
            symbols
                .iter()
                .filter(|symbol| !symbol.merged_away)
                .map(|symbol| symbol.id),
        );
    }

    fn push_candidate(
        &self,
        piece: &[u8],
        symbols: &[Symbol],
        left: usize,
        candidates: &mut BinaryHeap<Reverse<(u32, usize, u32, usize)>>,
    ) {
        if let Some(right) = symbols[left].next
            && let Some((rank, merged)) = self.merge_of(piece, &symbols[left], &symbols[right])
        {
            candidates.push(Reverse((rank, left, merged, symbols[right].bytes.end)));
        }
    }

    /// Rank and result of merging two neighbours.
    fn merge_of(&self, piece: &[u8], left: &Symbol, right: &Symbol) -> Option<(u32, u32)> {
        match &self.pairs {
            Some(pairs) => pairs.get(&(left.id, right.id)).copied(),
            None => {
                // A byte without a token between the two leaves a gap: they are not neighbours.
                if left.bytes.end != right.bytes.start {
                    return None;
                }
                let id = self.id_of(&piece[left.bytes.start..right.bytes.end])?;
                Some((id, id))
            }
        }
    }
}

/// A token of a piece that is being merged; a link of a doubly linked list.
struct Symbol {
    id: u32,
    bytes: Range<usize>,
    previous: Option<usize>,
    next: Option<usize>,
    merged_away: bool,
}

/// The byte that a character of GPT-2's printable alphabet stands for: printable Latin-1 stands for itself, the other
/// 68 bytes for U+0100 onwards in their order.
pub fn byte_of_gpt2_char(character: char) -> Option<u8> {
    let code = u32::from(character);
    match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => u8::try_from(code).ok(),
        0x100..=0x120 => u8::try_from(code - 0x100).ok(),
        0x121..=0x142 => u8::try_from(code - 0x121 + 0x7f).ok(),
        0x143 => Some(0xad),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn toy() -> TokenTable {
        let mut table: TokenTable = (0..=255u8).map(|byte| [byte]).collect();
        for token in ["ab", "bc", "abc", "abab", "cd", "aa", "aaaa", "bca"] {
            table.push(token.as_bytes());
        }
        table
    }

    /// The definition: again and again, merge the leftmost pair of lowest rank.
    fn slow(bpe: &Bpe, piece: &[u8]) -> Vec<u32> {
        if let Some(id) = bpe.id_of(piece) {
            return vec![id];
        }
        let mut parts: Vec<Vec<u8>> = piece.iter().map(|&byte| vec![byte]).collect();
        loop {
            let best = (1..parts.len())
                .filter_map(|i| Some((bpe.id_of(&[&parts[i - 1][..], &parts[i]].concat())?, i)))
                .min();
            let Some((_, i)) = best else { break };
            let right = parts.remove(i);
            parts[i - 1].extend(right);
        }
        parts.iter().filter_map(|part| bpe.id_of(part)).collect()
    }

    proptest! {
        #[test]
        fn merges_as_defined(piece in "[abcd]{0,40}") {
            let bpe = Bpe::from_ranked_tokens(toy());
            let mut fast = Vec::new();
            bpe.encode_piece(piece.as_bytes(), &mut fast);
            prop_assert_eq!(fast, slow(&bpe, piece.as_bytes()));
        }
    }

    #[test]
    fn explicit_merges_follow_their_own_order() {
        let merge = |left: u8, right: u8, merged| Merge {
            left: left.into(),
            right: right.into(),
            merged,
        };
        let bpe = Bpe::from_merges(toy(), &[merge(b'b', b'c', 257), merge(b'a', b'b', 256)]);
        let mut ids = Vec::new();
        bpe.encode_piece(b"abcab", &mut ids);
        assert_eq!(ids, [97, 257, 256]);
    }

    #[test]
    fn long_pieces_take_no_quadratic_time() {
        let bpe = Bpe::from_ranked_tokens(toy());
        let mut ids = Vec::new();
        bpe.encode_piece(&b"a".repeat(1 << 18), &mut ids);
        assert_eq!(ids.len(), 1 << 16);
    }

    #[test]
    fn the_alphabet_covers_every_byte_once() {
        let mut seen = [false; 256];
        for character in '\0'..='\u{200}' {
            if let Some(byte) = byte_of_gpt2_char(character) {
                assert!(!std::mem::replace(&mut seen[usize::from(byte)], true));
            }
        }
        assert!(seen.iter().all(|&seen| seen));
        assert_eq!(byte_of_gpt2_char('Ġ'), Some(b' '));
        assert_eq!(byte_of_gpt2_char('Ċ'), Some(b'\n'));
    }
}
