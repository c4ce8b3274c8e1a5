//! A migration as operators see it: what is happening, what it waits for, what
//! to type next.

use pgportage_link::{Failure, Remedy};
use pgportage_proto::v1;

use super::rehearsal::to_rehearsal;
use super::{to_duration, to_finding, to_spec, to_time};
use crate::engine::Overview;
use crate::figures::Gauge;
use crate::workflow::advice;
use crate::workflow::drift::may_switch;
use crate::workflow::judge::RowSummary;
use crate::workflow::planned::{self, Planned};
use crate::workflow::spec::Rate;
use crate::workflow::state::{Act, ActState, CutoverEnd, Phase, State};
use crate::workflow::{Side, StepName, TABLE};

/// Changes with every stored fact, and with nothing else.
pub(crate) fn etag(state: &State) -> String {
    format!("{}-{}", state.id, state.sequence)
}

/// The whole migration. `attached` says whether an agent has a session.
pub(crate) fn view(overview: &Overview, attached: impl Fn(&str) -> bool) -> v1::Migration {
    let state = &*overview.state;
    let absent: Vec<&str> = [Side::Source, Side::Destination]
        .into_iter()
        .filter(|side| state.unanswered().any(|known| state.side_of(known.issued.command) == Some(*side)))
        .map(|side| state.spec.agent(side))
        .filter(|agent| !attached(agent))
        .collect();
    v1::Migration {
        id: state.id.to_string(),
        spec: Some(to_spec(&state.spec)),
        state: phase(state).into(),
        steps: TABLE
            .iter()
            .filter(|row| advice::is_shown(state, row.name))
            .map(|row| step(overview, row.name))
            .collect(),
        etag: etag(state),
        create_time: to_time(state.create_time),
        update_time: to_time(state.update_time),
        waiting_for: advice::waiting_for(state, &absent, held_by(overview).as_ref()),
        next_commands: next_commands(state, held_by(overview).is_some()),
        source_findings: state.findings(Side::Source).iter().map(to_finding).collect(),
        destination_findings: state.findings(Side::Destination).iter().map(to_finding).collect(),
        figures: figures(overview),
        cutover: cutover(state),
        verification: state.verification.as_ref().map(|verified| v1::VerificationReport {
            table_count: verified.found.table_count,
            equal_count: verified.found.equal_count,
            moving_count: verified.found.moving_count,
            row_count: verified.found.row_count,
            differences: verified.found.differences.clone(),
            not_replicated: verified.found.not_replicated.iter().map(to_finding).collect(),
            record_time: to_time(verified.time),
            rows: verified.found.rows.as_ref().map(to_rows),
            follower: v1::Side::from(verified.found.publisher.other()).into(),
        }),
        unfence_statements: state.unfence_statements().to_vec(),
        consents: state.consents.iter().map(v1::Consent::from).collect(),
        relayed: state.relayed(),
        max_rate_bytes: Rate::bytes(state.max_rate),
        way_back: way_back(state).into(),
        rehearsal: state.rehearsal.as_ref().map(|rehearsal| to_rehearsal(rehearsal, state.rest_of_switch)),
        schema_drift: overview.drift().cloned().map(Into::into),
        held_by: held_by(overview).map(Into::into),
    }
}

fn next_commands(state: &State, held: bool) -> Vec<String> {
    advice::next_verbs(state, held).into_iter().map(|verb| format!("pgportage {verb} {}", state.id)).collect()
}

/// The drift that keeps the next switch from beginning.
fn held_by(overview: &Overview) -> Option<Failure> {
    may_switch(overview.drift()).err()
}

fn way_back(state: &State) -> v1::migration::WayBack {
    if !state.way_back || state.terminal() {
        v1::migration::WayBack::None
    } else if state.opened() && state.released() {
        v1::migration::WayBack::Running
    } else if state.step(StepName::Reverse).succeeded {
        v1::migration::WayBack::Proved
    } else {
        v1::migration::WayBack::Planned
    }
}

/// What will run, before it runs.
pub(crate) fn plan(state: &State, obstacle: Option<Failure>) -> v1::GetPlanResponse {
    let step = |planned: Planned| v1::PlannedStep {
        name: planned.step.as_str().to_owned(),
        agent_id: planned.agent,
        statements: planned.lines.iter().map(ToString::to_string).collect(),
        held: planned.held,
        undoable: planned.undoable,
    };
    v1::GetPlanResponse {
        steps: planned::render(state).into_iter().map(step).collect(),
        plan_digest: state.plan_digest.0.clone(),
        summary: planned::summary(state).into(),
        record_time: planned::record_time(state).and_then(to_time),
        obstacle: obstacle.map(Into::into),
        changes: planned::changes(state),
    }
}

fn to_rows(rows: &RowSummary) -> v1::RowComparison {
    v1::RowComparison {
        range_count: rows.range_count,
        recheck_count: rows.recheck_count,
        difference_count: rows.difference_count,
        unsettled_count: rows.unsettled_count,
        complete: rows.complete,
        elapsed: to_duration(rows.elapsed),
        report_path: rows.report_path.clone(),
        repair_path: rows.repair_path.clone(),
    }
}

