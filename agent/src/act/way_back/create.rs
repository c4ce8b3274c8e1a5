//! The subscription of the way back, on the source. A heartbeat of the destination that arrives through it
//! proves it; then it is left disabled until the cutover.
//!
//! Class: probe-able, under a deterministic name. The proof goes the way that the rows will go: the same
//! login, tunnel, slot and subscription. Its publication holds nothing but the heartbeat, so that no row
//! which came from the source goes back to it. A subscription learns its tables only while it is made, so
//! after the proof it is made anew for all of them.

use std::time::Duration;

use pgportage_data_plane::role::ReplicationAccess;
use pgportage_link::{Effect, Failure};
use pgportage_migration::journal::Note;
use pgportage_migration::ledger;
use pgportage_migration::names;
use pgportage_migration::stream::{Stream, subscribed_name};
use pgportage_postgres::{Purpose, ServerVersion, Session, hush, quote_ident, sql_failure};
use pgportage_proto::{ActKind, ConnectionPath, Side, v1};
use pgportage_report::progress::Progress;
use tokio_postgres::Client;

use super::lost;
use crate::act::patience::{Patience, stalled};
use crate::act::subscribe::{drop_subscription, make_subscription, prove_login, subscription};
use crate::act::{Act, Context, Produced, Survey};
use crate::message::int32;

/// How often to look for the heartbeat.
const LOOK: Duration = Duration::from_millis(50);

const SYSTEM_IDENTIFIER: &str = "SELECT system_identifier::text FROM pg_control_system()";

/// Makes and proves the subscription of the way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreateWayBack;

/// The way back is proved, and its subscription is disabled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateWayBackResult {
    /// Name of the subscription.
    pub subscription_name: String,
    /// Tables it has registered.
    pub table_count: u32,
}

impl Act for CreateWayBack {
    const KIND: ActKind = ActKind::CreateWayBack;
    const SIDE: Option<Side> = Some(Side::Source);
    const WAY_BACK: &'static [Side] = &[Side::Source, Side::Destination];
    type Message = v1::CreateWayBack;
    type Output = CreateWayBackResult;

    fn decode(_message: v1::CreateWayBack) -> Result<Self, Failure> {
        Ok(Self)
    }

    fn encode(output: CreateWayBackResult) -> Produced {
        Produced::CreateWayBack(v1::CreateWayBackResult {
            subscription_name: output.subscription_name,
            table_count: int32(output.table_count),
        })
    }

    async fn survey(&self, cx: &Context) -> Result<Survey<CreateWayBackResult>, Failure> {
        let session = cx.door.open(&cx.participation.database, Purpose::Control).await?;
        let journal = &cx.journal;
        let migration = &cx.participation.migration;
        let whole = journal.note(migration, Note::WayBackProved)?.is_some()
            && journal.note(migration, Note::WayBackAsksPassword)?.is_none();
        Ok(match made(cx, &session).await? {
            Some(result) if whole => Survey::Done(result),
            Some(_) | None => Survey::Ready,
        })
    }

    async fn perform(&self, cx: &Context) -> Result<CreateWayBackResult, Failure> {
        let migration = &cx.participation.migration;
        let name = subscribed_name(&cx.participation);
        let mut session = cx.door.open(&cx.participation.database, Purpose::Control).await?;
        remove(cx, &name).await?;
        cx.fail_point("create_way_back.perform.cleared");
        report(cx, "the destination's agent, for a login");
        let row = session.query_one(SYSTEM_IDENTIFIER, &[]).await;
        let system: String = row.map_err(|error| sql_failure(error, "read the system identifier"))?.get(0);
        let address = cx.tunnels.ensure(&cx.participation).await?;
        cx.journal.set_note(migration, Note::WayBackAsksPassword, "yes")?;
        let access = cx.peers.call(&cx.participation).await?.replication_access(&system).await?;
        cx.fail_point("create_way_back.perform.access");
        report(cx, "a trial login on the destination");
        let (host, port) = (address.ip().to_string(), address.port());
        let version = prove_login(cx, ConnectionPath::Tunnel, &host, port, &access).await?;
        let entrance = Entrance { host, port, version };
        hush(&session).await?;
        if cx.journal.note(migration, Note::WayBackProved)?.is_none() {
            cx.fail_point("create_way_back.perform.proving");
            prove(cx, &mut session, &name, &entrance, &access).await?;
            cx.journal.set_note(migration, Note::WayBackProved, "yes")?;
            cx.fail_point("create_way_back.perform.proved");
        }
        report(cx, "the destination, for the list of published tables");
        entrance.subscribe(cx, &mut session, &name, &access).await?;
        cx.fail_point("create_way_back.perform.created");
        cx.journal.clear_note(migration, Note::WayBackAsksPassword)?;
        made(cx, &session).await?.ok_or_else(|| lost("its subscription is gone"))
    }

