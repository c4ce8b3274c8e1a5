//! What a migration is: one table, and pure functions over it.
//!
//! Read [`TABLE`] first. [`state`] folds the stored facts of one migration into
//! where it stands, through one transition function; [`plan`] says what to do
//! next. **Invariant:** nothing here reads a clock, a socket or the store; the
//! engine (`crate::engine`) carries plans out and records what came of it. From
//! outside this module come only the words that failures are told in.

#![deny(clippy::wildcard_enum_match_arm)]

pub mod backoff;
pub mod fact;
pub mod finding;
pub mod input;
pub mod judge;
pub mod outcome;
pub mod plan;
pub mod scrutiny;
pub mod spec;
pub mod state;
pub mod statement;
pub mod verb;

#[cfg(test)]
pub(crate) mod proof;

use std::fmt;

use serde::{Deserialize, Serialize};

/// An agent's part in a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Beside the server moved from.
    Source,
    /// Beside the server moved to.
    Destination,
}

impl Side {
    /// The word for people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}

/// Whether an act is carried out or taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Do it.
    Perform,
    /// Take it back.
    Undo,
}

/// The steps of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepName {
    /// Settings and catalogs are read on both sides.
    Inspect,
    /// The agents reach each other; the replication credential is made.
    Connect,
    /// Tables without a replica identity get one, with consent.
    Identity,
    /// Our schema, the marker and heartbeat tables, the publication.
    Publication,
    /// Applications are kept out of the destination.
    Close,
    /// The source's schema is restored on the destination.
    Schema,
    /// The slot, and the rows of its snapshot.
    Copy,
    /// The subscription.
    Subscribe,
    /// Every table follows the stream, then the lag under its limit.
    CatchUp,
    /// Rows and schema compared while writes go on.
    Verify,
    /// The applications' way is switched.
    Cutover,
    /// Everything of ours removed.
    Finish,
}

impl StepName {
    /// The stable name, as in the contract.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inspect => "inspect",
            Self::Connect => "connect",
            Self::Identity => "identity",
            Self::Publication => "publication",
            Self::Close => "close",
            Self::Schema => "schema",
            Self::Copy => "copy",
            Self::Subscribe => "subscribe",
            Self::CatchUp => "catch-up",
            Self::Verify => "verify",
            Self::Cutover => "cutover",
            Self::Finish => "finish",
        }
    }

    /// The step of that stable name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        TABLE.iter().map(|row| row.name).find(|name| name.as_str() == text)
    }

    /// Its place in [`TABLE`].
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }

    /// Its row of [`TABLE`].
    #[must_use]
    pub fn row(self) -> &'static StepRow {
        &TABLE[self.index()]
    }

    /// The step after this one.
    #[must_use]
    pub fn following(self) -> Option<Self> {
        TABLE.get(self.index() + 1).map(|row| row.name)
    }
}

impl fmt::Display for StepName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The kinds of work an agent knows. One for each arm of `Command.action`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "documented at `Command.action` in the contract")]
pub enum ActionKind {
    CheckServer,
    CreateReplicationRole,
    ReachPeer,
    SetReplicaIdentity,
    CreatePublication,
    CloseDatabase,
    RestoreSchema,
    CreateSlot,
    CopyTables,
    CreateSubscription,
    AwaitCopy,
    AwaitLag,
    CountRows,
    CompareRows,
    PrepareCutover,
    RaiseBarrier,
    DrainToMarker,
    FenceSource,
    OpenDestination,
    ReleaseBarrier,
    FinishMigration,
}

