//! The one door to the database.
//!
//! **Invariant:** every database session of the agent is opened here.

use std::ops::{Deref, DerefMut};

use pgportage_link::Failure;
use tokio_postgres::Client;

/// What a session is for. Decides its time limits and its `application_name`
/// (`pgportage <purpose>`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Catalog reads and short statements: `statement_timeout` 30 s,
    /// `lock_timeout` from the policy.
    Control,
    /// Long reads (row counts): no `statement_timeout`.
    Scan,
    /// The barrier and the fence: limits are set by the cutover itself.
    Cutover,
    /// Heartbeats and the watch.
    Watch,
}

/// Opens database sessions of the agent's own server.
#[derive(Clone, Debug)]
pub struct Door {}

impl Door {
    /// Opens a session in a database, with everything pinned.
    ///
    /// # Errors
    ///
    /// [`pgportage_proto::Reason::ServerUnreachable`],
    /// [`pgportage_proto::Reason::LoginRefused`] or
    /// [`pgportage_proto::Reason::DatabaseMissing`].
    pub async fn open(&self, _database: &str, _purpose: Purpose) -> Result<Session, Failure> {
        todo!()
    }
}

/// One open session. Dropping it closes the connection.
#[derive(Debug)]
pub struct Session {
    client: Client,
    /// The backend's process id on the server.
    pub pid: i32,
}

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}
