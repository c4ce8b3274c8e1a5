//! Actions and their results, between the contract and the steps.

use pgportage_link::switch_certificate::SignedStatement;
use pgportage_link::{Effect, Failure};
use pgportage_proto::{Reason, v1};
use uuid::Uuid;

use crate::action::{Action, Outcome};
use crate::pooler::Unreachable;
use crate::postgres::RelationName;
use crate::step::catch_up::{AwaitCopy, AwaitLag};
use crate::step::certify::CertifySwitch;
use crate::step::close::CloseDatabase;
use crate::step::connect::{CreateReplicationRole, ReachPeer};
use crate::step::copy::CopyTables;
use crate::step::cutover::{
    DrainToMarker, FenceSource, OpenDestination, PrepareCutover, RaiseBarrier, ReleaseBarrier, SequencePosition,
    Switch, WrittenRows,
};
use crate::step::finish::FinishMigration;
use crate::step::identity::SetReplicaIdentity;
use crate::step::publication::CreatePublication;
use crate::step::schema::RestoreSchema;
use crate::step::subscribe::{CreateSlot, CreateSubscription};
use crate::step::verify::{CompareRows, CountRows, SequencePlace, TableComparison, TableCount};
use crate::step::way_back::{CreateWayBack, FollowStream, KeepStream};

use super::{count, duration, inventory, missing, reported, span, uncount};

/// Reads what to do.
///
/// # Errors
///
/// [`Reason::UnknownAction`] or [`Reason::RequestInvalid`].
pub(super) fn decode(action: Option<v1::command::Action>) -> Result<Action, Failure> {
    use v1::command::Action as Wire;
    let Some(action) = action else { return Err(unknown()) };
    match action {
        Wire::CheckServer(message) => inventory::decode_check(message).map(Action::CheckServer),
        Wire::CreateReplicationRole(_) => Ok(Action::CreateReplicationRole(CreateReplicationRole)),
        Wire::ReachPeer(_) => Ok(Action::ReachPeer(ReachPeer)),
        Wire::SetReplicaIdentity(message) => decode_set_replica_identity(message).map(Action::SetReplicaIdentity),
        Wire::CreatePublication(_) => Ok(Action::CreatePublication(CreatePublication)),
        Wire::CloseDatabase(_) => Ok(Action::CloseDatabase(CloseDatabase)),
        Wire::RestoreSchema(message) => {
            Ok(Action::RestoreSchema(RestoreSchema { copy_method: message.copy_method().into() }))
        }
        Wire::CreateSlot(message) => Ok(Action::CreateSlot(CreateSlot { copy_method: message.copy_method().into() })),
        Wire::CopyTables(message) => Ok(Action::CopyTables(CopyTables { copy_method: message.copy_method().into() })),
        Wire::CreateSubscription(message) => Ok(Action::CreateSubscription(CreateSubscription {
            path: message.connection_path().into(),
            copy_method: message.copy_method().into(),
        })),
        Wire::AwaitCopy(_) => Ok(Action::AwaitCopy(AwaitCopy)),
        Wire::AwaitLag(message) => Ok(Action::AwaitLag(AwaitLag {
            max_lag: duration(message.max_lag, "max_lag")?,
            stable_window: duration(message.stable_window, "stable_window")?,
        })),
        Wire::CountRows(message) => {
            let v1::CountRows { tables, objects_only, sequences } = message;
            Ok(Action::CountRows(CountRows { tables: relations(tables), objects_only, sequences }))
        }
        Wire::CompareRows(message) => Ok(Action::CompareRows(CompareRows {
            comparison_id: message.comparison_id,
            time_limit: message.time_limit.map(|limit| duration(Some(limit), "time_limit")).transpose()?,
            repair: message.repair,
        })),
        Wire::FinishMigration(message) => Ok(Action::FinishMigration(FinishMigration {
            identity_full_tables: relations(message.identity_full_tables),
        })),
        Wire::PrepareCutover(message) => Ok(Action::PrepareCutover(PrepareCutover {
            cutover_epoch: message.cutover_epoch,
            max_outage: duration(message.max_outage, "max_outage")?,
            switch: if message.rollback { Switch::Rollback } else { Switch::Cutover },
            way_back: message.way_back,
            rehearsal: message.rehearsal,
            unreachable: if message.without_poolers { Unreachable::LeaveOut } else { Unreachable::Refuse },
            compare_written: message.compare_written,
        })),
        Wire::CreateWayBack(v1::CreateWayBack {}) => Ok(Action::CreateWayBack(CreateWayBack)),
        Wire::KeepStream(message) => Ok(Action::KeepStream(KeepStream { cutover_epoch: message.cutover_epoch })),
        Wire::FollowStream(message) => Ok(Action::FollowStream(FollowStream { cutover_epoch: message.cutover_epoch })),
        Wire::CertifySwitch(message) => Ok(Action::CertifySwitch(CertifySwitch {
            cutover_epoch: message.cutover_epoch,
            switch: if message.rollback { Switch::Rollback } else { Switch::Cutover },
        })),
        Wire::RaiseBarrier(message) => Ok(Action::RaiseBarrier(RaiseBarrier {
            cutover_epoch: message.cutover_epoch,
            max_outage: duration(message.max_outage, "max_outage")?,
        })),
        Wire::DrainToMarker(message) => Ok(Action::DrainToMarker(DrainToMarker {
            cutover_epoch: message.cutover_epoch,
            marker_id: marker(&message.marker_id)?,
            sequences: positions(message.sequences)?,
            open_timeout: duration(message.open_timeout, "open_timeout")?,
            catalog_digest: message.catalog_digest,
            compare_limit: message.compare_limit.map(|limit| duration(Some(limit), "compare_limit")).transpose()?,
        })),
        Wire::FenceSource(message) => Ok(Action::FenceSource(FenceSource {
            cutover_epoch: message.cutover_epoch,
            marker_id: marker(&message.marker_id)?,
        })),
        Wire::OpenDestination(message) => Ok(Action::OpenDestination(OpenDestination {
            cutover_epoch: message.cutover_epoch,
            sequences: positions(message.sequences)?,
        })),
        Wire::ReleaseBarrier(message) => {
            Ok(Action::ReleaseBarrier(ReleaseBarrier { cutover_epoch: message.cutover_epoch }))
        }
    }
}

