//! Table tests of the planner, on whole histories played by `proof::Play`.

use std::time::Duration;

use pgportage_link::{Effect, Failure, Remedy};
use pgportage_proto::Reason;

use super::super::act::copy_tables::CopyTables;
use super::super::act::count_rows::CountRows;
use super::super::act::create_slot::CreateSlot;
use super::super::act::create_subscription::CreateSubscription;
use super::super::act::drain_to_marker::DrainToMarker;
use super::super::act::prepare_cutover::PrepareCutoverResult;
use super::super::act::restore_schema::RestoreSchema;
use super::super::act::{
    CheckServer, CheckServerResult, CompareRows, Input, OpenDestination, Outcome, PrepareCutover, RowComparison,
};
use super::super::depth::Look;
use super::super::proof::{Play, consent_finding, outcome, spec};
use super::super::spec::{ConnectionPath, CopyMethod, Spec};
use super::super::state::{CutoverEnd, Phase};
use super::super::verb::Request;
use super::super::{ActKind, ActRef, Side, StepName, Verb};
use super::*;

fn failure(remedy: Remedy, effect: Effect) -> Failure {
    Failure::new(Reason::ServerError, "it did not work").remedy(remedy).effect(effect)
}

#[test]
fn a_migration_without_trouble_succeeds() {
    let mut play = Play::started();
    play.answer_all();
    assert_eq!(play.state.phase, Phase::Held { step: StepName::Cutover });
    play.cut_over().unwrap();
    play.answer_all();
    assert_eq!(play.state.phase, Phase::Held { step: StepName::Finish });
    assert!(matches!(play.state.cutover.as_ref().unwrap().end, Some(CutoverEnd::Opened { .. })));
    play.submit(Request::Finish).unwrap();
    play.answer_all();
    assert_eq!(play.state.phase, Phase::Succeeded);
    // What is done aside is issued before acts that stand before it in the table.
    let mut acts: Vec<_> = play.issued.iter().map(|issued| issued.act).collect();
    acts.sort_by_key(|act| (act.step, act.row().unwrap().order == Order::Detached));
    let performed: Vec<_> = acts.iter().map(|act| act.kind().unwrap()).collect();
    // Rows are compared, switches rehearsed, and the way back is taken, only where that
    // is asked for.
    let by_itself = TABLE.iter().filter(|row| row.name != StepName::Rollback && !row.name.is_optional());
    let table = by_itself.flat_map(|row| row.acts).map(|act| act.act.kind);
    assert_eq!(performed, table.filter(|kind| *kind != ActKind::CompareRows).collect::<Vec<_>>());
}

#[test]
fn rows_are_compared_where_that_is_asked_for() {
    let mut play = Play::started();
    play.answer_all();
    let act = ActRef::find(StepName::Verify, Side::Destination, ActKind::CompareRows).unwrap();
    let look = Look { rows: true, ..Look::default() };
    let id = |play: &Play| match play.open().next().map(|issued| issued.input.clone()) {
        Some(input) => input.read::<CompareRows>().unwrap().comparison_id,
        None => panic!("nothing is asked"),
    };
    play.submit(Request::Verify(look.clone())).unwrap();
    play.answer_until(act);
    let first = id(&play);
    let counted = play.issued.iter().rev().find(|issued| issued.input.read::<CountRows>().is_some()).unwrap();
    assert!(counted.input.read().is_some_and(|given: &CountRows| given.objects_only), "rows are not counted as well");

    // The time was over: that is no pass, and the next one may go on.
    play.answer(|_, _| Outcome::of::<CompareRows>(RowComparison::default()));
    let Phase::Stopped { step: StepName::Verify, failure } = &play.state.phase else {
        panic!("{:?}", play.state.phase)
    };
    assert_eq!(failure.reason, Reason::VerificationIncomplete);
    play.submit(Request::Verify(Look { resume: true, ..look.clone() })).unwrap();
    play.answer_until(act);
    assert_eq!(id(&play), first);
    play.answer_all();
    assert_eq!(play.state.phase, Phase::Held { step: StepName::Cutover });

    // Another one begins anew; one that only counts compares no rows.
    play.submit(Request::Verify(look)).unwrap();
    play.answer_until(act);
    assert!(id(&play) > first);
    play.answer_all();
    let issued = play.issued.len();
    play.submit(Request::Verify(Look::default())).unwrap();
    play.answer_all();
    assert!(play.issued[issued..].iter().all(|issued| issued.act != act));
    assert_eq!(play.state.phase, Phase::Held { step: StepName::Cutover });
}

