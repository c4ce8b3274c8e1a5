//! Restores the source's schema on the destination, in one transaction.
//!
//! When the agents copy the rows, only the first part of the schema is restored: indexes, constraints and
//! triggers are cheaper to make when the rows are in. The archive is kept for that ([`later`]).
//!
//! `close` has proved that the database is empty, and keeps applications out. So everything there beyond
//! the baseline that it wrote came from our own `pg_restore`. From this an attempt after a crash tells
//! whether its predecessor's transaction was committed.

mod archive;
pub(super) mod later;
mod restore;
mod sql;

use pgportage_link::{Effect, Failure, Remedy};
use pgportage_migration::journal::Note;
use pgportage_migration::ledger;
use pgportage_migration::ledger::Ownership;
use pgportage_migration::names;
use pgportage_postgres::{Purpose, Session, sql_failure};
use pgportage_proto::{ActKind, CopyMethod, Reason, Side, Verb, v1};
use tokio_postgres::GenericClient;

use self::archive::Rights;
use self::restore::Sections;
use super::baseline::{self, Baseline};
use super::{Act, Context, Produced, Survey};

/// The database is closed to applications. An autovacuum worker may hold a lock; it gives way after a
/// second.
const LIMITS: &str = "SET LOCAL lock_timeout = '30s'; SET LOCAL idle_in_transaction_session_timeout = '10min'";

const DECISION: &str = "SELECT state FROM pgportage.decision WHERE id = 1 FOR UPDATE";

/// Relations of every kind that are neither the system's nor an extension's nor
/// ours.
const RELATION_COUNT: &str = "\
SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgportage') AND n.nspname !~ '^pg_'
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')";

const FOREIGN_EXTENSIONS: &str = "\
SELECT extname::text FROM pg_extension WHERE NOT pg_has_role(extowner, 'USAGE')";

// Version 16 made SET a right of its own; before, every member of a role has it.
const ASSUMABLE_ROLES: &str = "\
SELECT rolname::text FROM pg_roles
WHERE pg_has_role(oid, CASE WHEN current_setting('server_version_num')::int < 160000 THEN 'MEMBER' ELSE 'SET' END)";

const SUBSCRIPTION: &str = "\
SELECT subname::text FROM pg_subscription
WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND subname = $1";

/// Fetches the source's schema over the link and restores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestoreSchema {
    /// Whether the agents or PostgreSQL will copy the rows.
    pub copy_method: CopyMethod,
}

/// The schema is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreSchemaResult {
    /// SHA-256 of the archive as the source sent it.
    pub dump_digest: Vec<u8>,
    /// Relations in the database.
    pub object_count: i64,
}

impl Act for RestoreSchema {
    const KIND: ActKind = ActKind::RestoreSchema;
    const SIDE: Option<Side> = Some(Side::Destination);
    type Message = v1::RestoreSchema;
    type Output = RestoreSchemaResult;

    fn decode(message: v1::RestoreSchema) -> Result<Self, Failure> {
        Ok(Self { copy_method: message.copy_method().into() })
    }

    fn encode(output: RestoreSchemaResult) -> Produced {
        let RestoreSchemaResult { dump_digest, object_count } = output;
        Produced::RestoreSchema(v1::RestoreSchemaResult { dump_digest, object_count })
    }

    async fn survey(&self, cx: &Context) -> Result<Survey<RestoreSchemaResult>, Failure> {
        let session = cx.door.open(&cx.participation.database, Purpose::Control).await?;
        let migration = &cx.participation.migration;
        let Some(baseline) = known_baseline(cx, &session).await? else { return Ok(Survey::Ready) };
        let intended = cx.journal.note(migration, Note::SchemaIntent)?;
        let restored = cx.journal.note(migration, Note::SchemaRestored)?;
        let exceeded = baseline.is_exceeded(&*session).await?;
        match (restored, intended, exceeded) {
            (Some(digest), _, _) => Ok(Survey::Done(result(&digest, &session).await?)),
            // `perform` finds out how far an earlier attempt came.
            (None, Some(_), _) | (None, None, false) => Ok(Survey::Ready),
            (None, None, true) => Err(not_empty()),
        }
    }