/// Writes what was produced.
pub(super) fn encode(outcome: Outcome) -> v1::CommandResult {
    use v1::command_result::Result as Wire;
    let result = match outcome {
        Outcome::Undone => None,
        Outcome::CheckServer(result) => Some(Wire::CheckServer(inventory::encode_check(result))),
        Outcome::CreateReplicationRole(result) => {
            Some(Wire::CreateReplicationRole(v1::CreateReplicationRoleResult { role_name: result.role_name }))
        }
        Outcome::ReachPeer(result) => Some(Wire::ReachPeer(v1::ReachPeerResult {
            round_trip: Some(span(result.round_trip)),
            software_version: result.software_version,
            relayed: result.relayed,
        })),
        Outcome::SetReplicaIdentity(result) => {
            Some(Wire::SetReplicaIdentity(v1::SetReplicaIdentityResult { table_count: count(result.table_count) }))
        }
        Outcome::CreatePublication(result) => Some(Wire::CreatePublication(v1::CreatePublicationResult {
            publication_name: result.publication_name,
            table_count: count(result.table_count),
        })),
        Outcome::CloseDatabase(result) => Some(Wire::CloseDatabase(v1::CloseDatabaseResult {
            terminated_session_count: count(result.terminated_session_count),
        })),
        Outcome::RestoreSchema(result) => Some(Wire::RestoreSchema(v1::RestoreSchemaResult {
            dump_digest: result.dump_digest,
            object_count: result.object_count,
        })),
        Outcome::CreateSlot(result) => Some(Wire::CreateSlot(v1::CreateSlotResult {
            slot_name: result.slot_name,
            consistent_point: result.consistent_point,
        })),
        Outcome::CopyTables(result) => Some(Wire::CopyTables(v1::CopyTablesResult {
            table_count: count(result.table_count),
            row_count: result.row_count,
            copied_bytes: result.copied_bytes,
            repeated_bytes: result.repeated_bytes,
            consistent_point: result.consistent_point,
            kept_table_count: count(result.kept_table_count),
            mended_table_count: count(result.mended_table_count),
        })),
        Outcome::CreateSubscription(result) => Some(Wire::CreateSubscription(v1::CreateSubscriptionResult {
            subscription_name: result.subscription_name,
            table_count: count(result.table_count),
        })),
        Outcome::AwaitCopy(result) => {
            Some(Wire::AwaitCopy(v1::AwaitCopyResult { table_count: count(result.table_count) }))
        }
        Outcome::AwaitLag(result) => Some(Wire::AwaitLag(v1::AwaitLagResult { lag: Some(span(result.lag)) })),
        Outcome::CountRows(result) => Some(Wire::CountRows(v1::CountRowsResult {
            tables: result.tables.into_iter().map(encode_table_count).collect(),
            objects: result
                .objects
                .into_iter()
                .map(|object| v1::SchemaObject { identity: object.identity, digest: object.digest.to_vec() })
                .collect(),
            not_replicated: result.not_replicated.into_iter().map(inventory::finding).collect(),
            sequences: result.sequences.into_iter().map(encode_place).collect(),
        })),
        Outcome::CreateWayBack(result) => Some(Wire::CreateWayBack(v1::CreateWayBackResult {
            subscription_name: result.subscription_name,
            table_count: count(result.table_count),
        })),
        Outcome::KeepStream(result) => Some(Wire::KeepStream(v1::KeepStreamResult { begin_lsn: result.begin_lsn })),
        Outcome::FollowStream(result) => {
            Some(Wire::FollowStream(v1::FollowStreamResult { first_arrival: Some(span(result.first_arrival)) }))
        }
        Outcome::CompareRows(result) => Some(Wire::CompareRows(v1::CompareRowsResult {
            tables: result.tables.into_iter().map(encode_table_comparison).collect(),
            complete: result.complete,
            range_count: result.range_count,
            recheck_count: result.recheck_count,
            elapsed: Some(span(result.elapsed)),
            report_path: result.report_path,
            repair_path: result.repair_path,
        })),
        Outcome::CertifySwitch(result) => {
            Some(Wire::CertifySwitch(v1::CertifySwitchResult { signed: Some(encode_signed(result.signed)) }))
        }
        Outcome::FinishMigration(result) => {
            Some(Wire::FinishMigration(v1::FinishMigrationResult { unfence_statements: result.unfence_statements }))
        }
        Outcome::PrepareCutover(result) => Some(Wire::PrepareCutover(v1::PrepareCutoverResult {
            table_set_digest: result.table_set_digest,
            catalog_digest: result.catalog_digest,
            table_count: count(result.table_count),
        })),
        Outcome::RaiseBarrier(result) => Some(Wire::RaiseBarrier(v1::RaiseBarrierResult {
            marker_id: result.marker_id.to_string(),
            marker_lsn: result.marker_lsn,
            sequences: encode_positions(result.sequences),
            catalog_digest: result.catalog_digest,
            lock_wait: Some(span(result.lock_wait)),
            cancelled_session_count: count(result.cancelled_session_count),
        })),
        Outcome::DrainToMarker(result) => Some(Wire::DrainToMarker(v1::DrainToMarkerResult {
            drain_time: Some(span(result.drain_time)),
            sequence_count: count(result.sequence_count),
            flush_lsn: result.flush_lsn,
            comparison: result.compared.map(encode_written),
        })),
        Outcome::FenceSource(result) => Some(Wire::FenceSource(v1::FenceSourceResult {
            fence_lsn: result.fence_lsn,
            sequences: encode_positions(result.sequences),
            terminated_session_count: count(result.terminated_session_count),
            catalog_digest: result.catalog_digest,
        })),
        Outcome::OpenDestination(result) => {
            Some(Wire::OpenDestination(v1::OpenDestinationResult { open_lsn: result.open_lsn }))
        }
        Outcome::ReleaseBarrier(result) => {
            Some(Wire::ReleaseBarrier(v1::ReleaseBarrierResult { barrier_time: Some(span(result.barrier_time)) }))
        }
    };
    v1::CommandResult { result }
}