#[test]
fn both_sides_prepare_at_the_same_time() {
    let mut play = Play::at_cutover();
    let kinds: Vec<_> = play.open().map(|issued| issued.act).collect();
    assert_eq!(kinds.len(), 2);
    play.answer(outcome);
    assert_eq!(play.open().count(), 1, "the barrier waits for both");
}

#[test]
fn waiting_helps_by_itself_with_growing_pauses() {
    let mut play = Play::started();
    let mut pauses = Vec::new();
    for _ in 0..4 {
        play.fail(failure(Remedy::Wait, Effect::None));
        pauses.push(play.last_pause.as_millis());
        assert_eq!(play.state.phase, Phase::Running { step: StepName::Inspect });
    }
    assert_eq!(pauses, [200, 400, 800, 1600]);
    play.answer_all();
    assert_eq!(play.state.phase, Phase::Held { step: StepName::Cutover });
}

#[test]
fn an_operator_is_waited_for() {
    let mut play = Play::started();
    play.fail(failure(Remedy::Operator, Effect::None));
    assert!(matches!(play.state.phase, Phase::Stopped { step: StepName::Inspect, .. }));
    assert_eq!(play.open().count(), 0);
    play.submit(Request::Release { step: StepName::Inspect, max_outage: Duration::from_secs(1) }).unwrap();
    assert_eq!(play.last_pause, Duration::ZERO);
    play.answer_all();
    assert_eq!(play.state.phase, Phase::Held { step: StepName::Cutover });
}

#[test]
fn nothing_but_abort_helps_a_lost_slot() {
    let mut play = Play::started();
    play.answer_until(ActRef { step: StepName::CatchUp, index: 0 });
    play.fail(failure(Remedy::Abort, Effect::Unknown));
    let refused = play.submit(Request::Release { step: StepName::CatchUp, max_outage: Duration::from_secs(1) });
    assert_eq!(refused.unwrap_err().reason, Reason::WrongState);
    play.submit(Request::Abort).unwrap();
    play.answer_all();
    assert_eq!(play.state.phase, Phase::Aborted);
}

#[test]
fn past_the_point_of_no_return_a_retry_is_never_refused() {
    let mut play = Play::at_cutover();
    play.answer_until(ActRef::release(StepName::Cutover));
    play.fail(failure(Remedy::Abort, Effect::None));
    assert!(matches!(play.state.phase, Phase::Stopped { step: StepName::Cutover, .. }));
    assert_eq!(play.submit(Request::Abort).unwrap_err().reason, Reason::DestinationOpened);
    play.submit(Request::Release { step: StepName::Cutover, max_outage: Duration::from_secs(1) }).unwrap();
    play.answer_all();
    assert_eq!(play.state.phase, Phase::Held { step: StepName::Finish });
}

/// An inspection that finds something to agree to.
fn found() -> Outcome {
    let inventory = super::super::act::Inventory::default();
    Outcome::of::<CheckServer>(CheckServerResult { inventory, findings: vec![consent_finding()] })
}

#[test]
fn consent_lets_a_second_inspection_pass() {
    let mut play = Play::started();
    play.answer(|_, _| found());
    play.answer(outcome);
    let Phase::Stopped { step: StepName::Inspect, failure } = play.state.phase.clone() else { panic!() };
    assert_eq!(failure.reason, Reason::ConsentRequired);
    let finding = consent_finding();
    let consent = super::super::finding::Consent {
        code: finding.code,
        object: finding.object,
        evidence_digest: finding.evidence_digest,
    };
    play.submit(Request::Consent(vec![consent.clone()])).unwrap();
    play.submit(Request::Release { step: StepName::Inspect, max_outage: Duration::from_secs(1) }).unwrap();
    let CheckServer { consents, .. } = play.issued.last().unwrap().input.read().unwrap();
    assert_eq!(consents, &[consent]);
    play.answer(|_, _| found());
    play.answer_all();
    assert_eq!(play.state.phase, Phase::Held { step: StepName::Cutover });
}

