//! The way to another agent that leads through the coordinator.
//!
//! What comes out is a [`RelayStream`]: bytes in order, both ways, like a TCP
//! connection. The agents speak the same TLS over it as they do directly, and
//! verify each other's certificates: the coordinator carries the session and can
//! neither read it nor take part in it.
//!
//! Each relay has a connection of its own to the coordinator, so that rows delay
//! neither the session nor another relay.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt, TryStreamExt};
use pgportage_proto::v1::relay_service_client::RelayServiceClient;
use pgportage_proto::{Reason, v1};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::StreamReader;
use tokio_util::sync::PollSender;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::dial::Detour;
use crate::http2::{COMMAND_MESSAGE_BYTES, Http2Settings};
use crate::identity::{Role, SpiffeId};
use crate::status::from_status;
use crate::tls::Identity;
use crate::transport::BoxedTransport;
use crate::{Effect, Failure, dial};

/// Largest chunk sent: many TLS records, so that the cost of a message does not
/// show.
const CHUNK_BYTES: usize = 128 << 10;

/// Chunks that may wait between TLS and the connection to the coordinator.
/// Together with the HTTP/2 windows this bounds what one relay holds in memory.
const CHUNKS_WAITING: usize = 4;

/// An agent's way to its coordinator's relays. Cloning is cheap; nothing is
/// dialled before it is needed.
#[derive(Clone, Debug)]
pub struct Relay {
    address: String,
    coordinator: String,
    identity: Identity,
}

impl Relay {
    /// `address` is the coordinator's, `coordinator` the name in its certificate.
    pub fn new(address: &str, coordinator: &str, identity: Identity) -> Self {
        Self { address: address.to_owned(), coordinator: coordinator.to_owned(), identity }
    }

    /// Asks for another agent and returns when it has accepted. That it is this
    /// agent is proved only by TLS over the stream. Dropping the future takes the
    /// question back.
    ///
    /// # Errors
    ///
    /// [`Reason::PeerUnreachable`], worth another try, when the coordinator or
    /// the other agent is away; [`Reason::PeerRefused`] when the coordinator
    /// knows no migration of the two; [`Reason::ProtocolTooOld`] when it is of a
    /// release that does not relay.
    pub async fn open(&self, peer: &SpiffeId) -> Result<RelayStream, Failure> {
        use v1::open_relay_request::Message;

        let name = peer.name();
        let mut client = self.client().await.map_err(|failure| no_relay(name, failure))?;
        let (writer, chunks) = Writer::new();
        let first = v1::OpenRelayRequest { message: Some(Message::PeerAgentId(name.to_owned())) };
        let requests = tokio_stream::iter([first])
            .chain(chunks.map(|chunk| v1::OpenRelayRequest { message: Some(Message::Chunk(chunk)) }));
        let opened = client.open_relay(requests).await;
        let inbound = opened.map_err(|status| no_relay(name, refused(status)))?.into_inner();
        Ok(RelayStream::new(inbound.map_ok(|response| response.chunk), writer, client))
    }

    /// Accepts a relay that was offered. Who is at its other end is proved only
    /// by TLS over the stream. Dropping the future leaves the offer open.
    ///
    /// # Errors
    ///
    /// [`Reason::PeerRefused`] when there is no such offer any more;
    /// [`Reason::PeerUnreachable`] when the coordinator is away.
    pub async fn accept(&self, relay_id: &str) -> Result<RelayStream, Failure> {
        use v1::accept_relay_request::Message;

        let mut client = self.client().await?;
        let (writer, chunks) = Writer::new();
        let first = v1::AcceptRelayRequest { message: Some(Message::RelayId(relay_id.to_owned())) };
        let requests = tokio_stream::iter([first])
            .chain(chunks.map(|chunk| v1::AcceptRelayRequest { message: Some(Message::Chunk(chunk)) }));
        let inbound = client.accept_relay(requests).await.map_err(refused)?.into_inner();
        Ok(RelayStream::new(inbound.map_ok(|response| response.chunk), writer, client))
    }

    async fn client(&self) -> Result<RelayServiceClient<Channel>, Failure> {
        let expected = self.identity.id_of(Role::Coordinator, &self.coordinator)?;
        let channel = dial::channel(&self.address, &expected, &self.identity, &Http2Settings::link()).await?;
        Ok(RelayServiceClient::new(channel).max_decoding_message_size(COMMAND_MESSAGE_BYTES))
    }
}

impl Detour for Relay {
    fn open_to<'a>(&'a self, peer: &'a SpiffeId) -> BoxFuture<'a, Result<BoxedTransport, Failure>> {
        Box::pin(async move { Ok(Box::new(self.open(peer).await?) as BoxedTransport) })
    }
}

