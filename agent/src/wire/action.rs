//! Actions and their results, between the contract and the steps.

use pgportage_link::{Effect, Failure};
use pgportage_proto::{Reason, v1};
use uuid::Uuid;

use crate::action::{Action, Outcome};
use crate::postgres::RelationName;
use crate::step::connect::CreateReplicationRole;
use crate::step::identity::SetReplicaIdentity;
use crate::step::publication::CreatePublication;

use super::{count, duration, missing, span};

/// Reads what to do.
///
/// # Errors
///
/// [`Reason::UnknownAction`] or [`Reason::RequestInvalid`].
pub(super) fn decode(action: Option<v1::command::Action>) -> Result<Action, Failure> {
    use v1::command::Action as Wire;
    let Some(action) = action else { return Err(unknown()) };
    match action {
        Wire::CreateReplicationRole(_) => Ok(Action::CreateReplicationRole(CreateReplicationRole)),
        Wire::SetReplicaIdentity(message) => decode_set_replica_identity(message).map(Action::SetReplicaIdentity),
        Wire::CreatePublication(_) => Ok(Action::CreatePublication(CreatePublication)),
        Wire::CheckServer(_)
        | Wire::ReachPeer(_)
        | Wire::CloseDatabase(_)
        | Wire::RestoreSchema(_)
        | Wire::CreateSlot(_)
        | Wire::CreateSubscription(_)
        | Wire::AwaitCopy(_)
        | Wire::AwaitLag(_)
        | Wire::CountRows(_)
        | Wire::PrepareCutover(_)
        | Wire::RaiseBarrier(_)
        | Wire::DrainToMarker(_)
        | Wire::FenceSource(_)
        | Wire::OpenDestination(_)
        | Wire::ReleaseBarrier(_)
        | Wire::FinishMigration(_) => Err(unknown()),
    }
}

/// Writes what was produced.
pub(super) fn encode(outcome: Outcome) -> v1::CommandResult {
    use v1::command_result::Result as Wire;
    let result = match outcome {
        Outcome::Undone => None,
        Outcome::CreateReplicationRole(result) => {
            Some(Wire::CreateReplicationRole(v1::CreateReplicationRoleResult { role_name: result.role_name }))
        }
        Outcome::SetReplicaIdentity(result) => {
            Some(Wire::SetReplicaIdentity(v1::SetReplicaIdentityResult { table_count: count(result.table_count) }))
        }
        Outcome::CreatePublication(result) => Some(Wire::CreatePublication(v1::CreatePublicationResult {
            publication_name: result.publication_name,
            table_count: count(result.table_count),
        })),
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

fn relations(names: Vec<v1::RelationName>) -> Vec<RelationName> {
    names.into_iter().map(|name| RelationName::new(name.schema_name, name.relation_name)).collect()
}

fn encode_relation(name: RelationName) -> v1::RelationName {
    v1::RelationName { schema_name: name.schema, relation_name: name.relation }
}

fn marker(text: &str) -> Result<Uuid, Failure> {
    text.parse().map_err(|_| missing("marker_id"))
}