#[test]
fn an_abort_takes_attempted_acts_back_in_reverse() {
    let mut play = Play::started();
    play.answer_until(ActRef { step: StepName::Subscribe, index: 0 });
    let running = play.open().next().unwrap().command;
    play.submit(Request::Abort).unwrap();
    assert_eq!(play.cancelled, [running]);
    play.fail(failure(Remedy::Wait, Effect::Unknown));
    play.answer_all();
    assert_eq!(play.state.phase, Phase::Aborted);
    let undone: Vec<_> = play
        .issued
        .iter()
        .filter(|issued| issued.verb == Verb::Undo)
        .map(|issued| issued.act.kind().unwrap())
        .collect();
    assert_eq!(
        undone,
        [
            ActKind::CreateSubscription,
            ActKind::CreateSlot,
            ActKind::RestoreSchema,
            ActKind::CloseDatabase,
            ActKind::CreatePublication,
            ActKind::SetReplicaIdentity,
            ActKind::ReachPeer,
            ActKind::CreateReplicationRole,
        ]
    );
}

#[test]
fn a_running_copy_is_stopped_before_anything_is_taken_back() {
    let mut play = Play::started();
    let slot = ActRef { step: StepName::Copy, index: 0 };
    let copy = ActRef { step: StepName::Copy, index: 1 };
    play.answer_until(copy);
    let running = play.open().next().unwrap().command;
    play.submit(Request::Abort).unwrap();
    assert_eq!(play.cancelled, [running]);
    assert_eq!(play.open().count(), 1, "rows may still come: nothing else is asked for");
    play.record(Event::CommandCancelled { command: running, agent_sequence: 1, effect: Effect::Unknown });
    play.advance();
    let open: Vec<_> = play.open().map(|issued| (issued.act, issued.verb)).collect();
    assert_eq!(open, [(slot, Verb::Undo)]);
    play.answer_all();
    assert_eq!(play.state.phase, Phase::Aborted);
    let undone: Vec<_> = play
        .issued
        .iter()
        .filter(|issued| issued.verb == Verb::Undo)
        .map(|issued| issued.act.kind().unwrap())
        .take(2)
        .collect();
    // The rows go with the tables.
    assert_eq!(undone, [ActKind::CreateSlot, ActKind::RestoreSchema]);
}

#[test]
fn a_copy_that_broke_is_tried_again_without_another_slot() {
    let mut play = Play::started();
    let copy = ActRef { step: StepName::Copy, index: 1 };
    play.answer_until(copy);
    play.fail(failure(Remedy::Wait, Effect::Unknown));
    play.fail(failure(Remedy::Operator, Effect::Unknown));
    assert!(matches!(play.state.phase, Phase::Stopped { step: StepName::Copy, .. }));
    play.submit(Request::Release { step: StepName::Copy, max_outage: Duration::from_secs(1) }).unwrap();
    play.answer_all();
    assert_eq!(play.state.phase, Phase::Held { step: StepName::Cutover });
    let count = |act| play.issued.iter().filter(|issued| issued.act == act).count();
    assert_eq!((count(ActRef { step: StepName::Copy, index: 0 }), count(copy)), (1, 3));
}

#[test]
fn whoever_needs_to_know_how_rows_are_copied_is_told() {
    for copy_method in [CopyMethod::Snapshot, CopyMethod::Native] {
        let mut play = Play::started_as(Spec { copy_method, ..spec() });
        play.answer_until(ActRef { step: StepName::CatchUp, index: 0 });
        let told: Vec<_> = play.issued.iter().map(|issued| issued.input.clone()).collect();
        for input in [
            Input::of(RestoreSchema { copy_method }),
            Input::of(CreateSlot { copy_method }),
            Input::of(CopyTables { copy_method }),
            Input::of(CreateSubscription { connection_path: ConnectionPath::Tunnel, copy_method }),
        ] {
            assert!(told.contains(&input), "{input:?} is not in {told:?}");
        }
    }
}

#[test]
fn an_act_that_left_nothing_is_not_taken_back() {
    let mut play = Play::started();
    play.answer_until(ActRef { step: StepName::Connect, index: 0 });
    play.fail(failure(Remedy::Operator, Effect::None));
    play.submit(Request::Abort).unwrap();
    play.answer_all();
    let undone = play.issued.iter().filter(|issued| issued.verb == Verb::Undo).count();
    assert_eq!(undone, 0);
}

