//! What a migration is: one table, and pure functions over it.
//!
//! Read [`TABLE`] first. [`state`] folds the stored facts of one migration into
//! where it stands, through one transition function; [`plan`] says what to do
//! next. **Invariant:** nothing here reads a clock, a socket or the store; the
//! engine (`crate::engine`) carries plans out and records what came of it. From
//! outside this module come only the words that failures are told in.

#![deny(clippy::wildcard_enum_match_arm)]

pub(crate) mod act;
mod act_ref;
pub(crate) mod advice;
pub(crate) mod backoff;
pub(crate) mod depth;
pub(crate) mod drift;
pub(crate) mod fact;
pub(crate) mod finding;
pub(crate) mod judge;
pub(crate) mod plan;
pub(crate) mod planned;
pub(crate) mod rehearsal;
pub(crate) mod spec;
pub(crate) mod state;
pub(crate) mod statement;
mod step_name;
pub(crate) mod verb;

#[cfg(test)]
pub(crate) mod proof;

pub(crate) use act::Act;
pub(crate) use act_ref::ActRef;
pub(crate) use pgportage_proto::{ActKind, Side, Verb};
pub(crate) use step_name::StepName;

/// When an act begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Once everything before it in the step is done.
    InTurn,
    /// Together with the act before it.
    WithPrevious,
    /// As soon as the barrier of a switch is gone, whatever becomes of the acts
    /// between.
    Detached,
}

/// How an act is taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undo {
    /// It changes nothing, or nothing that outlives the undo of an act before it.
    Nothing,
    /// By the same action with the verb undo.
    TakeBack,
    /// By the same action with the verb undo, whenever the agent accepted it,
    /// even when nothing is left on the server: this undo also makes the agent
    /// forget the migration.
    TakeBackAndForget,
    /// By the same action with the verb undo, and nothing before it in the step
    /// is taken back until that has succeeded: its undo decides whether there is
    /// a way back at all.
    TakeBackFirst,
    /// Never: this act is the point of no return.
    Never,
}

/// What a held step waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// The operator types `pgportage cutover`.
    Cutover,
    /// The operator types `pgportage rollback`, where `pgportage finish` could be
    /// typed as well.
    Rollback,
    /// The operator types `pgportage finish`.
    Finish,
}

/// What an act belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Belongs {
    /// To every migration.
    Always,
    /// To those that have a way back; others leave it out.
    ToTheWayBack,
    /// To every switch since there are certificates. What fails of it is told and
    /// **holds nothing up**: the applications are where they belong.
    ToTheCertificate,
    /// To a verification that counts rows.
    ToCounts,
    /// To a verification that looks at every row, which an operator asks for.
    ToRows,
}

/// In which order the acts of a step are taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UndoOrder {
    /// The last one first, one act at a time.
    Strict,
    /// The last one first on each side, the sides independently of each other: a
    /// destination that cannot be reached must not keep the source's writers
    /// waiting.
    EachSide,
}

/// One act: one action on one side.
#[derive(Clone, Copy, Debug)]
pub struct ActRow {
    /// The agent that does it.
    pub side: Side,
    /// What it does.
    pub act: &'static Act,
    /// When it begins.
    pub order: Order,
    /// How it is taken back.
    pub undo: Undo,
    /// What it belongs to.
    pub belongs: Belongs,
}

impl ActRow {
    /// Whether nothing goes on without it.
    pub fn holds_up(&self) -> bool {
        match self.belongs {
            Belongs::Always | Belongs::ToTheWayBack | Belongs::ToCounts | Belongs::ToRows => true,
            Belongs::ToTheCertificate => false,
        }
    }
}

/// One step.
#[derive(Debug)]
pub struct StepRow {
    /// Its stable name.
    pub name: StepName,
    /// What the step waits for before it begins. Nothing, if `None`.
    pub hold: Option<Hold>,
    /// Its acts, in order.
    pub acts: &'static [ActRow],
    /// How they are taken back.
    pub undo_order: UndoOrder,
}

impl StepRow {
    /// Whether everything the step leaves behind can be taken back.
    pub fn undoable(&self) -> bool {
        !self.has_point_of_no_return() && self.name != StepName::Finish
    }

    /// Whether nothing can be taken back once this step has succeeded.
    pub fn has_point_of_no_return(&self) -> bool {
        self.acts.iter().any(|act| act.undo == Undo::Never)
    }
}

const fn on(side: Side, act: &'static Act, undo: Undo) -> ActRow {
    ActRow { side, act, order: Order::InTurn, undo, belongs: Belongs::Always }
}

const fn source(act: &'static Act, undo: Undo) -> ActRow {
    on(Side::Source, act, undo)
}

const fn destination(act: &'static Act, undo: Undo) -> ActRow {
    on(Side::Destination, act, undo)
}

const fn of_the_way_back(act: ActRow) -> ActRow {
    ActRow { belongs: Belongs::ToTheWayBack, ..act }
}

