//! Moves bytes between one socket and one stream of the link.
//!
//! Both ends of a tunnel use the same pump: the destination agent with the
//! connection of its own PostgreSQL, the source agent with a connection to its
//! own PostgreSQL.

use std::fmt;

use bytes::BytesMut;
use futures_util::{Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::packing::{Chunk, Packer, Unpacker};

/// Largest chunk sent. Big enough that the cost of a message does not show; small enough that a few of them
/// in flight take little memory.
pub const CHUNK_BYTES: usize = 128 << 10;
/// Chunks that may wait between a socket and the link. Together with the
/// HTTP/2 window this bounds what one tunnel can hold in memory.
pub const CHUNKS_WAITING: usize = 4;

/// Bytes that went through a tunnel which ended in order, counted before packing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Bytes from the socket to the link.
    pub sent_bytes: u64,
    /// Bytes from the link to the socket.
    pub received_bytes: u64,
}

/// Why a tunnel ended early. Both its ends are closed by then.
#[derive(Debug)]
pub enum PumpError {
    /// The socket failed.
    Socket(std::io::Error),
    /// The link failed, or the other agent gave up.
    Link(String),
}

impl fmt::Display for PumpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(_) => f.write_str("the socket failed"),
            Self::Link(text) => write!(f, "the link failed: {text}"),
        }
    }
}

impl std::error::Error for PumpError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Socket(error) => Some(error),
            Self::Link(_) => None,
        }
    }
}

