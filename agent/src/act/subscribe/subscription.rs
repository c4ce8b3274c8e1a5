//! The subscription on the destination.
//!
//! Class: probe-able, under a deterministic name. The password never stands in a statement or a parameter:
//! the subscription is made with a placeholder, the real string travels by COPY into a temporary table and
//! from there, inside the server, into `ALTER SUBSCRIPTION`, in the same transaction. (A failing or a
//! warning CREATE SUBSCRIPTION would put its whole text into the server's log, as context even from within
//! a function.) Only then is it enabled, and then refreshed: table synchronisation takes a snapshot that is
//! newer than the slot, so nothing is skipped in between.
//!
//! When the agents have copied the rows, nothing may be skipped: the subscription has to know its tables
//! before it is enabled, and learns them only when it connects while it is made. Then CREATE SUBSCRIPTION
//! itself runs inside the server with the string from that table. Of its error, only the message leaves the
//! handler around it.

use bytes::Bytes;
use futures_util::SinkExt;
use pgportage_data_plane::role::{ReplicationAccess, hba_name};
use pgportage_link::{Effect, Failure, Remedy};
use pgportage_migration::Participation;
use pgportage_migration::journal::Note;
use pgportage_migration::ledger;
use pgportage_migration::names;
use pgportage_migration::stream::subscribed_name;
use pgportage_postgres::{
    Purpose, Secret, ServerVersion, Session, Walsender, history, hush, quote_ident, quote_literal, sql_failure,
};
use pgportage_proto::{ActKind, ConnectionPath, CopyMethod, Reason, Side, Verb, v1};
use pgportage_report::progress::Progress;
use tokio_postgres::{GenericClient, Transaction};
use zeroize::Zeroizing;

use super::conninfo::{Target, csv_line};
use crate::act::patience::Patience;
use crate::act::{Act, Context, Produced, Survey};
use crate::message::int32;

const SUBSCRIPTION: &str = "\
SELECT s.subenabled, s.subslotname::text, s.subpublications::text[],
       (SELECT count(*) FROM pg_subscription_rel r WHERE r.srsubid = s.oid)
FROM pg_subscription s
JOIN pg_database d ON d.oid = s.subdbid
WHERE s.subname = $1 AND d.datname = current_database()";

const SYSTEM_IDENTIFIER: &str = "SELECT system_identifier::text FROM pg_control_system()";

/// Not a secret, and never connected to: a role that is no superuser may not
/// name a connection without a password.
const PLACEHOLDER: &str = "host=pgportage.invalid user=pgportage password=placeholder dbname=pgportage";

const CONNECTION_TABLE: &str = "CREATE TEMPORARY TABLE pgportage_connection (line text NOT NULL) ON COMMIT DROP";

const COPY_CONNECTION: &str = "COPY pg_temp.pgportage_connection (line) FROM STDIN WITH (FORMAT csv)";

/// Proves the credential by real logins, then makes the subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreateSubscription {
    /// Whether the server reaches the source by the tunnel or directly.
    pub path: ConnectionPath,
    /// Whether the agents have copied the rows already.
    pub copy_method: CopyMethod,
}

/// The subscription made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateSubscriptionResult {
    /// Its name.
    pub subscription_name: String,
    /// Tables it has registered.
    pub table_count: u32,
}

/// A subscription of ours, as it is.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) enabled: bool,
    slot: Option<String>,
    pub(crate) publications: Vec<String>,
    pub(crate) tables: i64,
}

impl Act for CreateSubscription {
    const KIND: ActKind = ActKind::CreateSubscription;
    const SIDE: Option<Side> = Some(Side::Destination);
    type Message = v1::CreateSubscription;
    type Output = CreateSubscriptionResult;

    fn decode(message: v1::CreateSubscription) -> Result<Self, Failure> {
        Ok(Self { path: message.connection_path().into(), copy_method: message.copy_method().into() })
    }

    fn encode(output: CreateSubscriptionResult) -> Produced {
        Produced::CreateSubscription(v1::CreateSubscriptionResult {
            subscription_name: output.subscription_name,
            table_count: int32(output.table_count),
        })
    }

