//! Two agents, one migration.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pgportage_agent::act::Context;
use pgportage_agent::daemon::Assembly;
use pgportage_agent::policy::Policy;
use pgportage_agent::settings::Settings;
use pgportage_link::Clock;
use pgportage_link::identity::Role;
use pgportage_link::issue::Authority;
use pgportage_link::serve::{self, ServeSettings};
use pgportage_link::settings::IdentitySettings;
use pgportage_link::tls::Identity;
use pgportage_migration::Participation;
use pgportage_migration::journal::{CommandEntry, Journal};
use pgportage_migration::ledger;
use pgportage_proto::{MigrationId, Side};
use pgportage_report::progress::Progress;
use pgportage_tests::cluster::{Cluster, ClusterOptions, SUPERUSER, free_port};
use pgportage_tests::postgres_versions::{PostgresVersion, Tools, tools_for};
use pgportage_tests::wait::{self, Seen};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use uuid::Uuid;

pub(crate) const MIGRATION: &str = "orders";
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

/// What differs from one test to another.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub source: PostgresVersion,
    pub destination: PostgresVersion,
    pub database: String,
    /// Whether the policies name the source server's address.
    pub direct: bool,
    /// Role of the source agent; its password goes into a file.
    pub source_user: Option<(String, String)>,
    /// Roles made beforehand on the source, replication and canary, and their
    /// common password.
    pub premade: Option<(String, String, String)>,
    /// What each server is told before the agents log in: source, destination.
    pub prepare: (String, String),
    /// Role of the destination agent; its password goes into a file.
    pub destination_user: Option<(String, String)>,
    pub pg_dump: Option<PathBuf>,
    /// How the link is told to pack: auto, zstd or off.
    pub compression: &'static str,
    /// Further sections of both agents' settings.
    pub settings: String,
    /// Lines under `[limits]` of both policies.
    pub limits: String,
    /// Whether the policies allow a way back.
    pub way_back: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            source: PostgresVersion::V15,
            destination: PostgresVersion::V18,
            database: "shop".to_owned(),
            direct: false,
            source_user: None,
            premade: None,
            prepare: (String::new(), String::new()),
            destination_user: None,
            pg_dump: None,
            compression: "auto",
            settings: String::new(),
            limits: String::new(),
            way_back: false,
        }
    }
}

pub(crate) struct World {
    pub source: Cluster,
    pub destination: Cluster,
    pub source_agent: Assembly,
    pub destination_agent: Assembly,
    pub options: Options,
    pub authority: Authority,
    pub directory: TempDir,
    source_link: Option<Serving>,
    source_link_port: u16,
    _destination_link: Serving,
}

