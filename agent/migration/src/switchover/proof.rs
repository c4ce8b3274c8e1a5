//! Histories of one side of a migration, with a crash after every event, against what is
//! true on both servers: what the record says is due never leads clients where they must
//! not go, and never lifts a fence without its promise.

use std::collections::BTreeMap;

use pgportage_link::Clock;
use proptest::prelude::*;

use super::*;

impl SwitchoverRecord {
    /// Whether this side waits for an answer of the other agent, or for its fence to be lifted.
    fn is_in_doubt(&self) -> bool {
        match self.fence {
            Fence::MayStand(_) | Fence::Liftable(_) => true,
            Fence::Down | Fence::Kept(_) => false,
        }
    }
}

/// What a side has decided about a switchover that enters it: a row on its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decided {
    Opened,
    NeverOpens,
}

/// Everything that is durable anywhere.
#[derive(Clone, Debug, Default)]
struct World {
    /// The journal's row, as it is written.
    journal: String,
    /// The fence on this side's server.
    fence: Option<i64>,
    /// Decisions of the other side about switchovers that leave this one.
    other: BTreeMap<i64, Decided>,
    /// Decisions of this side about switchovers that enter it.
    own: BTreeMap<i64, Decided>,
    /// The latest switchover.
    current: Option<Switchover>,
    /// Whether a command of it has its sessions: they go with the agent.
    at_work: bool,
}

/// What happens next. What cannot happen as things stand is left out.
#[derive(Clone, Copy, Debug)]
enum Step {
    Begin(Role),
    OweHooks,
    OweWord,
    NoneWaits,
    Pause,
    NoteFence,
    CommitFence,
    OtherOpens,
    OwnOpens,
    /// The agent hears of its own opening, for example with a command that comes again.
    HearOfOwnOpening,
    /// The other agent or the coordinator says that the other side has opened.
    HearOfOpening,
    /// A broken agent or coordinator says so of a switchover that can never open, or says it of another one.
    Lie(i64),
    /// The command ends, whatever came of it.
    GiveUp,
    /// The agent dies.
    Crash,
    /// What is due is done, up to so many effects.
    CarryOut(usize),
    /// What was under way for an earlier switchover ends late.
    EndLate(i64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => prop_oneof![Just(Role::Leaving), Just(Role::Entering)].prop_map(Step::Begin),
        2 => Just(Step::OweHooks),
        2 => Just(Step::OweWord),
        1 => Just(Step::NoneWaits),
        3 => Just(Step::Pause),
        4 => Just(Step::NoteFence),
        4 => Just(Step::CommitFence),
        3 => Just(Step::OtherOpens),
        3 => Just(Step::OwnOpens),
        2 => Just(Step::HearOfOwnOpening),
        2 => Just(Step::HearOfOpening),
        1 => (1_i64..6).prop_map(Step::Lie),
        2 => Just(Step::GiveUp),
        2 => Just(Step::Crash),
        3 => (0_usize..6).prop_map(Step::CarryOut),
        1 => (1_i64..6).prop_map(Step::EndLate),
    ]
}

impl World {
    fn record(&self) -> SwitchoverRecord {
        match self.journal.as_str() {
            "" => SwitchoverRecord::default(),
            text => serde_json::from_str(text).unwrap(),
        }
    }

    fn apply(&mut self, event: Event) -> Result<(), Illegal> {
        let next = self.record().next(event)?;
        self.journal = serde_json::to_string(&next).unwrap();
        Ok(())
    }

    /// An event that the agent's own code would not bring about if it were illegal.
    fn happens(&mut self, event: Event) {
        if let Err(illegal) = self.apply(event) {
            panic!("{event:?}: {illegal} in {self:?}");
        }
    }

    /// The switchover that a command works on in a role.
    fn working(&self, role: Role) -> Option<i64> {
        self.current.filter(|current| self.at_work && current.role == role).map(|current| current.epoch)
    }

