//! An open session, from its first statement to its Terminate message.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pgportage_link::{Clock, Failure};
#[cfg(doc)]
use pgportage_proto::Reason;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::OwnedSemaphorePermit;
use tokio_postgres::{Client, Connection};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::ServerVersion;
use super::error::sql_failure;
use super::socket::{Address, Canceller};

/// How long a dropped session may take to terminate before its running statement is cancelled, and then
/// before the socket is closed under it.
const FAREWELL: Duration = Duration::from_millis(500);

/// The identity of a session for the server's lifetime: pids are used again, pairs with the start time are
/// not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionIdentity {
    /// The backend's process id.
    pub pid: i32,
    /// `pg_stat_activity.backend_start::text` with `TimeZone` UTC.
    pub backend_start: String,
}

#[derive(Clone, Debug, Default)]
pub(super) struct OpenSessions(Arc<Mutex<BTreeSet<SessionIdentity>>>);

impl OpenSessions {
    pub(super) fn enter(&self, identity: SessionIdentity) -> Listing {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(identity.clone());
        Listing { open: self.clone(), identity }
    }

    pub(super) fn list(&self) -> BTreeSet<SessionIdentity> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Takes the session off the list of open sessions when it is dropped.
#[derive(Debug)]
pub(super) struct Listing {
    open: OpenSessions,
    identity: SessionIdentity,
}

impl Drop for Listing {
    fn drop(&mut self) {
        self.open.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.identity);
    }
}

/// One open session.
///
/// Dropping it ends the session on the server, at once when it is idle;
/// a statement that is still running is cancelled half a second later.
pub struct Session {
    // Dropped first: tells the connection task to terminate the session.
    client: Client,
    /// The backend's process id on the server.
    pub pid: i32,
    /// When the backend started, as [`SessionIdentity::backend_start`].
    pub backend_start: String,
    /// The server's version.
    pub version: ServerVersion,
    /// Whether the server asked for a password. Known for replication logins
    /// only.
    pub password_asked: Option<bool>,
    canceller: Canceller,
    ended: CancellationToken,
    _leave: DropGuard,
    pub(super) listing: Option<Listing>,
    pub(super) permit: Option<OwnedSemaphorePermit>,
}

impl Session {
    /// Gives the connection a task of its own, which ends with the session.
    pub(super) fn begin<S, T>(client: Client, connection: Connection<S, T>, address: Address, clock: Clock) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let leave = CancellationToken::new();
        let ended = CancellationToken::new();
        let canceller = Canceller { address, token: client.cancel_token() };
        tokio::spawn(drive(connection, canceller.clone(), leave.clone(), ended.clone(), clock));
        Self {
            client,
            pid: 0,
            backend_start: String::new(),
            version: ServerVersion::from_num(0),
            password_asked: None,
            canceller,
            ended,
            _leave: leave.drop_guard(),
            listing: None,
            permit: None,
        }
    }

    /// The identity of this session on the server.
    pub fn identity(&self) -> SessionIdentity {
        SessionIdentity { pid: self.pid, backend_start: self.backend_start.clone() }
    }

    /// Waits until the server has ended the session, or the connection is lost.
    /// May be dropped and called again.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// A handle with which another task cancels the statement that runs in this session.
    pub fn cancel_handle(&self) -> CancelHandle {
        CancelHandle(self.canceller.clone())
    }

    /// Reads the session's identity and pins the settings that older releases do not know.
    pub(super) async fn introduce(&mut self) -> Result<(), Failure> {
        const WHO: &str = "SELECT pg_backend_pid(), backend_start::text, current_setting('server_version_num')::int
                             FROM pg_stat_get_activity(pg_backend_pid())";
        let row = self.client.query_one(WHO, &[]).await.map_err(|error| sql_failure(error, "begin a session"))?;
        self.pid = row.get(0);
        self.backend_start = row.get(1);
        self.version = ServerVersion::from_num(row.get(2));
        let newer = newer_settings(self.version);
        if !newer.is_empty() {
            self.client.batch_execute(newer).await.map_err(|error| sql_failure(error, "begin a session"))?;
        }
        Ok(())
    }
}

/// Settings that came after version 10. `client_connection_check_interval`
/// makes the server notice within seconds that the agent is gone.
fn newer_settings(version: ServerVersion) -> &'static str {
    match version.major() {
        ..14 => "",
        14..17 => "SET client_connection_check_interval = '5s'; SET idle_session_timeout = 0",
        17.. => {
            "SET client_connection_check_interval = '5s'; SET idle_session_timeout = 0; SET transaction_timeout = 0"
        }
    }
}

async fn drive<S, T>(
    mut connection: Connection<S, T>,
    canceller: Canceller,
    leave: CancellationToken,
    ended: CancellationToken,
    clock: Clock,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    T: AsyncRead + AsyncWrite + Unpin + Send,
{
    let _ended = ended.drop_guard();
    tokio::select! {
        result = &mut connection => {
            if let Err(error) = result {
                tracing::debug!(error = %error, "database session ended");
            }
            return;
        }
        () = leave.cancelled() => {}
    }
    // The client is gone. An idle session ends at once; a busy one is cancelled.
    if clock.timeout(FAREWELL, &mut connection).await.is_err() {
        let cancelled = clock.timeout(FAREWELL, canceller.cancel()).await;
        tracing::debug!(
            sent = matches!(cancelled, Ok(Ok(()))),
            "cancelled the statement of a session that was given up"
        );
        // When even that does not help, dropping the connection closes the socket.
        clock.timeout(FAREWELL, &mut connection).await.ok();
    }
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

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("pid", &self.pid).finish_non_exhaustive()
    }
}

/// Cancels the running statement of a session.
#[derive(Clone, Debug)]
pub struct CancelHandle(Canceller);

impl CancelHandle {
    /// Asks the server to cancel the session's running statement. Success means
    /// that the server was asked, not that anything was running.
    pub async fn cancel(&self) -> Result<(), Failure> {
        self.0.cancel().await
    }
}
