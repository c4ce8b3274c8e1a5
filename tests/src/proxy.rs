//! A stretch of network between a program and whom it calls: it can be cut, and
//! it counts what passes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// What one read takes at most.
const CHUNK_BYTES: usize = 256 << 10;

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
    whole: watch::Sender<bool>,
    answered_bytes: AtomicU64,
}

impl Proxy {
    /// Carries everything to `target` on this machine, where nobody needs to
    /// listen yet.
    ///
    /// # Errors
    ///
    /// When no port can be had.
    pub async fn start(target: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let wire = Arc::new(Wire { whole: watch::Sender::new(true), answered_bytes: AtomicU64::new(0) });
        let listening = AbortOnDropHandle::new(tokio::spawn(listen(listener, target, Arc::clone(&wire))));
        Ok(Self { port, wire, _listening: listening })
    }

    /// Ends every connection; new ones end at once.
    pub fn cut(&self) {
        self.wire.whole.send_replace(false);
    }

    /// Lets new connections through again.
    pub fn mend(&self) {
        self.wire.whole.send_replace(true);
    }

    /// Bytes that came back from whom is called, since the start.
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
    let mut whole = wire.whole.subscribe();
    if !*whole.borrow_and_update() {
        return Ok(());
    }
    let called = TcpStream::connect(("127.0.0.1", target)).await?;
    for stream in [&caller, &called] {
        stream.set_nodelay(true)?;
    }
    let (mut from_caller, mut to_caller) = caller.into_split();
    let (mut from_called, mut to_called) = called.into_split();
    tokio::select! {
        biased;
        // The proxy is gone when nobody can cut the wire any more.
        _cut = whole.wait_for(|whole| !whole) => Ok(()),
        ended = carry(&mut from_caller, &mut to_called, |_| {}) => ended.context("to whom is called"),
        ended = carry(&mut from_called, &mut to_caller, |count| {
            wire.answered_bytes.fetch_add(count, Ordering::Relaxed);
        }) => ended.context("to the caller"),
    }
}

async fn carry(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    passed: impl Fn(u64),
) -> Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let count = from.read(&mut chunk).await?;
        if count == 0 {
            return Ok(());
        }
        to.write_all(&chunk[..count]).await?;
        passed(count as u64);
    }
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

    #[tokio::test]
    async fn carries_counts_and_is_cut() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let target = listener.local_addr().unwrap().port();
        let _answering = AbortOnDropHandle::new(tokio::spawn(doubling(listener)));
        let proxy = Proxy::start(target).await.unwrap();
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
