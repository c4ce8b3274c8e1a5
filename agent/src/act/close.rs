//! *close*: from here until the decision no application can log in to the
//! destination.

use std::time::Duration;

use pgportage_link::{Effect, Failure, Remedy};
use pgportage_migration::ledger;
use pgportage_migration::names;
use pgportage_postgres::access::{Access, own_role};
use pgportage_postgres::expel::Expulsion;
use pgportage_postgres::{Purpose, sql_failure};
use pgportage_proto::{ActKind, Reason, Side, Verb, v1};
use tokio_postgres::Client;

use super::Act;
use super::Consequences;
use super::Context;
use super::Produced;
use super::Survey;
use crate::message::int32;
use crate::policy::DestructiveAct;

/// How long sessions get to end.
const EXPEL_TIMEOUT: Duration = Duration::from_secs(10);

/// Whatever an application could have put there: relations, routines and types
/// outside the system's schemas, extensions and ours; and schemas but `public`.
const OBJECTS: &str = "\
WITH n AS (
    SELECT oid, nspname FROM pg_namespace
    WHERE nspname NOT IN ('pg_catalog', 'information_schema', 'pgportage')
      AND nspname NOT LIKE 'pg\\_toast%' AND nspname NOT LIKE 'pg\\_temp%'
), member AS (
    SELECT classid, objid FROM pg_depend WHERE deptype = 'e'
)
SELECT what FROM (
    SELECT 'relation ' || quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS what
    FROM pg_class c JOIN n ON n.oid = c.relnamespace
    WHERE NOT EXISTS (SELECT FROM member m WHERE m.classid = 'pg_class'::regclass AND m.objid = c.oid)
    UNION ALL
    SELECT 'routine ' || quote_ident(n.nspname) || '.' || quote_ident(p.proname)
    FROM pg_proc p JOIN n ON n.oid = p.pronamespace
    WHERE NOT EXISTS (SELECT FROM member m WHERE m.classid = 'pg_proc'::regclass AND m.objid = p.oid)
    UNION ALL
    SELECT 'type ' || quote_ident(n.nspname) || '.' || quote_ident(t.typname)
    FROM pg_type t JOIN n ON n.oid = t.typnamespace
    WHERE t.typtype IN ('e', 'd', 'r')
      AND NOT EXISTS (SELECT FROM member m WHERE m.classid = 'pg_type'::regclass AND m.objid = t.oid)
    UNION ALL
    SELECT 'schema ' || quote_ident(n.nspname) FROM n
    WHERE n.nspname <> 'public'
      AND NOT EXISTS (SELECT FROM member m WHERE m.classid = 'pg_namespace'::regclass AND m.objid = n.oid)
) AS objects
LIMIT 10";

/// Closes the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseDatabase;

/// The destination is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseDatabaseResult {
    /// Sessions that were ended.
    pub terminated_session_count: u32,
}

impl Act for CloseDatabase {
    const KIND: ActKind = ActKind::CloseDatabase;
    const SIDE: Option<Side> = Some(Side::Destination);
    type Message = v1::CloseDatabase;
    type Output = CloseDatabaseResult;

    fn decode(_message: v1::CloseDatabase) -> Result<Self, Failure> {
        Ok(Self)
    }

    fn encode(output: CloseDatabaseResult) -> Produced {
        Produced::CloseDatabase(v1::CloseDatabaseResult {
            terminated_session_count: int32(output.terminated_session_count),
        })
    }

    fn consequences(&self, verb: Verb, _side: Side) -> Consequences {
        match verb {
            Verb::Perform => Consequences::of(&[DestructiveAct::TerminateSessions]),
            Verb::Undo => Consequences::NONE,
        }
    }

