//! *Publisher*: the replication slot; on the source with the snapshot that the copy
//! reads, and what the replication role needs to read.

use pgportage_link::Failure;
use pgportage_proto::v1::command::Action as Message;
use pgportage_proto::v1::command_result::Result as Produced;
use pgportage_proto::{ActKind, CopyMethod, Side, quote_ident, v1};
use serde::{Deserialize, Serialize};

use super::super::statement::{Basis, Line, Statements, names, only_if, remark, runs};
use super::kind::{Act, Given, Input, Outcome, Payload, something_else};

/// See the module.
pub static ACT: Act = Act {
    kind: ActKind::CreateSlot,
    input,
    send,
    produces: |outcome| outcome.read::<CreateSlotResult>().is_some(),
    receive,
    statements,
};

/// What the slot is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateSlot {
    /// Whether a snapshot is kept with it.
    pub copy_method: CopyMethod,
}

/// The slot is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateSlotResult {
    /// Its name.
    pub slot_name: String,
    /// Where it begins.
    pub consistent_point: String,
}

impl Payload for CreateSlot {
    const KIND: ActKind = ActKind::CreateSlot;
}

impl Payload for CreateSlotResult {
    const KIND: ActKind = ActKind::CreateSlot;
}

fn input(given: &Given<'_>) -> Option<Input> {
    let copy_method = match given.side {
        Side::Source => given.spec.copy_method,
        // What flows in reverse needs no copy.
        Side::Destination => CopyMethod::Native,
    };
    Some(Input::of(CreateSlot { copy_method }))
}

fn send(input: &Input) -> Option<Message> {
    let CreateSlot { copy_method } = *input.read::<CreateSlot>()?;
    Some(Message::CreateSlot(v1::CreateSlot { copy_method: v1::CopyMethod::from(copy_method).into() }))
}

fn receive(produced: Produced) -> Result<Outcome, Failure> {
    let Produced::CreateSlot(v1::CreateSlotResult { slot_name, consistent_point }) = produced else {
        return Err(something_else());
    };
    Ok(Outcome::of(CreateSlotResult { slot_name, consistent_point }))
}

fn statements(basis: &Basis<'_>) -> Statements {
    let slot = basis.stream(basis.side);
    let made = runs(format!("SELECT lsn::text FROM pg_create_logical_replication_slot('{slot}', 'pgoutput')"));
    let mut lines = match (basis.side, basis.spec.copy_method) {
        (Side::Source, CopyMethod::Snapshot) => {
            let mut lines = reading(basis);
            lines.push(runs(format!("CREATE_REPLICATION_SLOT {slot} LOGICAL pgoutput EXPORT_SNAPSHOT")));
            lines.push(remark("the connection is kept, and with it the snapshot, until every row is copied"));
            lines
        }
        (Side::Source, CopyMethod::Native) => {
            let mut lines = reading(basis);
            lines.push(made);
            lines
        }
        (Side::Destination, CopyMethod::Snapshot | CopyMethod::Native) => {
            let mut lines = basis.ledger(ActKind::CreateSlot, "perform").to_vec();
            lines.push(made);
            lines
        }
    };
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

/// What the replication role has to be granted to read the tables.
fn reading(basis: &Basis<'_>) -> Vec<Line> {
    let role = quote_ident(&basis.replication_role(Side::Source).role_name);
    let Some(material) = basis.material(Side::Source) else {
        let mut lines = vec![
            only_if("it may not yet", format!("GRANT USAGE ON SCHEMA … TO {role}")),
            only_if("it may not yet", format!("GRANT SELECT ON TABLE … TO {role}")),
        ];
        lines.extend(basis.ledger(ActKind::CreateSlot, "perform"));
        return lines;
    };
    let schemas = &material.unusable_schema_names;
    let mut lines: Vec<Line> =
        schemas.iter().map(|schema| runs(format!("GRANT USAGE ON SCHEMA {} TO {role}", quote_ident(schema)))).collect();
    let unreadable: Vec<String> =
        material.tables.iter().filter(|table| !table.readable).map(|table| table.name.to_string()).collect();
    if !unreadable.is_empty() {
        lines.push(runs(format!("GRANT SELECT ON TABLE {} TO {role}", names(unreadable.into_iter()))));
    }
    lines.extend(basis.ledger(ActKind::CreateSlot, "perform"));
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
