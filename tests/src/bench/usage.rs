//! What a process has used of the machine.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// What a process has used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Resident memory now.
    pub resident_kib: u64,
    /// The most it ever was.
    pub peak_kib: u64,
    /// Time of all cores.
    pub processor: Duration,
}

impl Usage {
    /// Reads `/proc` for one process.
    pub fn of(pid: u32) -> Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let kib = |key: &str| -> Result<u64> {
            let value = status.lines().find_map(|line| line.strip_prefix(key)).with_context(|| format!("no {key}"))?;
            Ok(value.trim().trim_end_matches(" kB").parse()?)
        };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name in parentheses may hold spaces; what follows does not.
        let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
        let ticks: Vec<u64> = fields.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
        let milliseconds = ticks.iter().sum::<u64>() * 1000 / rustix::param::clock_ticks_per_second();
        Ok(Self {
            resident_kib: kib("VmRSS:")?,
            peak_kib: kib("VmHWM:")?,
            processor: Duration::from_millis(milliseconds),
        })
    }
}

/// Kibibytes as mebibytes, for people.
#[must_use]
pub fn mebibytes(kib: u64) -> f64 {
    f64::from(u32::try_from(kib).unwrap_or(u32::MAX)) / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_uses_something() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.resident_kib > 0 && usage.peak_kib >= usage.resident_kib, "{usage:?}");
        assert!(Usage::of(u32::MAX).is_err());
    }
}
