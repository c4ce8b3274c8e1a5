//! What TLS is spoken over: a TCP connection, or a relay.

use tokio::io::{AsyncRead, AsyncWrite};

/// Bytes in order, both ways.
pub trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// Any transport.
pub type BoxedTransport = Box<dyn Transport>;
