//! The kernels beside what the machine gives at the same moment; `turaco bench --kernels` shows the same and compares it
//! with a baseline.
//!
//! `cargo bench -p turaco-compute -- [THREADS [ISA [WORD...]]]`: only kernels whose line holds every word.

use turaco_compute::Isa;
use turaco_compute::measure::kernels::{Limit, Selection, measure};
use turaco_compute::measure::{Machine, instruction};
use turaco_compute::{Error, WeightType};

fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let threads = arguments.first().and_then(|text| text.parse().ok());
    let isa = arguments.get(1).and_then(|name| {
        Isa::available()
            .into_iter()
            .find(|isa| isa.name().starts_with(name.as_str()))
    });
    let machine = Machine::new(threads.unwrap_or(0), isa);
    println!(
        "{} with {} threads",
        machine.isa().name(),
        machine.threads()
    );
    for weight_type in WeightType::ALL {
        println!(
            "{:<5} multiplies by {}",
            weight_type.name(),
            instruction(machine.isa(), weight_type)
        );
    }
    let selection = Selection {
        words: arguments.into_iter().skip(2).collect(),
        ..Selection::default()
    };
    measure(&machine, &selection, &mut |time| {
        let rate = match time.limit {
            Limit::Bandwidth(limit) => (time.bytes, "GB/s", limit),
            Limit::Peak(limit) => (time.operations, "GFLOP/s", limit),
            Limit::None => (0, "", 0.0),
        };
        let rate = match time.share() {
            Some(share) => format!(
                "{:>8.1} {:<8}{:>4.0} % of {:.1}",
                rate.0 as f64 / time.seconds * 1e-9,
                rate.1,
                share * 100.0,
                rate.2 * 1e-9
            ),
            None => String::new(),
        };
        println!(
            "{:<18}{:<6}{:<32}{:>11.2} us {rate}",
            time.group,
            time.variant,
            time.name,
            time.seconds * 1e6
        );
        Ok(())
    })
}
