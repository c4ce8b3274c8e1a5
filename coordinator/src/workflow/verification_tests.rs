//! Table tests of verifications behind a cutover, and in a switch.

use std::time::Duration;

use pgportage_link::{Effect, Failure, Remedy};
use pgportage_proto::Reason;

use super::super::act::await_copy::AwaitCopy;
use super::super::act::count_rows::CountRows;
use super::super::act::drain_to_marker::DrainToMarker;
use super::super::act::sequence::SequenceState;
use super::super::act::{Outcome, PrepareCutover, RelationName, RowCounts, SequencePlace};
use super::super::depth::Look;
use super::super::fact::Issued;
use super::super::proof::{Play, spec};
use super::super::spec::Spec;
use super::super::state::{ActState, CutoverEnd, Phase};
use super::super::verb::Request;
use super::super::{ActKind, ActRef, Side, StepName, Verb};
use super::*;

const ROWS: Look = Look { rows: true, time_limit: None, resume: false, repair: false };
const BUDGET: Duration = Duration::from_secs(1);

/// Cut over, and nothing is under way.
fn behind_the_cutover() -> Play {
    let mut play = Play::at_cutover();
    play.answer_all();
    play
}

fn compares() -> ActRef {
    ActRef::find(StepName::VerifyBack, Side::Source, ActKind::CompareRows).unwrap()
}

#[test]
fn the_source_compares_what_it_follows() {
    let mut play = behind_the_cutover();
    let before = play.issued.len();
    play.submit(Request::Verify(ROWS)).unwrap();
    play.answer_all();
    assert_eq!(play.state.phase, Phase::Held { step: StepName::Finish });
    let asked: Vec<_> =
        play.issued[before..].iter().map(|it| (it.act.kind().unwrap(), it.act.row().unwrap().side)).collect();
    assert_eq!(
        asked,
        [
            (ActKind::AwaitLag, Side::Destination),
            (ActKind::CountRows, Side::Source),
            (ActKind::CountRows, Side::Destination),
            (ActKind::CompareRows, Side::Source),
        ]
    );
    let with_sequences = |it: &&Issued| it.input.read().is_some_and(|given: &CountRows| given.sequences);
    assert_eq!(play.issued.iter().filter(with_sequences).count(), 2, "and none before the cutover");
    assert_eq!(play.state.verification.as_ref().unwrap().found.publisher, Side::Destination);
    // As often as one likes, and the way back is as it was.
    play.submit(Request::Verify(Look::default())).unwrap();
    play.answer_all();
    play.submit(Request::RollBack { max_outage: BUDGET, without_poolers: false, compare_limit: None }).unwrap();
    play.answer_all();
    assert_eq!(play.state.phase, Phase::Held { step: StepName::Cutover });
    play.submit(Request::Verify(Look::default())).unwrap();
    assert_eq!(play.open().next().unwrap().act.step, StepName::Verify);
}

#[test]
fn a_sequence_that_is_behind_is_told_and_takes_no_word_away() {
    for request in [
        Request::Finish,
        Request::RollBack { max_outage: BUDGET, without_poolers: false, compare_limit: None },
        Request::Verify(Look::default()),
    ] {
        let mut play = behind_the_cutover();
        play.submit(Request::Verify(Look::default())).unwrap();
        while play.open().next().is_some() {
            play.answer(|act, input| {
                if act.kind() != Some(ActKind::CountRows) {
                    return super::super::proof::outcome(act, input);
                }
                let last_value = if act.row().unwrap().side == Side::Source { 20 } else { 3 };
                let sequence = RelationName { schema: "public".to_owned(), relation: "ids".to_owned() };
                let state = SequenceState { sequence, last_value, called: true };
                let sequences = vec![SequencePlace { state, descending: false }];
                Outcome::of::<CountRows>(RowCounts { sequences, ..RowCounts::default() })
            });
        }
        let Phase::Stopped { step: StepName::VerifyBack, failure } = &play.state.phase else {
            panic!("{:?}", play.state.phase)
        };
        assert_eq!(failure.reason, Reason::SequencesBehind);
        play.submit(request).unwrap();
        play.answer_all();
        let over = [Phase::Succeeded, Phase::Held { step: StepName::Cutover }, Phase::Held { step: StepName::Finish }];
        assert!(over.contains(&play.state.phase), "{:?}", play.state.phase);
    }
}

