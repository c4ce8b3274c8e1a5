//! What agents without trouble answer.

use std::time::Duration;

use super::super::act::await_copy::{AwaitCopy, AwaitCopyResult};
use super::super::act::await_lag::{AwaitLag, AwaitLagResult};
use super::super::act::close_database::{CloseDatabase, CloseDatabaseResult};
use super::super::act::copy_tables::{Copied, CopyTables};
use super::super::act::create_publication::{CreatePublication, CreatePublicationResult};
use super::super::act::create_replication_role::{CreateReplicationRole, CreateReplicationRoleResult};
use super::super::act::create_slot::{CreateSlot, CreateSlotResult};
use super::super::act::create_subscription::{CreateSubscription, CreateSubscriptionResult};
use super::super::act::create_way_back::{CreateWayBack, CreateWayBackResult};
use super::super::act::drain_to_marker::{DrainToMarker, DrainToMarkerResult};
use super::super::act::finish_migration::{FinishMigration, FinishMigrationResult};
use super::super::act::follow_stream::{FollowStream, FollowStreamResult};
use super::super::act::keep_stream::{KeepStream, KeepStreamResult};
use super::super::act::open_destination::{OpenDestination, OpenDestinationResult};
use super::super::act::prepare_cutover::{PrepareCutover, PrepareCutoverResult};
use super::super::act::reach_peer::{ReachPeer, Reached};
use super::super::act::release_barrier::{ReleaseBarrier, ReleaseBarrierResult};
use super::super::act::restore_schema::{RestoreSchema, RestoreSchemaResult};
use super::super::act::sequence::SequenceState;
use super::super::act::set_replica_identity::{SetReplicaIdentity, SetReplicaIdentityResult};
use super::super::act::{
    Barrier, CertifySwitch, CheckServer, CheckServerResult, CompareRows, CountRows, Digest, Fence, FenceSource, Input,
    Inventory, Outcome, RaiseBarrier, RelationName, RowComparison, RowCounts, SignedStatement, WrittenRows,
};
use super::super::{ActKind, ActRef};

fn sequence(last_value: i64) -> SequenceState {
    SequenceState {
        sequence: RelationName { schema: "public".to_owned(), relation: "ids".to_owned() },
        last_value,
        called: true,
    }
}

/// What an agent without trouble answers.
pub(crate) fn outcome(act: ActRef, input: &Input) -> Outcome {
    match act.kind().unwrap() {
        ActKind::CheckServer => {
            Outcome::of::<CheckServer>(CheckServerResult { inventory: Inventory::default(), findings: Vec::new() })
        }
        ActKind::CreateReplicationRole => {
            Outcome::of::<CreateReplicationRole>(CreateReplicationRoleResult { role_name: "r".to_owned() })
        }
        ActKind::ReachPeer => Outcome::of::<ReachPeer>(Reached {
            round_trip: Duration::from_millis(1),
            software_version: "0".to_owned(),
            relayed: false,
        }),
        ActKind::SetReplicaIdentity => Outcome::of::<SetReplicaIdentity>(SetReplicaIdentityResult { table_count: 0 }),
        ActKind::CreatePublication => Outcome::of::<CreatePublication>(CreatePublicationResult {
            publication_name: "p".to_owned(),
            table_count: 1,
        }),
        ActKind::CloseDatabase => Outcome::of::<CloseDatabase>(CloseDatabaseResult { terminated_session_count: 0 }),
        ActKind::RestoreSchema => {
            Outcome::of::<RestoreSchema>(RestoreSchemaResult { dump_digest: Digest(vec![1]), object_count: 1 })
        }
        ActKind::CreateSlot => Outcome::of::<CreateSlot>(CreateSlotResult {
            slot_name: "s".to_owned(),
            consistent_point: "0/1".to_owned(),
        }),
        ActKind::CopyTables => Outcome::of::<CopyTables>(Copied {
            table_count: 1,
            consistent_point: "0/1".to_owned(),
            ..Copied::default()
        }),
        ActKind::CreateSubscription => Outcome::of::<CreateSubscription>(CreateSubscriptionResult {
            subscription_name: "s".to_owned(),
            table_count: 1,
        }),
        ActKind::AwaitCopy => Outcome::of::<AwaitCopy>(AwaitCopyResult { table_count: 1 }),
        ActKind::AwaitLag => Outcome::of::<AwaitLag>(AwaitLagResult { lag: Duration::from_millis(3) }),
        ActKind::CreateWayBack => {
            Outcome::of::<CreateWayBack>(CreateWayBackResult { subscription_name: "b".to_owned(), table_count: 1 })
        }
        ActKind::KeepStream => Outcome::of::<KeepStream>(KeepStreamResult { begin_lsn: "0/4".to_owned() }),
        ActKind::FollowStream => {
            Outcome::of::<FollowStream>(FollowStreamResult { first_arrival: Duration::from_millis(5) })
        }
        ActKind::CountRows => Outcome::of::<CountRows>(RowCounts::default()),
        ActKind::CompareRows => {
            Outcome::of::<CompareRows>(RowComparison { complete: true, ..RowComparison::default() })
        }
        ActKind::PrepareCutover => Outcome::of::<PrepareCutover>(PrepareCutoverResult {
            table_set_digest: Digest(vec![1]),
            catalog_digest: Digest(vec![2]),
            table_count: 1,
        }),
        ActKind::RaiseBarrier => Outcome::of::<RaiseBarrier>(Barrier {
            marker_id: "m".to_owned(),
            sequences: vec![sequence(10)],
            catalog_digest: Digest(vec![2]),
            ..Barrier::default()
        }),
        ActKind::DrainToMarker => Outcome::of::<DrainToMarker>(DrainToMarkerResult {
            drain_time: Duration::from_millis(3),
            sequence_count: 1,
            flush_lsn: "0/2".to_owned(),
            compared: input
                .read()
                .is_some_and(|given: &DrainToMarker| given.compare_limit.is_some())
                .then(WrittenRows::default),
        }),
        ActKind::FenceSource => Outcome::of::<FenceSource>(Fence {
            sequences: vec![sequence(20)],
            catalog_digest: Digest(vec![2]),
            ..Fence::default()
        }),
        ActKind::OpenDestination => {
            Outcome::of::<OpenDestination>(OpenDestinationResult { open_lsn: "0/3".to_owned() })
        }
        ActKind::ReleaseBarrier => {
            Outcome::of::<ReleaseBarrier>(ReleaseBarrierResult { barrier_time: Duration::from_millis(9) })
        }
        ActKind::CertifySwitch => Outcome::of::<CertifySwitch>(SignedStatement::default()),
        ActKind::FinishMigration => {
            Outcome::of::<FinishMigration>(FinishMigrationResult { unfence_statements: vec!["GRANT …".to_owned()] })
        }
    }
}
