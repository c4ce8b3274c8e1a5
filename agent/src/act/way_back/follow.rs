//! The side that was left begins to follow the other one.
//!
//! Class: convergent. The subscription is enabled only while this side is closed, which the same
//! transaction checks: a side that accepts writes never follows.

use std::time::Duration;

use pgportage_link::{Effect, Failure};
use pgportage_migration::ledger;
use pgportage_migration::stream::{Stream, subscribed_name};
use pgportage_postgres::{Purpose, history, quote_ident, sql_failure};
use pgportage_proto::{ActKind, Reason, Side, Verb, v1};
use pgportage_report::progress::Progress;
use tokio_postgres::Client;

use super::lost;
use crate::act::patience::{Patience, stalled};
use crate::act::subscribe::subscription;
use crate::act::{Act, Context, Produced, Survey};
use crate::message::span;

/// How often to look for the heartbeat.
const LOOK: Duration = Duration::from_millis(50);

const CLOSED: &str = "SELECT state = 'closed' FROM pgportage.decision WHERE id = 1 FOR UPDATE";

/// Enables the subscription and waits for the first heartbeat to arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowStream {
    /// Epoch of the switchover that left this side.
    pub cutover_epoch: i64,
}

/// What applications write on the other side arrives here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowStreamResult {
    /// From enabling to the first heartbeat that arrived.
    pub first_arrival: Duration,
}

impl Act for FollowStream {
    const KIND: ActKind = ActKind::FollowStream;
    const WAY_BACK: &'static [Side] = &[Side::Source, Side::Destination];
    type Message = v1::FollowStream;
    type Output = FollowStreamResult;

    fn decode(message: v1::FollowStream) -> Result<Self, Failure> {
        Ok(Self { cutover_epoch: message.cutover_epoch })
    }

    fn encode(output: FollowStreamResult) -> Produced {
        Produced::FollowStream(v1::FollowStreamResult { first_arrival: Some(span(output.first_arrival)) })
    }

    /// Enabling it again does no harm, and the arrival has to be seen anew.
    async fn survey(&self, _cx: &Context) -> Result<Survey<FollowStreamResult>, Failure> {
        Ok(Survey::Ready)
    }

    async fn perform(&self, cx: &Context) -> Result<FollowStreamResult, Failure> {
        let begin = cx.tasks.clock.now();
        let mut session = cx.door.open(&cx.participation.database, Purpose::Control).await?;
        let before = beat(cx, &session).await?;
        let failure = |error| sql_failure(error, "enable the subscription");
        let name = subscribed_name(&cx.participation);
        let transaction = session.transaction().await.map_err(failure)?;
        let closed: Option<bool> = transaction.query_opt(CLOSED, &[]).await.map_err(failure)?.map(|row| row.get(0));
        if closed != Some(true) {
            return Err(Failure::new(Reason::WrongState, format!("the {} is not closed", cx.participation.side))
                .detail("What takes writes itself must not follow another.")
                .effect(Effect::None));
        }
        if subscription(&transaction, &cx.participation, &name).await?.is_none() {
            return Err(lost(format!("the subscription on the {} is gone", cx.participation.side)));
        }
        transaction
            .batch_execute(&format!("ALTER SUBSCRIPTION {} ENABLE", quote_ident(&name)))
            .await
            .map_err(failure)?;
        let server = history(&transaction).await?;
        let (kind, server) = (ActKind::FollowStream, Some(server.as_bytes()));
        ledger::record_with(&transaction, cx.entry(), kind, Verb::Perform, server).await?;
        transaction.commit().await.map_err(failure)?;
        cx.fail_point("follow_stream.perform.enabled");
        cx.report(Progress { subject: "the first heartbeat of the other side".to_owned(), ..Progress::default() });
        let patience = Patience::new(cx);
        while beat(cx, &session).await? <= before {
            if patience.is_over(cx) {
                return Err(stalled(cx, "the first heartbeat of the other side").hint(format!(
                    "Look at the server log of the {}: its subscription says why it does not apply.",
                    cx.participation.side
                )));
            }
            cx.pause(LOOK).await?;
        }
        Ok(FollowStreamResult { first_arrival: cx.tasks.clock.now().duration_since(begin) })
    }

    /// The next opening of this side disables it.
    async fn undo(&self, _cx: &Context) -> Result<(), Failure> {
        Ok(())
    }
}

async fn beat(cx: &Context, client: &Client) -> Result<i64, Failure> {
    let table = ledger::table(Stream::subscribed_by(cx.participation.side).heartbeat_table());
    let row = client
        .query_opt(&format!("SELECT sequence FROM {table} WHERE id = 1"), &[])
        .await
        .map_err(|error| sql_failure(error, "look for a heartbeat"))?;
    Ok(row.map_or(0, |row| row.get(0)))
}
