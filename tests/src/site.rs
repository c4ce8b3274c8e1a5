//! A whole site on this machine: two clusters, a coordinator, two agents, an
//! operator, all as real processes with real certificates.

pub mod config;
pub mod wires;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use tempfile::TempDir;

use self::config::{AgentConfig, DESTRUCTIVE, PolicyConfig};
use crate::child::{Output, Program};
use crate::cli::Cli;
use crate::cluster::{Cluster, ClusterOptions, SUPERUSER, free_port};
use crate::ledger::End;
use crate::place::{Network, Place};
use crate::postgres_versions::{PostgresVersion, tools_for};
use crate::service::Service;
use crate::wait::{self, Seen};
use crate::workload::Ends;

/// How long the programs may take to be there on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The database that moves, unless a test says otherwise.
pub const DATABASE: &str = "shop";
/// The role that owns it and that applications log in as.
pub const APPLICATION: &str = "app";
/// Its password on both servers.
pub const APPLICATION_PASSWORD: &str = "canary-application-password";

/// What a site is made of.
#[derive(Debug)]
pub struct SiteOptions {
    /// Version of the server moved from.
    pub source_version: PostgresVersion,
    /// Version of the server moved to.
    pub destination_version: PostgresVersion,
    /// How the source differs from the usual cluster.
    pub source: ClusterOptions,
    /// How the destination differs from the usual cluster.
    pub destination: ClusterOptions,
    /// The database that moves.
    pub database: String,
    /// Lines under `[limits]` of both policies.
    pub limits: Vec<(String, String)>,
    /// A directory to make the site in, which stays; a temporary one otherwise.
    pub directory: Option<PathBuf>,
    /// Where the source and its agent run.
    pub source_place: Place,
    /// Where everything else runs.
    pub destination_place: Place,
    /// The directory of the programs, if not those that were built with this test.
    pub programs: Option<PathBuf>,
}

impl SiteOptions {
    /// The usual site for a pair of versions.
    #[must_use]
    pub fn new(source_version: PostgresVersion, destination_version: PostgresVersion) -> Self {
        Self {
            source_version,
            destination_version,
            source: ClusterOptions::new(),
            destination: ClusterOptions::new(),
            database: DATABASE.to_owned(),
            // Servers, programs and writers share two cores here: locks are
            // granted later than on a server of one's own.
            limits: vec![("barrier_timeout".to_owned(), "\"3s\"".to_owned())],
            directory: None,
            source_place: Place::default(),
            destination_place: Place::default(),
            programs: None,
        }
    }

    /// Puts a network between the source with its agent and everything else.
    #[must_use]
    pub fn network(mut self, network: &Network) -> Self {
        self.source = self.source.place(&network.far);
        self.destination = self.destination.place(&network.near);
        self.source_place = network.far.clone();
        self.destination_place = network.near.clone();
        self
    }

    /// Adds a line under `[limits]` of both policies.
    #[must_use]
    pub fn limit(mut self, key: &str, value: &str) -> Self {
        self.limits.push((key.to_owned(), value.to_owned()));
        self
    }
}

/// A site. Everything in it ends when it is dropped.
#[derive(Debug)]
pub struct Site {
    /// The operator's hand.
    pub cli: Cli,
    /// The one coordinator.
    pub coordinator: Service,
    /// Beside the source.
    pub source_agent: Service,
    /// Beside the destination.
    pub destination_agent: Service,
    /// The server moved from.
    pub source: Cluster,
    /// The server moved to.
    pub destination: Cluster,
    /// The database that moves.
    pub database: String,
    /// What the source agent's files say; see [`Site::write_agent_files`].
    pub source_config: AgentConfig,
    /// What the destination agent's files say.
    pub destination_config: AgentConfig,
    /// What `create` is told beside the route.
    pub create_arguments: Vec<&'static str>,
    home: Home,
}

#[derive(Debug)]
enum Home {
    Removed(TempDir),
    Kept(PathBuf),
}