    async fn undo(&self, cx: &Context) -> Result<(), Failure> {
        remove_way_back(cx).await
    }
}

/// Drops the subscription of the way back and closes its tunnel. Succeeds when
/// there is nothing to drop, and while the destination is away.
pub(crate) async fn remove_way_back(cx: &Context) -> Result<(), Failure> {
    let migration = &cx.participation.migration;
    remove(cx, &subscribed_name(&cx.participation)).await?;
    cx.fail_point("create_way_back.undo.dropped");
    cx.journal.clear_note(migration, Note::WayBackProved)?;
    cx.journal.clear_note(migration, Note::WayBackAsksPassword)?;
    cx.tunnels.close(migration);
    Ok(())
}

fn report(cx: &Context, subject: &str) {
    cx.report(Progress { subject: subject.to_owned(), ..Progress::default() });
}

/// The address where this side's server enters the link, and the other side's login.
struct Entrance {
    host: String,
    port: u16,
    version: Option<ServerVersion>,
}

impl Entrance {
    /// Makes the subscription, disabled, with its tables registered.
    async fn subscribe(
        &self,
        cx: &Context,
        session: &mut Session,
        name: &str,
        access: &ReplicationAccess,
    ) -> Result<(), Failure> {
        let mut patience = Patience::new(cx);
        while let Err(failure) =
            make_subscription(cx, session, name, (&self.host, self.port), access, self.version).await
        {
            patience.again(cx, failure, "the destination's answer, through the link").await?;
            *session = cx.door.open(&cx.participation.database, Purpose::Control).await?;
            hush(session).await?;
            // If an earlier attempt committed it without hearing so, it is there under its name.
            remove(cx, name).await?;
        }
        Ok(())
    }
}

/// The subscription, if it is as it has to be: for every table, and disabled.
async fn made(cx: &Context, session: &Session) -> Result<Option<CreateWayBackResult>, Failure> {
    let name = subscribed_name(&cx.participation);
    let Some(found) = subscription(&**session, &cx.participation, &name).await? else { return Ok(None) };
    let whole = !found.enabled && found.publications == [name.as_str()] && found.tables > 0;
    let table_count = u32::try_from(found.tables).unwrap_or(u32::MAX);
    Ok(whole.then_some(CreateWayBackResult { subscription_name: name, table_count }))
}

async fn remove(cx: &Context, name: &str) -> Result<(), Failure> {
    let mut patience = Patience::new(cx);
    loop {
        cx.safe_point()?;
        match drop_subscription(cx, name).await {
            Ok(()) => return Ok(()),
            Err(failure) => patience.again(cx, failure, "the subscription's workers to end").await?,
        }
    }
}

/// Waits until a heartbeat that the destination wrote has arrived here.
async fn prove(
    cx: &Context,
    session: &mut Session,
    name: &str,
    entrance: &Entrance,
    access: &ReplicationAccess,
) -> Result<(), Failure> {
    report(cx, "a heartbeat of the destination, on its way back");
    let before = beat(session).await?;
    let proof =
        ReplicationAccess { publication_name: names::proof_publication(&cx.participation.migration), ..access.clone() };
    entrance.subscribe(cx, session, name, &proof).await?;
    session
        .batch_execute(&format!("ALTER SUBSCRIPTION {} ENABLE", quote_ident(name)))
        .await
        .map_err(|error| sql_failure(error, "enable the subscription of the way back"))?;
    let patience = Patience::new(cx);
    while beat(session).await? <= before {
        if patience.is_over(cx) {
            return Err(stalled(cx, "a heartbeat of the destination")
                .hint("Look at the source's server log: the subscription of the way back says why it does not apply.")
                .effect(Effect::Unknown));
        }
        cx.pause(LOOK).await?;
    }
    remove(cx, name).await
}

/// The newest heartbeat that has arrived from the destination.
async fn beat(client: &Client) -> Result<i64, Failure> {
    let table = ledger::table(Stream::Back.heartbeat_table());
    let row = client
        .query_opt(&format!("SELECT sequence FROM {table} WHERE id = 1"), &[])
        .await
        .map_err(|error| sql_failure(error, "look for a heartbeat"))?;
    Ok(row.map_or(0, |row| row.get(0)))
}