/// One listener of the link. Dropping it closes all of its connections.
pub(crate) struct Serving {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.cancel();
        self.task.abort();
    }
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    pub(crate) async fn start_with(options: Options) -> Self {
        let usual = ClusterOptions::new();
        let (source, destination) =
            tokio::join!(Cluster::start(options.source, &usual), Cluster::start(options.destination, &usual));
        let (source, destination) = (source.unwrap(), destination.unwrap());
        for cluster in [&source, &destination] {
            cluster.execute("postgres", &format!("CREATE DATABASE {}", quoted(&options.database))).await.unwrap();
        }
        source.execute("postgres", &options.prepare.0).await.unwrap();
        destination.execute("postgres", &options.prepare.1).await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::create(&directory.path().join("ca"), "example.org", Clock).unwrap();
        let (source_port, destination_port) = (free_port().unwrap(), free_port().unwrap());
        let direct = options.direct.then_some(source.port);
        let source_agent =
            Place { side: Side::Source, cluster: &source, link_port: source_port, peer_port: destination_port }.agent(
                &authority,
                directory.path(),
                direct,
                &options,
            );
        let destination_agent = Place {
            side: Side::Destination,
            cluster: &destination,
            link_port: destination_port,
            peer_port: source_port,
        }
        .agent(&authority, directory.path(), direct, &options);
        let source_link = serve_link(&source_agent, source_port).await;
        let destination_link = serve_link(&destination_agent, destination_port).await;
        for agent in [&source_agent, &destination_agent] {
            join(agent, &participation(agent, &options.database));
        }
        Self {
            source,
            destination,
            source_agent,
            destination_agent,
            options,
            authority,
            directory,
            source_link: Some(source_link),
            source_link_port: source_port,
            _destination_link: destination_link,
        }
    }

    pub(crate) fn on(&self, side: Side) -> Participation {
        let agent = match side {
            Side::Source => &self.source_agent,
            Side::Destination => &self.destination_agent,
        };
        participation(agent, &self.options.database)
    }

    /// What an act on one side is given.
    pub(crate) fn context(&self, side: Side) -> Context {
        let agent = match side {
            Side::Source => &self.source_agent,
            Side::Destination => &self.destination_agent,
        };
        Context {
            participation: self.on(side),
            command_id: Uuid::now_v7().to_string(),
            leader_epoch: 1,
            plan_digest: vec![1; 32],
            stall_timeout: PATIENCE,
            handles: agent.handles.clone(),
            progress: watch::channel(Progress::default()).0,
            cancel: CancellationToken::new(),
        }
    }

    /// Does to the destination what *close* does, as far as others can see it.
    pub(crate) async fn close_destination(&self) {
        let cx = self.context(Side::Destination);
        let mut session = cx.door.open(&self.options.database, pgportage_postgres::Purpose::Control).await.unwrap();
        let transaction = session.transaction().await.unwrap();
        ledger::ensure(&transaction, &cx.participation).await.unwrap();
        transaction
            .batch_execute(
                "INSERT INTO pgportage.decision (id, state, floor_epoch, saved_access) VALUES (1, 'closed', 0, '')",
            )
            .await
            .unwrap();
        transaction.commit().await.unwrap();
    }

    /// Cuts the source's end of the link off, with all its connections.
    pub(crate) fn cut_link(&mut self) {
        self.source_link = None;
    }

    pub(crate) async fn mend_link(&mut self) {
        self.source_link = Some(serve_link(&self.source_agent, self.source_link_port).await);
    }

    /// A certificate of the same authority for another agent.
    pub(crate) fn identity(&self, role: Role, name: &str) -> Identity {
        let paths = issue(&self.authority, &self.directory.path().join("others"), role, name);
        Identity::load(&paths, Clock).unwrap()
    }
}

pub(crate) fn migration() -> MigrationId {
    MigrationId::new(MIGRATION).unwrap()
}

pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Programs that fit both servers.
pub(crate) fn tools() -> Tools {
    tools_for(PostgresVersion::V18).unwrap()
}

fn names(side: Side) -> (&'static str, &'static str) {
    match side {
        Side::Source => ("alpha", "beta"),
        Side::Destination => ("beta", "alpha"),
    }
}

fn participation(agent: &Assembly, database: &str) -> Participation {
    let side = if agent.settings.name == "alpha" { Side::Source } else { Side::Destination };
    Participation { migration: migration(), side, database: database.to_owned(), peer: names(side).1.to_owned() }
}

/// Writes a participation into a journal, as an accepted command does.
pub(crate) fn join(agent: &Assembly, participation: &Participation) {
    let command = CommandEntry {
        id: Uuid::now_v7().to_string(),
        migration: participation.migration.to_string(),
        digest: [0; 32],
        message: Vec::new(),
        actor: "spiffe://example.org/pgportage/coordinator/main".to_owned(),
        actor_serial: String::new(),
    };
    agent.journal.accept(&command, Some(participation), &[], Clock.wall()).unwrap();
}

fn issue(authority: &Authority, directory: &Path, role: Role, name: &str) -> IdentitySettings {
    let issued = authority.issue(role, name, DAY).unwrap();
    authority.write(&issued, directory).unwrap()
}

/// Where an agent stands and what it listens on.
struct Place<'a> {
    side: Side,
    cluster: &'a Cluster,
    link_port: u16,
    peer_port: u16,
}

