//! Refusing what would not fit into memory, before anything is allocated.
//!
//! Systems promise more memory than they have and end the program that uses it; an error that names the option is of
//! more use. Where the system does not tell how much is left, nothing is refused.

use std::path::Path;

use turaco_compute::WeightType;

use crate::weights::{DType, Weights};
use crate::{Error, Result};

/// `culprit` is the option that wants the memory, and its value.
pub(crate) fn refuse(
    needed: u64,
    available: Option<u64>,
    culprit: impl FnOnce() -> (&'static str, String),
) -> Result<()> {
    match available {
        Some(available) if needed > available => {
            let (option, value) = culprit();
            Err(Error::Memory {
                option,
                value,
                needed,
                available,
            })
        }
        _ => Ok(()),
    }
}

/// Refuse weights that do not fit when they are kept as `weight_type`.
pub(crate) fn check_weights(name: &str, weights: &Weights, weight_type: WeightType) -> Result<()> {
    if is_mapped(weights, weight_type) {
        return Ok(());
    }
    let n_weights: usize = weights.iter().map(|(_, tensor)| tensor.len()).sum();
    let needed = (n_weights as u64).saturating_mul(bits(weight_type)) / 8;
    refuse(needed, available(), || {
        ("model", format!("{name} ({})", weight_type.name()))
    })
}

/// Whether weights are used where their file is mapped, which takes no memory that others could not have back.
pub(crate) fn is_mapped(weights: &Weights, weight_type: WeightType) -> bool {
    let packed = DType::Panels(weight_type);
    weights.iter().any(|(_, tensor)| tensor.dtype == packed)
}

/// Bits of a weight, its share of the scales included.
pub(crate) fn bits(weight_type: WeightType) -> u64 {
    match weight_type {
        WeightType::F16 | WeightType::Bf16 => 16,
        WeightType::Int8 => 8,
        WeightType::Q8 => 9,
        WeightType::Q4 => 5,
        _ => 32,
    }
}

/// Bytes that this process may still take: what the system has left, and what the limits of its control groups leave.
pub fn available() -> Option<u64> {
    let root = Path::new("/");
    [system(root), control_groups(root)]
        .into_iter()
        .flatten()
        .min()
}

/// Linux's estimate of what can be had without pushing others out, and free swap.
fn system(root: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let kilobytes = |key| number_after(&text, key);
    let bytes = kilobytes("MemAvailable:")?.saturating_add(kilobytes("SwapFree:").unwrap_or(0));
    Some(bytes.saturating_mul(1024))
}

/// The least that any of the process's control groups, of version 2 or 1, leaves.
fn control_groups(root: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let mut least: Option<u64> = None;
    for line in text.lines() {
        let mut parts = line.splitn(3, ':');
        let (_, Some(controllers), Some(group)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let (mount, limit, usage, reclaimable) = if controllers.is_empty() {
            (
                "sys/fs/cgroup",
                "memory.max",
                "memory.current",
                "inactive_file",
            )
        } else if controllers.split(',').any(|name| name == "memory") {
            (
                "sys/fs/cgroup/memory",
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "total_inactive_file",
            )
        } else {
            continue;
        };
        // In a container the group's path may be that of the host; the mount is then the group itself.
        let mount = root.join(mount);
        let relative = Path::new(group.trim_start_matches('/'));
        for folder in relative.ancestors().map(|part| mount.join(part)) {
            let read = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
            let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
            // `max` is no number: no limit.
            let (Some(limit), Some(usage)) = (number(limit), number(usage)) else {
                continue;
            };
            let cached = read("memory.stat")
                .and_then(|text| number_after(&text, reclaimable))
                .unwrap_or(0);
            let room = limit.saturating_sub(usage.saturating_sub(cached));
            least = Some(least.map_or(room, |least| least.min(room)));
        }
    }
    least
}

/// The number after `key` at the start of a line.
fn number_after(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some(key)).then(|| words.next()?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_or_is_not_known_is_let_through() {
        let nothing = || -> (&str, String) { unreachable!("it fits") };
        assert!(refuse(5, Some(5), nothing).is_ok());
        assert!(refuse(u64::MAX, None, nothing).is_ok());
    }

    #[test]
    fn memory_and_limits_are_read_where_linux_keeps_them() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        assert_eq!((system(root), control_groups(root)), (None, None));
        let write = |name: &str, text: &str| {
            let path = root.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write(
            "proc/meminfo",
            "MemTotal: 100 kB\nMemAvailable:   40 kB\nSwapFree: 2 kB\n",
        );
        assert_eq!(system(root), Some(42 * 1024));
        write("proc/self/cgroup", "4:cpu,memory:/a/b\n1:cpu:/\n0::/c\n");
        assert_eq!(control_groups(root), None);
        write("sys/fs/cgroup/c/memory.max", "max\n");
        write("sys/fs/cgroup/c/memory.current", "7\n");
        assert_eq!(control_groups(root), None);
        write("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "1000\n");
        write("sys/fs/cgroup/memory/a/memory.usage_in_bytes", "600\n");
        write(
            "sys/fs/cgroup/memory/a/memory.stat",
            "cache 3\ntotal_inactive_file 100\n",
        );
        assert_eq!(control_groups(root), Some(500));
        write("sys/fs/cgroup/c/memory.max", "300\n");
        assert_eq!(control_groups(root), Some(293));
    }
}
