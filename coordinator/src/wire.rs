//! Where the contract's messages become domain types and back. Beside it only what
//! speaks sees generated types: the services, and the fleet with what it is given to
//! send. A test of the workspace holds the list.

mod certificate;
mod command;
mod migration;
mod outcome;
mod rehearsal;
mod situation;

use std::time::SystemTime;

use pgportage_link::Failure;
use pgportage_proto::{read_span, v1};

use crate::figures::Gauge;
use crate::workflow::act::Digest;
use crate::workflow::finding::{Consent, Finding};
use crate::workflow::spec::{Rate, Spec};

pub(crate) use crate::message::{duration, malformed, missing, to_duration};
pub(crate) use certificate::certificate;
pub(crate) use command::command;
pub(crate) use migration::{etag, plan, view};
pub(crate) use outcome::{AgentFact, Body, fact};
pub(crate) use situation::{answer, explained, question};

fn to_time(value: SystemTime) -> Option<prost_types::Timestamp> {
    Some(value.into())
}

/// What the operator asked for.
pub(crate) fn spec(value: v1::MigrationSpec) -> Result<Spec, Failure> {
    // A method that this release does not know is not silently another one.
    let copy_method = v1::CopyMethod::try_from(value.copy_method).map_err(|_| malformed("copy_method"))?.into();
    let connection_path = value.connection_path().into();
    let spec = Spec {
        source_agent: value.source_agent_id,
        destination_agent: value.destination_agent_id,
        database: value.database,
        consents: value.consents.into_iter().map(Consent::from).collect(),
        connection_path,
        max_lag: value.max_lag.map(|lag| duration("max_lag", lag)).transpose()?.unwrap_or(Spec::DEFAULT_MAX_LAG),
        copy_method,
        max_rate: Rate::limit(value.max_rate_bytes)?,
        way_back: !value.without_way_back,
    };
    spec.check()?;
    Ok(spec)
}

fn to_spec(value: &Spec) -> v1::MigrationSpec {
    v1::MigrationSpec {
        source_agent_id: value.source_agent.clone(),
        destination_agent_id: value.destination_agent.clone(),
        database: value.database.clone(),
        consents: value.consents.iter().map(v1::Consent::from).collect(),
        connection_path: v1::ConnectionPath::from(value.connection_path).into(),
        max_lag: to_duration(value.max_lag),
        copy_method: v1::CopyMethod::from(value.copy_method).into(),
        max_rate_bytes: Rate::bytes(value.max_rate),
        without_way_back: !value.way_back,
    }
}

impl From<v1::Consent> for Consent {
    fn from(value: v1::Consent) -> Self {
        Self { code: value.code, object: value.object, evidence_digest: Digest(value.evidence_digest) }
    }
}

impl From<&Consent> for v1::Consent {
    fn from(value: &Consent) -> Self {
        Self {
            code: value.code.clone(),
            object: value.object.clone(),
            evidence_digest: value.evidence_digest.0.clone(),
        }
    }
}

impl From<v1::Finding> for Finding {
    fn from(value: v1::Finding) -> Self {
        Self {
            severity: value.severity().into(),
            code: value.code,
            object: value.object,
            message: value.message,
            evidence: value.evidence,
            evidence_digest: Digest(value.evidence_digest),
            remedy: value.remedy,
            needs_restart: value.needs_restart,
        }
    }
}

pub(crate) fn to_finding(value: &Finding) -> v1::Finding {
    v1::Finding {
        code: value.code.clone(),
        severity: v1::finding::Severity::from(value.severity).into(),
        object: value.object.clone(),
        message: value.message.clone(),
        evidence: value.evidence.clone(),
        evidence_digest: value.evidence_digest.0.clone(),
        remedy: value.remedy.clone(),
        needs_restart: value.needs_restart,
    }
}

/// What an agent measures. Negative numbers mean unknown.
pub(crate) fn gauge(value: v1::MigrationGauge, time: SystemTime) -> Gauge {
    let known = |number: i64| (number >= 0).then_some(number);
    let mut message = value;
    Gauge {
        lag: read_span(message.lag),
        retained_wal_bytes: known(message.retained_wal_bytes),
        wal_forecast: message.wal_forecast.map(Into::into),
        // Told to operators as a whole, and large.
        drift: message.schema_drift.take().and_then(|drift| drift.try_into().ok()),
        message,
        time,
    }
}

#[cfg(test)]
mod tests {
    use pgportage_proto::Reason;

    use super::*;
    use pgportage_proto::CopyMethod;

    fn asked(copy_method: i32) -> v1::MigrationSpec {
        v1::MigrationSpec {
            source_agent_id: "old".to_owned(),
            destination_agent_id: "new".to_owned(),
            database: "shop".to_owned(),
            copy_method,
            ..v1::MigrationSpec::default()
        }
    }

    #[test]
    fn a_snapshot_is_copied_unless_something_else_is_asked_for() {
        for (given, method, shown) in [
            (v1::CopyMethod::Unspecified, CopyMethod::Snapshot, v1::CopyMethod::Snapshot),
            (v1::CopyMethod::Snapshot, CopyMethod::Snapshot, v1::CopyMethod::Snapshot),
            (v1::CopyMethod::Native, CopyMethod::Native, v1::CopyMethod::Native),
        ] {
            let spec = spec(asked(given.into())).unwrap();
            assert_eq!(spec.copy_method, method);
            assert_eq!(to_spec(&spec).copy_method(), shown);
        }
    }

    #[test]
    fn a_method_of_a_newer_release_is_refused() {
        let refused = spec(asked(99)).unwrap_err();
        assert_eq!((refused.reason, refused.metadata["field"].as_str()), (Reason::RequestInvalid, "copy_method"));
    }
}
