//! What it means for a verb that a migration has come to rest. Pure.

use crate::exit::Exit;
use crate::view::{Migration, MigrationState, RehearsalPhase, StepState};

/// A verb that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Awaited {
    /// `start`: until it is ready for cutover.
    Ready,
    /// `retry`: until what was begun is over, forward or back.
    Resolved,
    /// `verify`: until both sides are compared.
    Verified,
    /// `cutover`: until the applications are on the destination.
    CutOver,
    /// `rollback`: until the applications are back on the source.
    RolledBack,
    /// `--rehearse`: until writers write as before.
    Rehearsed,
    /// `finish`: until nothing of ours is left.
    Finished,
    /// `abort`: until it is taken back.
    Aborted,
}

/// How the verb ends, given a migration at rest.
pub(crate) fn outcome(awaited: Awaited, migration: &Migration) -> Exit {
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
        (Awaited::Rehearsed, Rest::BeforeCutover | Rest::BeforeFinish) => match &migration.rehearsal {
            Some(report) if report.is_over_budget() => Exit::OverBudget,
            Some(report) if report.phase == RehearsalPhase::Done => Exit::Done,
            Some(_) | None => Exit::NotMet,
        },
        (Awaited::Rehearsed, Rest::Succeeded) => Exit::NotMet,
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
        (Awaited::RolledBack, Rest::BeforeCutover) => Exit::Done,
        (Awaited::RolledBack, Rest::BeforeFinish | Rest::Succeeded) => Exit::NotMet,
        (Awaited::Finished, Rest::Succeeded) => Exit::Done,
        (Awaited::Finished, Rest::BeforeCutover | Rest::BeforeFinish) => Exit::Waiting,
        (Awaited::Aborted, Rest::BeforeCutover | Rest::BeforeFinish | Rest::Succeeded) => Exit::NotMet,
    }
}

/// Whether a verb that began at the etag `before` has nothing more to wait for:
/// the migration has changed since, and rests.
pub(crate) fn at_rest(migration: &Migration, before: &str) -> bool {
    migration.etag != before && migration.state.settled()
}

/// The step that `retry` lets try again: the one that failed, or the one whose
/// next attempt would come by itself after a pause.
pub(crate) fn step_to_retry(migration: &Migration) -> Option<&str> {
    if migration.ready_for_cutover || migration.ready_for_finish {
        return None;
    }
    let in_state = |state| migration.steps.iter().find(move |step| step.state == state);
    let pausing = || in_state(StepState::Running).filter(|step| step.failure.is_some());
    in_state(StepState::Failed).or_else(pausing).map(|step| step.name.as_str())
}

enum Rest {
    BeforeCutover,
    BeforeFinish,
    Succeeded,
    Aborted,
    Elsewhere,
}

#[cfg(test)]
mod tests {
    use pgportage_proto::v1;

    use super::*;

    /// A migration at rest before `held`, or in a plain state.
    fn at(state: v1::migration::State, held: &str, differences: usize) -> Migration {
        let step = v1::Step { name: held.to_owned(), state: v1::step::State::Held.into(), ..v1::Step::default() };
        let report = v1::VerificationReport { differences: vec![String::new(); differences], ..Default::default() };
        Migration::from(v1::Migration {
            state: state.into(),
            steps: vec![step],
            verification: Some(report),
            ..v1::Migration::default()
        })
    }

    #[test]
    fn every_verb_has_an_end_for_every_rest() {
        use v1::migration::State::{Aborted, Succeeded, Waiting};
        let rests = [
            at(Waiting, "cutover", 0),
            at(Waiting, "finish", 0),
            at(Succeeded, "", 0),
            at(Aborted, "", 0),
            at(Waiting, "", 0),
        ];
        let (done, not, wait) = (Exit::Done, Exit::NotMet, Exit::Waiting);
        let table = [
            (Awaited::Ready, [done, done, done, not, wait]),
            (Awaited::Resolved, [done, done, done, done, wait]),
            (Awaited::Verified, [done, done, done, not, wait]),
            (Awaited::CutOver, [not, done, done, not, wait]),
            (Awaited::RolledBack, [done, not, not, not, wait]),
            (Awaited::Finished, [wait, wait, done, not, wait]),
            (Awaited::Aborted, [not, not, not, done, wait]),
        ];
        for (awaited, expected) in table {
            assert_eq!(rests.each_ref().map(|rest| outcome(awaited, rest)), expected, "{awaited:?}");
        }
        assert_eq!(outcome(Awaited::Verified, &at(Waiting, "cutover", 1)), Exit::NotMet);
    }

    #[test]
    fn nothing_is_at_rest_before_it_has_changed() {
        let migration = Migration { etag: "2".to_owned(), ..at(v1::migration::State::Waiting, "cutover", 0) };
        assert!(at_rest(&migration, "1") && !at_rest(&migration, "2"));
        assert!(!at_rest(&at(v1::migration::State::Running, "", 0), "1"));
    }
}
