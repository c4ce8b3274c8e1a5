//! The kinds of work an agent knows.

use serde::{Deserialize, Serialize};

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
    CreateWayBack,
    CountRows,
    CompareRows,
    PrepareCutover,
    RaiseBarrier,
    DrainToMarker,
    FenceSource,
    OpenDestination,
    ReleaseBarrier,
    KeepStream,
    FollowStream,
    CertifySwitch,
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
            Self::CreateWayBack => "create_way_back",
            Self::CountRows => "count_rows",
            Self::CompareRows => "compare_rows",
            Self::PrepareCutover => "prepare_cutover",
            Self::RaiseBarrier => "raise_barrier",
            Self::DrainToMarker => "drain_to_marker",
            Self::FenceSource => "fence_source",
            Self::OpenDestination => "open_destination",
            Self::ReleaseBarrier => "release_barrier",
            Self::KeepStream => "keep_stream",
            Self::FollowStream => "follow_stream",
            Self::CertifySwitch => "certify_switch",
            Self::FinishMigration => "finish_migration",
        }
    }
}
