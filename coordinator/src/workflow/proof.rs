//! Histories for tests: a player that answers commands, and properties that
//! hold for every history.

mod answer;

use std::time::{Duration, SystemTime};

use pgportage_link::{Effect, Failure, Remedy};
use pgportage_proto::Reason;
use proptest::prelude::*;
use uuid::Uuid;

use super::act::{Digest, Input, Outcome, PrepareCutover};
use super::depth::Look;
use super::fact::{CommandId, Event, Fact, Issued, Origin, TraceContext};
use super::finding::{Finding, Severity};
use super::plan::{Action, Situation, plan};
use super::spec::{ConnectionPath, CopyMethod, MigrationId, Spec};
use super::state::{Phase, State, fold, next};
use super::verb::{Request, apply};
use super::{ActKind, ActRef, Side, StepName, Verb};

pub(crate) use answer::outcome;

/// A migration being played: the coordinator's part by the planner, the
/// agents' part by the test.
pub(crate) struct Play {
    pub(crate) state: State,
    pub(crate) facts: Vec<Fact>,
    pub(crate) issued: Vec<Issued>,
    pub(crate) cancelled: Vec<CommandId>,
    pub(crate) outage_left: Duration,
    pub(crate) last_pause: Duration,
    /// How long writers have waited, as the coordinator would say it.
    pub(crate) outage: Option<Duration>,
}

fn fact(sequence: i64, event: Event) -> Fact {
    Fact {
        sequence,
        origin: Origin {
            actor: "spiffe://test/pgportage/operator/ada".to_owned(),
            certificate_serial: "01".to_owned(),
            request_id: "r".to_owned(),
        },
        time: SystemTime::UNIX_EPOCH + Duration::from_secs(sequence.unsigned_abs()),
        plan_digest: Digest(vec![7]),
        event,
    }
}

pub(crate) fn spec() -> Spec {
    Spec {
        source_agent: "old".to_owned(),
        destination_agent: "new".to_owned(),
        database: "shop".to_owned(),
        consents: Vec::new(),
        connection_path: ConnectionPath::Tunnel,
        max_lag: Spec::DEFAULT_MAX_LAG,
        copy_method: CopyMethod::Snapshot,
        max_rate: None,
        way_back: true,
    }
}

pub(crate) fn consent_finding() -> Finding {
    Finding {
        code: "REPLICA_IDENTITY_MISSING".to_owned(),
        severity: Severity::Consent,
        object: "public.log".to_owned(),
        message: "has no replica identity".to_owned(),
        evidence: "d".to_owned(),
        evidence_digest: Digest(vec![1]),
        remedy: String::new(),
        needs_restart: false,
    }
}

impl Play {
    pub(crate) fn created(spec: Spec) -> Self {
        let created = fact(1, Event::Created { id: MigrationId::new("shop").unwrap(), spec });
        Self {
            state: next(None, &created).unwrap(),
            facts: vec![created],
            issued: Vec::new(),
            cancelled: Vec::new(),
            outage_left: Duration::from_secs(1),
            last_pause: Duration::ZERO,
            outage: Some(Duration::from_millis(7)),
        }
    }

    pub(crate) fn started() -> Self {
        Self::started_as(spec())
    }

    pub(crate) fn started_as(spec: Spec) -> Self {
        let mut play = Self::created(spec);
        play.submit(Request::Start).unwrap();
        play
    }

    /// At the cutover, both sides asked to prepare.
    pub(crate) fn at_cutover() -> Self {
        let mut play = Self::started();
        play.answer_all();
        play.cut_over().unwrap();
        play
    }

    /// After the cutover, both sides asked to prepare the rollback.
    pub(crate) fn at_rollback() -> Self {
        let mut play = Self::at_cutover();
        play.answer_all();
        play.submit(Request::RollBack {
            max_outage: Duration::from_secs(1),
            without_poolers: false,
            compare_limit: None,
        })
        .unwrap();
        play
    }

    pub(crate) fn cut_over(&mut self) -> Result<(), Failure> {
        self.submit(Request::CutOver {
            max_outage: Duration::from_secs(1),
            without_way_back: false,
            compare_limit: None,
        })
    }

    pub(crate) fn record(&mut self, event: Event) {
        let fact = fact(self.state.sequence + 1, event);
        self.state = self.state.with(&fact).unwrap_or_else(|illegal| panic!("{illegal}: {:?}", fact.event));
        self.facts.push(fact);
    }

