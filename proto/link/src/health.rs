//! The standard health service, for load balancers and probes.
//!
//! Any identity may ask. A service is not serving until it is said to be, and
//! stops being so first of all when the process drains.

use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::HealthReporter;

/// Says how the process is. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Reporter(HealthReporter);

impl Reporter {
    /// Everything is bound and recovered.
    pub async fn serving(&self) {
        self.0.set_service_status("", ServingStatus::Serving).await;
    }

    /// Send no more calls here.
    pub async fn not_serving(&self) {
        self.0.set_service_status("", ServingStatus::NotServing).await;
    }
}

/// The service, and the hand that sets what it answers. It begins as not serving.
pub async fn service() -> (Reporter, HealthServer<impl Health>) {
    let (reporter, service) = tonic_health::server::health_reporter();
    let reporter = Reporter(reporter);
    reporter.not_serving().await;
    (reporter, service)
}
