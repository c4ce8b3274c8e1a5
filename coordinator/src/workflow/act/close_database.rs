//! *Destination*: from here on until the decision no application can log in.

use pgportage_link::Failure;
use pgportage_proto::{ActKind, v1};
use serde::{Deserialize, Serialize};

use super::super::statement::{Basis, Statements, runs};
use super::kind::{Act, Given, Kind, Message, Produced, something_else};

pub(crate) static ACT: Act = Act::of::<CloseDatabase>();

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CloseDatabase;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CloseDatabaseResult {
    pub terminated_session_count: i32,
}

impl Kind for CloseDatabase {
    const KIND: ActKind = ActKind::CloseDatabase;
    type Outcome = CloseDatabaseResult;

    fn input(_: &Given<'_>) -> Option<Self> {
        Some(Self)
    }

    fn send(&self) -> Message {
        Message::CloseDatabase(v1::CloseDatabase {})
    }

    fn receive(produced: Produced) -> Result<Self::Outcome, Failure> {
        let Produced::CloseDatabase(result) = produced else { return Err(something_else()) };
        Ok(CloseDatabaseResult { terminated_session_count: result.terminated_session_count })
    }

    fn statements(basis: &Basis<'_>) -> Statements {
        let mut lines = basis.own_schema();
        lines.extend(basis.ledger(ActKind::CloseDatabase, "perform"));
        lines.push(runs(
            "INSERT INTO pgportage.decision (id, state, floor_epoch, saved_access) VALUES (1, 'closed', 0, '…')",
        ));
        lines.extend(basis.deny(&[basis.agent_role(basis.side)]));
        lines.extend(basis.end_sessions());
        lines.into()
    }
}