/// Where a program is: built beside this test, or in the directory that the
/// variable `TESTED_PROGRAMS` names.
///
/// # Errors
///
/// When it was not built.
pub fn program(name: &str) -> Result<PathBuf> {
    let directory = match std::env::var_os("TESTED_PROGRAMS") {
        Some(directory) => PathBuf::from(directory),
        None => {
            let test = std::env::current_exe()?;
            let above = test.parent().context("a test without a directory")?;
            if above.ends_with("deps") { above.parent().unwrap_or(above).to_owned() } else { above.to_owned() }
        }
    };
    program_in(&directory, name).context("run `cargo build --workspace --bins` first")
}

fn program_in(directory: &Path, name: &str) -> Result<PathBuf> {
    let path = directory.join(name);
    ensure!(path.exists(), "{} is not there", path.display());
    Ok(path.canonicalize()?)
}

impl Site {
    /// Starts two clusters with the roles and databases of an application, makes
    /// certificates and files, and starts the programs.
    ///
    /// # Errors
    ///
    /// When anything does not start; the error shows its last words.
    pub async fn start(options: SiteOptions) -> Result<Self> {
        let mut site = Self::prepare(options).await?;
        site.start_programs().await?;
        Ok(site)
    }

    /// As [`Site::start`], but starts no program of ours.
    ///
    /// # Errors
    ///
    /// As [`Site::start`].
    pub async fn prepare(options: SiteOptions) -> Result<Self> {
        let home = match options.directory {
            Some(directory) => {
                fs::create_dir_all(&directory)?;
                Home::Kept(directory)
            }
            None => Home::Removed(tempfile::Builder::new().prefix("pgportage-site-").tempdir()?),
        };
        let directory = match &home {
            Home::Removed(directory) => directory.path().to_path_buf(),
            Home::Kept(directory) => directory.clone(),
        };
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755))?;
        let source_home = directory.join("source");
        let destination_home = directory.join("destination");
        let (source, destination) = tokio::try_join!(
            Cluster::start_kept(options.source_version, &options.source, &source_home),
            Cluster::start_kept(options.destination_version, &options.destination, &destination_home),
        )?;
        for cluster in [&source, &destination] {
            make_application(cluster, &options.database).await?;
        }

        let certificates = directory.join("certificates");
        let programs = options.programs;
        let program = |name: &str| -> Result<PathBuf> {
            match &programs {
                Some(directory) => program_in(directory, name),
                None => program(name),
            }
        };
        make_certificates(&program("pgportage")?, &certificates).await?;
        let (port, metrics_port) = (free_port()?, free_port()?);
        let (far, near) = (&options.source_place, &options.destination_place);
        let [coordinator_state, cli_config, coordinator_config] =
            ["coordinator-state", "pgportage.toml", "coordinator.toml"].map(|name| directory.join(name));
        fs::create_dir_all(&coordinator_state)?;
        fs::write(
            &coordinator_config,
            config::coordinator(&certificates, &coordinator_state, near, port, metrics_port),
        )?;
        fs::write(&cli_config, config::operator(&certificates, near, port))?;

        let tools = tools_for(options.source_version.max(options.destination_version))?;
        let agent = |name: &'static str, side: &'static str, cluster: &Cluster, place: &Place| -> Result<AgentConfig> {
            Ok(AgentConfig {
                name: name.to_owned(),
                coordinator: near.at(port),
                certificates: certificates.clone(),
                state_directory: directory.join(format!("{name}-state")),
                policy_path: directory.join(format!("{name}-policy.toml")),
                postgres_host: cluster.socket_directory().to_string_lossy().into_owned(),
                postgres_port: cluster.port,
                postgres_user: SUPERUSER.to_owned(),
                password_file: None,
                tools: tools.bin_dir.clone(),
                place: place.clone(),
                link_port: free_port()?,
                compression: "auto",
                tunnel_port: free_port()?,
                metrics_port: free_port()?,
                policy: PolicyConfig {
                    databases: vec![options.database.clone()],
                    sides: vec![side],
                    peers: Vec::new(),
                    limits: options.limits.clone(),
                    destructive: DESTRUCTIVE.to_vec(),
                    roles: Vec::new(),
                    more: String::new(),
                },
            })
        };
        let mut source_config = agent("berlin", "source", &source, far)?;
        let mut destination_config = agent("oslo", "destination", &destination, near)?;
        let address = |config: &AgentConfig| (config.name.clone(), config.place.at(config.link_port));
        source_config.policy.peers.push(address(&destination_config));
        destination_config.policy.peers.push(address(&source_config));

        let service = |name: &str, binary: &str, config: &Path| -> Result<Service> {
            Ok(Service::new(name, program(binary)?, directory.join(format!("{name}.log")))
                .arguments(["--config".into(), config.as_os_str().to_owned()]))
        };
        let site = Self {
            cli: Cli {
                path: program("pgportage")?,
                config: cli_config,
                scratch: directory.clone(),
                environment: Vec::new(),
            },
            coordinator: service("coordinator", "pgportage-coordinator", &coordinator_config)?,
            source_agent: service("berlin", "pgportage-agent", &directory.join("berlin.toml"))?.place(far),
            destination_agent: service("oslo", "pgportage-agent", &directory.join("oslo.toml"))?.place(near),
            source,
            destination,
            database: options.database,
            source_config,
            destination_config,
            create_arguments: Vec::new(),
            home,
        };
        site.write_agent_files()?;
        Ok(site)
    }

    /// Writes both agents' files again, after a change of what they say.
    ///
    /// # Errors
    ///
    /// When a file cannot be written.
    pub fn write_agent_files(&self) -> Result<()> {
        for config in [&self.source_config, &self.destination_config] {
            fs::create_dir_all(&config.state_directory)?;
            fs::set_permissions(&config.state_directory, fs::Permissions::from_mode(0o700))?;
            fs::write(&config.policy_path, config.policy.text())?;
            fs::write(self.directory().join(format!("{}.toml", config.name)), config.settings_text())?;
        }
        Ok(())
    }

    /// Starts the coordinator and both agents, and waits until both are attached.
    ///
    /// # Errors
    ///
    /// When they are not there in time; the error shows their last words.
    pub async fn start_programs(&mut self) -> Result<()> {
        self.coordinator.start()?;
        self.source_agent.start()?;
        self.destination_agent.start()?;
        self.wait_for_agents().await
    }

    /// Asks the coordinator and both agents to end.
    ///
    /// # Errors
    ///
    /// When one of them takes too long.
    pub async fn stop_programs(&mut self) -> Result<()> {
        for service in [&mut self.source_agent, &mut self.destination_agent, &mut self.coordinator] {
            service.stop().await?;
        }
        Ok(())
    }

    /// Lets every later start be of the programs that were built with this test.
    pub fn replace_programs(&mut self) -> Result<()> {
        self.coordinator.replace(program("pgportage-coordinator")?);
        self.source_agent.replace(program("pgportage-agent")?);
        self.destination_agent.replace(program("pgportage-agent")?);
        self.cli.path = program("pgportage")?;
        Ok(())
    }

    /// Waits until both agents are attached.
    ///
    /// # Errors
    ///
    /// As [`Site::start_programs`].
    pub async fn wait_for_agents(&self) -> Result<()> {
        wait::until_told("both agents to be attached", PATIENCE, || async {
            Ok(match self.cli.json::<Vec<AgentStatus>>(&["agents"]).await {
                Ok(agents) if agents.iter().filter(|agent| agent.state == "attached").count() == 2 => Seen::Done(()),
                Ok(agents) => Seen::NotYet(format!("{agents:?}")),
                Err(error) => Seen::NotYet(format!("{error:#}")),
            })
        })
        .await
        .with_context(|| self.last_words())
    }

    /// The directory that everything is in.
    #[must_use]
    pub fn directory(&self) -> &Path {
        match &self.home {
            Home::Removed(directory) => directory.path(),
            Home::Kept(directory) => directory,
        }
    }

    /// How the application reaches both ends.
    #[must_use]
    pub fn ends(&self) -> Ends {
        let config = |cluster: &Cluster| cluster.tcp_config(&self.database, APPLICATION, APPLICATION_PASSWORD);
        Ends { source: config(&self.source), destination: config(&self.destination) }
    }

    /// The cluster at one end.
    #[must_use]
    pub fn cluster(&self, end: End) -> &Cluster {
        match end {
            End::Source => &self.source,
            End::Destination => &self.destination,
        }
    }

    /// The cluster at one end, to stop it and to start it.
    #[must_use]
    pub fn cluster_mut(&mut self, end: End) -> &mut Cluster {
        match end {
            End::Source => &mut self.source,
            End::Destination => &mut self.destination,
        }
    }

    /// The agent at one end.
    #[must_use]
    pub fn agent(&mut self, end: End) -> &mut Service {
        match end {
            End::Source => &mut self.source_agent,
            End::Destination => &mut self.destination_agent,
        }
    }

    /// The ends of all logs, for a failing test.
    #[must_use]
    pub fn last_words(&self) -> String {
        [
            ("coordinator", &self.coordinator),
            ("source agent", &self.source_agent),
            ("destination agent", &self.destination_agent),
        ]
        .map(|(name, service)| format!("--- {name}\n{}\n", service.log_tail()))
        .concat()
    }

    /// Creates and starts a migration, and waits until only the cutover is
    /// missing.
    ///
    /// # Errors
    ///
    /// When a command fails; the error shows what it said and the ends of all
    /// logs.
    pub async fn migrate_until_cutover(&self, migration: &str) -> Result<()> {
        self.create(migration).await?;
        self.cli.expect(0, &["start", migration]).await.with_context(|| self.last_words())?;
        let status = self.cli.status(migration).await?;
        ensure!(status.ready_for_cutover, "not ready for cutover: {}\n{}", status.summary(), self.last_words());
        Ok(())
    }

    /// How often the applications have changed sides, at most, in the migration that was
    /// made last: the number of its last try, and a round of a rehearsal is one.
    pub async fn switches(&self) -> Result<usize> {
        let status = self.cli.status(crate::journey::MIGRATION).await?;
        Ok(status.cutover.map_or(0, |cutover| usize::try_from(cutover.epoch).unwrap_or(0)))
    }

    /// Creates a migration from the source to the destination.
    ///
    /// # Errors
    ///
    /// When the coordinator refuses.
    pub async fn create(&self, migration: &str) -> Result<()> {
        let mut create =
            vec!["create", migration, "--from", "berlin", "--to", "oslo", "--database", self.database.as_str()];
        create.extend(&self.create_arguments);
        self.cli.expect(0, &create).await.with_context(|| self.last_words())?;
        Ok(())
    }
}