    async fn perform(&self, cx: &Context) -> Result<RestoreSchemaResult, Failure> {
        let journal = &cx.journal;
        let migration = &cx.participation.migration;
        let mut session = cx.door.open(&cx.participation.database, Purpose::Scan).await?;
        restore::end_leftovers(cx, &session).await?;
        let baseline = match known_baseline(cx, &session).await? {
            Some(baseline) => baseline,
            // Closed by an older release.
            None => {
                let baseline = Baseline::read(&*session).await?;
                journal.set_note(migration, Note::SchemaBaseline, &baseline.to_json()?)?;
                baseline
            }
        };
        let intended = journal.note(migration, Note::SchemaIntent)?;
        let digest = match (intended, baseline.is_exceeded(&*session).await?) {
            (Some(digest), true) => digest,
            (None, true) => return Err(not_empty()),
            (Some(_) | None, false) => self.restore(cx, &session).await?,
        };
        cx.fail_point("restore_schema.perform.restored");
        make_our_tables(cx, &mut session).await?;
        cx.fail_point("restore_schema.perform.tables_made");
        journal.set_note(migration, Note::SchemaRestored, &digest)?;
        if self.copy_method == CopyMethod::Native {
            restore::forget(cx);
        }
        result(&digest, &session).await
    }

    async fn undo(&self, cx: &Context) -> Result<(), Failure> {
        let journal = &cx.journal;
        let migration = &cx.participation.migration;
        restore::forget(cx);
        let mut session = cx.door.open(&cx.participation.database, Purpose::Scan).await?;
        let Some(baseline) = known_baseline(cx, &session).await? else { return expect_nothing(cx, &session).await };
        restore::end_leftovers(cx, &session).await?;
        if baseline.is_exceeded(&*session).await? {
            take_back(cx, &mut session, &baseline).await?;
        }
        cx.fail_point("restore_schema.undo.emptied");
        // The baseline goes last: without it a further undo cannot know what to remove.
        for note in [Note::SchemaRestored, Note::SchemaIntent, Note::SchemaBaseline] {
            journal.clear_note(migration, note)?;
        }
        Ok(())
    }
}

impl RestoreSchema {
    /// Fetches and restores; returns the archive's digest.
    async fn restore(&self, cx: &Context, session: &Session) -> Result<String, Failure> {
        let program = restore::choose(cx, session.version).await?;
        let fetched = restore::fetch(cx, &program, &rights(&**session).await?).await?;
        let digest = hex(&fetched.digest);
        cx.safe_point()?;
        cx.journal.set_note(&cx.participation.migration, Note::SchemaIntent, &digest)?;
        cx.fail_point("restore_schema.perform.intended");
        let sections = match self.copy_method {
            CopyMethod::Native => Sections::All,
            CopyMethod::Snapshot => Sections::PreData,
        };
        restore::run(cx, &program, &fetched, sections).await?;
        Ok(digest)
    }
}

/// What the database held before: as an older release has noted it, or as it was closed.
async fn known_baseline(cx: &Context, session: &Session) -> Result<Option<Baseline>, Failure> {
    match cx.journal.note(&cx.participation.migration, Note::SchemaBaseline)? {
        Some(text) => Baseline::from_json(&text).map(Some),
        None => Baseline::of_closing(&**session).await,
    }
}

/// Nothing says what to remove: an older release has closed the database. So there must be nothing.
async fn expect_nothing(cx: &Context, session: &Session) -> Result<(), Failure> {
    if ledger::ownership(&**session, &cx.participation).await? != Ownership::Ours {
        return Ok(());
    }
    let found = baseline::application_objects(&**session).await?;
    if found.is_empty() {
        return Ok(());
    }
    Err(Failure::new(Reason::CouldNotCheck, "nothing says what the destination held before the schema was restored")
        .detail(format!("Its agent's journal is lost. The database holds, among others: {}.", found.join(", ")))
        .hint("Look at the database; drop what was restored into it, then retry.")
        .remedy(Remedy::Operator)
        .effect(Effect::None))
}