    async fn survey(&self, cx: &Context) -> Result<Survey<CreateSubscriptionResult>, Failure> {
        let session = cx.door.open(&cx.participation.database, Purpose::Control).await?;
        let name = subscribed_name(&cx.participation);
        let Some(state) = state(&*session, &name).await? else { return Ok(Survey::Ready) };
        check_ours(&cx.participation, &name, &state)?;
        let carries_password = cx.journal.note(&cx.participation.migration, Note::SubscriptionAsksPassword)?.is_none();
        if state.enabled && state.tables > 0 && carries_password {
            let table_count = count(state.tables);
            return Ok(Survey::Done(CreateSubscriptionResult { subscription_name: name, table_count }));
        }
        Ok(Survey::Ready)
    }

    async fn perform(&self, cx: &Context) -> Result<CreateSubscriptionResult, Failure> {
        let name = subscribed_name(&cx.participation);
        let mut session = cx.door.open(&cx.participation.database, Purpose::Control).await?;
        let system: String = session
            .query_one(SYSTEM_IDENTIFIER, &[])
            .await
            .map_err(|error| sql_failure(error, "read the system identifier"))?
            .get(0);
        if self.path == ConnectionPath::Tunnel {
            report(cx, "the link, to measure it");
            cx.peers.packing(&cx.participation).await;
        }
        let (host, port) = self.address(cx).await?;
        report(cx, "the source agent, for a login");
        cx.journal.set_note(&cx.participation.migration, Note::SubscriptionAsksPassword, "yes")?;
        let access = cx.peers.call(&cx.participation).await?.replication_access(&system).await?;
        cx.fail_point("create_subscription.perform.access");
        report(cx, "a trial login on the source");
        let source = prove_login(cx, self.path, &host, port, &access).await?;
        cx.fail_point("create_subscription.perform.proved");
        cx.safe_point()?;

        let target = Target {
            host: &host,
            port,
            user: &access.role_name,
            database: &access.database,
            sslmode: match (self.path, source) {
                // The link has TLS of its own.
                (ConnectionPath::Tunnel, _) => "disable",
                (ConnectionPath::Direct, Some(_)) => "prefer",
                (ConnectionPath::Direct, None) => "require",
            },
        };
        hush(&session).await?;
        let mut patience = Patience::new(cx);
        while let Err(failure) = self.write(cx, &mut session, &name, &target, &access, source).await {
            patience.again(cx, failure, "a lock on the subscription").await?;
            session = cx.door.open(&cx.participation.database, Purpose::Control).await?;
            hush(&session).await?;
        }
        cx.fail_point("create_subscription.perform.created");
        cx.journal.clear_note(&cx.participation.migration, Note::SubscriptionAsksPassword)?;
        enable(&session, &name).await?;
        cx.fail_point("create_subscription.perform.enabled");
        if self.copy_method == CopyMethod::Native {
            report(cx, "the source, for the list of published tables");
            session
                .batch_execute(&format!("ALTER SUBSCRIPTION {} REFRESH PUBLICATION", quote_ident(&name)))
                .await
                .map_err(|error| sql_failure(error, "register the published tables").remedy(Remedy::Wait))?;
            cx.fail_point("create_subscription.perform.refreshed");
        }
        let state = state(&*session, &name).await?.ok_or_else(|| gone(&name))?;
        Ok(CreateSubscriptionResult { subscription_name: name, table_count: count(state.tables) })
    }

    async fn undo(&self, cx: &Context) -> Result<(), Failure> {
        remove_subscription(cx).await
    }
}

impl CreateSubscription {
    /// The host and port that the server connects to.
    async fn address(&self, cx: &Context) -> Result<(String, u16), Failure> {
        match self.path {
            ConnectionPath::Tunnel => {
                let address = cx.tunnels.ensure(&cx.participation).await?;
                Ok((address.ip().to_string(), address.port()))
            }
            ConnectionPath::Direct => {
                let database = &cx.participation.database;
                let address = cx.policy.source_address(database).ok_or_else(|| {
                    Failure::new(Reason::PolicyDenied, "the policy names no address of the source server")
                        .hint(format!(
                            "Add `source_address = \"host:port\"` to the table of database {database:?} in the policy \
                             file, or use the tunnel."
                        ))
                        .effect(Effect::None)
                })?;
                let parts =
                    address.rsplit_once(':').and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)));
                parts.ok_or_else(|| Failure::new(Reason::ConfigurationInvalid, "source_address must be host:port"))
            }
        }
    }
}

fn report(cx: &Context, subject: &str) {
    cx.report(Progress { subject: subject.to_owned(), ..Progress::default() });
}

