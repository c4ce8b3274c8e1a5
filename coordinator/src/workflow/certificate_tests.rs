//! Table tests of certificates: both agents are asked as soon as the barrier of a
//! switch is gone, and whatever becomes of that, the migration goes on.

use std::time::Duration;

use pgportage_link::{Effect, Failure, Remedy};
use pgportage_proto::Reason;

use super::super::act::{CertifySwitch, Outcome, SignedStatement};
use super::super::fact::{Event, TraceContext};
use super::super::proof::{Play, outcome};
use super::super::state::{Phase, fold};
use super::super::verb::Request;
use super::super::{ActKind, ActRef, Side, StepName, Verb};

const BOTH_WAYS: [StepName; 2] = [StepName::Cutover, StepName::Rollback];

fn failure(remedy: Remedy) -> Failure {
    Failure::new(Reason::ServerError, "it did not work").remedy(remedy).effect(Effect::None)
}

fn at(switch: StepName) -> Play {
    if switch == StepName::Rollback { Play::at_rollback() } else { Play::at_cutover() }
}

fn certify(switch: StepName, side: Side) -> ActRef {
    ActRef::find(switch, side, ActKind::CertifySwitch).unwrap()
}

/// Where a migration waits after a switch that went well.
fn held_after(switch: StepName) -> Phase {
    Phase::Held { step: if switch == StepName::Rollback { StepName::Cutover } else { StepName::Finish } }
}

fn stated(play: &Play, epoch: i64) -> Vec<(Side, bool)> {
    play.state.certificates[&epoch].statements.iter().map(|(side, stated)| (*side, stated.is_ok())).collect()
}

#[test]
fn both_agents_are_asked_once_the_barrier_is_gone_and_not_before() {
    for switch in BOTH_WAYS {
        let mut play = at(switch);
        play.answer_until(ActRef::release(switch));
        let asked = |play: &Play| {
            let of_it = play.issued.iter().filter(|issued| issued.act.step == switch);
            of_it.filter(|issued| issued.act.kind().unwrap() == ActKind::CertifySwitch).count()
        };
        assert_eq!(asked(&play), 0);
        play.answer(outcome);
        let open: Vec<_> = play.open().map(|issued| issued.act.kind().unwrap()).collect();
        let certify = ActKind::CertifySwitch;
        assert_eq!(open, [ActKind::KeepStream, certify, certify], "{switch}: beside the way back");
        play.answer_all();
        assert_eq!((asked(&play), &play.state.phase), (2, &held_after(switch)));
    }
}

#[test]
fn what_agents_state_is_kept_as_it_came() {
    let mut play = Play::at_cutover();
    let signed = |side: Side| SignedStatement { statement: side.as_str().to_owned(), ..SignedStatement::default() };
    while play.open().next().is_some() {
        play.answer(|act, input| match act.row().unwrap() {
            row if row.act.kind == ActKind::CertifySwitch => Outcome::of::<CertifySwitch>(signed(row.side)),
            _other => outcome(act, input),
        });
    }
    play.submit(Request::Finish).unwrap();
    play.answer_all();
    assert_eq!(play.state.phase, Phase::Succeeded);
    let kept = fold(&play.facts).unwrap().certificates;
    for side in [Side::Source, Side::Destination] {
        assert_eq!(**kept[&1].statements[&side].as_ref().unwrap(), signed(side), "after finish, and a restart");
    }
}

#[test]
fn a_statement_that_does_not_come_holds_nothing_up() {
    for switch in BOTH_WAYS {
        for side in [Side::Source, Side::Destination] {
            for remedy in [Remedy::Operator, Remedy::Abort] {
                let mut play = at(switch);
                play.answer_until(certify(switch, side));
                play.fail_act(certify(switch, side), failure(remedy));
                assert_eq!(play.state.phase, Phase::Running { step: switch });
                play.answer_all();
                assert_eq!(play.state.phase, held_after(switch), "{switch} {side:?}");
                let epoch = play.state.cutover.as_ref().unwrap().epoch;
                assert_eq!(
                    stated(&play, epoch),
                    [(Side::Source, side != Side::Source), (Side::Destination, side == Side::Source)]
                );
            }
        }
    }
}

