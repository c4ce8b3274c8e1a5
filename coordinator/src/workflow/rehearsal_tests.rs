//! Table tests of rehearsals: what they ask for, how they end, and what they leave.

use std::time::Duration;

use pgportage_link::{Effect, Failure, Remedy};
use pgportage_proto::Reason;

use super::super::act::drain_to_marker::DrainToMarker;
use super::super::act::drain_to_marker::DrainToMarkerResult;
use super::super::act::{Outcome, PrepareCutover};
use super::super::proof::{Play, outcome, spec};
use super::super::rehearsal::{Rehearsal, RehearsalEnd, RestSource};
use super::super::state::{CutoverEnd, Phase};
use super::super::verb::Request;
use super::super::{ActKind, ActRef, Side, StepName, Verb};

const BOTH: [StepName; 2] = [StepName::Cutover, StepName::Rollback];
const TICK: Duration = Duration::from_millis(10);

fn failure(remedy: Remedy) -> Failure {
    Failure::new(Reason::BarrierTimeout, "the locks were not granted").remedy(remedy).effect(Effect::None)
}

/// Where the word for a switch is waited for.
fn before(switch: StepName) -> Play {
    let mut play = Play::started();
    play.answer_all();
    if switch == StepName::Rollback {
        play.cut_over().unwrap();
        play.answer_all();
    }
    play
}

fn rehearse(play: &mut Play, switch: StepName, round_count: u32) {
    let max_outage = Duration::from_secs(1);
    play.submit(Request::Rehearse { switch, max_outage, round_count, compare_limit: None }).unwrap();
}

/// At the first act of a rehearsal.
fn at(switch: StepName, round_count: u32) -> Play {
    let mut play = before(switch);
    rehearse(&mut play, switch, round_count);
    play
}

/// Answers everything, each answer one tick later than the one before.
fn answer_measured(play: &mut Play) {
    while play.open().next().is_some() {
        let begins = play.open().any(|issued| issued.act.begins_the_outage() && issued.verb == Verb::Perform);
        let so_far = if begins { Duration::ZERO } else { play.outage.unwrap_or_default() };
        play.outage = Some(so_far + TICK);
        play.answer(outcome);
    }
}

fn rehearsal(play: &Play) -> &Rehearsal {
    play.state.rehearsal.as_ref().unwrap()
}

#[test]
fn every_round_is_tried_as_the_switch_and_taken_back() {
    for switch in BOTH {
        let mut play = before(switch);
        let (issued, writable) = (play.issued.len(), play.state.writable);
        let last = play.state.next_cutover_epoch();
        rehearse(&mut play, switch, 3);
        answer_measured(&mut play);
        assert_eq!(play.state.phase, Phase::Held { step: switch.held_at() }, "{switch}");
        assert_eq!((play.state.writable, rehearsal(&play).epoch), (writable, last + 2));
        assert_eq!((&rehearsal(&play).end, rehearsal(&play).rounds.len()), (&Some(RehearsalEnd::Done), 3));

        let kinds = |verb| {
            let asked = play.issued[issued..].iter().filter(move |issued| issued.verb == verb);
            asked.map(|issued| issued.act.kind().unwrap()).collect::<Vec<_>>()
        };
        use ActKind as Do;
        let round = [Do::AwaitLag, Do::PrepareCutover, Do::PrepareCutover, Do::RaiseBarrier, Do::DrainToMarker];
        assert_eq!(kinds(Verb::Perform), round.repeat(3), "{switch}");
        let undone = [Do::DrainToMarker, Do::RaiseBarrier, Do::PrepareCutover, Do::PrepareCutover];
        assert_eq!(kinds(Verb::Undo).len(), 3 * undone.len());
        assert!(kinds(Verb::Undo).iter().all(|kind| undone.contains(kind)));

        let prepared = play.issued[issued..].iter().filter_map(|issued| {
            let PrepareCutover { cutover_epoch, rollback, rehearsal, .. } = *issued.input.read()?;
            (issued.verb == Verb::Perform).then_some((cutover_epoch, rollback, rehearsal))
        });
        let back = switch == StepName::Rollback;
        let expected: Vec<_> = (last..last + 3).flat_map(|epoch| [(epoch, back, true); 2]).collect();
        assert_eq!(prepared.collect::<Vec<_>>(), expected, "{switch}");

        // The real one follows, with a number of its own.
        let request = Request::Release { step: switch, max_outage: Duration::from_secs(1) };
        play.submit(request).unwrap();
        assert_eq!(play.state.cutover.as_ref().unwrap().epoch, last + 3);
        let real = play.open().all(|it| it.input.read().is_some_and(|given: &PrepareCutover| !given.rehearsal));
        assert!(real, "{switch}");
        play.answer_all();
        assert_eq!(play.state.writable, writable.other(), "{switch}");
    }
}

