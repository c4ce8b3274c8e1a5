//! Commands on their way to an agent.

use pgportage_proto::v1;
use pgportage_proto::v1::command::Action;

use super::{to_consent, to_duration, to_sequence};
use crate::workflow::Side;
use crate::workflow::fact::{Issued, TraceContext};
use crate::workflow::input::Input;
use crate::workflow::outcome::{Digest, Inventory};
use crate::workflow::spec::Spec;

/// A command as it is sent. `leader_epoch` and `heartbeat_sequence` are those
/// of the moment of sending, everything else is as it was stored.
#[must_use]
pub fn command(
    migration_id: &str,
    spec: &Spec,
    plan_digest: &Digest,
    issued: &Issued,
    side: Side,
    leader_epoch: i64,
) -> v1::Command {
    v1::Command {
        id: issued.command.to_string(),
        migration_id: migration_id.to_owned(),
        attempt: i32::try_from(issued.attempt).unwrap_or(i32::MAX),
        stall_timeout: to_duration(issued.stall_timeout),
        trace_context: carried(&issued.trace),
        leader_epoch,
        plan_digest: plan_digest.0.clone(),
        // Filled in by the fleet, which knows the session.
        heartbeat_sequence: 0,
        verb: v1::Verb::from(issued.verb).into(),
        side: v1::Side::from(side).into(),
        database: spec.database.clone(),
        peer_agent_id: spec.peer(side).to_owned(),
        action: Some(action(&issued.input)),
    }
}

