//! Ending a text in front of words that were named.

/// Gives out a text as it comes, up to the first of several words. What may turn out to be the beginning of one is held back.
#[derive(Debug)]
pub(super) struct StopWords {
    words: Vec<String>,
    held: String,
}

impl StopWords {
    pub fn new(words: &[String]) -> Self {
        let words = words.iter().filter(|word| !word.is_empty());
        Self {
            words: words.cloned().collect(),
            held: String::new(),
        }
    }

    /// More text; what can be given out of it, and whether that was all.
    pub fn push(&mut self, text: &str) -> (String, bool) {
        self.held.push_str(text);
        let first = (self.words.iter()).filter_map(|word| self.held.find(word.as_str()));
        if let Some(at) = first.min() {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let may_begin = |at: usize| {
            let rest = &self.held[at..];
            self.words.iter().any(|word| word.starts_with(rest))
        };
        let mut places = self.held.char_indices().map(|(at, _)| at);
        let at = places.find(|&at| may_begin(at)).unwrap_or(self.held.len());
        let rest = self.held.split_off(at);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// There is no more text: what was held back.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_ends_in_front_of_the_first_word() {
        let words = ["END".to_owned(), "\n\n".to_owned(), String::new()];
        let mut stop = StopWords::new(&words);
        assert_eq!(stop.push("a E"), ("a ".into(), false));
        assert_eq!(stop.push("N"), (String::new(), false));
        assert_eq!(stop.push("é\n"), ("ENé".into(), false));
        assert_eq!(stop.push("b END\n\n"), ("\nb ".into(), true));

        let mut stop = StopWords::new(&words);
        assert_eq!(stop.push("x\n"), ("x".into(), false));
        assert_eq!(stop.finish(), "\n");
        let mut none = StopWords::new(&[]);
        assert_eq!(none.push("all"), ("all".into(), false));
    }
}
