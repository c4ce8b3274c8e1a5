//! A login as walsender.
//!
//! tokio-postgres cannot ask for one, so its startup message gets the
//! parameter `replication=database` on the way out. Only `simple_query` and
//! `batch_execute` work on such a session.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::task::{Context, Poll, ready};

use pgportage_link::{Effect, Failure};
use pgportage_proto::Reason;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::{NoTls, SimpleQueryMessage};

use super::door::{APPLICATION_PREFIX, configure, login_limit, login_timeout};
use super::error::{login_failure, sql_failure};
use super::socket::{Address, Socket};
use super::{Door, Lsn, Secret, ServerVersion, Session};

const PARAMETER: &[u8] = b"replication\0database\0";

/// What a walsender says about its server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemIdentity {
    /// The cluster's system identifier, as decimal digits.
    pub system_identifier: String,
    /// The current flush position.
    pub position: Lsn,
}

/// What a walsender's session is for. Decides its time limits and its
/// `application_name`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Walsender {
    /// Checks that a login works, and does next to nothing.
    Trial,
    /// Waits for open transactions to end, then keeps one open and does nothing.
    Keeper,
}

impl Walsender {
    fn as_str(self) -> &'static str {
        match self {
            Self::Trial => "trial",
            Self::Keeper => "keeper",
        }
    }

    fn options(self) -> &'static str {
        match self {
            Self::Trial => {
                "-c statement_timeout=30000 -c idle_in_transaction_session_timeout=0 -c search_path=pg_catalog"
            }
            Self::Keeper => {
                "-c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0 \
                 -c idle_session_timeout=0 -c search_path=pg_catalog"
            }
        }
    }
}

impl Door {
    /// Logs in as walsender of a database of the agent's own server, as its own
    /// role.
    pub async fn open_replication(&self, database: &str, purpose: Walsender) -> Result<Session, Failure> {
        let password = self.password(database)?;
        self.walsender_at(self.own_address(), database, self.user(), password.as_ref(), purpose).await
    }

    /// Logs in as walsender of a database at an address: `host:port`, where the
    /// host may be the directory of a Unix socket. The tunnel's listener is such an
    /// address.
    ///
    /// [`Session::password_asked`] tells whether the server asked for the
    /// password: a subscription of a role that is no superuser needs that.
    ///
    /// # Errors
    ///
    /// [`Reason::ServerUnreachable`], [`Reason::LoginRefused`] or
    /// [`Reason::DatabaseMissing`].
    pub async fn open_replication_at(
        &self,
        address: &str,
        database: &str,
        user: &str,
        password: &Secret,
        purpose: Walsender,
    ) -> Result<Session, Failure> {
        self.walsender_at(Address::parse(address, self.port()), database, user, Some(password), purpose).await
    }

    async fn walsender_at(
        &self,
        address: Address,
        database: &str,
        user: &str,
        password: Option<&Secret>,
        purpose: Walsender,
    ) -> Result<Session, Failure> {
        let place = address.to_string();
        let login = async {
            let socket = address.connect().await?;
            self.walsender(socket, address, database, user, password, purpose).await
        };
        match self.clock().timeout(login_limit(), Box::pin(login)).await {
            Ok(result) => result,
            Err(_) => Err(login_timeout(&place)),
        }
    }

    async fn walsender(
        &self,
        socket: Socket,
        address: Address,
        database: &str,
        user: &str,
        password: Option<&Secret>,
        purpose: Walsender,
    ) -> Result<Session, Failure> {
        let stream = ReplicationStream::new(socket);
        let authentication = Arc::clone(&stream.authentication);
        let mut config = configure(database, user, password, purpose.options());
        config.application_name(format!("{APPLICATION_PREFIX} {}", purpose.as_str()));
        let (client, connection) = config
            .connect_raw(stream, NoTls)
            .await
            .map_err(|error| login_failure(&error, user, database, &address.to_string()))?;
        let version = connection.parameter("server_version").and_then(parse_version);
        let mut session = Session::begin(client, connection, address, self.clock());
        session.password_asked = Some(authentication.load(Ordering::Acquire) != AUTHENTICATION_OK);
        if let Some(version) = version {
            session.version = version;
        }
        Ok(session)
    }
}

