//! Sessions that have imported the snapshot, and how they read.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::StreamExt;
use pgportage_link::{Effect, Failure, Remedy};
use pgportage_migration::Participation;
use pgportage_migration::names;
use pgportage_postgres::{Lsn, Purpose, RelationName, Session, quote_ident, quote_literal, sql_failure};
use pgportage_proto::Reason;
use tokio::sync::mpsc;
use tokio_postgres::CopyOutStream;

use super::reader_slots::ReaderSlot;
use super::tables::{self, KeyType, Published};
use super::throttle::Throttle;
use super::touched::Key;
use super::{Hands, Pace, snapshot_lost};
use crate::peer::{CHUNK_BYTES, CHUNKS_WAITING, Chunk, Packer};

/// The snapshot that the reader wants to import is gone, or never was.
const UNKNOWN_SNAPSHOT: [&str; 2] = ["22023", "55000"];

/// Pieces of COPY data, then [`Piece::Complete`] or an error. A stream that ends with neither was given up.
pub type RowStream = mpsc::Receiver<Result<Piece, Failure>>;

/// One item of a reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// COPY data.
    Rows(Chunk),
    /// Every row of the range was sent.
    Complete,
}

/// Rows of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// The table.
    pub table: RelationName,
    /// The columns, unquoted.
    pub columns: Vec<String>,
    /// In the binary format rather than as text.
    pub binary: bool,
    /// Which of its rows.
    pub selection: Selection,
}

/// Which rows of a table are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// The rows in blocks from `first` up to `end`; without an end, up to the table's end.
    Blocks {
        /// The first block, counted from zero.
        first: i64,
        /// The first block that is not read.
        end: Option<i64>,
    },
    /// The keys of the rows that were touched since another snapshot, in the text format of COPY.
    TouchedKeys {
        /// The name of that snapshot.
        since: Lsn,
    },
    /// The rows that were touched since another snapshot.
    TouchedRows {
        /// The name of that snapshot.
        since: Lsn,
    },
}

impl Range {
    pub(super) fn statement(&self) -> String {
        let columns = self.columns.iter().map(|column| quote_ident(column)).collect::<Vec<_>>().join(", ");
        let (first, end) = match self.selection {
            Selection::Blocks { first, end } => (first, end),
            Selection::TouchedKeys { .. } | Selection::TouchedRows { .. } => (0, None),
        };
        // The whole table: a plain COPY, which needs no plan.
        if first == 0 && end.is_none() {
            let list = if columns.is_empty() { String::new() } else { format!(" ({columns})") };
            return format!("COPY {}{list} TO STDOUT (FORMAT {})", self.table, self.format());
        }
        let mut condition = format!("ctid >= '({first},0)'::tid");
        if let Some(end) = end {
            condition.push_str(&format!(" AND ctid < '({end},0)'::tid"));
        }
        // ONLY, as in a plain COPY of a table.
        format!(
            "COPY (SELECT {columns} FROM ONLY {} WHERE {condition}) TO STDOUT (FORMAT {})",
            self.table,
            self.format()
        )
    }

    /// The statement that reads the rows with these keys, each of them once.
    pub(super) fn statement_of_keys(&self, published: &Published, keys: &BTreeSet<Key>) -> String {
        let columns = self.columns.iter().map(|column| format!("t.{}", quote_ident(column))).collect::<Vec<_>>();
        let literal = |(text, key_type): (&String, &KeyType)| match key_type {
            KeyType::Value(name) => format!("{}::{name}", quote_literal(text)),
            KeyType::Text => format!("{}::text", quote_literal(text)),
        };
        let rows = keys.iter().map(|key| {
            let literals: Vec<String> = key.iter().zip(&published.key_types).map(literal).collect();
            format!("({})", literals.join(", "))
        });
        let names = (0..published.key_types.len()).map(|number| format!("k{number}")).collect::<Vec<_>>();
        let equal =
            published.table.key.iter().zip(&published.key_types).zip(&names).map(|((column, key_type), name)| {
                let column = quote_ident(column);
                match key_type {
                    KeyType::Value(_) => format!("t.{column} = touched.{name}"),
                    KeyType::Text => format!("format('%s', t.{column}) = touched.{name}"),
                }
            });
        format!(
            "COPY (SELECT {} FROM ONLY {} AS t WHERE EXISTS (SELECT FROM (VALUES {}) AS touched ({}) WHERE {})) \
             TO STDOUT (FORMAT {})",
            columns.join(", "),
            self.table,
            rows.collect::<Vec<_>>().join(", "),
            names.join(", "),
            equal.collect::<Vec<_>>().join(" AND "),
            self.format(),
        )
    }