#[test]
fn an_agent_that_accepted_is_made_to_forget() {
    let mut play = Play::started();
    let role = ActRef { step: StepName::Connect, index: 0 };
    play.answer_until(role);
    let command = play.open().next().unwrap().command;
    play.record(Event::CommandAccepted { command, agent_sequence: 1 });
    play.fail(failure(Remedy::Operator, Effect::None));
    play.submit(Request::Abort).unwrap();
    let undone: Vec<_> = play.open().map(|issued| (issued.act, issued.verb)).collect();
    assert_eq!(undone, [(role, Verb::Undo)]);
}

#[test]
fn a_cutover_that_fails_before_the_decision_is_taken_back_and_held_again() {
    for index in 0..=ActRef::open(StepName::Cutover).index {
        for remedy in [Remedy::Wait, Remedy::Operator, Remedy::Abort] {
            let mut play = Play::at_cutover();
            play.answer_until(ActRef { step: StepName::Cutover, index });
            play.fail_act(ActRef { step: StepName::Cutover, index }, failure(remedy, Effect::Unknown));
            assert!(matches!(play.state.phase, Phase::TakingBack { .. }), "{index}");
            play.answer_all();
            assert_eq!(play.state.phase, Phase::Held { step: StepName::Cutover }, "{index}");
            assert!(matches!(play.state.cutover.as_ref().unwrap().end, Some(CutoverEnd::TakenBack { .. })));
            play.cut_over().unwrap();
            assert_eq!(play.state.cutover.as_ref().unwrap().epoch, 2);
            play.answer_all();
            assert_eq!(play.state.phase, Phase::Held { step: StepName::Finish }, "{index}");
        }
    }
}

#[test]
fn the_fence_is_lifted_before_anything_else_is_taken_back() {
    let mut play = Play::at_cutover();
    play.answer_until(ActRef::open(StepName::Cutover));
    play.fail(failure(Remedy::Operator, Effect::None));
    let first: Vec<_> = play.open().map(|issued| (issued.act, issued.verb)).collect();
    assert_eq!(first, [(ActRef::fence(StepName::Cutover), Verb::Undo)]);
    play.answer(outcome);
    let mut then: Vec<_> = play.open().map(|issued| issued.act).collect();
    then.sort();
    assert_eq!(then, [ActRef::raise(StepName::Cutover), ActRef::drain(StepName::Cutover)], "then each side on its own");
}

#[test]
fn a_destination_out_of_reach_does_not_hold_the_sources_writers() {
    let mut play = Play::at_cutover();
    play.answer_until(ActRef::drain(StepName::Cutover));
    play.outage_left = Duration::ZERO;
    play.advance();
    assert!(matches!(play.state.phase, Phase::TakingBack { .. }));
    // The drain has not answered, and yet the barrier is taken back.
    let open: Vec<_> = play.open().map(|issued| (issued.act, issued.verb)).collect();
    assert!(open.contains(&(ActRef::drain(StepName::Cutover), Verb::Perform)));
    assert!(open.contains(&(ActRef::raise(StepName::Cutover), Verb::Undo)));
}

#[test]
fn the_budget_ends_a_cutover_before_the_decision_only() {
    for index in 0..TABLE[StepName::Cutover.index()].acts.len() {
        let mut play = Play::at_cutover();
        let act = ActRef { step: StepName::Cutover, index };
        play.answer_until(act);
        play.outage_left = Duration::ZERO;
        play.advance();
        let given_up = matches!(play.state.phase, Phase::TakingBack { .. });
        assert_eq!(
            given_up,
            (ActRef::raise(StepName::Cutover).index..=ActRef::fence(StepName::Cutover).index).contains(&index),
            "{index}"
        );
    }
}

#[test]
fn a_decision_without_an_answer_is_never_taken_back() {
    let mut play = Play::at_cutover();
    play.answer_until(ActRef::open(StepName::Cutover));
    assert!(play.state.in_doubt());
    play.outage_left = Duration::ZERO;
    play.advance();
    assert!(play.state.in_doubt());
    assert_eq!(play.open().count(), 1);
    assert_eq!(play.submit(Request::Abort).unwrap_err().reason, Reason::CutoverInDoubt);
}

