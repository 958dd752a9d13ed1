//! NVIDIA's own compiler takes the kernels: no card is needed for it. It comes with the CUDA toolkit, and from Python's index as
//! `nvidia-cuda-nvrtc-cu12`; `TURACO_NVRTC` names its library.
#![cfg(feature = "cuda")]

use turaco_compute::cuda::{self, KernelSet};

fn compiles(set: KernelSet, capability: u32) {
    if std::env::var_os("TURACO_NVRTC").is_none() {
        eprintln!("SKIPPED: TURACO_NVRTC names no compiler");
        return;
    }
    let name = format!("turaco-nvrtc-{}-{set:?}-{capability}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    let count = cuda::compile_ahead(set, capability, &folder, &|_, _| ()).unwrap();
    let files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(files.len(), count);
    for file in files {
        let stored = std::fs::read(&file).unwrap();
        // An image for the card behind a hash of 8 bytes.
        assert!(stored[8..].starts_with(b"\x7fELF"), "{}", file.display());
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn every_kernel_compiles_for_hopper() {
    compiles(KernelSet::Samples, 90);
}

#[test]
fn everything_that_is_compiled_ahead_compiles_and_older_cards_take_the_kernels() {
    // The same variable asks for the other tests of cards that take minutes.
    if std::env::var_os("TURACO_TEST_CARD").is_none() {
        eprintln!("SKIPPED: it takes minutes; TURACO_TEST_CARD=emulated does it");
        return;
    }
    compiles(KernelSet::Common, 90);
    compiles(KernelSet::Samples, 80);
    compiles(KernelSet::Samples, 75);
}