/// Makes a subscription through the link, disabled, which copies nothing and knows its tables. One
/// transaction with the ledger row. There must be no subscription of that name.
pub(crate) async fn make_subscription(
    cx: &Context,
    session: &mut Session,
    name: &str,
    (host, port): (&str, u16),
    access: &ReplicationAccess,
    publisher: Option<ServerVersion>,
) -> Result<(), Failure> {
    let failure = |error| sql_failure(error, "create the subscription");
    let (user, database) = (access.role_name.as_str(), access.database.as_str());
    let line = Target { host, port, user, database, sslmode: "disable" }.conninfo(&access.password);
    let options = options(access, publisher, session.version, &["connect = true", "copy_data = false"]);
    let statement = create_statement(name, access, "%L", &options);
    let transaction = session.transaction().await.map_err(failure)?;
    with_connection(&transaction, &statement, &line).await.map_err(privilege_hint)?;
    let server = history(&transaction).await?;
    let (kind, server) = (ActKind::CreateWayBack, Some(server.as_bytes()));
    ledger::record_with(&transaction, cx.entry(), kind, Verb::Perform, server).await?;
    transaction.commit().await.map_err(failure)
}

impl CreateSubscription {
    /// Makes the subscription, or gives the existing one the new password, in one transaction with the
    /// ledger row.
    async fn write(
        self,
        cx: &Context,
        session: &mut Session,
        name: &str,
        target: &Target<'_>,
        access: &ReplicationAccess,
        source: Option<ServerVersion>,
    ) -> Result<(), Failure> {
        let failure = |error| sql_failure(error, "create the subscription");
        let destination = session.version;
        let transaction = session.transaction().await.map_err(failure)?;
        let line = target.conninfo(&access.password);
        match (state(&transaction, name).await?, self.copy_method) {
            (Some(state), _) => {
                check_ours(&cx.participation, name, &state)?;
                set_connection(&transaction, name, &line).await?;
            }
            (None, CopyMethod::Native) => {
                let options = options(access, source, destination, &["connect = false"]);
                let statement = create_statement(name, access, &quote_literal(PLACEHOLDER), &options);
                transaction.batch_execute(&statement).await.map_err(|error| privilege_hint(failure(error)))?;
                set_connection(&transaction, name, &line).await?;
            }
            // An enabled subscription that does not know its tables discards their changes. It can learn
            // them before that only by connecting while it is made.
            (None, CopyMethod::Snapshot) => {
                report(cx, "the source, for the list of published tables");
                let options = options(access, source, destination, &["connect = true", "copy_data = false"]);
                let statement = create_statement(name, access, "%L", &options);
                with_connection(&transaction, &statement, &line).await.map_err(privilege_hint)?;
            }
        }
        let server = history(&transaction).await?;
        let (kind, server) = (ActKind::CreateSubscription, Some(server.as_bytes()));
        ledger::record_with(&transaction, cx.entry(), kind, Verb::Perform, server).await?;
        transaction.commit().await.map_err(failure)
    }
}

fn count(tables: i64) -> u32 {
    u32::try_from(tables).unwrap_or(u32::MAX)
}

fn gone(name: &str) -> Failure {
    Failure::new(Reason::ObjectConflict, format!("subscription {} is gone", quote_ident(name)))
}

async fn state(client: &impl GenericClient, name: &str) -> Result<Option<State>, Failure> {
    let row = client
        .query_opt(SUBSCRIPTION, &[&name])
        .await
        .map_err(|error| sql_failure(error, "look at the subscription"))?;
    Ok(row.map(|row| State { enabled: row.get(0), slot: row.get(1), publications: row.get(2), tables: row.get(3) }))
}

/// The subscription of that name in the session's database, if there is one.
///
/// # Errors
///
/// [`Reason::ObjectConflict`] when it is not ours; otherwise what the server reports.
pub(crate) async fn subscription(
    client: &impl GenericClient,
    participation: &Participation,
    name: &str,
) -> Result<Option<State>, Failure> {
    let found = state(client, name).await?;
    if let Some(found) = &found {
        check_ours(participation, name, found)?;
    }
    Ok(found)
}

/// Refuses a subscription of our name unless it is to our publication (or to the one that proves the way
/// back), on our slot or on none.
fn check_ours(participation: &Participation, name: &str, state: &State) -> Result<(), Failure> {
    let proof = names::proof_publication(&participation.migration);
    let publication = matches!(state.publications.as_slice(), [only] if *only == name || *only == proof);
    if publication && state.slot.as_deref().is_none_or(|slot| slot == name) {
        return Ok(());
    }
    Err(Failure::new(Reason::ObjectConflict, format!("subscription {} exists and is not ours", quote_ident(name)))
        .detail(format!("It subscribes to {} on slot {:?}.", state.publications.join(", "), state.slot))
        .hint("Drop it, or choose another migration name.")
        .effect(Effect::None))
}

