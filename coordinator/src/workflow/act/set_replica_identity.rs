//! *Source*: a replica identity for tables without one, as the operator agreed.

use pgportage_link::Failure;
use pgportage_proto::{ActKind, RelationName, v1};
use serde::{Deserialize, Serialize};

use super::super::statement::{Basis, Statements, remark, runs};
use super::kind::{Act, Given, Kind, Message, Produced, something_else};

pub(crate) static ACT: Act = Act::of::<SetReplicaIdentity>();

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SetReplicaIdentity {
    /// Those that get `REPLICA IDENTITY FULL`.
    pub tables: Vec<RelationName>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SetReplicaIdentityResult {
    pub table_count: i32,
}

impl Kind for SetReplicaIdentity {
    const KIND: ActKind = ActKind::SetReplicaIdentity;
    type Outcome = SetReplicaIdentityResult;

    fn input(given: &Given<'_>) -> Option<Self> {
        Some(Self { tables: given.source?.identity_full_tables.clone() })
    }

    fn send(&self) -> Message {
        let tables = self.tables.iter().map(v1::RelationName::from).collect();
        Message::SetReplicaIdentity(v1::SetReplicaIdentity { tables })
    }

    fn receive(produced: Produced) -> Result<Self::Outcome, Failure> {
        let Produced::SetReplicaIdentity(result) = produced else { return Err(something_else()) };
        Ok(SetReplicaIdentityResult { table_count: result.table_count })
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
}
