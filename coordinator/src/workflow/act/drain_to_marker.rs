//! *Entered side*: waits for the marker, and flushes it.

use std::time::Duration;

use pgportage_link::Failure;
use pgportage_proto::v1::command::Action as Message;
use pgportage_proto::v1::command_result::Result as Produced;
use pgportage_proto::{ActKind, RelationName, v1};
use pgportage_report::Digest;
use serde::{Deserialize, Serialize};

use super::super::statement::{Basis, Statements, names, remark, runs};
use super::kind::{Act, Given, Input, Outcome, Payload, Trial, something_else};
use super::raise_barrier::Barrier;
use super::sequence::SequenceState;
use crate::message::{reported, to_duration};

/// See the module.
pub static ACT: Act = Act {
    kind: ActKind::DrainToMarker,
    input,
    send,
    produces: |outcome| outcome.read::<DrainToMarkerResult>().is_some(),
    receive,
    statements,
};

/// What is awaited, and for how long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainToMarker {
    /// The number of the switch.
    pub cutover_epoch: i64,
    /// The row that travels the stream.
    pub marker_id: String,
    /// Where the sequences stand.
    pub sequences: Vec<SequenceState>,
    /// How long this side may still open.
    pub open_timeout: Duration,
    /// The catalog of the other side.
    pub catalog_digest: Digest,
    /// How long comparing what was written may take. None: it is not compared.
    #[serde(default)]
    pub compare_limit: Option<Duration>,
}

/// The marker is here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainToMarkerResult {
    /// How long that took.
    pub drain_time: Duration,
    /// Sequences that were set.
    pub sequence_count: i32,
    /// Position of this side after it.
    pub flush_lsn: String,
    /// What was compared.
    #[serde(default)]
    pub compared: Option<WrittenRows>,
}

/// What was compared with the barrier standing, and did not differ: rows that were
/// written since P0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WrittenRows {
    /// Tables that were written to and compared.
    pub table_count: i32,
    /// Rows of them that were written.
    pub row_count: i64,
    /// Tables that were written to and not compared.
    pub left_out: Vec<RelationName>,
    /// How long it took.
    pub elapsed: Duration,
}

impl Payload for DrainToMarker {
    const KIND: ActKind = ActKind::DrainToMarker;
}

impl Payload for DrainToMarkerResult {
    const KIND: ActKind = ActKind::DrainToMarker;
}

fn input(given: &Given<'_>) -> Option<Input> {
    let barrier = given.barrier?.read::<Barrier>()?;
    let Trial { epoch, compare_limit, .. } = given.trial?;
    Some(Input::of(DrainToMarker {
        cutover_epoch: epoch,
        marker_id: barrier.marker_id.clone(),
        sequences: barrier.sequences.clone(),
        open_timeout: given.outage_left,
        catalog_digest: barrier.catalog_digest.clone(),
        compare_limit,
    }))
}

fn send(input: &Input) -> Option<Message> {
    let given = input.read::<DrainToMarker>()?;
    Some(Message::DrainToMarker(v1::DrainToMarker {
        cutover_epoch: given.cutover_epoch,
        marker_id: given.marker_id.clone(),
        sequences: given.sequences.iter().map(v1::SequenceState::from).collect(),
        open_timeout: to_duration(given.open_timeout),
        catalog_digest: given.catalog_digest.0.clone(),
        compare_limit: given.compare_limit.and_then(to_duration),
    }))
}

fn receive(produced: Produced) -> Result<Outcome, Failure> {
    let Produced::DrainToMarker(result) = produced else { return Err(something_else()) };
    let written = |compared: v1::SwitchComparison| WrittenRows {
        table_count: compared.table_count,
        row_count: compared.row_count,
        left_out: compared.left_out.into_iter().map(RelationName::from).collect(),
        elapsed: reported(compared.elapsed),
    };
    Ok(Outcome::of(DrainToMarkerResult {
        drain_time: reported(result.drain_time),
        sequence_count: result.sequence_count,
        flush_lsn: result.flush_lsn,
        compared: result.comparison.map(written),
    }))
}

/// The statement that sets sequences.
pub(super) const SET_SEQUENCES: &str = "SELECT count(setval(…, s.last_value, s.called)) FROM unnest(…) AS s (…)";

fn statements(basis: &Basis<'_>) -> Statements {
    let mut lines = vec![remark("wait for the marker")];
    match basis.sequences() {
        Some([]) => {}
        Some(sequences) => {
            let sequences = names(sequences.iter().map(ToString::to_string));
            lines.push(runs(SET_SEQUENCES));
            lines.push(remark(format!("the sequences: {sequences}")));
        }
        None => lines.push(runs(SET_SEQUENCES)),
    }
    lines.extend(basis.ledger(ActKind::DrainToMarker, "perform"));
    lines.into()
}
