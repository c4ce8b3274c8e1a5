//! One session that hashes rows of this agent's own server.

use std::fmt;

use pgportage_link::Failure;
use pgportage_migration::Participation;
use pgportage_migration::stream::Stream;
use pgportage_postgres::{Door, Purpose, Session, sql_failure};
use pgportage_proto::Reason;

use super::part::{Digest, Part, PartDigest, RowContent, RowHash, RowKey, Which};
use super::statement;
use super::table::{ComparedTable, describe, replicated_tables};
use crate::heartbeat::{beat_statement, look_statement};

/// One server process is enough: a comparison must not take the application's. No statement runs long
/// enough for compiled code to pay. The text of `money` depends on one more setting than those that every
/// session pins. A standby that is lost must not delay a heartbeat.
const SETTINGS: &str = "SET max_parallel_workers_per_gather = 0; SET jit = off; SET lc_monetary = 'C'; \
                        SET synchronous_commit = local";

/// Most keys in one statement. A key of several columns becomes as many conditions.
const KEYS: usize = 500;
const COMPOSITE_KEYS: usize = 50;

/// A session that hashes. Dropping it ends what the server does for it.
pub struct Reader {
    session: Session,
    /// Whether the planner has been told to use the key's index: a part is often much smaller than the
    /// planner believes.
    by_key: bool,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("session", &self.session).finish_non_exhaustive()
    }
}

impl Reader {
    /// Opens a session.
    pub async fn open(door: &Door, database: &str) -> Result<Self, Failure> {
        let session = door.open(database, Purpose::Scan).await?;
        session.batch_execute(SETTINGS).await.map_err(failed)?;
        Ok(Self { session, by_key: false })
    }

    /// Every table that the migration replicates, sorted by name.
    pub async fn tables(&self, participation: &Participation) -> Result<Vec<ComparedTable>, Failure> {
        let names = replicated_tables(&self.session, participation).await?;
        describe(&self.session, &names).await
    }

    /// The answer of the server's own hash function to some texts.
    pub async fn probe(&self) -> Result<String, Failure> {
        let row = self.session.query_one(&statement::probe(), &[]).await.map_err(failed)?;
        Ok(row.get(0))
    }

    /// The digests of parts, all under one snapshot. A part with buckets gives one digest for each bucket
    /// that has rows.
    pub async fn digests(&mut self, parts: &[Part]) -> Result<Vec<PartDigest>, Failure> {
        self.go_by_key(parts.iter().all(is_by_key)).await?;
        let rows = self.session.query(&statement::digests(parts), &[]).await.map_err(failed)?;
        let sum = |text: &str| text.parse().map_err(|_| Failure::new(Reason::Internal, "a sum is no number"));
        rows.iter()
            .map(|row| {
                Ok(PartDigest {
                    part: usize::try_from(row.get::<_, i32>(0)).unwrap_or(usize::MAX),
                    bucket: row.get(1),
                    digest: Digest { row_count: row.get(2), sums: [sum(row.get(3))?, sum(row.get(4))?] },
                    size_bytes: row.get(5),
                    disordered: row.get(6),
                })
            })
            .collect()
    }

    /// The rows of a part by their hashes. A part with many keys takes several statements, each with a
    /// snapshot of its own.
    pub async fn rows(&mut self, part: &Part) -> Result<Vec<RowHash>, Failure> {
        let mut found = Vec::new();
        for part in portions(part) {
            self.go_by_key(is_by_key(&part)).await?;
            let rows = self.session.query(&statement::rows(&part), &[]).await.map_err(failed)?;
            found.extend(rows.iter().map(|row| RowHash {
                key: RowKey(row.get(0)),
                hash: [row.get(1), row.get(2)],
                version: row.get(3),
            }));
        }
        Ok(found)
    }

    /// The contents of rows with keys.
    pub async fn contents(&mut self, part: &Part) -> Result<Vec<RowContent>, Failure> {
        let mut found = Vec::new();
        for part in portions(part) {
            self.go_by_key(is_by_key(&part)).await?;
            let rows = self.session.query(&statement::contents(&part), &[]).await.map_err(failed)?;
            found.extend(rows.iter().map(|row| RowContent { key: RowKey(row.get(0)), values: row.get(1) }));
        }
        Ok(found)
    }

    /// The key that comes so many rows after another, or after the beginning. None when fewer rows are
    /// left.
    pub async fn key_behind(
        &mut self,
        table: &ComparedTable,
        first: Option<&RowKey>,
        rows: u32,
    ) -> Result<Option<RowKey>, Failure> {
        self.go_by_key(true).await?;
        let row = self.session.query_opt(&statement::key_behind(table, first, rows), &[]).await.map_err(failed)?;
        Ok(row.map(|row| RowKey(row.get(0))))
    }

    /// On the publisher of this stream: writes a heartbeat that follows everything read before, and returns
    /// its number.
    pub async fn beat(&self, stream: Stream) -> Result<i64, Failure> {
        let row = self.session.query_one(&beat_statement(stream), &[]).await.map_err(failed)?;
        Ok(row.get(0))
    }

    /// On the subscriber of this stream: the number of the newest heartbeat
    /// that has arrived.
    pub async fn arrived(&self, stream: Stream) -> Result<i64, Failure> {
        let row = self.session.query_opt(&look_statement(stream), &[]).await.map_err(failed)?;
        Ok(row.map_or(0, |row| row.get(0)))
    }

    async fn go_by_key(&mut self, by_key: bool) -> Result<(), Failure> {
        if self.by_key != by_key {
            let text = format!("SET enable_seqscan = {}", if by_key { "off" } else { "on" });
            self.session.batch_execute(&text).await.map_err(failed)?;
            self.by_key = by_key;
        }
        Ok(())
    }
}

fn failed(error: tokio_postgres::Error) -> Failure {
    sql_failure(error, "hash rows")
}

fn is_by_key(part: &Part) -> bool {
    !part.table.key.is_empty() && part.which != Which::ALL
}

/// Splits a part into as many statements as its keys need.
fn portions(part: &Part) -> Vec<Part> {
    let Which::Keys(keys) = &part.which else { return vec![part.clone()] };
    // Without a key, each statement reads the whole table.
    let size = match part.table.key.len() {
        0 => keys.len().max(1),
        1 => KEYS,
        _ => COMPOSITE_KEYS,
    };
    keys.chunks(size).map(|keys| Part { which: Which::Keys(keys.to_vec()), ..part.clone() }).collect()
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