    fn format(&self) -> &'static str {
        if self.binary { "binary" } else { "text" }
    }
}

/// Keys in the text format of COPY.
pub(super) fn keys_text(keys: &BTreeSet<Key>) -> Bytes {
    let mut text = String::new();
    for key in keys {
        for (number, value) in key.iter().enumerate() {
            if number > 0 {
                text.push('\t');
            }
            for letter in value.chars() {
                match letter {
                    '\\' => text.push_str("\\\\"),
                    '\t' => text.push_str("\\t"),
                    '\n' => text.push_str("\\n"),
                    '\r' => text.push_str("\\r"),
                    other => text.push(other),
                }
            }
        }
        text.push('\n');
    }
    text.into()
}

/// Readers of one snapshot. A session that has read a range to its end is used again.
pub(super) struct Readers {
    hands: Hands,
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
    pub(super) fn new(hands: &Hands, database: &str, snapshot_name: &str, pace: Pace) -> Self {
        Self {
            hands: hands.clone(),
            database: database.to_owned(),
            snapshot_name: snapshot_name.to_owned(),
            pace,
            idle: Arc::default(),
        }
    }

    /// The tables of the migration's publication, as the snapshot shows them.
    pub(super) async fn tables(&self, participation: &Participation) -> Result<Vec<Published>, Failure> {
        let reader = self.take().await?;
        let tables = tables::read(&*reader, &names::replication_name(&participation.migration)).await?;
        self.lock().push(reader);
        Ok(tables)
    }

