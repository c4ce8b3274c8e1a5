//! The coordinator's metrics. Names and numbers only.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use pgportage_link::metrics::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge as Metric;
use prometheus_client::metrics::histogram::Histogram;

use crate::figures::Gauge;
use crate::workflow::state::{Phase, State};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AttemptLabels {
    step: String,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AgentLabel {
    agent: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MigrationLabel {
    migration: String,
}

/// Limits of the classes that outages are counted in, in seconds.
const OUTAGES: [f64; 10] = [0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0];

/// Handles of everything measured. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Figures {
    migrations: Family<StateLabel, Metric>,
    attempts: Family<AttemptLabels, Counter>,
    attached: Family<AgentLabel, Metric>,
    lag: Family<MigrationLabel, Metric<f64, AtomicU64>>,
    retained: Family<MigrationLabel, Metric>,
    wal_left: Family<MigrationLabel, Metric>,
    wal_left_time: Family<MigrationLabel, Metric<f64, AtomicU64>>,
    drift: Family<MigrationLabel, Metric>,
    outage: Histogram,
    rehearsed: Histogram,
    relays: Metric,
    relayed: Counter,
}

impl Figures {
    pub fn new(metrics: &Metrics) -> Self {
        let figures = Self {
            migrations: Family::default(),
            attempts: Family::default(),
            attached: Family::default(),
            lag: Family::default(),
            retained: Family::default(),
            relays: Metric::default(),
            relayed: Counter::default(),
            wal_left: Family::default(),
            wal_left_time: Family::default(),
            outage: Histogram::new(OUTAGES),
            rehearsed: Histogram::new(OUTAGES),
            drift: Family::default(),
        };
        metrics.register(|registry| {
            registry.register("migrations", "Migrations by where they stand", figures.migrations.clone());
            registry.register("step_attempts", "Finished attempts at acts, by step", figures.attempts.clone());
            registry.register("agent_attached", "Whether an agent has a session", figures.attached.clone());
            registry.register("lag_seconds", "Lag measured by heartbeat rows", figures.lag.clone());
            registry.register("retained_wal_bytes", "WAL kept on the source for our slot", figures.retained.clone());
            registry.register("relays", "Relays between agents that are open", figures.relays.clone());
            registry.register("relayed_bytes", "Bytes passed on between agents", figures.relayed.clone());
            let help = "WAL that may still be kept on the source before the nearest limit";
            registry.register("wal_left_bytes", help, figures.wal_left.clone());
            let help = "Time until then, at the present growth; none while it does not grow";
            registry.register("wal_left_seconds", help, figures.wal_left_time.clone());
            let help = "Schema objects that differ between the two sides; none while that is not known";
            registry.register("schema_drift_objects", help, figures.drift.clone());
            registry.register("cutover_outage_seconds", "From the first lock to the decision", figures.outage.clone());
            let help = "What writers waited in a round of a rehearsal, at most";
            registry.register("rehearsal_pause_seconds", help, figures.rehearsed.clone());
        });
        figures
    }

    /// A migration stands elsewhere than before.
    pub fn moved(&self, before: Option<&State>, after: Option<&State>) {
        for (state, step) in [(before, -1), (after, 1)] {
            if let Some(state) = state {
                self.migrations.get_or_create(&StateLabel { state: label(&state.phase) }).inc_by(step);
            }
        }
        if let Some(state) = after.filter(|state| state.terminal()) {
            let migration = MigrationLabel { migration: state.id.to_string() };
            self.lag.remove(&migration);
            self.retained.remove(&migration);
            self.wal_left.remove(&migration);
            self.wal_left_time.remove(&migration);
            self.drift.remove(&migration);
        }
    }

    /// How the schemas of a migration compare. None: that is not known.
    pub fn drifted(&self, migration: &str, object_count: Option<i32>) {
        let label = MigrationLabel { migration: migration.to_owned() };
        match object_count {
            Some(count) => drop(self.drift.get_or_create(&label).set(count.into())),
            None => drop(self.drift.remove(&label)),
        }
    }

    /// An attempt has ended.
    pub fn attempted(&self, step: &str, success: bool) {
        let result = if success { "succeeded" } else { "failed" };
        self.attempts.get_or_create(&AttemptLabels { step: step.to_owned(), result }).inc();
    }

    pub fn attached(&self, agent: &str, attached: bool) {
        self.attached.get_or_create(&AgentLabel { agent: agent.to_owned() }).set(i64::from(attached));
    }

    /// An agent measured something. `publishes`: its side takes the applications'
    /// writes, and what it measures is the stream that runs.
    pub fn measured(&self, migration: &str, publishes: bool, gauge: &Gauge) {
        if publishes {
            let label = MigrationLabel { migration: migration.to_owned() };
            if let Some(lag) = gauge.lag {
                self.lag.get_or_create(&label).set(lag.as_secs_f64());
            }
            if let Some(bytes) = gauge.retained_wal_bytes {
                self.retained.get_or_create(&label).set(bytes);
            }
            let room = gauge.wal_forecast.filter(|forecast| forecast.limit.is_some());
            if let Some(left_bytes) = room.and_then(|forecast| forecast.left_bytes) {
                self.wal_left.get_or_create(&label).set(left_bytes);
            } else {
                self.wal_left.remove(&label);
            }
            // What does not grow has no end, and yesterday's would be a false one.
            if let Some(left) = room.and_then(|forecast| forecast.time_left) {
                self.wal_left_time.get_or_create(&label).set(left.as_secs_f64());
            } else {
                self.wal_left_time.remove(&label);
            }
        }
    }

    /// A relay was opened or has ended.
    pub fn relay(&self, opened: bool) {
        self.relays.inc_by(if opened { 1 } else { -1 });
    }

    /// Bytes were passed on in a relay.
    pub fn relayed(&self, bytes: usize) {
        self.relayed.inc_by(bytes as u64);
    }

    /// A cutover has succeeded.
    pub fn outage(&self, outage: Duration) {
        self.outage.observe(outage.as_secs_f64());
    }

    /// A round of a rehearsal is over.
    pub fn rehearsed(&self, pause: Duration) {
        self.rehearsed.observe(pause.as_secs_f64());
    }
}

fn label(phase: &Phase) -> &'static str {
    match phase {
        Phase::Pending => "pending",
        Phase::Running { .. } | Phase::TakingBack { stop: None, .. } => "running",
        Phase::Held { .. }
        | Phase::Stopped { .. }
        | Phase::TakingBack { stop: Some(_), .. }
        | Phase::Aborting { stop: Some(_) } => "waiting",
        Phase::Aborting { stop: None } => "aborting",
        Phase::Aborted => "aborted",
        Phase::Succeeded => "succeeded",
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use pgportage_report::forecast::{Forecast, WalLimit};

    #[test]
    fn a_danger_that_has_passed_is_shown_no_more() {
        let metrics = Metrics::new();
        let figures = Figures::new(&metrics);
        let measured = |limit, time_left| {
            let forecast = Forecast {
                written_bytes_per_second: 9,
                growth_bytes_per_second: 5,
                limit,
                left_bytes: Some(700),
                time_left,
            };
            let gauge = Gauge {
                message: pgportage_proto::v1::MigrationGauge::default(),
                lag: None,
                retained_wal_bytes: Some(3),
                wal_forecast: Some(forecast),
                drift: None,
                time: SystemTime::UNIX_EPOCH,
            };
            figures.measured("shop", true, &gauge);
            let text = metrics.render();
            let value = |name: &str| {
                let start = format!("pgportage_{name}{{migration=\"shop\"}} ");
                text.lines().find_map(|line| line.strip_prefix(&start).map(str::to_owned))
            };
            (value("wal_left_bytes"), value("wal_left_seconds"))
        };
        let shown = |text: &str| Some(text.to_owned());
        let left = Some(Duration::from_secs(140));
        assert_eq!(measured(Some(WalLimit::Disk), left), (shown("700"), shown("140.0")));
        assert_eq!(measured(Some(WalLimit::Disk), None), (shown("700"), None), "it does not grow any more");
        assert_eq!(measured(None, left), (None, None), "there is no limit");
    }
}