    fn play(&mut self, step: Step) {
        match step {
            Step::Begin(role) => self.begin(role),
            Step::OweHooks => {
                if let Some(current) = self.current.filter(|current| self.at_work && !self.is_behind(current.epoch)) {
                    self.happens(Event::OwesHooks(current));
                }
            }
            Step::OweWord => {
                if let Some(epoch) = self.working(Role::Leaving).filter(|epoch| !self.is_behind(*epoch)) {
                    self.happens(Event::OwesWord(epoch));
                }
            }
            Step::NoneWaits => {
                if let Some(epoch) = self.working(Role::Leaving) {
                    self.happens(Event::WordIsNotNeeded(epoch));
                }
            }
            Step::Pause => {
                // No command pauses behind its own fence or decision.
                if let Some(current) = self.current.filter(|current| self.at_work && !self.is_behind(current.epoch)) {
                    self.happens(Event::Pauses(current));
                }
            }
            Step::NoteFence => {
                // Only a side that is not fenced can be left.
                if let Some(epoch) = self.working(Role::Leaving)
                    && self.fence.is_none()
                {
                    self.happens(Event::Fences(epoch));
                }
            }
            Step::CommitFence => {
                if let Some(epoch) = self.working(Role::Leaving)
                    && self.record().fence == Fence::MayStand(epoch)
                    && self.fence.is_none()
                {
                    self.fence = Some(epoch);
                }
            }
            Step::OtherOpens => {
                if let Some(epoch) = self.working(Role::Leaving)
                    && self.fence == Some(epoch)
                    && !self.other.contains_key(&epoch)
                {
                    self.other.insert(epoch, Decided::Opened);
                }
            }
            Step::OwnOpens => {
                if let Some(epoch) = self.working(Role::Entering)
                    && !self.own.contains_key(&epoch)
                {
                    self.own.insert(epoch, Decided::Opened);
                    self.fence = None;
                }
            }
            Step::HearOfOwnOpening => {
                let opened = self.own.iter().rev().find(|(_, decided)| **decided == Decided::Opened);
                if let Some((&epoch, _)) = opened {
                    self.happens(Event::Opened { epoch, lead_here: true });
                }
            }
            Step::HearOfOpening => {
                let opened: Vec<i64> = self.opened_at().collect();
                for epoch in opened {
                    self.happens(Event::OtherOpened(epoch));
                }
            }
            Step::Lie(epoch) => self.lie(epoch),
            Step::GiveUp | Step::Crash => self.at_work = false,
            Step::CarryOut(effects) => {
                if !self.at_work {
                    self.carry_out(effects);
                }
            }
            Step::EndLate(epoch) => {
                if self.current.is_some_and(|current| epoch < current.epoch) {
                    for role in [Role::Leaving, Role::Entering] {
                        self.happens(Event::HooksTold(Switchover { epoch, role }));
                        self.happens(Event::LetOn(Switchover { epoch, role }));
                    }
                    self.happens(Event::WordWasGiven(epoch));
                }
            }
        }
    }

    fn begin(&mut self, role: Role) {
        let epoch = self.current.map_or(1, |current| current.epoch + 1);
        // A side is left when it is open, and entered when it is closed. The preconditions
        // of a switchover see to that, and the coordinator settles the one before.
        let may_begin = match role {
            Role::Leaving => self.fence.is_none(),
            Role::Entering => self.fence.is_none_or(|fenced| self.other.get(&fenced) == Some(&Decided::Opened)),
        };
        let is_settled = !self.record().is_in_doubt() && self.record().pause.is_none();
        if may_begin && !self.at_work && is_settled {
            self.current = Some(Switchover { epoch, role });
            self.at_work = true;
        }
    }

    fn is_behind(&self, epoch: i64) -> bool {
        self.fence == Some(epoch) || self.other.contains_key(&epoch) || self.own.contains_key(&epoch)
    }

    fn opened_at(&self) -> impl Iterator<Item = i64> {
        self.other.iter().filter(|(_, decided)| **decided == Decided::Opened).map(|(epoch, _)| *epoch)
    }

    fn lie(&mut self, epoch: i64) {
        let before = self.record();
        if self.other.get(&epoch) == Some(&Decided::NeverOpens) && before.promised >= Some(epoch) {
            match self.apply(Event::OtherOpened(epoch)) {
                Err(illegal) => assert_eq!(illegal, Illegal::Promised(epoch), "{self:?}"),
                Ok(()) => assert_eq!((before.left > Some(epoch), &self.record()), (true, &before), "{self:?}"),
            }
        }
        if self.other.get(&epoch) == Some(&Decided::Opened) && self.record().left == Some(epoch) {
            assert_eq!(self.apply(Event::Promised(epoch)), Err(Illegal::OtherOpened(epoch)), "{self:?}");
        }
        // No fence is put up behind the promise, and none beside one in doubt.
        if before.promised >= Some(epoch) {
            assert!(self.apply(Event::Fences(epoch)).is_err(), "{self:?}");
        }
        if let Fence::MayStand(fenced) | Fence::Liftable(fenced) = before.fence {
            assert_eq!(self.apply(Event::Fences(fenced + 1)), Err(Illegal::Undecided(fenced)), "{self:?}");
        }
        // A command of an earlier switchover that comes late begins nothing.
        if let Some(latest) = self.record().latest
            && epoch < latest.epoch
        {
            let before = self.record();
            for event in [Event::Fences(epoch), Event::Pauses(Switchover { epoch, role: Role::Leaving })] {
                assert!(self.apply(event).is_err(), "{event:?} in {self:?}");
            }
            assert_eq!(self.record(), before);
        }
    }

