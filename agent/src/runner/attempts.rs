//! How many attempts ended, how, and how long they took.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

use crate::command::{Command, Fact};

/// How long attempts take, in seconds: from a catalog read to a copy of days.
const ATTEMPT_BUCKETS: [f64; 10] = [0.01, 0.05, 0.25, 1.0, 5.0, 30.0, 120.0, 600.0, 3_600.0, 36_000.0];

/// The act of an attempt, and how it ended. The step is the coordinator's, so that figures of both programs
/// can be joined.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct AttemptLabels {
    act: &'static str,
    step: String,
    verb: &'static str,
    outcome: &'static str,
}

/// The same for older dashboards, which call the act a step.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct FormerLabels {
    step: &'static str,
    verb: &'static str,
    outcome: &'static str,
}

/// Every attempt that ended since the start. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Attempts {
    pub(crate) count: Family<AttemptLabels, Counter>,
    pub(crate) duration: Family<AttemptLabels, Histogram>,
    pub(crate) former_count: Family<FormerLabels, Counter>,
    pub(crate) former_duration: Family<FormerLabels, Histogram>,
}

impl Default for Attempts {
    fn default() -> Self {
        let histogram = || Histogram::new(ATTEMPT_BUCKETS);
        Self {
            count: Family::default(),
            duration: Family::new_with_constructor(histogram),
            former_count: Family::default(),
            former_duration: Family::new_with_constructor(histogram),
        }
    }
}

impl Attempts {
    pub(crate) fn count(&self, command: &Command, fact: &Fact, duration: Duration) {
        let outcome = match fact {
            Fact::Accepted => return,
            Fact::Succeeded(_) => "succeeded",
            Fact::Failed(_) => "failed",
            Fact::Cancelled(_) => "cancelled",
        };
        let (act, verb, seconds) = (command.act.kind().as_str(), command.verb.as_str(), duration.as_secs_f64());
        let labels = AttemptLabels { act, step: command.step.clone(), verb, outcome };
        self.count.get_or_create(&labels).inc();
        self.duration.get_or_create(&labels).observe(seconds);
        let former = FormerLabels { step: act, verb, outcome };
        self.former_count.get_or_create(&former).inc();
        self.former_duration.get_or_create(&former).observe(seconds);
    }
}
