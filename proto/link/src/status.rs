//! Failures as gRPC statuses, and back.
//!
//! The only module that knows both. A status carries the whole [`Failure`]
//! beside the standard details, so nothing is lost on the way; programs of others
//! find `ErrorInfo`, `PreconditionFailure`, `BadRequest`, `ResourceInfo`,
//! `RetryInfo` and `Help` where they expect them.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::time::Duration;

use pgportage_proto::{Reason, v1};
use prost::Message;
use prost_types::Any;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt, pb};

use crate::{Effect, Failure, Remedy};

/// Who names the reasons.
const DOMAIN: &str = "pgportage";

/// How our own detail is marked.
const FAILURE_TYPE: &str = "type.googleapis.com/pgportage.v1.Failure";

/// Details travel in base64 in a trailer, and a trailer list above
/// [`crate::http2::HEADER_LIST_BYTES`] loses the whole status. So each part has a
/// limit, and together they stay below it.
const MESSAGE_BYTES: usize = 500;
const TEXT_BYTES: usize = 2500;
const CAUSE_BYTES: usize = 300;
const CAUSES: usize = 5;
const METADATA_ENTRIES: usize = 16;
const METADATA_BYTES: usize = 100;

/// How long a client should wait before it tries again.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// The command that prints the page of a reason.
pub fn page(reason: Reason) -> String {
    format!("pgportage help {reason}")
}

/// The code of a reason. Clients retry UNAVAILABLE and nothing else.
pub fn code(reason: Reason) -> Code {
    match reason {
        Reason::Internal => Code::Internal,
        Reason::RequestInvalid => Code::InvalidArgument,
        Reason::WrongRole | Reason::WrongName | Reason::PolicyDenied | Reason::PeerRefused => Code::PermissionDenied,
        Reason::MigrationMissing | Reason::AgentUnknown => Code::NotFound,
        Reason::MigrationExists => Code::AlreadyExists,
        Reason::EtagMismatch => Code::Aborted,
        Reason::Cancelled => Code::Cancelled,
        Reason::StoreUnwritable | Reason::StoreInUse | Reason::ServerUnreachable | Reason::PeerUnreachable => {
            Code::Unavailable
        }
        Reason::ConfigurationInvalid
        | Reason::StoreTooNew
        | Reason::ProtocolTooOld
        | Reason::StaleSession
        | Reason::StaleEpoch
        | Reason::StaleCommand
        | Reason::CommandConflict
        | Reason::UnknownAction
        | Reason::WrongState
        | Reason::AgentNotAttached
        | Reason::FindingsRefuse
        | Reason::ConsentRequired
        | Reason::Stalled
        | Reason::SessionBlocked
        | Reason::LoginRefused
        | Reason::DatabaseMissing
        | Reason::DatabaseNotEmpty
        | Reason::ServerError
        | Reason::PrivilegeMissing
        | Reason::CouldNotCheck
        | Reason::PgDumpMissing
        | Reason::PgDumpTooOld
        | Reason::PgDumpFailed
        | Reason::PgRestoreFailed
        | Reason::PasswordNotAsked
        | Reason::ReplicationLoginFailed
        | Reason::SlotLost
        | Reason::WayBackLost
        | Reason::ResyncRequired
        | Reason::SnapshotLost
        | Reason::ReplicaIdentityMissing
        | Reason::ObjectConflict
        | Reason::ApplyFailed
        | Reason::WalLimitExceeded
        | Reason::RowsDiffer
        | Reason::SequencesBehind
        | Reason::VerificationIncomplete
        | Reason::SchemaDiffers
        | Reason::LagTooHigh
        | Reason::TablesNotReady
        | Reason::LongTransaction
        | Reason::PreparedTransactions
        | Reason::SuperuserSession
        | Reason::BarrierTimeout
        | Reason::BarrierConflict
        | Reason::PoolerUnreachable
        | Reason::PoolerUnfit
        | Reason::PoolerBusy
        | Reason::HookFailed
        | Reason::BarrierLost
        | Reason::DrainTimeout
        | Reason::OutageBudgetExceeded
        | Reason::FenceIncomplete
        | Reason::DestinationNotClosed
        | Reason::OpenRefused
        | Reason::DestinationOpened
        | Reason::CutoverInDoubt
        | Reason::CertificateNotProved
        | Reason::VersionUnsupported
        | Reason::ServerDefect
        | Reason::WalLevelTooLow
        | Reason::SlotsExhausted
        | Reason::SendersExhausted
        | Reason::WorkersExhausted
        | Reason::OriginsExhausted
        | Reason::LocksTooFew
        | Reason::ServerInRecovery
        | Reason::SourceSubscribes
        | Reason::SynchronousStandbyAny
        | Reason::SlotSizeLimited
        | Reason::SlotIdleTimeout
        | Reason::OutputPluginForbidden
        | Reason::TimeLimitSet
        | Reason::DiskSpaceLow
        | Reason::SameServer
        | Reason::EncodingDiffers
        | Reason::CollationDiffers
        | Reason::RoleMissing
        | Reason::ExtensionMissing
        | Reason::ExtensionVersionDiffers
        | Reason::ObjectLeftBehind
        | Reason::ReplicaIdentityImpossible
        | Reason::PrimaryKeyDeferrable
        | Reason::RowLevelSecurity
        | Reason::TriggerFiresOnApply
        | Reason::SequencesAtCutover
        | Reason::LargeObjectsNotMoved
        | Reason::UnloggedNotMoved
        | Reason::ForeignTableNotMoved
        | Reason::MaterializedViewEmpty
        | Reason::ExtensionTableNotMoved
        | Reason::PublicationNotMoved
        | Reason::SlotNotMoved
        | Reason::SettingNotMoved
        | Reason::TablespaceNotMoved
        | Reason::IndexInvalid => Code::FailedPrecondition,
    }
}

