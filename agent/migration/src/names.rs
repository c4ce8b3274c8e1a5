//! The names of everything that is ours on a server.
//!
//! Deterministic, so that a later attempt finds what an earlier one made, and
//! `cleanup` finds everything.

use pgportage_proto::{MigrationId, Side};

/// Our schema on both servers.
pub const SCHEMA: &str = "pgportage";
/// The published table whose arrival measures the lag.
pub const HEARTBEAT_TABLE: &str = "heartbeat";
/// The same for what flows back from the destination.
pub const HEARTBEAT_BACK_TABLE: &str = "heartbeat_back";
/// The published table whose arrival proves the drain.
pub const MARKER_TABLE: &str = "marker";
/// The ledger of transactional acts. Never published.
pub const LEDGER_TABLE: &str = "ledger";

/// Publication, subscription, slot and replication role share one name.
#[must_use]
pub fn replication_name(migration: &MigrationId) -> String {
    migration.stream_name(Side::Source)
}

/// The same for the way back. Begins otherwise, because every ending could be
/// that of another migration's name.
#[must_use]
pub fn replication_name_back(migration: &MigrationId) -> String {
    migration.stream_name(Side::Destination)
}

/// The publication on the destination that holds nothing but the heartbeat of the
/// way back: by it the way is proved while the source still takes writes.
#[must_use]
pub fn proof_publication(migration: &MigrationId) -> String {
    migration.named("pgportageproof")
}

/// The copy of the source's slot that takes its place.
#[must_use]
pub fn slot_copy(migration: &MigrationId) -> String {
    migration.named("pgportagecopy")
}

/// The copy of the destination's slot that takes its place.
#[must_use]
pub fn slot_copy_back(migration: &MigrationId) -> String {
    migration.named("pgportagebackcopy")
}

/// The slot of a snapshot that was lost, for as long as the destination holds rows
/// of it. No underscore behind the prefix: `pgportage_…_former` would be the slot of
/// a migration of that name.
#[must_use]
pub fn former_slot(migration: &MigrationId) -> String {
    migration.named("pgportageformer")
}

/// A slot that ends with the session that makes it.
#[must_use]
pub fn passing_slot(migration: &MigrationId, pid: i32) -> String {
    migration.named(&format!("pgportage{pid}"))
}
