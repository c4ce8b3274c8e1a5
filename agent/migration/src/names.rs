//! The names of everything that is ours on a server.
//!
//! Deterministic, so that a later attempt finds what an earlier one made, and
//! `cleanup` finds everything.

use pgportage_proto::{MigrationId, Side};

/// Our schema on both servers.
pub const SCHEMA: &str = "pgportage";
/// The published table whose arrival measures the lag.
pub(crate) const HEARTBEAT_TABLE: &str = "heartbeat";
/// The same for the way back.
pub(crate) const HEARTBEAT_BACK_TABLE: &str = "heartbeat_back";
/// The published table whose arrival proves the drain.
pub const MARKER_TABLE: &str = "marker";
/// The ledger of transactional acts. It is never published.
pub(crate) const LEDGER_TABLE: &str = "ledger";

/// Publication, subscription, slot and replication role share one name.
pub fn replication_name(migration: &MigrationId) -> String {
    migration.stream_name(Side::Source)
}

/// The same for the way back. A prefix of its own, because any suffix could also end another migration's
/// name.
pub(crate) fn replication_name_back(migration: &MigrationId) -> String {
    migration.stream_name(Side::Destination)
}

/// The publication on the destination that holds only the heartbeat of the way back. It proves the way back
/// while applications still write on the source.
pub fn proof_publication(migration: &MigrationId) -> String {
    migration.named("pgportageproof")
}

/// A copy that stands in for the source's slot while that is dropped and made from the copy.
pub fn slot_copy(migration: &MigrationId) -> String {
    migration.named("pgportagecopy")
}

/// A copy that stands in for the destination's slot while that is dropped and made from the copy.
pub(crate) fn slot_copy_back(migration: &MigrationId) -> String {
    migration.named("pgportagebackcopy")
}

/// The slot of a snapshot that was lost, kept while the destination holds rows of it. No underscore after
/// the prefix: `pgportage_…_former` would be the slot of a migration of that name.
pub fn former_slot(migration: &MigrationId) -> String {
    migration.named("pgportageformer")
}

/// A temporary slot, which ends with the session that makes it.
pub fn passing_slot(migration: &MigrationId, pid: i32) -> String {
    migration.named(&format!("pgportage{pid}"))
}
