//! Many rows of a COPY as one message.
//!
//! PostgreSQL sends every row of a COPY as a message of its own. For a client that takes them one by one,
//! the messages cost more than the rows: they were a third of what the source agent did for a row. COPY
//! data may be cut anywhere (`COPY Operations` in PostgreSQL's description of its protocol), so
//! tokio-postgres cannot tell these messages from those that the server has sent.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes of COPY data in one message, except the last.
pub(super) const GATHERED_BYTES: usize = 128 << 10;
/// Bytes read from the server at once: several of the buffers that it fills.
const READ_BYTES: usize = 64 << 10;
/// Kind and length at the head of each message. The length counts itself.
const HEAD_BYTES: usize = 5;
const LENGTH_BYTES: usize = 4;
const COPY_DATA: u8 = b'd';

/// A connection on which COPY data comes in large messages. Data is held back until there is enough of it,
/// or another message comes. So it is of no use to a caller that waits for single rows.
pub(super) struct Gathering<S> {
    inner: S,
    read: BytesMut,
    gathered: Gathered,
}

impl<S> Gathering<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner, read: BytesMut::new(), gathered: Gathered::default() }
    }
}

/// What can be read from the connection, and how much of it was read.
#[derive(Debug, Default)]
struct Gathered {
    out: BytesMut,
    /// Where the message begins that COPY data is being added to.
    open: Option<usize>,
    /// The part of the server's message that has not arrived.
    rest: Option<Rest>,
}

#[derive(Clone, Copy, Debug)]
struct Rest {
    bytes: usize,
    is_copy_data: bool,
}

impl Gathered {
    /// Takes what can be read of the server's bytes so far. A message may come in pieces.
    fn take(&mut self, read: &mut BytesMut) {
        loop {
            match self.rest.take() {
                Some(Rest { bytes, is_copy_data }) => {
                    let now = bytes.min(read.len());
                    if is_copy_data {
                        self.append(&read[..now]);
                    } else {
                        self.out.put_slice(&read[..now]);
                    }
                    read.advance(now);
                    if now < bytes {
                        self.rest = Some(Rest { bytes: bytes - now, is_copy_data });
                        return;
                    }
                }
                None => {
                    let Some(head) = read.first_chunk::<HEAD_BYTES>().copied() else { return };
                    let [kind, length @ ..] = head;
                    let is_copy_data = kind == COPY_DATA;
                    if !is_copy_data {
                        self.close();
                        self.out.put_slice(&head);
                    }
                    let bytes = (u32::from_be_bytes(length) as usize).saturating_sub(LENGTH_BYTES);
                    self.rest = Some(Rest { bytes, is_copy_data });
                    read.advance(HEAD_BYTES);
                }
            }
        }
    }

