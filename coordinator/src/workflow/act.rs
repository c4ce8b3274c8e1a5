//! The acts, each in a file: what it is given, what it produces, how both travel, and
//! what it will run.
//!
//! A row of [`TABLE`](super::TABLE) points at an [`Act`]. To add one: a file here, its
//! `mod` line, its arm in [`Input`] and in [`Outcome`], and its row of the table.
//! `Input` and `Outcome` are stored: their names and fields never change their form.

mod await_copy;
mod await_lag;
mod certify_switch;
mod check_server;
mod close_database;
mod compare_rows;
mod copy_tables;
mod count_rows;
mod create_publication;
mod create_replication_role;
mod create_slot;
mod create_subscription;
mod create_way_back;
mod drain_to_marker;
mod fence_source;
mod finish_migration;
mod follow_stream;
mod keep_stream;
mod open_destination;
mod prepare_cutover;
mod raise_barrier;
mod reach_peer;
mod release_barrier;
mod restore_schema;
mod sequence;
mod set_replica_identity;

use std::fmt;

pub use super::digest::Digest;
use pgportage_link::Failure;
use pgportage_proto::Reason;
pub use pgportage_proto::RelationName;
pub use pgportage_proto::v1::command::Action as Message;
pub use pgportage_proto::v1::command_result::Result as Produced;
use serde::{Deserialize, Serialize};

use super::plan::Situation;
use super::state::State;
use super::statement::{Basis, Statements};
use super::{ActKind, ActRef};

pub use await_copy::{AWAIT_COPY, AwaitCopyResult};
pub use await_lag::{AWAIT_LAG, AwaitLag, AwaitLagResult};
pub use certify_switch::{CERTIFY_SWITCH, CertifySwitch, SignedStatement};
pub use check_server::{
    CHECK_SERVER, CheckServer, CheckServerResult, ConnectGrant, Extension, Inventory, PlanMaterial, PlannedRole,
    PlannedTable, SessionGroup,
};
pub use close_database::{CLOSE_DATABASE, CloseDatabaseResult};
pub use compare_rows::{COMPARE_ROWS, CompareRows, RowComparison, TableComparison};
pub use copy_tables::{COPY_TABLES, Copied, CopyTables};
pub use count_rows::{COUNT_ROWS, CountRows, RowCounts, SchemaObject, SequencePlace, TableCount};
pub use create_publication::{CREATE_PUBLICATION, CreatePublicationResult};
pub use create_replication_role::{CREATE_REPLICATION_ROLE, CreateReplicationRoleResult};
pub use create_slot::{CREATE_SLOT, CreateSlot, CreateSlotResult};
pub use create_subscription::{CREATE_SUBSCRIPTION, CreateSubscription, CreateSubscriptionResult};
pub use create_way_back::{CREATE_WAY_BACK, CreateWayBackResult};
pub use drain_to_marker::{DRAIN_TO_MARKER, DrainToMarker, DrainToMarkerResult, WrittenRows};
pub use fence_source::{FENCE_SOURCE, Fence, FenceSource};
pub use finish_migration::{FINISH_MIGRATION, FinishMigration, FinishMigrationResult};
pub use follow_stream::{FOLLOW_STREAM, FollowStream, FollowStreamResult};
pub use keep_stream::{KEEP_STREAM, KeepStream, KeepStreamResult};
pub use open_destination::{OPEN_DESTINATION, OpenDestination, OpenDestinationResult};
pub use prepare_cutover::{PREPARE_CUTOVER, PrepareCutover, PrepareCutoverResult};
pub use raise_barrier::{Barrier, RAISE_BARRIER, RaiseBarrier};
pub use reach_peer::{REACH_PEER, Reached};
pub use release_barrier::{RELEASE_BARRIER, ReleaseBarrier, ReleaseBarrierResult};
pub use restore_schema::{RESTORE_SCHEMA, RestoreSchema, RestoreSchemaResult};
pub use sequence::SequenceState;
pub use set_replica_identity::{SET_REPLICA_IDENTITY, SetReplicaIdentity, SetReplicaIdentityResult};

/// Everything that the coordinator knows of one kind of act.
pub struct Act {
    /// Its name.
    pub kind: ActKind,
    /// What it is given, made from what earlier acts produced. `None` when that is
    /// missing, which the table's order rules out.
    pub input: fn(&State, ActRef, &Situation) -> Option<Input>,
    /// Its input as it is sent. `None` for the input of another kind.
    pub send: fn(&Input) -> Option<Message>,
    /// Whether it is what this kind of act produces.
    pub produces: fn(&Outcome) -> bool,
    /// What it produced, as an agent reports it.
    pub receive: fn(Produced) -> Result<Outcome, Failure>,
    /// What it will run on either server.
    pub statements: fn(&Basis<'_>) -> Statements,
}

impl fmt::Debug for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.as_str())
    }
}

/// The failure of an act whose agent reports something of another kind.
fn something_else() -> Failure {
    Failure::new(Reason::Internal, "the agent produced something else than it was asked for")
        .hint("Install the same release everywhere.")
}

