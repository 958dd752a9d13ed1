//! Speed of the linear kernels, beside what the machine gives at the same moment.
//!
//! `cargo bench -p turaco-compute --bench linear [-- THREADS [ISA [TYPE [SHAPE]]]]`
//!
//! Matrix-vector products are measured in GB/s of weights against a plain read of as many bytes; matrix products in
//! GFLOP/s against a loop of the multiply instruction that the weight type uses. Each figure is the best of the
//! medians of three rounds, which neighbours on a shared machine disturb least.

use std::hint::black_box;
use std::time::{Duration, Instant};
use turaco_compute::DType;
use turaco_compute::cpu::isa::Isa;
use turaco_compute::cpu::kernels::linear::{Epilogue, LinearScratch, linear, linear_scratch_bytes};
use turaco_compute::cpu::memory::Buffer;
use turaco_compute::cpu::packed::{MatrixSource, PackedMatrix, WeightType};
use turaco_compute::cpu::pool::Pool;

const TYPES: [(WeightType, &str); 4] = [
    (WeightType::F32, "f32"),
    (WeightType::F16, "f16"),
    (WeightType::Bf16, "bf16"),
    (WeightType::Int8, "int8"),
];

/// Rows, inputs, outputs.
const VECTOR_SHAPES: [(usize, usize, usize); 8] = [
    (1, 384, 1536),
    (1, 384, 51_865),
    (1, 1280, 5120),
    (1, 3072, 9216),
    (1, 9216, 3072),
    (1, 3072, 131_072),
    (5, 384, 51_865),
    (5, 1280, 5120),
];
const MATRIX_SHAPES: [(usize, usize, usize); 5] = [
    (1500, 384, 384),
    (1500, 384, 1536),
    (1500, 1536, 384),
    (1500, 1280, 5120),
    (188, 3072, 9216),
];

fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let threads = arguments.first().and_then(|a| a.parse().ok()).unwrap_or(2);
    let isa = match arguments.get(1) {
        Some(name) => Isa::available()
            .into_iter()
            .find(|isa| isa.name().starts_with(name.as_str())),
        None => None,
    }
    .unwrap_or(Isa::best());
    let wanted_type = arguments.get(2).map_or("", String::as_str);
    let wanted_shape = arguments.get(3).map_or("", String::as_str);
    let pool = Pool::new(threads);
    println!("{} with {} threads", isa.name(), pool.n_threads());
    println!("empty region: {:.2} us", region(&pool, Duration::ZERO));
    println!(
        "empty region after 50 us of serial work: {:.2} us",
        region(&pool, Duration::from_micros(50))
    );

    for (weight_type, type_name) in TYPES {
        if !type_name.contains(wanted_type) {
            continue;
        }
        let peak = peak(isa, weight_type, &pool);
        println!("\n{type_name}: arithmetic peak {peak:.0} GFLOP/s");
        for (m, k, n) in VECTOR_SHAPES {
            if !format!("{m}x{k}x{n}").contains(wanted_shape) {
                continue;
            }
            let weights = weights(n, k, weight_type, &pool);
            let bandwidth = bandwidth(weights.bytes(), &pool);
            let seconds = time(isa, &pool, m, &weights);
            let rate = weights.bytes() as f64 / seconds * 1e-9;
            println!(
                "{m:>5} x {k:>5} x {n:>6}  {:>9.1} us {rate:>8.1} GB/s      {:>3.0} % of {bandwidth:.1}",
                seconds * 1e6,
                100.0 * rate / bandwidth
            );
        }
        for (m, k, n) in MATRIX_SHAPES {
            if !format!("{m}x{k}x{n}").contains(wanted_shape) {
                continue;
            }
            let weights = weights(n, k, weight_type, &pool);
            let seconds = time(isa, &pool, m, &weights);
            let rate = 2.0 * (m * k * n) as f64 / seconds * 1e-9;
            println!(
                "{m:>5} x {k:>5} x {n:>6}  {:>9.1} us {rate:>8.1} GFLOP/s   {:>3.0} %",
                seconds * 1e6,
                100.0 * rate / peak
            );
        }
    }
}

