//! Copies one part of one table from the link into the table.

use bytes::Bytes;
use futures_util::SinkExt;
use pgportage_data_plane::peer::{Blocks, Packing, PeerClient, RangeStream, SourceSnapshot};
use pgportage_data_plane::snapshot::SnapshotTable;
use pgportage_link::{Failure, Remedy};
use pgportage_postgres::{Purpose, Session, is_passing, quote_ident, sql_failure};
use pgportage_proto::Reason;
use tokio_postgres::CopyInSink;

use super::ledger::{self, Claim};
use super::plan::{Done, Piece};
use super::queue::{CopyQueue, Next};
use crate::act::Context;
use crate::act::patience::Patience;

/// None of these outlasts the session. A crash of the server may take parts back together with their rows
/// in the ledger; an attempt after a crash reads the ledger anew.
const SETTINGS: &str = "\
SET synchronous_commit = off; SET lock_timeout = '30s'; SET idle_in_transaction_session_timeout = '10min'";

/// Copies parts until none is left. Waits for locks that are not granted at once, and for a link that is
/// away.
///
/// # Errors
///
/// [`Reason::SnapshotLost`] when another snapshot is needed, [`Reason::ServerUnreachable`] when a server
/// was away: the caller has to look up what it has kept. Otherwise failures that do not pass by waiting.
pub(super) async fn work(
    cx: &Context,
    queue: &CopyQueue,
    snapshot: &SourceSnapshot,
    packing: Packing,
) -> Result<(), Failure> {
    let mut patience = Patience::new(cx);
    let mut tools: Option<(Session, PeerClient)> = None;
    loop {
        cx.safe_point()?;
        let change = queue.change();
        let piece = match queue.next_piece() {
            Next::Take(piece) => piece,
            Next::Never => return Ok(()),
            Next::Later => {
                tokio::select! {
                    biased;
                    () = cx.cancel.cancelled() => cx.safe_point()?,
                    () = change => {}
                }
                continue;
            }
        };
        let part = Part { cx, queue, snapshot, packing, piece: &piece };
        let asked_at = cx.tasks.clock.now();
        let outcome = match &mut tools {
            Some((session, peer)) => part.copy(session, peer).await,
            None => match open(cx).await {
                Ok(opened) => {
                    let (session, peer) = tools.insert(opened);
                    part.copy(session, peer).await
                }
                Err(failure) => Err(failure),
            },
        };
        match outcome {
            Ok(row_count) => {
                queue.copied(&piece, row_count, cx.tasks.clock.now());
                patience.moved(cx);
            }
            Err(failure) => {
                tools = None;
                queue.put_back(piece);
                let here = is_passing(&failure) && failure.reason != Reason::ServerUnreachable;
                if !here && !of_the_link(&failure) {
                    return Err(failure);
                }
                // Other workers have moved on since this one asked: its patience begins anew.
                if queue.moved_at() > asked_at {
                    patience.moved(cx);
                }
                patience.again(cx, failure, "the other side").await?;
            }
        }
    }
}

/// Whether the link or the other agent was away.
pub(super) fn of_the_link(failure: &Failure) -> bool {
    failure.reason == Reason::PeerUnreachable && failure.remedy == Remedy::Wait
}

/// The ends of one worker: a session here, and a connection of its own to the source agent, so that its
/// stream does not wait for another's.
async fn open(cx: &Context) -> Result<(Session, PeerClient), Failure> {
    let session = cx.door.open(&cx.participation.database, Purpose::Scan).await?;
    session.batch_execute(SETTINGS).await.map_err(|error| sql_failure(error, "prepare to copy"))?;
    let peer = cx.peers.connect(&cx.participation, super::jobs(cx)).await?;
    Ok((session, peer))
}

struct Part<'a> {
    cx: &'a Context,
    queue: &'a CopyQueue,
    snapshot: &'a SourceSnapshot,
    packing: Packing,
    piece: &'a Piece,
}

impl Part<'_> {
    /// Copies the part, all of it or nothing. Returns how many rows it had.
    async fn copy(&self, session: &mut Session, peer: &PeerClient) -> Result<i64, Failure> {
        let (cx, point) = (self.cx, &self.snapshot.consistent_point);
        let table = &self.snapshot.tables[self.piece.table];
        let failure = |error| sql_failure(error, &format!("write table {}", table.name));
        let mut stream = peer.copy_range(point, table, self.piece.blocks, self.packing).await?;
        let done = Done { table: table.name.clone(), first_block: self.piece.blocks.first };
        let transaction = session.transaction().await.map_err(failure)?;
        if ledger::claim(&transaction, point, &done).await? == Claim::There {
            return Ok(0);
        }
        let whole = self.piece.blocks == Blocks::ALL;
        if whole {
            // Makes FREEZE possible. The table is empty anyway.
            transaction.batch_execute(&format!("TRUNCATE ONLY {}", table.name)).await.map_err(failure)?;
        }
        let sink = transaction.copy_in::<_, Bytes>(&statement(table, whole)).await.map_err(failure)?;
        tokio::pin!(sink);
        let copied_bytes = self.carry(&mut stream, sink.as_mut()).await?;
        let row_count = i64::try_from(sink.finish().await.map_err(failure)?).unwrap_or(i64::MAX);
        cx.fail_point("copy_tables.perform.copied");
        ledger::count(&transaction, &done, row_count, copied_bytes).await?;
        transaction.commit().await.map_err(failure)?;
        cx.fail_point("copy_tables.perform.committed");
        Ok(row_count)
    }

    /// Passes everything from the link to the server. An early end rolls the part back.
    async fn carry(
        &self,
        stream: &mut RangeStream,
        mut sink: std::pin::Pin<&mut CopyInSink<Bytes>>,
    ) -> Result<i64, Failure> {
        let cx = self.cx;
        let mut copied = 0_i64;
        loop {
            let next = tokio::select! {
                biased;
                () = cx.cancel.cancelled() => { cx.safe_point()?; continue }
                next = stream.next() => next?,
            };
            let Some(chunk) = next else { return Ok(copied) };
            copied += i64::try_from(chunk.len()).unwrap_or(0);
            sink.send(chunk).await.map_err(|error| sql_failure(error, "write rows"))?;
            self.queue.moves(cx.tasks.clock.now());
        }
    }
}

/// The COPY statement that writes rows of a table.
pub(super) fn statement(table: &SnapshotTable, whole: bool) -> String {
    let columns = table.columns.iter().map(|column| quote_ident(column)).collect::<Vec<_>>().join(", ");
    let list = if columns.is_empty() { String::new() } else { format!(" ({columns})") };
    let format = if table.binary { "binary" } else { "text" };
    let freeze = if whole { ", FREEZE" } else { "" };
    format!("COPY {}{list} FROM STDIN (FORMAT {format}{freeze})", table.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgportage_postgres::RelationName;

    #[test]
    fn only_a_whole_table_is_frozen() {
        let mut table = SnapshotTable {
            name: RelationName::new("s", "t"),
            columns: vec!["a".to_owned(), "B".to_owned()],
            binary: true,
            block_count: 1,
            size_bytes: 1,
            row_estimate: 1,
            identity: String::new(),
            key: Vec::new(),
        };
        assert_eq!(statement(&table, true), "COPY s.t (a, \"B\") FROM STDIN (FORMAT binary, FREEZE)");
        table.binary = false;
        table.columns.clear();
        assert_eq!(statement(&table, false), "COPY s.t FROM STDIN (FORMAT text)");
    }
}
