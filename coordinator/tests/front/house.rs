//! A coordinator, the certificates around it, and its operator.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgportage_coordinator::daemon::Coordinator;
use pgportage_coordinator::engine::Engine;
use pgportage_coordinator::settings::{MigrationSettings, RelaySettings, SessionSettings, Settings};
use pgportage_link::http2::Http2Settings;
use pgportage_link::identity::Role;
use pgportage_link::issue::Authority;
use pgportage_link::settings::TelemetrySettings;
use pgportage_link::status::from_status;
use pgportage_link::tls::Identity;
use pgportage_link::{Clock, Failure, dial};
use pgportage_proto::v1;
use pgportage_proto::v1::agent_service_client::AgentServiceClient;
use pgportage_proto::v1::migration_service_client::MigrationServiceClient;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

/// How long anything may take before a test gives up. Generous: other tests
/// share the machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A place with an authority, where coordinators come and go.
pub(crate) struct House {
    pub(crate) dir: TempDir,
    authority: Authority,
}

/// One run of the coordinator inside this process.
pub(crate) struct Run {
    pub(crate) address: SocketAddr,
    pub(crate) engine: Engine,
    stop: CancellationToken,
    task: JoinHandle<Result<(), Failure>>,
}

impl House {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create(&dir.path().join("ca"), "fleet", Clock).unwrap();
        Self { dir, authority }
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub(crate) fn identity(&self, role: Role, name: &str) -> Identity {
        Identity::load(&self.certificate(role, name), Clock).unwrap()
    }

    fn certificate(&self, role: Role, name: &str) -> pgportage_link::settings::IdentitySettings {
        let certs = self.dir.path().join("certs");
        let paths = pgportage_link::tls::issued_paths(&certs, role, name);
        if paths.key.exists() {
            return paths;
        }
        let issued = self.authority.issue(role, name, Duration::from_secs(3600)).unwrap();
        self.authority.write(&issued, &certs).unwrap()
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            state_dir: self.state_dir(),
            identity: self.certificate(Role::Coordinator, "control"),
            session: SessionSettings {
                heartbeat_interval: Duration::from_millis(200),
                heartbeat_timeout: Duration::from_secs(10),
                reconnect_delay: Duration::from_millis(1),
            },
            migration: MigrationSettings::default(),
            relay: RelaySettings::default(),
            telemetry: TelemetrySettings::default(),
        }
    }

    pub(crate) async fn start(&self) -> Run {
        self.start_with(self.settings()).await
    }

    pub(crate) async fn start_with(&self, settings: Settings) -> Run {
        let coordinator = Coordinator::open(settings, Clock).await.unwrap();
        let address = coordinator.address().unwrap();
        let engine = coordinator.engine().clone();
        let stop = CancellationToken::new();
        let task = tokio::spawn(coordinator.serve(stop.clone()));
        Run { address, engine, stop, task }
    }

    pub(crate) async fn channel(&self, address: SocketAddr, role: Role, name: &str) -> Channel {
        let identity = self.identity(role, name);
        let expected = identity.id_of(Role::Coordinator, "control").unwrap();
        dial::channel(&address.to_string(), &expected, &identity, &Http2Settings::control()).await.unwrap()
    }

    pub(crate) async fn operator(&self, address: SocketAddr) -> Operator {
        let channel = self.channel(address, Role::Operator, "ada").await;
        Operator { migrations: MigrationServiceClient::new(channel.clone()), agents: AgentServiceClient::new(channel) }
    }

    /// The coordinator's file, for the real program.
    pub(crate) fn write_config(&self, port: u16) -> PathBuf {
        let mut settings = self.settings();
        settings.listen.set_port(port);
        let path = self.dir.path().join("coordinator.toml");
        std::fs::write(&path, pgportage_link::settings::print(&settings).unwrap()).unwrap();
        path
    }
}

impl Run {
    /// Stops it as a signal would, and waits until everything has ended.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

/// An operator's hand.
#[derive(Clone)]
pub(crate) struct Operator {
    pub(crate) migrations: MigrationServiceClient<Channel>,
    pub(crate) agents: AgentServiceClient<Channel>,
}

pub(crate) const NAME: &str = "shop";

pub(crate) fn spec() -> v1::MigrationSpec {
    v1::MigrationSpec {
        source_agent_id: "berlin".to_owned(),
        destination_agent_id: "oslo".to_owned(),
        database: "shop".to_owned(),
        ..v1::MigrationSpec::default()
    }
}

impl Operator {
    pub(crate) async fn create(&mut self) -> Result<v1::Migration, Failure> {
        let request = v1::CreateMigrationRequest {
            migration_id: NAME.to_owned(),
            spec: Some(spec()),
            ..v1::CreateMigrationRequest::default()
        };
        let answer = self.migrations.create_migration(request).await.map_err(from_status)?;
        Ok(answer.into_inner().migration.unwrap())
    }

