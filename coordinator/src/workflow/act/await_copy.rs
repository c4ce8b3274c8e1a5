//! *Destination*: waits until every table is copied and follows the stream.

use pgportage_link::Failure;
use pgportage_proto::v1::command::Action as Message;
use pgportage_proto::v1::command_result::Result as Produced;
use pgportage_proto::{ActKind, CopyMethod, v1};
use serde::{Deserialize, Serialize};

use super::super::statement::{Basis, Statements, remark};
use super::kind::{Act, Input, Outcome, Payload, something_else};

/// See the module.
pub static ACT: Act = Act {
    kind: ActKind::AwaitCopy,
    input: |_| Some(Input::of(AwaitCopy)),
    send: |input| input.read::<AwaitCopy>().map(|_| Message::AwaitCopy(v1::AwaitCopy {})),
    produces: |outcome| outcome.read::<AwaitCopyResult>().is_some(),
    receive,
    statements,
};

/// It is given nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AwaitCopy;

/// Every table follows the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AwaitCopyResult {
    /// How many there are.
    pub table_count: i32,
}

impl Payload for AwaitCopy {
    const KIND: ActKind = ActKind::AwaitCopy;
}

impl Payload for AwaitCopyResult {
    const KIND: ActKind = ActKind::AwaitCopy;
}

fn receive(produced: Produced) -> Result<Outcome, Failure> {
    let Produced::AwaitCopy(result) = produced else { return Err(something_else()) };
    Ok(Outcome::of(AwaitCopyResult { table_count: result.table_count }))
}

fn statements(basis: &Basis<'_>) -> Statements {
    let until = match basis.spec.copy_method {
        CopyMethod::Snapshot => "wait until every table follows the stream",
        CopyMethod::Native => "wait until every table is copied and follows the stream",
    };
    vec![remark(until)].into()
}
