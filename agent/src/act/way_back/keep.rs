//! The side that was entered fixes where its stream begins: at the position of its decision. Changes that
//! it applied before came from the other side and never go back to it; changes that are committed after it
//! always do.
//!
//! Class: probe-able, under deterministic names. Moving a slot is not durable before the next checkpoint,
//! and a slot that steps back after a crash would send the other side's own rows back to it. A slot that is
//! *copied* is on disk at once. So the slot is moved, copied, dropped, and copied back under its name.
//! After a crash, the slots that are there show how far that was. No session streams from the slot yet.

use pgportage_link::{Effect, Failure};
use pgportage_migration::journal::Note;
use pgportage_migration::ledger;
use pgportage_migration::stream::{published_copy_name, published_name};
use pgportage_postgres::{Lsn, Purpose, sql_failure};
use pgportage_proto::{ActKind, Reason, Side, v1};
use tokio_postgres::Client;

use super::lost;
use crate::act::patience::Patience;
use crate::act::{Act, Context, Produced, Survey};

const OPENED: &str = "SELECT opened_epoch FROM pgportage.decision WHERE id = 1 AND state = 'opened'";

const POSITION: &str = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1";

const ADVANCE: &str = "SELECT FROM pg_replication_slot_advance($1, $2::text::pg_lsn)";

const COPY: &str = "SELECT FROM pg_copy_logical_replication_slot($1, $2)";

const DROP: &str = "SELECT pg_drop_replication_slot($1)";

/// Fixes the beginning of this side's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepStream {
    /// Epoch of the switchover that opened this side.
    pub cutover_epoch: i64,
}

/// The slot is on disk at this position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeepStreamResult {
    /// Where the stream begins, in PostgreSQL's notation.
    pub begin_lsn: String,
}

impl Act for KeepStream {
    const KIND: ActKind = ActKind::KeepStream;
    const WAY_BACK: &'static [Side] = &[Side::Source, Side::Destination];
    type Message = v1::KeepStream;
    type Output = KeepStreamResult;

    fn decode(message: v1::KeepStream) -> Result<Self, Failure> {
        Ok(Self { cutover_epoch: message.cutover_epoch })
    }

    fn encode(output: KeepStreamResult) -> Produced {
        Produced::KeepStream(v1::KeepStreamResult { begin_lsn: output.begin_lsn })
    }

    async fn survey(&self, cx: &Context) -> Result<Survey<KeepStreamResult>, Failure> {
        let kept = cx.journal.note(&cx.participation.migration, Note::WayBackKept)?;
        if kept != Some(self.cutover_epoch.to_string()) {
            return Ok(Survey::Ready);
        }
        let session = cx.door.open(&cx.participation.database, Purpose::Control).await?;
        Ok(Survey::Done(KeepStreamResult { begin_lsn: beginning(&session).await?.to_string() }))
    }

    async fn perform(&self, cx: &Context) -> Result<KeepStreamResult, Failure> {
        let migration = &cx.participation.migration;
        let session = cx.door.open(&cx.participation.database, Purpose::Control).await?;
        let opened: Option<i64> = session
            .query_opt(OPENED, &[])
            .await
            .map_err(|error| sql_failure(error, "read the decision"))?
            .and_then(|row| row.get(0));
        if opened != Some(self.cutover_epoch) {
            return Err(Failure::new(Reason::WrongState, format!("the {} has not opened", cx.participation.side))
                .effect(Effect::None));
        }
        if !cx.slots.is_intended(migration)? {
            return Err(lost(format!("the slot on the {} was given up", cx.participation.side)));
        }
        let begin = beginning(&session).await?;
        let mut patience = Patience::new(cx);
        loop {
            cx.safe_point()?;
            match keep(cx, begin).await {
                Ok(()) => break,
                Err(failure) => patience.again(cx, failure, "the replication slot of the way back").await?,
            }
        }
        cx.journal.set_note(migration, Note::WayBackKept, &self.cutover_epoch.to_string())?;
        Ok(KeepStreamResult { begin_lsn: begin.to_string() })
    }

    /// The slot is dropped by the act that made it.
    async fn undo(&self, _cx: &Context) -> Result<(), Failure> {
        Ok(())
    }
}

/// The position noted in the transaction of the decision.
pub(crate) async fn beginning(client: &Client) -> Result<Lsn, Failure> {
    let noted = ledger::results(client, ActKind::OpenDestination).await?;
    noted
        .last()
        .and_then(|bytes| std::str::from_utf8(bytes).ok())
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| lost("the position at which this side opened was not noted"))
}

async fn keep(cx: &Context, begin: Lsn) -> Result<(), Failure> {
    let (name, copy) = (published_name(&cx.participation), published_copy_name(&cx.participation));
    let session = cx.slots.session(&cx.participation, Purpose::Scan).await?;
    let failure = |error| sql_failure(error, "fix where the way back begins");
    if position(&session, &copy).await?.is_none() {
        let now = position(&session, &name)
            .await?
            .ok_or_else(|| lost(format!("the slot on the {} is gone", cx.participation.side)))?;
        // It may have been advanced further while it was idle: to a position before the decision's commit,
        // and so before everything that applications wrote.
        if now < begin {
            session.query(ADVANCE, &[&name, &begin.to_string()]).await.map_err(failure)?;
        }
        cx.fail_point("keep_stream.perform.moved");
        session.query(COPY, &[&name, &copy]).await.map_err(failure)?;
    }
    cx.fail_point("keep_stream.perform.copied");
    if position(&session, &name).await?.is_some() {
        session.query(DROP, &[&name]).await.map_err(failure)?;
    }
    cx.fail_point("keep_stream.perform.dropped");
    session.query(COPY, &[&copy, &name]).await.map_err(failure)?;
    cx.fail_point("keep_stream.perform.replaced");
    session.query(DROP, &[&copy]).await.map_err(failure)?;
    Ok(())
}

async fn position(client: &Client, slot: &str) -> Result<Option<Lsn>, Failure> {
    let row = client
        .query_opt(POSITION, &[&slot])
        .await
        .map_err(|error| sql_failure(error, "look at the replication slot"))?;
    row.and_then(|row| row.get::<_, Option<String>>(0))
        .map(|text| {
            text.parse().map_err(|error| Failure::new(Reason::Internal, "a position is unreadable").because(&error))
        })
        .transpose()
}
