//! The migration as an agent sees it: which database, which side, with whom.

use pgportage_proto::{MigrationId, Side};

/// One agent's part in one migration. Stored in the journal when the first
/// command of the migration is accepted, and until the migration is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Participation {
    /// The migration.
    pub migration: MigrationId,
    /// Which side this agent has.
    pub side: Side,
    /// The database that moves, as PostgreSQL names it, unquoted.
    pub database: String,
    /// The other agent's name, as in its certificate.
    pub peer: String,
}
