//! *Both sides*: everything of ours is removed; the side that was left stays fenced.

use pgportage_link::Failure;
use pgportage_proto::{ActKind, RelationName, Side, v1};
use serde::{Deserialize, Serialize};

use super::super::statement::{Basis, Line, Statements, remark, runs};
use super::create_slot::reading_revoked;
use super::create_way_back::dropped;
use super::kind::{Act, Given, Kind, Message, Produced, something_else};

pub(crate) static ACT: Act = Act::of::<FinishMigration>();

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FinishMigration {
    /// Tables of the destination that came with `REPLICA IDENTITY FULL`.
    pub identity_full_tables: Vec<RelationName>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FinishMigrationResult {
    /// What lifts the fence of the source.
    pub unfence_statements: Vec<String>,
}

impl Kind for FinishMigration {
    const KIND: ActKind = ActKind::FinishMigration;
    type Outcome = FinishMigrationResult;

    fn input(given: &Given<'_>) -> Option<Self> {
        let identity_full_tables = match given.side {
            // It noted what each table had.
            Side::Source => Vec::new(),
            Side::Destination => given.source?.identity_full_tables.clone(),
        };
        Some(Self { identity_full_tables })
    }

    fn send(&self) -> Message {
        let identity_full_tables = self.identity_full_tables.iter().map(v1::RelationName::from).collect();
        Message::FinishMigration(v1::FinishMigration { identity_full_tables })
    }

    fn receive(produced: Produced) -> Result<Self::Outcome, Failure> {
        let Produced::FinishMigration(result) = produced else { return Err(something_else()) };
        Ok(FinishMigrationResult { unfence_statements: result.unfence_statements })
    }

    fn statements(basis: &Basis<'_>) -> Statements {
        match basis.side {
            Side::Source => source(basis),
            Side::Destination => destination(basis),
        }
        .into()
    }
}

fn destination(basis: &Basis<'_>) -> Vec<Line> {
    let incoming = basis.stream(Side::Source);
    // It was disabled when this side opened.
    let mut lines: Vec<Line> = dropped(&incoming)[1..].to_vec();
    if basis.reverse {
        lines.extend(basis.drop_slot());
        lines.extend(publication_dropped(basis, Side::Destination));
        lines.push(runs(format!("DROP PUBLICATION {}", basis.id.proof_publication())));
        lines.extend(basis.drop_roles());
    }
    let agent = basis.agent_role(Side::Destination);
    let held = basis
        .material(Side::Destination)
        .is_some_and(|it| it.connect_grants.iter().any(|grant| grant.grantee() == agent));
    if !held {
        lines.push(runs(format!("REVOKE CONNECT ON DATABASE {} FROM {agent}", basis.database())));
    }
    lines.push(runs("LOCK TABLE pgportage.ledger IN SHARE ROW EXCLUSIVE MODE"));
    lines.push(runs("DROP SCHEMA pgportage CASCADE"));
    lines.extend(identities(basis, "DEFAULT"));
    lines
}

fn source(basis: &Basis<'_>) -> Vec<Line> {
    let mut lines = Vec::new();
    if basis.reverse {
        lines.extend(dropped(&basis.stream(Side::Destination)));
    }
    lines.extend(basis.drop_slot());
    lines.extend(reading_revoked(basis));
    lines.extend(publication_dropped(basis, Side::Source));
    lines.push(runs("LOCK TABLE pgportage.ledger IN SHARE ROW EXCLUSIVE MODE"));
    lines.push(runs("DROP SCHEMA pgportage CASCADE"));
    lines.extend(identities(basis, "…"));
    lines.extend(basis.drop_roles());
    lines.push(remark("the fence stays; the statements that lift it are told"));
    lines
}

/// In two transactions, so that no statement of an application meets it half dropped.
fn publication_dropped(basis: &Basis<'_>, side: Side) -> [Line; 2] {
    let name = basis.stream(side);
    [
        runs(format!("ALTER PUBLICATION {name} SET TABLE ONLY {}", basis.heartbeat(side))),
        runs(format!("DROP PUBLICATION {name}")),
    ]
}

/// Tables that were given `REPLICA IDENTITY FULL`, with what they have afterwards.
fn identities(basis: &Basis<'_>, identity: &str) -> Vec<Line> {
    let tables = basis.source.map(|inventory| inventory.identity_full_tables.as_slice()).unwrap_or_default();
    tables.iter().map(|table| runs(format!("ALTER TABLE ONLY {table} REPLICA IDENTITY {identity}"))).collect()
}
