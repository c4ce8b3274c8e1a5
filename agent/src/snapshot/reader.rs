//! Sessions that have imported the snapshot, and what they read.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use pgportage_link::Failure;
use tokio::sync::mpsc;
use tokio_postgres::CopyOutStream;

use super::tables::{self, SnapshotTable};
use super::throttle::Throttle;
use super::turns::Turn;
use super::{Pace, snapshot_lost};
use crate::agent::Agent;
use crate::migration::Participation;
use crate::names;
use crate::peer::{CHUNK_BYTES, CHUNKS_WAITING, Chunk, Packer};
use crate::postgres::{Door, Purpose, RelationName, Session, quote_ident, quote_literal, sql_failure};

/// The snapshot that was asked for is gone, or never was.
const UNKNOWN_SNAPSHOT: [&str; 2] = ["22023", "55000"];

/// COPY data in pieces, then [`Piece::Complete`] or an error. Without one of them
/// the reading was given up.
pub(crate) type RowStream = mpsc::Receiver<Result<Piece, Failure>>;

/// What a reading gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// COPY data.
    Rows(Chunk),
    /// Every row of the range was given.
    Complete,
}

/// Rows of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    /// The table.
    pub(crate) table: RelationName,
    /// The columns, unquoted.
    pub(crate) columns: Vec<String>,
    /// Binary rather than text.
    pub(crate) binary: bool,
    /// First block.
    pub(crate) first_block: i64,
    /// First block behind it; to the table's end if none.
    pub(crate) end_block: Option<i64>,
}

impl Range {
    /// Everything in the table: a plain COPY, which needs no plan.
    fn is_whole(&self) -> bool {
        self.first_block == 0 && self.end_block.is_none()
    }

    fn statement(&self) -> String {
        let columns = self.columns.iter().map(|column| quote_ident(column)).collect::<Vec<_>>().join(", ");
        let format = if self.binary { "binary" } else { "text" };
        if self.is_whole() {
            let list = if columns.is_empty() { String::new() } else { format!(" ({columns})") };
            return format!("COPY {}{list} TO STDOUT (FORMAT {format})", self.table);
        }
        let mut condition = format!("ctid >= '({},0)'::tid", self.first_block);
        if let Some(end) = self.end_block {
            condition.push_str(&format!(" AND ctid < '({end},0)'::tid"));
        }
        // ONLY, as a plain COPY of a table would do.
        format!("COPY (SELECT {columns} FROM ONLY {} WHERE {condition}) TO STDOUT (FORMAT {format})", self.table)
    }
}

/// Readers of one snapshot. One that has read a range in order is used again.
pub(super) struct Readers {
    door: Door,
    database: String,
    snapshot_name: String,
    pace: Pace,
    idle: Arc<Mutex<Vec<Session>>>,
}

impl fmt::Debug for Readers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readers").field("snapshot_name", &self.snapshot_name).finish_non_exhaustive()
    }
}

impl Readers {
    pub(super) fn new(door: &Door, database: &str, snapshot_name: &str, pace: Pace) -> Self {
        Self {
            door: door.clone(),
            database: database.to_owned(),
            snapshot_name: snapshot_name.to_owned(),
            pace,
            idle: Arc::default(),
        }
    }

    /// What the snapshot holds of the migration's publication.
    pub(super) async fn tables(&self, participation: &Participation) -> Result<Vec<SnapshotTable>, Failure> {
        let reader = self.take().await?;
        let tables = tables::read(&*reader, &names::replication_name(&participation.migration)).await?;
        self.lock().push(reader);
        Ok(tables)
    }