const fn of_the_certificate(act: ActRow) -> ActRow {
    ActRow { belongs: Belongs::ToTheCertificate, order: Order::Detached, ..act }
}

const fn of_counts(act: ActRow) -> ActRow {
    ActRow { belongs: Belongs::ToCounts, ..act }
}

const fn of_rows(act: ActRow) -> ActRow {
    ActRow { belongs: Belongs::ToRows, ..act }
}

const fn at_the_same_time(act: ActRow) -> ActRow {
    ActRow { order: Order::WithPrevious, ..act }
}

/// What most steps have: nothing is waited for, and one act at a time is taken back.
const STEP: StepRow = StepRow { name: StepName::Inspect, hold: None, acts: &[], undo_order: UndoOrder::Strict };

use Undo::{Never, Nothing, TakeBack, TakeBackAndForget, TakeBackFirst};

/// A switch of the applications' way: one side is left, the other is entered. A
/// cutover and a rollback are the same acts with the sides exchanged.
const fn switch(leave: Side) -> [ActRow; 11] {
    let enter = leave.other();
    [
        on(leave, &act::prepare_cutover::ACT, TakeBack),
        at_the_same_time(on(enter, &act::prepare_cutover::ACT, TakeBack)),
        on(leave, &act::raise_barrier::ACT, TakeBack),
        on(enter, &act::drain_to_marker::ACT, TakeBack),
        on(leave, &act::fence_source::ACT, TakeBackFirst),
        // ---- The point of no return.
        on(enter, &act::open_destination::ACT, Never),
        on(leave, &act::release_barrier::ACT, Nothing),
        // What is written from here on flows to the side that was left.
        of_the_way_back(on(enter, &act::keep_stream::ACT, Nothing)),
        of_the_way_back(on(leave, &act::follow_stream::ACT, Nothing)),
        // Last in the table, because histories name acts by their place.
        of_the_certificate(on(leave, &act::certify_switch::ACT, Nothing)),
        of_the_certificate(on(enter, &act::certify_switch::ACT, Nothing)),
    ]
}

/// A switch up to where nothing durable has happened: its acts before the fence, once
/// the lag is small. **Neither fence nor decision is among them.** Between two rounds
/// the lag is awaited for long enough for writers to get their breath.
const fn rehearsal(leave: Side) -> [ActRow; 5] {
    let [prepare_to_leave, prepare_to_enter, raise, drain, ..] = switch(leave);
    [on(leave, &act::await_lag::ACT, Nothing), prepare_to_leave, prepare_to_enter, raise, drain]
}

/// Both sides compared, the one that follows with the one that applications write to.
const fn verification(publisher: Side) -> [ActRow; 5] {
    let follower = publisher.other();
    // After a break the follower may be behind by more than what changes while rows
    // are counted: first the stream has to be level again.
    [
        on(publisher, &act::await_lag::ACT, Nothing),
        // What changes while rows are counted is seen by counting them twice.
        of_counts(on(publisher, &act::count_rows::ACT, Nothing)),
        on(follower, &act::count_rows::ACT, Nothing),
        on(publisher, &act::count_rows::ACT, Nothing),
        of_rows(on(follower, &act::compare_rows::ACT, Nothing)),
    ]
}

/// **The table**: every step of a migration, in order.
pub(crate) const TABLE: &[StepRow] = &[
    StepRow {
        name: StepName::Inspect,
        acts: &[source(&act::check_server::ACT, Nothing), destination(&act::check_server::ACT, Nothing)],
        ..STEP
    },
    StepRow {
        name: StepName::Connect,
        acts: &[
            source(&act::create_replication_role::ACT, TakeBackAndForget),
            destination(&act::reach_peer::ACT, TakeBackAndForget),
            source(&act::reach_peer::ACT, Nothing),
        ],
        ..STEP
    },
    StepRow { name: StepName::Identity, acts: &[source(&act::set_replica_identity::ACT, TakeBack)], ..STEP },
    StepRow { name: StepName::Publication, acts: &[source(&act::create_publication::ACT, TakeBack)], ..STEP },
    StepRow { name: StepName::Close, acts: &[destination(&act::close_database::ACT, TakeBack)], ..STEP },
    StepRow { name: StepName::Schema, acts: &[destination(&act::restore_schema::ACT, TakeBack)], ..STEP },
    // Rows go with the tables: taking the schema back empties the database.
    StepRow {
        name: StepName::Copy,
        acts: &[source(&act::create_slot::ACT, TakeBack), destination(&act::copy_tables::ACT, Nothing)],
        ..STEP
    },
    StepRow { name: StepName::Subscribe, acts: &[destination(&act::create_subscription::ACT, TakeBack)], ..STEP },
    StepRow {
        name: StepName::CatchUp,
        acts: &[destination(&act::await_copy::ACT, Nothing), source(&act::await_lag::ACT, Nothing)],
        ..STEP
    },
    StepRow {
        name: StepName::Reverse,
        acts: &[
            of_the_way_back(destination(&act::create_replication_role::ACT, TakeBack)),
            of_the_way_back(destination(&act::create_publication::ACT, TakeBack)),
            of_the_way_back(destination(&act::create_slot::ACT, TakeBack)),
            of_the_way_back(source(&act::create_way_back::ACT, TakeBack)),
        ],
        ..STEP
    },
    StepRow { name: StepName::Verify, acts: &verification(Side::Source), ..STEP },
    // Only where that was asked for, as often as one likes.
    StepRow {
        name: StepName::CutoverRehearsal,
        acts: &rehearsal(Side::Source),
        undo_order: UndoOrder::EachSide,
        ..STEP
    },
    StepRow {
        name: StepName::Cutover,
        hold: Some(Hold::Cutover),
        acts: &switch(Side::Source),
        undo_order: UndoOrder::EachSide,
    },
    // Only where that was asked for, as often as one likes: what it finds takes no
    // word away from the operator.
    StepRow { name: StepName::VerifyBack, acts: &verification(Side::Destination), ..STEP },
    StepRow {
        name: StepName::RollbackRehearsal,
        acts: &rehearsal(Side::Destination),
        undo_order: UndoOrder::EachSide,
        ..STEP
    },
    StepRow {
        name: StepName::Rollback,
        hold: Some(Hold::Rollback),
        acts: &switch(Side::Destination),
        undo_order: UndoOrder::EachSide,
    },
    StepRow {
        name: StepName::Finish,
        hold: Some(Hold::Finish),
        acts: &[destination(&act::finish_migration::ACT, Nothing), source(&act::finish_migration::ACT, Nothing)],
        ..STEP
    },
];

