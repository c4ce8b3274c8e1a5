//! What the agent measures.

use std::sync::Arc;
use std::time::Duration;

use pgportage_data_plane::figures::{Gauge, Gauges, LinkTraffic, Standing};
use pgportage_link::metrics::Metrics;
use pgportage_migration::journal::Journal;
use pgportage_report::progress::Part;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use crate::act::Handles;
use crate::runner::{Attempts, Runner, UnderWay};

/// Registers the agent's figures with the metrics endpoint.
#[must_use]
pub fn register(handles: &Handles, standing: &Standing, runner: &Arc<Runner>) -> Metrics {
    let metrics = Metrics::new();
    let Attempts { count, duration, former_count, former_duration } = runner.attempts().clone();
    let LinkTraffic(link) = handles.traffic.clone();
    let now = Now {
        gauges: handles.gauges.clone(),
        journal: handles.journal.clone(),
        standing: standing.clone(),
        runner: Arc::clone(runner),
    };
    metrics.register(|registry| {
        registry.register("act_attempts", "Attempts at an act that ended", count);
        registry.register_with_unit("act_attempt_duration", "How long attempts took", Unit::Seconds, duration);
        registry.register("step_attempts", "act_attempts by its former name and labels", former_count);
        let former = "act_attempt_duration by its former name and labels";
        registry.register_with_unit("step_attempt_duration", former, Unit::Seconds, former_duration);
        registry.register("link_bytes", "Bytes for the other agent, plain and as sent", link);
        registry.register_collector(Box::new(now));
    });
    metrics
}

/// The figures that are read at the moment of a scrape.
#[derive(Debug)]
struct Now {
    gauges: Gauges,
    journal: Journal,
    standing: Standing,
    runner: Arc<Runner>,
}

impl Collector for Now {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let gauges = self.gauges.snapshot();
        let seconds = |lag: Duration| lag.as_secs_f64();
        // Far below 2^53, where a float would lose a byte.
        #[expect(clippy::cast_precision_loss, reason = "Prometheus has floats only")]
        let number = |number: u64| number as f64;
        #[expect(clippy::cast_precision_loss, reason = "Prometheus has floats only")]
        let signed = |number: i64| number as f64;
        type Figure<'a> = (&'static str, &'static str, &'a dyn Fn(&Gauge) -> Option<f64>);
        let figures: [Figure<'_>; 11] = [
            ("lag_seconds", "From a heartbeat's commit to the news of its arrival", &|g| g.lag.map(seconds)),
            ("lag_bytes", "Bytes the destination has not confirmed", &|g| g.lag_bytes.map(number)),
            ("retained_wal_bytes", "WAL kept on disk for our slot", &|g| g.retained_wal_bytes.map(number)),
            ("wal_written_bytes_per_second", "WAL that the source writes", &|g| {
                g.wal_forecast.map(|forecast| signed(forecast.written_bytes_per_second))
            }),
            ("wal_left_bytes", "WAL that may still be kept before the nearest limit", &|g| {
                g.wal_forecast?.left_bytes.map(signed)
            }),
            ("wal_left_seconds", "Time until then, at the present growth; none while it does not grow", &|g| {
                g.wal_forecast?.time_left.map(seconds)
            }),
            ("xmin_age", "Transactions since the oldest id our slot holds back", &|g| g.xmin_age.map(number)),
            ("free_disk_bytes", "Free bytes on the disk that holds the WAL", &|g| g.free_disk_bytes.map(number)),
            ("reader_limit", "Readers of the copy that may read while the source is spared", &|g| {
                g.held_back.as_ref().map(|held_back| f64::from(held_back.reader_limit))
            }),
            (
                "schema_drift_objects",
                "Objects that are not the same on both sides; none while that is not known",
                &|g| g.schema_drift.as_ref().map(|drift| number(drift.object_count as u64)),
            ),
            ("warning", "1 while something is about to go wrong", &|g| Some(f64::from(!g.warning.is_empty()))),
        ];
        for (name, help, figure) in figures {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (migration, gauge) in &gauges {
                if let Some(value) = figure(gauge) {
                    family.encode_family(&[("migration", migration.as_str())])?.encode_gauge(&value)?;
                }
            }
        }
        self.encode_copies(&mut encoder)?;
        let under_way = self.runner.under_way();
        let mut running =
            encoder.encode_descriptor("act_running", "1 while an act is at work", None, MetricType::Gauge)?;
        for UnderWay { migration, kind, step, verb } in &under_way {
            let labels =
                [("migration", migration.as_str()), ("act", kind.as_str()), ("step", step), ("verb", verb.as_str())];
            running.encode_family(&labels)?.encode_gauge(&1_i64)?;
        }
        let help = "act_running by its former name and labels";
        let mut former = encoder.encode_descriptor("step_running", help, None, MetricType::Gauge)?;
        for UnderWay { migration, kind, verb, .. } in &under_way {
            let labels = [("migration", migration.as_str()), ("step", kind.as_str()), ("verb", verb.as_str())];
            former.encode_family(&labels)?.encode_gauge(&1_i64)?;
        }
        // A journal that cannot be read stops the agent's commands, which is noticed without this figure.
        let untold = self.journal.unsent_facts().unwrap_or(0);
        let help = "Facts that the coordinator has not acknowledged";
        let mut facts = encoder.encode_descriptor("unacknowledged_facts", help, None, MetricType::Gauge)?;
        facts.encode_gauge(&untold)?;
        let mut attached = encoder.encode_descriptor(
            "attached",
            "1 while a session with the coordinator lives",
            None,
            MetricType::Gauge,
        )?;
        attached.encode_gauge(&i64::from(self.standing.attached()))
    }
}

