//! *Entered side*: fixes where its stream begins: at the position of its decision.

use pgportage_link::Failure;
use pgportage_proto::{ActKind, v1};
use serde::{Deserialize, Serialize};

use super::super::statement::{Basis, Statements, only_if, runs};
use super::kind::{Act, Given, Kind, Message, Produced, something_else};

pub(crate) static ACT: Act = Act::of::<KeepStream>();

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeepStream {
    pub cutover_epoch: i64,
}

/// The slot is there, and on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeepStreamResult {
    /// Where it begins.
    pub begin_lsn: String,
}

impl Kind for KeepStream {
    const KIND: ActKind = ActKind::KeepStream;
    type Outcome = KeepStreamResult;

    fn input(given: &Given<'_>) -> Option<Self> {
        Some(Self { cutover_epoch: given.cutover_epoch? })
    }

    fn send(&self) -> Message {
        Message::KeepStream(v1::KeepStream { cutover_epoch: self.cutover_epoch })
    }

    fn receive(produced: Produced) -> Result<Self::Outcome, Failure> {
        let Produced::KeepStream(result) = produced else { return Err(something_else()) };
        Ok(KeepStreamResult { begin_lsn: result.begin_lsn })
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
}