    /// What the agent does by itself when nothing is in anybody's hands. Ends after so many
    /// effects, as if the agent died then.
    fn carry_out(&mut self, mut effects: usize) {
        let mut effect = || {
            let left = effects > 0;
            effects = effects.saturating_sub(1);
            left
        };
        if self.record().is_in_doubt() {
            if !effect() {
                return;
            }
            match self.fence {
                Some(epoch) => self.happens(Event::FenceStands(epoch)),
                None => self.happens(Event::NoFenceStands),
            }
        }
        for _round in 0..3 {
            for due in self.record().due(InHand::NOTHING, Clock.now()) {
                self.is_right(due);
                // A crash between what is done and what is noted.
                for half in 0..2 {
                    if !effect() {
                        return;
                    }
                    self.carry_out_half(due, half);
                }
            }
        }
    }

    /// **The property that matters**, for one thing that is due.
    fn is_right(&self, due: Due) {
        let other_opened = |epoch| self.other.get(&epoch) == Some(&Decided::Opened);
        let own_opened = |epoch| self.own.get(&epoch) == Some(&Decided::Opened);
        let stays = |epoch| self.fence != Some(epoch) && !other_opened(epoch);
        let right = match due {
            Due::AskOther(epoch) => self.fence == Some(epoch),
            Due::LiftFence(epoch) => self.other.get(&epoch) == Some(&Decided::NeverOpens),
            Due::LeadHere => self.own.values().any(|decided| *decided == Decided::Opened) && self.fence.is_none(),
            Due::TellHooks(Switchover { epoch, role: Role::Leaving }, Ended::Opened) => other_opened(epoch),
            Due::TellHooks(Switchover { epoch, role: Role::Leaving }, _abort) => stays(epoch),
            Due::TellHooks(Switchover { epoch, role: Role::Entering }, point) => {
                point == Ended::Opened && own_opened(epoch)
            }
            Due::TellOther(epoch) => stays(epoch),
            Due::LetOnToOther(Switchover { epoch, role }) => role == Role::Leaving && other_opened(epoch),
            Due::LetOnAsTheyWere(Switchover { epoch, role }) => role == Role::Leaving && stays(epoch),
            Due::AskOwnDecision(Switchover { role, .. }) => role == Role::Entering,
        };
        assert!(right, "{due:?} in {self:?}");
    }

    fn carry_out_half(&mut self, due: Due, half: usize) {
        match (due, half) {
            (Due::AskOther(epoch), 0) => {
                self.other.entry(epoch).or_insert(Decided::NeverOpens);
            }
            (Due::AskOther(epoch), _) => match self.other[&epoch] {
                Decided::Opened => self.happens(Event::OtherOpened(epoch)),
                Decided::NeverOpens => self.happens(Event::Promised(epoch)),
            },
            (Due::LiftFence(epoch), 0) => self.fence = self.fence.filter(|fenced| *fenced != epoch),
            (Due::LiftFence(_), _) => self.happens(Event::NoFenceStands),
            (Due::AskOwnDecision(pause), 0) => {
                self.own.entry(pause.epoch).or_insert(Decided::NeverOpens);
            }
            (Due::LeadHere | Due::TellHooks(..) | Due::TellOther(_), 0)
            | (Due::LetOnToOther(_) | Due::LetOnAsTheyWere(_), 0) => {}
            (Due::LeadHere, _) => {
                let waited = self.record().pause;
                self.happens(Event::LeadHere(waited));
            }
            (Due::TellHooks(switchover, _), _) => self.happens(Event::HooksTold(switchover)),
            (Due::TellOther(epoch), _) => self.happens(Event::WordWasGiven(epoch)),
            (Due::AskOwnDecision(pause) | Due::LetOnToOther(pause) | Due::LetOnAsTheyWere(pause), _) => {
                self.happens(Event::LetOn(pause));
            }
        }
    }

    /// Whatever the agent died of, and dies of once more on its way: left to itself it comes
    /// to an end, and to the right one.
    fn comes_to_rest(&self) {
        for effects in 0..8 {
            let mut world = self.clone();
            world.is_right_beside_a_fence();
            world.at_work = false;
            world.carry_out(effects);
            world.is_right_beside_a_fence();
            for epoch in 1..6 {
                world.lie(epoch);
            }
            for _look in 0..4 {
                world.carry_out(usize::MAX);
            }
            world.is_at_rest();
        }
    }