impl Now {
    /// The progress of copies. Tables that are ready count too; unknown figures are left out.
    fn encode_copies(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let copies = self.runner.copies();
        type Figure<'a> = (&'static str, &'static str, &'a dyn Fn(&[Part]) -> i64);
        let sum = |parts: &[Part], of: fn(&Part) -> i64| parts.iter().map(of).sum();
        let figures: [Figure<'_>; 6] = [
            ("copy_done_bytes", "Bytes of tables copied so far", &|parts| sum(parts, |part| part.size_bytes)),
            ("copy_total_bytes", "Bytes of all tables, as the source estimates", &|parts| {
                sum(parts, |part| part.total_bytes)
            }),
            ("copy_done_rows", "Rows copied so far", &|parts| sum(parts, |part| part.row_count)),
            ("copy_total_rows", "Rows of all tables, as the source estimates", &|parts| {
                sum(parts, |part| part.total_rows)
            }),
            ("copy_done_tables", "Tables whose rows are in", &|parts| sum(parts, |part| i64::from(part.ready))),
            ("copy_total_tables", "Tables to copy", &|parts| sum(parts, |_| 1)),
        ];
        for (name, help, figure) in figures {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (migration, progress) in copies.iter().filter(|(_, progress)| !progress.parts.is_empty()) {
                let value = figure(&progress.parts);
                if matches!(name, "copy_total_bytes" | "copy_total_rows") && value == 0 {
                    // During a subscription's own copy the sizes are unknown; of a server that never
                    // analysed its tables, the rows.
                    continue;
                }
                family.encode_family(&[("migration", migration.as_str())])?.encode_gauge(&value)?;
            }
        }
        let help = "Indexes being built at this moment, as far as the server shows them";
        let mut builds = encoder.encode_descriptor("index_builds", help, None, MetricType::Gauge)?;
        for (migration, progress) in &copies {
            let value = i64::try_from(progress.builds.len()).unwrap_or(i64::MAX);
            builds.encode_family(&[("migration", migration.as_str())])?.encode_gauge(&value)?;
        }
        Ok(())
    }
}
