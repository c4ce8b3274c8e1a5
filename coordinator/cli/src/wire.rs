//! The contract's messages become what is shown. Nothing else in this program
//! reads a generated type.

mod certified;
mod explained;
mod plan;
mod rehearsal;

use std::collections::HashSet;

use pgportage_proto::{Reason, read_span, v1};
use time::OffsetDateTime;

pub use certified::certified;
pub use explained::explained;

use crate::view::{
    Agent, AgentState, CUTOVER_STEP, Cutover, CutoverPhase, FINISH_STEP, Failure, Figures, Finding, MaxRate, Migration,
    MigrationState, Preflight, Rehearsal, RowComparison, Severity, Side, Step, StepState, SwitchComparison,
    Verification, Way, WayBack, page,
};

/// A message of the coordinator lacks a field that it must have.
pub fn missing(field: &str) -> pgportage_link::Failure {
    pgportage_link::Failure::new(Reason::Internal, format!("the coordinator's answer lacks {field:?}"))
        .hint("Use a pgportage of the same release as the coordinator.")
}

/// The migration inside an answer.
pub fn migration(message: Option<v1::Migration>) -> Result<Migration, pgportage_link::Failure> {
    message.map(Migration::from).ok_or_else(|| missing("migration"))
}

/// A consent to one finding, bound to its evidence.
pub fn consent(finding: &Finding) -> v1::Consent {
    v1::Consent {
        code: finding.code.clone(),
        object: finding.object.clone(),
        evidence_digest: finding.evidence_digest.clone(),
    }
}

/// How fast a copy may read, as the contract writes it.
pub(crate) fn to_rate(rate: MaxRate) -> i64 {
    rate.0.map_or(0, |rate| i64::try_from(rate.as_bytes()).unwrap_or(i64::MAX))
}

fn time(message: Option<prost_types::Timestamp>) -> Option<OffsetDateTime> {
    let message = message?;
    let nanoseconds = i128::from(message.seconds) * 1_000_000_000 + i128::from(message.nanos);
    OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).ok()
}

fn known(figure: i64) -> Option<i64> {
    (figure >= 0).then_some(figure)
}

impl From<v1::Migration> for Migration {
    fn from(message: v1::Migration) -> Self {
        let state = match message.state() {
            v1::migration::State::Pending => MigrationState::Pending,
            v1::migration::State::Running => MigrationState::Running,
            v1::migration::State::Waiting => MigrationState::Waiting,
            v1::migration::State::Aborting => MigrationState::Aborting,
            v1::migration::State::Aborted => MigrationState::Aborted,
            v1::migration::State::Succeeded => MigrationState::Succeeded,
            v1::migration::State::Unspecified => MigrationState::Unrecognised,
        };
        let way_back = match message.way_back() {
            v1::migration::WayBack::None => WayBack::None,
            v1::migration::WayBack::Planned => WayBack::Planned,
            v1::migration::WayBack::Proved => WayBack::Proved,
            v1::migration::WayBack::Running => WayBack::Running,
            v1::migration::WayBack::Unspecified => WayBack::Unrecognised,
        };
        let spec = message.spec.unwrap_or_default();
        let agreed: HashSet<(String, String, Vec<u8>)> = message
            .consents
            .iter()
            .chain(&spec.consents)
            .map(|consent| (consent.code.clone(), consent.object.clone(), consent.evidence_digest.to_vec()))
            .collect();
        let findings = |messages: Vec<v1::Finding>| -> Vec<Finding> {
            let mut findings: Vec<_> = messages.into_iter().map(Finding::from).collect();
            for finding in &mut findings {
                let key = (finding.code.clone(), finding.object.clone(), finding.evidence_digest.clone());
                finding.agreed = finding.severity == Severity::Consent && agreed.contains(&key);
            }
            findings.sort_by_key(|finding| finding.severity);
            findings
        };
        let steps: Vec<_> = message.steps.into_iter().map(Step::from).collect();
        let held = |name: &str| {
            state == MigrationState::Waiting
                && steps.iter().any(|step| step.name == name && step.state == StepState::Held)
        };
        Self {
            name: message.id,
            way: Way::new(spec.connection_path().into(), spec.copy_method().into()),
            relayed: message.relayed,
            max_rate_bytes: Some(message.max_rate_bytes).filter(|rate| *rate > 0),
            max_lag: read_span(spec.max_lag),
            way_back,
            database: spec.database,
            source_agent: spec.source_agent_id,
            destination_agent: spec.destination_agent_id,
            state,
            ready_for_cutover: held(CUTOVER_STEP) && message.held_by.is_none(),
            ready_for_finish: held(FINISH_STEP),
            steps,
            waiting_for: message.waiting_for,
            next_commands: message.next_commands,
            held_by: message.held_by.map(Failure::from),
            schema_drift: message.schema_drift.and_then(|drift| drift.try_into().ok()),
            source_findings: findings(message.source_findings),
            destination_findings: findings(message.destination_findings),
            figures: message.figures.map(Figures::from),
            cutover: message.cutover.map(Cutover::from),
            rehearsal: message.rehearsal.map(Rehearsal::from),
            verification: message.verification.map(Verification::from),
            unfence_statements: message.unfence_statements,
            create_time: time(message.create_time),
            update_time: time(message.update_time),
            etag: message.etag,
        }
    }
}