    /// An act that works on the fence may leave it where it is for as long as it likes: what
    /// else is due is right before anything becomes of the fence.
    fn is_right_beside_a_fence(&self) {
        for due in self.record().due(InHand::FENCE, Clock.now()) {
            self.is_right(due);
        }
    }

    fn is_at_rest(&self) {
        let record = self.record();
        assert_eq!(record.due(InHand::NOTHING, Clock.now()), [], "{self:?}");
        assert!(!record.is_in_doubt(), "{self:?}");
        assert_eq!((record.pause, record.untold, record.hooks_on_leaving), (None, None, None), "{self:?}");
        if let Some(fenced) = self.fence {
            assert_eq!(self.other.get(&fenced), Some(&Decided::Opened), "a fence without an opening: {self:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn after_a_crash_at_any_point_nothing_is_due_that_must_not_be(steps in prop::collection::vec(step(), 0..40)) {
        let mut world = World::default();
        world.comes_to_rest();
        for step in steps {
            world.play(step);
            world.comes_to_rest();
        }
    }
}

/// What the property above says of every history, for the two that everybody asks about.
#[test]
fn a_cutover_and_a_rollback_by_the_book() {
    let mut world = World::default();
    for step in [Step::Begin(Role::Leaving), Step::OweHooks, Step::Pause, Step::NoteFence, Step::CommitFence] {
        world.play(step);
    }
    let now = Clock.now();
    let due = |world: &World| world.record().due(InHand::NOTHING, now);
    assert_eq!(due(&world), [Due::AskOther(1)], "clients wait, whatever else there is");
    assert_eq!(world.record().due(InHand::FENCE, now), []);
    world.play(Step::OtherOpens);
    world.play(Step::HearOfOpening);
    let cutover = Switchover { epoch: 1, role: Role::Leaving };
    assert_eq!(due(&world), [Due::TellHooks(cutover, Ended::Opened), Due::LetOnToOther(cutover)]);
    world.play(Step::GiveUp);
    world.play(Step::CarryOut(usize::MAX));
    assert_eq!((due(&world), world.record().fence), (vec![], Fence::Kept(1)));

    for step in [Step::Begin(Role::Entering), Step::OweHooks, Step::Pause] {
        world.play(step);
    }
    let rollback = Switchover { epoch: 2, role: Role::Entering };
    assert_eq!(due(&world), [Due::AskOwnDecision(rollback)]);
    world.play(Step::OwnOpens);
    world.play(Step::HearOfOwnOpening);
    assert_eq!(due(&world), [Due::LeadHere, Due::TellHooks(rollback, Ended::Opened), Due::AskOwnDecision(rollback)]);
    world.comes_to_rest();
}

#[test]
fn what_is_in_hand_is_left_to_whoever_has_it() {
    let now = Clock.now();
    let later = now + std::time::Duration::from_secs(1);
    let record = SwitchoverRecord { fence: Fence::MayStand(1), lead_here: true, ..SwitchoverRecord::default() };
    let due = |fence, clients| record.due(InHand { fence, clients }, now);
    assert_eq!(due(Held::No, Held::Until(now)), [Due::AskOther(1), Due::LeadHere]);
    assert_eq!(due(Held::Until(later), Held::ByCommand), []);
    assert_eq!(due(Held::ByCommand, Held::No), [Due::LeadHere]);
}

/// What the operator says of a side that is gone for good counts as its promise.
#[test]
fn behind_the_operators_word_applications_belong_here() {
    for known in [Event::FenceStands(1), Event::OtherOpened(1)] {
        let mut record = SwitchoverRecord::default().next(Event::Fences(1)).unwrap();
        record = record.next(known).unwrap().next(Event::UnfencedByOperator).unwrap();
        assert_eq!((record.fence, record.way(1)), (Fence::Down, Way::Back));
    }
}

/// Hooks that were to hear of one entry hear nothing of a later one.
#[test]
fn an_opening_concerns_the_hooks_of_its_own_switchover() {
    let entering = Switchover { epoch: 1, role: Role::Entering };
    let record = SwitchoverRecord::default().next(Event::OwesHooks(entering)).unwrap();
    let opened = |epoch| record.next(Event::Opened { epoch, lead_here: false }).unwrap();
    assert_eq!(opened(3).due(InHand::NOTHING, Clock.now()), []);
    assert_eq!(opened(1).due(InHand::NOTHING, Clock.now()), [Due::TellHooks(entering, Ended::Opened)]);
}