fn carried(trace: &TraceContext) -> std::collections::HashMap<String, String> {
    trace.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn action(input: &Input) -> Action {
    match input {
        Input::CheckServer { source, consents, way_back } => Action::CheckServer(v1::CheckServer {
            source: source.as_ref().map(to_inventory),
            consents: consents.iter().map(to_consent).collect(),
            way_back: *way_back,
        }),
        Input::CreateReplicationRole => Action::CreateReplicationRole(v1::CreateReplicationRole {}),
        Input::ReachPeer => Action::ReachPeer(v1::ReachPeer {}),
        Input::SetReplicaIdentity { tables } => Action::SetReplicaIdentity(v1::SetReplicaIdentity {
            tables: tables.iter().map(v1::RelationName::from).collect(),
        }),
        Input::CreatePublication => Action::CreatePublication(v1::CreatePublication {}),
        Input::CloseDatabase => Action::CloseDatabase(v1::CloseDatabase {}),
        Input::RestoreSchema { copy_method } => {
            Action::RestoreSchema(v1::RestoreSchema { copy_method: v1::CopyMethod::from(*copy_method).into() })
        }
        Input::CreateSlot { copy_method } => {
            Action::CreateSlot(v1::CreateSlot { copy_method: v1::CopyMethod::from(*copy_method).into() })
        }
        Input::CopyTables { copy_method } => {
            Action::CopyTables(v1::CopyTables { copy_method: v1::CopyMethod::from(*copy_method).into() })
        }
        Input::CreateSubscription { connection_path, copy_method } => {
            Action::CreateSubscription(v1::CreateSubscription {
                connection_path: v1::ConnectionPath::from(*connection_path).into(),
                copy_method: v1::CopyMethod::from(*copy_method).into(),
            })
        }
        Input::AwaitCopy => Action::AwaitCopy(v1::AwaitCopy {}),
        Input::AwaitLag { max_lag, stable_window } => Action::AwaitLag(v1::AwaitLag {
            max_lag: to_duration(*max_lag),
            stable_window: to_duration(*stable_window),
        }),
        Input::CreateWayBack => Action::CreateWayBack(v1::CreateWayBack {}),
        Input::KeepStream { cutover_epoch } => Action::KeepStream(v1::KeepStream { cutover_epoch: *cutover_epoch }),
        Input::FollowStream { cutover_epoch } => {
            Action::FollowStream(v1::FollowStream { cutover_epoch: *cutover_epoch })
        }
        Input::CountRows { tables, objects_only, sequences } => Action::CountRows(v1::CountRows {
            tables: tables.iter().map(v1::RelationName::from).collect(),
            objects_only: *objects_only,
            sequences: *sequences,
        }),
        Input::CompareRows { comparison_id, time_limit, repair } => Action::CompareRows(v1::CompareRows {
            comparison_id: *comparison_id,
            time_limit: time_limit.and_then(to_duration),
            repair: *repair,
        }),
        Input::PrepareCutover {
            cutover_epoch,
            max_outage,
            rollback,
            way_back,
            rehearsal,
            without_poolers,
            compare_written,
        } => Action::PrepareCutover(v1::PrepareCutover {
            cutover_epoch: *cutover_epoch,
            max_outage: to_duration(*max_outage),
            rollback: *rollback,
            way_back: *way_back,
            rehearsal: *rehearsal,
            without_poolers: *without_poolers,
            compare_written: *compare_written,
        }),
        Input::RaiseBarrier { cutover_epoch, max_outage } => Action::RaiseBarrier(v1::RaiseBarrier {
            cutover_epoch: *cutover_epoch,
            max_outage: to_duration(*max_outage),
        }),
        Input::DrainToMarker { cutover_epoch, marker_id, sequences, open_timeout, catalog_digest, compare_limit } => {
            Action::DrainToMarker(v1::DrainToMarker {
                cutover_epoch: *cutover_epoch,
                marker_id: marker_id.clone(),
                sequences: sequences.iter().map(to_sequence).collect(),
                open_timeout: to_duration(*open_timeout),
                catalog_digest: catalog_digest.0.clone(),
                compare_limit: compare_limit.and_then(to_duration),
            })
        }
        Input::FenceSource { cutover_epoch, marker_id } => {
            Action::FenceSource(v1::FenceSource { cutover_epoch: *cutover_epoch, marker_id: marker_id.clone() })
        }
        Input::OpenDestination { cutover_epoch, sequences } => Action::OpenDestination(v1::OpenDestination {
            cutover_epoch: *cutover_epoch,
            sequences: sequences.iter().map(to_sequence).collect(),
        }),
        Input::ReleaseBarrier { cutover_epoch } => {
            Action::ReleaseBarrier(v1::ReleaseBarrier { cutover_epoch: *cutover_epoch })
        }
        Input::CertifySwitch { cutover_epoch, rollback } => {
            Action::CertifySwitch(v1::CertifySwitch { cutover_epoch: *cutover_epoch, rollback: *rollback })
        }
        Input::FinishMigration { identity_full_tables } => Action::FinishMigration(v1::FinishMigration {
            identity_full_tables: identity_full_tables.iter().map(v1::RelationName::from).collect(),
        }),
    }
}

fn to_inventory(value: &Inventory) -> v1::Inventory {
    v1::Inventory {
        server_version_num: value.server_version_num,
        system_identifier: value.system_identifier.clone(),
        encoding: value.encoding.clone(),
        collation: value.collation.clone(),
        extensions: value
            .extensions
            .iter()
            .map(|extension| v1::Extension { name: extension.name.clone(), version: extension.version.clone() })
            .collect(),
        role_names: value.role_names.clone(),
        table_count: value.table_count,
        relation_count: value.relation_count,
        size_bytes: value.size_bytes,
        pg_dump_version_num: value.pg_dump_version_num,
        identity_full_tables: value.identity_full_tables.iter().map(v1::RelationName::from).collect(),
        owner_role_names: value.owner_role_names.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workflow::spec::{ConnectionPath, CopyMethod};

    #[test]
    fn every_act_of_the_copy_says_how_it_is_copied() {
        for (copy_method, sent) in
            [(CopyMethod::Snapshot, v1::CopyMethod::Snapshot), (CopyMethod::Native, v1::CopyMethod::Native)]
        {
            let connection_path = ConnectionPath::Direct;
            let said = [
                Input::RestoreSchema { copy_method },
                Input::CreateSlot { copy_method },
                Input::CopyTables { copy_method },
                Input::CreateSubscription { connection_path, copy_method },
            ]
            .map(|input| match action(&input) {
                Action::RestoreSchema(restore) => restore.copy_method(),
                Action::CreateSlot(create) => create.copy_method(),
                Action::CopyTables(copy) => copy.copy_method(),
                Action::CreateSubscription(create) => create.copy_method(),
                other => panic!("{other:?}"),
            });
            assert_eq!(said, [sent; 4]);
        }
    }
}
