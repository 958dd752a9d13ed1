//! Compiles the emulator with the machine's C++ compiler, where there is one.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=src");
    println!("cargo::rerun-if-env-changed=CXX");
    let folder = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    let library = folder.join("libturaco-cuda-emulator.so");
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let compiled = Command::new(&compiler)
        .args([
            "-std=c++17",
            "-O2",
            "-fPIC",
            "-shared",
            "-fvisibility=hidden",
            "-o",
        ])
        .arg(&library)
        .args(["src/emulator.cpp", "-ldl"])
        .status()
        .is_ok_and(|status| status.success());
    // Kernels find the header beside the library.
    let copied = std::fs::copy("src/device.h", folder.join("device.h")).is_ok();
    let path = if compiled && copied {
        library
    } else {
        PathBuf::new()
    };
    if !compiled {
        println!(
            "cargo::warning=no C++ compiler ({compiler}): kernels for NVIDIA's cards are not tested here"
        );
    }
    println!("cargo::rustc-env=TURACO_CUDA_EMULATOR={}", path.display());
}
