//! The closed set of what an agent can be told to do.
//!
//! **Invariant:** nothing outside [`Action`] is ever carried out. No SQL, no
//! path and no address is part of one.

use std::fmt;

use crate::migration::Side;

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
    /// Source: the role that the subscription logs in as.
    CreateReplicationRole = "create_replication_role",
    /// Calls the other agent.
    ReachPeer = "reach_peer",
    /// Source: a replica identity for tables without one.
    SetReplicaIdentity = "set_replica_identity",
    /// Source: our schema and the publication.
    CreatePublication = "create_publication",
    /// Destination: applications are kept out.
    CloseDatabase = "close_database",
    /// Destination: the source's schema.
    RestoreSchema = "restore_schema",
    /// Source: the replication slot.
    CreateSlot = "create_slot",
    /// Destination: the subscription.
    CreateSubscription = "create_subscription",
    /// Destination: the initial copy is ready.
    AwaitCopy = "await_copy",
    /// Source: the lag is under its limit.
    AwaitLag = "await_lag",
    /// Row counts and schema objects.
    CountRows = "count_rows",
    /// P0.
    PrepareCutover = "prepare_cutover",
    /// Source: P1 and P2.
    RaiseBarrier = "raise_barrier",
    /// Destination: P3.
    DrainToMarker = "drain_to_marker",
    /// Source: P4; its undo is P6a.
    FenceSource = "fence_source",
    /// Destination: P6, the decision.
    OpenDestination = "open_destination",
    /// Source: P7.
    ReleaseBarrier = "release_barrier",
    /// Everything of ours is removed.
    FinishMigration = "finish_migration",
}

impl ActionKind {
    /// The only side it makes sense on, or none when both can do it.
    #[must_use]
    pub fn side(self) -> Option<Side> {
        match self {
            Self::CheckServer | Self::ReachPeer | Self::CountRows | Self::PrepareCutover | Self::FinishMigration => {
                None
            }
            Self::CreateReplicationRole
            | Self::SetReplicaIdentity
            | Self::CreatePublication
            | Self::CreateSlot
            | Self::AwaitLag
            | Self::RaiseBarrier
            | Self::FenceSource
            | Self::ReleaseBarrier => Some(Side::Source),
            Self::CloseDatabase
            | Self::RestoreSchema
            | Self::CreateSubscription
            | Self::AwaitCopy
            | Self::DrainToMarker
            | Self::OpenDestination => Some(Side::Destination),
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
