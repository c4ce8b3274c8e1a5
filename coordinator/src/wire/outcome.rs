//! What agents report.

use pgportage_link::{Effect, Failure};
use pgportage_proto::v1;
use pgportage_proto::v1::command_result::Result as Produced;
use uuid::Uuid;

use super::{certificate, finding, malformed, missing, reported, sequence};
use crate::workflow::fact::CommandId;
use crate::workflow::outcome::{
    Barrier, Copied, Digest, Extension, Fence, Inventory, Outcome, Reached, RowComparison, RowCounts, SchemaObject,
    SequencePlace, SequenceState, TableComparison, TableCount, WrittenRows,
};

/// A durable fact that an agent reports about a command.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentFact {
    /// The command.
    pub command: CommandId,
    /// The agent's number of it: from 1 for each command, without gaps.
    pub sequence: i64,
    /// What happened.
    pub body: Body,
}

/// What happened to a command.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// It is stored on the agent.
    Accepted,
    /// It is done. Without an outcome: an undo.
    Succeeded(Option<Outcome>),
    /// It is not done.
    Failed(Failure),
    /// It was stopped as asked.
    Cancelled(Effect),
}

/// A fact as it came.
///
/// # Errors
///
/// [`pgportage_proto::Reason::RequestInvalid`] when it says nothing of a
/// command. What a command produced and cannot be read becomes a failure of that
/// command, so that somebody hears of it.
pub fn fact(value: v1::CommandFact) -> Result<AgentFact, Failure> {
    let command = Uuid::parse_str(&value.command_id).map_err(|_| malformed("command_id"))?;
    let body = match value.fact.ok_or_else(|| missing("fact"))? {
        v1::command_fact::Fact::Accepted(v1::CommandAccepted {}) => Body::Accepted,
        v1::command_fact::Fact::Succeeded(result) => match result.result.map(outcome).transpose() {
            Ok(outcome) => Body::Succeeded(outcome),
            Err(failure) => Body::Failed(failure.effect(Effect::Unknown)),
        },
        v1::command_fact::Fact::Failed(failure) => Body::Failed(failure.into()),
        v1::command_fact::Fact::Cancelled(cancelled) => Body::Cancelled(match cancelled.effect() {
            v1::failure::Effect::None => Effect::None,
            v1::failure::Effect::Unspecified | v1::failure::Effect::Unknown => Effect::Unknown,
        }),
    };
    Ok(AgentFact { command: CommandId(command), sequence: value.sequence, body })
}

fn outcome(value: Produced) -> Result<Outcome, Failure> {
    Ok(match value {
        Produced::CheckServer(result) => Outcome::CheckServer {
            inventory: inventory(result.inventory.ok_or_else(|| missing("inventory"))?),
            findings: result.findings.into_iter().map(finding).collect(),
        },
        Produced::CreateReplicationRole(result) => Outcome::CreateReplicationRole { role_name: result.role_name },
        Produced::ReachPeer(result) => Outcome::ReachPeer(Reached {
            round_trip: reported(result.round_trip),
            software_version: result.software_version,
            relayed: result.relayed,
        }),
        Produced::SetReplicaIdentity(result) => Outcome::SetReplicaIdentity { table_count: result.table_count },
        Produced::CreatePublication(result) => {
            Outcome::CreatePublication { publication_name: result.publication_name, table_count: result.table_count }
        }
        Produced::CloseDatabase(result) => {
            Outcome::CloseDatabase { terminated_session_count: result.terminated_session_count }
        }
        Produced::RestoreSchema(result) => {
            Outcome::RestoreSchema { dump_digest: Digest(result.dump_digest), object_count: result.object_count }
        }
        Produced::CreateSlot(result) => {
            Outcome::CreateSlot { slot_name: result.slot_name, consistent_point: result.consistent_point }
        }
        Produced::CopyTables(result) => Outcome::CopyTables(Copied {
            table_count: result.table_count,
            row_count: result.row_count,
            copied_bytes: result.copied_bytes,
            repeated_bytes: result.repeated_bytes,
            consistent_point: result.consistent_point,
            kept_table_count: result.kept_table_count,
            mended_table_count: result.mended_table_count,
        }),
        Produced::CreateSubscription(result) => {
            Outcome::CreateSubscription { subscription_name: result.subscription_name, table_count: result.table_count }
        }
        Produced::AwaitCopy(result) => Outcome::AwaitCopy { table_count: result.table_count },
        Produced::AwaitLag(result) => Outcome::AwaitLag { lag: reported(result.lag) },
        Produced::CreateWayBack(result) => {
            Outcome::CreateWayBack { subscription_name: result.subscription_name, table_count: result.table_count }
        }
        Produced::KeepStream(result) => Outcome::KeepStream { begin_lsn: result.begin_lsn },
        Produced::FollowStream(result) => Outcome::FollowStream { first_arrival: reported(result.first_arrival) },
        Produced::CountRows(result) => Outcome::CountRows(counts(result)?),
        Produced::CompareRows(result) => Outcome::CompareRows(comparison(result)?),
        Produced::PrepareCutover(result) => Outcome::PrepareCutover {
            table_set_digest: Digest(result.table_set_digest),
            catalog_digest: Digest(result.catalog_digest),
            table_count: result.table_count,
        },
        Produced::RaiseBarrier(result) => Outcome::RaiseBarrier(Barrier {
            marker_id: result.marker_id,
            marker_lsn: result.marker_lsn,
            sequences: result.sequences.into_iter().map(sequence).collect::<Result<_, _>>()?,
            catalog_digest: Digest(result.catalog_digest),
            lock_wait: reported(result.lock_wait),
            cancelled_session_count: result.cancelled_session_count,
        }),
        Produced::DrainToMarker(result) => Outcome::DrainToMarker {
            drain_time: reported(result.drain_time),
            sequence_count: result.sequence_count,
            flush_lsn: result.flush_lsn,
            compared: result.comparison.map(|compared| WrittenRows {
                table_count: compared.table_count,
                row_count: compared.row_count,
                left_out: compared.left_out.into_iter().map(Into::into).collect(),
                elapsed: reported(compared.elapsed),
            }),
        },
        Produced::FenceSource(result) => Outcome::FenceSource(Fence {
            fence_lsn: result.fence_lsn,
            sequences: result.sequences.into_iter().map(sequence).collect::<Result<_, _>>()?,
            terminated_session_count: result.terminated_session_count,
            catalog_digest: Digest(result.catalog_digest),
        }),
        Produced::OpenDestination(result) => Outcome::OpenDestination { open_lsn: result.open_lsn },
        Produced::ReleaseBarrier(result) => Outcome::ReleaseBarrier { barrier_time: reported(result.barrier_time) },
        Produced::CertifySwitch(result) => {
            Outcome::CertifySwitch(certificate::signed(result.signed.ok_or_else(|| missing("signed"))?))
        }
        Produced::FinishMigration(result) => Outcome::FinishMigration { unfence_statements: result.unfence_statements },
    })
}

