//! Kernels compiled ahead of their first use, on machines without a card: for images and for machines without a compiler.

use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::compiler::{self, Program};
use super::kernels::Module;
use super::plan::grids::Card;
use crate::error::Result;

/// Processors of the cards that kernels are cut for: an H200's, a third more or less changes little.
const PROCESSORS: usize = 132;

/// Which kernels are compiled ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelSet {
    /// Those that models of common sizes call.
    Common,
    /// Every file of kernels at least once, with every type of weights: to see that a compiler takes them.
    Samples,
}

/// Compile the kernels that models of common sizes call, for cards of a compute capability (90 for 9.0), into `folder`, where
/// [`CudaOptions::kernel_cache`](super::CudaOptions::kernel_cache) finds them. `done` is told how many of how many there are.
/// Others are compiled when they are first called.
///
/// # Errors
/// No compiler, or a capability that it does not know.
pub fn compile_ahead(
    set: KernelSet,
    capability: u32,
    folder: &Path,
    done: &(dyn Fn(usize, usize) + Sync),
) -> Result<usize> {
    let card = Card {
        processors: PROCESSORS,
        capability,
    };
    let modules = match set {
        KernelSet::Common => Module::common(card),
        KernelSet::Samples => Module::samples(card),
    };
    let next = AtomicUsize::new(0);
    let finished = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let work = || {
        while let Some(module) = modules.get(next.fetch_add(1, Ordering::Relaxed)) {
            let name = module.name();
            let program = Program {
                name: &name,
                source: &module.source(),
                defines: &module.defines(),
                capability,
            };
            if let Err(error) = compiler::image(&program, Some(folder)) {
                *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                next.store(modules.len(), Ordering::Relaxed);
                return;
            }
            done(finished.fetch_add(1, Ordering::Relaxed) + 1, modules.len());
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads.min(modules.len()) {
            scope.spawn(work);
        }
    });
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(modules.len()),
    }
}
