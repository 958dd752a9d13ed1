//! Panels in a file: written once, mapped later.
//!
//! The bytes of a stored matrix are its panels one after the other, as this machine keeps them in memory (see
//! [`super`]), with little-endian numbers; then, for int8 only, the scales (f32) and the sums (i32) of its rows, padded to
//! whole panels. All sizes are multiples of 64 bytes.

use super::blocks::{Q4_BYTES, Q8_BYTES, SCALE_BYTES};
use super::huge_pages::{self, Moving};
use super::{PANEL, PackedMatrix, WeightType};
use crate::cpu::memory::Buffer;
use crate::cpu::pool::Pool;
use crate::storage::Bytes;
use crate::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes of a matrix from which on it is worth pages of 2 MiB.
const WORTH_HUGE_PAGES: usize = 4 << 20;

/// Where the panels of a matrix are.
#[derive(Debug)]
pub(super) enum Panels {
    /// In memory of their own.
    Owned(Buffer),
    /// In files, one part below the other.
    Stored(Vec<Part>),
    /// In files, and on the way to memory of their own.
    Moving(Arc<Moving>),
}

/// Some of the panels of a matrix.
#[derive(Debug)]
pub(super) struct Part {
    /// The first panel that is not in this part.
    end: usize,
    pub(super) bytes: Bytes,
}

impl Panels {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Owned(buffer) => buffer.len(),
            Self::Stored(parts) => parts.iter().map(|part| part.bytes.len()).sum(),
            Self::Moving(moving) => moving.len(),
        }
    }

    /// The bytes of panel `panel`.
    pub(super) fn get<'a>(&'a self, panel: usize, panel_bytes: usize) -> &'a [u8] {
        let of = |bytes: &'a [u8], first| {
            let start: usize = (panel - first) * panel_bytes;
            &bytes[start..start + panel_bytes]
        };
        let stored = |parts: &'a [Part]| {
            let mut first = 0;
            for part in parts {
                if panel < part.end {
                    return of(part.bytes.as_slice(), first);
                }
                first = part.end;
            }
            &[]
        };
        match self {
            Self::Owned(buffer) => of(buffer.as_bytes(), 0),
            Self::Stored(parts) => stored(parts),
            Self::Moving(moving) => match moving.moved() {
                Some(bytes) => of(bytes, 0),
                None => stored(moving.parts()),
            },
        }
    }
}

/// Bytes of an `[n, k]` matrix stored as panels, or `None` if they cannot be counted.
pub fn panels_len(weight_type: WeightType, n: usize, k: usize) -> Option<usize> {
    let panels = n.div_ceil(PANEL);
    let panel = k
        .div_ceil(weight_type.step_inputs())
        .checked_mul(weight_type.step_bytes())?;
    let tail = match weight_type {
        WeightType::Int8 => PANEL * 8,
        _ => 0,
    };
    panels.checked_mul(panel.checked_add(tail)?)
}

/// The values `[n, k]` of a matrix stored as panels.
///
/// # Errors
/// [`Error::Shape`] if the bytes do not fit.
pub fn stored_values(
    weight_type: WeightType,
    n: usize,
    k: usize,
    bytes: &Bytes,
) -> Result<Vec<f32>> {
    let matrix = PackedMatrix::from_stored_unchecked(weight_type, k, &[(n, bytes.clone())])?;
    Ok(matrix.values())
}

