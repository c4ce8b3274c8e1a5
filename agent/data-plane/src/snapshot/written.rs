//! Which rows applications write during a switchover: they are compared before the entered side may open.
//!
//! A temporary slot, which ends with its session, begins when the switchover does; decoding it gives the
//! keys of the rows. It lives as long as the switchover and keeps no more WAL than is written in that time.
//!
//! **Invariant:** a row that is not reported was not written between the beginning and the marker. The
//! marker among the changes proves that they were read to that point.

use std::time::Duration;

use pgportage_link::{Clock, Effect, Failure, Remedy};
use pgportage_migration::Participation;
use pgportage_migration::names;
use pgportage_migration::stream::published_name;
use pgportage_postgres::{Purpose, RelationName, Session, quote_ident, sql_failure};
use pgportage_proto::Reason;

use super::tables::{self, Published};
use super::touched::{Difference, Touched};
use crate::slot::Slots;

/// A slot begins when every transaction that was open at the time is over. One that writes for longer than
/// this would delay the barrier as well.
const BEGIN_LIMIT: Duration = Duration::from_secs(10);
/// Bytes of each change that are asked for. The columns that identify a row are seldom behind that.
const CHANGE_BYTES: i32 = 32 << 10;

const CREATE: &str = "SELECT pg_create_logical_replication_slot($1, 'pgoutput', true)";

/// Version 1 of the protocol gives whole transactions only.
const CHANGES: &str = "\
SELECT substring(data FROM 1 FOR $2)
FROM pg_logical_slot_peek_binary_changes($1, NULL, NULL, 'proto_version', '1', 'publication_names', $3)";

/// Listens to the writes to the published tables of this side. Dropping it ends the slot.
#[derive(Debug)]
pub struct Written {
    session: Session,
    slot: String,
    publication: String,
    tables: Vec<Published>,
}

/// The written rows of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenTable {
    /// The table.
    pub name: RelationName,
    /// The columns that identify a row.
    pub key: Vec<String>,
    /// The keys of the rows that were written. None: too many, or not known for
    /// certain.
    pub keys: Option<Vec<Vec<String>>>,
}

impl Written {
    /// Begins to listen: what is committed from here on will be reported.
    ///
    /// # Errors
    ///
    /// [`Reason::LongTransaction`] when a transaction does not end; otherwise what the server reports, for
    /// example that it has no room for a slot.
    pub async fn begin(slots: &Slots, clock: Clock, participation: &Participation) -> Result<Self, Failure> {
        let session = slots.session(participation, Purpose::Scan).await?;
        let publication = published_name(participation);
        let tables = tables::read(&*session, &publication).await?;
        let slot = names::passing_slot(&participation.migration, session.pid);
        match clock.timeout(BEGIN_LIMIT, session.execute(CREATE, &[&slot])).await {
            Ok(made) => made.map_err(|error| sql_failure(error, "listen to what is written during the switchover"))?,
            Err(_elapsed) => {
                session.cancel_handle().cancel().await.ok();
                return Err(too_long());
            }
        };
        Ok(Self { session, slot, publication: quote_ident(&publication), tables })
    }

    /// What was written up to the marker, without our own rows. The marker must be committed.
    ///
    /// # Errors
    ///
    /// [`Reason::CouldNotCheck`] when the changes end before the marker; otherwise what the server reports.
    pub async fn until_the_marker(&self) -> Result<Vec<WrittenTable>, Failure> {
        let rows = self
            .session
            .query(CHANGES, &[&self.slot, &CHANGE_BYTES, &self.publication])
            .await
            .map_err(|error| sql_failure(error, "read what was written during the switchover"))?;
        let mut touched = Touched::new(&self.tables);
        rows.iter().for_each(|row| touched.take(row.get(0)));
        let (ours, tables): (Vec<_>, Vec<_>) =
            self.tables.iter().partition(|published| published.table.name.schema == names::SCHEMA);
        let marked = ours.iter().any(|published| {
            published.table.name.relation == names::MARKER_TABLE
                && *touched.difference(published.oid) != Difference::None
        });
        if !marked {
            return Err(Failure::new(Reason::CouldNotCheck, "what was written could not be read up to the marker")
                .hint("Try the switchover again; without the comparison if it does not help.")
                .remedy(Remedy::Operator)
                .effect(Effect::None));
        }
        let written = tables.into_iter().filter_map(|published| {
            let keys = match touched.difference(published.oid) {
                Difference::None => return None,
                Difference::Keys(keys) => Some(keys.iter().cloned().collect()),
                Difference::Unknown => None,
            };
            Some(WrittenTable { name: published.table.name.clone(), key: published.table.key.clone(), keys })
        });
        Ok(written.collect())
    }
}

fn too_long() -> Failure {
    let limit = BEGIN_LIMIT.as_secs();
    Failure::new(Reason::LongTransaction, format!("transactions that have written did not end within {limit} s"))
        .detail("What is written during the switchover is known only from where they end.")
        .hint("Wait until they end or end them, then try again; or switch over without comparing.")
        .remedy(Remedy::Operator)
        .effect(Effect::None)
}