impl From<v1::Step> for Step {
    fn from(message: v1::Step) -> Self {
        Self {
            state: match message.state() {
                v1::step::State::Pending => StepState::Pending,
                v1::step::State::Running => StepState::Running,
                v1::step::State::Held => StepState::Held,
                v1::step::State::Failed => StepState::Failed,
                v1::step::State::Succeeded => StepState::Succeeded,
                v1::step::State::Undone => StepState::Undone,
                v1::step::State::Unspecified => StepState::Unrecognised,
            },
            name: message.name,
            attempt_count: message.attempt_count,
            progress: message.progress.map(Into::into),
            failure: message.failure.map(Failure::from),
            start_time: time(message.start_time),
            end_time: time(message.end_time),
            held: message.held,
            point_of_no_return: message.point_of_no_return,
        }
    }
}

impl From<v1::MigrationFigures> for Figures {
    fn from(message: v1::MigrationFigures) -> Self {
        Self {
            lag: read_span(message.lag),
            lag_bytes: known(message.lag_bytes),
            retained_wal_bytes: known(message.retained_wal_bytes),
            wal_forecast: message.wal_forecast.map(Into::into),
            warning: message.warning,
            reader_limit: Some(message.reader_limit).filter(|limit| *limit > 0),
            held_back_by: message.held_back_by,
            record_time: time(message.record_time),
        }
    }
}

impl From<v1::CutoverReport> for Cutover {
    fn from(message: v1::CutoverReport) -> Self {
        Self {
            phase: match message.phase() {
                v1::cutover_report::Phase::Preparing => CutoverPhase::Preparing,
                v1::cutover_report::Phase::Fenced => CutoverPhase::Fenced,
                v1::cutover_report::Phase::InDoubt => CutoverPhase::InDoubt,
                v1::cutover_report::Phase::Open => CutoverPhase::Open,
                v1::cutover_report::Phase::TakenBack => CutoverPhase::TakenBack,
                v1::cutover_report::Phase::Unspecified => CutoverPhase::Unrecognised,
            },
            epoch: message.cutover_epoch,
            rollback: message.rollback,
            outage: read_span(message.outage),
            lock_wait: read_span(message.lock_wait),
            drain_time: read_span(message.drain_time),
            cancelled_session_count: message.cancelled_session_count,
            terminated_session_count: message.terminated_session_count,
            marker_id: message.marker_id,
            fence_lsn: message.fence_lsn,
            open_lsn: message.open_lsn,
            comparison: message.comparison.map(|compared| SwitchComparison {
                table_count: compared.table_count,
                row_count: compared.row_count,
                left_out: compared
                    .left_out
                    .into_iter()
                    .map(|name| format!("{}.{}", name.schema_name, name.relation_name))
                    .collect(),
                elapsed: read_span(compared.elapsed),
            }),
        }
    }
}

impl From<v1::VerificationReport> for Verification {
    fn from(message: v1::VerificationReport) -> Self {
        Self {
            // Those of before there were others compared the destination.
            follower: match message.follower() {
                v1::Side::Source => Side::Source,
                v1::Side::Destination | v1::Side::Unspecified => Side::Destination,
            },
            table_count: message.table_count,
            equal_count: message.equal_count,
            moving_count: message.moving_count,
            row_count: message.row_count,
            differences: message.differences,
            not_replicated: message.not_replicated.into_iter().map(Finding::from).collect(),
            record_time: time(message.record_time),
            rows: message.rows.map(|rows| RowComparison {
                range_count: rows.range_count,
                recheck_count: rows.recheck_count,
                difference_count: rows.difference_count,
                unsettled_count: rows.unsettled_count,
                complete: rows.complete,
                elapsed: read_span(rows.elapsed),
                report_path: rows.report_path,
                repair_path: rows.repair_path,
            }),
        }
    }
}

