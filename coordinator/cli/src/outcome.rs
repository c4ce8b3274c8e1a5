//! What it means for a verb that a migration has come to rest. Pure.

use crate::exit::Exit;
use crate::view::{CutoverPhase, FINISH_STEP, Migration, MigrationState, StepState};

/// A verb that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// `start`, `retry`: until it is ready for cutover.
    Ready,
    /// `verify`: until both sides are compared.
    Verified,
    /// `cutover`: until the applications are on the destination.
    CutOver,
    /// `finish`: until nothing of ours is left.
    Finished,
    /// `abort`: until it is taken back.
    Aborted,
}

/// How the verb ends, given a migration at rest.
#[must_use]
pub fn outcome(awaited: Awaited, migration: &Migration) -> Exit {
    let rest = match migration.state {
        MigrationState::Aborted => Rest::Aborted,
        MigrationState::Succeeded => Rest::Succeeded,
        MigrationState::Waiting if migration.ready_for_cutover => Rest::BeforeCutover,
        MigrationState::Waiting if migration.ready_for_finish => Rest::BeforeFinish,
        MigrationState::Pending
        | MigrationState::Running
        | MigrationState::Waiting
        | MigrationState::Aborting
        | MigrationState::Unrecognised => Rest::Elsewhere,
    };
    match (awaited, rest) {
        (_, Rest::Elsewhere) => Exit::Waiting,
        (Awaited::Aborted, Rest::Aborted) => Exit::Done,
        (_, Rest::Aborted) => Exit::NotMet,
        (Awaited::Ready, Rest::BeforeCutover | Rest::BeforeFinish | Rest::Succeeded) => Exit::Done,
        (Awaited::Verified, Rest::BeforeCutover | Rest::BeforeFinish | Rest::Succeeded) => {
            let agree = migration.verification.as_ref().is_some_and(|report| report.differences.is_empty());
            if agree { Exit::Done } else { Exit::NotMet }
        }
        (Awaited::CutOver, Rest::BeforeFinish | Rest::Succeeded) => Exit::Done,
        // Back where it was: everything was taken back.
        (Awaited::CutOver, Rest::BeforeCutover) => Exit::NotMet,
        (Awaited::Finished, Rest::Succeeded) => Exit::Done,
        (Awaited::Finished, Rest::BeforeCutover | Rest::BeforeFinish) => Exit::Waiting,
        (Awaited::Aborted, Rest::BeforeCutover | Rest::BeforeFinish | Rest::Succeeded) => Exit::NotMet,
    }
}

/// Whether a verb that began at the etag `before` has nothing more to wait for:
/// the migration has changed since, and rests.
#[must_use]
pub fn at_rest(migration: &Migration, before: &str) -> bool {
    migration.etag != before && migration.state.settled() && !in_doubt(migration)
}

/// A cutover in doubt resolves itself as soon as the destination can be asked.
/// It is no rest unless a step has given up and waits.
fn in_doubt(migration: &Migration) -> bool {
    migration.state != MigrationState::Waiting
        && migration.cutover.as_ref().is_some_and(|cutover| cutover.phase == CutoverPhase::InDoubt)
}

/// The step that `retry` lets try again.
#[must_use]
pub fn failed_step(migration: &Migration) -> Option<&str> {
    migration.steps.iter().find(|step| step.state == StepState::Failed).map(|step| step.name.as_str())
}

/// Where a retried step leads: a retry of `finish` ends at the end.
#[must_use]
pub fn awaited_by_retry(step: &str) -> Awaited {
    match step {
        crate::view::CUTOVER_STEP => Awaited::CutOver,
        FINISH_STEP => Awaited::Finished,
        _ => Awaited::Ready,
    }
}

enum Rest {
    BeforeCutover,
    BeforeFinish,
    Succeeded,
    Aborted,
    Elsewhere,
}
