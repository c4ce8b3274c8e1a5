//! *publication*: our schema with heartbeat and marker, and the publication with an explicit list of
//! tables.
//!
//! For the way back the destination makes the same over its own tables, and a second publication of nothing
//! but the heartbeat, which proves the way back. Both exist before the slot does and are never altered:
//! decoding could skip changes that meet an ALTER PUBLICATION.
//!
//! Class: transactional. Schema, publication and ledger row are made in one transaction, which checks the
//! replica identities once more: a published table without one makes the application's own UPDATE and
//! DELETE fail.

use pgportage_link::{Effect, Failure};
use pgportage_migration::Participation;
use pgportage_migration::ledger;
use pgportage_migration::ledger::Ownership;
use pgportage_migration::names;
use pgportage_migration::stream::{Stream, published_name};
use pgportage_postgres::{Purpose, RelationName, Session, catalog, quote_ident, sql_failure};
use pgportage_proto::{ActKind, Reason, Side, Verb, v1};
use pgportage_report::progress::Progress;
use tokio_postgres::{Client, GenericClient};

use crate::act::patience::Patience;
use crate::act::{Act, Context, Produced, Survey};
use crate::message::int32;

const PUBLICATION_EXISTS: &str = "SELECT EXISTS (SELECT FROM pg_publication WHERE pubname = $1)";

/// Published tables whose UPDATE and DELETE would fail: no usable replica
/// identity. A deferrable key is none.
const WITHOUT_IDENTITY: &str = "\
SELECT n.nspname::text, c.relname::text
FROM pg_publication p
JOIN pg_publication_rel r ON r.prpubid = p.oid
JOIN pg_class c ON c.oid = r.prrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE p.pubname = $1
  AND c.relreplident <> 'f'
  AND NOT EXISTS (SELECT FROM pg_index i
                  WHERE i.indrelid = c.oid AND i.indimmediate AND i.indisvalid
                    AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END)
ORDER BY 1, 2";

const IS_FENCED: &str = "\
SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
               WHERE n.nspname = 'pgportage' AND c.relname = 'fence')";

const FENCE_ROW: &str = "SELECT EXISTS (SELECT FROM pgportage.fence)";

/// Makes our schema and the publication, and starts the heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreatePublication;

/// The publication that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatePublicationResult {
    /// Its name.
    pub publication_name: String,
    /// How many tables it lists, our own two included.
    pub table_count: u32,
}

impl Act for CreatePublication {
    const KIND: ActKind = ActKind::CreatePublication;
    const WAY_BACK: &'static [Side] = &[Side::Destination];
    type Message = v1::CreatePublication;
    type Output = CreatePublicationResult;

    fn decode(_message: v1::CreatePublication) -> Result<Self, Failure> {
        Ok(Self)
    }

    fn encode(output: CreatePublicationResult) -> Produced {
        Produced::CreatePublication(v1::CreatePublicationResult {
            publication_name: output.publication_name,
            table_count: int32(output.table_count),
        })
    }

    async fn survey(&self, cx: &Context) -> Result<Survey<CreatePublicationResult>, Failure> {
        let session = cx.door.open(&cx.participation.database, Purpose::Control).await?;
        let name = published_name(&cx.participation);
        let exists = publication_exists(&*session, &name).await?;
        match (ledger::ownership(&*session, &cx.participation).await?, exists) {
            (Ownership::Ours, true) => {
                cx.heartbeats.start(&cx.participation);
                let table_count = count(&catalog::published_tables(&session, &name).await?);
                Ok(Survey::Done(CreatePublicationResult { publication_name: name, table_count }))
            }
            (Ownership::Ours | Ownership::Absent, false) => Ok(Survey::Ready),
            (Ownership::Absent, true) => {
                Err(Failure::new(Reason::ObjectConflict, format!("publication {} exists already", quote_ident(&name)))
                    .hint(format!("If no server subscribes to it, run: DROP PUBLICATION {};", quote_ident(&name)))
                    .effect(Effect::None))
            }
            (Ownership::Other(owner), _) => {
                Err(Failure::new(Reason::ObjectConflict, "schema pgportage belongs to another migration")
                    .detail(format!("It belongs to {owner}."))
                    .hint("Finish or abort that migration first, or run `pgportage-agent cleanup` for it.")
                    .effect(Effect::None))
            }
        }
    }

    async fn perform(&self, cx: &Context) -> Result<CreatePublicationResult, Failure> {
        let name = published_name(&cx.participation);
        cx.heartbeats.intend(&cx.participation)?;
        cx.fail_point("create_publication.perform.intended");
        let mut patience = Patience::new(cx);
        let table_count = loop {
            cx.safe_point()?;
            match create(cx, &name).await {
                Ok(table_count) => break table_count,
                Err(failure) => patience.again(cx, failure, "locks on the tables to publish").await?,
            }
        };
        cx.fail_point("create_publication.perform.committed");
        cx.heartbeats.start(&cx.participation);
        Ok(CreatePublicationResult { publication_name: name, table_count })
    }

