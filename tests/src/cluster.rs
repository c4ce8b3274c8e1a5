//! A throwaway PostgreSQL cluster.

mod freeze;
mod port;
mod standby;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use pgportage_link::Clock;
use rand::Rng;
use rustix::process::Signal;
use tempfile::TempDir;
use tokio_postgres::{Client, Config, NoTls};

pub use port::free_port;

use crate::child::{Child, NOBODY, Output, Program, RunAs, running_as_root};
use crate::place::Place;
use crate::postgres_versions::{Installation, PostgresVersion, provision};
use crate::wait::{self, Seen};

/// How long a server may take to start or to stop on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// The superuser of every cluster.
pub const SUPERUSER: &str = "postgres";

/// What every cluster is started with, unless a test says otherwise.
///
/// Small, but a server that keeps its promises: fsync stays on, because what a
/// crash test proves depends on it.
const SETTINGS: &[(&str, &str)] = &[
    ("wal_level", "logical"),
    ("fsync", "on"),
    ("listen_addresses", "127.0.0.1"),
    ("shared_buffers", "64MB"),
    ("max_connections", "120"),
    ("max_wal_senders", "20"),
    ("max_replication_slots", "20"),
    ("max_worker_processes", "20"),
    ("max_logical_replication_workers", "10"),
    ("max_sync_workers_per_subscription", "4"),
    ("password_encryption", "scram-sha-256"),
    ("log_line_prefix", "%m [%p] %q%a %u@%d "),
    ("logging_collector", "off"),
    ("lc_messages", "C"),
    ("timezone", "UTC"),
];

/// Who may log in how. The socket trusts the superuser only, so that tests need
/// no password; every other role shows one, also over the socket.
const ACCESS: &str = "\
local all         postgres              trust
local all         all                   scram-sha-256
host  all         all      127.0.0.1/32 scram-sha-256
host  replication all      127.0.0.1/32 scram-sha-256
";

/// How a cluster differs from the usual one.
#[derive(Clone, Debug, Default)]
pub struct ClusterOptions {
    settings: Vec<(String, String)>,
    access: Option<String>,
    place: Place,
}

impl ClusterOptions {
    /// The usual cluster.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Overrides one setting.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs it elsewhere, reachable from [`Network`](crate::place::Network)s too.
    #[must_use]
    pub fn place(mut self, place: &Place) -> Self {
        self.settings.push(("listen_addresses".to_owned(), format!("127.0.0.1,{}", place.address)));
        self.access = Some(format!("{ACCESS}host all all 10.213.0.0/16 scram-sha-256\n"));
        self.place = place.clone();
        self
    }

    /// Replaces the whole of `pg_hba.conf`.
    #[must_use]
    pub fn access(mut self, rules: &str) -> Self {
        self.access = Some(rules.to_owned());
        self
    }
}

/// A running cluster in a directory of its own. Stopped and removed when dropped,
/// and killed when the test process dies.
#[derive(Debug)]
pub struct Cluster {
    /// The programs it runs.
    pub installation: Installation,
    /// Its TCP port on 127.0.0.1. The same after a restart.
    pub port: u16,
    /// Password of [`SUPERUSER`] over TCP.
    pub superuser_password: String,
    place: Place,
    home: Home,
    server: Option<Child>,
}

/// The directory of a cluster: removed with it, or kept for the demo.
#[derive(Debug)]
enum Home {
    Removed(TempDir),
    Kept(PathBuf),
}

impl Home {
    fn path(&self) -> &Path {
        match self {
            Self::Removed(directory) => directory.path(),
            Self::Kept(directory) => directory,
        }
    }
}

