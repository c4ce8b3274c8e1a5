//! Everything that knows PostgreSQL: the one door to the database, quoting, LSNs, versions, catalog
//! queries, its own programs.
//!
//! **Invariant:** nothing here knows a migration or an act. Callers say which database, which role and
//! which names they mean.

pub mod access;
pub mod catalog;
mod disk;
mod door;
mod error;
pub mod expel;
mod gather;
mod history;
mod login;
mod lsn;
mod passfile;
pub mod programs;
mod quiet;
mod quote;
pub mod replication;
mod scram;
mod secret;
mod session;
mod socket;
mod stderr;
mod version;

pub use disk::free_disk_bytes;
pub use door::{APPLICATION_PREFIX, Door, DoorSettings, Purpose};
pub use error::{is_passing, sql_failure};
pub use history::history;
pub use login::{Login, application_name};
pub use lsn::{Lsn, LsnInvalid};
pub use quiet::hush;
pub use quote::{RelationName, quote_ident, quote_literal};
pub use replication::Walsender;
pub use scram::scram_verifier;
pub use secret::Secret;
pub use session::{CancelHandle, Session, SessionIdentity};
pub use stderr::{excerpt as stderr_excerpt, read as read_stderr};
pub use version::ServerVersion;
