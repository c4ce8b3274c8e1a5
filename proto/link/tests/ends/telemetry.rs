//! One trace through a real call and a command, as a real collector receives it.
//! Telemetry is set up once for a process: nextest gives each test its own.

use std::net::SocketAddr;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::trace::v1::Span;
use pgportage_link::http2::Http2Settings;
use pgportage_link::identity::Role;
use pgportage_link::issue::Authority;
use pgportage_link::serve::{self, ServeSettings};
use pgportage_link::settings::TelemetrySettings;
use pgportage_link::tls::Identity;
use pgportage_link::{Clock, dial, health, telemetry, trace};
use tokio::sync::mpsc;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Request, Response, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tracing::Instrument;

struct Collector(mpsc::UnboundedSender<(String, Span)>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.unwrap().attributes;
            let service = attributes.iter().find(|attribute| attribute.key == "service.name").unwrap();
            let service = format!("{:?}", service.value);
            for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                self.0.send((service.clone(), span)).unwrap();
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_runs_through_calls_and_commands() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (sender, mut received) = mpsc::unbounded_channel();
    let collector = tonic::transport::Server::builder().add_service(TraceServiceServer::new(Collector(sender)));
    tokio::spawn(collector.serve_with_incoming(TcpListenerStream::new(listener)));
    let settings = TelemetrySettings { otlp_endpoint: Some(endpoint), ..TelemetrySettings::default() };
    let guard = telemetry::init("pgportage-test", &settings).unwrap();

    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::create(&dir.path().join("ca"), "fleet", Clock).unwrap();
    let identity = |role, name| {
        let issued = authority.issue(role, name, Duration::from_secs(3600)).unwrap();
        Identity::load(&authority.write(&issued, &dir.path().join("out")).unwrap(), Clock).unwrap()
    };
    let (coordinator, operator) = (identity(Role::Coordinator, "main"), identity(Role::Operator, "anna"));
    let expected = coordinator.own().id();
    let listener = serve::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let stop = CancellationToken::new();
    let routes = Routes::new(health::service().await.1);
    let server = tokio::spawn(serve::serve(listener, coordinator, ServeSettings::control(), routes, stop.clone()));

    let channel = dial::channel(&address, &expected, &operator, &Http2Settings::control()).await.unwrap();
    let hand = tracing::info_span!("hand", migration.id = "orders");
    let carried = async {
        let mut client = HealthClient::with_interceptor(channel, trace::interceptor);
        client.check(HealthCheckRequest { service: String::new() }).await.unwrap();
        trace::carry()
    }
    .instrument(hand)
    .await;
    // Later, elsewhere: a command arrives.
    let step = tracing::info_span!("step", step = "inspect");
    trace::adopt(&step, &carried);
    step.in_scope(|| {});
    drop(step);
    stop.cancel();
    server.await.unwrap().unwrap();
    guard.shutdown().await;

    let mut spans = Vec::new();
    while spans.len() < 3 {
        spans.push(Clock.timeout(Duration::from_secs(60), received.recv()).await.unwrap().unwrap());
    }
    let find = |name: &str| {
        let (service, span) = spans.iter().find(|(_, span)| span.name == name).unwrap_or_else(|| panic!("{spans:#?}"));
        assert!(service.contains("pgportage-test"), "{service}");
        span
    };
    let (hand, call, step) = (find("hand"), find("grpc.health.v1.Health/Check"), find("step"));
    assert!(hand.parent_span_id.is_empty());
    for child in [call, step] {
        assert_eq!((&child.trace_id, &child.parent_span_id), (&hand.trace_id, &hand.span_id));
    }
    assert!(hand.attributes.iter().any(|attribute| attribute.key == "migration.id"), "{hand:#?}");
}
