//! What acts are given. Stored with the intent, so that a command sent again is
//! the same command.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ActionKind;
use super::finding::Consent;
use super::outcome::{Digest, Inventory, RelationName, SequenceState};
use super::spec::{ConnectionPath, CopyMethod};

/// The input of an act. One variant for each [`ActionKind`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "documented at `Command.action` in the contract")]
pub enum Input {
    CheckServer {
        source: Option<Inventory>,
        consents: Vec<Consent>,
        #[serde(default)]
        way_back: bool,
    },
    CreateReplicationRole,
    ReachPeer,
    SetReplicaIdentity {
        tables: Vec<RelationName>,
    },
    CreatePublication,
    CloseDatabase,
    RestoreSchema {
        copy_method: CopyMethod,
    },
    CreateSlot {
        copy_method: CopyMethod,
    },
    CopyTables {
        copy_method: CopyMethod,
    },
    CreateSubscription {
        connection_path: ConnectionPath,
        copy_method: CopyMethod,
    },
    AwaitCopy,
    AwaitLag {
        max_lag: Duration,
        stable_window: Duration,
    },
    CreateWayBack,
    CountRows {
        tables: Vec<RelationName>,
        #[serde(default)]
        objects_only: bool,
        #[serde(default)]
        sequences: bool,
    },
    CompareRows {
        comparison_id: i64,
        time_limit: Option<Duration>,
        repair: bool,
    },
    PrepareCutover {
        cutover_epoch: i64,
        max_outage: Duration,
        #[serde(default)]
        rollback: bool,
        #[serde(default)]
        way_back: bool,
        #[serde(default)]
        rehearsal: bool,
        #[serde(default)]
        compare_written: bool,
    },
    RaiseBarrier {
        cutover_epoch: i64,
        max_outage: Duration,
    },
    DrainToMarker {
        cutover_epoch: i64,
        marker_id: String,
        sequences: Vec<SequenceState>,
        open_timeout: Duration,
        catalog_digest: Digest,
        #[serde(default)]
        compare_limit: Option<Duration>,
    },
    FenceSource {
        cutover_epoch: i64,
        marker_id: String,
    },
    OpenDestination {
        cutover_epoch: i64,
        sequences: Vec<SequenceState>,
    },
    ReleaseBarrier {
        cutover_epoch: i64,
    },
    KeepStream {
        cutover_epoch: i64,
    },
    FollowStream {
        cutover_epoch: i64,
    },
    CertifySwitch {
        cutover_epoch: i64,
        rollback: bool,
    },
    FinishMigration {
        identity_full_tables: Vec<RelationName>,
    },
}

impl Input {
    /// The kind of act this belongs to.
    #[must_use]
    pub fn kind(&self) -> ActionKind {
        match self {
            Self::CheckServer { .. } => ActionKind::CheckServer,
            Self::CreateReplicationRole => ActionKind::CreateReplicationRole,
            Self::ReachPeer => ActionKind::ReachPeer,
            Self::SetReplicaIdentity { .. } => ActionKind::SetReplicaIdentity,
            Self::CreatePublication => ActionKind::CreatePublication,
            Self::CloseDatabase => ActionKind::CloseDatabase,
            Self::RestoreSchema { .. } => ActionKind::RestoreSchema,
            Self::CreateSlot { .. } => ActionKind::CreateSlot,
            Self::CopyTables { .. } => ActionKind::CopyTables,
            Self::CreateSubscription { .. } => ActionKind::CreateSubscription,
            Self::AwaitCopy => ActionKind::AwaitCopy,
            Self::AwaitLag { .. } => ActionKind::AwaitLag,
            Self::CreateWayBack => ActionKind::CreateWayBack,
            Self::CountRows { .. } => ActionKind::CountRows,
            Self::CompareRows { .. } => ActionKind::CompareRows,
            Self::PrepareCutover { .. } => ActionKind::PrepareCutover,
            Self::RaiseBarrier { .. } => ActionKind::RaiseBarrier,
            Self::DrainToMarker { .. } => ActionKind::DrainToMarker,
            Self::FenceSource { .. } => ActionKind::FenceSource,
            Self::OpenDestination { .. } => ActionKind::OpenDestination,
            Self::ReleaseBarrier { .. } => ActionKind::ReleaseBarrier,
            Self::KeepStream { .. } => ActionKind::KeepStream,
            Self::FollowStream { .. } => ActionKind::FollowStream,
            Self::CertifySwitch { .. } => ActionKind::CertifySwitch,
            Self::FinishMigration { .. } => ActionKind::FinishMigration,
        }
    }
}
