//! Keeping a slot that nobody streams from from holding WAL.
//!
//! While a side is closed its own stream has nothing to say: whatever it applies came
//! from the other side. Its slot is moved to the server's position every few
//! seconds. Two facts make that safe: the position is read *before* the look that
//! finds the side closed, so nothing an application commits after an opening lies
//! before it; and a slot somebody streams from cannot be moved by another.
//!
//! (`pg_replication_slot_advance` moved `catalog_xmin` too far before 17.5, 16.9,
//! 15.13 and 14.18. What is decoded later began after the opening, when no transaction
//! of before was left in this database, so it needs no older catalog.)

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

/// Time between two moves: WAL of so long is kept, and decoded at the next move.
const INTERVAL: Duration = Duration::from_secs(10);

const POSITION: &str = "SELECT pg_current_wal_flush_lsn()::text, to_regclass('pgportage.decision') IS NOT NULL";

const CLOSED: &str = "SELECT EXISTS (SELECT FROM pgportage.decision WHERE id = 1 AND state = 'closed')";

const MOVE: &str = "\
SELECT pg_replication_slot_advance(slot_name, $2::text::pg_lsn) IS NOT NULL
FROM pg_replication_slots
WHERE slot_name = $1 AND active_pid IS NULL AND confirmed_flush_lsn < $2::text::pg_lsn";

/// Moves the slots of closed sides along, until the agent stops.
pub async fn keep_idle_slots_moving(door: Door, journal: Journal, slots: Slots, tasks: Tasks) {
    // Each kept: one that comes and goes would be met by the preconditions of a
    // switch, which cannot know whose it was.
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
