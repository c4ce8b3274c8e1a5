//! Migrations in and around a switchover: rehearsed, under way, in doubt, taken back, done.

use pgportage_proto::v1;

use super::{at, migration, milliseconds, ready, step, verification};

pub(crate) fn cutting_over() -> v1::Migration {
    let mut migration = migration(v1::migration::State::Running, 10);
    let running = step(&mut migration, "cutover");
    running.state = v1::step::State::Running.into();
    running.attempt_count = 1;
    running.start_time = at(1);
    migration.cutover = Some(v1::CutoverReport {
        cutover_epoch: 1,
        phase: v1::cutover_report::Phase::Fenced.into(),
        lock_wait: milliseconds(13),
        drain_time: milliseconds(41),
        marker_id: "0199aa00-0000-7000-8000-000000000001".to_owned(),
        fence_lsn: "16/B374D848".to_owned(),
        cancelled_session_count: 1,
        ..Default::default()
    });
    migration
}

/// In doubt, and asked again and again by the agents themselves.
pub(crate) fn doubtful() -> v1::Migration {
    let mut migration = cutting_over();
    migration.cutover.as_mut().unwrap().phase = v1::cutover_report::Phase::InDoubt.into();
    migration.waiting_for = "agent beta to come back: whether the destination has opened is not known".to_owned();
    migration.next_commands = vec!["pgportage status shop".to_owned()];
    migration
}

/// The same of a rollback.
pub(crate) fn doubtful_rollback() -> v1::Migration {
    let mut migration = doubtful();
    migration.etag = "doubtful-rollback".to_owned();
    migration.cutover.as_mut().unwrap().rollback = true;
    migration.waiting_for = "agent alpha to come back: whether the source has opened is not known".to_owned();
    migration
}

pub(crate) fn in_doubt() -> v1::Migration {
    let mut migration = cutting_over();
    migration.state = v1::migration::State::Waiting.into();
    migration.cutover.as_mut().unwrap().phase = v1::cutover_report::Phase::InDoubt.into();
    let cutover = step(&mut migration, "cutover");
    cutover.state = v1::step::State::Failed.into();
    cutover.failure = Some(v1::Failure {
        reason: "CUTOVER_IN_DOUBT".to_owned(),
        message: "nobody knows yet whether the destination has opened".to_owned(),
        detail: "Agent beta was asked to open and has not answered for 60 seconds.".to_owned(),
        hint: "Bring agent beta and its server back. The source stays closed until it answers.".to_owned(),
        remedy: v1::failure::Remedy::Wait.into(),
        effect: v1::failure::Effect::Unknown.into(),
        ..Default::default()
    });
    migration.waiting_for = "the destination agent's word".to_owned();
    migration.next_commands = vec!["pgportage retry shop".to_owned()];
    migration
}

pub(crate) fn taken_back() -> v1::Migration {
    let mut migration = ready();
    migration.etag = "taken-back".to_owned();
    migration.cutover = Some(v1::CutoverReport {
        cutover_epoch: 1,
        phase: v1::cutover_report::Phase::TakenBack.into(),
        lock_wait: milliseconds(3000),
        ..Default::default()
    });
    let cutover = step(&mut migration, "cutover");
    cutover.attempt_count = 1;
    cutover.failure = Some(v1::Failure {
        reason: "BARRIER_TIMEOUT".to_owned(),
        message: "the table locks were not granted in time".to_owned(),
        detail: "Session 4711 (reporting) holds a lock on public.orders since 12 minutes.".to_owned(),
        hint: "End that transaction, then type the cutover again.".to_owned(),
        remedy: v1::failure::Remedy::Operator.into(),
        effect: v1::failure::Effect::None.into(),
        ..Default::default()
    });
    migration
}

pub(crate) fn cut_over() -> v1::Migration {
    let mut migration = migration(v1::migration::State::Waiting, 11);
    step(&mut migration, "finish").state = v1::step::State::Held.into();
    migration.verification = Some(verification());
    migration.cutover = Some(v1::CutoverReport {
        cutover_epoch: 1,
        phase: v1::cutover_report::Phase::Open.into(),
        outage: milliseconds(187),
        lock_wait: milliseconds(13),
        drain_time: milliseconds(41),
        cancelled_session_count: 1,
        terminated_session_count: 24,
        marker_id: "0199aa00-0000-7000-8000-000000000001".to_owned(),
        fence_lsn: "16/B374D848".to_owned(),
        open_lsn: "0/3000148".to_owned(),
        rollback: false,
        comparison: Some(v1::SwitchComparison {
            table_count: 14,
            row_count: 1_312,
            left_out: vec![v1::RelationName {
                schema_name: "public".to_owned(),
                relation_name: "audit_log".to_owned(),
            }],
            elapsed: milliseconds(18),
        }),
    });
    migration.waiting_for = "your word to remove everything of pgportage".to_owned();
    migration.next_commands = vec!["pgportage finish shop".to_owned()];
    migration
}

