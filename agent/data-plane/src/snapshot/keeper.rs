//! The session that makes the slot and keeps its snapshot.

use std::time::Duration;

use pgportage_link::{Effect, Failure, Remedy};
use pgportage_migration::Participation;
use pgportage_migration::names;
use pgportage_postgres::{Lsn, Purpose, Session, Walsender, quote_ident, sql_failure};
use pgportage_proto::Reason;
use tokio_postgres::SimpleQueryMessage;

use super::Hands;
use crate::slot::SlotUse;

/// How long an earlier keeper's session may take to end, and how often this agent looks.
const LEAVE_LIMIT: Duration = Duration::from_secs(20);
const LEAVE_PAUSE: Duration = Duration::from_millis(100);

/// Holds a snapshot for as long as its session lives and does nothing.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) consistent_point: Lsn,
    /// The name that readers import.
    pub(super) snapshot_name: String,
    /// Nothing may ever be sent on it: that would end the snapshot.
    session: Session,
}

impl Keeper {
    /// Drops what an earlier attempt left of our slot, and makes it anew.
    pub(super) async fn make(hands: &Hands, participation: &Participation) -> Result<Self, Failure> {
        let name = names::replication_name(&participation.migration);
        make_room(hands, participation, &name).await?;
        let session = hands.slots.replication_session(participation, Walsender::Keeper).await?;
        // The old form of the option: understood by every version.
        let create = format!("CREATE_REPLICATION_SLOT {} LOGICAL pgoutput EXPORT_SNAPSHOT", quote_ident(&name));
        let messages =
            session.simple_query(&create).await.map_err(|error| sql_failure(error, "create the replication slot"))?;
        let row = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some((row.get(1)?.parse().ok()?, row.get(2)?.to_owned())),
            _ => None,
        });
        let Some((consistent_point, snapshot_name)) = row else {
            return Err(Failure::new(Reason::ServerError, "the server made a slot and exported no snapshot"));
        };
        Ok(Self { consistent_point, snapshot_name, session })
    }

    pub(super) fn is_lost(&self) -> bool {
        self.session.is_closed()
    }
}

/// Drops a slot of our name that has no session. An earlier keeper's session holds the slot until the
/// server has noticed that the keeper's agent is gone.
async fn make_room(hands: &Hands, participation: &Participation, name: &str) -> Result<(), Failure> {
    let deadline = hands.tasks.clock.now() + LEAVE_LIMIT;
    loop {
        let session = hands.door.open(&participation.database, Purpose::Control).await?;
        match hands.slots.usage(participation, &session, name).await? {
            SlotUse::Absent => return Ok(()),
            SlotUse::Idle => {
                let dropper = hands.slots.session(participation, Purpose::Control).await?;
                dropper
                    .query_one("SELECT pg_drop_replication_slot($1)", &[&name])
                    .await
                    .map_err(|error| sql_failure(error, "drop the replication slot"))?;
                return Ok(());
            }
            SlotUse::Active(pid) => {
                session
                    .query_one("SELECT pg_terminate_backend($1)", &[&pid])
                    .await
                    .map_err(|error| sql_failure(error, "end an earlier attempt"))?;
            }
        }
        if hands.tasks.clock.now() >= deadline {
            return Err(Failure::new(Reason::ServerUnreachable, "an earlier attempt still holds the replication slot")
                .remedy(Remedy::Wait)
                .effect(Effect::None));
        }
        hands.tasks.clock.sleep(LEAVE_PAUSE).await;
    }
}