    async fn undo(&self, cx: &Context) -> Result<(), Failure> {
        remove_publication(cx).await
    }
}

/// Stops the heartbeat and drops what [`CreatePublication`] made. Succeeds when there is nothing to drop.
///
/// # Errors
///
/// [`Reason::WrongState`] when the source is fenced: the schema holds the statements that lift the fence.
pub(crate) async fn remove_publication(cx: &Context) -> Result<(), Failure> {
    cx.heartbeats.stop(&cx.participation.migration).await;
    let mut patience = Patience::new(cx);
    loop {
        cx.safe_point()?;
        match remove(cx, Fenced::Refuse).await {
            Ok(()) => break,
            Err(failure) => patience.again(cx, failure, "locks on the published tables").await?,
        }
    }
    cx.fail_point("create_publication.undo.dropped");
    cx.heartbeats.forget(&cx.participation.migration)
}

/// What a fence means for the removal of our schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fenced {
    /// The schema must stay: it holds the statements that lift the fence.
    Refuse,
    /// The schema may go: these statements are kept elsewhere.
    Known,
}

/// Drops our publications, and on the source our schema, in one transaction. The destination's schema holds
/// its decision, and goes when `close` is taken back.
pub(crate) async fn remove(cx: &Context, fenced: Fenced) -> Result<(), Failure> {
    let failure = |error| sql_failure(error, "drop the publication");
    let mut session = cx.door.open(&cx.participation.database, Purpose::Control).await?;
    if !may_remove(&*session, &cx.participation, fenced).await? {
        return Ok(());
    }
    leave_applications_tables(cx, &mut session).await?;
    let transaction = session.transaction().await.map_err(failure)?;
    if !may_remove(&transaction, &cx.participation, fenced).await? {
        return Ok(());
    }
    for name in own_publications(&cx.participation) {
        if publication_exists(&transaction, &name).await? {
            transaction.batch_execute(&format!("DROP PUBLICATION {}", quote_ident(&name))).await.map_err(failure)?;
        }
    }
    if cx.participation.side == Side::Source {
        ledger::remove(&transaction, &cx.participation, cx.leader_epoch).await?;
    }
    transaction.commit().await.map_err(failure)
}

/// Whether there may be anything of ours. A fenced source keeps it.
async fn may_remove(
    client: &impl GenericClient,
    participation: &Participation,
    fenced: Fenced,
) -> Result<bool, Failure> {
    if matches!(ledger::ownership(client, participation).await?, Ownership::Other(_)) {
        return Ok(false);
    }
    if participation.side == Side::Source && fenced == Fenced::Refuse && is_fenced(client).await? {
        return Err(Failure::new(Reason::WrongState, "the source is fenced")
            .detail("Schema pgportage keeps what is needed to lift the fence.")
            .hint("Take the cutover back first, or run `pgportage-agent unfence` on this machine.")
            .effect(Effect::None));
    }
    Ok(true)
}

/// Takes every table out of the stream's publication but our own, in a transaction before the one that drops
/// it. A session that writes looks a table's publications up one after the other; one that is dropped in
/// between ends its statement with `cache lookup failed for publication`. Behind this no table of an
/// application leads to the publication any more.
async fn leave_applications_tables(cx: &Context, session: &mut Session) -> Result<(), Failure> {
    let failure = |error| sql_failure(error, "take the tables out of the publication");
    let name = published_name(&cx.participation);
    if !publication_exists(&**session, &name).await? {
        return Ok(());
    }
    let heartbeat = ledger::table(Stream::published_by(cx.participation.side).heartbeat_table());
    let transaction = session.transaction().await.map_err(failure)?;
    transaction.batch_execute(EVICT_MAINTENANCE).await.map_err(failure)?;
    let statement = format!("ALTER PUBLICATION {} SET TABLE ONLY {heartbeat}", quote_ident(&name));
    transaction.batch_execute(&statement).await.map_err(failure)?;
    transaction.commit().await.map_err(failure)
}

/// The stream's publication, and on the destination also the one that proves the way back.
fn own_publications(participation: &Participation) -> Vec<String> {
    let mut names = vec![published_name(participation)];
    if Stream::published_by(participation.side) == Stream::Back {
        names.push(names::proof_publication(&participation.migration));
    }
    names
}

