//! NVIDIA's own compiler takes the kernels: no card is needed for it. It comes with the CUDA toolkit, and from Python's index as
//! `nvidia-cuda-nvrtc-cu12`; `TURACO_NVRTC` names its library.
#![cfg(feature = "cuda")]

use turaco_compute::cuda;

#[test]
fn every_kernel_compiles_for_hopper() {
    if std::env::var_os("TURACO_NVRTC").is_none() {
        eprintln!("SKIPPED: TURACO_NVRTC names no compiler");
        return;
    }
    let folder = std::env::temp_dir().join(format!("turaco-nvrtc-{}", std::process::id()));
    let count = cuda::compile_ahead(90, &folder, &|_, _| ()).unwrap();
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