/// Makes our published tables, and writes the ledger row.
async fn make_our_tables(cx: &Context, session: &mut Session) -> Result<(), Failure> {
    let doing = "make our tables on the destination";
    let transaction = session.transaction().await.map_err(|error| sql_failure(error, doing))?;
    ledger::ensure(&transaction, &cx.participation).await?;
    ledger::record(&transaction, cx.entry(), ActKind::RestoreSchema, Verb::Perform).await?;
    transaction.commit().await.map_err(|error| sql_failure(error, doing))
}

/// Empties the database, if it is still closed.
async fn take_back(cx: &Context, session: &mut Session, baseline: &Baseline) -> Result<(), Failure> {
    let doing = "take the restored schema back";
    let failure = |error| sql_failure(error, doing);
    let transaction = session.transaction().await.map_err(failure)?;
    transaction.batch_execute(LIMITS).await.map_err(failure)?;
    // Dropping everything is right only while the closing lasts, so that no application has written here.
    let closed = match ledger::ownership(&transaction, &cx.participation).await? {
        Ownership::Ours => {
            let row = transaction.query_opt(DECISION, &[]).await.map_err(failure)?;
            row.map(|row| row.get::<_, String>(0))
        }
        Ownership::Absent | Ownership::Other(_) => None,
    };
    match closed.as_deref() {
        Some("closed") => {}
        Some("opened") => {
            return Err(Failure::new(Reason::DestinationOpened, "the destination has opened")
                .hint("Nothing takes this back; go on with `pgportage finish`.")
                .effect(Effect::None));
        }
        Some(_) | None => {
            return Err(Failure::new(Reason::DestinationNotClosed, "nothing says that this database is still closed")
                .detail("What was restored into it is left alone, because an application may have written there.")
                .hint("Look at the database, and drop it yourself if nothing in it is needed.")
                .effect(Effect::None));
        }
    }
    let subscription = names::replication_name(&cx.participation.migration);
    if transaction.query_opt(SUBSCRIPTION, &[&subscription]).await.map_err(failure)?.is_some() {
        return Err(Failure::new(Reason::WrongState, "the subscription is still there")
            .hint("Its step has to be undone first.")
            .effect(Effect::None));
    }
    baseline.empty(&transaction).await?;
    ledger::record(&transaction, cx.entry(), ActKind::RestoreSchema, Verb::Undo).await?;
    transaction.commit().await.map_err(failure)
}

async fn result(digest: &str, session: &Session) -> Result<RestoreSchemaResult, Failure> {
    Ok(RestoreSchemaResult { dump_digest: from_hex(digest), object_count: relation_count(&**session).await? })
}

/// Relations of every kind in the database, the system's, extensions' and ours
/// left out.
async fn relation_count(client: &impl GenericClient) -> Result<i64, Failure> {
    let row = client.query_one(RELATION_COUNT, &[]).await;
    row.map(|row| row.get(0)).map_err(|error| sql_failure(error, "count what was restored"))
}

/// What the agent's role may restore.
async fn rights(client: &impl GenericClient) -> Result<Rights, Failure> {
    let mut found = Rights::default();
    for (names, query) in [(&mut found.foreign_extensions, FOREIGN_EXTENSIONS), (&mut found.roles, ASSUMABLE_ROLES)] {
        let rows = client.query(query, &[]).await.map_err(|error| sql_failure(error, "look at the role's rights"))?;
        names.extend(rows.iter().map(|row| row.get::<_, String>(0)));
    }
    Ok(found)
}

fn not_empty() -> Failure {
    Failure::new(Reason::DatabaseNotEmpty, "the destination database holds objects that are not ours")
        .detail("They came after the database was closed and before the schema was restored.")
        .hint("Drop them, then retry.")
        .remedy(Remedy::Operator)
        .effect(Effect::None)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads what [`hex`] wrote into the journal.
fn from_hex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .filter_map(|pair| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_survives_the_journal() {
        let digest: Vec<u8> = (0..32).map(|n| n * 8).collect();
        assert_eq!(from_hex(&hex(&digest)), digest);
    }
}
