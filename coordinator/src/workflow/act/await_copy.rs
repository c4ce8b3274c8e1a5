//! *Destination*: waits until every table is copied and follows the stream.

use pgportage_link::Failure;
use pgportage_proto::v1;
use serde::{Deserialize, Serialize};

use super::super::statement::{Basis, Statements, remark};
use super::super::{ActKind, CopyMethod};
use super::{Act, Input, Message, Outcome, Produced, something_else};

/// See the module.
pub static AWAIT_COPY: Act = Act {
    kind: ActKind::AwaitCopy,
    input: |_, _, _| Some(Input::AwaitCopy),
    send: |input| matches!(input, Input::AwaitCopy).then_some(Message::AwaitCopy(v1::AwaitCopy {})),
    produces: |outcome| matches!(outcome, Outcome::AwaitCopy(_)),
    receive,
    statements,
};

/// Every table follows the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AwaitCopyResult {
    /// How many there are.
    pub table_count: i32,
}

fn receive(produced: Produced) -> Result<Outcome, Failure> {
    let Produced::AwaitCopy(result) = produced else { return Err(something_else()) };
    Ok(Outcome::AwaitCopy(AwaitCopyResult { table_count: result.table_count }))
}

fn statements(basis: &Basis<'_>) -> Statements {
    let until = match basis.spec.copy_method {
        CopyMethod::Snapshot => "wait until every table follows the stream",
        CopyMethod::Native => "wait until every table is copied and follows the stream",
    };
    vec![remark(until)].into()
}
