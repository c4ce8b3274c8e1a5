//! Clients of a pooler: they know one address, and take every error for an
//! incident.
//!
//! Each transaction writes a token that no other one writes, and says by a
//! column's default which server it was written on. A client tries each once:
//! nothing is repeated, so nothing hides an error.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pgportage_link::Clock;
use rand::seq::SliceRandom;
use rand::{SeedableRng, rngs::StdRng};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_postgres::{Client, Config};
use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, connect};
use crate::wait::{self, Seen};

/// The table, and which server a row was written on.
const SCHEMA: &str = "
CREATE TABLE pooled (
    token bigint PRIMARY KEY,
    server integer NOT NULL DEFAULT current_setting('port')::integer
);
CREATE TABLE pooled_sums (client integer PRIMARY KEY, transactions bigint NOT NULL);
INSERT INTO pooled_sums SELECT n, 0 FROM generate_series(0, 99) n;";

/// Pause of a client between two transactions.
const PAUSE: Duration = Duration::from_millis(5);

/// Makes the tables, owned by `owner`.
pub async fn prepare(cluster: &Cluster, database: &str, owner: &str) -> Result<()> {
    cluster.execute(database, &format!("SET ROLE {owner}; {SCHEMA}")).await
}

/// Clients at work. Dropping it stops them.
#[derive(Debug)]
pub struct Pooled {
    committed: Arc<AtomicU64>,
    stop: CancellationToken,
    clients: JoinSet<Told>,
}

/// What one client was told, or all of them together.
#[derive(Debug, Default)]
pub struct Told {
    /// Tokens whose COMMIT was confirmed.
    pub acknowledged: BTreeSet<i64>,
    /// Every error, of a login or of a transaction.
    pub failures: Vec<String>,
    /// When a COMMIT was confirmed.
    confirmed: Vec<Instant>,
}

impl Pooled {
    /// Starts clients that keep their connections, and others that log in for
    /// each transaction.
    #[must_use]
    pub fn start(config: &Config, lasting: u32, brief: u32) -> Self {
        Self::start_spread(config, lasting, brief, 0)
    }

    /// As [`Self::start`]; every transaction also writes a row into each of a few of
    /// so many tables of [`crate::workload::spread_schema`], in any order.
    #[must_use]
    pub fn start_spread(config: &Config, lasting: u32, brief: u32, tables: u32) -> Self {
        let committed = Arc::new(AtomicU64::new(0));
        let stop = CancellationToken::new();
        let mut clients = JoinSet::new();
        for number in 0..lasting + brief {
            let client = PooledClient {
                number,
                brief: number >= lasting,
                config: config.clone(),
                tables: (0..tables).collect(),
                random: StdRng::seed_from_u64(u64::from(number)),
                told: Told::default(),
                committed: Arc::clone(&committed),
            };
            clients.spawn(client.run(stop.clone()));
        }
        Self { committed, stop, clients }
    }

    /// Waits until `count` more transactions have committed.
    ///
    /// # Errors
    ///
    /// When they have not within `limit`.
    pub async fn wait_for_commits(&self, count: u64, limit: Duration) -> Result<()> {
        let target = self.committed.load(Ordering::Relaxed) + count;
        wait::until(&format!("{count} more transactions through the pooler"), limit, || async {
            let now = self.committed.load(Ordering::Relaxed);
            Ok(if now >= target { Seen::Done(()) } else { Seen::NotYet(format!("{now} of {target}")) })
        })
        .await
    }

    /// Lets every client end its transaction and returns what all were told.
    ///
    /// # Errors
    ///
    /// When a client panicked.
    pub async fn stop(mut self) -> Result<Told> {
        self.stop.cancel();
        let mut all = Told::default();
        while let Some(told) = self.clients.join_next().await {
            let told = told.context("a client panicked")?;
            all.acknowledged.extend(told.acknowledged);
            all.failures.extend(told.failures);
            all.confirmed.extend(told.confirmed);
        }
        all.confirmed.sort_unstable();
        Ok(all)
    }
}

impl Told {
    /// The longest time from `since` on in which no client's COMMIT was confirmed.
    #[must_use]
    pub fn longest_pause(&self, since: Instant) -> Duration {
        let later = self.confirmed.partition_point(|confirmed| *confirmed < since);
        longest_pause(&self.confirmed[later..])
    }

    /// The longest pause from each of these moments until the next one.
    #[must_use]
    pub fn pauses(&self, turns: &[Instant]) -> Vec<Duration> {
        let before = |turn: &Instant| self.confirmed.partition_point(|confirmed| confirmed < turn);
        let ends = turns.iter().skip(1).map(before).chain([self.confirmed.len()]);
        turns.iter().map(before).zip(ends).map(|(begin, end)| longest_pause(&self.confirmed[begin..end])).collect()
    }

