//! One trace runs from the operator's hand through the coordinator to both agents.

use std::collections::BTreeMap;
use std::time::Duration;

use pgportage_tests::ledger::End;
use pgportage_tests::otlp::{Receiver, Span};
use pgportage_tests::site::APPLICATION;
use pgportage_tests::{PostgresVersion, Site, SiteOptions, workload};

/// Exporters send in batches, every few seconds.
const LIMIT: Duration = Duration::from_secs(60);

/// Whether a span is below another one, however far.
fn is_below(span: &Span, ancestor: &Span, all: &[Span]) -> bool {
    let by_id: BTreeMap<&str, &Span> = all.iter().map(|span| (span.id.as_str(), span)).collect();
    let mut current = span;
    for _depth in 0..all.len() {
        if current.parent == ancestor.id {
            return true;
        }
        match by_id.get(current.parent.as_str()) {
            Some(parent) => current = parent,
            None => return false,
        }
    }
    false
}

/// The services with a span below the CLI's root of the trace in which `start`
/// was typed.
fn services_below_the_start(spans: &[Span]) -> Vec<String> {
    let roots = spans.iter().filter(|span| span.service == "pgportage" && span.parent.is_empty());
    let mut best = Vec::new();
    for root in roots {
        let mut services: Vec<String> = spans
            .iter()
            .filter(|span| span.trace == root.trace && is_below(span, root, spans))
            .map(|span| span.service.clone())
            .collect();
        services.sort();
        services.dedup();
        if services.len() > best.len() {
            best = services;
        }
    }
    best
}

#[tokio::test]
async fn one_trace_runs_from_the_cli_to_both_agents() {
    let receiver = Receiver::start().await.unwrap();
    let mut site = Site::prepare(SiteOptions::new(PostgresVersion::V16, PostgresVersion::V18)).await.unwrap();
    for service in [&mut site.coordinator, &mut site.source_agent, &mut site.destination_agent] {
        service.set_variable("OTEL_EXPORTER_OTLP_ENDPOINT", &receiver.endpoint);
    }
    site.cli.environment.push(("OTEL_EXPORTER_OTLP_ENDPOINT".into(), receiver.endpoint.clone().into()));
    site.start_programs().await.unwrap();
    workload::prepare(&site.source, &site.database, APPLICATION, 100).await.unwrap();
    site.migrate_until_cutover("traced").await.unwrap();

    // Both agents are one program; what tells them apart is the instance.
    receiver
        .wait_for("spans of all three programs in one trace", LIMIT, |spans| {
            let services = services_below_the_start(spans);
            ["pgportage-coordinator", "pgportage-agent"].iter().all(|wanted| services.iter().any(|name| name == wanted))
        })
        .await
        .unwrap();
    for end in [End::Source, End::Destination] {
        let name = match end {
            End::Source => &site.source_config.name,
            End::Destination => &site.destination_config.name,
        };
        receiver
            .wait_for(&format!("a span that names the agent {name}"), LIMIT, |spans| {
                spans.iter().any(|span| span.service == "pgportage-agent" && span.attributes.contains(name.as_str()))
            })
            .await
            .unwrap();
    }
}