impl Session {
    /// Asks a walsender for its server's identity: the shortest proof that the login works.
    ///
    /// # Errors
    ///
    /// [`Reason::ServerError`] when this is no walsender's session.
    pub async fn identify_system(&self) -> Result<SystemIdentity, Failure> {
        let messages =
            self.simple_query("IDENTIFY_SYSTEM").await.map_err(|error| sql_failure(error, "identify the system"))?;
        messages
            .iter()
            .find_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some(SystemIdentity {
                    system_identifier: row.get(0)?.to_owned(),
                    position: row.get(2)?.parse().ok()?,
                }),
                _ => None,
            })
            .ok_or_else(|| Failure::new(Reason::ServerError, "the server did not identify itself").effect(Effect::None))
    }
}

/// `18.6 (Debian …)`, `15.20` or `19beta1`.
fn parse_version(text: &str) -> Option<ServerVersion> {
    let number = text.split_whitespace().next()?;
    let (major, minor) = number.split_once('.').unwrap_or((number, "0"));
    let digits = major.find(|c: char| !c.is_ascii_digit()).map_or(major, |end| &major[..end]);
    let major = digits.parse::<i32>().ok()?;
    Some(ServerVersion::from_num(major * 10_000 + minor.parse::<i32>().unwrap_or(0)))
}

const AUTHENTICATION_UNSEEN: i32 = -1;
const AUTHENTICATION_OK: i32 = 0;

/// Adds [`PARAMETER`] to the first message written, notes which kind of authentication the server asks for
/// first, and passes everything else through.
struct ReplicationStream<S> {
    inner: S,
    /// The startup message from tokio-postgres, until it is complete.
    startup: Option<Vec<u8>>,
    /// The startup message with the parameter, until it is written.
    pending: Vec<u8>,
    /// The server's first bytes, until there are nine of them.
    answer: Vec<u8>,
    authentication: Arc<AtomicI32>,
}

impl<S> ReplicationStream<S> {
    fn new(inner: S) -> Self {
        Self {
            inner,
            startup: Some(Vec::new()),
            pending: Vec::new(),
            answer: Vec::new(),
            authentication: Arc::new(AtomicI32::new(AUTHENTICATION_UNSEEN)),
        }
    }
}

impl<S: AsyncWrite + Unpin> ReplicationStream<S> {
    fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.pending.is_empty() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.pending))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.pending.drain(..written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReplicationStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
        if this.authentication.load(Ordering::Acquire) == AUTHENTICATION_UNSEEN {
            let wanted = 9_usize.saturating_sub(this.answer.len());
            let read = buf.filled().get(before..).unwrap_or_default();
            this.answer.extend_from_slice(read.get(..wanted).unwrap_or(read));
            // Kind, length, and the number of the authentication method.
            if let [b'R', _, _, _, _, method @ ..] = this.answer.as_slice()
                && let Ok(method) = <[u8; 4]>::try_from(method)
            {
                this.authentication.store(i32::from_be_bytes(method), Ordering::Release);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReplicationStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let Some(mut seen) = this.startup.take() else {
            ready!(this.poll_pending(cx))?;
            return Pin::new(&mut this.inner).poll_write(cx, buf);
        };
        seen.extend_from_slice(buf);
        let length = seen.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes) as usize);
        match length {
            Some(length) if length > 8 && seen.len() >= length => {
                // Before the NUL that ends the list of parameters.
                seen.splice(length - 1..length - 1, PARAMETER.iter().copied());
                let longer = u32::try_from(length + PARAMETER.len()).map_err(io::Error::other)?;
                if let Some(head) = seen.first_chunk_mut::<4>() {
                    *head = longer.to_be_bytes();
                }
                this.pending = seen;
            }
            _ => this.startup = Some(seen),
        }
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_pending(cx))?;
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_pending(cx))?;
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for (text, num) in [("15.20 (Debian 15.20-0+deb12u1)", 150_020), ("18.6", 180_006), ("19beta1", 190_000)] {
            assert_eq!(parse_version(text).map(ServerVersion::num), Some(num), "{text}");
        }
    }
}
