//! Table tests of cutovers and rollbacks that follow each other.

use std::time::Duration;

use pgportage_link::{Effect, Failure, Remedy};
use pgportage_proto::Reason;

use super::super::act::PrepareCutover;
use super::super::proof::{Play, spec};
use super::super::spec::Spec;
use super::super::state::Phase;
use super::super::verb::Request;
use super::super::{ActKind, ActRef, Side, StepName, Verb};

fn failure(remedy: Remedy, effect: Effect) -> Failure {
    Failure::new(Reason::ServerError, "it did not work").remedy(remedy).effect(effect)
}

const BOTH_WAYS: [StepName; 2] = [StepName::Cutover, StepName::Rollback];

fn held_before(switch: StepName) -> Phase {
    Phase::Held { step: if switch == StepName::Rollback { StepName::Finish } else { switch } }
}

fn at(switch: StepName) -> Play {
    if switch == StepName::Rollback { Play::at_rollback() } else { Play::at_cutover() }
}

#[test]
fn cutover_and_rollback_follow_each_other_for_as_long_as_one_likes() {
    let mut play = Play::started();
    play.answer_all();
    for round in 0..10 {
        assert_eq!((&play.state.phase, play.state.writable), (&held_before(StepName::Cutover), Side::Source));
        play.cut_over().unwrap();
        assert_eq!(play.state.cutover.as_ref().unwrap().epoch, 2 * round + 1);
        play.answer_all();
        assert_eq!((&play.state.phase, play.state.writable), (&held_before(StepName::Rollback), Side::Destination));
        assert_eq!(play.submit(Request::Abort).unwrap_err().reason, Reason::DestinationOpened);
        play.submit(Request::RollBack {
            max_outage: Duration::from_secs(1),
            without_poolers: false,
            compare_limit: None,
        })
        .unwrap();
        play.answer_all();
    }
    assert!(!play.state.past_return());
    play.cut_over().unwrap();
    play.answer_all();
    play.submit(Request::Finish).unwrap();
    play.answer_all();
    assert_eq!(play.state.phase, Phase::Succeeded);
}

#[test]
fn what_a_rollback_asks_for_is_a_cutover_the_other_way_round() {
    let mut play = Play::at_rollback();
    play.answer_all();
    let asked = |step: StepName| -> Vec<_> {
        let of_it = play.issued.iter().filter(|issued| issued.act.step == step);
        of_it.map(|issued| (issued.act.kind().unwrap(), issued.act.row().unwrap().side)).collect()
    };
    let exchanged: Vec<_> = asked(StepName::Cutover).into_iter().map(|(kind, side)| (kind, side.other())).collect();
    assert_eq!(exchanged, asked(StepName::Rollback));
    let rollbacks: Vec<_> = play
        .issued
        .iter()
        .filter_map(|issued| {
            let PrepareCutover { rollback, way_back, .. } = *issued.input.read()?;
            Some((issued.act.step, rollback, way_back))
        })
        .collect();
    let expected = |step, rollback| [(step, rollback, true), (step, rollback, true)];
    assert_eq!(rollbacks, [expected(StepName::Cutover, false), expected(StepName::Rollback, true)].concat());
}

#[test]
fn poolers_that_do_not_answer_are_left_out_of_the_rollback_that_was_asked_for_so() {
    let told = |play: &Play| {
        let inputs = play.issued.iter().rev().map(|issued| &issued.input);
        let prepared = inputs.filter_map(|input| {
            let PrepareCutover { without_poolers, .. } = *input.read()?;
            Some(without_poolers)
        });
        prepared.take(2).collect::<Vec<_>>()
    };
    let mut play = Play::at_cutover();
    play.answer_all();
    play.submit(Request::RollBack { max_outage: Duration::from_secs(1), without_poolers: true, compare_limit: None })
        .unwrap();
    assert_eq!(told(&play), [true, true]);
    play.answer_all();
    play.cut_over().unwrap();
    assert_eq!(told(&play), [false, false]);
    play.answer_all();
    play.submit(Request::RollBack { max_outage: Duration::from_secs(1), without_poolers: false, compare_limit: None })
        .unwrap();
    assert_eq!(told(&play), [false, false]);
}

#[test]
fn a_switch_that_fails_before_its_decision_leaves_everything_as_it_was() {
    for switch in BOTH_WAYS {
        for index in 0..=ActRef::open(switch).index {
            let mut play = at(switch);
            let writable = play.state.writable;
            play.answer_until(ActRef { step: switch, index });
            play.fail_act(ActRef { step: switch, index }, failure(Remedy::Operator, Effect::Unknown));
            play.answer_all();
            assert_eq!((&play.state.phase, play.state.writable), (&held_before(switch), writable), "{switch} {index}");
            let undone = play.issued.iter().filter(|issued| issued.verb == Verb::Undo);
            assert!(undone.clone().all(|issued| issued.act.step == switch), "{switch} {index}");
        }
    }
}

