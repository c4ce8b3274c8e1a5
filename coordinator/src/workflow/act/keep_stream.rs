//! *Entered side*: fixes where its stream begins: at the position of its decision.

use pgportage_link::Failure;
use pgportage_proto::v1::command::Action as Message;
use pgportage_proto::v1::command_result::Result as Produced;
use pgportage_proto::{ActKind, v1};
use serde::{Deserialize, Serialize};

use super::super::statement::{Basis, Statements, only_if, runs};
use super::kind::{Act, Input, Outcome, Payload, something_else};

/// See the module.
pub static ACT: Act = Act {
    kind: ActKind::KeepStream,
    input: |given| Some(Input::of(KeepStream { cutover_epoch: given.cutover_epoch? })),
    send,
    produces: |outcome| outcome.read::<KeepStreamResult>().is_some(),
    receive,
    statements,
};

/// Behind which switch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepStream {
    /// Its number.
    pub cutover_epoch: i64,
}

/// The slot is there, and on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepStreamResult {
    /// Where it begins.
    pub begin_lsn: String,
}

impl Payload for KeepStream {
    const KIND: ActKind = ActKind::KeepStream;
}

impl Payload for KeepStreamResult {
    const KIND: ActKind = ActKind::KeepStream;
}

fn send(input: &Input) -> Option<Message> {
    let KeepStream { cutover_epoch } = *input.read::<KeepStream>()?;
    Some(Message::KeepStream(v1::KeepStream { cutover_epoch }))
}

fn receive(produced: Produced) -> Result<Outcome, Failure> {
    let Produced::KeepStream(result) = produced else { return Err(something_else()) };
    Ok(Outcome::of(KeepStreamResult { begin_lsn: result.begin_lsn }))
}

fn statements(basis: &Basis<'_>) -> Statements {
    let (slot, copy) = (basis.stream(basis.side), basis.id.slot_copy(basis.side));
    vec![
        only_if(
            "the slot stands before the decision",
            format!("SELECT FROM pg_replication_slot_advance('{slot}', '…'::text::pg_lsn)"),
        ),
        runs(format!("SELECT FROM pg_copy_logical_replication_slot('{slot}', '{copy}')")),
        runs(format!("SELECT pg_drop_replication_slot('{slot}')")),
        runs(format!("SELECT FROM pg_copy_logical_replication_slot('{copy}', '{slot}')")),
        runs(format!("SELECT pg_drop_replication_slot('{copy}')")),
    ]
    .into()
}