/// Microseconds of an empty parallel region, each after serial work of the given length.
fn region(pool: &Pool, serial: Duration) -> f64 {
    let mut times: Vec<f64> = (0..2000)
        .map(|_| {
            let begin = Instant::now();
            while begin.elapsed() < serial {
                std::hint::spin_loop();
            }
            let begin = Instant::now();
            pool.run(pool.n_threads(), &|task| {
                black_box(task);
            });
            begin.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn weights(n: usize, k: usize, weight_type: WeightType, pool: &Pool) -> PackedMatrix {
    let bytes: Vec<u8> = (0..n * k)
        .flat_map(|i| ((i.wrapping_mul(2_654_435_761) >> 8) as u16 & 0xbfff).to_le_bytes())
        .collect();
    let source = MatrixSource {
        dtype: DType::Bf16,
        n,
        k,
        bytes: &bytes,
        row_scales: None,
    };
    let weights = PackedMatrix::pack(&source, weight_type, pool);
    weights.expect("the source fits its dimensions")
}

/// Seconds of one product.
fn time(isa: Isa, pool: &Pool, m: usize, weights: &PackedMatrix) -> f64 {
    let (n, k) = (weights.n(), weights.k());
    let x: Vec<f32> = (0..m * k).map(|i| (i % 17) as f32 * 0.1 - 0.8).collect();
    let mut out = vec![0.0; m * n];
    let mut scratch = LinearScratch::new();
    scratch
        .reserve(linear_scratch_bytes(m, weights))
        .expect("enough memory");
    measure(|| {
        let done = linear(
            isa,
            pool,
            &x,
            m,
            weights,
            &Epilogue::default(),
            &mut scratch,
            &mut out,
        );
        done.expect("operands fit");
        black_box(&mut out);
    })
}

/// The best of the medians of three rounds of about 0.1 s.
fn measure(mut f: impl FnMut()) -> f64 {
    f();
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        let begin = Instant::now();
        let mut times = Vec::new();
        while begin.elapsed() < Duration::from_millis(100) || times.len() < 5 {
            let begin = Instant::now();
            f();
            times.push(begin.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        best = best.min(times[times.len() / 2]);
    }
    best
}

/// GB/s of reading `bytes` in one linear stream per thread.
fn bandwidth(bytes: usize, pool: &Pool) -> f64 {
    let buffer = Buffer::zeroed(bytes, "bandwidth test").expect("enough memory");
    let words = buffer.as_slice::<u64>();
    let seconds = measure(|| {
        pool.run_split(words.len() / 64, 128, &|part| {
            // Many sums, so that loads and not additions are the limit.
            let mut sums = [0_u64; 64];
            for line in words[part.start * 64..part.end * 64].as_chunks::<64>().0 {
                for (sum, word) in sums.iter_mut().zip(line) {
                    *sum |= word;
                }
            }
            black_box(sums);
        });
    });
    bytes as f64 / seconds * 1e-9
}

/// GFLOP/s of all threads with the multiply instruction of this weight type, operands in registers.
fn peak(isa: Isa, weight_type: WeightType, pool: &Pool) -> f64 {
    const STEPS: usize = 100_000;
    let flops = std::sync::atomic::AtomicUsize::new(0);
    let seconds = measure(|| {
        flops.store(0, std::sync::atomic::Ordering::Relaxed);
        pool.run(pool.n_threads(), &|_| {
            let done = multiply_in_registers(isa, weight_type, STEPS);
            flops.fetch_add(done, std::sync::atomic::Ordering::Relaxed);
        });
    });
    flops.into_inner() as f64 / seconds * 1e-9
}

/// Runs `steps` rounds of independent multiply-adds; gives the number of floating-point (or integer) operations.
#[cfg(target_arch = "x86_64")]
fn multiply_in_registers(isa: Isa, weight_type: WeightType, steps: usize) -> usize {
    match (isa, weight_type) {
        (Isa::Scalar, _) => plain(steps),
        // SAFETY: tiers come from `Isa::available`.
        (Isa::Avx512Dot, WeightType::Bf16) => unsafe { x86::bf16_dot(steps) },
        // SAFETY: as above.
        (Isa::Avx512Dot, WeightType::Int8) => unsafe { x86::int8_dot(steps) },
        // SAFETY: as above.
        (_, WeightType::Int8) => unsafe { x86::int8(steps) },
        // SAFETY: as above.
        (Isa::Avx2, _) => unsafe { x86::fma256(steps) },
        // SAFETY: as above.
        _ => unsafe { x86::fma512(steps) },
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn multiply_in_registers(_isa: Isa, _weight_type: WeightType, steps: usize) -> usize {
    plain(steps)
}

fn plain(steps: usize) -> usize {
    let mut sums = black_box([0.5_f32; 64]);
    let factor = black_box(0.5);
    for _ in 0..steps {
        for sum in &mut sums {
            *sum = *sum * factor + factor;
        }
    }
    black_box(sums);
    steps * sums.len() * 2
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    const CHAINS: usize = 12;

    macro_rules! chains {
        ($name:ident, $features:literal, $vector:ty, $zero:expr, $step:expr, $ops:literal) => {
            #[target_feature(enable = $features)]
            pub unsafe fn $name(steps: usize) -> usize {
                let mut sums: [$vector; CHAINS] = black_box([$zero; CHAINS]);
                let factor: $vector = black_box($zero);
                for _ in 0..steps {
                    for sum in &mut sums {
                        *sum = $step(*sum, factor);
                    }
                    // Keeps the rounds from being merged, at no cost.
                    // SAFETY: no instruction.
                    unsafe { std::arch::asm!("", options(nomem, nostack, preserves_flags)) };
                }
                black_box(sums);
                steps * CHAINS * $ops
            }
        };
    }

    chains!(
        fma256,
        "avx2,fma",
        __m256,
        _mm256_setzero_ps(),
        |s, f| _mm256_fmadd_ps(f, f, s),
        16
    );
    chains!(
        fma512,
        "avx512f",
        __m512,
        _mm512_setzero_ps(),
        |s, f| _mm512_fmadd_ps(f, f, s),
        32
    );
    chains!(
        int8_dot,
        "avx512f,avx512vnni",
        __m512i,
        _mm512_setzero_si512(),
        |s, f| _mm512_dpbusd_epi32(s, f, f),
        128
    );
    chains!(
        bf16_dot,
        "avx512f,avx512bf16",
        __m512,
        _mm512_setzero_ps(),
        // SAFETY: vectors of 64 bytes.
        |s, f| unsafe {
            let f = std::mem::transmute::<__m512, __m512bh>(f);
            _mm512_dpbf16_ps(s, f, f)
        },
        64
    );
    chains!(
        int8,
        "avx2",
        __m256i,
        _mm256_setzero_si256(),
        |s, f| {
            let pairs = _mm256_maddubs_epi16(f, _mm256_sign_epi8(f, s));
            _mm256_add_epi32(s, _mm256_madd_epi16(pairs, f))
        },
        64
    );
}
