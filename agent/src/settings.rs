//! What `agent.toml` says: who this agent is, where its server is, where it
//! listens, whom it dials. What the agent *may* do is in the policy file
//! (`crate::policy`), which nothing here can widen.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use pgportage_link::{Effect, Failure};
use pgportage_proto::Reason;
use serde::{Deserialize, Serialize};

/// The whole of `agent.toml`, checked.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The name in this agent's certificate.
    pub name: String,
    /// Where the journal lives. Must survive a crash of the machine; nobody
    /// else may write there.
    pub state_dir: PathBuf,
    /// The policy file.
    pub policy: PathBuf,
    /// Whom to dial.
    pub coordinator: CoordinatorSettings,
    /// This agent's certificate.
    pub identity: IdentitySettings,
    /// The server beside this agent.
    #[serde(default)]
    pub postgres: PostgresSettings,
    /// PostgreSQL's own programs.
    #[serde(default)]
    pub programs: ProgramSettings,
    /// Where the other agent calls.
    pub link: LinkSettings,
    /// Where the server's own subscription enters the link.
    #[serde(default)]
    pub tunnel: TunnelSettings,
    /// Where figures can be read. Absent: nowhere.
    #[serde(default)]
    pub metrics: Option<MetricsSettings>,
}

/// Whom to dial.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CoordinatorSettings {
    /// `host:port`. Resolved again at every attempt.
    pub address: String,
    /// The name in the coordinator's certificate: anybody else is refused.
    pub name: String,
}

/// This agent's certificate. The files are read again when they change.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct IdentitySettings {
    /// PEM file with the certificate, then its issuers.
    pub certificate: PathBuf,
    /// PEM file with the private key, mode 0600.
    pub key: PathBuf,
    /// PEM file with the authorities of the trust domain.
    pub ca: PathBuf,
    /// The trust domain, as in `spiffe://<trust-domain>/…`.
    pub trust_domain: String,
}

/// The server beside this agent.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct PostgresSettings {
    /// Directory of the Unix socket, or a host name. The socket is preferred:
    /// peer authentication needs no secret at all.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The role the agent works as.
    pub user: String,
    /// A file that holds the role's password and nothing else, mode 0600.
    pub password_file: Option<PathBuf>,
    /// A passfile in libpq's format, mode 0600.
    pub passfile: Option<PathBuf>,
    /// How many sessions the agent holds at most, the barrier's included.
    pub max_sessions: u16,
    /// The database for what concerns the whole server.
    pub maintenance_database: String,
    /// Source: `host:port` (or the socket's directory and port, as
    /// `/run/postgresql:5432`) where the replication role logs in. The tunnel
    /// leads here and nowhere else.
    pub replication_address: String,
}

impl Default for PostgresSettings {
    fn default() -> Self {
        Self {
            host: "/var/run/postgresql".to_owned(),
            port: 5432,
            user: "pgportage".to_owned(),
            password_file: None,
            passfile: None,
            // Three for a cutover, one for each background task, one for the
            // step at work: several migrations at once fit in.
            max_sessions: 16,
            maintenance_database: "postgres".to_owned(),
            // By password even on one's own machine: the role belongs to the
            // other agent, so `peer` and `trust` would prove nothing.
            replication_address: "127.0.0.1:5432".to_owned(),
        }
    }
}

/// PostgreSQL's own programs. Absent: looked for in the usual places.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProgramSettings {
    /// The `pg_dump` to use on a source.
    pub pg_dump: Option<PathBuf>,
    /// The `pg_restore` to use on a destination.
    pub pg_restore: Option<PathBuf>,
}

/// Where the other agent calls.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LinkSettings {
    /// Address to listen on.
    pub listen: SocketAddr,
}

/// Where the server's own subscription enters the link.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TunnelSettings {
    /// Address to listen on. A loopback address, unless the server is on
    /// another machine.
    pub address: std::net::IpAddr,
    /// First port of the range; each migration gets one.
    pub first_port: u16,
    /// Last port of the range.
    pub last_port: u16,
}

impl Default for TunnelSettings {
    fn default() -> Self {
        // Sixteen: migrations to one server at the same time are few, and each
        // holds workers of its server.
        Self { address: std::net::Ipv4Addr::LOCALHOST.into(), first_port: 7440, last_port: 7455 }
    }
}

/// Where figures can be read.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MetricsSettings {
    /// Address to listen on, in plain HTTP: keep it on a private network.
    pub listen: SocketAddr,
}

impl Settings {
    /// Reads and checks the whole file before anything is opened or dialled.
    ///
    /// # Errors
    ///
    /// [`Reason::ConfigurationInvalid`]: every problem is in the detail, one a
    /// line, each with its key.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path).map_err(|error| invalid(path, &[error.to_string()]))?;
        let settings: Self = toml::from_str(&text).map_err(|error| invalid(path, &[error.to_string()]))?;
        let problems = settings.problems();
        if problems.is_empty() { Ok(settings) } else { Err(invalid(path, &problems)) }
    }

    /// Where the journal is.
    #[must_use]
    pub fn journal_path(&self) -> PathBuf {
        self.state_dir.join("journal.db")
    }

    /// What is wrong with values that have the right type.
    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |fits: bool, problem: &str| {
            if !fits {
                problems.push(problem.to_owned());
            }
        };
        check(is_name(&self.name), "name: use 1 to 63 characters of a-z, 0-9, - and .");
        check(is_name(&self.coordinator.name), "coordinator.name: use 1 to 63 characters of a-z, 0-9, - and .");
        check(is_address(&self.coordinator.address), "coordinator.address: must be host:port");
        check(self.state_dir.is_absolute(), "state_dir: must be an absolute path");
        check(self.policy.is_absolute(), "policy: must be an absolute path");
        check(self.identity.certificate.is_absolute(), "identity.certificate: must be an absolute path");
        check(self.identity.key.is_absolute(), "identity.key: must be an absolute path");
        check(self.identity.ca.is_absolute(), "identity.ca: must be an absolute path");
        check(!self.identity.trust_domain.is_empty(), "identity.trust_domain: must not be empty");
        check(!self.postgres.host.is_empty(), "postgres.host: must not be empty");
        check(self.postgres.port != 0, "postgres.port: must not be 0");
        check(self.postgres.max_sessions >= 6, "postgres.max_sessions: must be at least 6, a cutover needs them");
        check(!self.postgres.user.is_empty(), "postgres.user: must not be empty");
        check(!self.postgres.maintenance_database.is_empty(), "postgres.maintenance_database: must not be empty");
        check(is_address(&self.postgres.replication_address), "postgres.replication_address: must be host:port");
        check(self.tunnel.first_port != 0, "tunnel.first_port: must not be 0");
        check(self.tunnel.first_port <= self.tunnel.last_port, "tunnel.last_port: must not be below tunnel.first_port");
        problems
    }
}

/// One failure for all problems of a file.
pub(crate) fn invalid(path: &Path, problems: &[String]) -> Failure {
    let count = problems.len();
    let noun = if count == 1 { "problem" } else { "problems" };
    Failure::new(Reason::ConfigurationInvalid, format!("{} has {count} {noun}", path.display()))
        .detail(problems.join("\n"))
        .effect(Effect::None)
}

/// Names of agents and coordinators, as they stand in certificates.
pub(crate) fn is_name(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.'))
}

/// `host:port`, where the host may be a name, an address or a directory.
pub(crate) fn is_address(text: &str) -> bool {
    text.rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0))
}
