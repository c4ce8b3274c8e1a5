//! PostgreSQL's own programs on the agent's machine.

use pgportage_link::{Clock, Failure};
use pgportage_postgres::ServerVersion;
use pgportage_postgres::programs::{Tool, at_least_as_recent, choose_dump, choose_restore, find};
use pgportage_proto::Reason;
use pgportage_report::finding::Severity;

use super::Finding;
use super::examination::Examination;
use crate::settings::Settings;

/// The version of the pg_dump that would be used on a source of this version.
/// Zero when there is none.
pub(super) async fn dump_version(settings: &Settings, clock: Clock, server: ServerVersion) -> i32 {
    let found = find(Tool::Dump, settings.programs.pg_dump.as_deref(), clock).await;
    found.and_then(|programs| choose_dump(&programs, server, 0)).map_or(0, |program| program.version.num())
}

/// A pg_dump that can read the source.
pub(super) async fn dump(x: &Examination<'_>) -> Result<Vec<Finding>, Failure> {
    let server = x.server.version;
    let found = find(Tool::Dump, x.handles.settings.programs.pg_dump.as_deref(), x.handles.tasks.clock).await;
    let program = match found.and_then(|programs| choose_dump(&programs, server, 0)) {
        Ok(program) => program,
        Err(failure) => return refused(failure),
    };
    if at_least_as_recent(program.version, server) {
        return Ok(vec![]);
    }
    let finding = Finding::new(
        Reason::PgDumpTooOld,
        Severity::Note,
        "pg_dump",
        "pg_dump was released before the server; it may write options that the destination does not know",
    )
    .evidence(format!("pg_dump {}, server {server}", program.version))
    .remedy("update PostgreSQL's client programs on the source agent's machine");
    Ok(vec![finding])
}

/// A pg_restore that the destination understands.
pub(super) async fn restore(x: &Examination<'_>) -> Result<Vec<Finding>, Failure> {
    let server = x.server.version;
    let found = find(Tool::Restore, x.handles.settings.programs.pg_restore.as_deref(), x.handles.tasks.clock).await;
    match found.and_then(|programs| choose_restore(&programs, server)) {
        Ok(_) => Ok(vec![]),
        Err(failure) => refused(failure),
    }
}

/// A failed search for a program, as a finding.
fn refused(failure: Failure) -> Result<Vec<Finding>, Failure> {
    match failure.reason {
        Reason::PgDumpMissing | Reason::PgDumpTooOld => {
            let finding = Finding::new(failure.reason, Severity::Refuse, "", failure.message)
                .evidence(failure.detail)
                .remedy(failure.hint);
            Ok(vec![finding])
        }
        _ => Err(failure),
    }
}