    /// Does what the planner says until it waits for somebody.
    pub(crate) fn advance(&mut self) {
        let situation = Situation { outage_left: self.outage_left, stall_timeout: Duration::from_secs(600) };
        loop {
            let actions = plan(&self.state, &situation);
            let mut recorded = false;
            for action in actions {
                match action {
                    Action::Record(event) => {
                        self.record(event);
                        recorded = true;
                    }
                    Action::Issue(issue) => {
                        self.last_pause = issue.after;
                        let issued = Issued {
                            command: CommandId(Uuid::from_u128(self.issued.len() as u128 + 1)),
                            act: issue.act,
                            verb: issue.verb,
                            attempt: issue.attempt,
                            input: issue.input,
                            stall_timeout: issue.stall_timeout,
                            trace: TraceContext::new(),
                        };
                        self.issued.push(issued.clone());
                        self.record(Event::CommandIssued(Box::new(issued)));
                    }
                    Action::Cancel(command) => {
                        if !self.cancelled.contains(&command) {
                            self.cancelled.push(command);
                        }
                    }
                }
            }
            if !recorded {
                return;
            }
        }
    }

    pub(crate) fn submit(&mut self, request: Request) -> Result<(), Failure> {
        let event = apply(&self.state, request, TraceContext::new())?;
        self.record(event);
        self.advance();
        Ok(())
    }

    /// Commands without a final answer, oldest first.
    pub(crate) fn open(&self) -> impl Iterator<Item = &Issued> {
        self.issued.iter().filter(|issued| !self.state.commands[&issued.command].answered)
    }

    fn succeed(&mut self, issued: &Issued, outcome: Outcome) {
        let agent_sequence = self.state.commands[&issued.command].last_sequence + 1;
        let outcome = match issued.verb {
            Verb::Perform => Some(outcome),
            Verb::Undo => None,
        };
        let outage = self.outage.filter(|_| issued.act.is_waited_for(issued.verb));
        self.record(Event::CommandSucceeded { command: issued.command, agent_sequence, outcome, outage });
        self.advance();
    }

    /// Answers the oldest open command.
    pub(crate) fn answer(&mut self, mut outcome: impl FnMut(ActRef, &Input) -> Outcome) {
        let issued = self.open().next().unwrap().clone();
        let outcome = outcome(issued.act, &issued.input);
        self.succeed(&issued, outcome);
    }

    /// Answers until somebody has to say something.
    pub(crate) fn answer_all(&mut self) {
        while self.open().next().is_some() {
            self.answer(outcome);
        }
    }

    /// Answers until this act is under way, all before it done.
    pub(crate) fn answer_until(&mut self, act: ActRef) {
        while !self.open().any(|issued| issued.act == act) {
            self.answer(outcome);
        }
    }

    pub(crate) fn fail(&mut self, failure: Failure) {
        let act = self.open().next().unwrap().act;
        self.fail_act(act, failure);
    }

    pub(crate) fn fail_act(&mut self, act: ActRef, failure: Failure) {
        let issued = self.open().find(|issued| issued.act == act).unwrap().clone();
        let agent_sequence = self.state.commands[&issued.command].last_sequence + 1;
        self.record(Event::CommandFailed { command: issued.command, agent_sequence, failure });
        self.advance();
    }
}

/// One turn of fate in a random history.
#[derive(Clone, Debug)]
enum Turn {
    Answer(usize),
    Accept(usize),
    Fail(usize, Failure),
    Cancelled(usize, Effect),
    Request(Request),
    BudgetOver,
}