fn inventory(value: v1::Inventory) -> Inventory {
    Inventory {
        server_version_num: value.server_version_num,
        system_identifier: value.system_identifier,
        encoding: value.encoding,
        collation: value.collation,
        extensions: value
            .extensions
            .into_iter()
            .map(|extension| Extension { name: extension.name, version: extension.version })
            .collect(),
        role_names: value.role_names,
        table_count: value.table_count,
        relation_count: value.relation_count,
        size_bytes: value.size_bytes,
        pg_dump_version_num: value.pg_dump_version_num,
        identity_full_tables: value.identity_full_tables.into_iter().map(Into::into).collect(),
        owner_role_names: value.owner_role_names,
    }
}

fn counts(value: v1::CountRowsResult) -> Result<RowCounts, Failure> {
    let tables = value
        .tables
        .into_iter()
        .map(|count| {
            Ok(TableCount {
                table: count.table.ok_or_else(|| missing("table"))?.into(),
                row_count: count.row_count,
                inserted_count: count.inserted_count,
                deleted_count: count.deleted_count,
            })
        })
        .collect::<Result<_, Failure>>()?;
    Ok(RowCounts {
        tables,
        objects: value
            .objects
            .into_iter()
            .map(|object| SchemaObject { identity: object.identity, digest: Digest(object.digest) })
            .collect(),
        not_replicated: value.not_replicated.into_iter().map(finding).collect(),
        sequences: value.sequences.into_iter().map(place).collect::<Result<_, _>>()?,
    })
}

fn place(value: v1::SequencePlace) -> Result<SequencePlace, Failure> {
    let v1::SequencePlace { sequence, last_value, called, descending } = value;
    let sequence = sequence.ok_or_else(|| missing("sequence"))?.into();
    Ok(SequencePlace { state: SequenceState { sequence, last_value, called }, descending })
}

fn comparison(value: v1::CompareRowsResult) -> Result<RowComparison, Failure> {
    let table = |table: v1::TableComparison| {
        Ok(TableComparison {
            table: table.table.ok_or_else(|| missing("table"))?.into(),
            row_count: table.row_count,
            digest: Digest(table.digest),
            missing_count: table.missing_count,
            extra_count: table.extra_count,
            changed_count: table.changed_count,
            unsettled_count: table.unsettled_count,
            obstacle: table.obstacle,
            complete: table.complete,
        })
    };
    Ok(RowComparison {
        tables: value.tables.into_iter().map(table).collect::<Result<_, Failure>>()?,
        complete: value.complete,
        range_count: value.range_count,
        recheck_count: value.recheck_count,
        elapsed: reported(value.elapsed),
        report_path: value.report_path,
        repair_path: value.repair_path,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_taken_in_with_all_its_figures() {
        let produced = v1::CopyTablesResult {
            table_count: 3,
            row_count: 7_000_000_000,
            copied_bytes: 1 << 40,
            repeated_bytes: 5,
            consistent_point: "16/B374D848".to_owned(),
            kept_table_count: 2,
            mended_table_count: 1,
        };
        let result = v1::CommandResult { result: Some(Produced::CopyTables(produced)) };
        let came = v1::CommandFact {
            command_id: Uuid::from_u128(1).to_string(),
            sequence: 2,
            record_time: None,
            fact: Some(v1::command_fact::Fact::Succeeded(result)),
        };
        let Body::Succeeded(Some(Outcome::CopyTables(copied))) = fact(came).unwrap().body else { panic!() };
        let expected = Copied {
            table_count: 3,
            row_count: 7_000_000_000,
            copied_bytes: 1 << 40,
            repeated_bytes: 5,
            consistent_point: "16/B374D848".to_owned(),
            kept_table_count: 2,
            mended_table_count: 1,
        };
        assert_eq!(copied, expected);
    }
}
