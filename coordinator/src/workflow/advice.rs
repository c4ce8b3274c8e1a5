//! What an operator is told to do: what a migration waits for, and what to type next.
//! Which verbs are allowed where says [`verb`](super::verb).

use pgportage_link::{Failure, Remedy};
use pgportage_proto::Reason;

use super::StepName;
use super::rehearsal::RehearsalEnd;
use super::state::{CutoverEnd, Phase, State};

/// Whether a step is one of this migration: what it leaves out is not shown, a
/// rollback only when one was asked for, and a rehearsal while it goes on.
pub(crate) fn is_shown(state: &State, name: StepName) -> bool {
    match name {
        StepName::Reverse => state.way_back || state.step(name).start_time.is_some(),
        StepName::Rollback => state.switch() == StepName::Rollback,
        StepName::CutoverRehearsal | StepName::RollbackRehearsal => state.phase.under_way() == Some(name),
        StepName::VerifyBack => state.phase.step() == Some(name),
        StepName::Inspect
        | StepName::Connect
        | StepName::Identity
        | StepName::Publication
        | StepName::Close
        | StepName::Schema
        | StepName::Copy
        | StepName::Subscribe
        | StepName::CatchUp
        | StepName::Verify
        | StepName::Cutover
        | StepName::Finish => true,
    }
}

/// What a migration waits for, as the end of the sentence "it waits for …". Empty if
/// it works. `absent` are agents that have work of it and are not attached, `held_by`
/// is the drift that keeps the next switch from beginning.
pub(crate) fn waiting_for(state: &State, absent: &[&str], held_by: Option<&Failure>) -> String {
    let gone = match absent {
        [] => None,
        [agent] => Some(format!("agent {agent} to come back")),
        agents => Some(format!("agents {} to come back", agents.join(" and "))),
    };
    match &state.phase {
        Phase::Pending => "the operator's word to start".to_owned(),
        Phase::Held { step: StepName::Cutover } if let Some(drift) = held_by => {
            format!("the schemas of both sides to be level: {drift}")
        }
        Phase::Held { step } if held_by.is_none() && given_up(state, *step).is_some() => {
            let cause = given_up(state, *step).map(ToString::to_string).unwrap_or_default();
            let word = if *step == StepName::Finish { "to finish or to roll back" } else { "for the cutover" };
            format!("the operator's word {word}; the last rehearsal was given up: {cause}")
        }
        Phase::Held { step: StepName::Cutover } => match state.switch_end() {
            Some(CutoverEnd::TakenBack { cause }) => {
                format!("the operator's word for the next cutover; the last one was taken back: {cause}")
            }
            Some(CutoverEnd::Opened { .. }) => "the operator's word for the next cutover".to_owned(),
            None => "the operator's word for the cutover".to_owned(),
        },
        Phase::Held { step: StepName::Finish } if let Some(drift) = held_by => {
            format!(
                "the operator's word to finish; a rollback waits for the schemas of both sides to be level: {drift}"
            )
        }
        Phase::Held { step: StepName::Finish } if state.way_back => match state.switch_end() {
            Some(CutoverEnd::TakenBack { cause }) => {
                format!("the operator's word to finish or to roll back; the last rollback was taken back: {cause}")
            }
            Some(CutoverEnd::Opened { .. }) | None => "the operator's word to finish or to roll back".to_owned(),
        },
        Phase::Held { step } => format!("the operator's word before step {step}"),
        Phase::Stopped { failure, .. } => format!("the operator: {failure}"),
        Phase::TakingBack { stop: Some(failure), .. } | Phase::Aborting { stop: Some(failure) } => {
            format!("the operator, to take back what is left: {failure}")
        }
        Phase::Running { .. } if state.in_doubt() => match gone {
            Some(gone) if state.switch() == StepName::Rollback => {
                format!("{gone}: whether the source has opened is not known")
            }
            Some(gone) => format!("{gone}: whether the destination has opened is not known"),
            None => String::new(),
        },
        Phase::Running { .. } | Phase::TakingBack { stop: None, .. } | Phase::Aborting { stop: None } => gone
            .unwrap_or_else(|| {
                retrying(state).map(|failure| format!("another attempt: {failure}")).unwrap_or_default()
            }),
        Phase::Aborted | Phase::Succeeded => String::new(),
    }
}

/// Why the last rehearsal of what is waited for at this step was given up, unless the
/// switch was tried since.
pub(crate) fn given_up(state: &State, held: StepName) -> Option<&Failure> {
    let tried = state.cutover.as_ref().map_or(0, |cutover| cutover.epoch);
    let rehearsal = state.rehearsal.as_ref().filter(|last| last.step.held_at() == held && last.epoch > tried)?;
    match &rehearsal.end {
        Some(RehearsalEnd::GivenUp { cause }) => Some(cause),
        Some(RehearsalEnd::Done) | None => None,
    }
}

/// The failure of an act that will be tried again by itself.
fn retrying(state: &State) -> Option<&Failure> {
    let acts = state.acts().filter(|(act, _)| !state.over(*act));
    acts.filter_map(|(_, act)| act.failure()).find(|failure| failure.remedy == Remedy::Wait)
}