impl ActionKind {
    /// The name used in logs, spans and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CheckServer => "check_server",
            Self::CreateReplicationRole => "create_replication_role",
            Self::ReachPeer => "reach_peer",
            Self::SetReplicaIdentity => "set_replica_identity",
            Self::CreatePublication => "create_publication",
            Self::CloseDatabase => "close_database",
            Self::RestoreSchema => "restore_schema",
            Self::CreateSlot => "create_slot",
            Self::CopyTables => "copy_tables",
            Self::CreateSubscription => "create_subscription",
            Self::AwaitCopy => "await_copy",
            Self::AwaitLag => "await_lag",
            Self::CountRows => "count_rows",
            Self::CompareRows => "compare_rows",
            Self::PrepareCutover => "prepare_cutover",
            Self::RaiseBarrier => "raise_barrier",
            Self::DrainToMarker => "drain_to_marker",
            Self::FenceSource => "fence_source",
            Self::OpenDestination => "open_destination",
            Self::ReleaseBarrier => "release_barrier",
            Self::FinishMigration => "finish_migration",
        }
    }
}

/// When an act begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Once everything before it in the step is done.
    InTurn,
    /// Together with the act before it.
    WithPrevious,
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
    /// The operator types `pgportage finish`.
    Finish,
}

/// In which order the acts of a step are taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WayBack {
    /// The reverse of the way there, one act at a time.
    Strict,
    /// The reverse on each side, the sides independently of each other: a
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
    pub kind: ActionKind,
    /// When it begins.
    pub order: Order,
    /// How it is taken back.
    pub undo: Undo,
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
    pub way_back: WayBack,
}

impl StepRow {
    /// Whether everything the step leaves behind can be taken back.
    #[must_use]
    pub fn undoable(&self) -> bool {
        !self.has_point_of_no_return() && self.name != StepName::Finish
    }

    /// Whether nothing can be taken back once this step has succeeded.
    #[must_use]
    pub fn has_point_of_no_return(&self) -> bool {
        self.acts.iter().any(|act| act.undo == Undo::Never)
    }
}

const fn source(kind: ActionKind, undo: Undo) -> ActRow {
    ActRow { side: Side::Source, kind, order: Order::InTurn, undo }
}

const fn destination(kind: ActionKind, undo: Undo) -> ActRow {
    ActRow { side: Side::Destination, kind, order: Order::InTurn, undo }
}

const fn at_the_same_time(act: ActRow) -> ActRow {
    ActRow { order: Order::WithPrevious, ..act }
}

use ActionKind as Do;
use Undo::{Never, Nothing, TakeBack, TakeBackAndForget, TakeBackFirst};

