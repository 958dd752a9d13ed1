//! Noticing that a model goes in circles.

/// Watches items (frames of codes, tokens) for loops: the same few, again and again.
#[derive(Debug)]
pub(crate) struct LoopGuard {
    /// Numbers of an item.
    width: usize,
    /// Items that have to repeat before it is a loop.
    needed: usize,
    /// The last items.
    items: Vec<u32>,
    /// For every length of a loop, items that were as the ones so long before.
    same: Vec<usize>,
}

impl LoopGuard {
    /// For items of `width` numbers; a loop has at most `longest` items, and is one when `needed` items were repetitions.
    pub fn new(width: usize, longest: usize, needed: usize) -> Self {
        Self {
            width,
            needed,
            items: Vec::with_capacity((longest + 1) * width),
            same: vec![0; longest],
        }
    }

    /// Take an item; how many of the last ones were repetitions, if that is a loop.
    pub fn push(&mut self, item: &[u32]) -> Option<usize> {
        let width = self.width;
        for (length, same) in (1..).zip(&mut self.same) {
            let before = self.items.len().checked_sub(length * width);
            let equal = before.is_some_and(|at| self.items[at..at + width] == *item);
            *same = if equal { *same + 1 } else { 0 };
        }
        if self.items.len() == self.same.len() * width {
            self.items.drain(..width);
        }
        self.items.extend_from_slice(item);
        let most = self.same.iter().copied().max().unwrap_or(0);
        (most >= self.needed).then_some(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_of_any_short_length_are_found() {
        for length in 1..=8 {
            let mut guard = LoopGuard::new(2, 8, 50);
            let item = |n: usize| [(n % length) as u32, 7];
            let found = (0..200).find_map(|n| Some((n, guard.push(&item(n))?)));
            assert_eq!(found, Some((length + 49, 50)));
        }
        let mut guard = LoopGuard::new(1, 8, 50);
        assert!((0..500).all(|n| guard.push(&[n / 40]).is_none()));
        assert!((0..500).all(|n| guard.push(&[n % 9]).is_none()));
    }
}
