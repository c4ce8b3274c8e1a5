//! *Destination*: waits until every table is copied and follows the stream.

use pgportage_link::Failure;
use pgportage_proto::{ActKind, CopyMethod, v1};
use serde::{Deserialize, Serialize};

use super::super::statement::{Basis, Statements, remark};
use super::kind::{Act, Given, Kind, Message, Produced, something_else};

pub(crate) static ACT: Act = Act::of::<AwaitCopy>();

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AwaitCopy;

/// Every table follows the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AwaitCopyResult {
    pub table_count: i32,
}

impl Kind for AwaitCopy {
    const KIND: ActKind = ActKind::AwaitCopy;
    type Outcome = AwaitCopyResult;

    fn input(_: &Given<'_>) -> Option<Self> {
        Some(Self)
    }

    fn send(&self) -> Message {
        Message::AwaitCopy(v1::AwaitCopy {})
    }

    fn receive(produced: Produced) -> Result<Self::Outcome, Failure> {
        let Produced::AwaitCopy(result) = produced else { return Err(something_else()) };
        Ok(AwaitCopyResult { table_count: result.table_count })
    }

    fn statements(basis: &Basis<'_>) -> Statements {
        let until = match basis.spec.copy_method {
            CopyMethod::Snapshot => "wait until every table follows the stream",
            CopyMethod::Native => "wait until every table is copied and follows the stream",
        };
        vec![remark(until)].into()
    }
}
