//! A receiver of traces: a real OTLP server over gRPC that keeps what it is sent.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Request, Response, Status};

use crate::wait::{self, Seen};

/// One span, as far as tests ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// `service.name` of the process that made it.
    pub service: String,
    /// What it measures.
    pub name: String,
    /// The trace, as hexadecimal digits.
    pub trace: String,
    /// Its own id.
    pub id: String,
    /// The span it is part of; empty at the root.
    pub parent: String,
    /// Names, values and events, those of its process included, as text.
    pub attributes: String,
}

/// The receiver. It ends when dropped.
#[derive(Debug)]
pub struct Receiver {
    /// Where to send to, as `OTEL_EXPORTER_OTLP_ENDPOINT` wants it.
    pub endpoint: String,
    spans: Arc<Mutex<Vec<Span>>>,
    _stop: DropGuard,
}

impl Receiver {
    /// Starts a receiver on a free port.
    ///
    /// # Errors
    ///
    /// When no port is free.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let spans = Arc::new(Mutex::new(Vec::new()));
        let stop = CancellationToken::new();
        let service = TraceServiceServer::new(Keeper { spans: Arc::clone(&spans) });
        let serving = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop.clone().cancelled_owned());
        tokio::spawn(serving);
        Ok(Self { endpoint, spans, _stop: stop.drop_guard() })
    }

    /// Everything received so far.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until the spans are as wanted.
    ///
    /// # Errors
    ///
    /// When they are not within `limit`; the error lists what came.
    pub async fn wait_for(&self, what: &str, limit: Duration, wanted: impl Fn(&[Span]) -> bool) -> Result<()> {
        wait::until(what, limit, || async {
            let spans = self.spans();
            Ok(if wanted(&spans) {
                Seen::Done(())
            } else {
                let names: Vec<_> = spans.iter().map(|span| format!("{}:{}", span.service, span.name)).collect();
                Seen::NotYet(names.join(" "))
            })
        })
        .await
    }
}

struct Keeper {
    spans: Arc<Mutex<Vec<Span>>>,
}

#[tonic::async_trait]
impl TraceService for Keeper {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut kept = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        for resource in request.into_inner().resource_spans {
            let of_the_process = format!("{:?}", resource.resource);
            let service = resource
                .resource
                .iter()
                .flat_map(|resource| &resource.attributes)
                .find(|attribute| attribute.key == "service.name")
                .and_then(|attribute| attribute.value.as_ref()?.value.as_ref())
                .map(|value| match value {
                    Value::StringValue(text) => text.clone(),
                    other => format!("{other:?}"),
                })
                .unwrap_or_default();
            for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                kept.push(Span {
                    service: service.clone(),
                    attributes: format!("{of_the_process} {:?} {:?} {:?}", span.attributes, span.events, span.status),
                    name: span.name,
                    trace: hexadecimal(&span.trace_id),
                    id: hexadecimal(&span.span_id),
                    parent: hexadecimal(&span.parent_span_id),
                });
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
