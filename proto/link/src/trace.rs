//! One trace from the operator's hand to both servers: the W3C context travels in
//! the metadata of calls, and inside every command, because one stream outlives
//! many traces.

use std::collections::HashMap;

use http::HeaderMap;
use opentelemetry::global;
use opentelemetry::propagation::{Extractor, Injector};
use tonic::metadata::{MetadataKey, MetadataMap};
use tonic::{Request, Status};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Writes the current span's context into the metadata of a call.
pub(crate) fn inject(metadata: &mut MetadataMap) {
    let context = Span::current().context();
    global::get_text_map_propagator(|propagator| propagator.inject_context(&context, &mut Outgoing(metadata)));
}

/// The same as an interceptor: `XClient::with_interceptor(channel, trace::interceptor)`.
///
/// # Errors
///
/// Never.
pub fn interceptor(mut request: Request<()>) -> Result<Request<()>, Status> {
    inject(request.metadata_mut());
    Ok(request)
}

/// The current span's context, for a command.
pub fn carry() -> HashMap<String, String> {
    let mut carrier = HashMap::new();
    let context = Span::current().context();
    global::get_text_map_propagator(|propagator| propagator.inject_context(&context, &mut carrier));
    carrier
}

/// Makes `span` a child of the span that a command was sent from. Call it before
/// the span is entered. Without a context in the carrier, nothing happens.
pub fn adopt(span: &Span, carrier: &HashMap<String, String>) {
    let context = global::get_text_map_propagator(|propagator| propagator.extract(carrier));
    // Refused only when the span is not recorded at all.
    let _recorded = span.set_parent(context);
}

/// Makes `span` a child of the span that a request came from.
pub(crate) fn adopt_headers(span: &Span, headers: &HeaderMap) {
    let context = global::get_text_map_propagator(|propagator| propagator.extract(&Incoming(headers)));
    let _recorded = span.set_parent(context);
}

/// The span of one call on its server, for `trace_fn`. It covers the call up to
/// the head of the answer: long streams make spans of their own.
pub(crate) fn server_span(request: &http::Request<()>) -> Span {
    let path = request.uri().path();
    let span = tracing::info_span!("rpc", otel.name = path.trim_start_matches('/'), otel.kind = "server");
    adopt_headers(&span, request.headers());
    span
}

struct Outgoing<'a>(&'a mut MetadataMap);

impl Injector for Outgoing<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(key), Ok(value)) = (MetadataKey::from_bytes(key.as_bytes()), value.parse()) {
            self.0.insert(key, value);
        }
    }
}

struct Incoming<'a>(&'a HeaderMap);

impl Extractor for Incoming<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}
