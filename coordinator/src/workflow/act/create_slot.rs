//! *Publisher*: the replication slot; on the source with the snapshot that the copy
//! reads, and what the replication role needs to read.

use pgportage_link::Failure;
use pgportage_proto::{ActKind, CopyMethod, Side, quote_ident, v1};
use serde::{Deserialize, Serialize};

use super::super::statement::{Basis, Line, Statements, names, only_if, remark, runs};
use super::kind::{Act, Given, Kind, Message, Produced, something_else};

pub(crate) static ACT: Act = Act::of::<CreateSlot>();

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CreateSlot {
    /// Whether a snapshot is kept with it.
    pub copy_method: CopyMethod,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CreateSlotResult {
    pub slot_name: String,
    /// Where it begins.
    pub consistent_point: String,
}

impl Kind for CreateSlot {
    const KIND: ActKind = ActKind::CreateSlot;
    type Outcome = CreateSlotResult;

    fn input(given: &Given<'_>) -> Option<Self> {
        let copy_method = match given.side {
            Side::Source => given.spec.copy_method,
            // What flows in reverse needs no copy.
            Side::Destination => CopyMethod::Native,
        };
        Some(Self { copy_method })
    }

    fn send(&self) -> Message {
        Message::CreateSlot(v1::CreateSlot { copy_method: v1::CopyMethod::from(self.copy_method).into() })
    }

    fn receive(produced: Produced) -> Result<Self::Outcome, Failure> {
        let Produced::CreateSlot(v1::CreateSlotResult { slot_name, consistent_point }) = produced else {
            return Err(something_else());
        };
        Ok(CreateSlotResult { slot_name, consistent_point })
    }

    fn statements(basis: &Basis<'_>) -> Statements {
        let slot = basis.stream(basis.side);
        let mut lines = match basis.side {
            Side::Source => reading(basis),
            Side::Destination => Vec::new(),
        };
        lines.extend(basis.ledger(ActKind::CreateSlot, "perform"));
        match (basis.side, basis.spec.copy_method) {
            (Side::Source, CopyMethod::Snapshot) => {
                lines.push(runs(format!("CREATE_REPLICATION_SLOT {slot} LOGICAL pgoutput EXPORT_SNAPSHOT")));
                lines.push(remark("the connection is kept, and with it the snapshot, until every row is copied"));
            }
            (Side::Source, CopyMethod::Native) | (Side::Destination, CopyMethod::Snapshot | CopyMethod::Native) => {
                lines.push(runs(format!(
                    "SELECT lsn::text FROM pg_create_logical_replication_slot('{slot}', 'pgoutput')"
                )));
            }
        }
        lines.push(only_if(
            "this side is closed and nobody streams from the slot, every ten seconds",
            format!(
                "SELECT pg_replication_slot_advance(slot_name, '…'::text::pg_lsn) IS NOT NULL FROM pg_replication_slots \
                 WHERE slot_name = '{slot}' …"
            ),
        ));
        lines.push(only_if(
            "WAL that is kept for the slot passes the limit of the agent's policy",
            format!("SELECT pg_drop_replication_slot('{slot}')"),
        ));
        lines.into()
    }
}

/// What the replication role has to be granted to read the tables.
fn reading(basis: &Basis<'_>) -> Vec<Line> {
    let role = quote_ident(&basis.replication_role(Side::Source).role_name);
    let Some(material) = basis.material(Side::Source) else {
        return vec![
            only_if("it may not yet", format!("GRANT USAGE ON SCHEMA … TO {role}")),
            only_if("it may not yet", format!("GRANT SELECT ON TABLE … TO {role}")),
        ];
    };
    let schemas = &material.unusable_schema_names;
    let mut lines: Vec<Line> =
        schemas.iter().map(|schema| runs(format!("GRANT USAGE ON SCHEMA {} TO {role}", quote_ident(schema)))).collect();
    let unreadable: Vec<String> =
        material.tables.iter().filter(|table| !table.readable).map(|table| table.name.to_string()).collect();
    if !unreadable.is_empty() {
        lines.push(runs(format!("GRANT SELECT ON TABLE {} TO {role}", names(unreadable.into_iter()))));
    }
    lines
}

/// The same, taken away again.
pub(super) fn reading_revoked(basis: &Basis<'_>) -> Vec<Line> {
    let role = quote_ident(&basis.replication_role(Side::Source).role_name);
    let mut lines = Vec::new();
    match basis.material(Side::Source) {
        None => {
            lines.push(only_if("it was granted", format!("REVOKE USAGE ON SCHEMA … FROM {role}")));
            lines.push(only_if("it was granted", format!("REVOKE SELECT ON TABLE … FROM {role}")));
        }
        Some(material) => {
            let schemas = material.unusable_schema_names.iter();
            lines.extend(
                schemas.map(|schema| runs(format!("REVOKE USAGE ON SCHEMA {} FROM {role}", quote_ident(schema)))),
            );
            let tables = material.tables.iter().filter(|table| !table.readable);
            lines.extend(tables.map(|table| runs(format!("REVOKE SELECT ON TABLE {} FROM {role}", table.name))));
        }
    }
    lines.extend(basis.ledger(ActKind::CreateSlot, "undo"));
    lines
}
