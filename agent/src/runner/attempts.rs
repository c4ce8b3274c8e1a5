//! How many attempts ended, how, and how long they took.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

use pgportage_proto::{ActKind, Verb};

use crate::command::Fact;

/// How long attempts take, in seconds: from a catalog read to a copy of days.
const ATTEMPT_BUCKETS: [f64; 10] = [0.01, 0.05, 0.25, 1.0, 5.0, 30.0, 120.0, 600.0, 3_600.0, 36_000.0];

/// What an attempt was of, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct AttemptLabels {
    step: &'static str,
    verb: &'static str,
    outcome: &'static str,
}

/// Every attempt that ended since the start. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Attempts {
    pub(crate) count: Family<AttemptLabels, Counter>,
    pub(crate) duration: Family<AttemptLabels, Histogram>,
}

impl Default for Attempts {
    fn default() -> Self {
        Self { count: Family::default(), duration: Family::new_with_constructor(|| Histogram::new(ATTEMPT_BUCKETS)) }
    }
}

impl Attempts {
    /// Counts one.
    pub(crate) fn count(&self, kind: ActKind, verb: Verb, fact: &Fact, duration: Duration) {
        let outcome = match fact {
            Fact::Accepted => return,
            Fact::Succeeded(_) => "succeeded",
            Fact::Failed(_) => "failed",
            Fact::Cancelled(_) => "cancelled",
        };
        let labels = AttemptLabels { step: kind.as_str(), verb: verb.as_str(), outcome };
        self.count.get_or_create(&labels).inc();
        self.duration.get_or_create(&labels).observe(duration.as_secs_f64());
    }
}
