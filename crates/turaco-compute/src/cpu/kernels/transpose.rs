//! Matrix transposition.

use super::Rows;

/// Side of the squares that are transposed one after the other, so that both sides stay in the first-level cache.
const SQUARE: usize = 16;

/// `out[c][r] = x[r][c]` for the columns `columns`.
pub(crate) fn transpose(x: Rows<'_>, columns: std::ops::Range<usize>, out: &mut [f32]) {
    let rows = x.len();
    let count = columns.len();
    for first_row in (0..rows).step_by(SQUARE) {
        for first in (0..count).step_by(SQUARE) {
            for row in first_row..rows.min(first_row + SQUARE) {
                let x = &x.row(row)[columns.start..];
                for column in first..count.min(first + SQUARE) {
                    out[column * rows + row] = x[column];
                }
            }
        }
    }
}
