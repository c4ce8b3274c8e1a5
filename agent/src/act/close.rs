//! *close*: from here until the decision no application can log in to the
//! destination.

use std::time::Duration;

use pgportage_link::{Effect, Failure, Remedy};
use pgportage_migration::{ledger, names};
use pgportage_postgres::access::{Access, own_role};
use pgportage_postgres::expel::Expulsion;
use pgportage_postgres::{Purpose, sql_failure};
use pgportage_proto::{ActKind, Reason, Side, Verb, v1};
use tokio_postgres::Client;

use super::baseline::{Baseline, application_objects};
use super::{Act, Consequences, Context, Produced, Survey};
use crate::message::int32;
use crate::policy::DestructiveAct;

/// How long sessions may take to end.
const EXPEL_TIMEOUT: Duration = Duration::from_secs(10);

/// Closes the destination to applications.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseDatabase;

/// The destination is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseDatabaseResult {
    /// Sessions of applications that were ended.
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

    /// Closing is done when the row says so *and* no session of an application is left. `perform` repeats
    /// the second half, so a half-done attempt is "ready".
    async fn survey(&self, cx: &Context) -> Result<Survey<CloseDatabaseResult>, Failure> {
        let client = cx.door.open(&cx.participation.database, Purpose::Control).await?;
        if closed(cx, &client).await? {
            return Ok(Survey::Ready);
        }
        let objects = application_objects(&*client).await?;
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
            let baseline = Baseline::read(&transaction).await?.to_json()?;
            let (kind, baseline) = (ActKind::CloseDatabase, Some(baseline.as_bytes()));
            ledger::record_with(&transaction, cx.entry(), kind, Verb::Perform, baseline).await?;
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
            let left = application_objects(&transaction).await?;
            if !left.is_empty() {
                return Err(not_empty_yet(&left));
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

/// Applications that were let in would write into a copy that nothing keeps level.
fn not_empty_yet(left: &[String]) -> Failure {
    Failure::new(Reason::DatabaseNotEmpty, "the destination stays closed: something of this migration may be in it")
        .detail(format!("It holds, among others: {}.", left.join(", ")))
        .hint("Drop what was restored into it, then retry.")
        .remedy(Remedy::Operator)
        .effect(Effect::None)
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