/// Carries bytes both ways until both directions have ended or one has failed.
///
/// The end of one direction is passed on (end of the socket's input ends `outbound`, end of `inbound` shuts
/// the socket's output) while the other direction goes on. A failure of either direction ends both at once:
/// the caller drops the socket with the future. Dropping the future is safe at any time and closes
/// everything.
pub async fn carry<R, W, S>(
    mut reader: R,
    mut writer: W,
    mut inbound: S,
    outbound: mpsc::Sender<Chunk>,
    mut packer: Packer,
) -> Result<Carried, PumpError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
    S: Stream<Item = Result<Chunk, String>> + Unpin,
{
    let to_link = async move {
        let mut sent = 0_u64;
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(CHUNK_BYTES);
            let mut limited = (&mut reader).take(CHUNK_BYTES as u64);
            let count = tokio::select! {
                biased;
                // Without this an idle socket would outlive a dead link.
                () = outbound.closed() => return Err(PumpError::Link("the other end is gone".to_owned())),
                count = limited.read_buf(&mut buffer) => count.map_err(PumpError::Socket)?,
            };
            if count == 0 {
                return Ok(sent); // The drop of `outbound` ends the stream in order.
            }
            sent += count as u64;
            outbound
                .send(packer.pack(buffer.split().freeze()))
                .await
                .map_err(|_| PumpError::Link("the other end is gone".to_owned()))?;
        }
    };
    let to_socket = async move {
        let (mut received, mut unpacker) = (0_u64, Unpacker::default());
        while let Some(chunk) = inbound.next().await {
            let bytes = unpacker.unpack(chunk.map_err(PumpError::Link)?);
            let bytes = bytes.map_err(|failure| PumpError::Link(failure.message))?;
            writer.write_all(&bytes).await.map_err(PumpError::Socket)?;
            received += bytes.len() as u64;
        }
        // The process behind the socket may have closed it altogether by now.
        match writer.shutdown().await {
            Err(error) if error.kind() != std::io::ErrorKind::NotConnected => Err(PumpError::Socket(error)),
            Ok(()) | Err(_) => Ok(received),
        }
    };
    let (sent_bytes, received_bytes) = tokio::try_join!(to_link, to_socket)?;
    Ok(Carried { sent_bytes, received_bytes })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{duplex, split};
    use tokio_stream::wrappers::ReceiverStream;

    use super::super::packing::Packing;
    use super::*;
    use crate::figures::Traffic;

    /// Two pumps joined as the link joins them; returns the outer sockets.
    fn tunnel(
        packing: Packing,
    ) -> (tokio::io::DuplexStream, tokio::io::DuplexStream, Vec<tokio::task::JoinHandle<Result<Carried, PumpError>>>)
    {
        let (near, near_inner) = duplex(64 << 10);
        let (far, far_inner) = duplex(64 << 10);
        let (up_tx, up_rx) = mpsc::channel(CHUNKS_WAITING);
        let (down_tx, down_rx) = mpsc::channel(CHUNKS_WAITING);
        let (r1, w1) = split(near_inner);
        let (r2, w2) = split(far_inner);
        let packer = || Packer::new(packing, Traffic::default());
        let a = tokio::spawn(carry(r1, w1, ReceiverStream::new(down_rx).map(Ok), up_tx, packer()));
        let b = tokio::spawn(carry(r2, w2, ReceiverStream::new(up_rx).map(Ok), down_tx, packer()));
        (near, far, vec![a, b])
    }

    #[tokio::test]
    async fn carries_bytes_both_ways_and_passes_a_half_close_on() {
        for packing in [Packing::Plain, Packing::Zstd] {
            carries_bytes_both_ways(packing).await;
        }
    }

    async fn carries_bytes_both_ways(packing: Packing) {
        let (mut near, mut far, pumps) = tunnel(packing);
        let sent: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        let expected = sent.clone();
        let writer = tokio::spawn(async move {
            near.write_all(&sent).await.unwrap();
            near.shutdown().await.unwrap(); // Half-close: still reads.
            let mut answer = Vec::new();
            near.read_to_end(&mut answer).await.unwrap();
            answer
        });
        let mut got = Vec::new();
        far.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, expected);
        far.write_all(b"answered after the end").await.unwrap();
        far.shutdown().await.unwrap();
        assert_eq!(writer.await.unwrap(), b"answered after the end");
        let mut totals = Vec::new();
        for pump in pumps {
            totals.push(pump.await.unwrap().unwrap());
        }
        assert_eq!(totals[0], Carried { sent_bytes: 3_000_000, received_bytes: 22 });
        assert_eq!(totals[1], Carried { sent_bytes: 22, received_bytes: 3_000_000 });
    }

    #[tokio::test]
    async fn a_dead_link_ends_an_idle_socket_at_once() {
        let (mut near, inner) = duplex(1024);
        let (reader, writer) = split(inner);
        let (down_tx, down_rx) = mpsc::channel::<Result<Chunk, String>>(1);
        let (up_tx, mut up_rx) = mpsc::channel(1);
        let pump = tokio::spawn(carry(
            reader,
            writer,
            ReceiverStream::new(down_rx),
            up_tx,
            Packer::new(Packing::Plain, Traffic::default()),
        ));
        near.write_all(b"hello").await.unwrap();
        assert_eq!(&up_rx.recv().await.unwrap().bytes[..], b"hello");
        down_tx.send(Err("connection reset".to_owned())).await.unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(5), pump).await.unwrap().unwrap();
        assert!(matches!(ended, Err(PumpError::Link(_))));
        let mut rest = Vec::new();
        assert_eq!(near.read_to_end(&mut rest).await.unwrap(), 0, "the socket is closed");
    }

    #[tokio::test]
    async fn a_vanished_reader_ends_an_idle_socket_at_once() {
        let (near, inner) = duplex(1024);
        let (reader, writer) = split(inner);
        let (_down_tx, down_rx) = mpsc::channel::<Result<Chunk, String>>(1);
        let (up_tx, up_rx) = mpsc::channel(1);
        let pump = tokio::spawn(carry(
            reader,
            writer,
            ReceiverStream::new(down_rx),
            up_tx,
            Packer::new(Packing::Plain, Traffic::default()),
        ));
        drop(up_rx);
        let ended = tokio::time::timeout(Duration::from_secs(5), pump).await.unwrap().unwrap();
        assert!(matches!(ended, Err(PumpError::Link(_))));
        drop(near);
    }

    #[tokio::test]
    async fn a_slow_reader_holds_the_writer_back() {
        let (near, inner) = duplex(1 << 20);
        let (reader, writer) = split(inner);
        let (_down_tx, down_rx) = mpsc::channel::<Result<Chunk, String>>(1);
        let (up_tx, mut up_rx) = mpsc::channel(CHUNKS_WAITING);
        let pump = tokio::spawn(carry(
            reader,
            writer,
            ReceiverStream::new(down_rx),
            up_tx,
            Packer::new(Packing::Plain, Traffic::default()),
        ));
        let feeder = tokio::spawn(async move {
            let mut near = near;
            let mut total = 0_usize;
            while tokio::time::timeout(Duration::from_millis(200), near.write_all(&[7; 64 << 10])).await.is_ok() {
                total += 64 << 10;
                assert!(total < 16 << 20, "nothing holds the writer back");
            }
            total
        });
        let total = feeder.await.unwrap();
        assert!(total <= (1 << 20) + (CHUNKS_WAITING + 2) * CHUNK_BYTES, "{total} bytes were buffered");
        assert!(up_rx.recv().await.unwrap().bytes.len() <= CHUNK_BYTES);
        pump.abort();
    }
}