/// Cut over, and what is written flows back.
pub(crate) fn returnable() -> v1::Migration {
    let mut migration = cut_over();
    migration.way_back = v1::migration::WayBack::Running.into();
    migration.figures = ready().figures;
    migration.waiting_for = "the operator's word to finish or to roll back".to_owned();
    migration.next_commands = vec!["pgportage finish shop".to_owned(), "pgportage rollback shop".to_owned()];
    migration
}

/// Back on the source, ready for the next cutover.
pub(crate) fn rolled_back() -> v1::Migration {
    let mut migration = ready();
    migration.etag = "3-12".to_owned();
    migration.way_back = v1::migration::WayBack::Proved.into();
    migration.cutover =
        returnable().cutover.map(|report| v1::CutoverReport { cutover_epoch: 2, rollback: true, ..report });
    migration.waiting_for = "the operator's word for the next cutover".to_owned();
    migration
}

fn spread(p50: i64, p95: i64, worst: i64) -> Option<v1::RehearsedSpan> {
    Some(v1::RehearsedSpan { p50: milliseconds(p50), p95: milliseconds(p95), worst: milliseconds(worst) })
}

/// Rehearsed, and expected to be over within `max_outage` milliseconds or not.
pub(crate) fn rehearsed(max_outage: i64) -> v1::Migration {
    let mut migration = ready();
    migration.etag = "rehearsed".to_owned();
    migration.rehearsal = Some(v1::RehearsalReport {
        cutover_epoch: 5,
        phase: v1::rehearsal_report::Phase::Done.into(),
        round_count: 5,
        completed_count: 5,
        max_outage: milliseconds(max_outage),
        prepare: spread(180, 240, 240),
        lock_wait: spread(11, 24, 24),
        barrier: spread(31, 48, 48),
        drain: spread(12, 19, 19),
        compare: spread(6, 9, 9),
        release: spread(9, 14, 14),
        pause: spread(52, 78, 78),
        rest: milliseconds(31),
        rest_source: v1::rehearsal_report::RestSource::Estimate.into(),
        prediction: spread(74, 106, 106),
        fits: max_outage >= 106,
        cancelled_session_count: 3,
        record_time: at(30),
        ..Default::default()
    });
    migration
}

/// The third round goes on.
pub(crate) fn rehearsing() -> v1::Migration {
    let mut migration = rehearsed(300);
    migration.state = v1::migration::State::Running.into();
    migration.etag = "rehearsing".to_owned();
    migration.waiting_for.clear();
    migration.next_commands = vec!["pgportage status shop".to_owned(), "pgportage abort shop".to_owned()];
    let report = migration.rehearsal.as_mut().unwrap();
    report.phase = v1::rehearsal_report::Phase::Running.into();
    (report.cutover_epoch, report.completed_count, report.fits) = (3, 2, false);
    step(&mut migration, "cutover").state = v1::step::State::Pending.into();
    let running = v1::Step {
        name: "cutover-rehearsal".to_owned(),
        state: v1::step::State::Running.into(),
        attempt_count: 1,
        start_time: at(5),
        ..Default::default()
    };
    migration.steps.insert(10, running);
    migration
}

/// A round was not granted its locks.
pub(crate) fn rehearsal_given_up() -> v1::Migration {
    let mut migration = rehearsing();
    migration.state = v1::migration::State::Waiting.into();
    migration.etag = "given-up".to_owned();
    migration.steps.remove(10);
    let failure = step(&mut taken_back(), "cutover").failure.clone();
    migration.waiting_for = "the operator's word for the cutover; the last rehearsal was given up".to_owned();
    migration.next_commands = ready().next_commands;
    let cutover = step(&mut migration, "cutover");
    cutover.state = v1::step::State::Held.into();
    cutover.failure = failure.clone();
    let report = migration.rehearsal.as_mut().unwrap();
    report.phase = v1::rehearsal_report::Phase::GivenUp.into();
    report.failure = failure;
    migration
}