impl Cluster {
    /// Makes a cluster and starts it.
    ///
    /// # Errors
    ///
    /// When a program fails; the error carries the server's own words.
    pub async fn start(version: PostgresVersion, options: &ClusterOptions) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("pgportage-pg-").tempdir()?;
        Self::start_in(version, options, Home::Removed(home)).await
    }

    /// As [`Cluster::start`], in a directory that stays.
    ///
    /// # Errors
    ///
    /// As [`Cluster::start`].
    pub async fn start_kept(version: PostgresVersion, options: &ClusterOptions, home: &Path) -> Result<Self> {
        fs::create_dir_all(home)?;
        Self::start_in(version, options, Home::Kept(home.to_path_buf())).await
    }

    async fn start_in(version: PostgresVersion, options: &ClusterOptions, home: Home) -> Result<Self> {
        let installation = tokio::task::spawn_blocking(move || provision(version)).await??;
        let (superuser_password, place) = (random_password(), options.place.clone());
        let mut cluster = Self { installation, port: 0, superuser_password, place, home, server: None };
        cluster.initialise(options).await?;
        for _try in 0..5 {
            cluster.port = free_port()?;
            match cluster.start_server().await {
                // Another process took the port between the look and the bind.
                Err(error) if cluster.log_text()?.contains("Address already in use") => {
                    tracing::debug!(%error, port = cluster.port, "the port was taken");
                }
                Err(error) => return Err(error),
                Ok(()) => return Ok(cluster),
            }
        }
        bail!("no free port in five tries")
    }

    async fn initialise(&self, options: &ClusterOptions) -> Result<()> {
        fs::set_permissions(self.home.path(), fs::Permissions::from_mode(0o755))?;
        let data = self.data_directory();
        for directory in [&data, &self.socket_directory()] {
            fs::create_dir_all(directory)?;
            if running_as_root() {
                chown(directory, Some(NOBODY), Some(NOBODY))?;
            }
        }
        fs::set_permissions(&data, fs::Permissions::from_mode(0o700))?;
        fs::set_permissions(self.socket_directory(), fs::Permissions::from_mode(0o755))?;
        let password_file = self.home.path().join("superuser-password");
        fs::write(&password_file, &self.superuser_password)?;
        let log = File::create(self.log_path())?;

        let mut initdb = Program::new(self.installation.bin_dir.join("initdb"))
            .arguments(["--username", SUPERUSER, "--auth", "scram-sha-256", "--encoding", "UTF8"])
            .arguments(["--no-locale", "--no-sync", "--pgdata"])
            .argument(&data)
            .argument("--pwfile")
            .argument(&password_file);
        initdb.run_as = RunAs::Unprivileged;
        initdb.stdout = Output::File(log.try_clone()?);
        initdb.stderr = Output::File(log);
        let status = initdb.spawn()?.wait(PATIENCE).await?;
        ensure!(status.success(), "initdb failed ({status}):\n{}", self.log_text()?);

        let overridden = |name: &str| options.settings.iter().any(|(other, _)| other == name);
        let usual = SETTINGS.iter().map(|(name, value)| (*name, *value)).filter(|(name, _)| !overridden(name));
        let own = options.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let text: String =
            usual.chain(own).map(|(name, value)| format!("{name} = '{}'\n", value.replace('\'', "''"))).collect();
        fs::write(data.join("postgresql.auto.conf"), text)?;
        self.set_access(options.access.as_deref().unwrap_or(ACCESS))
    }

    /// Replaces `pg_hba.conf`. Takes effect with a reload or a restart.
    pub fn set_access(&self, rules: &str) -> Result<()> {
        Ok(fs::write(self.data_directory().join("pg_hba.conf"), rules)?)
    }

    async fn start_server(&mut self) -> Result<()> {
        let log = OpenOptions::new().create(true).append(true).open(self.log_path())?;
        let mut postgres = Program::new(self.installation.bin_dir.join("postgres"))
            .argument("-D")
            .argument(self.data_directory())
            .argument("-p")
            .argument(self.port.to_string())
            .argument("-k")
            .argument(self.socket_directory());
        postgres.run_as = RunAs::Unprivileged;
        postgres.namespace.clone_from(&self.place.namespace);
        postgres.stdout = Output::File(log.try_clone()?);
        postgres.stderr = Output::File(log);
        let mut server = postgres.spawn()?;

        let deadline = Clock.now() + PATIENCE;
        loop {
            if let Some(status) = server.ended()? {
                bail!("the server ended ({status}):\n{}", self.log_text()?);
            }
            match self.connect("postgres").await {
                Ok(_client) => break,
                Err(error) if Clock.now() >= deadline => {
                    bail!("the server does not answer ({error:#}):\n{}", self.log_text()?)
                }
                Err(_) => Clock.sleep(Duration::from_millis(20)).await,
            }
        }
        self.server = Some(server);
        Ok(())
    }

    /// Stops the server as a service manager would (fast shutdown).
    ///
    /// # Errors
    ///
    /// When it does not end in time.
    pub async fn stop(&mut self) -> Result<()> {
        if let Some(mut server) = self.server.take() {
            server.signal(Signal::INT)?;
            server.wait(PATIENCE).await?;
        }
        Ok(())
    }

    /// Starts the server again on the same port and directory.
    ///
    /// # Errors
    ///
    /// When it does not answer in time.
    pub async fn start_again(&mut self) -> Result<()> {
        ensure!(self.server.is_none(), "the server runs");
        // After a kill the old backends hold the shared memory until they have
        // noticed, and the server refuses to start until then.
        let deadline = Clock.now() + PATIENCE;
        loop {
            match self.start_server().await {
                Ok(()) => return Ok(()),
                Err(error) if Clock.now() >= deadline => return Err(error),
                Err(_) => Clock.sleep(Duration::from_millis(200)).await,
            }
        }
    }

    /// Stops and starts the server.
    ///
    /// # Errors
    ///
    /// As [`Cluster::stop`] and [`Cluster::start_again`].
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
        self.start_again().await
    }

    /// Kills the postmaster with SIGKILL. [`Cluster::start_again`] brings it back.
    pub fn kill9(&mut self) -> Result<()> {
        match self.server.take() {
            Some(mut server) => server.kill9(),
            None => Ok(()),
        }
    }

    /// Reads the configuration files again.
    pub fn reload(&mut self) -> Result<()> {
        self.server.as_mut().context("the server does not run")?.signal(Signal::HUP)
    }

    /// Connects as superuser over the socket. The connection's task ends with the
    /// client.
    pub async fn connect(&self, database: &str) -> Result<Client> {
        let mut config = Config::new();
        config.host_path(self.socket_directory()).port(self.port).user(SUPERUSER).dbname(database);
        connect(&config).await
    }

    /// Connects over TCP as any role.
    pub async fn connect_as(&self, database: &str, user: &str, password: &str) -> Result<Client> {
        connect(&self.tcp_config(database, user, password)).await
    }

    /// How an application connects over TCP.
    #[must_use]
    pub fn tcp_config(&self, database: &str, user: &str, password: &str) -> Config {
        let mut config = Config::new();
        config.host("127.0.0.1").port(self.port).user(user).password(password).dbname(database);
        config.connect_timeout(Duration::from_secs(5));
        config
    }

    /// Connects as superuser, runs statements, disconnects.
    pub async fn execute(&self, database: &str, statements: &str) -> Result<()> {
        Ok(self.connect(database).await?.batch_execute(statements).await?)
    }

    /// Waits until a query (one row, one boolean) is true.
    ///
    /// # Errors
    ///
    /// When it still is not after `limit`.
    pub async fn wait_until(&self, database: &str, query: &str, limit: Duration) -> Result<()> {
        let client = self.connect(database).await?;
        wait::until(query, limit, || async {
            let row = client.query_one(query, &[]).await?;
            Ok(if row.try_get::<_, Option<bool>>(0)? == Some(true) {
                Seen::Done(())
            } else {
                Seen::NotYet("false".to_owned())
            })
        })
        .await
    }

    /// Everything the server has logged.
    pub fn log_text(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(self.log_path())?).into_owned())
    }

    /// Where the server logs.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.home.path().join("server.log")
    }

    /// The data directory.
    #[must_use]
    pub fn data_directory(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// How libpq's programs reach a database of it over TCP, as superuser, from
    /// either side of a network. The password comes by `PGPASSWORD`.
    #[must_use]
    pub fn libpq(&self, database: &str) -> String {
        format!("host={} port={} user={SUPERUSER} dbname={database}", self.place.address, self.port)
    }

    /// The directory of the Unix socket.
    #[must_use]
    pub fn socket_directory(&self) -> PathBuf {
        self.home.path().join("socket")
    }

    /// The postmaster's process id.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.server.as_ref().map(Child::pid)
    }

    /// Sends a signal to the postmaster.
    ///
    /// # Errors
    ///
    /// When the server does not run or the kernel refuses.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.server.as_mut().context("the server does not run")?.signal(signal)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let Some(server) = self.server.as_mut() else { return };
        // Immediate shutdown: the postmaster ends its children first, so that
        // no process writes into a directory that is being removed.
        let quit = server.signal(Signal::CONT).and_then(|()| server.signal(Signal::QUIT));
        if quit.and_then(|()| server.wait_blocking()).is_err() {
            tracing::warn!(port = self.port, "cannot stop a server in order");
        }
    }
}