/// Logs in to the publisher as a walsender, as the subscription will; then with a wrong password, which
/// must be refused. Returns the publisher's version, or none when only the server's own libpq can log in,
/// because the publisher wants TLS.
pub(crate) async fn prove_login(
    cx: &Context,
    path: ConnectionPath,
    host: &str,
    port: u16,
    access: &ReplicationAccess,
) -> Result<Option<ServerVersion>, Failure> {
    let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let mut patience = Patience::new(cx);
    let session = loop {
        cx.safe_point()?;
        match cx
            .door
            .open_replication_at(&address, &access.database, &access.role_name, &access.password, Walsender::Trial)
            .await
        {
            Ok(session) => break session,
            Err(failure) if failure.reason == Reason::ServerUnreachable => {
                patience.again(cx, failure, "the source server, through the link").await?;
            }
            Err(failure) if path == ConnectionPath::Direct && failure.sqlstate.as_deref() == Some("28000") => {
                return Ok(None);
            }
            Err(failure) => return Err(login_failed(access, &failure)),
        }
    };
    session.identify_system().await?;
    let version = session.version;
    if session.password_asked == Some(false) {
        return Err(password_not_asked(access));
    }
    drop(session);
    let wrong = Secret::generate();
    match cx.door.open_replication_at(&address, &access.database, &access.role_name, &wrong, Walsender::Trial).await {
        Err(refusal) if matches!(refusal.sqlstate.as_deref(), Some("28P01" | "28000")) => Ok(Some(version)),
        Err(other) => Err(other),
        Ok(_session) => Err(password_not_asked(access)),
    }
}

/// The lines that the publisher's `pg_hba.conf` needs.
fn hba_lines(access: &ReplicationAccess) -> String {
    let (database, role) = (hba_name(&access.database), hba_name(&access.role_name));
    format!(
        "host {database} {role} 127.0.0.1/32 scram-sha-256\n\
         (or, when replication_address of its agent is a socket: local {database} {role} scram-sha-256)"
    )
}

fn login_failed(access: &ReplicationAccess, cause: &Failure) -> Failure {
    let mut failure = Failure::new(
        Reason::ReplicationLoginFailed,
        format!("the publisher refuses role {} as a walsender", quote_ident(&access.role_name)),
    )
    .detail(cause.detail.clone())
    .hint(format!("Put this line first in pg_hba.conf of the publishing server, and reload it: {}", hba_lines(access)))
    .effect(Effect::None)
    .because(cause);
    failure.sqlstate.clone_from(&cause.sqlstate);
    failure
}

fn password_not_asked(access: &ReplicationAccess) -> Failure {
    Failure::new(
        Reason::PasswordNotAsked,
        format!("the publisher lets role {} in without asking for its password", quote_ident(&access.role_name)),
    )
    .detail("A line of pg_hba.conf with `trust`, `peer` or the like comes first.")
    .hint(format!("Put this line first in pg_hba.conf of the publishing server, and reload it: {}", hba_lines(access)))
    .effect(Effect::None)
}

fn privilege_hint(failure: Failure) -> Failure {
    if failure.reason != Reason::PrivilegeMissing {
        return failure;
    }
    failure.hint(
        "Give the agent's role pg_create_subscription and CREATE on the database (16 and later), or make it a \
         superuser (before).",
    )
}

/// `origin` stays `any`: changes that reached the source by replication are its data too. `streaming = on`,
/// not parallel: that lost transactions before 18.2, 17.8 and 16.12.
fn options(
    access: &ReplicationAccess,
    source: Option<ServerVersion>,
    destination: ServerVersion,
    first: &[&str],
) -> String {
    let slot = format!("slot_name = {}", quote_literal(&access.slot_name));
    let mut options = first.to_vec();
    options.extend(["enabled = false", "create_slot = false", slot.as_str(), "synchronous_commit = 'off'"]);
    if destination.major() >= 14 {
        options.push("binary = false");
        if source.is_some_and(|source| source.major() >= 14) {
            options.push("streaming = on");
        }
    }
    if destination.major() >= 15 {
        options.extend(["two_phase = false", "disable_on_error = false"]);
    }
    if destination.major() >= 16 {
        options.push("origin = 'any'");
    }
    options.join(", ")
}