#[test]
fn a_statement_is_not_waited_for_for_ever() {
    let mut play = Play::at_cutover();
    let act = certify(StepName::Cutover, Side::Source);
    play.answer_until(act);
    let mut attempts = 0;
    while play.open().any(|issued| issued.act == act) {
        play.fail_act(act, failure(Remedy::Wait));
        attempts += 1;
        assert!(attempts < 20);
    }
    play.answer_all();
    assert_eq!((attempts, &play.state.phase), (8, &held_after(StepName::Cutover)));
    // One that comes in the end replaces what was told before.
    let mut play = Play::at_cutover();
    play.answer_until(act);
    play.fail_act(act, failure(Remedy::Wait));
    play.answer_all();
    assert_eq!(stated(&play, 1), [(Side::Source, true), (Side::Destination, true)]);
}

#[test]
fn a_way_back_that_fails_does_not_cost_the_certificate() {
    for (switch, way_out) in [(StepName::Cutover, Request::Finish), (StepName::Rollback, Request::Abort)] {
        let mut play = at(switch);
        play.answer_until(ActRef { step: switch, index: 7 });
        play.fail_act(ActRef { step: switch, index: 7 }, failure(Remedy::Operator));
        assert!(matches!(play.state.phase, Phase::Stopped { .. }));
        play.answer_all();
        let epoch = play.state.cutover.as_ref().unwrap().epoch;
        assert_eq!(stated(&play, epoch), [(Side::Source, true), (Side::Destination, true)]);
        play.submit(way_out).unwrap();
        play.answer_all();
        assert!(play.state.terminal(), "{:?}", play.state.phase);
    }
}

#[test]
fn a_switch_that_is_taken_back_has_no_certificate() {
    let mut play = Play::at_cutover();
    play.answer_until(ActRef::fence(StepName::Cutover));
    play.fail(failure(Remedy::Operator));
    play.answer_all();
    assert_eq!(play.state.phase, Phase::Held { step: StepName::Cutover });
    assert!(play.state.certificates.is_empty());
    play.cut_over().unwrap();
    play.answer_all();
    assert_eq!(play.state.certificates.keys().collect::<Vec<_>>(), [&2]);
}

/// As an older release wrote it: nobody was asked, and the history reads as it did.
#[test]
fn a_history_of_before_there_were_certificates_reads_as_it_did() {
    let mut play = Play::started();
    play.answer_all();
    let max_outage = Duration::from_secs(1);
    play.record(Event::CutoverRequested {
        cutover_epoch: 1,
        max_outage,
        without_way_back: false,
        compare_limit: None,
        certified: false,
        trace: TraceContext::new(),
    });
    play.advance();
    play.answer_all();
    assert_eq!(play.state.phase, held_after(StepName::Cutover));
    assert!(!play.issued.iter().any(|issued| issued.act.kind().unwrap() == ActKind::CertifySwitch));
    assert!(play.state.certificates.is_empty());
    let facts: Vec<_> = play
        .facts
        .iter()
        .map(|fact| {
            let mut value = serde_json::to_value(&fact.event).unwrap();
            value.as_object_mut().unwrap().remove("certified");
            super::super::fact::Fact { event: serde_json::from_value(value).unwrap(), ..fact.clone() }
        })
        .collect();
    assert_eq!(fold(&facts).unwrap(), play.state);
    // The next switch of the same migration has one.
    play.submit(Request::RollBack { max_outage, without_poolers: false, compare_limit: None }).unwrap();
    play.answer_all();
    assert_eq!(stated(&play, 2), [(Side::Source, true), (Side::Destination, true)]);
    assert!(play.issued.iter().all(|issued| issued.verb == Verb::Perform));
}