impl From<v1::Finding> for Finding {
    fn from(message: v1::Finding) -> Self {
        Self {
            severity: message.severity().into(),
            page: page(&message.code),
            code: message.code,
            object: message.object,
            message: message.message,
            evidence: message.evidence,
            remedy: message.remedy,
            needs_restart: message.needs_restart,
            agreed: false,
            evidence_digest: message.evidence_digest,
        }
    }
}

impl From<v1::RunPreflightResponse> for Preflight {
    fn from(message: v1::RunPreflightResponse) -> Self {
        let sorted = |messages: Vec<v1::Finding>| -> Vec<Finding> {
            let mut findings: Vec<_> = messages.into_iter().map(Finding::from).collect();
            findings.sort_by_key(|finding| finding.severity);
            findings
        };
        let source_findings = sorted(message.source_findings);
        let destination_findings = sorted(message.destination_findings);
        let passed = source_findings.iter().chain(&destination_findings).all(|finding| match finding.severity {
            Severity::Refuse => false,
            Severity::Consent | Severity::Note => true,
        });
        Self { passed, source_findings, destination_findings }
    }
}

impl From<v1::Agent> for Agent {
    fn from(message: v1::Agent) -> Self {
        Self {
            state: match message.state() {
                v1::agent::State::Attached => AgentState::Attached,
                v1::agent::State::Detached => AgentState::Detached,
                v1::agent::State::Lost => AgentState::Lost,
                v1::agent::State::Unspecified => AgentState::Unrecognised,
            },
            name: message.id,
            server_version: server_version(message.server_version_num),
            software_version: message.software_version,
            revision: message.revision,
            session_epoch: message.session_epoch,
            attach_time: time(message.attach_time),
            contact_time: time(message.contact_time),
        }
    }
}

/// `150008` is `15.8`.
fn server_version(number: i32) -> String {
    if number <= 0 { String::new() } else { format!("{}.{}", number / 10_000, number % 10_000) }
}

impl From<v1::Failure> for Failure {
    /// Keeps the text of a reason that this release does not know.
    fn from(message: v1::Failure) -> Self {
        let reason = message.reason.clone();
        let mut failure = Self::from(pgportage_link::Failure::from(message));
        if !reason.is_empty() && reason != failure.reason {
            failure.metadata.remove("reason");
            failure.page = page(&reason);
            failure.reason = reason;
        }
        failure
    }
}

impl From<pgportage_link::Failure> for Failure {
    fn from(failure: pgportage_link::Failure) -> Self {
        Self {
            reason: failure.reason.as_str().to_owned(),
            message: failure.message,
            detail: failure.detail,
            hint: failure.hint,
            sqlstate: failure.sqlstate.unwrap_or_default(),
            metadata: failure.metadata,
            causes: failure.causes,
            remedy: failure.remedy,
            effect: failure.effect,
            page: page(failure.reason.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use pgportage_link::{Effect, Remedy};

    use super::*;

    #[test]
    fn server_versions_read_as_people_write_them() {
        assert_eq!(server_version(150_008), "15.8");
        assert_eq!(server_version(180_000), "18.0");
        assert_eq!(server_version(0), "");
    }

    #[test]
    fn a_state_of_a_newer_coordinator_is_not_settled() {
        let migration = Migration::from(v1::Migration { state: 99, ..Default::default() });
        assert_eq!(migration.state, MigrationState::Unrecognised);
        assert!(!migration.state.settled());
    }

    #[test]
    fn a_reason_of_a_newer_release_keeps_its_text() {
        let failure = Failure::from(v1::Failure { reason: "BRAND_NEW".to_owned(), ..Default::default() });
        assert_eq!(failure.reason, "BRAND_NEW");
        assert_eq!(failure.page, "pgportage help BRAND_NEW");
        assert_eq!((failure.remedy, failure.effect), (Remedy::Operator, Effect::Unknown));
    }

    #[test]
    fn an_unstated_severity_refuses() {
        assert_eq!(Finding::from(v1::Finding::default()).severity, Severity::Refuse);
    }

    #[test]
    fn consent_counts_only_for_the_evidence_it_was_given_on() {
        let finding = |digest: u8| v1::Finding {
            code: "REPLICA_IDENTITY_MISSING".to_owned(),
            severity: v1::finding::Severity::Consent.into(),
            object: "public.log".to_owned(),
            evidence_digest: vec![digest],
            ..Default::default()
        };
        let consent = consent(&Finding::from(finding(1)));
        let migration = |digest| {
            Migration::from(v1::Migration {
                source_findings: vec![finding(digest)],
                consents: vec![consent.clone()],
                ..Default::default()
            })
        };
        assert_eq!(migration(1).open_consents().count(), 0);
        assert_eq!(migration(2).open_consents().count(), 1);
    }
}