#[test]
fn what_is_measured_is_what_writers_waited() {
    let mut play = at(StepName::Cutover, 2);
    answer_measured(&mut play);
    let found = rehearsal(&play).findings(play.state.rest_of_switch).unwrap();
    // The barrier's answer, the drain's, and the release's behind that of the drain.
    assert_eq!((found.barrier.worst, found.drain.worst, found.release.worst), (TICK, TICK, 2 * TICK));
    assert_eq!((found.pause.worst, found.rest_source), (4 * TICK, RestSource::Estimate));

    // A switch says how long the rest takes, and the next rehearsal believes it.
    play.cut_over().unwrap();
    answer_measured(&mut play);
    assert!(matches!(play.state.cutover.as_ref().unwrap().end, Some(CutoverEnd::Opened { .. })));
    assert_eq!(play.state.rest_of_switch, Some(2 * TICK));
    rehearse(&mut play, StepName::Rollback, 1);
    answer_measured(&mut play);
    let found = rehearsal(&play).findings(play.state.rest_of_switch).unwrap();
    assert_eq!((found.rest, found.rest_source, found.prediction.worst), (2 * TICK, RestSource::Switch, 4 * TICK));
    // What is known of the switch itself is as it was.
    assert!(play.state.released() && play.state.switch() == StepName::Cutover);
}

#[test]
fn a_round_compares_what_is_written_where_that_is_asked_for() {
    let (max_outage, limit) = (Duration::from_secs(1), Duration::from_millis(200));
    let request =
        |compare_limit| Request::Rehearse { switch: StepName::Cutover, max_outage, round_count: 2, compare_limit };
    for beyond in [Duration::ZERO, max_outage + TICK] {
        let refused = before(StepName::Cutover).submit(request(Some(beyond))).unwrap_err();
        assert_eq!(refused.reason, Reason::RequestInvalid);
    }
    for compare_limit in [None, Some(limit)] {
        let mut play = before(StepName::Cutover);
        let issued = play.issued.len();
        play.submit(request(compare_limit)).unwrap();
        answer_measured(&mut play);
        let asked = play.issued[issued..].iter().filter(|issued| issued.verb == Verb::Perform);
        let compares = asked.filter(|issued| {
            issued.input.read().is_some_and(|given: &PrepareCutover| given.compare_written)
                || issued.input.read().is_some_and(|given: &DrainToMarker| given.compare_limit == Some(limit))
        });
        assert_eq!(compares.count(), if compare_limit.is_some() { 6 } else { 0 });
        let found = rehearsal(&play).findings(None).unwrap();
        assert_eq!(found.compare.is_some(), compare_limit.is_some());
    }
    // An agent of an older release compares nothing, and no round says otherwise.
    let mut play = before(StepName::Cutover);
    play.submit(request(Some(limit))).unwrap();
    play.answer_until(ActRef::drain(StepName::CutoverRehearsal));
    play.answer(|_, _| {
        Outcome::of::<DrainToMarker>(DrainToMarkerResult {
            drain_time: TICK,
            sequence_count: 0,
            flush_lsn: "0/1".to_owned(),
            compared: None,
        })
    });
    play.answer_all();
    let Some(RehearsalEnd::GivenUp { cause }) = &rehearsal(&play).end else { panic!("{:?}", rehearsal(&play).end) };
    assert_eq!(cause.reason, Reason::CouldNotCheck);
}

#[test]
fn a_round_that_does_not_succeed_is_taken_back_and_the_last_one() {
    for switch in BOTH {
        let step = switch.rehearsal().unwrap();
        for remedy in [Remedy::Wait, Remedy::Operator, Remedy::Abort] {
            for index in 0..step.row().acts.len() {
                let mut play = at(switch, 5);
                let writable = play.state.writable;
                play.answer_until(ActRef { step, index });
                play.fail_act(ActRef { step, index }, failure(remedy));
                // Nothing is to be taken back of waiting for the lag.
                let taken_back = matches!(play.state.phase, Phase::TakingBack { cause: Some(_), .. });
                assert_eq!(taken_back, index > 0, "{step} {index}");
                play.answer_all();
                assert_eq!(play.state.phase, Phase::Held { step: switch.held_at() }, "{step} {index}");
                assert_eq!(play.state.writable, writable);
                let Some(RehearsalEnd::GivenUp { cause }) = &rehearsal(&play).end else { panic!("{step} {index}") };
                assert_eq!(cause.reason, Reason::BarrierTimeout);
                assert!(!rehearsal(&play).fits(None));
            }
        }
    }
}

