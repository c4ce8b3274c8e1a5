//! The slot of a snapshot that is lost, called the former slot.
//!
//! It says what was changed since, so that what was copied of that snapshot need not be copied again. While
//! the slot of the next snapshot takes its name, a copy of the former slot, under a name of its own, stands
//! in for it. The copy is dropped as soon as the destination has no rows of the lost snapshot any more.
//!
//! **Invariant:** the slot at the point that the destination asks for is dropped only when a copy of it is
//! there. Without the former slot nothing is lost for good: every table is copied again.

use std::time::Duration;

use futures_util::TryStreamExt;
use pgportage_link::{Effect, Failure, Remedy};
use pgportage_migration::Participation;
use pgportage_migration::names;
use pgportage_postgres::{Lsn, Purpose, Session, is_passing, quote_ident, sql_failure};
use pgportage_proto::Reason;
use tokio_postgres::GenericClient;

use super::Hands;
use super::tables::Published;
use super::touched::Touched;

/// How long the reading of the changes may take. The destination waits for it, and could begin the copy
/// anew in that time.
const READING_LIMIT: Duration = Duration::from_secs(120);
/// Changes that the server gathers before it sends them, rounded up to whole transactions. A smaller number
/// costs the server more: each time it begins at the oldest transaction that was open then.
const CHANGES_AT_A_TIME: i32 = 100_000;
/// Bytes of each change that are asked for. The columns that identify a row are seldom behind that.
const CHANGE_BYTES: i32 = 32 << 10;

/// Where our slots begin. No position for a slot that is being made or was invalidated.
const PLACES: &str = "\
SELECT s.slot_name::text,
       CASE WHEN coalesce(to_jsonb(s) ->> 'wal_status', '') <> 'lost'
             AND to_jsonb(s) ->> 'invalidation_reason' IS NULL THEN s.confirmed_flush_lsn END
FROM pg_replication_slots s
WHERE s.slot_name IN ($1, $2) AND s.database = $3 AND s.plugin = 'pgoutput' AND NOT s.temporary";

const COPY: &str = "SELECT pg_copy_logical_replication_slot($1, $2, $3)";

const DROP: &str = "SELECT pg_drop_replication_slot($1)";

/// Advances the slot. Version 1 of the protocol gives whole transactions only.
const CHANGES: &str = "\
SELECT substring(data FROM 1 FOR $5)
FROM pg_logical_slot_get_binary_changes($1, $2, $3, 'proto_version', '1', 'publication_names', $4)";

const POSITION: &str = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = $1";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// There is no slot.
    #[default]
    Absent,
    /// At this position.
    At(Lsn),
    /// The slot is there, and of no use.
    Nowhere,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Places {
    current: Place,
    former: Place,
}

async fn places(session: &Session, participation: &Participation) -> Result<Places, Failure> {
    let current = names::replication_name(&participation.migration);
    let former = names::former_slot(&participation.migration);
    let rows = session
        .query(PLACES, &[&current, &former, &participation.database])
        .await
        .map_err(|error| sql_failure(error, "look at the replication slots"))?;
    let mut places = Places::default();
    for row in rows {
        let place = row.get::<_, Option<Lsn>>(1).map_or(Place::Nowhere, Place::At);
        if row.get::<_, String>(0) == former {
            places.former = place;
        } else {
            places.current = place;
        }
    }
    Ok(places)
}

/// Makes sure that the slot which begins at `held`, if it is still there, outlasts the making of the next
/// one. The caller has noted that slots of this migration are ours.
///
/// # Errors
///
/// Failures that may pass. A server that has no room for a copy of the slot, or cannot make one, is no
/// failure: all tables are copied again.
pub(super) async fn keep(hands: &Hands, participation: &Participation, held: Option<Lsn>) -> Result<(), Failure> {
    let session = hands.door.open(&participation.database, Purpose::Control).await?;
    let places = places(&session, participation).await?;
    let Some(held) = held else { return remove(hands, participation, places.former).await };
    if places.former == Place::At(held) {
        return Ok(());
    }
    remove(hands, participation, places.former).await?;
    if places.current != Place::At(held) {
        return Ok(());
    }
    let (current, former) =
        (names::replication_name(&participation.migration), names::former_slot(&participation.migration));
    let maker = hands.slots.session(participation, Purpose::Control).await?;
    let copied = maker
        .execute(COPY, &[&current, &former, &false])
        .await
        .map_err(|error| sql_failure(error, "keep the slot of the lost snapshot"));
    match copied {
        Ok(_) => Ok(()),
        Err(failure) if is_passing(&failure) => Err(failure),
        Err(failure) => {
            tracing::warn!(
                migration.id = %participation.migration, %failure, detail = failure.detail,
                "the slot of the lost snapshot cannot be kept; every table is copied again"
            );
            Ok(())
        }
    }
}