/// What `agents --json` says, as far as tests ask.
#[derive(Clone, Debug, Deserialize)]
struct AgentStatus {
    state: String,
}

/// The application's role and its database, which exists on both servers.
async fn make_application(cluster: &Cluster, database: &str) -> Result<()> {
    let client = cluster.connect("postgres").await?;
    // Whatever the server logs: this statement is the administrator's business.
    client.batch_execute("SET log_statement = none").await?;
    client.batch_execute(&format!("CREATE ROLE {APPLICATION} LOGIN PASSWORD '{APPLICATION_PASSWORD}'")).await?;
    let quoted = database.replace('"', "\"\"");
    client.batch_execute(&format!("CREATE DATABASE \"{quoted}\" OWNER {APPLICATION}")).await?;
    Ok(())
}

/// Makes the authority and all certificates with the program itself.
async fn make_certificates(program: &Path, directory: &Path) -> Result<()> {
    let at = directory.to_string_lossy();
    let commands: [&[&str]; 5] = [
        &["certs", "init", "--directory", &at],
        &["certs", "issue", "--directory", &at, "coordinator", "control"],
        &["certs", "issue", "--directory", &at, "agent", "berlin"],
        &["certs", "issue", "--directory", &at, "agent", "oslo"],
        &["certs", "issue", "--directory", &at, "operator", "olga"],
    ];
    for command in commands {
        let log = tempfile::tempfile()?;
        let mut process = Program::new(program).arguments(command.iter().copied());
        process.stderr = Output::File(log.try_clone()?);
        let status = process.spawn()?.wait(PATIENCE).await?;
        ensure!(status.success(), "pgportage {command:?} ended with {status}: {}", read_back(log)?);
    }
    Ok(())
}

fn read_back(mut file: fs::File) -> Result<String> {
    use std::io::{Read, Seek};
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    Ok(text)
}
