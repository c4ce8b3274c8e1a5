//! Puts the coordinator together, runs it until it is told to stop, and takes it
//! apart in order.

use std::net::SocketAddr;
use std::sync::Arc;

use pgportage_link::http2::{COMMAND_MESSAGE_BYTES, FACT_MESSAGE_BYTES};
use pgportage_link::metrics::{Endpoint, Metrics};
use pgportage_link::serve::{self, ServeSettings};
use pgportage_link::tls::Identity;
use pgportage_link::{Clock, Effect, Failure, health, notify, telemetry};
use pgportage_proto::Reason;
use pgportage_proto::v1::agent_service_server::AgentServiceServer;
use pgportage_proto::v1::migration_service_server::MigrationServiceServer;
use pgportage_proto::v1::relay_service_server::RelayServiceServer;
use pgportage_proto::v1::session_service_server::SessionServiceServer;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;

use crate::engine::Engine;
use crate::fleet::Fleet;
use crate::message::refusal;
use crate::metrics::Figures;
use crate::relay::Exchange;
use crate::service::{AgentFront, MigrationFront, RelayFront, SessionFront};
use crate::settings::Settings;
use crate::store::{SqliteStore, Store};

/// A coordinator that is bound and recovered, and does not serve yet.
#[derive(Debug)]
pub struct Coordinator {
    engine: Engine,
    store: Arc<SqliteStore>,
    fleet: Arc<Fleet>,
    figures: Figures,
    identity: Identity,
    listener: TcpListener,
    settings: Settings,
    metrics: Metrics,
    clock: Clock,
}

impl Coordinator {
    /// Opens the store, takes up every migration, binds the address.
    ///
    /// # Errors
    ///
    /// When the store, the certificate or the address cannot be had.
    pub async fn open(settings: Settings, clock: Clock) -> Result<Self, Failure> {
        let identity = Identity::load(&settings.identity, clock)?;
        let own = identity.own();
        if own.role != pgportage_link::identity::Role::Coordinator {
            return Err(refusal(Reason::ConfigurationInvalid, format!("the certificate is one of {own}"))
                .hint("Use a certificate made with `pgportage certs issue coordinator NAME`.")
                .with("keys", "identity.certificate"));
        }
        let store = Arc::new(SqliteStore::open(&settings.state_dir)?);
        let fleet = Arc::new(Fleet::new(clock, store.agents().await?));
        let metrics = Metrics::new();
        let figures = Figures::new(&metrics);
        let listener = serve::bind(settings.listen).await?;
        let shared: Arc<dyn Store> = Arc::<SqliteStore>::clone(&store);
        let engine =
            Engine::start(clock, shared, Arc::clone(&fleet), identity.clone(), settings.migration, figures.clone())
                .await?;
        tracing::info!(leader.epoch = store.leader_epoch(), "the store is open");
        Ok(Self { engine, store, fleet, figures, identity, listener, settings, metrics, clock })
    }

    /// The address in use.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }

