//! What acts are given. Stored with the intent, so that a command sent again is
//! the same command.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ActKind;
use super::finding::Consent;
use super::outcome::{Digest, Inventory, RelationName, SequenceState};
use super::spec::{ConnectionPath, CopyMethod};

/// The input of an act. One variant for each [`ActKind`].
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
        without_poolers: bool,
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
    pub fn kind(&self) -> ActKind {
        match self {
            Self::CheckServer { .. } => ActKind::CheckServer,
            Self::CreateReplicationRole => ActKind::CreateReplicationRole,
            Self::ReachPeer => ActKind::ReachPeer,
            Self::SetReplicaIdentity { .. } => ActKind::SetReplicaIdentity,
            Self::CreatePublication => ActKind::CreatePublication,
            Self::CloseDatabase => ActKind::CloseDatabase,
            Self::RestoreSchema { .. } => ActKind::RestoreSchema,
            Self::CreateSlot { .. } => ActKind::CreateSlot,
            Self::CopyTables { .. } => ActKind::CopyTables,
            Self::CreateSubscription { .. } => ActKind::CreateSubscription,
            Self::AwaitCopy => ActKind::AwaitCopy,
            Self::AwaitLag { .. } => ActKind::AwaitLag,
            Self::CreateWayBack => ActKind::CreateWayBack,
            Self::CountRows { .. } => ActKind::CountRows,
            Self::CompareRows { .. } => ActKind::CompareRows,
            Self::PrepareCutover { .. } => ActKind::PrepareCutover,
            Self::RaiseBarrier { .. } => ActKind::RaiseBarrier,
            Self::DrainToMarker { .. } => ActKind::DrainToMarker,
            Self::FenceSource { .. } => ActKind::FenceSource,
            Self::OpenDestination { .. } => ActKind::OpenDestination,
            Self::ReleaseBarrier { .. } => ActKind::ReleaseBarrier,
            Self::KeepStream { .. } => ActKind::KeepStream,
            Self::FollowStream { .. } => ActKind::FollowStream,
            Self::CertifySwitch { .. } => ActKind::CertifySwitch,
            Self::FinishMigration { .. } => ActKind::FinishMigration,
        }
    }
}
