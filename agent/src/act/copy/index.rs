//! Indexes and constraints, each made when its table's rows are in.

use std::collections::BTreeMap;
use std::fmt;

use pgportage_link::Failure;
use pgportage_postgres::{Purpose, RelationName, Session, is_passing, sql_failure};
use pgportage_proto::Reason;
use tokio_postgres::GenericClient;

use super::build_scheduler::{Job, Task};
use super::queue::{CopyQueue, Next};
use crate::act::Context;
use crate::act::patience::Patience;
use crate::act::schema::later::{Build, Built};

/// None of these outlasts the session. 64 MB: a sort for a B-tree gains little from more, and a large value
/// slows the building of a GIN index down.
const SETTINGS: &str = "\
SET synchronous_commit = off; SET lock_timeout = '30s'; SET maintenance_work_mem = '64MB'; \
SET search_path = ''";

const INDEX_EXISTS: &str = "\
SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
               WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('i', 'I'))";

const CONSTRAINT_EXISTS: &str = "\
SELECT EXISTS (SELECT FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
               JOIN pg_namespace n ON n.oid = c.relnamespace
               WHERE n.nspname = $1 AND c.relname = $2 AND k.conname = $3)";

pub(super) type Builds = BTreeMap<RelationName, Vec<Build>>;

pub(super) fn by_table(builds: Vec<Build>) -> Builds {
    let mut tables = Builds::new();
    for build in builds {
        tables.entry(build.table.clone()).or_default().push(build);
    }
    tables
}

/// Does one job after the other until every table is done. Waits for locks that are not granted at once.
///
/// # Errors
///
/// [`Reason::ServerUnreachable`] when the server was away: the caller has to look up what it has kept.
/// Otherwise failures that do not pass by waiting.
pub(super) async fn work(cx: &Context, queue: &CopyQueue, builds: &Builds) -> Result<(), Failure> {
    let mut session = None;
    loop {
        cx.safe_point()?;
        let change = queue.change();
        match queue.next_job(super::jobs(cx)) {
            Next::Never => return Ok(()),
            Next::Later => {
                tokio::select! {
                    biased;
                    () = cx.cancel.cancelled() => cx.safe_point()?,
                    () = change => {}
                }
            }
            Next::Take(job) => {
                let table = queue.name(job.table);
                match job.task {
                    // The number comes from the scheduler, which counts the builds of this list.
                    Task::Build(number) | Task::Index(number) | Task::Promote(number) => {
                        patiently(cx, &mut session, &builds[table][number], job).await?;
                    }
                    Task::Analyse => analyse(cx, &mut session, table).await?,
                }
                queue.job_done(job, cx.tasks.clock.now());
            }
        }
    }
}

/// Does one build, or the part of it that the job names, and tries again while failures may pass.
async fn patiently(cx: &Context, session: &mut Option<Session>, build: &Build, job: Job) -> Result<(), Failure> {
    let mut patience = Patience::new(cx);
    while let Err(failure) = make(cx, session, build, job).await {
        *session = None;
        if !is_passing(&failure) || failure.reason == Reason::ServerUnreachable {
            return Err(failure);
        }
        patience.again(cx, failure, &format!("an index of {}", build.table)).await?;
    }
    cx.fail_point("copy_tables.perform.built");
    Ok(())
}

/// Makes statistics of a table, or of the name that ANALYZE takes for it.
pub(super) async fn analyse(
    cx: &Context,
    session: &mut Option<Session>,
    table: &impl fmt::Display,
) -> Result<(), Failure> {
    let open = ready(cx, session).await?;
    open.batch_execute(&format!("ANALYZE {table}"))
        .await
        .map_err(|error| sql_failure(error, &format!("analyse table {table}")))
}

/// Makes one index or constraint, as far as no earlier attempt has made it.
async fn make(cx: &Context, session: &mut Option<Session>, build: &Build, job: Job) -> Result<(), Failure> {
    let open = ready(cx, session).await?;
    let failure = |error| sql_failure(error, &format!("make an index or a constraint of {}", build.table));
    let transaction = open.transaction().await.map_err(failure)?;
    let Some(missing) = missing(&transaction, build, job.task).await? else { return Ok(()) };
    let statements = format!("SET LOCAL max_parallel_maintenance_workers = {}; {missing}", job.helpers);
    let making = transaction.batch_execute(&statements);
    tokio::select! {
        biased;
        // Dropping the session cancels the statement.
        () = cx.cancel.cancelled() => return cx.safe_point(),
        made = making => made.map_err(failure)?,
    }
    transaction.commit().await.map_err(failure)
}

pub(super) async fn ready<'a>(cx: &Context, session: &'a mut Option<Session>) -> Result<&'a mut Session, Failure> {
    let open = match session.take() {
        Some(open) if !open.is_closed() => open,
        Some(_) | None => {
            let open = cx.door.open(&cx.participation.database, Purpose::Scan).await?;
            open.batch_execute(SETTINGS).await.map_err(|error| sql_failure(error, "prepare to build indexes"))?;
            open
        }
    };
    Ok(session.insert(open))
}

/// The statements that a task still needs. An earlier attempt may have finished it, or made only the index
/// of a key.
async fn missing<'a>(client: &impl GenericClient, build: &'a Build, task: Task) -> Result<Option<&'a str>, Failure> {
    let there = match &build.object {
        Built::Index(index) => index_exists(client, index).await?,
        Built::Constraint(name) => constraint_exists(client, &build.table, name).await?,
    };
    Ok(match &build.key {
        _ if there => None,
        None => Some(&build.statements),
        Some(key) => match (index_exists(client, &key.index).await?, task) {
            (true, Task::Index(_)) => None,
            (true, _) => Some(&key.promotion),
            (false, Task::Index(_)) => Some(&key.build),
            (false, _) => Some(&build.statements),
        },
    })
}

async fn index_exists(client: &impl GenericClient, index: &RelationName) -> Result<bool, Failure> {
    let row = client.query_one(INDEX_EXISTS, &[&index.schema, &index.relation]).await;
    row.map(|row| row.get(0)).map_err(|error| sql_failure(error, "look for an index"))
}

async fn constraint_exists(client: &impl GenericClient, table: &RelationName, name: &str) -> Result<bool, Failure> {
    let row = client.query_one(CONSTRAINT_EXISTS, &[&table.schema, &table.relation, &name]).await;
    row.map(|row| row.get(0)).map_err(|error| sql_failure(error, "look for a constraint"))
}
