//! Many writers who want to write, whatever happens to the servers.
//!
//! Each asks the source first, and the other end whenever the one it uses refuses
//! it or goes away, as an application with two addresses in its configuration
//! does. What it was told goes into the ledger.

mod operation;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use pgportage_link::Clock;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, Statement};
use tokio_util::sync::CancellationToken;

use self::operation::Operation;
use crate::cluster::{Cluster, connect};
use crate::ledger::{Effect, End, Entry, Ledger, Outcome};

/// What the workload writes into.
const SCHEMA: &str = include_str!("workload/schema.sql");

/// Rows that are there before the first writer, in `events` and `documents`.
const PRELOAD: &str = "
INSERT INTO events (token, written_on, note)
    SELECT -n, 'before', repeat(md5(n::text), 3) FROM generate_series(1, $ROWS) n;
INSERT INTO documents (token, written_on, digest, body)
    SELECT -n, 'before', md5(repeat(md5(n::text), 200)), repeat(md5(n::text), 200)
    FROM generate_series(1, $ROWS / 100) n;
ANALYZE;
";

/// How the writers behave.
#[derive(Clone, Debug)]
pub struct WorkloadOptions {
    /// How many write at the same time.
    pub writers: u32,
    /// Mean pause of a writer between two writes.
    pub pause: Duration,
    /// How many more insert one event after the other, each in a transaction of a
    /// single statement, with the same pause.
    pub rapid_writers: u32,
    /// Seed of what is written; the order among writers is not reproducible.
    pub seed: u64,
}

impl Default for WorkloadOptions {
    fn default() -> Self {
        Self { writers: 12, pause: Duration::from_millis(30), rapid_writers: 0, seed: 1 }
    }
}

/// Where a writer can go.
#[derive(Clone, Debug)]
pub struct Ends {
    /// As an application connects to the source.
    pub source: Config,
    /// As an application connects to the destination.
    pub destination: Config,
}

impl Ends {
    fn config(&self, end: End) -> &Config {
        match end {
            End::Source => &self.source,
            End::Destination => &self.destination,
        }
    }
}

/// Makes the workload's tables in a database, owned by `owner`, with `rows` rows
/// to copy.
///
/// # Errors
///
/// The server's answer.
pub async fn prepare(cluster: &Cluster, database: &str, owner: &str, rows: u32) -> Result<()> {
    let client = cluster.connect(database).await?;
    client.batch_execute(&format!("SET ROLE {owner}")).await?;
    client.batch_execute(SCHEMA).await.context("the workload's tables")?;
    client.batch_execute(&PRELOAD.replace("$ROWS", &rows.to_string())).await?;
    Ok(())
}

/// What goes on, for a terminal.
#[derive(Debug, Default)]
pub struct Counts {
    /// Writes acknowledged by the source.
    pub on_source: AtomicU64,
    /// Writes acknowledged by the destination.
    pub on_destination: AtomicU64,
}

impl Counts {
    /// The count of one end.
    #[must_use]
    pub fn of(&self, end: End) -> u64 {
        match end {
            End::Source => self.on_source.load(Ordering::Relaxed),
            End::Destination => self.on_destination.load(Ordering::Relaxed),
        }
    }
}

/// Writers at work. Dropping it stops them and forgets what they were told.
#[derive(Debug)]
pub struct Workload {
    /// What they have achieved so far.
    pub counts: Arc<Counts>,
    /// What the times in the ledger are counted from.
    pub start: Instant,
    stop: CancellationToken,
    writers: JoinSet<Ledger>,
}

impl Workload {
    /// Starts the writers.
    #[must_use]
    pub fn start(ends: &Ends, options: &WorkloadOptions) -> Self {
        let counts = Arc::new(Counts::default());
        let stop = CancellationToken::new();
        let mut writers = JoinSet::new();
        let start = Clock.now();
        for number in 0..options.writers + options.rapid_writers {
            let writer = Writer {
                number,
                habit: if number < options.writers { Habit::Everything } else { Habit::Events },
                event: None,
                ends: ends.clone(),
                end: End::Source,
                client: None,
                pause: options.pause,
                random: StdRng::seed_from_u64(options.seed.wrapping_mul(1_000_003).wrapping_add(u64::from(number))),
                next_token: i64::from(number + 1) << 40,
                start,
                ledger: Ledger::default(),
                counts: Arc::clone(&counts),
            };
            writers.spawn(writer.run(stop.clone()));
        }
        Self { counts, start, stop, writers }
    }