fn phase(state: &State) -> v1::migration::State {
    match &state.phase {
        Phase::Pending => v1::migration::State::Pending,
        Phase::Running { .. } | Phase::TakingBack { stop: None, .. } => v1::migration::State::Running,
        Phase::Held { .. }
        | Phase::Stopped { .. }
        | Phase::TakingBack { stop: Some(_), .. }
        | Phase::Aborting { stop: Some(_) } => v1::migration::State::Waiting,
        Phase::Aborting { stop: None } => v1::migration::State::Aborting,
        Phase::Aborted => v1::migration::State::Aborted,
        Phase::Succeeded => v1::migration::State::Succeeded,
    }
}

fn step(overview: &Overview, name: StepName) -> v1::Step {
    let state = &*overview.state;
    let row = name.row();
    let entry = state.step(name);
    let (step_state, failure) = step_state(state, name);
    let attempts = match name.is_rehearsal() {
        // Rounds are no attempts.
        true => 1,
        false => entry.acts.iter().map(Act::attempts_since_asked).max().unwrap_or(0),
    };
    let progress =
        entry.acts.iter().filter_map(|act| act.command()).find_map(|command| {
            overview.progress.get(&command).map(|progress| progress.to_message(command.to_string()))
        });
    v1::Step {
        name: name.as_str().to_owned(),
        state: step_state.into(),
        attempt_count: i32::try_from(attempts).unwrap_or(i32::MAX),
        progress,
        failure: failure.cloned().map(Into::into),
        start_time: entry.start_time.and_then(to_time),
        end_time: entry.end_time.and_then(to_time),
        held: row.hold.is_some(),
        point_of_no_return: row.has_point_of_no_return(),
    }
}

/// Where a step stands, and why if that is not as it should be. A step that is
/// tried again by itself keeps showing why it has to be.
fn step_state(state: &State, name: StepName) -> (v1::step::State, Option<&Failure>) {
    use v1::step::State as Shown;
    let entry = state.step(name);
    let latest = entry.acts.iter().find_map(|act| act.failure());
    let busy = entry.acts.iter().any(|act| act.command().is_some());
    match &state.phase {
        Phase::Stopped { step, failure } if *step == name => return (Shown::Failed, Some(failure)),
        Phase::Held { step } if *step == name => {
            let taken_back = match state.switch_end() {
                Some(CutoverEnd::TakenBack { cause }) if name == state.switch().held_at() => Some(cause),
                Some(CutoverEnd::TakenBack { .. } | CutoverEnd::Opened { .. }) | None => None,
            };
            return (Shown::Held, advice::given_up(state, name).or(taken_back));
        }
        Phase::Running { step } if *step == name => return (Shown::Running, latest),
        Phase::TakingBack { step, cause, stop } if *step == name => {
            return match stop {
                Some(failure) => (Shown::Failed, Some(failure)),
                None => (Shown::Running, cause.as_ref()),
            };
        }
        Phase::Aborting { stop } => {
            let mut not_undone = entry.acts.iter().filter(|act| matches!(act.state, ActState::UndoFailed { .. }));
            if let Some(failure) = not_undone.find_map(Act::failure) {
                let shown =
                    if stop.is_some() && failure.remedy != Remedy::Wait { Shown::Failed } else { Shown::Running };
                return (shown, Some(failure));
            }
            if busy {
                return (Shown::Running, None);
            }
        }
        Phase::Pending
        | Phase::Running { .. }
        | Phase::Held { .. }
        | Phase::Stopped { .. }
        | Phase::TakingBack { .. }
        | Phase::Aborted
        | Phase::Succeeded => {}
    }
    let attempted = entry.acts.iter().any(|act| act.attempts > 0);
    let undone = entry.acts.iter().any(|act| act.state == ActState::Undone);
    let given_up = matches!(state.phase, Phase::Aborted) && attempted;
    let shown = if undone || given_up {
        Shown::Undone
    } else if entry.succeeded {
        Shown::Succeeded
    } else if attempted && latest.is_some() {
        Shown::Failed
    } else {
        Shown::Pending
    };
    (shown, if shown == Shown::Failed { latest } else { None })
}

fn figures(overview: &Overview) -> Option<v1::MigrationFigures> {
    // What is measured follows the stream: from the side that takes writes.
    let writer = overview.state.writable;
    let publisher = overview.gauges.get(&writer);
    let subscriber = overview.gauges.get(&writer.other());
    let newest = publisher.into_iter().chain(subscriber).map(|gauge| gauge.time).max()?;
    let said = |gauge: Option<&Gauge>| gauge.map(|gauge| gauge.message.clone());
    let (publisher, subscriber) = (said(publisher), said(subscriber));
    let warning =
        [&publisher, &subscriber].into_iter().flatten().map(|said| &said.warning).find(|text| !text.is_empty());
    let known = publisher.clone().unwrap_or_default();
    Some(v1::MigrationFigures {
        lag: known.lag,
        lag_bytes: publisher.as_ref().map_or(-1, |said| said.lag_bytes),
        retained_wal_bytes: publisher.as_ref().map_or(-1, |said| said.retained_wal_bytes),
        warning: warning.cloned().unwrap_or_default(),
        reader_limit: known.reader_limit,
        held_back_by: known.held_back_by,
        record_time: to_time(newest),
        wal_forecast: known.wal_forecast,
        publisher,
        subscriber,
    })
}

