//! Connecting to a server, for every kind of session.

use std::fmt;
use std::io;
use std::time::Duration;

use pgportage_link::{Effect, Failure, Remedy};
use pgportage_proto::Reason;
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::{CancelToken, NoTls};

/// TCP keepalive: the silence after which the kernel probes the server's machine, the time between two
/// probes, and how many may stay without an answer.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_COUNT: u32 = 3;
/// How long the server's machine may leave sent data unacknowledged.
const UNHEARD: Duration = Duration::from_secs(30);

/// A connection to a server, by TCP or by a Unix socket.
pub(super) type Socket = Box<dyn Duplex>;

/// What a session needs of its connection.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// The directory of the Unix socket (begins with `/`), or a host name or
    /// address.
    pub(super) host: String,
    /// The port; for a Unix socket the number in its name.
    pub(super) port: u16,
}

impl Address {
    /// `host:port`, `[address]:port` or `/directory:port`; without a port, `usual_port`.
    pub(super) fn parse(text: &str, usual_port: u16) -> Self {
        match text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?))) {
            Some((host, port)) => Self { host: host.trim_matches(['[', ']']).to_owned(), port },
            None => Self { host: text.to_owned(), port: usual_port },
        }
    }

    /// Connects. Dropping the future ends the attempt.
    pub(super) async fn connect(&self) -> Result<Socket, Failure> {
        self.dial().await.map_err(|error| {
            Failure::new(Reason::ServerUnreachable, format!("could not connect to the server at {self}"))
                .remedy(Remedy::Wait)
                .effect(Effect::None)
                .because(&error)
        })
    }

    async fn dial(&self) -> io::Result<Socket> {
        if self.host.starts_with('/') {
            let path = format!("{}/.s.PGSQL.{}", self.host, self.port);
            return Ok(Box::new(UnixStream::connect(path).await?));
        }
        let socket = TcpStream::connect((self.host.as_str(), self.port)).await?;
        socket.set_nodelay(true)?;
        sockopt::set_tcp_keepidle(&socket, KEEPALIVE_IDLE)?;
        sockopt::set_tcp_keepintvl(&socket, KEEPALIVE_INTERVAL)?;
        sockopt::set_tcp_keepcnt(&socket, KEEPALIVE_COUNT)?;
        sockopt::set_socket_keepalive(&socket, true)?;
        sockopt::set_tcp_user_timeout(&socket, u32::try_from(UNHEARD.as_millis()).unwrap_or(u32::MAX))?;
        Ok(Box::new(socket))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Cancels the running statement of one session, over a connection of its own.
#[derive(Clone)]
pub(super) struct Canceller {
    pub(super) address: Address,
    pub(super) token: CancelToken,
}

impl Canceller {
    /// Asks the server to cancel. Success means that it was asked, not that a statement was running.
    pub(super) async fn cancel(&self) -> Result<(), Failure> {
        let socket = self.address.connect().await?;
        self.token.cancel_query_raw(socket, NoTls).await.map_err(|error| {
            Failure::new(Reason::ServerUnreachable, "could not cancel a statement")
                .remedy(Remedy::Wait)
                .effect(Effect::None)
                .because(&error)
        })
    }
}

impl fmt::Debug for Canceller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Canceller").field("address", &self.address).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_be_a_name_a_number_or_a_directory() {
        for (text, host, port) in [
            ("db.internal:6432", "db.internal", 6432),
            ("[::1]:6432", "::1", 6432),
            ("/run/postgresql:6432", "/run/postgresql", 6432),
            ("/run/postgresql", "/run/postgresql", 5432),
        ] {
            let address = Address::parse(text, 5432);
            assert_eq!((address.host.as_str(), address.port), (host, port), "{text}");
        }
    }

    #[test]
    fn an_address_is_written_as_it_is_read() {
        for text in ["db.internal:6432", "[::1]:6432", "/run/postgresql:6432"] {
            assert_eq!(Address::parse(text, 5432).to_string(), text);
        }
    }
}