/// What an act is given. Stored with the intent, so that a command sent again is the
/// same command. One variant for each [`ActKind`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "documented at `Command.action` in the contract")]
pub enum Input {
    CheckServer(CheckServer),
    CreateReplicationRole,
    ReachPeer,
    SetReplicaIdentity(SetReplicaIdentity),
    CreatePublication,
    CloseDatabase,
    RestoreSchema(RestoreSchema),
    CreateSlot(CreateSlot),
    CopyTables(CopyTables),
    CreateSubscription(CreateSubscription),
    AwaitCopy,
    AwaitLag(AwaitLag),
    CreateWayBack,
    CountRows(CountRows),
    CompareRows(CompareRows),
    PrepareCutover(PrepareCutover),
    RaiseBarrier(RaiseBarrier),
    DrainToMarker(DrainToMarker),
    FenceSource(FenceSource),
    OpenDestination(OpenDestination),
    ReleaseBarrier(ReleaseBarrier),
    KeepStream(KeepStream),
    FollowStream(FollowStream),
    CertifySwitch(CertifySwitch),
    FinishMigration(FinishMigration),
}

/// What an act produced, in names, numbers and hashes. One variant for each
/// [`ActKind`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "documented at `CommandResult.result` in the contract")]
pub enum Outcome {
    CheckServer(CheckServerResult),
    CreateReplicationRole(CreateReplicationRoleResult),
    ReachPeer(Reached),
    SetReplicaIdentity(SetReplicaIdentityResult),
    CreatePublication(CreatePublicationResult),
    CloseDatabase(CloseDatabaseResult),
    RestoreSchema(RestoreSchemaResult),
    CreateSlot(CreateSlotResult),
    CopyTables(Copied),
    CreateSubscription(CreateSubscriptionResult),
    AwaitCopy(AwaitCopyResult),
    AwaitLag(AwaitLagResult),
    CreateWayBack(CreateWayBackResult),
    CountRows(RowCounts),
    CompareRows(RowComparison),
    PrepareCutover(PrepareCutoverResult),
    RaiseBarrier(Barrier),
    DrainToMarker(DrainToMarkerResult),
    FenceSource(Fence),
    OpenDestination(OpenDestinationResult),
    ReleaseBarrier(ReleaseBarrierResult),
    KeepStream(KeepStreamResult),
    FollowStream(FollowStreamResult),
    CertifySwitch(SignedStatement),
    FinishMigration(FinishMigrationResult),
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fact::Event;
    use super::super::{CopyMethod, TABLE};
    use super::*;

    /// As the release before stored them.
    #[test]
    fn stored_forms_are_kept() {
        for (input, form) in [
            (Input::CreatePublication, json!("create_publication")),
            (
                Input::CreateSlot(CreateSlot { copy_method: CopyMethod::Native }),
                json!({"create_slot": {"copy_method": "native"}}),
            ),
            (Input::KeepStream(KeepStream { cutover_epoch: 3 }), json!({"keep_stream": {"cutover_epoch": 3}})),
        ] {
            assert_eq!(serde_json::to_value(&input).unwrap(), form);
            assert_eq!(serde_json::from_value::<Input>(form).unwrap(), input);
        }
        let event = json!({"kind": "verification_requested", "trace": {},
            "scrutiny": {"rows": {"comparison_id": 7, "time_limit": null, "repair": false}}});
        let read: Event = serde_json::from_value(event.clone()).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), event);
        let read: Outcome = serde_json::from_value(json!({"check_server": {"findings": [],
            "inventory": {"server_version_num": 160004, "table_count": 3}}}))
        .unwrap();
        let Outcome::CheckServer(CheckServerResult { inventory, .. }) = read else { panic!() };
        assert_eq!((inventory.table_count, inventory.plan_material), (3, None));
        let restored = RestoreSchemaResult { dump_digest: Digest(vec![1]), object_count: 2 };
        let form = json!({"restore_schema": {"dump_digest": "01", "object_count": 2}});
        assert_eq!(serde_json::to_value(Outcome::RestoreSchema(restored)).unwrap(), form);
    }

    #[test]
    fn every_kind_is_in_the_table() {
        let acts: Vec<_> = TABLE.iter().flat_map(|row| row.acts).map(|row| row.act.kind).collect();
        for kind in ActKind::ALL {
            assert!(acts.contains(kind), "{kind:?}");
        }
    }

    #[test]
    fn an_act_takes_and_gives_its_own_kind_only() {
        let produced = || Produced::AwaitCopy(pgportage_proto::v1::AwaitCopyResult::default());
        for row in TABLE.iter().flat_map(|row| row.acts) {
            let own = row.act.kind == ActKind::AwaitCopy;
            assert_eq!((row.act.send)(&Input::AwaitCopy).is_some(), own, "{:?}", row.act);
            assert_eq!((row.act.receive)(produced()).is_ok(), own, "{:?}", row.act);
        }
    }
}