/// Whether the durable fence stands on this source.
pub(crate) async fn is_fenced(client: &impl GenericClient) -> Result<bool, Failure> {
    let failure = |error| sql_failure(error, "look at the fence");
    let exists: bool = client.query_one(IS_FENCED, &[]).await.map_err(failure)?.get(0);
    Ok(exists && client.query_one(FENCE_ROW, &[]).await.map_err(failure)?.get(0))
}

/// Longer than `deadlock_timeout` (1 s by default), after which an autovacuum worker makes way. With the
/// policy's `lock_timeout`, a source whose large tables are always being vacuumed would never get its
/// publication.
const EVICT_MAINTENANCE: &str = "SET LOCAL lock_timeout = '3s'";

async fn create(cx: &Context, name: &str) -> Result<u32, Failure> {
    let failure = |error| sql_failure(error, "create the publication");
    let mut session: Session = cx.door.open(&cx.participation.database, Purpose::Control).await?;
    let transaction = session.transaction().await.map_err(failure)?;
    ledger::ensure(&transaction, &cx.participation).await?;
    let mut tables = user_tables(transaction.client()).await?;
    let stream = Stream::published_by(cx.participation.side);
    tables.push(RelationName::new(names::SCHEMA, stream.heartbeat_table()));
    tables.push(RelationName::new(names::SCHEMA, names::MARKER_TABLE));
    cx.report(Progress { subject: format!("locks on {} tables to publish", tables.len()), ..Progress::default() });
    // The publication's lock on a table hinders no writer, only maintenance. Autovacuum leaves only when
    // this session has waited for `deadlock_timeout`.
    transaction.batch_execute(EVICT_MAINTENANCE).await.map_err(failure)?;
    // ONLY: every partition and every child is listed itself.
    let list: Vec<String> = tables.iter().map(|table| format!("ONLY {table}")).collect();
    let statement = format!(
        "CREATE PUBLICATION {} FOR TABLE {} WITH (publish = 'insert, update, delete, truncate')",
        quote_ident(name),
        list.join(", ")
    );
    transaction.batch_execute(&statement).await.map_err(failure)?;
    if stream == Stream::Back {
        let statement = format!(
            "CREATE PUBLICATION {} FOR TABLE ONLY {} WITH (publish = 'insert, update')",
            quote_ident(&names::proof_publication(&cx.participation.migration)),
            ledger::table(stream.heartbeat_table())
        );
        transaction.batch_execute(&statement).await.map_err(failure)?;
    }
    // From here on the tables are locked against a change of identity.
    let rows = transaction.query(WITHOUT_IDENTITY, &[&name]).await.map_err(failure)?;
    if !rows.is_empty() {
        let bare: Vec<String> = rows
            .iter()
            .map(|row| RelationName::new(row.get::<_, String>(0), row.get::<_, String>(1)).to_string())
            .collect();
        return Err(without_identity(&bare));
    }
    let role = quote_ident(&cx.roles.replication(&cx.participation));
    for grant in [
        format!("GRANT USAGE ON SCHEMA {} TO {role}", names::SCHEMA),
        format!("GRANT SELECT ON {} TO {role}", ledger::table(stream.heartbeat_table())),
        format!("GRANT SELECT ON {} TO {role}", ledger::table(names::MARKER_TABLE)),
    ] {
        transaction.batch_execute(&grant).await.map_err(failure)?;
    }
    ledger::record(&transaction, cx.entry(), ActKind::CreatePublication, Verb::Perform).await?;
    transaction.commit().await.map_err(failure)?;
    Ok(count(&tables))
}

async fn user_tables(client: &Client) -> Result<Vec<RelationName>, Failure> {
    catalog::user_tables(client).await
}

fn without_identity(tables: &[String]) -> Failure {
    let mut shown: Vec<&str> = tables.iter().take(20).map(String::as_str).collect();
    if tables.len() > shown.len() {
        shown.push("…");
    }
    Failure::new(Reason::ReplicaIdentityMissing, format!("{} tables have no usable replica identity", tables.len()))
        .detail(format!(
            "Publishing them would make the application's UPDATE and DELETE fail: {}. The publication was not made.",
            shown.join(", ")
        ))
        .hint(
            "Give each a primary key that is not deferrable, or abort and create the migration anew with consent to \
             REPLICA IDENTITY FULL.",
        )
        .effect(Effect::None)
}

async fn publication_exists(client: &impl GenericClient, name: &str) -> Result<bool, Failure> {
    let row = client
        .query_one(PUBLICATION_EXISTS, &[&name])
        .await
        .map_err(|error| sql_failure(error, "look for the publication"))?;
    Ok(row.get(0))
}

fn count(tables: &[RelationName]) -> u32 {
    u32::try_from(tables.len()).unwrap_or(u32::MAX)
}
