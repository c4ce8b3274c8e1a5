//! Sequences: where they stand.

use futures_util::future::try_join_all;
use pgportage_link::Failure;
use tokio_postgres::{Client, Statement};

use super::user_relation;
use crate::{RelationName, sql_failure};

/// Where one sequence stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SequencePosition {
    /// The sequence.
    pub name: RelationName,
    /// Its last value.
    pub last_value: i64,
    /// Whether the last value was handed out.
    pub called: bool,
}

/// Where one sequence stands, and how it moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SequenceState {
    /// The sequence.
    pub name: RelationName,
    /// Its last value.
    pub last_value: i64,
    /// Whether the last value was handed out.
    pub called: bool,
    /// The act from one value to the next. May be negative.
    pub increment: i64,
    /// Whether it begins again at its end.
    pub cycles: bool,
}

/// How many sequences one statement reads: each needs a lock.
const BATCH: usize = 100;

/// Reads where the sequences stand, as often as one likes, on one session.
#[derive(Debug)]
pub struct Sequences {
    states: Vec<SequenceState>,
    /// One for each batch of them.
    statements: Vec<Statement>,
}

impl Sequences {
    /// Lists every sequence of the database, sorted by name, and prepares everything
    /// else. Not those of the system, of extensions or ours.
    ///
    /// # Errors
    ///
    /// As [`sql_failure`].
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

    /// Where they stand now, on the session that they were prepared on.
    ///
    /// The values are read one after the other, not under one snapshot: sequences
    /// know no transactions. Only behind a fence do they stand still.
    ///
    /// # Errors
    ///
    /// As [`sql_failure`]: when one is gone, for example.
    pub async fn read(&self, client: &Client) -> Result<Vec<SequenceState>, Failure> {
        let mut states = self.states.clone();
        // Pipelined: one round trip for all of them, in effect.
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

/// Where every sequence of the database stands, as [`Sequences`] tells.
///
/// # Errors
///
/// As [`sql_failure`].
pub async fn sequences(client: &Client) -> Result<Vec<SequenceState>, Failure> {
    Sequences::prepare(client).await?.read(client).await
}

fn position_of((index, state): (usize, &SequenceState)) -> String {
    format!("SELECT {index}, last_value, is_called FROM {}", state.name)
}
