//! Validates foreign keys, several tables at a time.
//!
//! Class: convergent. A key is valid or is not. An attempt after a crash asks the catalog and goes on with
//! the keys that are not.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use futures_util::future::try_join_all;
use pgportage_link::Failure;
use pgportage_postgres::{RelationName, Session, is_passing, quote_ident, sql_failure};
use pgportage_proto::Reason;
use pgportage_report::progress::Progress;

use super::index::ready;
use crate::act::Context;
use crate::act::patience::Patience;
use crate::act::schema::later::ForeignKey;

const VALID: &str = "\
SELECT k.convalidated FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relname = $2 AND k.conname = $3 AND k.contype = 'f'";

/// The keys that are left, shared by the workers.
struct KeyQueue {
    /// A worker takes a whole table: two validations of one table would wait for each other's lock.
    tables: Mutex<Vec<(RelationName, Vec<String>)>>,
    proved: Mutex<usize>,
    total: usize,
}

impl KeyQueue {
    fn new(keys: Vec<ForeignKey>) -> Self {
        let total = keys.len();
        let mut tables = BTreeMap::<RelationName, Vec<String>>::new();
        for key in keys {
            tables.entry(key.table).or_default().push(key.name);
        }
        let mut tables: Vec<_> = tables.into_iter().collect();
        // Workers take from the end, so the table with most keys, and most work, comes first.
        tables.sort_by_key(|(_, names)| names.len());
        Self { tables: Mutex::new(tables), proved: Mutex::new(0), total }
    }

    fn next(&self) -> Option<(RelationName, Vec<String>)> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn proved(&self, count: usize) -> Progress {
        let mut proved = self.proved.lock().unwrap_or_else(PoisonError::into_inner);
        *proved += count;
        let subject = format!("validating foreign keys, {} of {} done", *proved, self.total);
        Progress { subject, ..Progress::default() }
    }
}

/// Validates keys that were made without checking the rows. Waits for locks that are not granted at once.
///
/// # Errors
///
/// What the server says of a key that does not hold; [`Reason::ServerUnreachable`] when it was away;
/// [`Reason::Cancelled`].
pub(super) async fn validate(cx: &Context, keys: Vec<ForeignKey>, jobs: usize) -> Result<(), Failure> {
    let queue = KeyQueue::new(keys);
    cx.report(queue.proved(0));
    try_join_all((0..jobs).map(|_| work(cx, &queue))).await.map(|_| ())
}

async fn work(cx: &Context, queue: &KeyQueue) -> Result<(), Failure> {
    let mut session = None;
    while let Some((table, names)) = queue.next() {
        for name in &names {
            let mut patience = Patience::new(cx);
            while let Err(failure) = prove(cx, &mut session, &table, name).await {
                session = None;
                if !is_passing(&failure) || failure.reason == Reason::ServerUnreachable {
                    return Err(failure);
                }
                patience.again(cx, failure, &format!("a foreign key of {table}")).await?;
            }
            cx.report(queue.proved(1));
            cx.fail_point("copy_tables.perform.validated");
        }
    }
    Ok(())
}

/// Validates one key, unless an earlier attempt has done so.
async fn prove(cx: &Context, session: &mut Option<Session>, table: &RelationName, name: &str) -> Result<(), Failure> {
    cx.safe_point()?;
    let open = ready(cx, session).await?;
    let failure = |error| sql_failure(error, &format!("validate foreign key {} of {table}", quote_ident(name)));
    let seen = open.query_opt(VALID, &[&table.schema, &table.relation, &name]).await.map_err(failure)?;
    if seen.is_some_and(|row| row.get(0)) {
        return Ok(());
    }
    let statement = format!("ALTER TABLE {table} VALIDATE CONSTRAINT {}", quote_ident(name));
    tokio::select! {
        biased;
        // Dropping the session cancels the statement.
        () = cx.cancel.cancelled() => {
            *session = None;
            cx.safe_point()
        }
        validated = open.batch_execute(&statement) => validated.map_err(failure),
    }
}
