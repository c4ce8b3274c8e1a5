//! *finish*: everything of ours is removed; the source stays fenced.
//!
//! Class: irreversible, and idempotent: every part looks before it acts. The statements that lift the fence
//! would be lost with our schema, so they are noted in the journal first.

mod local;

use pgportage_link::{Effect, Failure};
use pgportage_migration::journal::Note;
use pgportage_migration::ledger;
use pgportage_migration::ledger::Ownership;
use pgportage_postgres::access::{Access, own_role};
use pgportage_postgres::{Purpose, RelationName, quote_ident, sql_failure};
use pgportage_proto::{ActKind, Reason, Side, Verb, v1};
use pgportage_report::progress::Progress;
use tokio_postgres::GenericClient;

use crate::act::patience::Patience;
use crate::act::publication::{self, Fenced};
use crate::act::way_back::remove_way_back;
use crate::act::{Act, Consequences, Context, Produced, Survey, connect, identity, subscribe};
use crate::message::relations;
use crate::policy::DestructiveAct;

pub use local::clean_up_locally;

const SAVED_AT_FENCE: &str = "SELECT saved_access FROM pgportage.fence WHERE id = 1";

const DECISION: &str = "SELECT state, saved_access FROM pgportage.decision WHERE id = 1";

/// Removes everything that is ours on this side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FinishMigration {
    /// Destination: tables whose `REPLICA IDENTITY FULL` came along from the
    /// source and served the migration only.
    pub identity_full_tables: Vec<RelationName>,
}

/// Nothing of ours is left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FinishMigrationResult {
    /// Source: the statements that lift the fence, for the operator to keep.
    pub unfence_statements: Vec<String>,
}

impl Act for FinishMigration {
    const KIND: ActKind = ActKind::FinishMigration;
    type Message = v1::FinishMigration;
    type Output = FinishMigrationResult;

    fn decode(message: v1::FinishMigration) -> Result<Self, Failure> {
        Ok(Self { identity_full_tables: relations(message.identity_full_tables) })
    }

    fn encode(output: FinishMigrationResult) -> Produced {
        Produced::FinishMigration(v1::FinishMigrationResult { unfence_statements: output.unfence_statements })
    }

    fn is_last(verb: Verb, _side: Side) -> bool {
        verb == Verb::Perform
    }

    fn consequences(&self, _verb: Verb, side: Side) -> Consequences {
        match side {
            Side::Source => Consequences::of(&[DestructiveAct::DropSlot]),
            Side::Destination => Consequences::NONE,
        }
    }

    /// Each part looks for itself what is left to do.
    async fn survey(&self, _cx: &Context) -> Result<Survey<FinishMigrationResult>, Failure> {
        Ok(Survey::Ready)
    }

    async fn perform(&self, cx: &Context) -> Result<FinishMigrationResult, Failure> {
        match cx.participation.side {
            Side::Source => finish_source(cx).await,
            Side::Destination => {
                let result = finish_destination(cx, Undecided::Refuse).await?;
                report(cx, "giving tables the default replica identity");
                identity::relax(cx, &self.identity_full_tables).await?;
                cx.fail_point("finish_migration.perform.relaxed");
                Ok(result)
            }
        }
    }

    async fn undo(&self, _cx: &Context) -> Result<(), Failure> {
        Err(Failure::new(Reason::WrongState, "what is finished cannot be taken back")
            .hint("Create a new migration, in the other direction if need be.")
            .effect(Effect::None))
    }
}

fn report(cx: &Context, subject: &str) {
    cx.report(Progress { subject: subject.to_owned(), ..Progress::default() });
}

/// Slot, publication, schema, identities, roles; in this order, so that an attempt after a crash finds what
/// is left by its name.
async fn finish_source(cx: &Context) -> Result<FinishMigrationResult, Failure> {
    let migration = &cx.participation.migration;
    let unfence_statements = keep_unfence_statements(cx).await?;
    cx.fail_point("finish_migration.perform.noted");
    report(cx, "dropping the subscription of the way back");
    remove_way_back(cx).await?;
    cx.fail_point("finish_migration.perform.way_back");
    cx.heartbeats.stop(migration).await;
    report(cx, "dropping the replication slot");
    subscribe::remove_slots(cx).await?;
    cx.fail_point("finish_migration.perform.slot");
    report(cx, "dropping the publication");
    subscribe::revoke_reading(cx).await?;
    let mut patience = Patience::new(cx);
    loop {
        cx.safe_point()?;
        match publication::remove(cx, Fenced::Known).await {
            Ok(()) => break,
            Err(failure) => patience.again(cx, failure, "locks on the published tables").await?,
        }
    }
    cx.fail_point("finish_migration.perform.schema");
    report(cx, "giving tables their replica identity back");
    identity::restore(cx).await?;
    report(cx, "dropping the replication role");
    connect::remove_roles(cx).await?;
    cx.fail_point("finish_migration.perform.roles");
    cx.heartbeats.forget(migration)?;
    cx.poolers.forget(&cx.participation)?;
    cx.gauges.remove(migration);
    Ok(FinishMigrationResult { unfence_statements })
}

