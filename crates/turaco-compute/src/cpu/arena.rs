//! The scratch memory of a step: one aligned block, cut up when the step is compiled.

use crate::cpu::kernels::Rows;
use crate::cpu::memory::Buffer;
use crate::error::Result;

/// Values in a cache line; every region starts on one.
pub(crate) const LINE: usize = 16;

/// A matrix in an [`Arena`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct View {
    pub offset: usize,
    pub rows: usize,
    pub cols: usize,
    pub stride: usize,
}

impl View {
    /// Values from the first to the last one, gaps between rows included.
    pub(crate) fn span(&self) -> usize {
        if self.rows == 0 || self.cols == 0 {
            0
        } else {
            (self.rows - 1) * self.stride + self.cols
        }
    }
}

/// Cache-line aligned f32 memory.
pub(crate) struct Arena {
    buffer: Buffer,
}

impl Arena {
    /// Zeroed memory for `len` values.
    pub(crate) fn new(len: usize) -> Result<Self> {
        let bytes = len.saturating_mul(size_of::<f32>());
        let buffer = Buffer::zeroed(bytes, "the scratch memory of a step")?;
        Ok(Self { buffer })
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.buffer.len()
    }

    fn values(&self) -> &[f32] {
        self.buffer.as_slice()
    }

    /// The values of a contiguous view.
    pub(crate) fn contiguous(&self, view: View) -> &[f32] {
        &self.values()[view.offset..][..view.span()]
    }

    /// Split into the memory of `outputs` (contiguous and apart from each other) and what can be read meanwhile.
    pub(crate) fn split<const N: usize>(
        &mut self,
        outputs: [View; N],
    ) -> ([&mut [f32]; N], Readable<'_>) {
        let mut order: [usize; N] = std::array::from_fn(|index| index);
        order.sort_unstable_by_key(|&index| (outputs[index].offset, outputs[index].span()));
        let mut taken: [&mut [f32]; N] = std::array::from_fn(|_| &mut [][..]);
        let mut readable = Readable {
            parts: [(0, &[]); 4],
        };
        let mut rest: &mut [f32] = self.buffer.as_slice_mut();
        let mut start = 0;
        for (part, &index) in order.iter().enumerate() {
            let view = outputs[index];
            if view.span() == 0 {
                continue;
            }
            let (before, from) = rest.split_at_mut(view.offset - start);
            let (output, after) = from.split_at_mut(view.span());
            readable.parts[part] = (start, before);
            taken[index] = output;
            start = view.offset + view.span();
            rest = after;
        }
        readable.parts[N] = (start, rest);
        (taken, readable)
    }
}

/// The parts of an arena that nobody writes during an operation.
pub(crate) struct Readable<'a> {
    parts: [(usize, &'a [f32]); 4],
}

impl<'a> Readable<'a> {
    /// The rows of a view that overlaps no output.
    pub(crate) fn rows(&self, view: View) -> Rows<'a> {
        let span = view.span();
        let data = self
            .parts
            .iter()
            .find(|(start, part)| {
                span > 0 && *start <= view.offset && view.offset + span <= start + part.len()
            })
            .map_or(&[][..], |(start, part)| {
                &part[view.offset - start..][..span]
            });
        // A view that is not found is empty, or the plan is wrong; then its first access fails.
        Rows::new(data, view.rows, view.cols, view.stride)
    }
}