    /// Adds data to the open message, and closes it whenever it is full.
    fn append(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let open = *self.open.get_or_insert_with(|| {
                self.out.reserve(HEAD_BYTES + GATHERED_BYTES);
                self.out.put_bytes(COPY_DATA, HEAD_BYTES);
                self.out.len() - HEAD_BYTES
            });
            let space = open + HEAD_BYTES + GATHERED_BYTES - self.out.len();
            let (now, later) = data.split_at(data.len().min(space));
            self.out.put_slice(now);
            if now.len() == space {
                self.close();
            }
            data = later;
        }
    }

    /// Closes the open message: its length is known now.
    fn close(&mut self) {
        let Some(open) = self.open.take() else { return };
        let length = u32::try_from(self.out.len() - open - 1).unwrap_or(u32::MAX);
        self.out[open + 1..open + HEAD_BYTES].copy_from_slice(&length.to_be_bytes());
    }

    /// How many bytes are complete.
    fn complete(&self) -> usize {
        self.open.unwrap_or(self.out.len())
    }

    /// Copies as much as there is room for.
    fn give(&mut self, buf: &mut ReadBuf<'_>) {
        let now = self.complete().min(buf.remaining());
        buf.put_slice(&self.out[..now]);
        self.out.advance(now);
        self.open = self.open.map(|open| open - now);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathering<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { inner, read, gathered } = self.get_mut();
        while gathered.complete() == 0 {
            read.reserve(READ_BYTES);
            if ready!(tokio_util::io::poll_read_buf(Pin::new(&mut *inner), cx, read))? == 0 {
                // The connection has ended. What was received until then counts.
                gathered.close();
                break;
            }
            gathered.take(read);
        }
        gathered.give(buf);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathering<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    type Message = (u8, Vec<u8>);

    fn bytes(messages: &[Message]) -> Vec<u8> {
        let message = |(kind, body): &Message| {
            let length = u32::try_from(body.len() + LENGTH_BYTES).unwrap();
            [&[*kind][..], &length.to_be_bytes(), body].concat()
        };
        messages.iter().flat_map(message).collect()
    }

    fn messages(mut bytes: &[u8]) -> Vec<Message> {
        let mut messages = Vec::new();
        while let Some((head, rest)) = bytes.split_first_chunk::<HEAD_BYTES>() {
            let [kind, length @ ..] = *head;
            let (body, rest) = rest.split_at(u32::from_be_bytes(length) as usize - LENGTH_BYTES);
            messages.push((kind, body.to_vec()));
            bytes = rest;
        }
        assert_eq!(bytes, b"", "half a message");
        messages
    }

    /// The expected output: COPY data in one message, cut only when it is full.
    fn expected(sent: &[Message]) -> Vec<Message> {
        let mut joined = Vec::<Message>::new();
        for (kind, body) in sent {
            match joined.last_mut() {
                Some((COPY_DATA, data)) if *kind == COPY_DATA => data.extend_from_slice(body),
                _ => joined.push((*kind, body.clone())),
            }
        }
        let cut = |(kind, body): Message| -> Vec<Message> {
            if kind == COPY_DATA {
                body.chunks(GATHERED_BYTES).map(|piece| (kind, piece.to_vec())).collect()
            } else {
                vec![(kind, body)]
            }
        };
        joined.into_iter().flat_map(cut).collect()
    }

    /// The output for an input written in pieces of one size and read in pieces of another.
    async fn read(sent: Vec<u8>, written: usize, asked: usize) -> Vec<u8> {
        let (near, mut far) = duplex(written);
        let writer = tokio::spawn(async move { far.write_all(&sent).await });
        let mut gathering = Gathering::new(near);
        let (mut all, mut piece) = (Vec::new(), vec![0; asked]);
        loop {
            let count = gathering.read(&mut piece).await.unwrap();
            if count == 0 {
                writer.await.unwrap().unwrap();
                return all;
            }
            all.extend_from_slice(&piece[..count]);
        }
    }

    fn message() -> impl Strategy<Value = Message> {
        let kind = prop_oneof![8 => Just(COPY_DATA), 1 => Just(b'c'), 1 => Just(b'N'), 1 => Just(b'Z')];
        let length = prop_oneof![20 => 0_usize..300, 1 => Just(GATHERED_BYTES), 1 => 0_usize..3 * GATHERED_BYTES];
        (kind, length, any::<u8>()).prop_map(|(kind, length, seed)| {
            (kind, (0..length).map(|place| seed.wrapping_add((place % 251) as u8)).collect())
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn nothing_is_lost_and_nothing_changes_places(
            sent in proptest::collection::vec(message(), 0..60), written in 1_usize..40_000, asked in 1_usize..40_000,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let received = runtime.block_on(read(bytes(&sent), written, asked));
            prop_assert!(messages(&received) == expected(&sent));
        }
    }

    #[tokio::test]
    async fn an_answer_that_is_no_data_is_not_held_back() {
        let (near, mut far) = duplex(1 << 10);
        let mut gathering = Gathering::new(near);
        let sent = bytes(&[(COPY_DATA, b"row".to_vec()), (b'E', b"no more".to_vec())]);
        far.write_all(&sent).await.unwrap();
        let mut received = vec![0; sent.len()];
        gathering.read_exact(&mut received).await.unwrap();
        assert_eq!(received, sent);
    }
}
