//! The server's figures about our slots, and how the slots are dropped.

use std::time::Duration;

use pgportage_data_plane::slot::Slots;
use pgportage_link::{Clock, Failure, Remedy};
use pgportage_migration::Participation;
use pgportage_migration::names::former_slot;
use pgportage_migration::stream::{published_copy_name, published_name};
use pgportage_postgres::{Purpose, Session, free_disk_bytes, sql_failure};
use pgportage_proto::Reason;

/// How often to try to drop a slot whose walsender was just ended, and the pause between two tries.
/// Together well below the time after which a subscriber comes back (`wal_retrieve_retry_interval`, 5 s).
const TRIES: u32 = 40;
const PAUSE: Duration = Duration::from_millis(50);

/// Our slots of one migration, together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Whether the stream's own slot is there.
    pub(super) exist: bool,
    /// Why the stream's slot cannot be used any more.
    pub(super) invalidated: Option<String>,
    /// The server's write position, in bytes from the beginning of the WAL.
    pub(super) wal_position: Option<u64>,
    /// WAL that the server keeps for the slot that is furthest behind.
    pub(super) retained_wal_bytes: Option<u64>,
    /// Age of the oldest transaction id that one of our slots holds back.
    pub(super) xmin_age: Option<u64>,
    /// WAL that may be written before the server invalidates the stream's slot.
    pub(super) safe_wal_bytes: Option<u64>,
    /// Free bytes on the disk of the WAL.
    pub(super) free_disk_bytes: Option<u64>,
}

/// Our slots: the stream's, its copy, that of a lost snapshot, and those of the subscriber's table copies.
/// The columns of 13 and 17 are read through jsonb.
const OURS: &str = "
    SELECT s.slot_name::text, s.slot_name = $1, s.active_pid,
           CASE WHEN NOT pg_is_in_recovery() THEN pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn)::bigint END,
           greatest(age(s.catalog_xmin), age(s.xmin))::bigint,
           to_jsonb(s) ->> 'wal_status', to_jsonb(s) ->> 'invalidation_reason',
           (to_jsonb(s) ->> 'safe_wal_size')::bigint,
           CASE WHEN NOT pg_is_in_recovery() THEN pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint END
      FROM pg_replication_slots AS s
     WHERE s.database = $3
       AND (s.slot_name = $1 OR s.slot_name = ANY ($4)
            OR ($2 <> '' AND s.slot_name::text ~ ('^pg_[0-9]+_sync_[0-9]+_' || $2 || '$')))";

/// The names of the stream's slot, its copy and the former one, and the subscriber's system identifier.
fn parameters(slots: &Slots, participation: &Participation) -> Result<(String, [String; 2], String), Failure> {
    let migration = &participation.migration;
    let system = slots.subscriber(migration)?;
    Ok((published_name(participation), [published_copy_name(participation), former_slot(migration)], system))
}

pub(super) async fn slots(session: &Session, ours: &Slots, participation: &Participation) -> Result<Seen, Failure> {
    let (name, others, system) = parameters(ours, participation)?;
    let rows = session
        .query(OURS, &[&name, &system, &participation.database, &others.as_slice()])
        .await
        .map_err(|error| sql_failure(error, "look at the replication slots"))?;
    let mut seen = Seen { free_disk_bytes: free_disk_bytes(session).await, ..Seen::default() };
    for row in &rows {
        let number = |index| row.get::<_, Option<i64>>(index).and_then(|number| u64::try_from(number).ok());
        seen.retained_wal_bytes = seen.retained_wal_bytes.max(number(3));
        seen.xmin_age = seen.xmin_age.max(number(4));
        seen.wal_position = seen.wal_position.max(number(8));
        if row.get(1) {
            let status: Option<String> = row.get(5);
            let reason: Option<String> = row.get(6);
            seen.exist = true;
            seen.safe_wal_bytes = number(7);
            seen.invalidated = match (status.as_deref(), reason) {
                (_, Some(reason)) => Some(format!("The server gave the slot up: {reason}.")),
                (Some("lost"), None) => Some("The server removed WAL that the slot needed.".to_owned()),
                (Some(_) | None, None) => None,
            };
        }
    }
    Ok(seen)
}

/// Drops our slots, and ends the walsenders that use them. Succeeds when there are none.
///
/// Tries from the database itself, or from outside where that is closed to the agent.
pub(super) async fn drop_slots(
    ours: &Slots,
    clock: Clock,
    participation: &Participation,
    outside: &Session,
) -> Result<(), Failure> {
    let inside = ours.session(participation, Purpose::Watch).await.ok();
    let session = inside.as_ref().unwrap_or(outside);
    let failed = |error| sql_failure(error, "drop the replication slot");
    let (name, others, system) = parameters(ours, participation)?;
    let mut last = None;
    for _try in 0..TRIES {
        let rows = session
            .query(OURS, &[&name, &system, &participation.database, &others.as_slice()])
            .await
            .map_err(failed)?;
        if rows.is_empty() {
            return Ok(());
        }
        for row in rows {
            let slot: String = row.get(0);
            if let Some(pid) = row.get::<_, Option<i32>>(2) {
                session.query_one("SELECT pg_terminate_backend($1)", &[&pid]).await.map_err(failed)?;
            }
            if let Err(error) = session.query_one("SELECT pg_drop_replication_slot($1)", &[&slot]).await {
                // In use for a moment longer, or gone already.
                last = Some(failed(error));
            }
        }
        clock.sleep(PAUSE).await;
    }
    Err(last.unwrap_or_else(|| Failure::new(Reason::Stalled, "the replication slot stays in use").remedy(Remedy::Wait)))
}
