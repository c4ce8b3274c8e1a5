//! *Source*: a replica identity for tables without one, as the operator agreed.

use pgportage_link::Failure;
use pgportage_proto::{RelationName, v1};
use serde::{Deserialize, Serialize};

use super::super::ActKind;
use super::super::state::State;
use super::super::statement::{Basis, Statements, remark, runs};
use super::{Act, Input, Message, Outcome, Produced, something_else};

/// See the module.
pub static SET_REPLICA_IDENTITY: Act = Act {
    kind: ActKind::SetReplicaIdentity,
    input: |state, _, _| input(state),
    send,
    produces: |outcome| matches!(outcome, Outcome::SetReplicaIdentity(_)),
    receive,
    statements,
};

/// Which tables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetReplicaIdentity {
    /// Those that get `REPLICA IDENTITY FULL`.
    pub tables: Vec<RelationName>,
}

/// They have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetReplicaIdentityResult {
    /// How many.
    pub table_count: i32,
}

fn input(state: &State) -> Option<Input> {
    let tables = state.source_inventory()?.identity_full_tables.clone();
    Some(Input::SetReplicaIdentity(SetReplicaIdentity { tables }))
}

fn send(input: &Input) -> Option<Message> {
    let Input::SetReplicaIdentity(SetReplicaIdentity { tables }) = input else { return None };
    let tables = tables.iter().map(v1::RelationName::from).collect();
    Some(Message::SetReplicaIdentity(v1::SetReplicaIdentity { tables }))
}

fn receive(produced: Produced) -> Result<Outcome, Failure> {
    let Produced::SetReplicaIdentity(result) = produced else { return Err(something_else()) };
    Ok(Outcome::SetReplicaIdentity(SetReplicaIdentityResult { table_count: result.table_count }))
}

fn statements(basis: &Basis<'_>) -> Statements {
    let Some(inventory) = basis.source else {
        return vec![remark("ALTER TABLE … REPLICA IDENTITY FULL, for tables without another, as agreed")].into();
    };
    match inventory.identity_full_tables.as_slice() {
        [] => vec![remark("nothing: no table was agreed to be given REPLICA IDENTITY FULL")].into(),
        tables => {
            let full = |table: &RelationName| runs(format!("ALTER TABLE ONLY {table} REPLICA IDENTITY FULL"));
            tables.iter().map(full).collect::<Vec<_>>().into()
        }
    }
}
