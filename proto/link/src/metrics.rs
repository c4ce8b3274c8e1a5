//! Metrics in Prometheus' text form, and a probe.
//!
//! Plain HTTP, meant for loopback or a private network: `/metrics` shows names,
//! numbers and nothing else; `/healthz` answers 200 once the process serves.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::{Clock, Failure, serve};

/// Everything is registered below this name: `pgportage_lag_seconds`.
const PREFIX: &str = "pgportage";

/// Scrapers and probes connected at once. More wait.
const CONNECTIONS: usize = 16;

/// How long a client may take over its request.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);

/// A process's metrics, and whether it serves. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Mutex<Registry>,
    serving: AtomicBool,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// No metrics yet, and not serving.
    pub fn new() -> Self {
        let registry = Mutex::new(Registry::with_prefix(PREFIX));
        Self(Arc::new(Inner { registry, serving: AtomicBool::new(false) }))
    }

    /// Registers metrics. They are shared handles of `prometheus_client`: keep a
    /// clone of each and set it where the value is known.
    pub fn register(&self, register: impl FnOnce(&mut Registry)) {
        register(&mut self.0.registry.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Says whether the process serves, for `/healthz`.
    pub fn set_serving(&self, serving: bool) {
        self.0.serving.store(serving, Ordering::Relaxed);
    }

    /// All metrics as text.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // A `String` takes everything.
        let _written = encode(&mut text, &self.0.registry.lock().unwrap_or_else(PoisonError::into_inner));
        text
    }
}

/// A listener for metrics.
#[derive(Debug)]
pub struct Endpoint {
    listener: TcpListener,
}

impl Endpoint {
    /// Binds the address.
    pub async fn bind(address: SocketAddr) -> Result<Self, Failure> {
        Ok(Self { listener: serve::bind(address).await? })
    }

    /// The address in use, with the port the system chose if none was given.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }

    /// Answers until `stop`. Safe to drop.
    pub async fn serve(self, metrics: Metrics, clock: Clock, stop: CancellationToken) {
        let permits = Arc::new(Semaphore::new(CONNECTIONS));
        let connections = TaskTracker::new();
        while let Some(next) = stop.run_until_cancelled(self.accept(&permits)).await {
            let Some((permit, tcp)) = next else {
                clock.sleep(Duration::from_millis(100)).await;
                continue;
            };
            let (metrics, stop) = (metrics.clone(), stop.clone());
            connections.spawn(async move {
                let _permit = permit;
                let service = service_fn(move |request| {
                    let answer = answer(&metrics, &request);
                    async move { Ok::<_, Infallible>(answer) }
                });
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(REQUEST_LIMIT)
                    .keep_alive(false)
                    .serve_connection(TokioIo::new(tcp), service);
                // A scraper that goes away is its own business.
                drop(stop.run_until_cancelled(connection).await);
            });
        }
    }

    async fn accept(&self, permits: &Arc<Semaphore>) -> Option<(tokio::sync::OwnedSemaphorePermit, TcpStream)> {
        let permit = Arc::clone(permits).acquire_owned().await.ok()?;
        match self.listener.accept().await {
            Ok((tcp, _)) => Some((permit, tcp)),
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection for metrics");
                None
            }
        }
    }
}

fn answer(metrics: &Metrics, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let (status, kind, body) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => {
            (StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", metrics.render())
        }
        (&Method::GET | &Method::HEAD, "/healthz") => {
            if metrics.0.serving.load(Ordering::Relaxed) {
                (StatusCode::OK, "text/plain", "serving\n".to_owned())
            } else {
                (StatusCode::SERVICE_UNAVAILABLE, "text/plain", "not serving\n".to_owned())
            }
        }
        _ => (StatusCode::NOT_FOUND, "text/plain", "try /metrics or /healthz\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::gauge::Gauge;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut tcp = TcpStream::connect(address).await.unwrap();
        tcp.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut text = String::new();
        tcp.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn metrics_and_health_are_served() {
        let metrics = Metrics::new();
        let lag = Gauge::<i64>::default();
        metrics.register(|registry| registry.register("lag_bytes", "Bytes behind", lag.clone()));
        lag.set(42);
        let endpoint = Endpoint::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let address = endpoint.address().unwrap();
        let stop = CancellationToken::new();
        let server = tokio::spawn(endpoint.serve(metrics.clone(), Clock, stop.clone()));

        assert!(get(address, "/metrics").await.contains("pgportage_lag_bytes 42"));
        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 503"));
        metrics.set_serving(true);
        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "/").await.starts_with("HTTP/1.1 404"));

        stop.cancel();
        server.await.unwrap();
    }
}
