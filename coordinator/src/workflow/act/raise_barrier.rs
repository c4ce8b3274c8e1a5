//! *Left side*: the table locks, then the marker. Undone by letting go.

use std::time::Duration;

use pgportage_link::Failure;
use pgportage_proto::{ActKind, v1};
use pgportage_report::Digest;
use serde::{Deserialize, Serialize};

use super::super::statement::{Basis, Statements, only_if, runs};
use super::kind::{Act, Given, Kind, Message, Produced, something_else};
use super::sequence::SequenceState;
use crate::message::{reported, to_duration};

pub(crate) static ACT: Act = Act::of::<RaiseBarrier>();

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RaiseBarrier {
    pub cutover_epoch: i64,
    pub max_outage: Duration,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Barrier {
    /// The row that travels the stream.
    pub marker_id: String,
    /// Position of the source after it.
    pub marker_lsn: String,
    pub sequences: Vec<SequenceState>,
    pub catalog_digest: Digest,
    pub lock_wait: Duration,
    /// Sessions whose statement was cancelled.
    pub cancelled_session_count: i32,
}

impl Kind for RaiseBarrier {
    const KIND: ActKind = ActKind::RaiseBarrier;
    type Outcome = Barrier;

    fn input(given: &Given<'_>) -> Option<Self> {
        let trial = given.trial?;
        Some(Self { cutover_epoch: trial.epoch, max_outage: trial.max_outage })
    }

    fn send(&self) -> Message {
        let max_outage = to_duration(self.max_outage);
        Message::RaiseBarrier(v1::RaiseBarrier { cutover_epoch: self.cutover_epoch, max_outage })
    }

    fn receive(produced: Produced) -> Result<Self::Outcome, Failure> {
        let Produced::RaiseBarrier(result) = produced else { return Err(something_else()) };
        Ok(Barrier {
            marker_id: result.marker_id,
            marker_lsn: result.marker_lsn,
            sequences: result.sequences.into_iter().map(SequenceState::try_from).collect::<Result<_, _>>()?,
            catalog_digest: Digest(result.catalog_digest),
            lock_wait: reported(result.lock_wait),
            cancelled_session_count: result.cancelled_session_count,
        })
    }

    fn statements(basis: &Basis<'_>) -> Statements {
        let tables = match basis.tables() {
            Some(tables) => format!("the {} tables of publication {}", tables.len(), basis.stream(basis.side)),
            None => "every published table".to_owned(),
        };
        let lock = |mode: &str| {
            runs(format!("LOCK TABLE ONLY … IN {mode} MODE /* {tables}, and those that have partitions or no WAL */"))
        };
        vec![
            lock("SHARE UPDATE EXCLUSIVE"),
            lock("SHARE"),
            only_if("a statement of an application and the locks wait for each other", "SELECT pg_cancel_backend('…')"),
            runs("DELETE FROM pgportage.marker"),
            runs("INSERT INTO pgportage.marker (marker_id, cutover_epoch) VALUES ('…', …)"),
        ]
        .into()
    }
}