fn cutover(state: &State) -> Option<v1::CutoverReport> {
    use crate::workflow::ActRef;
    let cutover = state.cutover.as_ref()?;
    let fencing = state.act(ActRef::fence(state.switch()));
    let fenced = fencing.touched || fencing.command().is_some();
    let phase = match &cutover.end {
        Some(CutoverEnd::Opened { .. }) => v1::cutover_report::Phase::Open,
        Some(CutoverEnd::TakenBack { .. }) => v1::cutover_report::Phase::TakenBack,
        None if state.in_doubt() => v1::cutover_report::Phase::InDoubt,
        None if fenced => v1::cutover_report::Phase::Fenced,
        None => v1::cutover_report::Phase::Preparing,
    };
    let (open_lsn, outage) = match &cutover.end {
        Some(CutoverEnd::Opened { open_lsn, outage }) => (open_lsn.clone(), *outage),
        Some(CutoverEnd::TakenBack { .. }) | None => (String::new(), None),
    };
    let barrier = cutover.barrier.as_ref();
    let fence = cutover.fence.as_ref();
    Some(v1::CutoverReport {
        cutover_epoch: cutover.epoch,
        phase: phase.into(),
        outage: outage.and_then(to_duration),
        lock_wait: barrier.and_then(|barrier| to_duration(barrier.lock_wait)),
        drain_time: cutover.drain_time.and_then(to_duration),
        cancelled_session_count: barrier.map_or(0, |barrier| barrier.cancelled_session_count),
        terminated_session_count: fence.map_or(0, |fence| fence.terminated_session_count),
        marker_id: barrier.map(|barrier| barrier.marker_id.clone()).unwrap_or_default(),
        fence_lsn: fence.map(|fence| fence.fence_lsn.clone()).unwrap_or_default(),
        open_lsn,
        rollback: cutover.step == StepName::Rollback,
        comparison: cutover.compared.as_ref().map(|compared| v1::SwitchComparison {
            table_count: compared.table_count,
            row_count: compared.row_count,
            left_out: compared.left_out.iter().map(v1::RelationName::from).collect(),
            elapsed: to_duration(compared.elapsed),
        }),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::workflow::ActRef;
    use crate::workflow::depth::Look;
    use crate::workflow::proof::Play;
    use crate::workflow::verb::Request;

    /// A step's attempts, and the seconds it has taken.
    fn told(play: &Play, name: StepName) -> (i32, Option<i64>) {
        let shown = step(&Overview::of(play.state.clone()), name);
        let took = shown.start_time.zip(shown.end_time).map(|(start, end)| end.seconds - start.seconds);
        (shown.attempt_count, took)
    }

    #[test]
    fn what_is_asked_for_again_tells_of_this_time_only() {
        let mut play = Play::at_rollback();
        let first = told(&play, StepName::Cutover);
        assert!(first.0 == 1 && first.1.is_some(), "{first:?}");
        play.answer_all();
        let rollback = told(&play, StepName::Rollback);
        assert_eq!(told(&play, StepName::Cutover), (0, None), "the next one has not begun");

        play.cut_over().unwrap();
        play.answer_all();
        assert_eq!(told(&play, StepName::Cutover), first);
        play.submit(Request::RollBack {
            max_outage: Duration::from_secs(1),
            without_poolers: false,
            compare_limit: None,
        })
        .unwrap();
        play.answer_all();
        assert_eq!(told(&play, StepName::Rollback), rollback);

        let verified = told(&play, StepName::Verify);
        play.submit(Request::Verify(Look::default())).unwrap();
        play.answer_all();
        assert_eq!(told(&play, StepName::Verify), verified);
    }

    #[test]
    fn why_a_switch_was_taken_back_is_told_where_the_next_one_is_waited_for() {
        for (mut play, held) in [(Play::at_cutover(), StepName::Cutover), (Play::at_rollback(), StepName::Finish)] {
            play.fail(Failure::new(pgportage_proto::Reason::PoolerUnreachable, "no answer").hint("Look at it."));
            play.answer_all();
            assert_eq!(play.state.phase, Phase::Held { step: held });
            let (shown, cause) = step_state(&play.state, held);
            assert_eq!(shown, v1::step::State::Held);
            assert_eq!(cause.map(|cause| cause.hint.as_str()), Some("Look at it."));
        }
    }

    #[test]
    fn attempts_of_one_switch_are_counted_together() {
        let mut play = Play::at_cutover();
        let release = ActRef::release(StepName::Cutover);
        play.answer_until(release);
        let passing = Failure::new(pgportage_proto::Reason::ServerUnreachable, "no answer").remedy(Remedy::Wait);
        play.fail_act(release, passing);
        play.answer_all();
        assert_eq!(told(&play, StepName::Cutover).0, 2);
    }
}