    /// Closing is done when the row says so *and* nobody is left; the second
    /// half is repeated by `perform`, so a half-done attempt is "ready".
    async fn survey(&self, cx: &Context) -> Result<Survey<CloseDatabaseResult>, Failure> {
        let client = cx.door.open(&cx.participation.database, Purpose::Control).await?;
        if closed(cx, &client).await? {
            return Ok(Survey::Ready);
        }
        let objects: Vec<String> = client
            .query(OBJECTS, &[])
            .await
            .map_err(|error| sql_failure(error, "look whether the destination is empty"))?
            .iter()
            .map(|row| row.get(0))
            .collect();
        if objects.is_empty() {
            return Ok(Survey::Ready);
        }
        Err(Failure::new(Reason::DatabaseNotEmpty, "the destination database is not empty")
            .detail(format!("It holds, among others: {}.", objects.join(", ")))
            .hint("Use an empty database of the same name, for example a new one.")
            .remedy(Remedy::Operator)
            .effect(Effect::None))
    }

    async fn perform(&self, cx: &Context) -> Result<CloseDatabaseResult, Failure> {
        let mut client = cx.door.open(&cx.participation.database, Purpose::Control).await?;
        if !closed(cx, &client).await? {
            let doing = "close the destination";
            let transaction = client.transaction().await.map_err(|error| sql_failure(error, doing))?;
            ledger::ensure(&transaction, &cx.participation).await?;
            ledger::record(&transaction, cx.entry(), ActKind::CloseDatabase, Verb::Perform).await?;
            let access = Access::read(&transaction).await?;
            transaction
                .execute(
                    "INSERT INTO pgportage.decision (id, state, floor_epoch, saved_access) VALUES (1, 'closed', 0, $1)",
                    &[&access.to_json()?],
                )
                .await
                .map_err(|error| sql_failure(error, doing))?;
            let ours = [own_role(&transaction).await?];
            transaction
                .batch_execute(&access.deny_statements(&cx.participation.database, &ours).join("; "))
                .await
                .map_err(|error| sql_failure(error, doing))?;
            transaction.commit().await.map_err(|error| sql_failure(error, doing))?;
        }
        cx.fail_point("close_database.perform.committed");
        let deadline = cx.tasks.clock.now() + EXPEL_TIMEOUT;
        let terminated_session_count = Expulsion::prepare(&client)
            .await?
            .carry_out(
                &client,
                || cx.door.own_sessions(),
                &names::replication_name(&cx.participation.migration),
                cx.tasks.clock,
                deadline,
            )
            .await?;
        Ok(CloseDatabaseResult { terminated_session_count })
    }

    async fn undo(&self, cx: &Context) -> Result<(), Failure> {
        let doing = "open the destination database to its applications again";
        let mut client = cx.door.open(&cx.participation.database, Purpose::Control).await?;
        if ledger::ownership(&*client, &cx.participation).await? != ledger::Ownership::Ours {
            return Ok(());
        }
        let transaction = client.transaction().await.map_err(|error| sql_failure(error, doing))?;
        if let Some(row) = transaction
            .query_opt("SELECT state, saved_access FROM pgportage.decision WHERE id = 1 FOR UPDATE", &[])
            .await
            .map_err(|error| sql_failure(error, doing))?
        {
            if row.get::<_, &str>(0) == "opened" {
                return Err(Failure::new(Reason::DestinationOpened, "the destination has opened")
                    .hint("Nothing takes this back; go on with `pgportage finish`.")
                    .effect(Effect::None));
            }
            let saved = Access::from_json(row.get(1))?;
            let statements = saved.restore_statements(&cx.participation.database, &Access::read(&transaction).await?);
            transaction.batch_execute(&statements.join("; ")).await.map_err(|error| sql_failure(error, doing))?;
        }
        ledger::remove(&transaction, &cx.participation, cx.leader_epoch).await?;
        transaction.commit().await.map_err(|error| sql_failure(error, doing))?;
        cx.fail_point("close_database.undo.committed");
        Ok(())
    }
}

async fn closed(cx: &Context, client: &Client) -> Result<bool, Failure> {
    if ledger::ownership(client, &cx.participation).await? != ledger::Ownership::Ours {
        return Ok(false);
    }
    let row = client
        .query_opt("SELECT state FROM pgportage.decision WHERE id = 1", &[])
        .await
        .map_err(|error| sql_failure(error, "read the decision"))?;
    Ok(row.is_some_and(|row| row.get::<_, &str>(0) == "closed"))
}
