//! *Entered side*: waits for the marker, and flushes it.

use std::time::Duration;

use pgportage_link::Failure;
use pgportage_proto::{ActKind, RelationName, v1};
use pgportage_report::Digest;
use serde::{Deserialize, Serialize};

use super::super::statement::{Basis, Statements, names, remark, runs};
use super::kind::{Act, Given, Kind, Message, Produced, Trial, something_else};
use super::raise_barrier::RaiseBarrier;
use super::sequence::SequenceState;
use crate::message::{reported, to_duration};

pub(crate) static ACT: Act = Act::of::<DrainToMarker>();

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DrainToMarker {
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

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DrainToMarkerResult {
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
    pub elapsed: Duration,
}

impl Kind for DrainToMarker {
    const KIND: ActKind = ActKind::DrainToMarker;
    type Outcome = DrainToMarkerResult;

    fn input(given: &Given<'_>) -> Option<Self> {
        let barrier = given.barrier?.read::<RaiseBarrier>()?;
        let Trial { epoch, compare_limit, .. } = given.trial?;
        Some(Self {
            cutover_epoch: epoch,
            marker_id: barrier.marker_id.clone(),
            sequences: barrier.sequences.clone(),
            open_timeout: given.outage_left,
            catalog_digest: barrier.catalog_digest.clone(),
            compare_limit,
        })
    }

    fn send(&self) -> Message {
        Message::DrainToMarker(v1::DrainToMarker {
            cutover_epoch: self.cutover_epoch,
            marker_id: self.marker_id.clone(),
            sequences: self.sequences.iter().map(v1::SequenceState::from).collect(),
            open_timeout: to_duration(self.open_timeout),
            catalog_digest: self.catalog_digest.0.clone(),
            compare_limit: self.compare_limit.and_then(to_duration),
        })
    }

    fn receive(produced: Produced) -> Result<Self::Outcome, Failure> {
        let Produced::DrainToMarker(result) = produced else { return Err(something_else()) };
        let written = |compared: v1::SwitchComparison| WrittenRows {
            table_count: compared.table_count,
            row_count: compared.row_count,
            left_out: compared.left_out.into_iter().map(RelationName::from).collect(),
            elapsed: reported(compared.elapsed),
        };
        Ok(DrainToMarkerResult {
            drain_time: reported(result.drain_time),
            sequence_count: result.sequence_count,
            flush_lsn: result.flush_lsn,
            compared: result.comparison.map(written),
        })
    }

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
}

/// The statement that sets sequences.
pub(super) const SET_SEQUENCES: &str = "SELECT count(setval(…, s.last_value, s.called)) FROM unnest(…) AS s (…)";