fn unknown() -> Failure {
    Failure::new(Reason::UnknownAction, "this agent does not know the action")
        .hint("Install the coordinator's release on the agent's machine.")
        .effect(Effect::None)
}

fn decode_set_replica_identity(message: v1::SetReplicaIdentity) -> Result<SetReplicaIdentity, Failure> {
    Ok(SetReplicaIdentity { tables: relations(message.tables) })
}

fn encode_table_count(count: TableCount) -> v1::TableCount {
    v1::TableCount {
        table: Some(count.table.into()),
        row_count: count.row_count,
        inserted_count: count.inserted_count,
        deleted_count: count.deleted_count,
    }
}

fn encode_place(place: SequencePlace) -> v1::SequencePlace {
    let SequencePlace { position: SequencePosition { name, last_value, called }, descending } = place;
    v1::SequencePlace { sequence: Some(name.into()), last_value, called, descending }
}

fn encode_written(compared: WrittenRows) -> v1::SwitchComparison {
    v1::SwitchComparison {
        table_count: count(compared.table_count),
        row_count: i64::try_from(compared.row_count).unwrap_or(i64::MAX),
        left_out: compared.left_out.into_iter().map(v1::RelationName::from).collect(),
        elapsed: Some(span(compared.elapsed)),
    }
}

