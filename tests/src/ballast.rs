//! A large table, so that a copy takes its time: many parts, and values that cannot be
//! packed.
//!
//! Its rows are changed all the while: each change moves the row to another
//! block, which another part of the copy reads.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pgportage_link::Clock;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config};
use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, connect};

/// About a kilobyte for each row, seven of them in a block.
const TABLE: &str = "
CREATE TABLE ballast (id integer PRIMARY KEY, changes bigint NOT NULL DEFAULT 0, body bytea NOT NULL);
ALTER TABLE ballast ALTER COLUMN body SET STORAGE PLAIN;
INSERT INTO ballast (id, body)
    SELECT id, (SELECT string_agg(sha512(int8send(id * 16 + piece)), '') FROM generate_series(0, 15) piece)
    FROM generate_series(1::bigint, $ROWS) id;
ANALYZE ballast;
";

const CHANGE: &str = "UPDATE ballast SET changes = changes + 1 WHERE id = $1";

const DIGEST: &str = "
SELECT count(*), sum(changes)::bigint, sum(('x' || left(md5(row_text), 15))::bit(60)::bigint)::text
FROM (SELECT changes, id || ' ' || changes || ' ' || md5(body) AS row_text FROM ballast) hashed";

/// How long a change may wait for a source that comes back.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two tries to log in.
const PAUSE: Duration = Duration::from_millis(50);

/// Makes the table in a database, owned by `owner`.
pub async fn prepare(cluster: &Cluster, database: &str, owner: &str, rows: u32) -> Result<()> {
    let client = cluster.connect(database).await?;
    client.batch_execute(&format!("SET ROLE {owner}")).await?;
    client.batch_execute(&TABLE.replace("$ROWS", &rows.to_string())).await.context("the ballast")?;
    Ok(())
}

/// What is in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// Its rows.
    pub rows: i64,
    /// How often they were changed, all together.
    pub changes: i64,
    /// Sum over a hash of each row.
    pub checksum: String,
}

impl Digest {
    /// Reads the whole table.
    pub async fn read(client: &Client) -> Result<Self> {
        let row = client.query_one(DIGEST, &[]).await?;
        Ok(Self { rows: row.try_get(0)?, changes: row.try_get(1)?, checksum: row.try_get(2)? })
    }
}

/// A writer that changes one row after the other on the source.
#[derive(Debug)]
pub struct Changer {
    stop: CancellationToken,
    task: JoinHandle<Result<Changes>>,
}

/// What the changer was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Changes that the server confirmed.
    pub acknowledged: i64,
    /// Changes whose outcome the changer does not know: the connection ended.
    pub unknown: i64,
}

impl Changer {
    /// Begins. `rows` is how many there are.
    #[must_use]
    pub fn start(source: Config, rows: u32, seed: u64) -> Self {
        let stop = CancellationToken::new();
        let rows = i32::try_from(rows).unwrap_or(i32::MAX);
        let task = tokio::spawn(change(source, rows, StdRng::seed_from_u64(seed), stop.clone()));
        Self { stop, task }
    }

    /// Ends after the change that is under way.
    ///
    /// # Errors
    ///
    /// When the source refused a change for a reason of its own, or did not come
    /// back.
    pub async fn stop(self) -> Result<Changes> {
        self.stop.cancel();
        self.task.await?
    }
}

async fn change(source: Config, rows: i32, mut random: StdRng, stop: CancellationToken) -> Result<Changes> {
    let mut changes = Changes::default();
    while !stop.is_cancelled() {
        let Some(client) = reach(&source, &stop).await? else { break };
        while !stop.is_cancelled() {
            match client.execute(CHANGE, &[&random.random_range(1..=rows)]).await {
                Ok(count) => {
                    ensure!(count == 1, "{count} rows changed instead of one");
                    changes.acknowledged += 1;
                }
                // One statement is one transaction: it may have committed.
                Err(error) if session_ended(&error) => {
                    changes.unknown += 1;
                    break;
                }
                Err(error) => return Err(error).context("a change of the ballast"),
            }
        }
    }
    Ok(changes)
}

/// Logs in as soon as the source lets us. Nothing when asked to stop meanwhile.
async fn reach(source: &Config, stop: &CancellationToken) -> Result<Option<Client>> {
    let deadline = Clock.now() + PATIENCE;
    loop {
        match connect(source).await {
            Ok(client) => return Ok(Some(client)),
            Err(error) if Clock.now() >= deadline => return Err(error).context("the source, to change its ballast"),
            Err(_) if stop.run_until_cancelled(Clock.sleep(PAUSE)).await.is_none() => return Ok(None),
            Err(_) => {}
        }
    }
}

/// Whether the connection is lost, or the server was ending the session.
fn session_ended(error: &tokio_postgres::Error) -> bool {
    error.code().is_none_or(|code| matches!(code.code(), "57P01" | "57P02" | "57P03"))
}

/// Fails unless both sides hold the same table, with every acknowledged change
/// and no other.
///
/// # Errors
///
/// When they differ.
pub async fn compare(source: &Client, destination: &Client, rows: u32, changes: Changes) -> Result<()> {
    let (there, here) = tokio::try_join!(Digest::read(source), Digest::read(destination))?;
    ensure!(there == here, "the ballast differs: {there:?} on the source, {here:?} on the destination");
    ensure!(here.rows == i64::from(rows), "{} rows of {rows}", here.rows);
    let possible = changes.acknowledged..=changes.acknowledged + changes.unknown;
    ensure!(possible.contains(&here.changes), "{} changes are there, told of {changes:?}", here.changes);
    Ok(())
}