fn turn() -> impl Strategy<Value = Turn> {
    let remedy = prop_oneof![3 => Just(Remedy::Wait), 1 => Just(Remedy::Operator), 1 => Just(Remedy::Abort)];
    let effect = prop_oneof![Just(Effect::None), Just(Effect::Unknown)];
    let reason = prop_oneof![4 => Just(Reason::ServerError), 1 => Just(Reason::DestinationOpened)];
    let failure = (reason, remedy, effect.clone())
        .prop_map(|(reason, remedy, effect)| Failure::new(reason, "fate").remedy(remedy).effect(effect));
    let max_outage = Duration::from_secs(1);
    let step = prop::sample::select(super::TABLE.iter().map(|row| row.name).collect::<Vec<_>>());
    prop_oneof![
        30 => (0..3_usize).prop_map(Turn::Answer),
        3 => (0..3_usize).prop_map(Turn::Accept),
        4 => (0..3_usize, failure).prop_map(|(which, failure)| Turn::Fail(which, failure)),
        1 => (0..3_usize, effect).prop_map(|(which, effect)| Turn::Cancelled(which, effect)),
        4 => Just(Turn::Request(Request::CutOver { max_outage, without_way_back: false, compare_limit: None })),
        1 => Just(Turn::Request(Request::CutOver { max_outage, without_way_back: true, compare_limit: None })),
        4 => Just(Turn::Request(Request::RollBack { max_outage, without_poolers: false, compare_limit: None })),
        4 => prop_oneof![Just(StepName::Cutover), Just(StepName::Rollback)]
            .prop_map(move |switch| Turn::Request(Request::Rehearse { switch, max_outage, round_count: 2, compare_limit: None })),
        4 => step.prop_map(move |step| Turn::Request(Request::Release { step, max_outage })),
        2 => Just(Turn::Request(Request::Finish)),
        2 => any::<(bool, bool)>().prop_map(|(rows, resume)| Turn::Request(Request::Verify(Look { rows, resume, ..Look::default() }))),
        1 => Just(Turn::Request(Request::Tune { max_rate: None })),
        1 => Just(Turn::Request(Request::Abort)),
        1 => Just(Turn::BudgetOver),
    ]
}

impl Play {
    fn turn(&mut self, turn: &Turn) {
        let pick = |play: &Self, which: usize| play.open().nth(which).cloned();
        match turn {
            Turn::Answer(which) => {
                if let Some(issued) = pick(self, *which) {
                    let outcome = outcome(issued.act, &issued.input);
                    self.succeed(&issued, outcome);
                }
            }
            Turn::Accept(which) => {
                if let Some(issued) = pick(self, *which) {
                    let agent_sequence = self.state.commands[&issued.command].last_sequence + 1;
                    self.record(Event::CommandAccepted { command: issued.command, agent_sequence });
                    self.advance();
                }
            }
            Turn::Fail(which, failure) => {
                if let Some(issued) = pick(self, *which) {
                    self.fail_act(issued.act, failure.clone());
                }
            }
            Turn::Cancelled(which, effect) => {
                if let Some(issued) = pick(self, *which) {
                    let agent_sequence = self.state.commands[&issued.command].last_sequence + 1;
                    self.record(Event::CommandCancelled { command: issued.command, agent_sequence, effect: *effect });
                    self.advance();
                }
            }
            // Refused in most states, which is half of what is tested.
            Turn::Request(request) => drop(self.submit(request.clone())),
            Turn::BudgetOver => {
                self.outage_left = Duration::ZERO;
                self.advance();
                self.outage_left = Duration::from_secs(1);
            }
        }
    }

