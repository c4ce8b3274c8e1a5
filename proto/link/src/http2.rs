//! HTTP/2 settings and message limits, in one place because both ends have to
//! agree on what is reasonable.

use std::time::Duration;

/// Most bytes of a message that commands something or asks for something. Set
/// it on each generated server: `max_decoding_message_size`.
pub const COMMAND_MESSAGE_BYTES: usize = 1 << 20;

/// Most bytes of a message that carries facts, findings, a whole migration, or a
/// piece of a schema or tunnel.
pub const FACT_MESSAGE_BYTES: usize = 4 << 20;

/// Most bytes of the headers or trailers of a call. Failures travel in trailers:
/// [`crate::status`] keeps them below it.
pub(crate) const HEADER_LIST_BYTES: u32 = 16 << 10;

/// Most calls open at once on one connection.
pub const MAX_STREAMS: u32 = 32;

/// How one connection behaves. The receiver's windows count, so rows that flow
/// both ways need them on both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http2Settings {
    /// How long connecting may take: TCP, TLS and the first byte of HTTP/2.
    pub connect_timeout: Duration,
    /// How often a ping is sent, also while nothing else is.
    pub keepalive_interval: Duration,
    /// How long its answer may take. Then the connection is dead.
    pub keepalive_timeout: Duration,
    /// Bytes one call may have in flight towards us.
    pub stream_window_bytes: u32,
    /// Bytes all calls of a connection may have in flight towards us.
    pub connection_window_bytes: u32,
}

impl Http2Settings {
    /// For commands, facts and operators: small messages, little memory.
    pub const fn control() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            keepalive_interval: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(5),
            stream_window_bytes: 1 << 20,
            connection_window_bytes: 4 << 20,
        }
    }

    /// For schema and rows between agents: 200 ms at 1 Gbit/s are 25 MB in flight.
    /// With 80 ms between two clouds, windows of 16 MiB carry 141 MB/s where the
    /// defaults carry 23. It is also what a receiver holds that does not come to
    /// read, so it is no larger.
    ///
    /// A ping waits behind the bytes that are on their way, through a relay behind
    /// a whole window of them. That may take many seconds on a line that is slow
    /// and not dead.
    pub const fn link() -> Self {
        Self {
            keepalive_timeout: Duration::from_secs(20),
            stream_window_bytes: 32 << 20,
            connection_window_bytes: 32 << 20,
            ..Self::control()
        }
    }

    /// For one of `count` connections that are used at the same time: together they
    /// have in flight what one alone would.
    pub fn shared_by(self, count: usize) -> Self {
        let count = u32::try_from(count.max(1)).unwrap_or(u32::MAX);
        let share = |bytes: u32| (bytes / count).max(Self::control().stream_window_bytes);
        Self {
            stream_window_bytes: share(self.stream_window_bytes),
            connection_window_bytes: share(self.connection_window_bytes),
            ..self
        }
    }
}
