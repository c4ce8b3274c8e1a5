//! *Subscriber*: rows compared with the other side by their hashes, where an operator
//! asks for it.

use std::time::Duration;

use pgportage_link::Failure;
use pgportage_proto::v1::command::Action as Message;
use pgportage_proto::v1::command_result::Result as Produced;
use pgportage_proto::{ActKind, v1};
use pgportage_report::comparison::RowComparison;
use serde::{Deserialize, Serialize};

use super::super::depth::Depth;
use super::super::statement::{Basis, Statements, remark};
use super::kind::{Act, Given, Input, Outcome, Payload, something_else};
use crate::message::to_duration;

/// See the module.
pub static ACT: Act = Act {
    kind: ActKind::CompareRows,
    input,
    send,
    produces: |outcome| outcome.read::<RowComparison>().is_some(),
    receive,
    statements,
};

/// Which comparison.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompareRows {
    /// Its number: the same for one that is resumed.
    pub comparison_id: i64,
    /// How long it may take.
    pub time_limit: Option<Duration>,
    /// Whether statements that mend differences are written down.
    pub repair: bool,
}

impl Payload for CompareRows {
    const KIND: ActKind = ActKind::CompareRows;
}

impl Payload for RowComparison {
    const KIND: ActKind = ActKind::CompareRows;
}

fn input(given: &Given<'_>) -> Option<Input> {
    match *given.depth {
        Depth::Rows { comparison_id, time_limit, repair } => {
            Some(Input::of(CompareRows { comparison_id, time_limit, repair }))
        }
        Depth::Counts => None,
    }
}

fn send(input: &Input) -> Option<Message> {
    let CompareRows { comparison_id, time_limit, repair } = *input.read::<CompareRows>()?;
    let time_limit = time_limit.and_then(to_duration);
    Some(Message::CompareRows(v1::CompareRows { comparison_id, time_limit, repair }))
}

fn receive(produced: Produced) -> Result<Outcome, Failure> {
    let Produced::CompareRows(result) = produced else { return Err(something_else()) };
    Ok(Outcome::of(RowComparison::try_from(result)?))
}

fn statements(_basis: &Basis<'_>) -> Statements {
    vec![remark("where you ask for it: hashes of all rows, part by part, compared between both sides; it reads only")]
        .into()
}