    /// Lets every writer end its current write and returns what all were told.
    ///
    /// # Errors
    ///
    /// When a writer panicked.
    pub async fn stop(mut self) -> Result<Ledger> {
        self.stop.cancel();
        let mut all = Ledger::default();
        while let Some(ledger) = self.writers.join_next().await {
            let ledger = ledger.context("a writer panicked")?;
            all.entries.extend(ledger.entries);
            all.anomalies.extend(ledger.anomalies);
            for (code, count) in ledger.refused {
                *all.refused.entry(code).or_default() += count;
            }
        }
        Ok(all)
    }

    /// Waits until one end has acknowledged `count` more writes.
    ///
    /// # Errors
    ///
    /// When it has not within `limit`.
    pub async fn wait_for_writes(&self, end: End, count: u64, limit: Duration) -> Result<()> {
        let target = self.counts.of(end) + count;
        crate::wait::until(&format!("{count} more writes on the {}", end.as_str()), limit, || async {
            let now = self.counts.of(end);
            Ok(if now >= target {
                crate::wait::Seen::Done(())
            } else {
                crate::wait::Seen::NotYet(format!("{now} of {target}"))
            })
        })
        .await
    }
}

/// Pause after a refusal: logins are dear, and a storm of them would itself
/// lengthen the outage that is being measured.
const REFUSAL_PAUSE: Duration = Duration::from_millis(15);

/// Longest that one write may take before the writer gives up its connection.
const PATIENCE: Duration = Duration::from_secs(30);

/// Anomalies that one writer keeps: the first ones tell the story.
const MOST_ANOMALIES: usize = 5;

/// What a writer writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Habit {
    /// Every kind, in explicit transactions.
    Everything,
    /// Events only, as fast as it may.
    Events,
}

struct Writer {
    number: u32,
    habit: Habit,
    /// For [`Habit::Events`]: prepared by the current client.
    event: Option<Statement>,
    ends: Ends,
    end: End,
    client: Option<Client>,
    pause: Duration,
    random: StdRng,
    next_token: i64,
    start: Instant,
    ledger: Ledger,
    counts: Arc<Counts>,
}

/// How a try ended for certain.
enum Tried {
    /// Committed, with these effects.
    Committed(Vec<Effect>),
    /// Certainly not committed.
    Refused(tokio_postgres::Error),
    /// Nobody knows; these would be the effects.
    Unknown(Vec<Effect>, Option<tokio_postgres::Error>),
}

impl Writer {
    async fn run(mut self, stop: CancellationToken) -> Ledger {
        while !stop.is_cancelled() {
            let pause = self.pause.mul_f64(self.random.random_range(0.0..2.0));
            if stop.run_until_cancelled(Clock.sleep(pause)).await.is_none() {
                break;
            }
            match self.client.take() {
                Some(client) if !client.is_closed() => self.write(client).await,
                Some(_) | None => self.log_in().await,
            }
        }
        self.ledger
    }

    async fn log_in(&mut self) {
        match Clock.timeout(PATIENCE, connect(self.ends.config(self.end))).await {
            Ok(Ok(client)) => self.begin(client).await,
            Ok(Err(error)) => {
                let code = error.downcast_ref::<tokio_postgres::Error>().and_then(tokio_postgres::Error::code);
                self.count_refusal(code.map(SqlState::code));
                self.go_elsewhere().await;
            }
            Err(_) => self.go_elsewhere().await,
        }
    }

    async fn begin(&mut self, client: Client) {
        if self.habit == Habit::Events {
            match Clock.timeout(PATIENCE, client.prepare(operation::INSERT_EVENT)).await {
                Ok(Ok(statement)) => self.event = Some(statement),
                Ok(Err(error)) => return self.refused(client, &error).await,
                Err(_) => return self.go_elsewhere().await,
            }
        }
        self.client = Some(client);
    }

    async fn go_elsewhere(&mut self) {
        self.end = self.end.other();
        Clock.sleep(REFUSAL_PAUSE.mul_f64(self.random.random_range(0.5..1.5))).await;
    }

