//! *identity*: a replica identity for tables that have none.
//!
//! Class: convergent. What each table had before is noted in the journal before
//! the first table is changed, so that undo and finish can give it back.

use pgportage_link::{Effect, Failure};
use pgportage_migration::journal::Note;
use pgportage_postgres::{Purpose, RelationName, Session, quote_ident, sql_failure};
use pgportage_proto::{ActKind, Reason, Side, Verb, v1};
use pgportage_report::progress::{Progress, Unit};
use serde::{Deserialize, Serialize};
use tokio_postgres::GenericClient;

use crate::act::patience::Patience;
use crate::act::{Act, Consequences, Context, Produced, Survey};
use crate::message::{int32, relations};
use crate::policy::DestructiveAct;

const IDENTITY: &str = "\
SELECT c.relreplident::text,
       (SELECT i.relname FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
        WHERE x.indrelid = c.oid AND x.indisreplident)::text
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')";

/// Gives tables `REPLICA IDENTITY FULL`, as the operator agreed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetReplicaIdentity {
    /// May be empty.
    pub tables: Vec<RelationName>,
}

/// The identities set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetReplicaIdentityResult {
    /// How many tables have it now because the operator agreed.
    pub table_count: u32,
}

/// The identity of one table before the migration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Before {
    schema: String,
    relation: String,
    identity: Identity,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Identity {
    Default,
    Nothing,
    Full,
    /// The index, unquoted.
    Index(String),
}

impl Identity {
    fn clause(&self) -> String {
        match self {
            Self::Default => "DEFAULT".to_owned(),
            Self::Nothing => "NOTHING".to_owned(),
            Self::Full => "FULL".to_owned(),
            Self::Index(name) => format!("USING INDEX {}", quote_ident(name)),
        }
    }
}

impl Before {
    fn table(&self) -> RelationName {
        RelationName::new(self.schema.clone(), self.relation.clone())
    }
}

impl SetReplicaIdentity {
    fn result(&self) -> SetReplicaIdentityResult {
        SetReplicaIdentityResult { table_count: u32::try_from(self.tables.len()).unwrap_or(u32::MAX) }
    }
}

impl Act for SetReplicaIdentity {
    const KIND: ActKind = ActKind::SetReplicaIdentity;
    const SIDE: Option<Side> = Some(Side::Source);
    type Message = v1::SetReplicaIdentity;
    type Output = SetReplicaIdentityResult;

    fn decode(message: v1::SetReplicaIdentity) -> Result<Self, Failure> {
        Ok(Self { tables: relations(message.tables) })
    }

    fn encode(output: SetReplicaIdentityResult) -> Produced {
        Produced::SetReplicaIdentity(v1::SetReplicaIdentityResult { table_count: int32(output.table_count) })
    }

    fn consequences(&self, verb: Verb, _side: Side) -> Consequences {
        match verb {
            Verb::Perform if !self.tables.is_empty() => Consequences::of(&[DestructiveAct::ReplicaIdentityFull]),
            Verb::Perform | Verb::Undo => Consequences::NONE,
        }
    }

    async fn survey(&self, cx: &Context) -> Result<Survey<SetReplicaIdentityResult>, Failure> {
        if self.tables.is_empty() {
            return Ok(Survey::Done(self.result()));
        }
        let session = cx.door.open(&cx.participation.database, Purpose::Control).await?;
        for table in &self.tables {
            match identity(&*session, table).await? {
                None => {
                    return Err(Failure::new(Reason::SchemaDiffers, format!("table {table} does not exist"))
                        .detail("It did when the source was inspected.")
                        .hint("Abort the migration and create it anew.")
                        .effect(Effect::None));
                }
                Some(Identity::Full) => {}
                Some(Identity::Default | Identity::Nothing | Identity::Index(_)) => return Ok(Survey::Ready),
            }
        }
        Ok(Survey::Done(self.result()))
    }

    async fn perform(&self, cx: &Context) -> Result<SetReplicaIdentityResult, Failure> {
        let mut session = cx.door.open(&cx.participation.database, Purpose::Control).await?;
        let mut noted = read_note(cx)?;
        for table in &self.tables {
            let known = noted.iter().any(|before| before.table() == *table);
            if let (false, Some(identity)) = (known, identity(&*session, table).await?)
                && identity != Identity::Full
            {
                noted.push(Before { schema: table.schema.clone(), relation: table.relation.clone(), identity });
            }
        }
        write_note(cx, &noted)?;
        cx.fail_point("set_replica_identity.perform.noted");
        for (done, table) in self.tables.iter().enumerate() {
            report(cx, table, done, self.tables.len());
            set(cx, &mut session, table, &Identity::Full).await?;
            cx.fail_point("set_replica_identity.perform.set");
        }
        Ok(self.result())
    }

