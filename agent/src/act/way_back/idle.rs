//! Keeping an idle slot from holding WAL.
//!
//! While a side is closed its own stream carries nothing new: every change that it applies came from the
//! other side. So its agent advances its slot to the server's position every few seconds. Two facts make
//! that safe. The position is read *before* the look that finds the side closed, so no change that an
//! application commits after an opening lies before it. And while a session streams from a slot, no other
//! session can advance it.
//!
//! (`pg_replication_slot_advance` moved `catalog_xmin` too far before 17.5, 16.9, 15.13 and 14.18. Changes
//! that are decoded later were begun after the opening, when no older transaction was left in this
//! database, so they need no older catalog.)

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

use pgportage_data_plane::slot::Slots;
use pgportage_link::{Failure, Tasks};
use pgportage_migration::Participation;
use pgportage_migration::journal::Journal;
use pgportage_migration::stream::published_name;
use pgportage_postgres::{Door, Purpose, Session, sql_failure};
use pgportage_proto::MigrationId;

/// Time between two moves. The slot keeps the WAL of so long, and each move decodes it.
const INTERVAL: Duration = Duration::from_secs(10);

const POSITION: &str = "SELECT pg_current_wal_flush_lsn()::text, to_regclass('pgportage.decision') IS NOT NULL";

const CLOSED: &str = "SELECT EXISTS (SELECT FROM pgportage.decision WHERE id = 1 AND state = 'closed')";

const MOVE: &str = "\
SELECT pg_replication_slot_advance(slot_name, $2::text::pg_lsn) IS NOT NULL
FROM pg_replication_slots
WHERE slot_name = $1 AND active_pid IS NULL AND confirmed_flush_lsn < $2::text::pg_lsn";

/// Advances the slots of closed sides, until the agent stops.
pub async fn keep_idle_slots_moving(door: Door, journal: Journal, slots: Slots, tasks: Tasks) {
    // The sessions stay open: the preconditions of a switchover would meet a session that comes and goes,
    // and could not know whose it was.
    let mut sessions = HashMap::new();
    loop {
        tokio::select! {
            biased;
            () = tasks.stop.cancelled() => return,
            () = tasks.clock.sleep(INTERVAL) => {}
        }
        let participations = journal.participations().unwrap_or_default();
        sessions.retain(|migration, _| participations.iter().any(|known| known.migration == *migration));
        for participation in &participations {
            if let Err(failure) = move_along(&door, &slots, participation, &mut sessions).await {
                sessions.remove(&participation.migration);
                tracing::debug!(
                    migration.id = %participation.migration, %failure, detail = failure.detail,
                    "an idle slot was not moved"
                );
            }
        }
    }
}

async fn move_along(
    door: &Door,
    slots: &Slots,
    participation: &Participation,
    sessions: &mut HashMap<MigrationId, Session>,
) -> Result<(), Failure> {
    if !slots.is_intended(&participation.migration)? {
        return Ok(());
    }
    let failure = |error| sql_failure(error, "move an idle slot");
    let session = match sessions.entry(participation.migration.clone()) {
        Entry::Occupied(open) => open.into_mut(),
        Entry::Vacant(none) => none.insert(door.open(&participation.database, Purpose::Watch).await?),
    };
    let row = session.query_one(POSITION, &[]).await.map_err(failure)?;
    let (position, known): (String, bool) = (row.get(0), row.get(1));
    if !known || !session.query_one(CLOSED, &[]).await.map_err(failure)?.get::<_, bool>(0) {
        return Ok(());
    }
    let mover = slots.session(participation, Purpose::Scan).await?;
    mover.query(MOVE, &[&published_name(participation), &position]).await.map(drop).map_err(failure)
}
