//! Word and character error rates: edit distance between a reference and a hypothesis.

use super::python;

/// What has to be done to a hypothesis to get the reference, with the fewest edits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Errors {
    /// Words that are other words in the hypothesis.
    pub substitutions: usize,
    /// Words that are only in the hypothesis.
    pub insertions: usize,
    /// Words that are only in the reference.
    pub deletions: usize,
    /// Words that are right.
    pub hits: usize,
}

impl Errors {
    /// All edits.
    pub fn total(&self) -> usize {
        self.substitutions + self.insertions + self.deletions
    }

    /// Words of the reference.
    pub fn reference_length(&self) -> usize {
        self.substitutions + self.deletions + self.hits
    }

    /// Edits per word of the reference: 0 is right, and more than 1 is possible. An empty reference counts as one word.
    pub fn rate(&self) -> f64 {
        self.total() as f64 / self.reference_length().max(1) as f64
    }
}

impl std::ops::AddAssign for Errors {
    /// Adds the counts, so that [`Errors::rate`] is the rate over several texts.
    fn add_assign(&mut self, other: Self) {
        self.substitutions += other.substitutions;
        self.insertions += other.insertions;
        self.deletions += other.deletions;
        self.hits += other.hits;
    }
}

/// Compares words, which are what white space separates. Normalise both texts first.
pub fn word_errors(reference: &str, hypothesis: &str) -> Errors {
    let reference: Vec<&str> = python::split(reference).collect();
    let hypothesis: Vec<&str> = python::split(hypothesis).collect();
    errors(&reference, &hypothesis)
}

/// Compares characters; white space at the ends does not count, and any white space within is one space.
pub fn character_errors(reference: &str, hypothesis: &str) -> Errors {
    let characters = |text| -> Vec<char> {
        let words: Vec<&str> = python::split(text).collect();
        words.join(" ").chars().collect()
    };
    errors(&characters(reference), &characters(hypothesis))
}

/// Levenshtein distance by rows, with the kinds of edits counted along the best path. Of paths that are equally short,
/// the one with more substitutions is taken.
fn errors<T: PartialEq>(reference: &[T], hypothesis: &[T]) -> Errors {
    let mut row: Vec<Errors> = (0..=hypothesis.len())
        .map(|insertions| Errors {
            insertions,
            ..Errors::default()
        })
        .collect();
    for expected in reference {
        let mut diagonal = row[0];
        row[0].deletions += 1;
        for (column, given) in hypothesis.iter().enumerate() {
            let above = row[column + 1];
            let mut best = diagonal;
            if expected == given {
                best.hits += 1;
            } else {
                best.substitutions += 1;
                if above.total() + 1 < best.total() {
                    best = above;
                    best.deletions += 1;
                }
                if row[column].total() + 1 < best.total() {
                    best = row[column];
                    best.insertions += 1;
                }
            }
            diagonal = above;
            row[column + 1] = best;
        }
    }
    row[hypothesis.len()]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counts(substitutions: usize, insertions: usize, deletions: usize, hits: usize) -> Errors {
        Errors {
            substitutions,
            insertions,
            deletions,
            hits,
        }
    }

    #[test]
    fn edits_are_counted_by_kind() {
        assert_eq!(word_errors("", ""), counts(0, 0, 0, 0));
        assert_eq!(
            word_errors("the cat sat", " the  cat sat "),
            counts(0, 0, 0, 3)
        );
        assert_eq!(
            word_errors("the cat sat", "the bat sat"),
            counts(1, 0, 0, 2)
        );
        assert_eq!(
            word_errors("the cat sat", "the cat sat down"),
            counts(0, 1, 0, 3)
        );
        assert_eq!(word_errors("the cat sat", "cat sat"), counts(0, 0, 1, 2));
        assert_eq!(word_errors("", "a b"), counts(0, 2, 0, 0));
        assert_eq!(word_errors("a b", ""), counts(0, 0, 2, 0));
        assert_eq!(word_errors("a b c d", "x b d e").rate(), 0.75);
        assert_eq!(word_errors("a", "").rate(), 1.0);
        assert_eq!(word_errors("", "").rate(), 0.0);
        assert_eq!(character_errors("kitten", "sitting"), counts(2, 1, 0, 4));
        assert_eq!(character_errors("日本", "日木").rate(), 0.5);
        let mut sum = word_errors("a b", "a");
        sum += word_errors("c d", "c d");
        assert_eq!(sum.rate(), 0.25);
    }

    proptest! {
        #[test]
        fn counts_are_consistent(a in "[abc ]{0,12}", b in "[abc ]{0,12}") {
            let forward = word_errors(&a, &b);
            let backward = word_errors(&b, &a);
            prop_assert_eq!(forward.reference_length(), python::split(&a).count());
            prop_assert_eq!(backward.reference_length(), python::split(&b).count());
            prop_assert_eq!(forward.total(), backward.total());
            prop_assert!(forward.total() <= forward.reference_length().max(backward.reference_length()));
        }
    }
}
