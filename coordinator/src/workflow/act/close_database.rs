//! *Destination*: from here on until the decision no application can log in.

use pgportage_link::Failure;
use pgportage_proto::v1;
use serde::{Deserialize, Serialize};

use super::super::ActKind;
use super::super::statement::{Basis, Statements, runs};
use super::{Act, Input, Message, Outcome, Produced, something_else};

/// See the module.
pub static CLOSE_DATABASE: Act = Act {
    kind: ActKind::CloseDatabase,
    input: |_, _, _| Some(Input::CloseDatabase),
    send: |input| matches!(input, Input::CloseDatabase).then_some(Message::CloseDatabase(v1::CloseDatabase {})),
    produces: |outcome| matches!(outcome, Outcome::CloseDatabase(_)),
    receive,
    statements,
};

/// The database is closed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloseDatabaseResult {
    /// Sessions that were ended.
    pub terminated_session_count: i32,
}

fn receive(produced: Produced) -> Result<Outcome, Failure> {
    let Produced::CloseDatabase(result) = produced else { return Err(something_else()) };
    let terminated_session_count = result.terminated_session_count;
    Ok(Outcome::CloseDatabase(CloseDatabaseResult { terminated_session_count }))
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
