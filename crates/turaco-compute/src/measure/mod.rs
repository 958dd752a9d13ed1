//! What this machine can do at most, and how near its kernels come.
//!
//! A time says little by itself: a shared machine can be half as fast for minutes. [`Machine`] therefore measures the
//! limits (bytes read and numbers multiplied per second, with the threads and instructions that the kernels use) in the
//! same run as the kernels, and [`kernels`] states each time beside the limit that holds for it.

pub mod kernels;
mod multiply;

use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::cpu::isa::Isa;
use crate::cpu::memory::Buffer;
use crate::cpu::physical_cores;
use crate::cpu::pool::Pool;
use crate::device::WeightType;
use crate::error::Result;

/// Least time of one timed sample: a hundred times what reading the clock costs.
const SAMPLE: Duration = Duration::from_micros(5);

/// Rounds of multiplications between two readings of the clock.
const MULTIPLY_STEPS: usize = 20_000;

/// The processor as kernels see it: an instruction set and threads.
#[derive(Debug)]
pub struct Machine {
    isa: Isa,
    pool: Pool,
}

impl Machine {
    /// `threads` threads (0 = one per physical core) with the instructions `isa` (`None`, or one that is not there = the
    /// best).
    pub fn new(threads: usize, isa: Option<Isa>) -> Self {
        let isa = isa
            .filter(|isa| Isa::available().contains(isa))
            .unwrap_or_else(Isa::best);
        let threads = match threads {
            0 => physical_cores(),
            threads => threads,
        };
        Self {
            isa,
            pool: Pool::new(threads),
        }
    }

    /// Instructions.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Threads.
    pub fn threads(&self) -> usize {
        self.pool.n_threads()
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Bytes per second of reading `bytes` bytes of huge pages again and again, one linear stream per thread: the median
    /// of about `budget`. What fits a cache is read from there, as weights of that size would be.
    ///
    /// # Errors
    /// No memory.
    pub fn bandwidth(&self, bytes: usize, budget: Duration) -> Result<f64> {
        const LINE: usize = 64;
        let bytes = bytes.next_multiple_of(LINE * 8).max(1 << 16);
        let mut buffer = Buffer::zeroed(bytes, "the bandwidth test")?;
        // Pages that nobody has written to are all the same one.
        buffer.as_bytes_mut().fill(1);
        let words = buffer.as_slice::<u64>();
        let seconds = median_time(budget, || {
            self.pool.run_split(words.len() / LINE, 128, &|part| {
                // Many sums, so that loads and not additions are the limit.
                let mut sums = [0_u64; LINE];
                let lines = &words[part.start * LINE..part.end * LINE];
                for line in lines.as_chunks::<LINE>().0 {
                    for (sum, word) in sums.iter_mut().zip(line) {
                        *sum |= word;
                    }
                }
                black_box(sums);
            });
        });
        Ok(bytes as f64 / seconds)
    }

    /// Multiplications and additions per second of all threads with the instruction that multiplies weights of this
    /// type here, operands in registers: the median of about `budget`.
    pub fn peak(&self, weight_type: WeightType, budget: Duration) -> f64 {
        let done = AtomicUsize::new(0);
        let threads = self.threads();
        let seconds = median_time(budget, || {
            done.store(0, Ordering::Relaxed);
            self.pool.run(threads, &|_| {
                let count = multiply::in_registers(self.isa, weight_type, MULTIPLY_STEPS);
                done.fetch_add(count, Ordering::Relaxed);
            });
        });
        done.into_inner() as f64 / seconds
    }

    /// Seconds that an empty parallel region takes, each after the same pause: the median, and what 95 of 100 stay below.
    pub fn region(&self, pause: Pause) -> [f64; 2] {
        let threads = self.threads();
        let mut times: Vec<f64> = (0..pause.repeats())
            .map(|_| {
                pause.take();
                let begin = Instant::now();
                self.pool.run(threads, &|task| {
                    black_box(task);
                });
                begin.elapsed().as_secs_f64()
            })
            .collect();
        times.sort_by(f64::total_cmp);
        [median(times.clone()), times[times.len() * 95 / 100]]
    }
}

/// What the calling thread does between two parallel regions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// Work of its own, as long.
    Work(Duration),
    /// Nothing, so that its processor may rest too.
    Sleep(Duration),
}

impl Pause {
    fn take(self) {
        let begin = Instant::now();
        match self {
            Self::Work(time) => {
                while begin.elapsed() < time {
                    std::hint::spin_loop();
                }
            }
            Self::Sleep(time) => std::thread::sleep(time),
        }
    }

    /// As many regions as take about a tenth of a second.
    fn repeats(self) -> usize {
        let (Self::Work(time) | Self::Sleep(time)) = self;
        (100_000 / time.as_micros().max(50)) as usize
    }
}

/// The instruction that multiplies weights of a type, as tables name it.
pub fn instruction(isa: Isa, weight_type: WeightType) -> &'static str {
    multiply::instruction(isa, weight_type)
}

/// Seconds of one call of `f`: after a call to warm up, the median of calls for about `budget` and at least five. Short
/// calls are timed in groups.
pub fn median_time(budget: Duration, mut f: impl FnMut()) -> f64 {
    f();
    let begin = Instant::now();
    f();
    let once = begin.elapsed().max(Duration::from_nanos(20));
    let group = (SAMPLE.as_nanos() / once.as_nanos()).max(1) as u32;
    let begin = Instant::now();
    let mut times = Vec::new();
    while times.len() < 5 || (begin.elapsed() < budget && times.len() < 100_000) {
        let begin = Instant::now();
        for _ in 0..group {
            f();
        }
        times.push((begin.elapsed() / group).as_secs_f64());
    }
    median(times)
}

/// The middle value; the mean of the two in the middle of an even number; 0 of none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}

/// Most memory in bytes that this process ever held, where the system tells.
pub fn peak_memory() -> Option<u64> {
    status("VmHWM:")
}

/// Memory in bytes that this process holds, where the system tells.
pub fn memory() -> Option<u64> {
    status("VmRSS:")
}

fn status(key: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BRIEF: Duration = Duration::from_millis(2);

    #[test]
    fn limits_are_plausible() {
        for isa in Isa::available() {
            let machine = Machine::new(2, Some(isa));
            let threads = if cfg!(target_family = "wasm") { 1 } else { 2 };
            assert_eq!((machine.isa(), machine.threads()), (isa, threads));
            for weight_type in WeightType::ALL {
                let peak = machine.peak(weight_type, BRIEF);
                assert!(
                    (1e7..1e15).contains(&peak),
                    "{isa:?} {weight_type:?} {peak}"
                );
                assert!(!instruction(isa, weight_type).is_empty());
            }
        }
        let machine = Machine::new(1, None);
        let bandwidth = machine.bandwidth(4 << 20, BRIEF).unwrap();
        assert!((1e7..1e14).contains(&bandwidth), "{bandwidth}");
        for pause in [
            Pause::Work(Duration::ZERO),
            Pause::Sleep(Duration::from_millis(1)),
        ] {
            let [middle, late] = machine.region(pause);
            assert!(0.0 < middle && middle <= late, "{pause:?} {middle} {late}");
        }
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(vec![]), 0.0);
        assert_eq!(median(vec![3.0]), 3.0);
        assert_eq!(median(vec![3.0, 1.0]), 2.0);
        assert_eq!(median(vec![9.0, 1.0, 2.0]), 2.0);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn memory_is_known() {
        let (now, most) = (memory().unwrap(), peak_memory().unwrap());
        assert!(now > 1 << 20 && most > 1 << 20);
    }
}
