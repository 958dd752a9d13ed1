//! Aligning text with time: dynamic time warping, and the filter that smooths attention before it.
//!
//! Follows openai-whisper: `dtw_cpu`, `backtrace` and `median_filter` in `whisper/timing.py`.

/// The cheapest path through `cost` from the first cell to the last: for every step of the path its row (text) and its
/// column (time). Steps go one down, one right, or both.
///
/// `cost`: row-major `[n_text, n_times]`; a wrong length gives an empty path, as does an empty matrix.
///
/// Both is taken only when strictly cheaper than the two others, down only when strictly cheaper than the two others,
/// right in every other case; so cells that are not a number never break a tie in favour of down or both.
pub fn dtw(cost: &[f32], n_text: usize, n_times: usize) -> (Vec<usize>, Vec<usize>) {
    if cost.is_empty() || n_text.checked_mul(n_times) != Some(cost.len()) {
        return (Vec::new(), Vec::new());
    }
    let steps = cheapest_steps(cost, n_times);
    let mut path = Vec::with_capacity(n_text + n_times);
    // The borders force the path to the first cell: along the top row only right, along the left column only down.
    let (mut text, mut time) = (n_text - 1, n_times - 1);
    loop {
        path.push((text, time));
        match (text, time) {
            (0, 0) => break,
            (0, _) => time -= 1,
            (_, 0) => text -= 1,
            _ => match steps[text * n_times + time] {
                Step::Both => {
                    text -= 1;
                    time -= 1;
                }
                Step::Down => text -= 1,
                Step::Right => time -= 1,
            },
        }
    }
    path.into_iter().rev().unzip()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Both,
    Down,
    Right,
}

/// How the cheapest path arrives at every cell.
fn cheapest_steps(cost: &[f32], n_times: usize) -> Vec<Step> {
    let mut steps = Vec::with_capacity(cost.len());
    // Total cost of the paths to the row above, after an infinite column; the reference sums in f64 once
    // numba has compiled it, though it declares f32.
    let mut above = vec![f64::INFINITY; n_times + 1];
    above[0] = 0.0;
    for row in cost.chunks_exact(n_times) {
        let mut diagonal = above[0];
        above[0] = f64::INFINITY;
        let mut left = f64::INFINITY;
        for (cell, total) in row.iter().zip(&mut above[1..]) {
            let up = *total;
            let (before, step) = if diagonal < up && diagonal < left {
                (diagonal, Step::Both)
            } else if up < diagonal && up < left {
                (up, Step::Down)
            } else {
                (left, Step::Right)
            };
            left = f64::from(*cell) + before;
            diagonal = up;
            *total = left;
            steps.push(step);
        }
    }
    steps
}

/// Every row of `x` (row-major, `n_cols` wide) with each value replaced by the median of the `width` values around it;
/// rows are reflected at their ends. `width` is odd; rows no longer than `width / 2` stay as they are.
pub fn median_filter(x: &[f32], n_cols: usize, width: usize) -> Vec<f32> {
    let pad = width / 2;
    if pad == 0 || n_cols <= pad {
        return x.to_vec();
    }
    let mut padded = vec![0.0; n_cols + 2 * pad];
    let mut window = vec![0.0; 2 * pad + 1];
    let mut out = Vec::with_capacity(x.len());
    for row in x.chunks_exact(n_cols) {
        padded[pad..pad + n_cols].copy_from_slice(row);
        for i in 1..=pad {
            padded[pad - i] = row[i];
            padded[pad + n_cols - 1 + i] = row[n_cols - 1 - i];
        }
        for around in padded.windows(window.len()) {
            window.copy_from_slice(around);
            let (_, median, _) = window.select_nth_unstable_by(pad, f32::total_cmp);
            out.push(*median);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn testdata() -> serde_json::Value {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../testdata/alignment/dtw.json"
        );
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    fn list<T: serde::de::DeserializeOwned>(value: &serde_json::Value) -> Vec<T> {
        serde_json::from_value(value.clone()).unwrap()
    }

    /// openai-whisper's paths, half of them through costs full of ties.
    #[test]
    fn paths_equal_the_reference() {
        for case in testdata()["dtw"].as_array().unwrap() {
            let rows = case["rows"].as_u64().unwrap() as usize;
            let cols = case["cols"].as_u64().unwrap() as usize;
            let (text, time) = dtw(&list::<f32>(&case["cost"]), rows, cols);
            assert_eq!(text, list::<usize>(&case["text"]), "{case}");
            assert_eq!(time, list::<usize>(&case["time"]), "{case}");
        }
    }

    #[test]
    fn medians_equal_the_reference() {
        for case in testdata()["median"].as_array().unwrap() {
            let cols = case["cols"].as_u64().unwrap() as usize;
            let width = case["width"].as_u64().unwrap() as usize;
            let filtered = median_filter(&list::<f32>(&case["x"]), cols, width);
            assert_eq!(filtered, list::<f32>(&case["y"]), "{case}");
        }
    }

    #[test]
    fn broken_matrices_give_a_path_or_none() {
        assert_eq!(dtw(&[], 0, 5), (vec![], vec![]));
        assert_eq!(dtw(&[1.0; 5], 2, 3), (vec![], vec![]));
        let (text, time) = dtw(&[f32::NAN; 12], 3, 4);
        assert_eq!((text[0], time[0]), (0, 0));
        assert_eq!((*text.last().unwrap(), *time.last().unwrap()), (2, 3));
        assert!(median_filter(&[], 0, 7).is_empty());
    }
}
