//! Matrix transposition.

use super::Rows;

/// `out[c][r] = x[r][c]`.
pub(crate) fn transpose(x: Rows<'_>, out: &mut [f32]) {
    let rows = x.len();
    for (index, x) in x.iter().enumerate() {
        for (column, &value) in x.iter().enumerate() {
            out[column * rows + index] = value;
        }
    }
}
