//! What the operator asked for.

use std::num::NonZeroU64;
use std::time::Duration;

use pgportage_link::Failure;
use pgportage_proto::Side;
pub(crate) use pgportage_proto::{ConnectionPath, CopyMethod, MigrationId};
use serde::{Deserialize, Serialize};

use super::finding::Consent;
use crate::message::{invalid, missing};

/// Bytes of table data that a copy may read in a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rate(NonZeroU64);

impl Rate {
    /// The lowest, in bytes a second. Below it, a piece of the stream would take
    /// longer than a person waits for a sign of life; it is rather a mistyped unit.
    pub const LOWEST: u64 = 64 << 10;

    /// A limit from outside, in bytes a second. Zero is none.
    pub fn limit(bytes: i64) -> Result<Option<Self>, Failure> {
        let rate = u64::try_from(bytes).ok().filter(|rate| *rate == 0 || *rate >= Self::LOWEST).ok_or_else(|| {
            let lowest = Self::LOWEST >> 10;
            invalid("max_rate_bytes", format!("max_rate must be at least {lowest} kB a second, or 0 for none"))
                .hint("Give the unit too, for example 50MB.")
        })?;
        Ok(NonZeroU64::new(rate).map(Self))
    }

    /// The limit as it is sent: zero for none.
    pub fn bytes(limit: Option<Self>) -> i64 {
        limit.map_or(0, |rate| i64::try_from(rate.0.get()).unwrap_or(i64::MAX))
    }
}

/// What to move, from where to where. Never changed after creation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// The agent beside the server to move from.
    pub source_agent: String,
    /// The agent beside the server to move to.
    pub destination_agent: String,
    /// The database, as PostgreSQL names it, unquoted.
    pub database: String,
    /// What the operator has agreed to beforehand.
    pub consents: Vec<Consent>,
    /// The way of the rows.
    pub connection_path: ConnectionPath,
    /// Lag under which the migration is ready.
    pub max_lag: Duration,
    /// How the rows that are there already are copied.
    #[serde(default)]
    pub copy_method: CopyMethod,
    /// How fast the copy may read, until the operator says otherwise. None: as
    /// fast as it goes.
    #[serde(default)]
    pub max_rate: Option<Rate>,
    /// Whether applications can return to the source after the cutover. Histories of
    /// before there was a way back have none.
    #[serde(default)]
    pub way_back: bool,
}

impl Spec {
    /// Lag limit when the operator names none.
    pub const DEFAULT_MAX_LAG: Duration = Duration::from_secs(1);
    /// Longest lag limit: above it, a cutover would not be short.
    pub const LONGEST_MAX_LAG: Duration = Duration::from_secs(60);

    /// Checks what can be checked without asking anybody.
    pub fn check(&self) -> Result<(), Failure> {
        for (field, given) in
            [("source_agent_id", &self.source_agent), ("destination_agent_id", &self.destination_agent)]
        {
            if given.is_empty() {
                return Err(missing(field));
            }
        }
        if self.source_agent == self.destination_agent {
            let message = format!("agent {:?} cannot be both source and destination", self.source_agent);
            return Err(invalid("destination_agent_id", message).hint("Name two agents, each beside its own server."));
        }
        if self.database.is_empty() {
            return Err(missing("database"));
        }
        if self.database.len() > 63 || self.database.contains('\0') {
            return Err(invalid("database", "a database name has at most 63 bytes, and no zero byte"));
        }
        if self.max_lag.is_zero() || self.max_lag > Self::LONGEST_MAX_LAG {
            let longest = Self::LONGEST_MAX_LAG.as_secs();
            return Err(invalid("max_lag", format!("max_lag must be above 0 and at most {longest} s")));
        }
        if self.max_rate.is_some() {
            self.can_be_limited()?;
        }
        Ok(())
    }

    /// Whether the agents have the speed of the copy in hand.
    pub fn can_be_limited(&self) -> Result<(), Failure> {
        match self.copy_method {
            CopyMethod::Snapshot => Ok(()),
            CopyMethod::Native => Err(invalid("max_rate_bytes", "a copy by the subscription cannot be limited")
                .detail("Its rows come in the same stream as everything else.")
                .hint("Choose the method agents, or leave max_rate out.")),
        }
    }

    pub fn agent(&self, side: Side) -> &str {
        match side {
            Side::Source => &self.source_agent,
            Side::Destination => &self.destination_agent,
        }
    }

    pub fn peer(&self, side: Side) -> &str {
        match side {
            Side::Source => &self.destination_agent,
            Side::Destination => &self.source_agent,
        }
    }
}

#[cfg(test)]
mod tests {
    use pgportage_proto::Reason;

    use super::*;

    #[test]
    fn names_have_one_form() {
        for good in ["a", "shop", "shop-2", &"a".repeat(40)] {
            assert!(MigrationId::new(good).is_ok(), "{good}");
        }
        for bad in ["", "Shop", "2shop", "-shop", "sh_op", "sh op", &"a".repeat(41)] {
            assert!(MigrationId::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_was_asked_for_is_stored_by_name() {
        let max_rate = Rate::limit(50 << 20).unwrap();
        let spec = Spec { copy_method: CopyMethod::Native, max_rate, ..super::super::proof::spec() };
        let mut stored = serde_json::to_value(&spec).unwrap();
        assert_eq!(stored["copy_method"], "native");
        assert_eq!(stored["max_rate"], 50 << 20);
        assert_eq!(serde_json::from_value::<Spec>(stored.clone()).unwrap(), spec);
        // As it was written before there was a choice.
        stored.as_object_mut().unwrap().remove("copy_method");
        stored.as_object_mut().unwrap().remove("max_rate");
        let read = serde_json::from_value::<Spec>(stored).unwrap();
        assert_eq!((read.copy_method, read.max_rate), (CopyMethod::Snapshot, None));
    }

    #[test]
    fn a_rate_is_none_or_one_that_gets_somewhere() {
        assert_eq!(Rate::limit(0).unwrap(), None);
        for bytes in [64 << 10, 50 << 20, i64::MAX] {
            assert_eq!(Rate::bytes(Rate::limit(bytes).unwrap()), bytes);
        }
        for bytes in [-1, 1, (64 << 10) - 1] {
            let refused = Rate::limit(bytes).unwrap_err();
            assert_eq!(
                (refused.reason, refused.metadata["field"].as_str()),
                (Reason::RequestInvalid, "max_rate_bytes")
            );
        }
    }

    #[test]
    fn only_what_the_agents_copy_can_be_limited() {
        let spec = Spec { max_rate: Rate::limit(50 << 20).unwrap(), ..super::super::proof::spec() };
        spec.check().unwrap();
        let native = Spec { copy_method: CopyMethod::Native, ..spec };
        assert_eq!(native.check().unwrap_err().metadata["field"], "max_rate_bytes");
    }
}