impl Place<'_> {
    fn agent(&self, authority: &Authority, directory: &Path, direct: Option<u16>, options: &Options) -> Assembly {
        let Self { side, cluster, link_port, peer_port } = *self;
        use std::os::unix::fs::PermissionsExt;

        let (name, peer) = names(side);
        let home = directory.join(name);
        let identity = issue(authority, &home.join("certs"), Role::Agent, name);
        let policy_path = home.join("policy.toml");
        let private = |file: &str, password: &str| {
            let path = home.join(file);
            std::fs::write(&path, password).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            path
        };
        let roles = options.premade.as_ref().map_or_else(String::new, |(replication, canary, password)| {
            let file = private("premade", password);
            format!(
                "[roles.replication]\nname = {replication:?}\npassword_file = {file:?}\n\
                 [roles.canary]\nname = {canary:?}\npassword_file = {file:?}\n"
            )
        });
        let source = direct.map_or_else(String::new, |port| format!("source_address = \"127.0.0.1:{port}\"\n"));
        std::fs::write(
            &policy_path,
            format!(
                "[databases.\"*\"]\nsides = [\"source\", \"destination\"]\n{source}[peers]\n{peer} = \"127.0.0.1:{peer_port}\"\n\
                 [limits]\nlock_timeout = \"2s\"\n{limits}\n[destructive]\nway_back = {way_back}\n{roles}",
                limits = options.limits,
                way_back = options.way_back,
            ),
        )
        .unwrap();
        let user = match side {
            Side::Source => &options.source_user,
            Side::Destination => &options.destination_user,
        };
        let (user, password_file) = match user {
            Some((user, password)) => (user.clone(), format!("password_file = {:?}\n", private("password", password))),
            None => (SUPERUSER.to_owned(), String::new()),
        };
        let tunnel_port = free_port().unwrap();
        let pg_dump = options.pg_dump.clone().unwrap_or_else(|| tools().program("pg_dump"));
        let pg_restore = tools_for(options.destination).unwrap().program("pg_restore");
        let settings_path = home.join("agent.toml");
        std::fs::write(
            &settings_path,
            format!(
                "name = \"{name}\"\nstate_dir = {state:?}\npolicy = {policy_path:?}\n\
                 [coordinator]\naddress = \"127.0.0.1:1\"\nname = \"main\"\n\
                 [identity]\ncertificate = {certificate:?}\nkey = {key:?}\nauthority = {authority:?}\n\
                 [postgres]\nhost = {socket:?}\nport = {port}\nuser = {user:?}\n{password_file}\
                 replication_address = \"127.0.0.1:{port}\"\n\
                 [programs]\npg_dump = {pg_dump:?}\npg_restore = {pg_restore:?}\n\
                 [link]\nlisten = \"127.0.0.1:{link_port}\"\ncompression = {compression:?}\n\
                 [tunnel]\nfirst_port = {tunnel_port}\nlast_port = {tunnel_last}\n{further}",
                further = options.settings,
                state = home.join("state"),
                compression = options.compression,
                certificate = identity.certificate,
                key = identity.key,
                authority = identity.authority,
                socket = cluster.socket_directory(),
                port = cluster.port,
                tunnel_last = tunnel_port + 3,
            ),
        )
        .unwrap();
        let settings = Settings::load(&settings_path).unwrap_or_else(|failure| panic!("{failure}: {}", failure.detail));
        let policy = Policy::load(&policy_path).unwrap_or_else(|failure| panic!("{failure}: {}", failure.detail));
        let journal = Journal::open(&settings.journal_path()).unwrap();
        Assembly::new(settings, policy, journal, Identity::load(&identity, Clock).unwrap())
    }
}

async fn serve_link(agent: &Assembly, port: u16) -> Serving {
    // After a cut the old listener closes in a task of its own.
    let listener = wait::until("the link's port", PATIENCE, || async {
        Ok(match serve::bind(([127, 0, 0, 1], port).into()).await {
            Ok(listener) => Seen::Done(listener),
            Err(failure) => Seen::NotYet(failure.detail),
        })
    })
    .await
    .unwrap();
    let identity = Identity::load(&agent.settings.identity, Clock).unwrap();
    let routes = Routes::new(agent.link_service());
    let stop = CancellationToken::new();
    let token = stop.clone();
    let task = tokio::spawn(async move {
        serve::serve(listener, identity, ServeSettings::link(), routes, token).await.unwrap();
    });
    Serving { stop, task }
}
