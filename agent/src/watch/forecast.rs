//! How long the WAL kept for our slot may go on growing. Pure.
//!
//! A slot that no subscriber takes WAL from grows as fast as the server writes. One that keeps up grows in
//! teeth, because the server advances it only now and then. So the growth is measured over a while that
//! holds several teeth. A size that does not grow over that while has no end.

use std::collections::VecDeque;
use std::time::Duration;

use pgportage_report::forecast::{Forecast, WalLimit};
use tokio::time::Instant;

use super::look::Seen;
use crate::message::int64;
use crate::policy::{DestructiveAct, Limits, Policy};

/// Older looks say nothing about the present.
const WINDOW: Duration = Duration::from_secs(120);
/// Over a shorter time, chance decides: the time between three looks.
const SHORTEST: Duration = Duration::from_secs(5);

/// The limits up to which the WAL may grow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds<'a> {
    limits: &'a Limits,
    /// Whether the agent may drop the slot at its own limits. If not, they only
    /// warn.
    gives_way: bool,
}

impl<'a> Bounds<'a> {
    pub(super) fn of(policy: &'a Policy) -> Self {
        Self { limits: policy.limits(), gives_way: policy.destructive().allows(DestructiveAct::DropSlot) }
    }

    /// The limit that is met first.
    fn nearest(&self, seen: &Seen) -> Option<(WalLimit, u64)> {
        let policy = seen
            .retained_wal_bytes
            .filter(|_| self.gives_way)
            .map(|retained| self.limits.retained_wal_abort_bytes.saturating_sub(retained));
        let floor = if self.gives_way { self.limits.free_disk_abort_bytes } else { 0 };
        let disk = seen.free_disk_bytes.map(|free| free.saturating_sub(floor));
        [(WalLimit::Server, seen.safe_wal_bytes), (WalLimit::Policy, policy), (WalLimit::Disk, disk)]
            .into_iter()
            .filter_map(|(limit, left)| Some((limit, left?)))
            .min_by_key(|(_, left)| *left)
    }
}

/// The looks of the last while, oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Measurements(VecDeque<Measurement>);

#[derive(Clone, Copy, Debug)]
struct Measurement {
    at: Instant,
    /// The server's write position.
    position: u64,
    retained: u64,
}

impl Measurements {
    /// Adds a look. A look without a slot, or with a position that went back (another server answers),
    /// clears the earlier ones.
    pub(super) fn add(&mut self, seen: &Seen, at: Instant) {
        let (Some(position), Some(retained)) = (seen.wal_position, seen.retained_wal_bytes) else {
            self.0.clear();
            return;
        };
        if self.0.back().is_some_and(|last| position < last.position) {
            self.0.clear();
        }
        self.0.push_back(Measurement { at, position, retained });
        while self.0.get(1).is_some_and(|second| at.duration_since(second.at) >= WINDOW) {
            self.0.pop_front();
        }
    }

    /// The forecast from these looks. `seen` is the latest of them.
    pub(super) fn forecast(&self, seen: &Seen, bounds: &Bounds<'_>) -> Option<Forecast> {
        let (first, last) = (self.0.front()?, self.0.back()?);
        let span = last.at.duration_since(first.at);
        if span < SHORTEST {
            return None;
        }
        let milliseconds = i128::try_from(span.as_millis()).ok()?;
        let a_second = |now: u64, then: u64| (i128::from(now) - i128::from(then)) * 1000 / milliseconds;
        let growth = i64::try_from(a_second(last.retained, first.retained)).ok()?;
        let (limit, left_bytes) = bounds.nearest(seen).unzip();
        let time_left = |left_bytes: u64| {
            let growth = u64::try_from(growth).ok().filter(|growth| *growth > 0)?;
            Some(Duration::from_secs(left_bytes / growth))
        };
        Some(Forecast {
            written_bytes_per_second: i64::try_from(a_second(last.position, first.position)).ok()?,
            growth_bytes_per_second: growth,
            limit,
            left_bytes: left_bytes.map(int64),
            time_left: left_bytes.and_then(time_left),
        })
    }
}

#[cfg(test)]
mod tests {
    use pgportage_link::Clock;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn limits() -> Limits {
        Limits { retained_wal_abort_bytes: 1_000 * MIB, free_disk_abort_bytes: 100 * MIB, ..Limits::default() }
    }

