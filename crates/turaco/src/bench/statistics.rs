//! Numbers that stand for many.

use serde::{Deserialize, Serialize};

/// The distribution of a number of measurements.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Percentiles {
    /// How many were measured.
    pub count: usize,
    /// The median.
    pub p50: f64,
    /// 95 of 100 are at most this.
    pub p95: f64,
    /// 99 of 100 are at most this.
    pub p99: f64,
}

impl Percentiles {
    /// Of `values` in any order; all zero if there are none.
    pub fn new(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |share| percentile(&values, share);
        Self {
            count: values.len(),
            p50: at(0.50),
            p95: at(0.95),
            p99: at(0.99),
        }
    }

    /// All three times `factor`.
    #[must_use]
    pub fn times(self, factor: f64) -> Self {
        Self {
            count: self.count,
            p50: self.p50 * factor,
            p95: self.p95 * factor,
            p99: self.p99 * factor,
        }
    }
}

/// The value below which `share` of the sorted values lie, on the straight line between the two nearest (numpy's default).
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return 0.0;
    };
    let position = share * last as f64;
    let below = sorted[position as usize];
    let above = sorted[(position as usize + 1).min(last)];
    below + (above - below) * position.fract()
}

/// The middle value; 0 of none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    Percentiles::new(values.into_iter().collect()).p50
}

/// What repeated measurements are around, and how far from it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Spread {
    /// The plain mean.
    pub mean: f64,
    /// The standard deviation of the measurements, by n - 1; 0 of fewer than two.
    pub deviation: f64,
}

impl Spread {
    /// Of `values`; all zero if there are none.
    pub fn new(values: impl IntoIterator<Item = f64>) -> Self {
        let values: Vec<f64> = values.into_iter().collect();
        let centre = mean(values.iter().copied()).unwrap_or_default();
        let squares: f64 = values.iter().map(|value| (value - centre).powi(2)).sum();
        let others = values.len().saturating_sub(1).max(1);
        Self {
            mean: centre,
            deviation: (squares / others as f64).sqrt(),
        }
    }
}

/// The plain mean; `None` of none.
pub fn mean(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0);
    for value in values {
        sum += value;
        count += 1;
    }
    (count > 0).then(|| sum / f64::from(count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn deviations_are_those_of_samples() {
        let spread = Spread::new([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]);
        assert_eq!(spread.mean, 5.0);
        assert!((spread.deviation - (32.0_f64 / 7.0).sqrt()).abs() < 1e-12);
        assert_eq!(
            Spread::new([3.0]),
            Spread {
                mean: 3.0,
                deviation: 0.0
            }
        );
        assert_eq!(Spread::new([]), Spread::default());
    }

    #[test]
    fn percentiles_are_those_of_numpy() {
        let found = Percentiles::new(vec![4.0, 1.0, 3.0, 2.0]);
        assert_eq!((found.count, found.p50), (4, 2.5));
        assert!((found.p95 - 3.85).abs() < 1e-12 && (found.p99 - 3.97).abs() < 1e-12);
        assert_eq!(Percentiles::new(vec![]), Percentiles::default());
        let one = Percentiles::new(vec![7.0]);
        assert_eq!((one.p50, one.p95, one.p99), (7.0, 7.0, 7.0));
        assert_eq!(one.times(2.0).p99, 14.0);
        assert_eq!(mean([1.0, 2.0]), Some(1.5));
        assert_eq!(mean([]), None);
        assert_eq!(median([5.0, 1.0, 2.0]), 2.0);
    }

    proptest! {
        #[test]
        fn percentiles_rise_and_stay_within(values in prop::collection::vec(0.0..1e6f64, 1..60)) {
            let found = Percentiles::new(values.clone());
            let min = values.iter().copied().fold(f64::INFINITY, f64::min);
            let max = values.iter().copied().fold(0.0, f64::max);
            prop_assert!(min <= found.p50 && found.p50 <= found.p95);
            prop_assert!(found.p95 <= found.p99 && found.p99 <= max);
        }
    }
}
