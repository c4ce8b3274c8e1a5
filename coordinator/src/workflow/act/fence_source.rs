//! *Left side*: the durable fence, and the proof that no session is left.

use pgportage_link::Failure;
use pgportage_proto::{ActKind, quote_ident, v1};
use pgportage_report::Digest;
use serde::{Deserialize, Serialize};

use super::super::statement::{Basis, Statements, remark, runs};
use super::kind::{Act, Given, Kind, Message, Produced, something_else};
use super::raise_barrier::RaiseBarrier;
use super::sequence::SequenceState;

pub(crate) static ACT: Act = Act::of::<FenceSource>();

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FenceSource {
    pub cutover_epoch: i64,
    pub marker_id: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Fence {
    /// Position of the source after it.
    pub fence_lsn: String,
    /// Every sequence, read when nobody was left.
    pub sequences: Vec<SequenceState>,
    pub terminated_session_count: i32,
    /// The catalog, read when nobody was left.
    pub catalog_digest: Digest,
}

impl Kind for FenceSource {
    const KIND: ActKind = ActKind::FenceSource;
    type Outcome = Fence;

    fn input(given: &Given<'_>) -> Option<Self> {
        let cutover_epoch = given.cutover_epoch?;
        let marker_id = given.barrier?.read::<RaiseBarrier>()?.marker_id.clone();
        Some(Self { cutover_epoch, marker_id })
    }

    fn send(&self) -> Message {
        Message::FenceSource(v1::FenceSource { cutover_epoch: self.cutover_epoch, marker_id: self.marker_id.clone() })
    }

    fn receive(produced: Produced) -> Result<Self::Outcome, Failure> {
        let Produced::FenceSource(result) = produced else { return Err(something_else()) };
        Ok(Fence {
            fence_lsn: result.fence_lsn,
            sequences: result.sequences.into_iter().map(SequenceState::try_from).collect::<Result<_, _>>()?,
            terminated_session_count: result.terminated_session_count,
            catalog_digest: Digest(result.catalog_digest),
        })
    }

    fn statements(basis: &Basis<'_>) -> Statements {
        let side = basis.side;
        let mut lines = Vec::from(basis.ledger(ActKind::FenceSource, "perform"));
        lines.push(runs("INSERT INTO pgportage.fence (id, cutover_epoch, saved_access) VALUES (1, '…', '…')"));
        lines.extend(basis.deny(&[basis.agent_role(side), quote_ident(&basis.replication_role(side).role_name)]));
        lines.push(runs(format!("ALTER DATABASE {} SET default_transaction_read_only = on", basis.database())));
        lines.extend(basis.end_sessions());
        lines.push(remark(format!("try to log in as {}: it must be refused", basis.canary_role(side).role_name)));
        lines.into()
    }
}
