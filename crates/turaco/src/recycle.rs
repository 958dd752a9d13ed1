//! Lists of borrowed things, made anew for every step without new memory.

/// An empty list of `U` in the memory of `list`, whose elements are dropped.
///
/// For lists of references that live shorter than their memory: between two uses they are kept with the lifetime
/// `'static`. Rust's `collect` writes into the memory of the list that it consumes where both elements have the same
/// size; `tests/it/allocations.rs` watches that it does.
pub(crate) fn recycle<T, U>(mut list: Vec<T>) -> Vec<U> {
    list.clear();
    list.into_iter()
        .map(|_| unreachable!("the list was cleared"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_stays() {
        let mut kept: Vec<&'static String> = Vec::with_capacity(10);
        for _ in 0..3 {
            let name = String::from("short-lived");
            let start = kept.as_ptr() as usize;
            let mut list: Vec<&String> = recycle(kept);
            assert_eq!((list.as_ptr() as usize, list.capacity()), (start, 10));
            list.extend([&name; 10]);
            kept = recycle(list);
            assert!(kept.is_empty());
        }
    }
}
