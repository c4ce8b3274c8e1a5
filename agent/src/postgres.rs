//! Everything that knows PostgreSQL: the one door to the database, quoting,
//! LSNs, versions, catalog queries.

pub mod access;
pub mod catalog;
mod disk;
mod door;
mod error;
pub mod expel;
mod gather;
mod lsn;
pub mod own_schema;
mod passfile;
mod quote;
pub mod replication;
mod scram;
mod secret;
mod session;
mod socket;
mod version;

pub use disk::free_disk_bytes;
pub use door::{Door, DoorSettings, Purpose};
pub use error::sql_failure;
pub use lsn::{Lsn, LsnInvalid};
pub use quote::{RelationName, quote_ident, quote_literal};
pub use replication::Walsender;
pub use scram::scram_verifier;
pub use secret::Secret;
pub use session::{CancelHandle, Session, SessionIdentity};
pub use version::ServerVersion;
