//! What agents without trouble answer.

use std::time::Duration;

use super::super::act::await_copy::AwaitCopyResult;
use super::super::act::await_lag::AwaitLagResult;
use super::super::act::close_database::CloseDatabaseResult;
use super::super::act::copy_tables::Copied;
use super::super::act::create_publication::CreatePublicationResult;
use super::super::act::create_replication_role::CreateReplicationRoleResult;
use super::super::act::create_slot::CreateSlotResult;
use super::super::act::create_subscription::CreateSubscriptionResult;
use super::super::act::create_way_back::CreateWayBackResult;
use super::super::act::drain_to_marker::DrainToMarker;
use super::super::act::follow_stream::FollowStreamResult;
use super::super::act::keep_stream::KeepStreamResult;
use super::super::act::release_barrier::ReleaseBarrierResult;
use super::super::act::restore_schema::RestoreSchemaResult;
use super::super::act::set_replica_identity::SetReplicaIdentityResult;
use super::super::act::{
    Barrier, CheckServerResult, Digest, DrainToMarkerResult, Fence, FinishMigrationResult, Input, Inventory,
    OpenDestinationResult, Outcome, PrepareCutoverResult, Reached, RelationName, RowComparison, RowCounts,
    SequenceState, SignedStatement, WrittenRows,
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
            Outcome::of(CheckServerResult { inventory: Inventory::default(), findings: Vec::new() })
        }
        ActKind::CreateReplicationRole => Outcome::of(CreateReplicationRoleResult { role_name: "r".to_owned() }),
        ActKind::ReachPeer => Outcome::of(Reached {
            round_trip: Duration::from_millis(1),
            software_version: "0".to_owned(),
            relayed: false,
        }),
        ActKind::SetReplicaIdentity => Outcome::of(SetReplicaIdentityResult { table_count: 0 }),
        ActKind::CreatePublication => {
            Outcome::of(CreatePublicationResult { publication_name: "p".to_owned(), table_count: 1 })
        }
        ActKind::CloseDatabase => Outcome::of(CloseDatabaseResult { terminated_session_count: 0 }),
        ActKind::RestoreSchema => Outcome::of(RestoreSchemaResult { dump_digest: Digest(vec![1]), object_count: 1 }),
        ActKind::CreateSlot => {
            Outcome::of(CreateSlotResult { slot_name: "s".to_owned(), consistent_point: "0/1".to_owned() })
        }
        ActKind::CopyTables => {
            Outcome::of(Copied { table_count: 1, consistent_point: "0/1".to_owned(), ..Copied::default() })
        }
        ActKind::CreateSubscription => {
            Outcome::of(CreateSubscriptionResult { subscription_name: "s".to_owned(), table_count: 1 })
        }
        ActKind::AwaitCopy => Outcome::of(AwaitCopyResult { table_count: 1 }),
        ActKind::AwaitLag => Outcome::of(AwaitLagResult { lag: Duration::from_millis(3) }),
        ActKind::CreateWayBack => {
            Outcome::of(CreateWayBackResult { subscription_name: "b".to_owned(), table_count: 1 })
        }
        ActKind::KeepStream => Outcome::of(KeepStreamResult { begin_lsn: "0/4".to_owned() }),
        ActKind::FollowStream => Outcome::of(FollowStreamResult { first_arrival: Duration::from_millis(5) }),
        ActKind::CountRows => Outcome::of(RowCounts::default()),
        ActKind::CompareRows => Outcome::of(RowComparison { complete: true, ..RowComparison::default() }),
        ActKind::PrepareCutover => Outcome::of(PrepareCutoverResult {
            table_set_digest: Digest(vec![1]),
            catalog_digest: Digest(vec![2]),
            table_count: 1,
        }),
        ActKind::RaiseBarrier => Outcome::of(Barrier {
            marker_id: "m".to_owned(),
            sequences: vec![sequence(10)],
            catalog_digest: Digest(vec![2]),
            ..Barrier::default()
        }),
        ActKind::DrainToMarker => Outcome::of(DrainToMarkerResult {
            drain_time: Duration::from_millis(3),
            sequence_count: 1,
            flush_lsn: "0/2".to_owned(),
            compared: input
                .read()
                .is_some_and(|given: &DrainToMarker| given.compare_limit.is_some())
                .then(WrittenRows::default),
        }),
        ActKind::FenceSource => {
            Outcome::of(Fence { sequences: vec![sequence(20)], catalog_digest: Digest(vec![2]), ..Fence::default() })
        }
        ActKind::OpenDestination => Outcome::of(OpenDestinationResult { open_lsn: "0/3".to_owned() }),
        ActKind::ReleaseBarrier => Outcome::of(ReleaseBarrierResult { barrier_time: Duration::from_millis(9) }),
        ActKind::CertifySwitch => Outcome::of(SignedStatement::default()),
        ActKind::FinishMigration => {
            Outcome::of(FinishMigrationResult { unfence_statements: vec!["GRANT …".to_owned()] })
        }
    }
}