    fn seen(position: u64, retained: u64) -> Seen {
        Seen { exist: true, wal_position: Some(position), retained_wal_bytes: Some(retained), ..Seen::default() }
    }

    /// Looks every three seconds; `of` gives what each of them sees.
    fn looks(count: u64, of: impl Fn(u64) -> Seen) -> (Measurements, Seen) {
        let start = Clock.now();
        let mut measurements = Measurements::default();
        for number in 0..count {
            measurements.add(&of(number), start + Duration::from_secs(3 * number));
        }
        (measurements, of(count - 1))
    }

    fn forecast(count: u64, of: impl Fn(u64) -> Seen) -> Option<Forecast> {
        let (measurements, last) = looks(count, of);
        let limits = limits();
        measurements.forecast(&last, &Bounds { limits: &limits, gives_way: true })
    }

    #[test]
    fn a_slot_that_stands_still_grows_as_the_server_writes() {
        let frozen = |number| seen(5_000 * MIB + number * 3 * MIB, number * 3 * MIB);
        assert_eq!(forecast(2, frozen), None, "three seconds are too few");
        let grown = forecast(11, frozen).unwrap();
        assert_eq!(grown.written_bytes_per_second, int64(MIB));
        assert_eq!(grown.growth_bytes_per_second, i64::try_from(MIB).unwrap());
        assert_eq!((grown.limit, grown.left_bytes), (Some(WalLimit::Policy), Some(int64(970 * MIB))));
        assert_eq!(grown.time_left, Some(Duration::from_secs(970)));
    }

    #[test]
    fn a_slot_that_keeps_up_has_no_end() {
        // Every five looks the server advances it.
        let keeps_up = |number| seen(number * 30 * MIB, number % 5 * 30 * MIB);
        let level = forecast(41, keeps_up).unwrap();
        assert_eq!(level.written_bytes_per_second, int64(10 * MIB));
        assert_eq!(level.growth_bytes_per_second, 0);
        assert_eq!(level.time_left, None);
        let shrinks = forecast(5, |number| seen(number * MIB, (10 - number) * MIB)).unwrap();
        assert!(shrinks.growth_bytes_per_second < 0);
        assert_eq!(shrinks.time_left, None);
    }

    #[test]
    fn only_the_last_while_counts() {
        // Fast for five minutes, then slow for as long.
        let slower = |number: u64| {
            let written = number.min(100) * 300 * MIB + number.saturating_sub(100) * 3 * MIB;
            seen(written, written)
        };
        let (measurements, _) = looks(200, slower);
        assert!(measurements.0.len() <= 42, "{} looks", measurements.0.len());
        assert_eq!(forecast(200, slower).unwrap().written_bytes_per_second, int64(MIB));
    }

    #[test]
    fn the_nearest_limit_is_named() {
        let with = |safe: Option<u64>, free: Option<u64>| Seen {
            safe_wal_bytes: safe,
            free_disk_bytes: free,
            ..seen(0, 900 * MIB)
        };
        let limits = limits();
        let bounds = Bounds { limits: &limits, gives_way: true };
        assert_eq!(bounds.nearest(&with(None, None)), Some((WalLimit::Policy, 100 * MIB)));
        assert_eq!(bounds.nearest(&with(Some(99 * MIB), None)), Some((WalLimit::Server, 99 * MIB)));
        assert_eq!(bounds.nearest(&with(None, Some(150 * MIB))), Some((WalLimit::Disk, 50 * MIB)));
        // Beyond the limit already: no time left, and no underflow.
        assert_eq!(bounds.nearest(&with(None, Some(MIB))), Some((WalLimit::Disk, 0)));
        // An agent that may not drop the slot has no limits of its own.
        let powerless = Bounds { limits: &limits, gives_way: false };
        assert_eq!(powerless.nearest(&with(None, None)), None);
        assert_eq!(powerless.nearest(&with(None, Some(150 * MIB))), Some((WalLimit::Disk, 150 * MIB)));
    }

    #[test]
    fn another_server_begins_anew() {
        let start = Clock.now();
        let mut measurements = Measurements::default();
        for (second, position) in [(0, 900), (10, 1_000), (20, 500)] {
            measurements.add(&seen(position, position), start + Duration::from_secs(second));
        }
        assert_eq!(measurements.0.len(), 1);
        measurements.add(&Seen::default(), start + Duration::from_secs(30));
        assert!(measurements.0.is_empty(), "the slot is gone");
    }
}
