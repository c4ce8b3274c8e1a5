//! What it means for a verb that a migration has come to rest. Pure.

use crate::exit::Exit;
use crate::view::{Migration, MigrationState, StepState};

/// A verb that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// `start`: until it is ready for cutover.
    Ready,
    /// `retry`: until what was begun is over, forward or back.
    Resolved,
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
        // Only an abort or a cutover that was given up leads back, and both
        // were what the operator had asked for or been told.
        (Awaited::Resolved, Rest::BeforeCutover | Rest::BeforeFinish | Rest::Succeeded | Rest::Aborted)
        | (Awaited::Aborted, Rest::Aborted) => Exit::Done,
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
    migration.etag != before && migration.state.settled()
}

/// The step that `retry` lets try again: the one that failed, or the one that
/// is being tried while the migration waits.
#[must_use]
pub fn step_to_retry(migration: &Migration) -> Option<&str> {
    if migration.ready_for_cutover || migration.ready_for_finish {
        return None;
    }
    let in_state = |state| migration.steps.iter().find(move |step| step.state == state);
    let waiting = migration.state == MigrationState::Waiting;
    let step = in_state(StepState::Failed).or_else(|| in_state(StepState::Running).filter(|_| waiting))?;
    Some(&step.name)
}

enum Rest {
    BeforeCutover,
    BeforeFinish,
    Succeeded,
    Aborted,
    Elsewhere,
}