/// The statements that lift the fence, durable in the journal before anything that they depend on is
/// dropped. Empty when no fence stands.
async fn keep_unfence_statements(cx: &Context) -> Result<Vec<String>, Failure> {
    let migration = &cx.participation.migration;
    if let Some(text) = cx.journal.note(migration, Note::UnfenceStatements)? {
        return serde_json::from_str(&text).map_err(|error| {
            Failure::new(Reason::Internal, "the journal's note of the fence is unreadable").because(&error)
        });
    }
    let session = cx.door.open(&cx.participation.database, Purpose::Control).await?;
    let statements = unfence_statements(cx, &*session).await?;
    if !statements.is_empty() {
        let text = serde_json::to_string(&statements)
            .map_err(|error| Failure::new(Reason::Internal, "cannot encode the statements").because(&error))?;
        cx.journal.set_note(migration, Note::UnfenceStatements, &text)?;
    }
    Ok(statements)
}

async fn unfence_statements(cx: &Context, client: &impl GenericClient) -> Result<Vec<String>, Failure> {
    if ledger::ownership(client, &cx.participation).await? != Ownership::Ours || !publication::is_fenced(client).await?
    {
        return Ok(Vec::new());
    }
    let row =
        client.query_one(SAVED_AT_FENCE, &[]).await.map_err(|error| sql_failure(error, "read what the fence saved"))?;
    let saved = Access::from_json(row.get(0))?;
    Ok(saved.restore_statements(&cx.participation.database, &Access::read(client).await?))
}

/// What to do with a destination that has made no decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Undecided {
    /// Keep its schema: its row may be the only thing that can end a doubt.
    Refuse,
    /// Remove its schema: it was proved that no fence depends on it.
    Remove,
}

/// Subscription, tunnel, the parts of the way back, schema. The data stays, and so do the roles that may
/// log in.
async fn finish_destination(cx: &Context, undecided: Undecided) -> Result<FinishMigrationResult, Failure> {
    let decided = {
        let session = cx.door.open(&cx.participation.database, Purpose::Control).await?;
        match ledger::ownership(&*session, &cx.participation).await? {
            Ownership::Absent | Ownership::Other(_) => true,
            Ownership::Ours => is_open(&*session).await?,
        }
    };
    if !decided && undecided == Undecided::Refuse {
        return Err(Failure::new(Reason::WrongState, "the destination has not opened")
            .detail("Its row in schema pgportage is the only thing that can say whether it ever will.")
            .hint("Cut over first, or abort the migration.")
            .effect(Effect::None));
    }
    report(cx, "dropping the subscription");
    subscribe::remove_subscription(cx).await?;
    cx.fail_point("finish_migration.perform.subscription");
    report(cx, "dropping the way back");
    cx.heartbeats.stop(&cx.participation.migration).await;
    subscribe::remove_slots(cx).await?;
    cx.fail_point("finish_migration.perform.slot_back");
    publication::remove_publication(cx).await?;
    connect::remove_roles(cx).await?;
    cx.fail_point("finish_migration.perform.way_back_removed");
    report(cx, "dropping our schema");
    let mut patience = Patience::new(cx);
    loop {
        cx.safe_point()?;
        match remove_schema(cx).await {
            Ok(()) => break,
            Err(failure) => patience.again(cx, failure, "locks on our tables").await?,
        }
    }
    cx.fail_point("finish_migration.perform.destination_schema");
    Ok(FinishMigrationResult::default())
}

/// Whether the destination has decided to open.
async fn is_open(client: &impl GenericClient) -> Result<bool, Failure> {
    Ok(decision(client).await?.is_some_and(|(state, _)| state == "opened"))
}

async fn decision(client: &impl GenericClient) -> Result<Option<(String, String)>, Failure> {
    let row =
        client.query_opt(DECISION, &[]).await.map_err(|error| sql_failure(error, "read the destination's decision"))?;
    Ok(row.map(|row| (row.get(0), row.get(1))))
}

/// Removes our schema, and the grant of CONNECT that only our own role got while the database was closed.
async fn remove_schema(cx: &Context) -> Result<(), Failure> {
    let failure = |error| sql_failure(error, "drop schema pgportage");
    let mut session = cx.door.open(&cx.participation.database, Purpose::Control).await?;
    let transaction = session.transaction().await.map_err(failure)?;
    if ledger::ownership(&transaction, &cx.participation).await? != Ownership::Ours {
        return Ok(());
    }
    if let Some((state, saved)) = decision(&transaction).await?
        && state == "opened"
    {
        let own = own_role(&transaction).await?;
        let held_before = Access::from_json(&saved)?.grants.iter().any(|grant| grant.grantee.as_ref() == Some(&own));
        if !held_before {
            let (database, role) = (quote_ident(&cx.participation.database), quote_ident(&own));
            transaction
                .batch_execute(&format!("REVOKE CONNECT ON DATABASE {database} FROM {role}"))
                .await
                .map_err(failure)?;
        }
    }
    ledger::remove(&transaction, &cx.participation, cx.leader_epoch).await?;
    transaction.commit().await.map_err(failure)
}
