//! *Publisher*: our schema, the publication, and from here on heartbeats.

use pgportage_link::Failure;
use pgportage_proto::{ActKind, Side, quote_ident, v1};
use serde::{Deserialize, Serialize};

use super::super::statement::{Basis, Statements, runs};
use super::kind::{Act, Given, Kind, Message, Produced, something_else};

pub(crate) static ACT: Act = Act::of::<CreatePublication>();

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CreatePublication;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CreatePublicationResult {
    pub publication_name: String,
    /// Its tables, ours included.
    pub table_count: i32,
}

impl Kind for CreatePublication {
    const KIND: ActKind = ActKind::CreatePublication;
    type Outcome = CreatePublicationResult;

    fn input(_: &Given<'_>) -> Option<Self> {
        Some(Self)
    }

    fn send(&self) -> Message {
        Message::CreatePublication(v1::CreatePublication {})
    }

    fn receive(produced: Produced) -> Result<Self::Outcome, Failure> {
        let Produced::CreatePublication(result) = produced else { return Err(something_else()) };
        let v1::CreatePublicationResult { publication_name, table_count } = result;
        Ok(CreatePublicationResult { publication_name, table_count })
    }

    fn statements(basis: &Basis<'_>) -> Statements {
        let side = basis.side;
        let heartbeat = basis.heartbeat(side);
        let mut lines = match side {
            Side::Source => basis.own_schema(),
            // Made when the database was closed.
            Side::Destination => basis.first_heartbeats(),
        };
        let tables = match basis.table_list("ONLY ").as_str() {
            "" => String::new(),
            tables => format!("{tables}, "),
        };
        lines.push(runs(format!(
            "CREATE PUBLICATION {} FOR TABLE {tables}ONLY {heartbeat}, ONLY pgportage.marker \
             WITH (publish = 'insert, update, delete, truncate')",
            basis.stream(side)
        )));
        if side == Side::Destination {
            lines.push(runs(format!(
                "CREATE PUBLICATION {} FOR TABLE ONLY {heartbeat} WITH (publish = 'insert, update')",
                basis.id.proof_publication()
            )));
        }
        let role = quote_ident(&basis.replication_role(side).role_name);
        lines.push(runs(format!("GRANT USAGE ON SCHEMA pgportage TO {role}")));
        lines.push(runs(format!("GRANT SELECT ON {heartbeat} TO {role}")));
        lines.push(runs(format!("GRANT SELECT ON pgportage.marker TO {role}")));
        lines.extend(basis.ledger(ActKind::CreatePublication, "perform"));
        lines.push(runs(format!(
            "UPDATE {heartbeat} SET sequence = sequence + 1 WHERE id = 1 RETURNING sequence \
             /* every second until finish */"
        )));
        lines.into()
    }
}
