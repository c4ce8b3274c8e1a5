//! The running agent, from its files to its last span.

mod assembly;

use std::future::Future;
use std::time::Duration;

use pgportage_link::identity::Role;
use pgportage_link::metrics::Endpoint;
use pgportage_link::serve::{self, Entrance, ServeSettings};
use pgportage_link::tls::Identity;
use pgportage_link::{Clock, Effect, Failure, health, notify, telemetry};
use pgportage_migration::journal::Journal;
use pgportage_postgres::Purpose;
use pgportage_proto::Reason;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tonic::service::Routes;

use crate::act::{Handles, way_back};
use crate::policy::Policy;
use crate::reports;
use crate::settings::Settings;

pub use assembly::Assembly;

/// How long tasks may take to end after a signal. Ending without them loses nothing: at the next start the
/// agent looks again at what it has done.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Relayed connections on their way to the link's server, which accepts them at once unless it is busy with
/// handshakes.
const RELAYED: usize = 4;

/// How often the agent asks for the server's version. An upgrade restarts the server, and the agent's
/// sessions with it.
const KNOWN_FOR: Duration = Duration::from_secs(600);
/// The same, while the server does not answer.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// Drives a verb to its end.
pub fn block_on<T>(verb: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    // Two threads: the agent mostly waits, and shares its machine with a
    // production server.
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Reason::Internal, "cannot start the runtime").because(&error))?
        .block_on(verb)
}

/// Reads the configuration, the policy and the certificate, without changing anything.
pub fn check(settings: &Settings) -> Result<(Policy, Identity), Failure> {
    let policy = Policy::load(&settings.policy)?;
    let identity = Identity::load(&settings.identity, Clock)?;
    let own = identity.own();
    if (own.role, own.name.as_str()) != (Role::Agent, settings.name.as_str()) {
        return Err(Failure::new(
            Reason::ConfigurationInvalid,
            format!("the certificate names {} {:?}, the configuration agent {:?}", own.role, own.name, settings.name),
        )
        .hint(format!("Issue one with \"pgportage certs issue agent {}\", or correct `name`.", settings.name))
        .effect(Effect::None));
    }
    Ok((policy, identity))
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
///
/// What keeps the agent from starting. Once it runs, only a signal ends it.
pub async fn run(settings: Settings) -> Result<(), Failure> {
    let telemetry = telemetry::init("pgportage-agent", &settings.telemetry)?;
    let outcome = serve_until_stopped(settings).await;
    telemetry.shutdown().await;
    outcome
}

async fn serve_until_stopped(settings: Settings) -> Result<(), Failure> {
    // The agent refuses what it can refuse before it dials.
    let (policy, identity) = check(&settings)?;
    let journal = Journal::open(&settings.journal_path())?;
    let link_listener = serve::bind(settings.link.listen).await?;
    let metrics_endpoint = Endpoint::bind(settings.telemetry.metrics_listen).await?;
    let mut terminate = on_signal(SignalKind::terminate())?;
    let mut interrupt = on_signal(SignalKind::interrupt())?;

    let agent = Assembly::new(settings, policy, journal, identity.clone());
    let Handles { settings, journal, tasks, switchovers, .. } = agent.handles.clone();
    let known: Vec<_> = journal.participations()?.into_iter().map(|known| known.migration).collect();
    reports::sweep(&settings.state_dir, &known);
    let runner = agent.runner();
    let metrics = agent.metrics(&runner);
    let (reporter, health) = health::service().await;
    let routes = Routes::new(health).add_service(agent.link_service());
    let stop = || tasks.stop.clone();
    tracing::info!(
        agent.id = settings.name,
        link = %settings.link.listen,
        metrics = ?metrics_endpoint.address(),
        version = env!("CARGO_PKG_VERSION"),
        "starting"
    );

    tasks.spawn(identity.clone().keep_fresh(stop()));
    let (entrance, relayed) = mpsc::channel(RELAYED);
    let link_entrance = Entrance::from(link_listener).and_relayed(relayed);
    let link = serve::serve(link_entrance, identity, ServeSettings::link(), routes, stop());
    let stop_all = stop();
    tasks.spawn(async move {
        if let Err(failure) = link.await {
            tracing::error!(causes = ?failure.causes, "the link ended: {failure}");
            // Without the link the agent only seems to be alive, so it ends. systemd starts a new one.
            stop_all.cancel();
        }
    });
    tasks.spawn(metrics_endpoint.serve(metrics.clone(), tasks.clock, stop()));
    tasks.spawn(stop().run_until_cancelled_owned(know_the_server(agent.clone())));
    agent.tunnels.resume()?;
    agent.heartbeats.resume()?;
    tasks.spawn(agent.watch().run());
    tasks.spawn(agent.protection().run());
    tasks.spawn(agent.drift().run());
    tasks.spawn(switchovers.look_after_each());
    tasks.spawn(way_back::keep_idle_slots_moving(agent.door.clone(), journal, agent.slots.clone(), tasks.clone()));
    let resumed = runner.resume()?;
    if resumed > 0 {
        tracing::info!(commands = resumed, "taking up what was interrupted");
    }
    tasks.spawn(agent.session(runner, entrance).run());
    reporter.serving().await;
    metrics.set_serving(true);
    notify::ready();

    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
        _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
        () = tasks.stop.cancelled() => {}
    }
    notify::stopping();
    reporter.not_serving().await;
    metrics.set_serving(false);
    tasks.stop.cancel();
    tasks.tracker.close();
    if tasks.clock.timeout(STOP_LIMIT, tasks.tracker.wait()).await.is_err() {
        tracing::warn!("some tasks did not end in time and are left to the end of the process");
    }
    Ok(())
}

fn on_signal(kind: SignalKind) -> Result<tokio::signal::unix::Signal, Failure> {
    signal(kind).map_err(|error| Failure::new(Reason::Internal, "cannot listen for signals").because(&error))
}

/// Keeps the server's version up to date, for the coordinator's list of agents. Never ends by itself; safe
/// to drop.
async fn know_the_server(agent: Assembly) {
    let mut known = 0;
    loop {
        let pause = match agent.door.open(&agent.settings.postgres.maintenance_database, Purpose::Watch).await {
            Ok(session) => {
                if known != session.version.num() {
                    known = session.version.num();
                    tracing::info!(version = %session.version, "the server answers");
                    agent.standing.set_server_version(known);
                }
                KNOWN_FOR
            }
            Err(failure) => {
                tracing::warn!(reason = %failure.reason, detail = failure.detail, "the server does not answer: {failure}");
                ASK_AGAIN
            }
        };
        agent.tasks.clock.sleep(pause).await;
    }
}
