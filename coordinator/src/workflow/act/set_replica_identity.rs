//! *Source*: a replica identity for tables without one, as the operator agreed.

use pgportage_link::Failure;
use pgportage_proto::v1::command::Action as Message;
use pgportage_proto::v1::command_result::Result as Produced;
use pgportage_proto::{ActKind, RelationName, v1};
use serde::{Deserialize, Serialize};

use super::super::statement::{Basis, Statements, remark, runs};
use super::kind::{Act, Given, Input, Outcome, Payload, something_else};

/// See the module.
pub static ACT: Act = Act {
    kind: ActKind::SetReplicaIdentity,
    input,
    send,
    produces: |outcome| outcome.read::<SetReplicaIdentityResult>().is_some(),
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

impl Payload for SetReplicaIdentity {
    const KIND: ActKind = ActKind::SetReplicaIdentity;
}

impl Payload for SetReplicaIdentityResult {
    const KIND: ActKind = ActKind::SetReplicaIdentity;
}

fn input(given: &Given<'_>) -> Option<Input> {
    let tables = given.source?.identity_full_tables.clone();
    Some(Input::of(SetReplicaIdentity { tables }))
}

fn send(input: &Input) -> Option<Message> {
    let SetReplicaIdentity { tables } = input.read::<SetReplicaIdentity>()?;
    let tables = tables.iter().map(v1::RelationName::from).collect();
    Some(Message::SetReplicaIdentity(v1::SetReplicaIdentity { tables }))
}

fn receive(produced: Produced) -> Result<Outcome, Failure> {
    let Produced::SetReplicaIdentity(result) = produced else { return Err(something_else()) };
    Ok(Outcome::of(SetReplicaIdentityResult { table_count: result.table_count }))
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