/// `connection` is a literal, or the place where [`with_connection`] puts one.
fn create_statement(name: &str, access: &ReplicationAccess, connection: &str, options: &str) -> String {
    let (name, publication) = (quote_ident(name), quote_ident(&access.publication_name));
    format!("CREATE SUBSCRIPTION {name} CONNECTION {connection} PUBLICATION {publication} WITH ({options})")
}

/// Gives the subscription its real connection string.
async fn set_connection(transaction: &Transaction<'_>, name: &str, line: &Zeroizing<String>) -> Result<(), Failure> {
    with_connection(transaction, &format!("ALTER SUBSCRIPTION {} CONNECTION %L", quote_ident(name)), line).await
}

/// Runs a statement with the connection string in place of `%L`. The names in it are ours and hold no `%`.
async fn with_connection(
    transaction: &Transaction<'_>,
    statement: &str,
    line: &Zeroizing<String>,
) -> Result<(), Failure> {
    let failure = |error| sql_failure(error, "set the subscription's connection");
    transaction.batch_execute(CONNECTION_TABLE).await.map_err(failure)?;
    let sink = transaction.copy_in::<_, Bytes>(COPY_CONNECTION).await.map_err(failure)?;
    tokio::pin!(sink);
    let line = csv_line(line);
    sink.send(Bytes::copy_from_slice(line.as_bytes())).await.map_err(failure)?;
    sink.finish().await.map_err(failure)?;
    let body = format!(
        "DECLARE line text;
BEGIN
  SELECT c.line INTO STRICT line FROM pg_temp.pgportage_connection c;
  EXECUTE format({statement}, line);
EXCEPTION WHEN OTHERS THEN
  -- Raised anew without its context, which would show the statement.
  RAISE EXCEPTION USING ERRCODE = SQLSTATE, MESSAGE = SQLERRM;
END",
        statement = quote_literal(statement)
    );
    transaction.batch_execute(&format!("DO {}", quote_literal(&body))).await.map_err(failure)
}

async fn enable(session: &Session, name: &str) -> Result<(), Failure> {
    session
        .batch_execute(&format!("ALTER SUBSCRIPTION {} ENABLE", quote_ident(name)))
        .await
        .map_err(|error| sql_failure(error, "enable the subscription"))
}

/// Disables the subscription, detaches it from its slot and drops it; then closes the tunnel. Succeeds when
/// there is nothing to drop; a subscription that is not ours is left alone. Works while the source is away:
/// the source agent drops the slot.
pub(crate) async fn remove_subscription(cx: &Context) -> Result<(), Failure> {
    let name = subscribed_name(&cx.participation);
    let mut patience = Patience::new(cx);
    loop {
        cx.safe_point()?;
        match drop_subscription(cx, &name).await {
            Ok(()) => break,
            Err(failure) => patience.again(cx, failure, "the subscription's workers to end").await?,
        }
    }
    cx.journal.clear_note(&cx.participation.migration, Note::SubscriptionAsksPassword)?;
    cx.tunnels.close(&cx.participation.migration);
    Ok(())
}

/// Disables a subscription of ours, detaches it from its slot and drops it. Succeeds when there is none;
/// one that is not ours is left alone.
pub(crate) async fn drop_subscription(cx: &Context, name: &str) -> Result<(), Failure> {
    let failure = |error| sql_failure(error, "drop the subscription");
    let session = cx.door.open(&cx.participation.database, Purpose::Control).await?;
    let Some(state) = state(&*session, name).await? else { return Ok(()) };
    if check_ours(&cx.participation, name, &state).is_err() {
        tracing::warn!(subscription = name, "left alone: it is not ours");
        return Ok(());
    }
    let subscription = quote_ident(name);
    if state.enabled {
        session.batch_execute(&format!("ALTER SUBSCRIPTION {subscription} DISABLE")).await.map_err(failure)?;
        cx.fail_point("create_subscription.undo.disabled");
    }
    if state.slot.is_some() {
        session
            .batch_execute(&format!("ALTER SUBSCRIPTION {subscription} SET (slot_name = NONE)"))
            .await
            .map_err(failure)?;
        cx.fail_point("create_subscription.undo.parted");
    }
    session.batch_execute(&format!("DROP SUBSCRIPTION {subscription}")).await.map_err(failure)?;
    cx.fail_point("create_subscription.undo.dropped");
    Ok(())
}