#[test]
fn a_rollback_in_doubt_is_asked_about_and_never_taken_back() {
    let mut play = Play::at_rollback();
    play.answer_until(ActRef::open(StepName::Rollback));
    play.outage_left = Duration::ZERO;
    play.advance();
    assert!(play.state.in_doubt() && play.open().count() == 1);
    play.outage_left = Duration::from_secs(1);
    play.fail(failure(Remedy::Wait, Effect::Unknown));
    let open: Vec<_> = play.open().map(|issued| (issued.act, issued.verb)).collect();
    assert_eq!(open, [(ActRef::fence(StepName::Rollback), Verb::Undo)]);
    let opened = Failure::new(Reason::DestinationOpened, "the source has opened");
    play.fail_act(ActRef::fence(StepName::Rollback), opened);
    assert_eq!(play.state.phase, Phase::Running { step: StepName::Rollback });
    assert_eq!(play.state.writable, Side::Source);
    assert!(play.submit(Request::Abort).is_err(), "its barrier may still stand");
    play.answer_all();
    assert_eq!(play.state.phase, held_before(StepName::Cutover));
}

#[test]
fn after_a_rollback_the_migration_can_be_taken_back() {
    let mut play = Play::at_rollback();
    play.answer_all();
    let issued = play.issued.len();
    play.submit(Request::Abort).unwrap();
    play.answer_all();
    assert_eq!(play.state.phase, Phase::Aborted);
    let undone: Vec<_> =
        play.issued[issued..].iter().map(|issued| (issued.act.step, issued.act.kind().unwrap(), issued.verb)).collect();
    assert!(!undone.iter().any(|(step, ..)| BOTH_WAYS.contains(step)), "{undone:?}");
    assert_eq!(undone[0], (StepName::Reverse, ActKind::CreateWayBack, Verb::Undo));
    assert_eq!(undone.last(), Some(&(StepName::Connect, ActKind::CreateReplicationRole, Verb::Undo)));
}

#[test]
fn a_stream_that_cannot_be_kept_stops_neither_finish_nor_abort() {
    for (switch, way_out) in [(StepName::Cutover, Request::Finish), (StepName::Rollback, Request::Abort)] {
        for index in 7..=8 {
            let mut play = at(switch);
            let act = ActRef { step: switch, index };
            play.answer_until(act);
            play.fail_act(act, failure(Remedy::Operator, Effect::None));
            assert!(matches!(play.state.phase, Phase::Stopped { .. }), "{switch} {index}");
            play.submit(way_out.clone()).unwrap();
            play.answer_all();
            assert!(play.state.terminal(), "{switch} {index}: {:?}", play.state.phase);
        }
    }
}

#[test]
fn without_a_way_back_nothing_of_it_is_asked_for() {
    let way_back = |play: &Play| {
        play.issued.iter().any(|issued| {
            let kinds = [ActKind::CreateWayBack, ActKind::KeepStream, ActKind::FollowStream];
            issued.act.step == StepName::Reverse || kinds.contains(&issued.act.kind().unwrap())
        })
    };
    let mut play = Play::started_as(Spec { way_back: false, ..spec() });
    play.answer_all();
    play.cut_over().unwrap();
    play.answer_all();
    let refused = play
        .submit(Request::RollBack { max_outage: Duration::from_secs(1), without_poolers: false, compare_limit: None })
        .unwrap_err();
    assert_eq!(refused.reason, Reason::WayBackLost);
    play.submit(Request::Finish).unwrap();
    play.answer_all();
    assert_eq!(play.state.phase, Phase::Succeeded);
    assert!(!way_back(&play));

    // Given up with the cutover: what was made of it is left to finish.
    let mut play = Play::started();
    play.answer_all();
    play.submit(Request::CutOver { max_outage: Duration::from_secs(1), without_way_back: true, compare_limit: None })
        .unwrap();
    play.answer_all();
    assert!(!play.issued.iter().any(|issued| issued.act.kind().unwrap() == ActKind::FollowStream));
    assert_eq!(
        play.submit(Request::RollBack {
            max_outage: Duration::from_secs(1),
            without_poolers: false,
            compare_limit: None
        })
        .unwrap_err()
        .reason,
        Reason::WayBackLost
    );
}

#[test]
fn a_history_of_before_there_was_a_way_back_reads_as_it_did() {
    let mut play = Play::started_as(Spec { way_back: false, ..spec() });
    play.answer_all();
    // As those releases wrote it.
    let stored: Vec<String> = play
        .facts
        .iter()
        .map(|fact| {
            let mut value = serde_json::to_value(&fact.event).unwrap();
            if let Some(spec) = value.get_mut("spec").and_then(serde_json::Value::as_object_mut) {
                assert!(spec.remove("way_back").is_some());
            }
            value.to_string()
        })
        .collect();
    let facts: Vec<_> = play
        .facts
        .iter()
        .zip(&stored)
        .map(|(fact, text)| super::super::fact::Fact { event: serde_json::from_str(text).unwrap(), ..fact.clone() })
        .collect();
    assert_eq!(super::super::state::fold(&facts).unwrap(), play.state);
    assert!(!stored.iter().any(|text| text.contains("\"reverse\"")));
}