    /// Begins to read the output of a COPY of one table.
    ///
    /// # Errors
    ///
    /// [`Reason::SnapshotLost`] when the table was rewritten since the snapshot: neither are its rows there
    /// for this reader, nor is what became of them in the stream.
    pub(super) async fn read(
        &self,
        published: &Published,
        statement: &str,
        doing: &str,
        packer: Packer,
    ) -> Result<RowStream, Failure> {
        let reader = self.take().await?;
        if !tables::is_in_its_file(&*reader, published).await? {
            return Err(rewritten(&published.table.name));
        }
        let rows = reader.copy_out(statement).await.map_err(|error| sql_failure(error, doing))?;
        let (mut packed, pieces, stream) = self.pieces(packer);
        let doing = doing.to_owned();
        let idle = Arc::clone(&self.idle);
        let stop = self.hands.tasks.stop.clone();
        self.hands.tasks.spawn(async move {
            let carried = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                // The destination agent stopped listening: the session is dropped, and its statement ends.
                () = pieces.closed() => return,
                carried = carry(rows, &mut packed) => carried,
            };
            match carried {
                // Put back before the closing piece is sent, so that the next range finds it.
                Ok(Carried::Everything) => {
                    idle.lock().unwrap_or_else(PoisonError::into_inner).push(reader);
                    let _unheard = pieces.send(Ok(Piece::Complete)).await;
                }
                // In the middle of a COPY the session cannot be used again.
                Ok(Carried::Unheard) => {}
                Err(error) => {
                    let failure = sql_failure(error, &doing);
                    // If the destination agent has stopped listening, it does not need the reason either.
                    let _unheard = pieces.send(Err(failure)).await;
                }
            }
        });
        Ok(stream)
    }

    /// Begins to send a text that is known already.
    pub(super) fn tell(&self, mut text: Bytes, packer: Packer) -> RowStream {
        let (mut packed, pieces, stream) = self.pieces(packer);
        let stop = self.hands.tasks.stop.clone();
        self.hands.tasks.spawn(async move {
            while !text.is_empty() {
                let piece = text.split_to(text.len().min(CHUNK_BYTES));
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    heard = packed.send(piece) => if !heard { return },
                }
            }
            // If the destination agent has stopped listening, it does not need the closing piece either.
            let _unheard = pieces.send(Ok(Piece::Complete)).await;
        });
        stream
    }

    /// The two ends of one reading.
    fn pieces(&self, packer: Packer) -> (Pieces, mpsc::Sender<Result<Piece, Failure>>, RowStream) {
        let (pieces, stream) = mpsc::channel(CHUNKS_WAITING);
        let (throttle, reader) = (Arc::clone(&self.pace.throttle), self.pace.readers.begin());
        (Pieces { reader, throttle, packer, pieces: pieces.clone() }, pieces, stream)
    }

    /// A session in a transaction that sees the snapshot.
    async fn take(&self) -> Result<Session, Failure> {
        loop {
            let Some(reader) = self.lock().pop() else { break };
            if !reader.is_closed() {
                return Ok(reader);
            }
        }
        let session = self.hands.door.open(&self.database, Purpose::Scan).await?;
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

/// Metadata of [`Reason::SnapshotLost`]: the table that was rewritten.
pub const REWRITTEN_TABLE: &str = "table";

/// The failure after which a table is copied from another snapshot.
fn rewritten(table: &RelationName) -> Failure {
    Failure::new(Reason::SnapshotLost, format!("table {table} was rewritten since the snapshot"))
        .detail("Its rows of that time are gone. It is copied from the next snapshot.")
        .remedy(Remedy::Wait)
        .effect(Effect::None)
        .with(REWRITTEN_TABLE, table)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carried {
    Everything,
    /// The destination agent stopped listening.
    Unheard,
}

/// The sending end of a reading: it waits for its reader's permit, and keeps to the rate.
struct Pieces {
    reader: ReaderSlot,
    throttle: Arc<Throttle>,
    packer: Packer,
    pieces: mpsc::Sender<Result<Piece, Failure>>,
}

impl Pieces {
    /// Sends a piece. Returns whether the destination agent still listens. Packs here, because the task
    /// that carries the connection is busy with TLS.
    async fn send(&mut self, rows: Bytes) -> bool {
        self.reader.wait().await;
        self.throttle.pass(rows.len()).await;
        self.pieces.send(Ok(Piece::Rows(self.packer.pack(rows)))).await.is_ok()
    }
}

/// Sends the output of a COPY in pieces. A session of this purpose gathers many rows into one piece.
async fn carry(rows: CopyOutStream, pieces: &mut Pieces) -> Result<Carried, tokio_postgres::Error> {
    tokio::pin!(rows);
    while let Some(data) = rows.next().await {
        let mut data = data?;
        while !data.is_empty() {
            if !pieces.send(data.split_to(data.len().min(CHUNK_BYTES))).await {
                return Ok(Carried::Unheard);
            }
        }
    }
    Ok(Carried::Everything)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::SnapshotTable;

    fn range(first_block: i64, end_block: Option<i64>) -> Range {
        Range {
            table: RelationName::new("public", "order"),
            columns: vec!["id".to_owned(), "a \"b".to_owned()],
            binary: true,
            selection: Selection::Blocks { first: first_block, end: end_block },
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

    fn key(texts: [&str; 2]) -> Key {
        texts.map(str::to_owned).to_vec()
    }

    #[test]
    fn touched_rows_are_found_by_their_keys() {
        let published = Published {
            oid: 1,
            file: 1,
            key_types: vec![KeyType::Value("bigint".to_owned()), KeyType::Text],
            table: SnapshotTable {
                name: RelationName::new("public", "order"),
                columns: vec!["id".to_owned(), "a \"b".to_owned()],
                binary: false,
                block_count: 1,
                size_bytes: 1,
                row_estimate: 1,
                identity: String::new(),
                key: vec!["id".to_owned(), "Code".to_owned()],
            },
        };
        let keys = BTreeSet::from([key(["1", "it's"]), key(["2", "b\\"])]);
        let range = Range { selection: Selection::TouchedRows { since: Lsn::new(1) }, binary: false, ..range(0, None) };
        assert_eq!(
            range.statement_of_keys(&published, &keys),
            "COPY (SELECT t.id, t.\"a \"\"b\" FROM ONLY public.\"order\" AS t WHERE EXISTS (SELECT FROM \
             (VALUES ('1'::bigint, 'it''s'::text), ('2'::bigint,  E'b\\\\'::text)) AS touched (k0, k1) \
             WHERE t.id = touched.k0 AND format('%s', t.\"Code\") = touched.k1)) TO STDOUT (FORMAT text)"
        );
    }

    #[test]
    fn keys_are_told_as_copy_understands_them() {
        let keys = BTreeSet::from([key(["1", "a\tb\\"]), key(["2", "\r\n"])]);
        assert_eq!(keys_text(&keys), "1\ta\\tb\\\\\n2\t\\r\\n\n".as_bytes());
    }
}