impl PackedMatrix {
    /// All values, row after row.
    pub(crate) fn values(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.n * self.k];
        for (row, out) in values.chunks_exact_mut(self.k).enumerate() {
            self.row_f32(row, out);
        }
        values
    }

    /// A matrix of stored parts `(rows, bytes)`, one below the other; all but the last have whole panels. Nothing is copied
    /// but the scales of int8.
    ///
    /// # Errors
    /// [`Error::Shape`] if the bytes do not fit; [`Error::Unsupported`] for scales that are not finite, and on a machine
    /// with big-endian numbers.
    pub(crate) fn from_stored(
        weight_type: WeightType,
        k: usize,
        parts: &[(usize, Bytes)],
        pool: &Pool,
    ) -> Result<Self> {
        let mut matrix = Self::from_stored_unchecked(weight_type, k, parts)?;
        if !matrix.is_finite(pool) {
            return Err(Error::Unsupported {
                what: format!("a stored {} matrix", weight_type.name()),
                reason: "it holds values that are not finite".to_owned(),
            });
        }
        matrix.move_to_huge_pages();
        Ok(matrix)
    }

    /// Have a large matrix copied out of its file, whose pages are small: they cost a walk through the page table every
    /// 4 KiB of a stream, each time the matrix is used (in a virtual machine 135 ms instead of 90 for the 2.1 GB of a
    /// decode step). Until it is there, the file serves.
    fn move_to_huge_pages(&mut self) {
        let worth_it = self.panels.len() >= WORTH_HUGE_PAGES && cfg!(target_os = "linux");
        if let (true, Panels::Stored(parts)) = (worth_it, &mut self.panels) {
            // Loading goes through files faster than they are copied: what waits is not to count meanwhile.
            parts.iter().for_each(|part| part.bytes.release());
            let moving = Arc::new(Moving::new(std::mem::take(parts)));
            huge_pages::soon(&moving);
            self.panels = Panels::Moving(moving);
        }
    }

    /// As [`PackedMatrix::from_stored`], whatever the values are.
    fn from_stored_unchecked(
        weight_type: WeightType,
        k: usize,
        parts: &[(usize, Bytes)],
    ) -> Result<Self> {
        let (mut n, mut stored) = (0_usize, Vec::new());
        let (mut row_scales, mut row_sums) = (Vec::new(), Vec::new());
        let refused = |reason: &str| Error::Unsupported {
            what: format!("a stored {} matrix", weight_type.name()),
            reason: reason.to_owned(),
        };
        if cfg!(target_endian = "big") {
            return Err(refused("this machine orders bytes the other way round"));
        }
        for (rows, bytes) in parts {
            let expected = panels_len(weight_type, *rows, k);
            if expected != Some(bytes.len()) || !n.is_multiple_of(PANEL) || *rows == 0 || k == 0 {
                return Err(Error::Shape {
                    what: format!("{rows} x {k} {} panels", weight_type.name()),
                    expected: match expected {
                        Some(len) => format!("{len} bytes"),
                        None => "fewer rows and columns".to_owned(),
                    },
                    found: format!("{} bytes", bytes.len()),
                });
            }
            n = n
                .checked_add(*rows)
                .ok_or_else(|| refused("it has too many rows"))?;
            let panels = if weight_type == WeightType::Int8 {
                let padded = rows.next_multiple_of(PANEL);
                let (panels, tail) = bytes.split_at(bytes.len() - 8 * padded);
                let (scales, sums) = tail.as_chunks::<4>().0.split_at(padded);
                row_scales.extend(scales.iter().map(|raw| f32::from_le_bytes(*raw)));
                row_sums.extend(sums.iter().map(|raw| i32::from_le_bytes(*raw)));
                bytes.slice(0..panels.len())
            } else {
                bytes.clone()
            };
            stored.push(Part {
                end: n.div_ceil(PANEL),
                bytes: panels,
            });
        }
        Ok(Self {
            n,
            k,
            weight_type,
            panel_bytes: k.div_ceil(weight_type.step_inputs()) * weight_type.step_bytes(),
            panels: Panels::Stored(stored),
            row_scales,
            row_sums,
        })
    }

    /// Whether every scale and minimum (for f32, f16 and bf16 every value) is finite. Reads from every page, which also
    /// fetches a mapped file before it is needed.
    fn is_finite(&self, pool: &Pool) -> bool {
        let finite = AtomicBool::new(self.row_scales.iter().all(|scale| scale.is_finite()));
        let halves = |bytes: &[u8], mask: u16| {
            let bad = |bad, raw: &[u8; 2]| bad | (u16::from_le_bytes(*raw) & mask == mask);
            !bytes.as_chunks::<2>().0.iter().fold(false, bad)
        };
        pool.run(self.n_panels(), &|panel| {
            let panel = self.panel(panel);
            let good = match self.weight_type {
                WeightType::F32 => {
                    let bad = |bad, raw: &[u8; 4]| {
                        bad | (u32::from_le_bytes(*raw) & 0x7f80_0000 == 0x7f80_0000)
                    };
                    !panel.as_chunks::<4>().0.iter().fold(false, bad)
                }
                WeightType::F16 => halves(panel, 0x7c00),
                WeightType::Bf16 => halves(panel, 0x7f80),
                WeightType::Int8 => true,
                WeightType::Q8 => panel
                    .chunks_exact(Q8_BYTES)
                    .all(|block| halves(&block[..SCALE_BYTES], 0x7c00)),
                WeightType::Q4 => panel
                    .chunks_exact(Q4_BYTES)
                    .all(|block| halves(&block[..2 * SCALE_BYTES], 0x7c00)),
            };
            if !good {
                finite.store(false, Ordering::Relaxed);
            }
        });
        finite.into_inner()
    }

    /// The matrix as [`panels_len`] bytes for a file.
    ///
    /// # Errors
    /// What `out` fails with.
    pub fn store(&self, out: &mut dyn std::io::Write) -> std::io::Result<()> {
        for panel in 0..self.n_panels() {
            out.write_all(self.panel(panel))?;
        }
        for scale in &self.row_scales {
            out.write_all(&scale.to_le_bytes())?;
        }
        for sum in &self.row_sums {
            out.write_all(&sum.to_le_bytes())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::MatrixSource;
    use super::*;
    use crate::DType;

    fn packed(n: usize, k: usize, weight_type: WeightType, pool: &Pool) -> PackedMatrix {
        let bytes: Vec<u8> = (0..n * k)
            .flat_map(|i| (((i * 37 % 101) as f32 - 50.0) / 7.0).to_le_bytes())
            .collect();
        let source = MatrixSource {
            dtype: DType::F32,
            n,
            k,
            bytes: &bytes,
            row_scales: None,
        };
        PackedMatrix::pack(&source, weight_type, pool).unwrap()
    }

    fn stored(matrix: &PackedMatrix) -> Bytes {
        let mut bytes = Vec::new();
        matrix.store(&mut bytes).unwrap();
        bytes.into()
    }

    #[test]
    fn stored_parts_are_one_matrix() {
        let pool = Pool::new(2);
        for weight_type in WeightType::ALL {
            for k in [1, 33, 64] {
                let [first, second] = [64, 37].map(|n| packed(n, k, weight_type, &pool));
                let parts = [(64, stored(&first)), (37, stored(&second))];
                for (n, bytes) in &parts {
                    assert_eq!(panels_len(weight_type, *n, k), Some(bytes.len()));
                    assert!(bytes.len().is_multiple_of(64));
                }
                let whole = PackedMatrix::from_stored(weight_type, k, &parts, &pool).unwrap();
                assert_eq!((whole.n(), whole.k()), (101, k));
                let (mut found, mut expected) = (vec![0.0; k], vec![0.0; k]);
                for row in 0..101 {
                    whole.row_f32(row, &mut found);
                    match row.checked_sub(64) {
                        Some(row) => second.row_f32(row, &mut expected),
                        None => first.row_f32(row, &mut expected),
                    }
                    assert_eq!(found, expected, "{weight_type:?} row {row}");
                }
                assert_eq!(stored(&whole).len(), whole.bytes());
            }
        }
    }

    #[test]
    fn a_large_matrix_is_the_same_before_and_after_its_move() {
        let pool = Pool::new(2);
        let [first, second] = [2048, 1000].map(|n| packed(n, 512, WeightType::F32, &pool));
        let parts = [(2048, stored(&first)), (1000, stored(&second))];
        let whole = PackedMatrix::from_stored(WeightType::F32, 512, &parts, &pool).unwrap();
        let check = || {
            for panel in 0..whole.n_panels() {
                let expected = match panel.checked_sub(64) {
                    Some(panel) => second.panel(panel),
                    None => first.panel(panel),
                };
                assert_eq!(whole.panel(panel), expected, "panel {panel}");
            }
        };
        check();
        if let Panels::Moving(moving) = &whole.panels {
            while moving.moved().is_none() {
                std::thread::yield_now();
            }
            check();
        }
    }

    #[test]
    fn broken_parts_are_errors() {
        let pool = Pool::new(1);
        for weight_type in WeightType::ALL {
            let good = stored(&packed(33, 40, weight_type, &pool));
            let load = |parts: &[(usize, Bytes)]| {
                PackedMatrix::from_stored(weight_type, 40, parts, &pool).is_ok()
            };
            assert!(load(&[(33, good.clone())]));
            assert!(!load(&[(33, good.slice(0..good.len() - 1))]));
            assert!(!load(&[(65, good.clone())]));
            assert!(!load(&[(0, Bytes::default())]));
            assert!(!load(&[(usize::MAX, good.clone())]));
            assert!(!load(&[(33, good.clone()), (32, good.clone())]));
            let mut bad = good.to_vec();
            let at = if weight_type == WeightType::Int8 {
                good.len() - 64 * 8
            } else {
                0
            };
            bad[at..at + 4].copy_from_slice(&[0xff; 4]);
            assert!(!load(&[(33, bad.into())]), "{weight_type:?}");
        }
    }
}