    async fn write(&mut self, mut client: Client) {
        let token = self.next_token;
        self.next_token += 1;
        let operation = match self.habit {
            Habit::Everything => Operation::choose(&mut self.random, self.number, token, self.end),
            Habit::Events => Operation::event(self.number, token, self.end),
        };
        let invoke = self.start.elapsed();
        let tried = match &self.event {
            Some(insert) => Clock.timeout(PATIENCE, attempt_alone(&client, insert, &operation)).await,
            None => Clock.timeout(PATIENCE, attempt(&mut client, &operation)).await,
        };
        let complete = self.start.elapsed();
        // A write that hangs for so long counts as one nobody knows about.
        let tried = tried.unwrap_or_else(|_| Tried::Unknown(operation.effects(None), None));
        let mut record = |outcome, effects| {
            self.ledger.entries.push(Entry { writer: self.number, end: self.end, outcome, invoke, complete, effects });
        };
        match tried {
            Tried::Committed(effects) => {
                record(Outcome::Acknowledged, effects);
                let count = match self.end {
                    End::Source => &self.counts.on_source,
                    End::Destination => &self.counts.on_destination,
                };
                count.fetch_add(1, Ordering::Relaxed);
                self.client = Some(client);
            }
            Tried::Unknown(effects, error) => {
                record(Outcome::Unknown, effects);
                self.count_refusal(error.as_ref().and_then(|error| error.code()).map(SqlState::code));
            }
            Tried::Refused(error) => self.refused(client, &error).await,
        }
    }

    /// Decides by SQLSTATE whether to try again here or elsewhere.
    async fn refused(&mut self, client: Client, error: &tokio_postgres::Error) {
        let code = error.code().map(SqlState::code);
        self.count_refusal(code);
        match code {
            // Deadlock, serialisation, cancelled statement, lock timeout: again, here.
            Some("40P01" | "40001" | "57014" | "55P03") => self.client = Some(client),
            // Going down, read-only, no right: elsewhere.
            Some("57P01" | "57P02" | "57P03" | "25006" | "42501") | None => self.go_elsewhere().await,
            Some(_) => {
                if self.ledger.anomalies.len() < MOST_ANOMALIES {
                    let told = error.as_db_error().map_or_else(String::new, ToString::to_string);
                    self.ledger.anomalies.push(format!("writer {} on the {}: {told}", self.number, self.end.as_str()));
                }
            }
        }
    }

    fn count_refusal(&mut self, code: Option<&str>) {
        *refusals(&mut self.ledger.refused, code.unwrap_or("connection")) += 1;
    }
}

fn refusals<'a>(refused: &'a mut BTreeMap<String, u64>, code: &str) -> &'a mut u64 {
    refused.entry(code.to_owned()).or_default()
}

/// One write in one explicit transaction, so that everything before COMMIT is
/// certainly refused and only the answer to COMMIT can be in doubt.
async fn attempt(client: &mut Client, operation: &Operation) -> Tried {
    let transaction = match client.transaction().await {
        Ok(transaction) => transaction,
        Err(error) => return Tried::Refused(error),
    };
    let id = match operation.run(&transaction).await {
        Ok(id) => id,
        Err(error) => {
            // The connection may be gone; then there is nothing to roll back.
            let _rolled_back = transaction.rollback().await;
            return Tried::Refused(error);
        }
    };
    let effects = operation.effects(id);
    match transaction.commit().await {
        Ok(()) => Tried::Committed(effects),
        Err(error) if in_doubt(&error) => Tried::Unknown(effects, Some(error)),
        Err(error) => Tried::Refused(error),
    }
}

/// One event in a transaction of its own, which the server commits before it
/// answers.
async fn attempt_alone(client: &Client, insert: &Statement, operation: &Operation) -> Tried {
    match operation.run_event(client, insert).await {
        Ok(id) => Tried::Committed(operation.effects(Some(id))),
        Err(error) if in_doubt(&error) => Tried::Unknown(operation.effects(None), Some(error)),
        Err(error) => Tried::Refused(error),
    }
}

/// Whether a failed COMMIT may have committed: the connection ended, or the
/// server was ending it.
fn in_doubt(error: &tokio_postgres::Error) -> bool {
    match error.code() {
        None => true,
        Some(code) => matches!(code.code(), "57P01" | "57P02" | "57P03" | "57014"),
    }
}
