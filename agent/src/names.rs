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
