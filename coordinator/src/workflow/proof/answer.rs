//! What agents without trouble answer.

use std::time::Duration;

use super::super::act::{
    AwaitCopyResult, AwaitLagResult, Barrier, CheckServerResult, CloseDatabaseResult, Copied, CreatePublicationResult,
    CreateReplicationRoleResult, CreateSlotResult, CreateSubscriptionResult, CreateWayBackResult, Digest,
    DrainToMarkerResult, Fence, FinishMigrationResult, FollowStreamResult, Input, Inventory, KeepStreamResult,
    OpenDestinationResult, Outcome, PrepareCutoverResult, Reached, RelationName, ReleaseBarrierResult,
    RestoreSchemaResult, RowComparison, RowCounts, SequenceState, SetReplicaIdentityResult, SignedStatement,
    WrittenRows,
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
            Outcome::CheckServer(CheckServerResult { inventory: Inventory::default(), findings: Vec::new() })
        }
        ActKind::CreateReplicationRole => {
            Outcome::CreateReplicationRole(CreateReplicationRoleResult { role_name: "r".to_owned() })
        }
        ActKind::ReachPeer => Outcome::ReachPeer(Reached {
            round_trip: Duration::from_millis(1),
            software_version: "0".to_owned(),
            relayed: false,
        }),
        ActKind::SetReplicaIdentity => Outcome::SetReplicaIdentity(SetReplicaIdentityResult { table_count: 0 }),
        ActKind::CreatePublication => {
            Outcome::CreatePublication(CreatePublicationResult { publication_name: "p".to_owned(), table_count: 1 })
        }
        ActKind::CloseDatabase => Outcome::CloseDatabase(CloseDatabaseResult { terminated_session_count: 0 }),
        ActKind::RestoreSchema => {
            Outcome::RestoreSchema(RestoreSchemaResult { dump_digest: Digest(vec![1]), object_count: 1 })
        }
        ActKind::CreateSlot => {
            Outcome::CreateSlot(CreateSlotResult { slot_name: "s".to_owned(), consistent_point: "0/1".to_owned() })
        }
        ActKind::CopyTables => {
            Outcome::CopyTables(Copied { table_count: 1, consistent_point: "0/1".to_owned(), ..Copied::default() })
        }
        ActKind::CreateSubscription => {
            Outcome::CreateSubscription(CreateSubscriptionResult { subscription_name: "s".to_owned(), table_count: 1 })
        }
        ActKind::AwaitCopy => Outcome::AwaitCopy(AwaitCopyResult { table_count: 1 }),
        ActKind::AwaitLag => Outcome::AwaitLag(AwaitLagResult { lag: Duration::from_millis(3) }),
        ActKind::CreateWayBack => {
            Outcome::CreateWayBack(CreateWayBackResult { subscription_name: "b".to_owned(), table_count: 1 })
        }
        ActKind::KeepStream => Outcome::KeepStream(KeepStreamResult { begin_lsn: "0/4".to_owned() }),
        ActKind::FollowStream => Outcome::FollowStream(FollowStreamResult { first_arrival: Duration::from_millis(5) }),
        ActKind::CountRows => Outcome::CountRows(RowCounts::default()),
        ActKind::CompareRows => Outcome::CompareRows(RowComparison { complete: true, ..RowComparison::default() }),
        ActKind::PrepareCutover => Outcome::PrepareCutover(PrepareCutoverResult {
            table_set_digest: Digest(vec![1]),
            catalog_digest: Digest(vec![2]),
            table_count: 1,
        }),
        ActKind::RaiseBarrier => Outcome::RaiseBarrier(Barrier {
            marker_id: "m".to_owned(),
            sequences: vec![sequence(10)],
            catalog_digest: Digest(vec![2]),
            ..Barrier::default()
        }),
        ActKind::DrainToMarker => Outcome::DrainToMarker(DrainToMarkerResult {
            drain_time: Duration::from_millis(3),
            sequence_count: 1,
            flush_lsn: "0/2".to_owned(),
            compared: matches!(input, Input::DrainToMarker(given) if given.compare_limit.is_some())
                .then(WrittenRows::default),
        }),
        ActKind::FenceSource => Outcome::FenceSource(Fence {
            sequences: vec![sequence(20)],
            catalog_digest: Digest(vec![2]),
            ..Fence::default()
        }),
        ActKind::OpenDestination => Outcome::OpenDestination(OpenDestinationResult { open_lsn: "0/3".to_owned() }),
        ActKind::ReleaseBarrier => {
            Outcome::ReleaseBarrier(ReleaseBarrierResult { barrier_time: Duration::from_millis(9) })
        }
        ActKind::CertifySwitch => Outcome::CertifySwitch(SignedStatement::default()),
        ActKind::FinishMigration => {
            Outcome::FinishMigration(FinishMigrationResult { unfence_statements: vec!["GRANT …".to_owned()] })
        }
    }
}