pub(super) async fn forget(hands: &Hands, participation: &Participation) -> Result<(), Failure> {
    let session = hands.door.open(&participation.database, Purpose::Control).await?;
    let places = places(&session, participation).await?;
    remove(hands, participation, places.former).await
}

async fn remove(hands: &Hands, participation: &Participation, former: Place) -> Result<(), Failure> {
    if former == Place::Absent {
        return Ok(());
    }
    let dropper = hands.slots.session(participation, Purpose::Control).await?;
    dropper
        .execute(DROP, &[&names::former_slot(&participation.migration)])
        .await
        .map_err(|error| sql_failure(error, "drop the slot of the lost snapshot"))?;
    Ok(())
}

/// Reads which rows were touched between `held` and `upto`. The former slot stays
/// where it is: a copy of it is read, which ends with its session. Dropping the
/// future ends the reading.
///
/// # Errors
///
/// [`Reason::SnapshotLost`] when no slot begins at `held`, [`Reason::Stalled`] when
/// it takes too long; otherwise what the server reports.
pub(super) async fn read(
    hands: &Hands,
    participation: &Participation,
    tables: &[Published],
    held: Lsn,
    upto: Lsn,
) -> Result<Touched, Failure> {
    let reading = Box::pin(changes(hands, participation, tables, held, upto));
    hands.tasks.clock.timeout(READING_LIMIT, reading).await.unwrap_or_else(|_| {
        let limit = READING_LIMIT.as_secs();
        Err(Failure::new(Reason::Stalled, format!("the changes since {held} could not be read in {limit} s"))
            .effect(Effect::None))
    })
}

async fn changes(
    hands: &Hands,
    participation: &Participation,
    tables: &[Published],
    held: Lsn,
    upto: Lsn,
) -> Result<Touched, Failure> {
    let failure = |error| sql_failure(error, "read what was changed since the lost snapshot");
    let session = hands.slots.session(participation, Purpose::Scan).await?;
    if places(&session, participation).await?.former != Place::At(held) {
        return Err(Failure::new(Reason::SnapshotLost, format!("no replication slot begins at {held} any more"))
            .remedy(Remedy::Wait)
            .effect(Effect::None));
    }
    let former = names::former_slot(&participation.migration);
    let reader = names::passing_slot(&participation.migration, session.pid);
    session.execute(COPY, &[&former, &reader, &true]).await.map_err(failure)?;
    let publication = quote_ident(&names::replication_name(&participation.migration));
    let mut touched = Touched::new(tables);
    let mut position = held;
    while position < upto {
        let parameters: [&(dyn postgres_types::ToSql + Sync); 5] =
            [&reader, &upto, &CHANGES_AT_A_TIME, &publication, &CHANGE_BYTES];
        let rows = session.query_raw(CHANGES, parameters).await.map_err(failure)?;
        let mut rows = std::pin::pin!(rows);
        while let Some(row) = rows.try_next().await.map_err(failure)? {
            touched.take(row.get(0));
        }
        let before = position;
        position = position_of(&*session, &reader).await?;
        if position <= before {
            return Err(Failure::new(Reason::ServerError, format!("the stream ends at {position}, before {upto}"))
                .effect(Effect::None));
        }
    }
    session.execute(DROP, &[&reader]).await.map_err(failure)?;
    Ok(touched)
}

async fn position_of(client: &impl GenericClient, slot: &str) -> Result<Lsn, Failure> {
    client
        .query_one(POSITION, &[&slot])
        .await
        .map(|row| row.get(0))
        .map_err(|error| sql_failure(error, "look how far the changes were read"))
}