    /// The engine, for tests that look behind the front.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Serves until `stop`, then drains: agents are told, calls end, tasks end.
    ///
    /// # Errors
    ///
    /// When the store breaks, or the server ends by itself.
    pub async fn serve(self, stop: CancellationToken) -> Result<(), Failure> {
        let tasks = TaskTracker::new();
        let store: Arc<dyn Store> = Arc::<SqliteStore>::clone(&self.store);
        let session = SessionFront {
            engine: self.engine.clone(),
            store,
            clock: self.clock,
            session: self.settings.session,
            figures: self.figures.clone(),
            tasks: tasks.clone(),
            stop: stop.clone(),
        };
        let migration = MigrationFront { engine: self.engine.clone(), tasks: tasks.clone(), stop: stop.clone() };
        let agent = AgentFront { fleet: Arc::clone(&self.fleet) };
        let relay = RelayFront {
            engine: self.engine.clone(),
            exchange: Exchange::new(self.clock, self.settings.relay.max_relays),
            figures: self.figures.clone(),
            clock: self.clock,
            tasks: tasks.clone(),
            stop: stop.clone(),
        };
        let (reporter, health) = health::service().await;
        let mut routes = Routes::builder();
        routes
            .add_service(health)
            // Facts may be long; what we say is not.
            .add_service(
                SessionServiceServer::new(session)
                    .max_decoding_message_size(FACT_MESSAGE_BYTES)
                    .max_encoding_message_size(FACT_MESSAGE_BYTES),
            )
            .add_service(
                MigrationServiceServer::new(migration)
                    .max_decoding_message_size(COMMAND_MESSAGE_BYTES)
                    .max_encoding_message_size(FACT_MESSAGE_BYTES),
            )
            .add_service(AgentServiceServer::new(agent).max_decoding_message_size(COMMAND_MESSAGE_BYTES))
            .add_service(RelayServiceServer::new(relay).max_decoding_message_size(COMMAND_MESSAGE_BYTES));
        tasks.spawn(self.identity.clone().keep_fresh(stop.clone()));
        let address = self.address();
        let server = serve::serve(
            self.listener,
            self.identity.clone(),
            ServeSettings::coordinator(),
            routes.routes(),
            stop.clone(),
        );
        tokio::pin!(server);
        reporter.serving().await;
        self.metrics.set_serving(true);
        let endpoint = Endpoint::bind(self.settings.telemetry.metrics_listen).await?;
        tracing::info!(address = ?address, metrics = ?endpoint.address(), "serving");
        tasks.spawn(endpoint.serve(self.metrics.clone(), self.clock, stop.clone()));
        notify::ready();
        let broken = self.store.broken().clone();
        let outcome = tokio::select! {
            biased;
            () = broken.cancelled() => {
                // Nobody knows what is on the disk: no graceful end, no further
                // word to anybody.
                return Err(Failure::new(Reason::StoreUnwritable, "the store failed; nothing more can be done safely")
                    .hint("Look at the disk of the state directory, then start again: the store is read afresh.")
                    .effect(Effect::Unknown));
            }
            outcome = &mut server => outcome,
            () = async { stop.cancelled().await; reporter.not_serving().await; self.metrics.set_serving(false); notify::stopping() } => {
                server.await
            }
        };
        stop.cancel();
        tasks.close();
        tasks.wait().await;
        self.engine.stop().await;
        outcome
    }
}

/// Runs the coordinator until a signal, telemetry included.
///
/// # Errors
///
/// When it cannot start, or has to end.
pub async fn run(settings: Settings) -> Result<(), Failure> {
    let telemetry = telemetry::init("pgportage-coordinator", &settings.telemetry)?;
    let stop = CancellationToken::new();
    let outcome = async {
        let coordinator = Coordinator::open(settings, Clock).await?;
        let mut terminated = signal(SignalKind::terminate()).map_err(no_signals)?;
        let mut interrupted = signal(SignalKind::interrupt()).map_err(no_signals)?;
        let told = stop.clone();
        // Ends with the process, which is what it waits for.
        tokio::spawn(async move {
            tokio::select! {
                _ = terminated.recv() => {}
                _ = interrupted.recv() => {}
            }
            tracing::info!("told to stop");
            told.cancel();
        });
        coordinator.serve(stop.clone()).await
    }
    .await;
    if let Err(failure) = &outcome {
        tracing::error!(reason = %failure.reason, detail = failure.detail, causes = ?failure.causes, "{failure}");
    }
    telemetry.shutdown().await;
    outcome
}

/// Checks the settings and the certificate without serving.
///
/// # Errors
///
/// What is wrong with them.
pub fn check(settings: &Settings) -> Result<(), Failure> {
    Identity::load(&settings.identity, Clock).map(drop)
}

fn no_signals(error: std::io::Error) -> Failure {
    refusal(Reason::Internal, "this process cannot listen for signals").because(&error)
}