    fn check(&self) {
        let performing = |act: ActRef| self.state.act(act).command().is_some();
        let switch = self.state.switch();
        // The decision is asked for only when the fence stands, at most once at
        // a time, and nothing is taken back after it.
        if self.state.in_doubt() {
            assert!(self.open().all(|issued| issued.verb == Verb::Perform), "taken back while in doubt");
            assert_eq!(self.state.act(ActRef::fence(switch)).state, super::state::ActState::Performed);
        }
        if self.state.decided() {
            let back = performing(ActRef::fence(switch)) || performing(ActRef::raise(switch));
            assert!(!back, "taken back past the point of no return");
        }
        if self.state.opened() {
            assert!(matches!(
                self.state.phase,
                Phase::Running {
                    step: StepName::Cutover
                        | StepName::VerifyBack
                        | StepName::RollbackRehearsal
                        | StepName::Rollback
                        | StepName::Finish
                } | Phase::TakingBack { .. }
                    | Phase::Held { step: StepName::Finish }
                    | Phase::Stopped {
                        step: StepName::Cutover | StepName::VerifyBack | StepName::Rollback | StepName::Finish,
                        ..
                    }
                    | Phase::Succeeded
            ));
            let back = [StepName::RollbackRehearsal, StepName::Rollback];
            assert!(self.open().all(|issued| issued.verb == Verb::Perform || back.contains(&issued.act.step)));
        }
        // A rehearsal neither fences nor opens anything, and leaves who takes writes.
        if let Some(step) = self.state.phase.under_way().filter(|step| step.is_rehearsal()) {
            let beyond = [ActKind::FenceSource, ActKind::OpenDestination, ActKind::ReleaseBarrier];
            assert!(self.open().all(|issued| issued.act.step == step && !beyond.contains(&issued.act.kind().unwrap())));
            let in_earnest = |input: &Input| input.read().is_some_and(|given: &PrepareCutover| !given.rehearsal);
            assert!(!self.open().any(|issued| in_earnest(&issued.input)));
        }
        // A look at both sides is over before anything else of the migration begins.
        let looking = self.open().filter(|issued| issued.act.step == StepName::VerifyBack).count();
        assert!(looking == 0 || looking == self.open().count(), "something goes on beside a verification");
        // Only a switch that is under way asks a side to open, and only the side that is
        // closed: never the one that takes writes.
        for issued in self.open().filter(|issued| issued.act.is_decision()) {
            assert_ne!(issued.act.row().unwrap().side, self.state.writable);
        }
        // Whoever follows is not whoever takes writes.
        for issued in self.open().filter(|issued| issued.act.kind().unwrap() == ActKind::FollowStream) {
            assert_ne!(issued.act.row().unwrap().side, self.state.writable);
        }
        // A migration that nobody answers for says whom it waits for.
        let waits = matches!(
            self.state.phase,
            Phase::Pending
                | Phase::Held { .. }
                | Phase::Stopped { .. }
                | Phase::TakingBack { stop: Some(_), .. }
                | Phase::Aborting { stop: Some(_) }
                | Phase::Aborted
                | Phase::Succeeded
        );
        assert!(waits || self.open().next().is_some(), "silence in {:?}", self.state.phase);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_history_is_legal_and_can_be_brought_to_an_end(turns in prop::collection::vec(turn(), 0..120)) {
        let mut play = Play::started();
        for turn in &turns {
            play.turn(turn);
            play.check();
        }
        // The cause of all trouble is mended: what remains ends within bounds.
        for _ in 0..200 {
            if play.state.terminal() {
                break;
            }
            let max_outage = Duration::from_secs(1);
            for row in super::TABLE {
                // Back and forth would never end.
                if row.name == StepName::Rollback && matches!(play.state.phase, Phase::Held { .. }) {
                    continue;
                }
                let _ = play.submit(Request::Release { step: row.name, max_outage });
            }
            if matches!(play.state.phase, Phase::Stopped { .. }) && play.submit(Request::Abort).is_err() {
                let _ = play.submit(Request::Finish);
            }
            // Two verbs lead on from there; one of them leads to an end.
            if play.state.phase == (Phase::Held { step: StepName::Finish }) {
                let _ = play.submit(Request::Finish);
            }
            play.answer_all();
            play.check();
        }
        prop_assert!(play.state.terminal(), "{:?}", play.state.phase);
        if play.state.phase == Phase::Aborted {
            prop_assert_eq!(play.state.writable, Side::Source);
        }
        if play.state.phase == Phase::Succeeded {
            prop_assert_eq!(play.state.writable, Side::Destination);
        }
    }

    #[test]
    fn every_prefix_replays_to_the_same_plan(turns in prop::collection::vec(turn(), 0..60)) {
        let mut play = Play::started();
        for turn in &turns {
            play.turn(turn);
        }
        let situation = Situation { outage_left: Duration::from_secs(1), stall_timeout: Duration::from_secs(600) };
        let mut live = None;
        for length in 1..=play.facts.len() {
            live = Some(next(live, &play.facts[length - 1]).unwrap());
            // Through the stored form, as after a restart.
            let stored: Vec<Fact> = play.facts[..length]
                .iter()
                .map(|fact| {
                    let text = serde_json::to_string(&fact.event).unwrap();
                    Fact { event: serde_json::from_str(&text).unwrap(), ..fact.clone() }
                })
                .collect();
            let replayed = fold(&stored).unwrap();
            prop_assert_eq!(Some(&replayed), live.as_ref());
            prop_assert_eq!(plan(&replayed, &situation), plan(live.as_ref().unwrap(), &situation));
        }
    }
}

#[test]
fn a_fact_that_does_not_fit_is_refused() {
    let play = Play::started();
    let illegal = |event: Event, sequence: i64| {
        let mut wrong = fact(sequence, event);
        wrong.sequence = sequence;
        play.state.with(&wrong).unwrap_err().why
    };
    let following = play.state.sequence + 1;
    assert_eq!(illegal(Event::CutoverTakenBack, following), "no cutover is being taken back");
    assert_eq!(illegal(Event::Aborted, following + 1), "a number is missing or came twice");
    assert_eq!(illegal(Event::Aborted, following), "it is not being aborted");
    let answer = Event::CommandAccepted { command: CommandId(Uuid::from_u128(99)), agent_sequence: 1 };
    assert_eq!(illegal(answer, following), "the command was not issued");
    assert_eq!(Side::Source.as_str(), "source");
}
