//! An agent's part in a migration: which database, which side, and which agent is its partner.

use pgportage_proto::{MigrationId, Side};

/// One agent's part in one migration. In the journal from the first accepted command of the migration until
/// the migration is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Participation {
    /// The migration's name, which is also part of every name of ours on the servers.
    pub migration: MigrationId,
    /// The side that this agent's server has.
    pub side: Side,
    /// The database that moves, as PostgreSQL names it, unquoted.
    pub database: String,
    /// The other agent's name, as in its certificate.
    pub peer: String,
}