#[cfg(test)]
mod tests {
    use super::ActKind as Do;
    use super::step_name::REHEARSALS;
    use super::*;

    #[test]
    fn rows_stand_at_the_index_of_their_name() {
        for (index, row) in TABLE.iter().enumerate() {
            assert_eq!(row.name.index(), index);
            assert_eq!(StepName::parse(row.name.as_str()), Some(row.name));
            assert!(!row.acts.is_empty());
            assert_eq!(row.acts[0].order, Order::InTurn);
        }
        assert_eq!(StepName::Finish.following(), None);
    }

    #[test]
    fn every_switch_has_one_point_of_no_return() {
        let points: Vec<_> =
            TABLE.iter().filter(|row| row.acts.iter().any(|act| act.undo == Never)).map(|row| row.name).collect();
        assert_eq!(points, [StepName::Cutover, StepName::Rollback]);
        for step in points {
            assert!(step.is_switch());
            let decisions = step.row().acts.iter().filter(|act| act.undo == Never);
            assert_eq!(decisions.map(|act| act.act.kind).collect::<Vec<_>>(), [Do::OpenDestination]);
        }
    }

    /// Facts of older releases name acts by their place.
    #[test]
    fn acts_keep_their_places() {
        let kinds: Vec<_> = StepName::Cutover.row().acts.iter().map(|act| act.act.kind.as_str()).collect();
        let places = [
            "prepare_cutover prepare_cutover raise_barrier drain_to_marker fence_source open_destination",
            "release_barrier keep_stream follow_stream certify_switch certify_switch",
        ];
        assert_eq!(kinds.join(" "), places.join(" "));
    }

    #[test]
    fn a_rollback_is_a_cutover_with_its_sides_exchanged() {
        let (there, back) = (StepName::Cutover.row().acts, StepName::Rollback.row().acts);
        assert_eq!(there.len(), back.len());
        for (there, back) in there.iter().zip(back) {
            assert_eq!((there.act.kind, there.side), (back.act.kind, back.side.other()));
        }
    }

    #[test]
    fn a_rehearsal_is_its_switch_without_what_cannot_be_taken_back() {
        for (rehearsal, switch) in REHEARSALS {
            assert!(rehearsal.is_rehearsal() && !rehearsal.is_switch() && !switch.is_rehearsal());
            assert_eq!((rehearsal.rehearsed(), switch.rehearsal()), (Some(switch), Some(rehearsal)));
            let acts = |step: StepName| step.row().acts.iter().map(|act| (act.act.kind, act.side)).collect::<Vec<_>>();
            let (tried, real) = (acts(rehearsal), acts(switch));
            assert_eq!(tried[0].0, Do::AwaitLag);
            assert_eq!(tried[1..], real[..4]);
            let durable = [Do::FenceSource, Do::OpenDestination, Do::ReleaseBarrier];
            assert!(!tried.iter().any(|(kind, _)| durable.contains(kind)));
            assert!(rehearsal.row().acts[1..].iter().all(|act| act.undo == TakeBack));
        }
        let rehearsals = TABLE.iter().map(|row| row.name).filter(|name| name.is_rehearsal());
        assert_eq!(rehearsals.collect::<Vec<_>>(), REHEARSALS.map(|(rehearsal, _)| rehearsal));
    }
}