    /// Every acknowledged transaction is in a database. Where clients met errors, others
    /// may be there as well.
    ///
    /// # Errors
    ///
    /// When one is not, with examples.
    pub async fn check_kept(&self, cluster: &Cluster, database: &str) -> Result<()> {
        let client = cluster.connect(database).await?;
        let there: BTreeSet<i64> =
            client.query("SELECT token FROM pooled", &[]).await?.iter().map(|row| row.get(0)).collect();
        let lost: Vec<_> = self.acknowledged.difference(&there).take(5).collect();
        ensure!(lost.is_empty(), "lost: {lost:?}");
        Ok(())
    }

    /// Compares with what is in a database: every acknowledged transaction is
    /// there, whole, and no other one.
    ///
    /// # Errors
    ///
    /// What is missing, or too much.
    pub async fn check(&self, cluster: &Cluster, database: &str) -> Result<()> {
        let client = cluster.connect(database).await?;
        let there: BTreeSet<i64> =
            client.query("SELECT token FROM pooled", &[]).await?.iter().map(|row| row.get(0)).collect();
        let lost: Vec<_> = self.acknowledged.difference(&there).take(5).collect();
        let unknown: Vec<_> = there.difference(&self.acknowledged).take(5).collect();
        ensure!(lost.is_empty() && unknown.is_empty(), "lost: {lost:?}, never acknowledged: {unknown:?}");
        let sum: i64 = client.query_one("SELECT sum(transactions)::bigint FROM pooled_sums", &[]).await?.get(0);
        ensure!(sum == i64::try_from(self.acknowledged.len())?, "{sum} of {} transactions", self.acknowledged.len());
        Ok(())
    }
}

fn longest_pause(confirmed: &[Instant]) -> Duration {
    confirmed.windows(2).map(|pair| pair[1].duration_since(pair[0])).max().unwrap_or_default()
}

/// The tokens that were written on a server, as a database has them: equal on
/// both sides after a cutover.
pub async fn written_on(cluster: &Cluster, database: &str, server: &Cluster) -> Result<Vec<i64>> {
    let client = cluster.connect(database).await?;
    let port = i32::from(server.port);
    let rows = client.query("SELECT token FROM pooled WHERE server = $1 ORDER BY token", &[&port]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

struct PooledClient {
    number: u32,
    brief: bool,
    config: Config,
    /// Tables to write into beside ours.
    tables: Vec<u32>,
    random: StdRng,
    told: Told,
    committed: Arc<AtomicU64>,
}

impl PooledClient {
    async fn run(mut self, stop: CancellationToken) -> Told {
        let mut connected = None;
        let mut token = i64::from(self.number + 1) << 40;
        while !stop.is_cancelled() {
            token += 1;
            let statements = self.statements(token);
            let done = match self.client(&mut connected).await {
                Ok(client) => transact(client, &statements).await,
                Err(error) => Err(error),
            };
            match done {
                Ok(()) => {
                    self.told.acknowledged.insert(token);
                    self.told.confirmed.push(Clock.now());
                    self.committed.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    self.told.failures.push(format!("client {}: {error:#}", self.number));
                    connected = None;
                }
            }
            if self.brief {
                connected = None;
            }
            Clock.sleep(PAUSE).await;
        }
        self.told
    }

    async fn client<'a>(&self, connected: &'a mut Option<Client>) -> Result<&'a Client> {
        match connected {
            Some(client) => Ok(client),
            None => Ok(connected.insert(connect(&self.config).await.context("login")?)),
        }
    }

    /// What belongs together in one transaction.
    fn statements(&mut self, token: i64) -> Vec<String> {
        const CHOSEN: usize = 3;
        let number = self.number;
        let (chosen, _) = self.tables.partial_shuffle(&mut self.random, CHOSEN);
        let spread = chosen
            .iter()
            .map(|table| format!("INSERT INTO spread_{table} (token, written_on) VALUES ({token}, 'pooled')"));
        let own = [
            format!("INSERT INTO pooled (token) VALUES ({token})"),
            format!("UPDATE pooled_sums SET transactions = transactions + 1 WHERE client = {number}"),
        ];
        own.into_iter().chain(spread).collect()
    }
}

/// Statements that belong together, in messages of their own, so that the
/// pooler could come between them. The simple protocol: prepared statements do
/// not go with transaction pooling everywhere.
async fn transact(client: &Client, statements: &[String]) -> Result<()> {
    client.batch_execute("BEGIN").await.context("BEGIN")?;
    for statement in statements {
        client.batch_execute(statement).await.with_context(|| statement.clone())?;
    }
    client.batch_execute("COMMIT").await.context("COMMIT")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_belongs_to_the_turn_it_is_in() {
        let start = Clock.now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let confirmed = [0, 5, 100, 105, 110, 400, 405].map(at).to_vec();
        let told = Told { confirmed, ..Told::default() };
        let pauses = [95, 290].map(Duration::from_millis);
        assert_eq!(told.pauses(&[at(2), at(110)]), pauses);
        assert_eq!(told.longest_pause(at(2)), pauses[1]);
        assert!(told.pauses(&[]).is_empty());
    }
}
