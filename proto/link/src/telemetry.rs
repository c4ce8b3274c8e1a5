//! Logs to standard error and traces to a collector, set up once at start.
//!
//! Logs are text or JSON. Traces go by OTLP over gRPC when an endpoint is
//! configured, or when the standard `OTEL_…` variables name one; the batch
//! settings of those variables are honoured as well.

use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use opentelemetry::{KeyValue, global};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use pgportage_proto::Reason;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::settings::{LogFormat, TelemetrySettings};
use crate::{Effect, Failure};

/// What the exporter itself is made of. Its spans would be exported by further
/// calls, without end.
const UNTRACED: [&str; 5] = ["h2=off", "hyper=off", "hyper_util=off", "tonic=off", "tower=off"];

/// How long the last spans may take to leave.
const FLUSH_LIMIT: Duration = Duration::from_secs(3);

/// Keeps the export going. Give it to [`TelemetryGuard::shutdown`] at the end, or
/// the last spans are lost.
#[derive(Debug)]
#[must_use = "the last spans are lost without a shutdown"]
pub struct TelemetryGuard {
    traces: Option<SdkTracerProvider>,
}

impl TelemetryGuard {
    /// Sends what is left, for a few seconds at most.
    pub async fn shutdown(self) {
        let Some(traces) = self.traces else { return };
        // It blocks.
        let outcome = tokio::task::spawn_blocking(move || traces.shutdown_with_timeout(FLUSH_LIMIT)).await;
        if let Ok(Err(error)) = outcome {
            tracing::warn!(%error, "the last spans could not be exported");
        }
    }
}

/// Starts logging and, if configured, the export of traces. Call it once, inside
/// the runtime. `service_name` yields to `OTEL_SERVICE_NAME`, the log filter to
/// `RUST_LOG`.
pub fn init(service_name: &str, settings: &TelemetrySettings) -> Result<TelemetryGuard, Failure> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let filter = variable("RUST_LOG").unwrap_or_else(|| settings.log_filter.clone());
    let log_filter = EnvFilter::try_new(&filter)
        .map_err(|error| invalid(&format!("\"{filter}\" is no log filter")).because(&error))?;
    let log: Box<dyn Layer<Registry> + Send + Sync> = match settings.log_format {
        LogFormat::Text => {
            let colour = std::io::IsTerminal::is_terminal(&std::io::stderr()) && variable("NO_COLOR").is_none();
            tracing_subscriber::fmt::layer().with_ansi(colour).with_writer(std::io::stderr).boxed()
        }
        LogFormat::Json => {
            tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(std::io::stderr).boxed()
        }
    };

    global::set_text_map_propagator(TraceContextPropagator::new());
    let off = variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
        || variable("OTEL_TRACES_EXPORTER").is_some_and(|value| value == "none");
    let named = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"].map(variable);
    let wanted = !off && (settings.otlp_endpoint.is_some() || named.iter().any(Option::is_some));
    let traces = if wanted { Some(traces(service_name, settings)?) } else { None };
    // Without an exporter there still are trace ids: they tie log lines together
    // and travel on to those who export.
    let tracer = match &traces {
        Some(traces) => traces.tracer("pgportage"),
        None => SdkTracerProvider::builder().build().tracer("pgportage"),
    };
    let span_filter = UNTRACED.iter().fold(EnvFilter::new("info"), |filter, directive| {
        // Constants, all of them well-formed.
        match directive.parse() {
            Ok(directive) => filter.add_directive(directive),
            Err(_) => filter,
        }
    });
    let spans = tracing_opentelemetry::layer().with_tracer(tracer).with_filter(span_filter);

    tracing_subscriber::registry()
        .with(log.with_filter(log_filter))
        .with(spans)
        .try_init()
        .map_err(|error| Failure::new(Reason::Internal, "logging was started twice").because(&error))?;
    Ok(TelemetryGuard { traces })
}

fn traces(service_name: &str, settings: &TelemetrySettings) -> Result<SdkTracerProvider, Failure> {
    let mut exporter = SpanExporter::builder().with_tonic();
    if let Some(endpoint) = &settings.otlp_endpoint {
        exporter = exporter.with_endpoint(endpoint);
    }
    let exporter =
        exporter.build().map_err(|error| invalid("traces cannot be exported to this endpoint").because(&error))?;
    // The builder reads `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES`.
    let mut resource = Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    if std::env::var_os("OTEL_SERVICE_NAME").is_none_or(|name| name.is_empty()) {
        resource = resource.with_service_name(service_name.to_owned());
    }
    Ok(SdkTracerProvider::builder().with_resource(resource.build()).with_batch_exporter(exporter).build())
}

fn invalid(message: &str) -> Failure {
    Failure::new(Reason::ConfigurationInvalid, message).effect(Effect::None)
}
