//! A real PgBouncer of the distribution, between applications and a server.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use pgportage_link::Clock;
use tempfile::TempDir;
use tokio_postgres::{Client, Config, SimpleQueryMessage};

use crate::child::{Child, NOBODY, Output, Program, RunAs, running_as_root};
use crate::cluster::{connect, free_port};
use crate::site::{APPLICATION, APPLICATION_PASSWORD};

/// How long it may take to be there, or to be gone.
const PATIENCE: Duration = Duration::from_secs(30);
/// Where the distribution puts it; not on every user's path.
const PROGRAM: &str = "/usr/sbin/pgbouncer";
/// Who may use the admin console.
pub const KEEPER: &str = "keeper";
const KEEPER_PASSWORD: &str = "canary-keeper-password";

/// A running pooler in a directory of its own. Killed and removed when dropped.
#[derive(Debug)]
pub struct PgBouncer {
    /// Where it listens on 127.0.0.1.
    pub port: u16,
    home: TempDir,
    process: Child,
}

impl PgBouncer {
    /// Starts a pooler with transaction pooling whose `database` leads to a
    /// server on this machine.
    ///
    /// # Errors
    ///
    /// When it does not start; the error carries its log.
    pub async fn start(database: &str, server_port: u16) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("pgportage-pooler-").tempdir()?;
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755))?;
        let port = free_port()?;
        let users = home.path().join("users.txt");
        fs::write(
            &users,
            format!("\"{APPLICATION}\" \"{APPLICATION_PASSWORD}\"\n\"{KEEPER}\" \"{KEEPER_PASSWORD}\"\n"),
        )?;
        fs::write(home.path().join("keeper-password"), KEEPER_PASSWORD)?;
        fs::set_permissions(home.path().join("keeper-password"), fs::Permissions::from_mode(0o600))?;
        let config = home.path().join("pgbouncer.ini");
        fs::write(
            &config,
            format!(
                ";; as a person wrote it by hand
[databases]
; {database} = host=10.0.0.1
{database} = host=127.0.0.1  port={server_port} pool_size=6	
Odd-name = host=127.0.0.1 port={server_port} dbname={database}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {}
admin_users = {KEEPER}
pool_mode = transaction
max_client_conn = 500
",
                users.display()
            ),
        )?;
        for path in [&users, &config] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o640))?;
            if running_as_root() {
                chown(path, Some(NOBODY), Some(NOBODY))?;
            }
        }
        let process = Self::spawn(home.path())?;
        let mut pooler = Self { port, home, process };
        pooler.await_answer().await?;
        Ok(pooler)
    }

    fn spawn(home: &Path) -> Result<Child> {
        let log = fs::File::options().create(true).append(true).open(home.join("log"))?;
        let mut program = Program::new(PROGRAM).argument(home.join("pgbouncer.ini"));
        program.run_as = RunAs::Unprivileged;
        program.stdout = Output::File(log.try_clone()?);
        program.stderr = Output::File(log);
        program.spawn()
    }

    /// Kills it with SIGKILL and starts it again. Its clients lose their
    /// connections, and it forgets who was paused.
    pub async fn kill9_and_start(&mut self) -> Result<()> {
        self.kill9()?;
        self.start_again().await
    }

    /// Kills it with SIGKILL.
    pub fn kill9(&mut self) -> Result<()> {
        self.process.kill9()
    }

    /// Starts it after it was killed.
    pub async fn start_again(&mut self) -> Result<()> {
        self.process = Self::spawn(self.home.path())?;
        self.await_answer().await
    }

    async fn await_answer(&mut self) -> Result<()> {
        let deadline = Clock.now() + PATIENCE;
        loop {
            if let Some(status) = self.process.ended()? {
                bail!("pgbouncer ended ({status}):\n{}", self.log_text());
            }
            match self.console().await {
                Ok(_client) => return Ok(()),
                Err(error) if Clock.now() >= deadline => {
                    bail!("pgbouncer does not answer ({error:#}):\n{}", self.log_text())
                }
                Err(_) => Clock.sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// How the application reaches an entry.
    #[must_use]
    pub fn config(&self, entry: &str) -> Config {
        let mut config = Config::new();
        config.host("127.0.0.1").port(self.port).dbname(entry).user(APPLICATION).password(APPLICATION_PASSWORD);
        config
    }

    /// The admin console.
    pub async fn console(&self) -> Result<Client> {
        let mut config = Config::new();
        config.host("127.0.0.1").port(self.port).dbname("pgbouncer").user(KEEPER).password(KEEPER_PASSWORD);
        connect(&config).await
    }

    /// One value of the row that `SHOW DATABASES` has for an entry.
    pub async fn entry(&self, entry: &str, column: &str) -> Result<String> {
        let messages = self.console().await?.simple_query("SHOW DATABASES").await?;
        messages
            .iter()
            .find_map(|message| match message {
                SimpleQueryMessage::Row(row) if row.get("name") == Some(entry) => row.get(column).map(str::to_owned),
                _ => None,
            })
            .with_context(|| format!("the pooler shows no {column} of {entry}"))
    }

    /// Its configuration file.
    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        self.home.path().join("pgbouncer.ini")
    }

    /// What its configuration file says.
    pub fn config_text(&self) -> Result<String> {
        Ok(fs::read_to_string(self.config_path())?)
    }

    /// A `[[pooler]]` of a policy that leads an entry to a server on this machine.
    #[must_use]
    pub fn policy(&self, database: &str, destination_port: u16) -> String {
        format!(
            "\n[[pooler]]\ndatabase = \"{database}\"\nconsole = \"127.0.0.1:{}\"\nuser = \"{KEEPER}\"\n\
             password_file = \"{}\"\nentries = [\"{database}\", \"Odd-name\"]\nconfig = \"{}\"\n\
             destination = \"127.0.0.1:{destination_port}\"\n",
            self.port,
            self.home.path().join("keeper-password").display(),
            self.config_path().display(),
        )
    }

    /// What it logged.
    #[must_use]
    pub fn log_text(&self) -> String {
        fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
    }
}
