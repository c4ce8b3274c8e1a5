//! The positions of sequences.

use futures_util::future::try_join_all;
use pgportage_link::Failure;
use tokio_postgres::{Client, Statement};

use super::user_relation;
use crate::{RelationName, sql_failure};

/// The position of one sequence.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SequencePosition {
    /// Its name.
    pub name: RelationName,
    /// Its last value.
    pub last_value: i64,
    /// Whether the last value was handed out.
    pub called: bool,
}

/// The position of one sequence, and how it moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SequenceState {
    /// Its name.
    pub name: RelationName,
    /// Its last value.
    pub last_value: i64,
    /// Whether the last value was handed out.
    pub called: bool,
    /// The difference from one value to the next. May be negative.
    pub increment: i64,
    /// Whether it starts again at its end.
    pub cycles: bool,
}

/// How many sequences one statement reads: each sequence needs a lock.
const BATCH: usize = 100;

/// Reads the positions of the sequences on one session, any number of times.
#[derive(Debug)]
pub struct Sequences {
    states: Vec<SequenceState>,
    /// One statement for each batch.
    statements: Vec<Statement>,
}

impl Sequences {
    /// Lists every sequence of the database, sorted by name, and prepares the reading. Leaves out those of
    /// the system, of extensions and ours.
    pub async fn prepare(client: &Client) -> Result<Self, Failure> {
        const LIST: &str = concat!(
            "
            SELECT n.nspname::text, c.relname::text,
                   s.seqincrement, s.seqcycle
              FROM pg_sequence AS s
              JOIN pg_class AS c ON c.oid = s.seqrelid
              JOIN pg_namespace AS n ON n.oid = c.relnamespace
             WHERE ",
            user_relation!(),
            "
             ORDER BY n.nspname::text COLLATE \"C\", c.relname::text COLLATE \"C\""
        );
        let failed = |error| sql_failure(error, "read the sequences");
        let rows = client.query(LIST, &[]).await.map_err(failed)?;
        let states: Vec<_> = rows
            .iter()
            .map(|row| SequenceState {
                name: RelationName::new(row.get::<_, String>(0), row.get::<_, String>(1)),
                last_value: 0,
                called: false,
                increment: row.get(2),
                cycles: row.get(3),
            })
            .collect();
        let statements = states.chunks(BATCH).map(|batch| async move {
            let statement = batch.iter().enumerate().map(position_of).collect::<Vec<_>>().join(" UNION ALL ");
            client.prepare(&statement).await
        });
        let statements = try_join_all(statements).await.map_err(failed)?;
        Ok(Self { states, statements })
    }

    /// The present positions, on the session that they were prepared on.
    ///
    /// The values are read one after the other, not under one snapshot: sequences know no transactions.
    /// They stand still only behind a fence.
    ///
    /// # Errors
    ///
    /// As [`sql_failure`], for example when a sequence is gone.
    pub async fn read(&self, client: &Client) -> Result<Vec<SequenceState>, Failure> {
        let mut states = self.states.clone();
        // Pipelined: in effect one round trip for all batches.
        let batches = self.statements.iter().map(|statement| client.query(statement, &[]));
        let answers = try_join_all(batches).await.map_err(|error| sql_failure(error, "read the sequences"))?;
        for (batch, rows) in states.chunks_mut(BATCH).zip(&answers) {
            for row in rows {
                let index = usize::try_from(row.get::<_, i32>(0)).unwrap_or(usize::MAX);
                if let Some(state) = batch.get_mut(index) {
                    state.last_value = row.get(1);
                    state.called = row.get(2);
                }
            }
        }
        Ok(states)
    }
}

/// The positions of every sequence of the database, as [`Sequences`] reads them.
pub async fn sequences(client: &Client) -> Result<Vec<SequenceState>, Failure> {
    Sequences::prepare(client).await?.read(client).await
}

fn position_of((index, state): (usize, &SequenceState)) -> String {
    format!("SELECT {index}, last_value, is_called FROM {}", state.name)
}