#[test]
fn a_word_overtakes_a_verification_once_that_has_stopped() {
    for request in
        [Request::Finish, Request::RollBack { max_outage: BUDGET, without_poolers: false, compare_limit: None }]
    {
        let mut play = behind_the_cutover();
        play.submit(Request::Verify(ROWS)).unwrap();
        play.answer_until(compares());
        let running = play.open().next().unwrap().command;
        let before = play.issued.len();
        play.submit(request.clone()).unwrap();
        assert_eq!((play.cancelled.as_slice(), play.issued.len()), ([running].as_slice(), before), "{request:?}");
        play.fail_act(compares(), Failure::new(Reason::Cancelled, "stopped").remedy(Remedy::Wait).effect(Effect::None));
        assert_eq!(play.state.act(compares()).state, ActState::Idle, "nobody tries it again");
        assert!(play.issued.len() > before);
        play.answer_all();
        let step = if request == Request::Finish { None } else { Some(StepName::Cutover) };
        assert_eq!(play.state.phase, step.map_or(Phase::Succeeded, |step| Phase::Held { step }));
        assert!(play.issued.iter().all(|it| it.verb == Verb::Perform));
    }
}

#[test]
fn one_that_was_done_before_it_could_be_stopped_changes_nothing() {
    let mut play = behind_the_cutover();
    play.submit(Request::Verify(ROWS)).unwrap();
    play.answer_until(compares());
    play.submit(Request::RollBack { max_outage: BUDGET, without_poolers: false, compare_limit: None }).unwrap();
    play.answer_all();
    assert_eq!(play.state.phase, Phase::Held { step: StepName::Cutover });
}

#[test]
fn where_nothing_flows_back_there_is_nothing_to_compare() {
    let mut play = Play::started_as(Spec { way_back: false, ..spec() });
    play.answer_all();
    play.cut_over().unwrap();
    play.answer_all();
    assert_eq!(play.submit(Request::Verify(ROWS)).unwrap_err().reason, Reason::WayBackLost);
    assert_eq!(play.state.phase, Phase::Held { step: StepName::Finish });
}

#[test]
fn a_switch_that_was_to_compare_and_did_not_is_given_up() {
    let asked = |compare_limit| Request::CutOver { max_outage: BUDGET, without_way_back: false, compare_limit };
    let mut play = Play::started();
    play.answer_all();
    for wrong in [Duration::ZERO, BUDGET * 2] {
        assert_eq!(play.submit(asked(Some(wrong))).unwrap_err().reason, Reason::RequestInvalid);
    }
    play.submit(asked(Some(BUDGET / 2))).unwrap();
    play.answer_until(ActRef::drain(StepName::Cutover));
    let compares = |it: &&Issued| {
        let prepares = it.input.read().is_some_and(|given: &PrepareCutover| given.compare_written);
        prepares || it.input.read().is_some_and(|given: &DrainToMarker| given.compare_limit.is_some())
    };
    assert_eq!(play.issued.iter().filter(compares).count(), 3, "both sides prepare for it");
    // An agent of a release that does not know how.
    let nothing = Input::of(AwaitCopy);
    play.answer(|act, _| super::super::proof::outcome(act, &nothing));
    play.answer_all();
    assert_eq!(play.state.phase, Phase::Held { step: StepName::Cutover });
    let Some(CutoverEnd::TakenBack { cause }) = &play.state.cutover.as_ref().unwrap().end else { panic!() };
    assert_eq!(cause.reason, Reason::CouldNotCheck);
    // One that does, and one that nobody asks.
    for limit in [Some(BUDGET), None] {
        let mut play = Play::started();
        play.answer_all();
        play.submit(asked(limit)).unwrap();
        play.answer_all();
        assert_eq!(play.state.phase, Phase::Held { step: StepName::Finish });
        assert_eq!(play.state.cutover.as_ref().unwrap().compared.is_some(), limit.is_some());
    }
}
