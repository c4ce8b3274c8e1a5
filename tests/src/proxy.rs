//! A stretch of network between a caller and the program that it calls: it can be cut,
//! be deaf in either direction, be long, and it counts what passes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use pgportage_link::Clock;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

/// What one read takes at most.
const CHUNK_BYTES: usize = 256 << 10;

/// Chunks under way in one direction of a connection: enough for what a fast
/// sender writes during the delay of a long line.
const CHUNKS: usize = 256;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the caller.
    ToCalled,
    /// From the called program.
    ToCaller,
}

/// Listens on 127.0.0.1 and carries every connection to one port. Ends, with all
/// its connections, when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    /// Where to call.
    pub port: u16,
    wire: Arc<Wire>,
    _listening: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Wire {
    condition: watch::Sender<Condition>,
    answered_bytes: AtomicU64,
}

/// What the wire is like now.
#[derive(Clone, Debug, Default)]
struct Condition {
    cut: bool,
    deaf: Vec<Direction>,
    delay: Duration,
}

impl Proxy {
    /// Carries everything to `target` on this machine, where no program needs to
    /// listen yet.
    ///
    /// # Errors
    ///
    /// When no port can be had.
    pub async fn start(target: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let condition = watch::Sender::new(Condition::default());
        let wire = Arc::new(Wire { condition, answered_bytes: AtomicU64::new(0) });
        let listening = AbortOnDropHandle::new(tokio::spawn(listen(listener, target, Arc::clone(&wire))));
        Ok(Self { port, wire, _listening: listening })
    }

    /// Ends every connection; new ones end at once.
    pub fn cut(&self) {
        self.wire.condition.send_modify(|condition| condition.cut = true);
    }

    /// Lets nothing through in these directions any more, and tells neither end:
    /// connections stay, and new ones can be made. What is sent waits.
    pub fn deafen(&self, directions: &[Direction]) {
        self.wire.condition.send_modify(|condition| condition.deaf = directions.to_vec());
    }

    /// Lets everything through again.
    pub fn mend(&self) {
        self.wire.condition.send_modify(|condition| {
            condition.cut = false;
            condition.deaf.clear();
        });
    }

    /// Makes every byte take so long, in each direction, from now on.
    pub fn delay(&self, delay: Duration) {
        self.wire.condition.send_modify(|condition| condition.delay = delay);
    }

    /// Bytes that came back from the called program, since the start.
    #[must_use]
    pub fn answered_bytes(&self) -> u64 {
        self.wire.answered_bytes.load(Ordering::Relaxed)
    }
}

async fn listen(listener: TcpListener, target: u16, wire: Arc<Wire>) {
    loop {
        let Ok((caller, _address)) = listener.accept().await else { continue };
        let wire = Arc::clone(&wire);
        let _detached = tokio::spawn(async move {
            if let Err(error) = connect(caller, target, &wire).await {
                tracing::debug!(%error, target, "a connection through the proxy ended");
            }
        });
    }
}

/// One connection, until either end closes it or the wire is cut.
async fn connect(caller: TcpStream, target: u16, wire: &Wire) -> Result<()> {
    let mut condition = wire.condition.subscribe();
    if condition.borrow_and_update().cut {
        return Ok(());
    }
    let called = TcpStream::connect(("127.0.0.1", target)).await?;
    for stream in [&caller, &called] {
        stream.set_nodelay(true)?;
    }
    let (from_caller, to_caller) = caller.into_split();
    let (from_called, to_called) = called.into_split();
    tokio::select! {
        biased;
        // The proxy is gone when no handle is left that could cut the wire.
        _cut = condition.wait_for(|condition| condition.cut) => Ok(()),
        ended = carry(from_caller, to_called, wire, Direction::ToCalled) => ended.context("to the called program"),
        ended = carry(from_called, to_caller, wire, Direction::ToCaller) => ended.context("to the caller"),
    }
}

/// Bytes and the moment when they are at the other end.
type UnderWay = (Instant, Vec<u8>);