/// What a service answers with.
///
/// The metadata entries `field` (of a malformed request), `migration` or `agent`
/// (of a missing one) name the subject in the standard details.
pub fn to_status(failure: Failure) -> Status {
    let code = code(failure.reason);
    with_code(failure, code)
}

/// As [`to_status`], for the few answers whose code says more than the reason.
pub(crate) fn with_code(failure: Failure, code: Code) -> Status {
    let failure = within_limits(failure);
    let reason = failure.reason.as_str();
    let subject = |keys: &[&str]| keys.iter().find_map(|key| failure.metadata.get(*key)).cloned().unwrap_or_default();
    let metadata: HashMap<_, _> = failure.metadata.clone().into_iter().collect();
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, metadata);
    match code {
        Code::InvalidArgument => {
            details.add_bad_request_violation(subject(&["field"]), &failure.message);
        }
        Code::FailedPrecondition => {
            let subject = subject(&["migration", "agent", "object", "database", "peer"]);
            details.add_precondition_failure_violation(reason, subject, &failure.message);
        }
        Code::NotFound | Code::AlreadyExists => {
            let kind = if failure.reason == Reason::AgentUnknown { "agent" } else { "migration" };
            details.set_resource_info(kind, subject(&[kind]), "", &failure.message);
        }
        Code::Unavailable => {
            details.set_retry_info(Some(RETRY_DELAY));
        }
        _ => {}
    }
    details.add_help_link("What happened, how to see it and what to do", page(failure.reason));
    let status = Status::with_error_details(code, failure.message.clone(), details);
    let carried = Any { type_url: FAILURE_TYPE.to_owned(), value: v1::Failure::from(failure).encode_to_vec() };
    // What tonic-types has just encoded decodes.
    let mut all = pb::Status::decode(status.details()).unwrap_or_default();
    all.details.push(carried);
    Status::with_details(code, status.message(), all.encode_to_vec().into())
}

/// The failure of a connector somewhere in a chain of errors.
pub(crate) fn found_in(error: &(dyn StdError + 'static)) -> Option<Failure> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(failure) = error.downcast_ref::<Failure>() {
            return Some(failure.clone());
        }
        next = error.source();
    }
    None
}

/// What went wrong with a call. The service, the transport or the connector below it
/// may have noticed it.
#[expect(clippy::needless_pass_by_value, reason = "a status is turned into a failure once, at the door")]
pub fn from_status(status: Status) -> Failure {
    if let Some(failure) = carried(&status) {
        return failure;
    }
    let source = status.source();
    if let Some(failure) = source.and_then(found_in) {
        return failure;
    }
    let lost = || {
        Failure::new(Reason::PeerUnreachable, "the connection was lost during a call")
            .detail("Whether the other end has acted is not known.")
            .remedy(Remedy::Wait)
    };
    // Only errors of this end have a source.
    if let Some(source) = source {
        return lost().because(source);
    }
    let said =
        |reason, message: &str| Failure::new(reason, message).with("code", status.code()).detail(status.message());
    let reason = status.get_details_error_info().and_then(|info| info.reason.parse().ok());
    match (reason, status.code()) {
        (Some(reason), _) => Failure::new(reason, status.message()),
        (None, Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted) => {
            said(Reason::PeerUnreachable, "the other end cannot answer now").remedy(Remedy::Wait)
        }
        (None, Code::Cancelled) => said(Reason::Cancelled, "the call was cancelled").remedy(Remedy::Wait),
        (None, Code::PermissionDenied | Code::Unauthenticated) => {
            said(Reason::PeerRefused, "the other end refuses the call").effect(Effect::None)
        }
        (None, Code::Unimplemented) => {
            said(Reason::ProtocolTooOld, "the other end does not know the method").effect(Effect::None)
        }
        (None, Code::InvalidArgument | Code::OutOfRange) => {
            said(Reason::RequestInvalid, "the other end does not understand the request").effect(Effect::None)
        }
        (None, _) => said(Reason::Internal, "the call failed"),
    }
}