/// What an operator may type next, the likeliest first, without the migration's name.
/// `held`: a drift keeps the next switch from beginning.
pub(crate) fn next_verbs(state: &State, held: bool) -> Vec<&'static str> {
    match &state.phase {
        Phase::Pending => vec!["start", "plan", "abort"],
        Phase::Running { step: StepName::VerifyBack } if !held => vec!["status", "finish", "rollback"],
        Phase::Running { step: StepName::VerifyBack } => vec!["status", "finish"],
        Phase::Running { .. } | Phase::TakingBack { stop: None, .. } => {
            if state.past_return() || state.rolling_back() {
                vec!["status"]
            } else {
                vec!["status", "abort"]
            }
        }
        Phase::Held { step: StepName::Finish } if state.way_back && !held => vec!["finish", "rollback", "verify"],
        Phase::Held { step: StepName::Finish } if state.way_back => vec!["finish", "verify"],
        Phase::Held { step: StepName::Finish } => vec!["finish"],
        Phase::Held { .. } if held => vec!["explain", "verify", "abort"],
        Phase::Held { .. } => vec!["cutover", "cutover --rehearse", "verify", "abort"],
        Phase::Stopped { step, failure } => {
            let mut verbs = Vec::new();
            if failure.reason == Reason::ConsentRequired {
                verbs.push("consent");
            }
            if step.is_verification() {
                verbs.push("verify");
            } else if !state.only_abort_helps(failure) {
                verbs.push("retry");
            }
            if state.may_finish() {
                verbs.push("finish");
            }
            if state.awaits_last_word() && !held {
                verbs.push("rollback");
            }
            if !state.past_return() && !state.rolling_back() {
                verbs.push("abort");
            }
            verbs
        }
        Phase::TakingBack { stop: Some(_), .. } if state.past_return() => vec!["retry"],
        Phase::TakingBack { stop: Some(_), .. } => vec!["retry", "abort"],
        Phase::Aborting { stop: Some(_) } => vec!["retry"],
        Phase::Aborting { stop: None } => vec!["status"],
        Phase::Aborted | Phase::Succeeded => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::ActRef;
    use super::super::act::{CheckServer, CheckServerResult, Outcome};
    use super::super::proof::{Play, consent_finding};
    use super::super::verb::{Request, apply};
    use super::*;

    #[test]
    fn a_migration_says_what_it_waits_for_and_what_to_type() {
        let mut play = Play::created(super::super::proof::spec());
        assert_eq!(waiting_for(&play.state, &[], None), "the operator's word to start");
        assert_eq!(next_verbs(&play.state, false), ["start", "plan", "abort"]);
        play.submit(Request::Start).unwrap();
        assert_eq!(waiting_for(&play.state, &[], None), "");
        assert_eq!(waiting_for(&play.state, &["old"], None), "agent old to come back");
        assert_eq!(next_verbs(&play.state, false), ["status", "abort"]);
        play.answer_all();
        assert_eq!(waiting_for(&play.state, &[], None), "the operator's word for the cutover");
        assert_eq!(next_verbs(&play.state, false)[0], "cutover");
        assert_eq!(next_verbs(&play.state, true), ["explain", "verify", "abort"], "drift holds the cutover");
        play.cut_over().unwrap();
        play.answer_all();
        assert_eq!(waiting_for(&play.state, &[], None), "the operator's word to finish or to roll back");
        assert_eq!(next_verbs(&play.state, true), ["finish", "verify"], "drift holds the rollback");
        play.submit(Request::Finish).unwrap();
        play.answer_all();
        assert_eq!((waiting_for(&play.state, &[], None).as_str(), next_verbs(&play.state, false).len()), ("", 0));
    }

    #[test]
    fn the_cause_is_said_where_the_next_try_is_waited_for() {
        let mut play = Play::at_cutover();
        play.fail(Failure::new(Reason::BarrierTimeout, "a lock was not granted"));
        play.answer_all();
        let waits = waiting_for(&play.state, &[], None);
        assert_eq!(
            waits,
            "the operator's word for the next cutover; the last one was taken back: a lock was not granted"
        );
    }

    #[test]
    fn a_decision_in_doubt_waits_for_the_agent_that_knows() {
        let mut play = Play::at_cutover();
        play.answer_until(ActRef::open(StepName::Cutover));
        let waits = waiting_for(&play.state, &["new"], None);
        assert_eq!(waits, "agent new to come back: whether the destination has opened is not known");
        assert_eq!(next_verbs(&play.state, false), ["status"]);
    }

    #[test]
    fn consent_is_advised_where_it_is_missing() {
        let mut play = Play::started();
        for _side in 0..2 {
            play.answer(|_, _| {
                let (inventory, findings) = Default::default();
                let mut read = CheckServerResult { inventory, findings };
                read.findings.push(consent_finding());
                Outcome::of::<CheckServer>(read)
            });
        }
        assert_eq!(next_verbs(&play.state, false), ["consent", "retry", "abort"]);
    }

    /// Whatever is advised would be accepted.
    #[test]
    fn advice_is_allowed() {
        let max_outage = Duration::from_secs(1);
        for play in [Play::created(super::super::proof::spec()), Play::started(), held(Play::started())] {
            for verb in next_verbs(&play.state, false) {
                let request = match verb {
                    "start" => Request::Start,
                    "abort" => Request::Abort,
                    "cutover" => Request::CutOver { max_outage, without_way_back: false, compare_limit: None },
                    "verify" => Request::Verify(super::super::depth::Look::default()),
                    _shows_only => continue,
                };
                apply(&play.state, request, super::super::fact::TraceContext::new()).unwrap();
            }
        }
    }

    fn held(mut play: Play) -> Play {
        play.answer_all();
        play
    }
}
