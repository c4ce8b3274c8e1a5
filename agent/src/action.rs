//! The closed set of what an agent can be told to do.
//!
//! **Invariant:** nothing outside [`Action`] is ever carried out. No SQL, no
//! path and no address is part of one.

mod set;

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use pgportage_link::{Effect, Failure};
use pgportage_proto::Reason;

use crate::migration::{Participation, Side};
use crate::policy::Intent;

pub use set::{Action, Outcome};

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $text:literal,)+) => {
        /// Which action, without its input: the name used in the policy file,
        /// in logs, in metrics and in the ledger.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum ActionKind {
            $($(#[$doc])* $variant,)+
        }

        impl ActionKind {
            /// Every kind, in the order of a migration.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The stable text, for example `create_slot`.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }
    };
}

kinds! {
    /// Reads settings and catalogs; changes nothing.
    CheckServer = "check_server",
    /// Source, and destination for the way back: the role that the other side's
    /// subscription logs in as.
    CreateReplicationRole = "create_replication_role",
    /// Calls the other agent.
    ReachPeer = "reach_peer",
    /// Source: a replica identity for tables without one.
    SetReplicaIdentity = "set_replica_identity",
    /// Source: our schema and the publication. Destination: the publication of the
    /// way back.
    CreatePublication = "create_publication",
    /// Destination: applications are kept out.
    CloseDatabase = "close_database",
    /// Destination: the source's schema.
    RestoreSchema = "restore_schema",
    /// Source, and destination for the way back: the replication slot.
    CreateSlot = "create_slot",
    /// Destination: the rows of the slot's snapshot, then indexes.
    CopyTables = "copy_tables",
    /// Destination: the subscription.
    CreateSubscription = "create_subscription",
    /// Destination: the initial copy is ready.
    AwaitCopy = "await_copy",
    /// Source: the lag is under its limit.
    AwaitLag = "await_lag",
    /// Source: the subscription of the way back, proved and disabled.
    CreateWayBack = "create_way_back",
    /// Row counts and schema objects.
    CountRows = "count_rows",
    /// On the side that follows: rows compared with the other side by their hashes.
    CompareRows = "compare_rows",
    /// P0.
    PrepareCutover = "prepare_cutover",
    /// On the side that is left: P1 and P2.
    RaiseBarrier = "raise_barrier",
    /// On the side that is entered: P3.
    DrainToMarker = "drain_to_marker",
    /// On the side that is left: P4; its undo is P6a.
    FenceSource = "fence_source",
    /// On the side that is entered: P6, the decision.
    OpenDestination = "open_destination",
    /// On the side that is left: P7.
    ReleaseBarrier = "release_barrier",
    /// On the side that was entered: P8, where the way back begins.
    KeepStream = "keep_stream",
    /// On the side that was left: P8, it follows the other one.
    FollowStream = "follow_stream",
    /// On both sides, after the decision: what was seen of the switch, signed.
    CertifySwitch = "certify_switch",
    /// Everything of ours is removed.
    FinishMigration = "finish_migration",
}

impl ActionKind {
    /// Whether it belongs to the way back when this side carries it out: to what only
    /// lets a migration return after its cutover, or to the return itself.
    #[must_use]
    pub fn is_of_the_way_back(self, side: Side) -> bool {
        match self {
            Self::CreateReplicationRole
            | Self::CreatePublication
            | Self::CreateSlot
            | Self::RaiseBarrier
            | Self::FenceSource
            | Self::ReleaseBarrier => side == Side::Destination,
            Self::CompareRows | Self::DrainToMarker | Self::OpenDestination => side == Side::Source,
            Self::CreateWayBack | Self::KeepStream | Self::FollowStream => true,
            Self::CheckServer
            | Self::ReachPeer
            | Self::SetReplicaIdentity
            | Self::CloseDatabase
            | Self::RestoreSchema
            | Self::CopyTables
            | Self::CreateSubscription
            | Self::AwaitCopy
            | Self::AwaitLag
            | Self::CountRows
            | Self::PrepareCutover
            | Self::CertifySwitch
            | Self::FinishMigration => false,
        }
    }

    /// The only side it makes sense on, or none when both can do it.
    #[must_use]
    pub fn side(self) -> Option<Side> {
        match self {
            Self::CheckServer
            | Self::ReachPeer
            | Self::CountRows
            | Self::CompareRows
            | Self::CreateReplicationRole
            | Self::CreatePublication
            | Self::CreateSlot
            | Self::PrepareCutover
            | Self::RaiseBarrier
            | Self::DrainToMarker
            | Self::FenceSource
            | Self::OpenDestination
            | Self::ReleaseBarrier
            | Self::KeepStream
            | Self::FollowStream
            | Self::AwaitLag
            | Self::CertifySwitch
            | Self::FinishMigration => None,
            Self::SetReplicaIdentity | Self::CreateWayBack => Some(Side::Source),
            Self::CloseDatabase
            | Self::RestoreSchema
            | Self::CopyTables
            | Self::CreateSubscription
            | Self::AwaitCopy => Some(Side::Destination),
        }
    }
}

impl fmt::Display for ActionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether an action is carried out or taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verb {
    /// Carry it out.
    Perform,
    /// Take it back. Succeeds when there is nothing to take back.
    Undo,
}

impl Verb {
    /// Both verbs.
    pub const ALL: [Self; 2] = [Self::Perform, Self::Undo];

    /// The word used in logs and in the ledger.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Perform => "perform",
            Self::Undo => "undo",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One typed piece of work, checked.
#[derive(Clone, Debug)]
pub struct Command {
    /// Chosen by the coordinator; the key of everything known about it.
    pub id: String,
    /// The agent's part in the migration, as the coordinator sees it.
    pub participation: Participation,
    /// From 1, growing with every attempt at the same action.
    pub attempt: u32,
    /// How long it may go without progress.
    pub stall_timeout: Duration,
    /// W3C trace context of whoever sent it.
    pub trace_context: HashMap<String, String>,
    /// Epoch of the coordinator that decided.
    pub leader_epoch: i64,
    /// SHA-256 of the plan it belongs to.
    pub plan_digest: Vec<u8>,
    /// Newest heartbeat the coordinator had seen when it decided.
    pub heartbeat_sequence: i64,
    /// Do it, or take it back.
    pub verb: Verb,
    /// What to do.
    pub action: Action,
}

/// Something that happened to a command, numbered and kept by the journal.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// It is stored and will be carried out.
    Accepted,
    /// It is done.
    Succeeded(Outcome),
    /// It is over without success.
    Failed(Failure),
    /// It stopped at a safe point because it was asked to.
    Cancelled(Effect),
}

impl Command {
    /// What the policy is asked.
    #[must_use]
    pub fn intent(&self) -> Intent {
        let (acts, max_outage) = self.action.consequences(self.verb, self.participation.side);
        Intent { kind: self.action.kind(), verb: self.verb, acts, max_outage }
    }

    /// Whether accepting it makes this agent take part in the migration. A mere
    /// question about a server does not.
    #[must_use]
    pub fn begins_participation(&self) -> bool {
        self.action.kind() != ActionKind::CheckServer
    }

    /// Whether its success is the last this agent does for the migration:
    /// finished, or taken back to the first act that touched this side.
    #[must_use]
    pub fn ends_participation(&self) -> bool {
        match (self.action.kind(), self.verb, self.participation.side) {
            (ActionKind::FinishMigration, Verb::Perform, _)
            | (ActionKind::CreateReplicationRole, Verb::Undo, Side::Source)
            | (ActionKind::ReachPeer, Verb::Undo, Side::Destination) => true,
            (_, Verb::Perform | Verb::Undo, Side::Source | Side::Destination) => false,
        }
    }

    /// Whether the side fits the action.
    ///
    /// # Errors
    ///
    /// [`Reason::RequestInvalid`].
    pub fn check_side(&self) -> Result<(), Failure> {
        let (kind, side) = (self.action.kind(), self.participation.side);
        if kind.side().is_some_and(|only| only != side) {
            return Err(Failure::new(Reason::RequestInvalid, format!("{kind} makes no sense on the {side}"))
                .effect(Effect::None));
        }
        Ok(())
    }
}
