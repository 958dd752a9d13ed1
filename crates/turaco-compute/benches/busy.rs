//! How a decode step shares its processors with other processes.
//!
//! `cargo bench -p turaco-compute --bench busy -- [THREADS]`
//!
//! A loop like one token of a decoder (150 parallel regions of about 20 us, a little serial work between them) runs beside
//! 0, 1 and 2 processes that never sleep (`yes`). The fair time is that of an even share of the processors. On a machine
//! with other load, run it with `nice -n -20`, which the competitors inherit.

use std::hint::black_box;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use turaco_compute::cpu::physical_cores;
use turaco_compute::cpu::pool::Pool;
use turaco_compute::measure::median;

const REGIONS: usize = 150;
const REGION: Duration = Duration::from_micros(20);
const SERIAL: Duration = Duration::from_micros(2);
/// Tasks of one region for each thread.
const TASKS: usize = 4;

/// A busy process that ends with this value.
struct Competitor(Child);

impl Competitor {
    fn start() -> std::io::Result<Self> {
        let mut yes = Command::new("yes");
        yes.stdout(Stdio::null()).spawn().map(Self)
    }
}

impl Drop for Competitor {
    fn drop(&mut self) {
        // It may have ended by itself; there is nobody to tell.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn main() -> std::io::Result<()> {
    let cores = physical_cores();
    let threads = std::env::args()
        .filter_map(|argument| argument.parse().ok())
        .next()
        .unwrap_or(cores);
    let rounds = rounds_per(REGION * threads as u32 / (TASKS * threads) as u32);
    let between = rounds_per(SERIAL);
    println!("{threads} threads, {cores} cores, {REGIONS} regions of {REGION:?} a step");
    let alone = step_times(1, threads, rounds, between)[0];
    println!("one thread:       {:>7.2} ms", alone * 1e3);
    let mut quiet = None;
    for competitors in 0..=2 {
        let running = (0..competitors)
            .map(|_| Competitor::start())
            .collect::<std::io::Result<Vec<_>>>()?;
        std::thread::sleep(Duration::from_millis(50));
        let [middle, late] = step_times(threads, threads, rounds, between);
        drop(running);
        let quiet = *quiet.get_or_insert(middle);
        // Each of n runnable threads gets an even share.
        let runnable = (threads + competitors) as f64;
        let fair = (runnable / cores as f64).max(1.0) / (threads as f64 / cores as f64).max(1.0);
        println!(
            "{competitors} busy processes: {:>7.2} ms, 95 of 100 {:>7.2} ms; {:.2} x quiet, fair is {fair:.2} x",
            middle * 1e3,
            late * 1e3,
            middle / quiet
        );
    }
    Ok(())
}

/// Rounds of [`spin`] that take about `time`.
fn rounds_per(time: Duration) -> usize {
    const PROBE: usize = 1_000_000;
    let fastest = (0..5)
        .map(|_| {
            let begin = Instant::now();
            spin(PROBE);
            begin.elapsed()
        })
        .min()
        .unwrap_or(time);
    (time.as_secs_f64() / fastest.as_secs_f64() * PROBE as f64) as usize
}

fn spin(rounds: usize) {
    let mut value = black_box(1.0_f32);
    for _ in 0..rounds {
        value = value * 0.999 + 0.001;
    }
    black_box(value);
}

/// Seconds of a step on a pool of `threads` threads with work for `work_for`: the median and the 95th of 100.
fn step_times(threads: usize, work_for: usize, rounds: usize, between: usize) -> [f64; 2] {
    let pool = Pool::new(threads);
    let begin = Instant::now();
    let mut times = Vec::new();
    while times.len() < 20 || begin.elapsed() < Duration::from_secs(3) {
        let begin = Instant::now();
        for _ in 0..REGIONS {
            spin(between);
            pool.run(TASKS * work_for, &|_| spin(rounds));
        }
        times.push(begin.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    [median(times.clone()), times[times.len() * 95 / 100]]
}