fn carried(status: &Status) -> Option<Failure> {
    let all = pb::Status::decode(status.details()).ok()?;
    let carried = all.details.iter().find(|detail| detail.type_url == FAILURE_TYPE)?;
    v1::Failure::decode(carried.value.as_slice()).ok().map(Failure::from)
}

fn within_limits(mut failure: Failure) -> Failure {
    shorten(&mut failure.message, MESSAGE_BYTES);
    shorten(&mut failure.detail, TEXT_BYTES);
    shorten(&mut failure.hint, TEXT_BYTES / 2);
    failure.causes.truncate(CAUSES);
    for cause in &mut failure.causes {
        shorten(cause, CAUSE_BYTES);
    }
    while failure.metadata.len() > METADATA_ENTRIES {
        failure.metadata.pop_last();
    }
    for value in failure.metadata.values_mut() {
        shorten(value, METADATA_BYTES);
    }
    failure
}

/// Cuts a text to `limit` bytes, between characters, and marks the cut.
fn shorten(text: &mut String, limit: usize) {
    const CUT: &str = "…";
    if text.len() > limit {
        let end = (0..=limit - CUT.len()).rev().find(|&end| text.is_char_boundary(end)).unwrap_or_default();
        text.truncate(end);
        text.push_str(CUT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(reason: Reason) -> Failure {
        Failure {
            sqlstate: Some("42501".to_owned()),
            causes: vec!["permission denied".to_owned(), "no".to_owned()],
            ..Failure::new(reason, "could not do it")
                .detail("A fact. Another, with ünicode.")
                .hint("Do something.")
                .remedy(Remedy::Abort)
                .effect(Effect::None)
                .with("migration", "orders")
                .with("field", "spec.database")
        }
    }

    #[test]
    fn a_failure_of_each_reason_survives_the_way() {
        for &reason in Reason::ALL {
            let failure = example(reason);
            let status = to_status(failure.clone());
            assert_eq!(status.code(), code(reason));
            let info = status.get_details_error_info().unwrap();
            assert_eq!((info.reason.as_str(), info.domain.as_str()), (reason.as_str(), DOMAIN));
            assert_eq!(info.metadata.get("migration").map(String::as_str), Some("orders"));
            assert_eq!(status.get_details_help().unwrap().links[0].url, page(reason));
            assert_eq!(from_status(status), failure);
        }
    }

    #[test]
    fn the_standard_details_name_the_subject() {
        let status = to_status(example(Reason::RequestInvalid));
        assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, "spec.database");
        let status = to_status(example(Reason::MigrationMissing));
        assert_eq!(status.get_details_resource_info().unwrap().resource_name, "orders");
        let status = to_status(example(Reason::LagTooHigh));
        let violation = &status.get_details_precondition_failure().unwrap().violations[0];
        assert_eq!((violation.r#type.as_str(), violation.subject.as_str()), ("LAG_TOO_HIGH", "orders"));
        let status = to_status(example(Reason::PeerUnreachable));
        assert!(status.get_details_retry_info().is_some());
    }

    #[test]
    fn an_enormous_failure_fits_a_trailer() {
        let long = "ß".repeat(100_000);
        let mut failure = Failure::new(Reason::PgRestoreFailed, &long).detail(&long).hint(&long);
        failure.causes = vec![long.clone(); 100];
        failure.metadata = (0..100).map(|n| (format!("key{n}"), long.clone())).collect();
        let status = to_status(failure);
        let headers = status.clone().into_http::<tonic::body::Body>().headers().clone();
        let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
        assert!(bytes < crate::http2::HEADER_LIST_BYTES as usize, "{bytes}");
        let failure = from_status(status);
        assert_eq!(failure.reason, Reason::PgRestoreFailed);
        assert!(failure.detail.ends_with("ß…"));
    }

    #[test]
    fn foreign_statuses_read_cautiously() {
        let cases = [
            (Status::unavailable("later"), Reason::PeerUnreachable, Remedy::Wait, Effect::Unknown),
            (Status::permission_denied("no"), Reason::PeerRefused, Remedy::Operator, Effect::None),
            (Status::unimplemented(""), Reason::ProtocolTooOld, Remedy::Operator, Effect::None),
            (Status::unknown("?"), Reason::Internal, Remedy::Operator, Effect::Unknown),
        ];
        for (status, reason, remedy, effect) in cases {
            let failure = from_status(status);
            assert_eq!((failure.reason, failure.remedy, failure.effect), (reason, remedy, effect));
        }
    }
}