/// The same, out of the journal.
pub(super) fn decode_written(message: v1::SwitchComparison) -> WrittenRows {
    WrittenRows {
        table_count: uncount(message.table_count),
        row_count: message.row_count.unsigned_abs(),
        left_out: relations(message.left_out),
        elapsed: reported(message.elapsed),
    }
}

fn encode_table_comparison(table: TableComparison) -> v1::TableComparison {
    v1::TableComparison {
        table: Some(table.table.into()),
        row_count: table.row_count,
        digest: table.digest,
        missing_count: table.missing_count,
        extra_count: table.extra_count,
        changed_count: table.changed_count,
        unsettled_count: table.unsettled_count,
        obstacle: table.obstacle,
        complete: table.complete,
    }
}

fn encode_signed(signed: SignedStatement) -> v1::SignedStatement {
    v1::SignedStatement {
        statement: signed.statement,
        scheme: u32::from(signed.scheme),
        signature: signed.signature,
        chain: signed.chain.into_iter().map(|certificate| certificate.0).collect(),
    }
}

fn relations(names: Vec<v1::RelationName>) -> Vec<RelationName> {
    names.into_iter().map(RelationName::from).collect()
}

pub(super) fn marker(text: &str) -> Result<Uuid, Failure> {
    text.parse().map_err(|_| missing("marker_id"))
}

pub(super) fn positions(sequences: Vec<v1::SequenceState>) -> Result<Vec<SequencePosition>, Failure> {
    sequences
        .into_iter()
        .map(|state| {
            let name = state.sequence.ok_or_else(|| missing("sequences.sequence"))?;
            Ok(SequencePosition {
                name: RelationName::new(name.schema_name, name.relation_name),
                last_value: state.last_value,
                called: state.called,
            })
        })
        .collect()
}

fn encode_positions(positions: Vec<SequencePosition>) -> Vec<v1::SequenceState> {
    positions
        .into_iter()
        .map(|position| v1::SequenceState {
            sequence: Some(position.name.into()),
            last_value: position.last_value,
            called: position.called,
        })
        .collect()
}
