//! *Left side*: the durable fence, and the proof that no session is left.

use pgportage_link::Failure;
use pgportage_proto::{quote_ident, v1};
use serde::{Deserialize, Serialize};

use super::super::digest::Digest;
use super::super::state::State;
use super::super::statement::{Basis, Statements, remark, runs};
use super::super::{ActKind, ActRef};
use super::{Act, Input, Message, Outcome, Produced, SequenceState, something_else};

/// See the module.
pub static FENCE_SOURCE: Act = Act {
    kind: ActKind::FenceSource,
    input: |state, act, _| input(state, act),
    send,
    produces: |outcome| matches!(outcome, Outcome::FenceSource(_)),
    receive,
    statements,
};

/// Which switch fences.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceSource {
    /// Its number.
    pub cutover_epoch: i64,
    /// Its marker.
    pub marker_id: String,
}

/// The source is fenced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Fence {
    /// Position of the source after it.
    pub fence_lsn: String,
    /// Every sequence, read when nobody was left.
    pub sequences: Vec<SequenceState>,
    /// Sessions that were ended.
    pub terminated_session_count: i32,
    /// The catalog, read when nobody was left.
    pub catalog_digest: Digest,
}

fn input(state: &State, act: ActRef) -> Option<Input> {
    let cutover_epoch = state.cutover.as_ref()?.epoch;
    let marker_id = state.barrier(act.step)?.marker_id.clone();
    Some(Input::FenceSource(FenceSource { cutover_epoch, marker_id }))
}

fn send(input: &Input) -> Option<Message> {
    let Input::FenceSource(FenceSource { cutover_epoch, marker_id }) = input else { return None };
    Some(Message::FenceSource(v1::FenceSource { cutover_epoch: *cutover_epoch, marker_id: marker_id.clone() }))
}

fn receive(produced: Produced) -> Result<Outcome, Failure> {
    let Produced::FenceSource(result) = produced else { return Err(something_else()) };
    Ok(Outcome::FenceSource(Fence {
        fence_lsn: result.fence_lsn,
        sequences: result.sequences.into_iter().map(SequenceState::try_from).collect::<Result<_, _>>()?,
        terminated_session_count: result.terminated_session_count,
        catalog_digest: Digest(result.catalog_digest),
    }))
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