#[test]
fn an_opened_destination_sends_the_migration_forward() {
    let mut play = Play::at_cutover();
    play.answer_until(ActRef::open(StepName::Cutover));
    play.fail(failure(Remedy::Wait, Effect::Unknown));
    let opened = Failure::new(Reason::DestinationOpened, "the destination has opened");
    play.fail_act(ActRef::fence(StepName::Cutover), opened);
    assert_eq!(play.state.phase, Phase::Running { step: StepName::Cutover });
    let open: Vec<_> = play.open().map(|issued| issued.act).collect();
    assert_eq!(open, [ActRef::release(StepName::Cutover)]);
    assert_eq!(play.submit(Request::Abort).unwrap_err().reason, Reason::DestinationOpened);
    play.answer_all();
    assert_eq!(play.state.phase, Phase::Held { step: StepName::Finish });
}

#[test]
fn an_abort_that_meets_an_opened_destination_goes_forward_too() {
    let mut play = Play::at_cutover();
    play.answer_until(ActRef::open(StepName::Cutover));
    play.fail(failure(Remedy::Wait, Effect::Unknown));
    play.submit(Request::Abort).unwrap();
    play.fail_act(
        ActRef::fence(StepName::Cutover),
        Failure::new(Reason::DestinationOpened, "the destination has opened"),
    );
    assert_eq!(play.state.phase, Phase::Running { step: StepName::Cutover });
}

#[test]
fn a_failed_undo_waits_for_the_operator_and_goes_on_at_a_word() {
    let mut play = Play::at_cutover();
    play.answer_until(ActRef::fence(StepName::Cutover));
    play.fail(failure(Remedy::Operator, Effect::Unknown));
    play.fail_act(ActRef::fence(StepName::Cutover), failure(Remedy::Operator, Effect::Unknown));
    assert!(matches!(play.state.phase, Phase::TakingBack { stop: Some(_), .. }));
    assert_eq!(play.open().count(), 0);
    play.submit(Request::Release { step: StepName::Cutover, max_outage: Duration::from_secs(1) }).unwrap();
    assert_eq!(play.open().count(), 1);
    play.answer_all();
    assert_eq!(play.state.phase, Phase::Held { step: StepName::Cutover });
}

#[test]
fn the_barrier_is_released_for_as_long_as_it_takes() {
    let mut play = Play::at_cutover();
    play.answer_until(ActRef::release(StepName::Cutover));
    play.fail(failure(Remedy::Wait, Effect::Unknown));
    assert_eq!(play.state.phase, Phase::Running { step: StepName::Cutover });
    play.fail(failure(Remedy::Operator, Effect::Unknown));
    assert!(matches!(play.state.phase, Phase::Stopped { .. }));
    assert_eq!(play.submit(Request::Abort).unwrap_err().reason, Reason::DestinationOpened);
    play.submit(Request::Release { step: StepName::Cutover, max_outage: Duration::from_secs(1) }).unwrap();
    play.answer_all();
    assert_eq!(play.state.phase, Phase::Held { step: StepName::Finish });
}

#[test]
fn schemas_that_drift_end_a_cutover() {
    let mut play = Play::at_cutover();
    let digest = |byte: u8| super::super::act::Digest(vec![byte]);
    let mut turn = 0;
    play.answer(|_, _| {
        turn += 1;
        Outcome::of::<PrepareCutover>(PrepareCutoverResult {
            table_set_digest: digest(1),
            catalog_digest: digest(turn),
            table_count: 1,
        })
    });
    play.answer(|_, _| {
        Outcome::of::<PrepareCutover>(PrepareCutoverResult {
            table_set_digest: digest(1),
            catalog_digest: digest(9),
            table_count: 1,
        })
    });
    let Phase::TakingBack { cause: Some(cause), .. } = &play.state.phase else { panic!("{:?}", play.state.phase) };
    assert_eq!(cause.reason, Reason::SchemaDiffers);
}

#[test]
fn sequences_travel_from_barrier_and_fence() {
    let mut play = Play::at_cutover();
    play.answer_until(ActRef::open(StepName::Cutover));
    let drained = play.issued.iter().find_map(|issued| {
        let DrainToMarker { sequences, .. } = issued.input.read()?;
        Some(sequences[0].last_value)
    });
    let opened = play.issued.iter().find_map(|issued| {
        let OpenDestination { sequences, .. } = issued.input.read()?;
        Some(sequences[0].last_value)
    });
    assert_eq!((drained, opened), (Some(10), Some(20)));
}