    async fn undo(&self, cx: &Context) -> Result<(), Failure> {
        restore(cx).await
    }
}

/// Gives every table its former identity back. Succeeds when there is nothing to give back.
///
/// # Errors
///
/// What the server reports; [`Reason::Stalled`] when a lock was not granted.
pub(crate) async fn restore(cx: &Context) -> Result<(), Failure> {
    let noted = read_note(cx)?;
    if noted.is_empty() {
        return Ok(());
    }
    let mut session = cx.door.open(&cx.participation.database, Purpose::Control).await?;
    for (done, before) in noted.iter().enumerate() {
        let table = before.table();
        report(cx, &table, done, noted.len());
        // If a user has set another identity since, it stays.
        if identity(&*session, &table).await? == Some(Identity::Full) {
            set(cx, &mut session, &table, &before.identity).await?;
            cx.fail_point("set_replica_identity.undo.restored");
        }
    }
    cx.journal.clear_note(&cx.participation.migration, Note::ReplicaIdentityBefore)
}

/// Takes `REPLICA IDENTITY FULL` from tables of the destination. They had no identity of their own on the
/// source. The default says the same, without the cost of whole rows in the WAL. Tables that are gone or
/// have another identity by now are left alone.
///
/// # Errors
///
/// As [`restore`].
pub(crate) async fn relax(cx: &Context, tables: &[RelationName]) -> Result<(), Failure> {
    if tables.is_empty() {
        return Ok(());
    }
    let mut session = cx.door.open(&cx.participation.database, Purpose::Control).await?;
    for (done, table) in tables.iter().enumerate() {
        report(cx, table, done, tables.len());
        if identity(&*session, table).await? == Some(Identity::Full) {
            set(cx, &mut session, table, &Identity::Default).await?;
        }
    }
    Ok(())
}

fn report(cx: &Context, table: &RelationName, done: usize, total: usize) {
    cx.report(Progress {
        subject: format!("the replica identity of {table}"),
        completed: done as i64,
        total: total as i64,
        unit: Unit::Tables,
        ..Progress::default()
    });
}

async fn identity(client: &impl GenericClient, table: &RelationName) -> Result<Option<Identity>, Failure> {
    let row = client
        .query_opt(IDENTITY, &[&table.schema, &table.relation])
        .await
        .map_err(|error| sql_failure(error, "look at a replica identity"))?;
    let Some(row) = row else { return Ok(None) };
    let (letter, index): (String, Option<String>) = (row.get(0), row.get(1));
    match (letter.as_str(), index) {
        ("f", _) => Ok(Some(Identity::Full)),
        ("d", _) => Ok(Some(Identity::Default)),
        // `USING INDEX` whose index was dropped works like NOTHING.
        ("n", _) | ("i", None) => Ok(Some(Identity::Nothing)),
        ("i", Some(index)) => Ok(Some(Identity::Index(index))),
        (other, _) => {
            Err(Failure::new(Reason::CouldNotCheck, format!("table {table} has an unknown replica identity {other:?}"))
                .effect(Effect::None))
        }
    }
}

/// Changes one table, under a short ACCESS EXCLUSIVE lock. The lock is waited for no longer than
/// `lock_timeout` and then tried again, so that applications do not queue behind it for long.
async fn set(cx: &Context, session: &mut Session, table: &RelationName, identity: &Identity) -> Result<(), Failure> {
    let statement = format!("ALTER TABLE ONLY {table} REPLICA IDENTITY {}", identity.clause());
    let mut patience = Patience::new(cx);
    loop {
        cx.safe_point()?;
        let Err(error) = session.batch_execute(&statement).await else { return Ok(()) };
        let failure = sql_failure(error, "set a replica identity");
        let lost = failure.reason == Reason::ServerUnreachable;
        patience.again(cx, failure, &format!("a lock on {table}")).await?;
        if lost {
            *session = cx.door.open(&cx.participation.database, Purpose::Control).await?;
        }
    }
}

fn read_note(cx: &Context) -> Result<Vec<Before>, Failure> {
    let Some(text) = cx.journal.note(&cx.participation.migration, Note::ReplicaIdentityBefore)? else {
        return Ok(Vec::new());
    };
    serde_json::from_str(&text).map_err(|error| {
        Failure::new(Reason::Internal, "the journal's note of replica identities is unreadable").because(&error)
    })
}

fn write_note(cx: &Context, noted: &[Before]) -> Result<(), Failure> {
    let text = serde_json::to_string(noted)
        .map_err(|error| Failure::new(Reason::Internal, "cannot encode the replica identities").because(&error))?;
    cx.journal.set_note(&cx.participation.migration, Note::ReplicaIdentityBefore, &text)
}