/// **The table**: every step of a migration, in order.
pub const TABLE: &[StepRow] = &[
    StepRow {
        name: StepName::Inspect,
        hold: None,
        acts: &[source(Do::CheckServer, Nothing), destination(Do::CheckServer, Nothing)],
        way_back: WayBack::Strict,
    },
    StepRow {
        name: StepName::Connect,
        hold: None,
        acts: &[
            source(Do::CreateReplicationRole, TakeBackAndForget),
            destination(Do::ReachPeer, TakeBackAndForget),
            source(Do::ReachPeer, Nothing),
        ],
        way_back: WayBack::Strict,
    },
    StepRow {
        name: StepName::Identity,
        hold: None,
        acts: &[source(Do::SetReplicaIdentity, TakeBack)],
        way_back: WayBack::Strict,
    },
    StepRow {
        name: StepName::Publication,
        hold: None,
        acts: &[source(Do::CreatePublication, TakeBack)],
        way_back: WayBack::Strict,
    },
    StepRow {
        name: StepName::Close,
        hold: None,
        acts: &[destination(Do::CloseDatabase, TakeBack)],
        way_back: WayBack::Strict,
    },
    StepRow {
        name: StepName::Schema,
        hold: None,
        acts: &[destination(Do::RestoreSchema, TakeBack)],
        way_back: WayBack::Strict,
    },
    StepRow {
        name: StepName::Copy,
        hold: None,
        // Rows go with the tables: taking the schema back empties the database.
        acts: &[source(Do::CreateSlot, TakeBack), destination(Do::CopyTables, Nothing)],
        way_back: WayBack::Strict,
    },
    StepRow {
        name: StepName::Subscribe,
        hold: None,
        acts: &[destination(Do::CreateSubscription, TakeBack)],
        way_back: WayBack::Strict,
    },
    StepRow {
        name: StepName::CatchUp,
        hold: None,
        acts: &[destination(Do::AwaitCopy, Nothing), source(Do::AwaitLag, Nothing)],
        way_back: WayBack::Strict,
    },
    StepRow {
        name: StepName::Verify,
        hold: None,
        // After a break the destination may be behind by more than what changes
        // while rows are counted: first the stream has to be level again.
        acts: &[
            source(Do::AwaitLag, Nothing),
            source(Do::CountRows, Nothing),
            destination(Do::CountRows, Nothing),
            source(Do::CountRows, Nothing),
            // Only where that was asked for: `State::due`.
            destination(Do::CompareRows, Nothing),
        ],
        way_back: WayBack::Strict,
    },
    StepRow {
        name: StepName::Cutover,
        hold: Some(Hold::Cutover),
        acts: &[
            source(Do::PrepareCutover, TakeBack),
            at_the_same_time(destination(Do::PrepareCutover, TakeBack)),
            source(Do::RaiseBarrier, TakeBack),
            destination(Do::DrainToMarker, TakeBack),
            source(Do::FenceSource, TakeBackFirst),
            // ---- The point of no return.
            destination(Do::OpenDestination, Never),
            source(Do::ReleaseBarrier, Nothing),
        ],
        way_back: WayBack::EachSide,
    },
    StepRow {
        name: StepName::Finish,
        hold: Some(Hold::Finish),
        acts: &[destination(Do::FinishMigration, Nothing), source(Do::FinishMigration, Nothing)],
        way_back: WayBack::Strict,
    },
];

/// One act of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ActRef {
    /// The step.
    pub step: StepName,
    /// Its place among the acts of the step.
    pub index: usize,
}

impl ActRef {
    /// Its row of [`TABLE`], if there is one.
    #[must_use]
    pub fn row(self) -> Option<&'static ActRow> {
        self.step.row().acts.get(self.index)
    }

    /// The only act of that kind and side in a step.
    #[must_use]
    pub fn find(step: StepName, side: Side, kind: ActionKind) -> Option<Self> {
        let index = step.row().acts.iter().position(|act| act.side == side && act.kind == kind)?;
        Some(Self { step, index })
    }

    /// The act that nothing takes back.
    pub const OPEN: Self = Self { step: StepName::Cutover, index: 5 };
    /// The act whose start begins the outage.
    pub const RAISE: Self = Self { step: StepName::Cutover, index: 2 };
    /// The drain.
    pub const DRAIN: Self = Self { step: StepName::Cutover, index: 3 };
    /// The durable fence.
    pub const FENCE: Self = Self { step: StepName::Cutover, index: 4 };
    /// The end of the barrier, after the destination has opened.
    pub const RELEASE: Self = Self { step: StepName::Cutover, index: 6 };
}

#[cfg(test)]
mod tests {
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
    fn named_acts_are_what_they_say() {
        for (act, kind) in [
            (ActRef::RAISE, Do::RaiseBarrier),
            (ActRef::DRAIN, Do::DrainToMarker),
            (ActRef::FENCE, Do::FenceSource),
            (ActRef::OPEN, Do::OpenDestination),
            (ActRef::RELEASE, Do::ReleaseBarrier),
        ] {
            assert_eq!(act.row().map(|row| row.kind), Some(kind));
        }
    }

    #[test]
    fn there_is_one_point_of_no_return() {
        let points: Vec<_> = TABLE.iter().flat_map(|row| row.acts).filter(|act| act.undo == Never).collect();
        assert_eq!(points.len(), 1);
        assert_eq!(points[0].kind, Do::OpenDestination);
    }
}