#[test]
fn the_budget_ends_a_round() {
    let step = StepName::CutoverRehearsal;
    for index in 0..step.row().acts.len() {
        let mut play = at(StepName::Cutover, 5);
        play.answer_until(ActRef { step, index });
        play.outage_left = Duration::ZERO;
        play.advance();
        let given_up = matches!(play.state.phase, Phase::TakingBack { .. });
        assert_eq!(given_up, index >= ActRef::raise(step).index, "{index}");
    }
}

/// As after a restart of the coordinator: nobody knows when the barrier was asked for.
#[test]
fn a_round_without_its_time_is_made_again() {
    let mut play = at(StepName::Cutover, 1);
    let step = StepName::CutoverRehearsal;
    play.answer_until(ActRef::raise(step));
    play.outage = None;
    while rehearsal(&play).epoch == 1 {
        play.answer(outcome);
    }
    assert_eq!(play.state.phase, Phase::Running { step });
    assert_eq!((rehearsal(&play).rounds.len(), &rehearsal(&play).end), (0, &None));
    answer_measured(&mut play);
    assert_eq!(play.state.phase, Phase::Held { step: StepName::Cutover });
    assert_eq!((rehearsal(&play).rounds.len(), rehearsal(&play).epoch), (1, 2));
}

#[test]
fn a_migration_is_aborted_in_the_middle_of_a_round() {
    let step = StepName::CutoverRehearsal;
    for index in 0..step.row().acts.len() {
        let mut play = at(StepName::Cutover, 5);
        play.answer_until(ActRef { step, index });
        play.submit(Request::Abort).unwrap();
        play.answer_all();
        assert_eq!(play.state.phase, Phase::Aborted, "{index}");
        assert!(matches!(rehearsal(&play).end, Some(RehearsalEnd::GivenUp { .. })), "{index}");
    }
    let mut play = at(StepName::Rollback, 1);
    assert_eq!(play.submit(Request::Abort).unwrap_err().reason, Reason::DestinationOpened);
}

#[test]
fn an_undo_that_failed_goes_on_at_a_word() {
    let step = StepName::CutoverRehearsal;
    let mut play = at(StepName::Cutover, 1);
    play.answer_until(ActRef::drain(step));
    play.outage = Some(TICK);
    play.answer(outcome);
    play.fail_act(ActRef::raise(step), failure(Remedy::Operator));
    assert!(matches!(play.state.phase, Phase::TakingBack { stop: Some(_), cause: None, .. }));
    play.submit(Request::Release { step, max_outage: Duration::from_secs(1) }).unwrap();
    answer_measured(&mut play);
    assert_eq!(play.state.phase, Phase::Held { step: StepName::Cutover });
}

#[test]
fn only_what_is_waited_for_is_rehearsed() {
    let say = |play: &mut Play, switch, max_outage, round_count| {
        play.submit(Request::Rehearse { switch, max_outage, round_count, compare_limit: None }).unwrap_err().reason
    };
    let second = Duration::from_secs(1);
    assert_eq!(say(&mut Play::started(), StepName::Cutover, second, 1), Reason::WrongState);
    assert_eq!(say(&mut before(StepName::Cutover), StepName::Rollback, second, 1), Reason::WrongState);
    assert_eq!(say(&mut before(StepName::Rollback), StepName::Cutover, second, 1), Reason::WrongState);
    assert_eq!(say(&mut before(StepName::Cutover), StepName::Finish, second, 1), Reason::WrongState);
    for (max_outage, round_count) in [(Duration::ZERO, 1), (second, 0), (second, 51)] {
        let refused = say(&mut before(StepName::Cutover), StepName::Cutover, max_outage, round_count);
        assert_eq!(refused, Reason::RequestInvalid);
    }
    let mut play = Play::started_as(super::super::spec::Spec { way_back: false, ..spec() });
    play.answer_all();
    rehearse(&mut play, StepName::Cutover, 1);
    answer_measured(&mut play);
    play.cut_over().unwrap();
    play.answer_all();
    assert_eq!(say(&mut play, StepName::Rollback, second, 1), Reason::WayBackLost);
    assert_eq!(play.state.writable, Side::Destination);
}
