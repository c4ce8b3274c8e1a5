//! *Destination*: from here on until the decision no application can log in.

use pgportage_link::Failure;
use pgportage_proto::v1::command::Action as Message;
use pgportage_proto::v1::command_result::Result as Produced;
use pgportage_proto::{ActKind, v1};
use serde::{Deserialize, Serialize};

use super::super::statement::{Basis, Statements, runs};
use super::kind::{Act, Input, Outcome, Payload, something_else};

/// See the module.
pub static ACT: Act = Act {
    kind: ActKind::CloseDatabase,
    input: |_| Some(Input::of(CloseDatabase)),
    send: |input| input.read::<CloseDatabase>().map(|_| Message::CloseDatabase(v1::CloseDatabase {})),
    produces: |outcome| outcome.read::<CloseDatabaseResult>().is_some(),
    receive,
    statements,
};

/// It is given nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloseDatabase;

/// The database is closed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloseDatabaseResult {
    /// Sessions that were ended.
    pub terminated_session_count: i32,
}

impl Payload for CloseDatabase {
    const KIND: ActKind = ActKind::CloseDatabase;
}

impl Payload for CloseDatabaseResult {
    const KIND: ActKind = ActKind::CloseDatabase;
}

fn receive(produced: Produced) -> Result<Outcome, Failure> {
    let Produced::CloseDatabase(result) = produced else { return Err(something_else()) };
    let terminated_session_count = result.terminated_session_count;
    Ok(Outcome::of(CloseDatabaseResult { terminated_session_count }))
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