/// Connects, and drives the connection in a task that ends with the client.
pub async fn connect(config: &Config) -> Result<Client> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection ended");
        }
    });
    Ok(client)
}

fn random_password() -> String {
    let mut random = rand::rng();
    (0..24).map(|_| char::from(random.sample(rand::distr::Alphanumeric))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_cluster_survives_a_kill() {
        let mut cluster = Cluster::start(PostgresVersion::V18, &ClusterOptions::new()).await.unwrap();
        cluster.execute("postgres", "CREATE TABLE kept (id int)").await.unwrap();
        cluster.kill9().unwrap();
        assert!(cluster.connect("postgres").await.is_err());
        cluster.start_again().await.unwrap();
        cluster.execute("postgres", "SELECT id FROM kept").await.unwrap();
        cluster.restart().await.unwrap();
        let password = cluster.superuser_password.clone();
        assert!(cluster.connect_as("postgres", SUPERUSER, "wrong").await.is_err());
        cluster.connect_as("postgres", SUPERUSER, &password).await.unwrap();
    }

    #[tokio::test]
    async fn every_version_starts() {
        for version in PostgresVersion::ALL {
            let cluster = Cluster::start(version, &ClusterOptions::new().setting("work_mem", "5MB")).await.unwrap();
            let client = cluster.connect("postgres").await.unwrap();
            let row = client.query_one("SELECT current_setting('server_version_num')::int / 10000", &[]).await.unwrap();
            assert_eq!(row.get::<_, i32>(0), i32::try_from(version.major()).unwrap());
        }
    }
}
