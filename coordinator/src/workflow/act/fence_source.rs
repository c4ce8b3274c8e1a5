//! *Left side*: the durable fence, and the proof that no session is left.

use pgportage_link::Failure;
use pgportage_proto::v1::command::Action as Message;
use pgportage_proto::v1::command_result::Result as Produced;
use pgportage_proto::{ActKind, quote_ident, v1};
use pgportage_report::Digest;
use serde::{Deserialize, Serialize};

use super::super::statement::{Basis, Statements, remark, runs};
use super::kind::{Act, Given, Input, Outcome, Payload, something_else};
use super::raise_barrier::Barrier;
use super::sequence::SequenceState;

/// See the module.
pub static ACT: Act = Act {
    kind: ActKind::FenceSource,
    input,
    send,
    produces: |outcome| outcome.read::<Fence>().is_some(),
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

impl Payload for FenceSource {
    const KIND: ActKind = ActKind::FenceSource;
}

impl Payload for Fence {
    const KIND: ActKind = ActKind::FenceSource;
}

fn input(given: &Given<'_>) -> Option<Input> {
    let cutover_epoch = given.cutover_epoch?;
    let marker_id = given.barrier?.read::<Barrier>()?.marker_id.clone();
    Some(Input::of(FenceSource { cutover_epoch, marker_id }))
}

fn send(input: &Input) -> Option<Message> {
    let FenceSource { cutover_epoch, marker_id } = input.read::<FenceSource>()?;
    Some(Message::FenceSource(v1::FenceSource { cutover_epoch: *cutover_epoch, marker_id: marker_id.clone() }))
}

fn receive(produced: Produced) -> Result<Outcome, Failure> {
    let Produced::FenceSource(result) = produced else { return Err(something_else()) };
    Ok(Outcome::of(Fence {
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