/// A failure on the way, told as one of the way to the other agent.
fn no_relay(peer: &str, failure: Failure) -> Failure {
    let why = format!("{} {}", dial::sentence(&failure.message), failure.detail);
    let message = format!("no way to agent {peer} through the coordinator");
    Failure { message, detail: why.trim_end().to_owned(), ..failure }.with("peer", peer)
}

fn refused(status: Status) -> Failure {
    if status.code() == Code::Unimplemented {
        return Failure::new(Reason::ProtocolTooOld, "the coordinator is of a release that does not relay")
            .hint("Install the agents' release on the coordinator's machine, or let the agents reach each other.")
            .effect(Effect::None);
    }
    from_status(status)
}

/// One relay, from its agent's end. Dropping it ends both directions.
pub struct RelayStream {
    reader: StreamReader<BoxStream<'static, io::Result<Bytes>>, Bytes>,
    writer: Writer,
    /// The connection to the coordinator, which ends with the stream.
    _connection: RelayServiceClient<Channel>,
}

impl RelayStream {
    fn new(
        inbound: impl Stream<Item = Result<Bytes, Status>> + Send + 'static,
        writer: Writer,
        connection: RelayServiceClient<Channel>,
    ) -> Self {
        let lost = |status| io::Error::new(io::ErrorKind::ConnectionAborted, from_status(status));
        Self { reader: StreamReader::new(inbound.map_err(lost).boxed()), writer, _connection: connection }
    }
}

impl fmt::Debug for RelayStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RelayStream").finish_non_exhaustive()
    }
}

impl AsyncRead for RelayStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.reader).poll_read(cx, buffer)
    }
}

impl AsyncWrite for RelayStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.writer.poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer.poll_shutdown(cx)
    }
}

/// Gathers what is written into chunks, until one is full or flushed.
struct Writer {
    pending: BytesMut,
    sender: PollSender<Bytes>,
}

impl Writer {
    fn new() -> (Self, ReceiverStream<Bytes>) {
        let (sender, chunks) = mpsc::channel(CHUNKS_WAITING);
        (Self { pending: BytesMut::new(), sender: PollSender::new(sender) }, ReceiverStream::new(chunks))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.pending.len() >= CHUNK_BYTES {
            ready!(self.poll_flush(cx))?;
        }
        let taken = bytes.len().min(CHUNK_BYTES - self.pending.len());
        self.pending.extend_from_slice(&bytes[..taken]);
        Poll::Ready(Ok(taken))
    }

    /// Ready when the chunk is on its way, not when it has arrived.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the relay has ended");
        if !self.pending.is_empty() {
            ready!(self.sender.poll_reserve(cx)).map_err(gone)?;
            self.sender.send_item(self.pending.split().freeze()).map_err(gone)?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        self.sender.close();
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn what_is_written_leaves_in_full_chunks_or_when_flushed() {
        let (mut writer, mut chunks) = Writer::new();
        let bytes = vec![7; CHUNK_BYTES + 10];
        assert_eq!(poll_fn(|cx| writer.poll_write(cx, &bytes)).await.unwrap(), CHUNK_BYTES);
        assert_eq!(poll_fn(|cx| writer.poll_write(cx, &bytes[CHUNK_BYTES..])).await.unwrap(), 10);
        assert_eq!(chunks.next().await.unwrap().len(), CHUNK_BYTES);
        poll_fn(|cx| writer.poll_flush(cx)).await.unwrap();
        assert_eq!(chunks.next().await.unwrap().len(), 10);
        poll_fn(|cx| writer.poll_write(cx, b"last")).await.unwrap();
        poll_fn(|cx| writer.poll_shutdown(cx)).await.unwrap();
        assert_eq!(chunks.next().await.unwrap(), b"last"[..]);
        assert_eq!(chunks.next().await, None);
    }

    #[tokio::test]
    async fn a_reader_that_does_not_read_holds_the_writer_back() {
        let (mut writer, chunks) = Writer::new();
        let bytes = vec![7; CHUNK_BYTES];
        let mut taken = 0;
        while let Poll::Ready(written) = poll_fn(|cx| Poll::Ready(writer.poll_write(cx, &bytes))).await {
            taken += written.unwrap();
        }
        assert_eq!(taken, (CHUNKS_WAITING + 1) * CHUNK_BYTES);
        drop(chunks);
        let ended = poll_fn(|cx| writer.poll_write(cx, &bytes)).await.unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::BrokenPipe);
    }
}
