//! The names of everything that is ours on a server.
//!
//! Deterministic, so that a later attempt finds what an earlier one made, and
//! `cleanup` finds everything. Migration names allow `-` but no `_`, so turning
//! one into the other never makes two names equal.

use crate::migration::MigrationId;

/// Our schema on both servers.
pub const SCHEMA: &str = "pgportage";
/// The published table whose arrival measures the lag.
pub const HEARTBEAT_TABLE: &str = "heartbeat";
/// The published table whose arrival proves the drain.
pub const MARKER_TABLE: &str = "marker";
/// The ledger of transactional acts. Never published.
pub const LEDGER_TABLE: &str = "ledger";
/// Beginning of every `application_name` of ours.
pub const APPLICATION_PREFIX: &str = "pgportage";

/// Publication, subscription, slot and replication role share one name.
#[must_use]
pub fn replication_name(migration: &MigrationId) -> String {
    format!("pgportage_{}", migration.as_str().replace('-', "_"))
}

/// The role whose refused login proves a fence.
#[must_use]
pub fn canary_role(migration: &MigrationId) -> String {
    format!("{}_canary", replication_name(migration))
}

/// The slot of a snapshot that was lost, for as long as the destination holds rows
/// of it. No underscore behind the prefix: `pgportage_…_former` would be the slot of
/// a migration of that name.
#[must_use]
pub fn former_slot(migration: &MigrationId) -> String {
    format!("pgportageformer_{}", migration.as_str().replace('-', "_"))
}

/// A slot that ends with the session that makes it.
#[must_use]
pub fn passing_slot(migration: &MigrationId, pid: i32) -> String {
    format!("pgportage{pid}_{}", migration.as_str().replace('-', "_"))
}
