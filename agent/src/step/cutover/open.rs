//! P6: the decision. One row in the destination, in the transaction that opens
//! it; nobody else's memory counts. Cannot be undone.

use pgportage_link::{Effect, Failure, Remedy};
use pgportage_proto::Reason;
use tokio_postgres::Client;

use super::sequence::{SequencePosition, set_all};
use super::{current_lsn, sessions_lost};
use crate::action::{ActionKind, Verb};
use crate::hook;
use crate::names;
use crate::policy::HookPoint;
use crate::postgres::access::Access;
use crate::postgres::{Purpose, own_schema, quote_ident, sql_failure};
use crate::step::{Context, Step, Survey};

/// P6 on the destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenDestination {
    /// Number of this cutover.
    pub cutover_epoch: i64,
    /// The sequences, read when nobody was left on the source.
    pub sequences: Vec<SequencePosition>,
}

/// The destination is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenDestinationResult {
    /// Position of the destination after the decision.
    pub open_lsn: String,
}

impl Step for OpenDestination {
    type Output = OpenDestinationResult;

    /// The row is asked, not the agent's memory: a decision whose answer was
    /// lost is found here.
    async fn survey(&self, cx: &Context) -> Result<Survey<OpenDestinationResult>, Failure> {
        let client = cx.door.open(&cx.participation.database, Purpose::Cutover).await?;
        if opened_epoch(&client).await? == Some(self.cutover_epoch) {
            hook::tell(&cx.agent, &cx.participation, HookPoint::AfterOpen);
            return Ok(Survey::Done(OpenDestinationResult { open_lsn: current_lsn(&client).await?.to_string() }));
        }
        Ok(Survey::Ready)
    }

    async fn perform(&self, cx: &Context) -> Result<OpenDestinationResult, Failure> {
        let migration = &cx.participation.migration;
        let Some(cutover) = cx.agent.cutovers.destination(migration) else {
            return Err(sessions_lost(Effect::None));
        };
        let mut cutover = cutover.lock().await;
        let deadline = match cutover.open_deadline {
            Some(deadline) if cutover.epoch == self.cutover_epoch => deadline,
            Some(_) | None => return Err(sessions_lost(Effect::None)),
        };
        hook::owe(&cx.agent, &cx.participation, self.cutover_epoch)?;
        let left = deadline.saturating_duration_since(cx.clock.now());
        hook::ask(&cx.agent, &cx.participation, HookPoint::BeforeOpen, Some(left)).await?;
        set_all(&cutover.session, &self.sequences).await?;
        cx.fail_point("open_destination.perform.sequences");

        let doing = "open the destination";
        let database = &cx.participation.database;
        let transaction = cutover.session.transaction().await.map_err(|error| sql_failure(error, doing))?;
        transaction
            .batch_execute("SET LOCAL synchronous_commit = on")
            .await
            .map_err(|error| sql_failure(error, doing))?;
        own_schema::record(&transaction, cx, ActionKind::OpenDestination, Verb::Perform).await?;
        let row = transaction
            .query_one("SELECT state, floor_epoch, saved_access FROM pgportage.decision WHERE id = 1 FOR UPDATE", &[])
            .await
            .map_err(|error| sql_failure(error, doing))?;
        let (state, floor, saved): (String, i64, String) = (row.get(0), row.get(1), row.get(2));
        if state != "closed" {
            return Err(refused("the destination is open already"));
        }
        if self.cutover_epoch < floor {
            return Err(refused("the source was promised that this cutover never opens"));
        }
        // After the lock, so that waiting for it counts.
        if cx.clock.now() >= deadline {
            return Err(refused("the time for opening is over"));
        }
        let current = Access::read(&transaction).await?;
        let mut statements = Access::from_json(&saved)?.restore_statements(database, &current);
        // Roles of ours keep what they need until `finish`.
        statements.extend(keep_own_grants(&transaction, database).await?);
        statements.push(format!("ALTER SUBSCRIPTION {} DISABLE", quote_ident(&names::replication_name(migration))));
        transaction.batch_execute(&statements.join("; ")).await.map_err(|error| sql_failure(error, doing))?;
        transaction
            .execute(
                "UPDATE pgportage.decision SET state = 'opened', opened_epoch = $1, floor_epoch = $1, \
                 record_time = pg_catalog.clock_timestamp() WHERE id = 1",
                &[&self.cutover_epoch],
            )
            .await
            .map_err(|error| sql_failure(error, doing))?;
        cx.fail_point("open_destination.perform.decided");
        transaction.commit().await.map_err(|error| {
            sql_failure(error, doing)
                .hint("Whether the destination has opened is found out by itself.")
                .remedy(Remedy::Wait)
                .effect(Effect::Unknown)
        })?;
        cx.fail_point("open_destination.perform.committed");
        tracing::info!(cutover_epoch = self.cutover_epoch, "the destination is open");
        let open_lsn = current_lsn(&cutover.session).await?.to_string();
        drop(cutover);
        cx.agent.cutovers.drop_destination(migration);
        hook::tell(&cx.agent, &cx.participation, HookPoint::AfterOpen);
        Ok(OpenDestinationResult { open_lsn })
    }

    /// A decision is not taken back. Without one, there is nothing to do.
    async fn undo(&self, cx: &Context) -> Result<(), Failure> {
        let client = cx.door.open(&cx.participation.database, Purpose::Cutover).await?;
        match opened_epoch(&client).await? {
            None => Ok(()),
            Some(_) => Err(Failure::new(Reason::DestinationOpened, "the destination has opened")
                .hint("Nothing takes this back; go on with `pgportage finish`.")
                .effect(Effect::None)),
        }
    }
}

/// The cutover at which the destination has opened.
pub(super) async fn opened_epoch(client: &Client) -> Result<Option<i64>, Failure> {
    Ok(client
        .query_opt("SELECT opened_epoch FROM pgportage.decision WHERE state = 'opened'", &[])
        .await
        .map_err(|error| sql_failure(error, "read the decision"))?
        .and_then(|row| row.get(0)))
}

async fn keep_own_grants(
    client: &impl tokio_postgres::GenericClient,
    database: &str,
) -> Result<Option<String>, Failure> {
    let row = client
        .query_one("SELECT current_user::text, rolsuper FROM pg_roles WHERE rolname = current_user", &[])
        .await
        .map_err(|error| sql_failure(error, "read the agent's own role"))?;
    let (role, superuser): (String, bool) = (row.get(0), row.get(1));
    Ok((!superuser).then(|| format!("GRANT CONNECT ON DATABASE {} TO {}", quote_ident(database), quote_ident(&role))))
}

fn refused(why: &str) -> Failure {
    Failure::new(Reason::OpenRefused, why)
        .hint("The cutover is taken back by itself; try it again.")
        .remedy(Remedy::Operator)
        .effect(Effect::None)
}
