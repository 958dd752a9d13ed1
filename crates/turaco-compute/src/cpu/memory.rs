//! Zeroed host memory for weights and scratch.
//!
//! Weights are read once per token, strictly forward, so page-table walks show: with 4 KiB pages the same stream
//! is 25 to 45 % slower. Large buffers are therefore aligned to 2 MiB and advised for huge pages.

use crate::{Error, Result};

/// Alignment of large buffers, the size of a huge page.
const HUGE_PAGE: usize = 2 << 20;

/// Alignment of small buffers, one cache line.
const CACHE_LINE: usize = 64;

/// Alignment of what lies between, which is mapped too: what is freed goes back to the system at once. (An allocator keeps freed
/// blocks of this size for each thread that had some: a server in which many people spoke at once stayed large.)
const PAGE: usize = 4096;

/// The smallest block that is mapped.
const MAPPED: usize = 128 << 10;

/// A fixed block of zero-initialised bytes, aligned to 2 MiB when that large and to at least 64 bytes otherwise.
pub struct Buffer {
    start: std::ptr::NonNull<u8>,
    len: usize,
    layout: std::alloc::Layout,
}

// SAFETY: the buffer owns its memory exclusively; sharing follows the borrow of `Buffer` itself.
unsafe impl Send for Buffer {}
// SAFETY: as above; `&Buffer` only gives shared reads.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// Zeroed memory of `len` bytes. `what` names the purpose in the error.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if the system refuses.
    pub fn zeroed(len: usize, what: &str) -> Result<Self> {
        let refused = || Error::OutOfMemory {
            bytes: len,
            what: what.to_owned(),
        };
        let align = match len {
            HUGE_PAGE.. => HUGE_PAGE,
            MAPPED.. => PAGE,
            _ => CACHE_LINE,
        };
        let size = len
            .max(1)
            .checked_next_multiple_of(align)
            .ok_or_else(refused)?;
        let layout = std::alloc::Layout::from_size_align(size, align).map_err(|_| refused())?;
        let start = zeroed_pages(layout).ok_or_else(refused)?;
        Ok(Self { start, len, layout })
    }

    /// Bytes in use.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the buffer holds no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All bytes.
    pub fn as_bytes(&self) -> &[u8] {
        // SAFETY: `len` initialised bytes, borrowed with `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// All bytes, to write.
    pub fn as_bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: `len` initialised bytes, borrowed exclusively with `self`.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// The bytes as numbers; a tail shorter than one number is left out.
    pub fn as_slice<T: bytemuck::AnyBitPattern>(&self) -> &[T] {
        let size = std::mem::size_of::<T>().max(1);
        bytemuck::cast_slice(&self.as_bytes()[..self.len / size * size])
    }

    /// The bytes as numbers, to write.
    pub fn as_slice_mut<T: bytemuck::Pod>(&mut self) -> &mut [T] {
        let whole = self.len / std::mem::size_of::<T>().max(1) * std::mem::size_of::<T>();
        bytemuck::cast_slice_mut(&mut self.as_bytes_mut()[..whole])
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: obtained in `zeroed` with this layout, and nobody has it any more.
        unsafe { free(self.start, self.layout) };
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buffer")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// Large blocks come from the system as they are touched, zeroed by then: whoever fills them first, with all threads,
/// pays for the pages, and pages that nobody touches take no memory.
#[cfg(target_os = "linux")]
fn zeroed_pages(layout: std::alloc::Layout) -> Option<std::ptr::NonNull<u8>> {
    if layout.align() < PAGE {
        return zeroed_block(layout);
    }
    let is_huge = layout.align() >= HUGE_PAGE;
    // Huge pages with room to begin at a multiple of their size; each mapping begins with a page, however large pages are.
    let room = if is_huge { HUGE_PAGE } else { 0 };
    let mapped = layout.size().checked_add(room)?;
    let (protection, flags) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    );
    // SAFETY: a new mapping, which touches no other.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), mapped, protection, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return None;
    }
    if !is_huge {
        return std::ptr::NonNull::new(start.cast());
    }
    let before = start.cast::<u8>().align_offset(HUGE_PAGE);
    // SAFETY: `before` is less than the alignment, so that both ends and the block between them are parts of the mapping.
    // A refused advice costs only speed; it has to come before the first touch, which decides the size of a page.
    unsafe {
        let block = start.byte_add(before);
        let end = block.byte_add(layout.size());
        if before > 0 {
            libc::munmap(start, before);
        }
        libc::munmap(end, HUGE_PAGE - before);
        libc::madvise(block, layout.size(), libc::MADV_HUGEPAGE);
        std::ptr::NonNull::new(block.cast())
    }
}

#[cfg(not(target_os = "linux"))]
fn zeroed_pages(layout: std::alloc::Layout) -> Option<std::ptr::NonNull<u8>> {
    zeroed_block(layout)
}

/// From the allocator. The size of `layout` must not be zero.
fn zeroed_block(layout: std::alloc::Layout) -> Option<std::ptr::NonNull<u8>> {
    debug_assert!(layout.size() > 0);
    // SAFETY: the size is not zero.
    std::ptr::NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) })
}

/// # Safety
/// `start` came from [`zeroed_pages`] with this layout and is used no more.
unsafe fn free(start: std::ptr::NonNull<u8>, layout: std::alloc::Layout) {
    #[cfg(target_os = "linux")]
    if layout.align() >= PAGE {
        // SAFETY: a whole mapping.
        unsafe { libc::munmap(start.as_ptr().cast(), layout.size()) };
        return;
    }
    // SAFETY: the caller's promise.
    unsafe { std::alloc::dealloc(start.as_ptr(), layout) };
}

/// Let the C library give freed blocks of a megabyte and more back to the system at once, for the whole process. A program calls
/// it at its start; without it the library keeps blocks of up to 32 MiB once one of that size was freed, and loading a model
/// frees many. Other libraries than glibc give them back anyway, and nothing happens.
pub fn return_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: two settings of the allocator, which it takes at any time; a refusal changes nothing.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, RETURNED);
        libc::mallopt(libc::M_TRIM_THRESHOLD, RETURNED);
    }
}

/// Bytes from which on freed memory goes back.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const RETURNED: libc::c_int = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_zeroed_and_aligned() {
        for len in [
            0,
            1,
            63,
            64,
            65,
            MAPPED - 1,
            MAPPED,
            MAPPED + 1,
            HUGE_PAGE - 1,
            HUGE_PAGE,
            HUGE_PAGE + 5,
        ] {
            let mut buffer = Buffer::zeroed(len, "test").unwrap();
            assert_eq!(buffer.len(), len);
            assert!(buffer.as_bytes().iter().all(|&byte| byte == 0));
            let align = match len {
                HUGE_PAGE.. => HUGE_PAGE,
                MAPPED.. => PAGE,
                _ => CACHE_LINE,
            };
            assert_eq!(buffer.as_bytes().as_ptr() as usize % align, 0);
            buffer.as_bytes_mut().fill(7);
            assert_eq!(buffer.as_slice::<u32>().len(), len / 4);
            assert_eq!(buffer.as_slice_mut::<f32>().len(), len / 4);
        }
    }

    #[test]
    fn impossible_sizes_are_errors() {
        assert!(matches!(
            Buffer::zeroed(usize::MAX, "test"),
            Err(Error::OutOfMemory { .. })
        ));
        assert!(matches!(
            Buffer::zeroed(isize::MAX as usize, "test"),
            Err(Error::OutOfMemory { .. })
        ));
    }
}