    pub(crate) async fn get(&mut self) -> v1::Migration {
        let request = v1::GetMigrationRequest { migration_id: NAME.to_owned() };
        self.migrations.get_migration(request).await.unwrap().into_inner().migration.unwrap()
    }

    pub(crate) async fn start(&mut self) -> Result<v1::Migration, Failure> {
        let request = v1::StartMigrationRequest { migration_id: NAME.to_owned(), etag: String::new() };
        Ok(self.migrations.start_migration(request).await.map_err(from_status)?.into_inner().migration.unwrap())
    }

    pub(crate) async fn tune(&mut self, max_rate_bytes: i64) -> Result<v1::Migration, Failure> {
        let request = v1::TuneMigrationRequest {
            migration_id: NAME.to_owned(),
            etag: String::new(),
            max_rate_bytes: Some(max_rate_bytes),
        };
        Ok(self.migrations.tune_migration(request).await.map_err(from_status)?.into_inner().migration.unwrap())
    }

    pub(crate) async fn cut_over(&mut self, max_outage: Duration) -> Result<v1::Migration, Failure> {
        let request = v1::CutOverRequest {
            migration_id: NAME.to_owned(),
            etag: self.get().await.etag,
            max_outage: prost_types::Duration::try_from(max_outage).ok(),
            without_way_back: false,
            compare_limit: None,
        };
        Ok(self.migrations.cut_over(request).await.map_err(from_status)?.into_inner().migration.unwrap())
    }

    pub(crate) async fn roll_back(&mut self, max_outage: Duration) -> Result<v1::Migration, Failure> {
        let request = v1::RollBackMigrationRequest {
            migration_id: NAME.to_owned(),
            etag: self.get().await.etag,
            max_outage: prost_types::Duration::try_from(max_outage).ok(),
            compare_limit: None,
        };
        self.migrations
            .roll_back_migration(request)
            .await
            .map(|response| response.into_inner().migration.unwrap())
            .map_err(from_status)
    }

    pub(crate) async fn finish(&mut self) -> Result<v1::Migration, Failure> {
        let request = v1::FinishMigrationRequest { migration_id: NAME.to_owned(), etag: self.get().await.etag };
        Ok(self.migrations.finish_migration(request).await.map_err(from_status)?.into_inner().migration.unwrap())
    }

    pub(crate) async fn abort(&mut self) -> Result<v1::Migration, Failure> {
        let request = v1::AbortMigrationRequest { migration_id: NAME.to_owned(), etag: String::new() };
        Ok(self.migrations.abort_migration(request).await.map_err(from_status)?.into_inner().migration.unwrap())
    }

    pub(crate) async fn retry(&mut self, step: &str) -> Result<v1::Migration, Failure> {
        let request = v1::ReleaseStepRequest {
            migration_id: NAME.to_owned(),
            step_name: step.to_owned(),
            etag: self.get().await.etag,
        };
        Ok(self.migrations.release_step(request).await.map_err(from_status)?.into_inner().migration.unwrap())
    }

    /// Watches until the migration is as wanted; says how it last was if it
    /// never is.
    pub(crate) async fn until(&mut self, what: &str, wanted: impl Fn(&v1::Migration) -> bool) -> v1::Migration {
        let request = v1::WatchMigrationRequest { migration_id: NAME.to_owned() };
        let mut watch = self.migrations.watch_migration(request).await.unwrap().into_inner();
        let mut last = None;
        let seen = Clock
            .timeout(PATIENCE, async {
                while let Ok(Some(change)) = watch.message().await {
                    let migration = change.migration.unwrap();
                    if wanted(&migration) {
                        return Some(migration);
                    }
                    last = Some(migration);
                }
                None
            })
            .await;
        match seen {
            Ok(Some(migration)) => migration,
            _ => panic!("not {what}: {last:#?}"),
        }
    }

    pub(crate) async fn until_waiting(&mut self) -> v1::Migration {
        self.until("waiting", |migration| migration.state() == v1::migration::State::Waiting).await
    }
}

/// Waits for a condition that nobody tells of.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let found = Clock
        .timeout(PATIENCE, async {
            loop {
                if let Some(found) = look().await {
                    return found;
                }
                Clock.sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    found.unwrap_or_else(|_| panic!("never {what}"))
}

pub(crate) fn step<'a>(migration: &'a v1::Migration, name: &str) -> &'a v1::Step {
    migration.steps.iter().find(|step| step.name == name).unwrap()
}

pub(crate) fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_pgportage-coordinator"))
}