/// Carries one direction of a connection to its end, and what is under way then.
async fn carry(
    from: impl AsyncRead + Unpin,
    to: impl AsyncWrite + Unpin,
    wire: &Wire,
    direction: Direction,
) -> Result<()> {
    let (sender, receiver) = mpsc::channel(CHUNKS);
    let delivering = deliver(receiver, to, wire, direction);
    tokio::pin!(delivering);
    tokio::select! {
        delivered = &mut delivering => delivered,
        taken = take(from, sender, wire) => {
            taken?;
            delivering.await
        }
    }
}

async fn take(mut from: impl AsyncRead + Unpin, under_way: mpsc::Sender<UnderWay>, wire: &Wire) -> Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let count = from.read(&mut chunk).await?;
        let arrival = Clock.now() + wire.condition.borrow().delay;
        if count == 0 || under_way.send((arrival, chunk[..count].to_vec())).await.is_err() {
            return Ok(());
        }
    }
}

async fn deliver(
    mut under_way: mpsc::Receiver<UnderWay>,
    mut to: impl AsyncWrite + Unpin,
    wire: &Wire,
    direction: Direction,
) -> Result<()> {
    let mut condition = wire.condition.subscribe();
    while let Some((arrival, chunk)) = under_way.recv().await {
        Clock.sleep_until(arrival).await;
        condition.wait_for(|condition| !condition.deaf.contains(&direction)).await?;
        to.write_all(&chunk).await?;
        if direction == Direction::ToCaller {
            wire.answered_bytes.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers every byte with two.
    async fn doubling(listener: TcpListener) {
        while let Ok((mut stream, _address)) = listener.accept().await {
            let mut byte = [0];
            while stream.read_exact(&mut byte).await.is_ok() {
                stream.write_all(&[byte[0]; 2]).await.unwrap();
            }
        }
    }

    async fn start_doubling() -> (Proxy, AbortOnDropHandle<()>) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let target = listener.local_addr().unwrap().port();
        let answering = AbortOnDropHandle::new(tokio::spawn(doubling(listener)));
        (Proxy::start(target).await.unwrap(), answering)
    }

    #[tokio::test]
    async fn is_deaf_in_one_direction_and_long_in_both() {
        let (proxy, _answering) = start_doubling().await;
        let mut answer = [0; 2];
        let mut stream = TcpStream::connect(("127.0.0.1", proxy.port)).await.unwrap();
        for deaf in [Direction::ToCalled, Direction::ToCaller] {
            proxy.deafen(&[deaf]);
            stream.write_all(b"x").await.unwrap();
            let silence = Clock.timeout(Duration::from_millis(50), stream.read(&mut answer)).await;
            assert!(silence.is_err(), "{silence:?}");
            proxy.mend();
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"xx", "what was sent meanwhile arrives");
        }

        let delay = Duration::from_millis(40);
        proxy.delay(delay);
        let begun = Clock.now();
        stream.write_all(b"y").await.unwrap();
        stream.read_exact(&mut answer).await.unwrap();
        assert!(begun.elapsed() >= 2 * delay, "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn carries_counts_and_is_cut() {
        let (proxy, _answering) = start_doubling().await;
        let mut answer = [0; 2];
        let mut stream = TcpStream::connect(("127.0.0.1", proxy.port)).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!((&answer, proxy.answered_bytes()), (b"xx", 2));

        proxy.cut();
        assert_eq!(stream.read(&mut answer).await.unwrap_or(0), 0, "an open connection ends");
        let mut late = TcpStream::connect(("127.0.0.1", proxy.port)).await.unwrap();
        assert_eq!(late.read(&mut answer).await.unwrap_or(0), 0, "a new one ends too");

        proxy.mend();
        let mut stream = TcpStream::connect(("127.0.0.1", proxy.port)).await.unwrap();
        stream.write_all(b"y").await.unwrap();
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!((&answer, proxy.answered_bytes()), (b"yy", 4));
    }
}