    /// Begins to read a range.
    pub(super) async fn read(&self, agent: &Agent, range: Range, packer: Packer) -> Result<RowStream, Failure> {
        let reader = self.take().await?;
        let rows = reader
            .copy_out(&range.statement())
            .await
            .map_err(|error| sql_failure(error, &format!("read table {}", range.table)))?;
        let (pieces, stream) = mpsc::channel(CHUNKS_WAITING);
        let (throttle, turn) = (Arc::clone(&self.pace.throttle), self.pace.turns.begin());
        let mut packed = Pieces { turn, throttle, packer, pieces: pieces.clone() };
        let idle = Arc::clone(&self.idle);
        let stop = agent.stop.clone();
        agent.tasks.spawn(async move {
            let carried = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                // Nobody listens: the session is dropped and its statement with it.
                () = pieces.closed() => return,
                carried = carry(rows, &mut packed) => carried,
            };
            match carried {
                // Before the last word: the next range finds it.
                Ok(Carried::Everything) => {
                    idle.lock().unwrap_or_else(PoisonError::into_inner).push(reader);
                    let _unheard = pieces.send(Ok(Piece::Complete)).await;
                }
                // In the middle of a COPY it is of no use to anybody.
                Ok(Carried::Unheard) => {}
                Err(error) => {
                    let failure = sql_failure(error, &format!("read table {}", range.table));
                    // If nobody listens any more, nobody needs the reason.
                    let _unheard = pieces.send(Err(failure)).await;
                }
            }
        });
        Ok(stream)
    }

    /// A session in a transaction that sees the snapshot.
    async fn take(&self) -> Result<Session, Failure> {
        loop {
            let Some(reader) = self.lock().pop() else { break };
            if !reader.is_closed() {
                return Ok(reader);
            }
        }
        let session = self.door.open(&self.database, Purpose::Scan).await?;
        let import = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}",
            quote_literal(&self.snapshot_name)
        );
        session.batch_execute(&import).await.map_err(|error| {
            let failure = sql_failure(error, "import the snapshot");
            if failure.sqlstate.as_deref().is_some_and(|state| UNKNOWN_SNAPSHOT.contains(&state)) {
                snapshot_lost(&self.snapshot_name).because(&failure)
            } else {
                failure
            }
        })?;
        Ok(session)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Session>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How far a reading came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carried {
    Everything,
    /// Somebody stopped listening.
    Unheard,
}

/// Where a reading goes: in its turn, and no faster than it may.
struct Pieces {
    turn: Turn,
    throttle: Arc<Throttle>,
    packer: Packer,
    pieces: mpsc::Sender<Result<Piece, Failure>>,
}

impl Pieces {
    /// Says whether anybody listens. Packs here: the task that carries the
    /// connection has TLS to do.
    async fn send(&mut self, rows: Bytes) -> bool {
        self.turn.wait().await;
        self.throttle.pass(rows.len()).await;
        self.pieces.send(Ok(Piece::Rows(self.packer.pack(rows)))).await.is_ok()
    }
}

/// Gathers rows into pieces, and cuts rows that are larger than one.
async fn carry(rows: CopyOutStream, pieces: &mut Pieces) -> Result<Carried, tokio_postgres::Error> {
    tokio::pin!(rows);
    let mut gathered = BytesMut::with_capacity(CHUNK_BYTES);
    while let Some(row) = rows.next().await {
        let mut row = row?;
        if gathered.len() + row.len() > CHUNK_BYTES && !gathered.is_empty() {
            if !pieces.send(gathered.split().freeze()).await {
                return Ok(Carried::Unheard);
            }
            gathered.reserve(CHUNK_BYTES);
        }
        while row.len() > CHUNK_BYTES {
            if !pieces.send(row.split_to(CHUNK_BYTES)).await {
                return Ok(Carried::Unheard);
            }
        }
        gathered.extend_from_slice(&row);
    }
    if !gathered.is_empty() && !pieces.send(gathered.freeze()).await {
        return Ok(Carried::Unheard);
    }
    Ok(Carried::Everything)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first_block: i64, end_block: Option<i64>) -> Range {
        Range {
            table: RelationName::new("public", "order"),
            columns: vec!["id".to_owned(), "a \"b".to_owned()],
            binary: true,
            first_block,
            end_block,
        }
    }

    #[test]
    fn a_whole_table_is_a_plain_copy() {
        assert_eq!(range(0, None).statement(), "COPY public.\"order\" (id, \"a \"\"b\") TO STDOUT (FORMAT binary)");
        let bare = Range { columns: Vec::new(), binary: false, ..range(0, None) };
        assert_eq!(bare.statement(), "COPY public.\"order\" TO STDOUT (FORMAT text)");
    }

    #[test]
    fn a_range_is_cut_by_blocks_and_the_last_one_is_open() {
        assert_eq!(
            range(8, Some(16)).statement(),
            "COPY (SELECT id, \"a \"\"b\" FROM ONLY public.\"order\" \
             WHERE ctid >= '(8,0)'::tid AND ctid < '(16,0)'::tid) TO STDOUT (FORMAT binary)"
        );
        assert_eq!(
            range(16, None).statement(),
            "COPY (SELECT id, \"a \"\"b\" FROM ONLY public.\"order\" WHERE ctid >= '(16,0)'::tid) TO STDOUT (FORMAT binary)"
        );
    }
}
