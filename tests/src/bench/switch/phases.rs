//! What a switchover of ours is made of: what the coordinator tells about it, and how
//! long the agents worked at each of its acts.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use serde::Deserialize;

use crate::bench::scrape;
use crate::ledger::End;
use crate::site::Site;

/// The acts of a switchover within the outage, and whether the agent of the side that is
/// left carries them out.
const ACTS: [(&str, bool); 4] =
    [("raise_barrier", true), ("drain_to_marker", false), ("fence_source", true), ("open_destination", false)];

/// How long a switchover was in each of its phases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phases {
    /// P1: until every lock was granted. Writers stop one after the other.
    pub locks: Duration,
    /// P1 and P2 whole: autovacuum evicted before the first lock, locks, marker,
    /// position, sequences, catalog.
    pub raise: Duration,
    /// P3: the marker, flushed, and the sequences.
    pub drain: Duration,
    /// P4: the fence, and the proof that no application session is left.
    pub fence: Duration,
    /// P6: the decision.
    pub open: Duration,
    /// Between these: the coordinator, both journals, the network.
    pub between: Duration,
    /// From the request for the barrier to the news of the decision.
    pub whole: Duration,
}

/// Seconds that the agents have worked at each act since their start.
pub(super) type Worked = BTreeMap<&'static str, f64>;

pub(super) async fn acts(site: &Site, home: End) -> Result<Worked> {
    let (leaving, entering) = match home {
        End::Source => (&site.source_config, &site.destination_config),
        End::Destination => (&site.destination_config, &site.source_config),
    };
    let mut worked = Worked::new();
    for (act, of_the_leaving) in ACTS {
        let agent = if of_the_leaving { leaving } else { entering };
        let series = format!(
            "pgportage_step_attempt_duration_seconds_sum{{step=\"{act}\",verb=\"perform\",outcome=\"succeeded\"}}"
        );
        // Not there before the first one ended.
        let seconds = scrape::series(&agent.place.at(agent.metrics_port), &series).await.unwrap_or_default();
        worked.insert(act, seconds);
    }
    Ok(worked)
}

/// What `status --json` says, as far as a switchover is concerned.
#[derive(Debug, Deserialize)]
pub(super) struct Status {
    pub(super) cutover: Option<Told>,
}

/// What the coordinator says about a switchover.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Told {
    outage_milliseconds: Option<u64>,
    lock_wait_milliseconds: Option<u64>,
}

impl Told {
    /// Its phases, by what the agents had worked before and after it.
    pub(super) fn with(self, before: &Worked, after: &Worked) -> Option<Phases> {
        let [raise, drain, fence, open] = ACTS.map(|(act, _)| {
            let seconds = after.get(act).copied().unwrap_or_default() - before.get(act).copied().unwrap_or_default();
            Duration::from_secs_f64(seconds.max(0.0))
        });
        let whole = Duration::from_millis(self.outage_milliseconds?);
        let locks = Duration::from_millis(self.lock_wait_milliseconds?);
        let between = whole.saturating_sub(raise + drain + fence + open);
        Some(Phases { locks, raise, drain, fence, open, between, whole })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_worked_at_lies_between() {
        let before = Worked::from([("raise_barrier", 1.0), ("drain_to_marker", 0.25)]);
        let after = Worked::from([
            ("raise_barrier", 1.03125),
            ("drain_to_marker", 0.265_625),
            ("fence_source", 0.0625),
            ("open_destination", 0.015_625),
        ]);
        let told = Told { outage_milliseconds: Some(200), lock_wait_milliseconds: Some(9) };
        let phases = told.with(&before, &after).unwrap();
        let micros = |phase: Duration| phase.as_micros();
        assert_eq!(
            [phases.raise, phases.drain, phases.fence, phases.open].map(micros),
            [31_250, 15_625, 62_500, 15_625]
        );
        assert_eq!([phases.locks, phases.between, phases.whole].map(micros), [9_000, 75_000, 200_000]);
        let untold = Told { outage_milliseconds: None, lock_wait_milliseconds: Some(9) };
        assert_eq!(untold.with(&before, &after), None);
    }
}
