//! The contents of `agent.toml`: this agent's name, the address of its server, where it listens, which
//! coordinator it dials. What the agent *may* do is in the policy file (`crate::policy`), which nothing
//! here can widen.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgportage_data_plane::peer::Compression;
use pgportage_data_plane::tunnel::TunnelSettings;
use pgportage_link::settings::{self, IdentitySettings, Problems, TelemetrySettings, Validate};
use pgportage_link::{Effect, Failure};
use pgportage_proto::Reason;
use serde::{Deserialize, Serialize};

/// The beginning of variables that override the file, for example `PGPORTAGE_AGENT_POSTGRES__PORT`.
const PREFIX: &str = "PGPORTAGE_AGENT";

/// Everything that `agent.toml` sets, checked.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The name in this agent's certificate.
    pub name: String,
    /// The directory of the journal. It must survive a crash of the machine, and only the agent's user may
    /// write there.
    pub state_dir: PathBuf,
    /// The policy file.
    pub policy: PathBuf,
    /// The coordinator that the agent dials.
    pub coordinator: CoordinatorSettings,
    /// This agent's certificate.
    pub identity: IdentitySettings,
    /// The server beside this agent.
    #[serde(default)]
    pub postgres: PostgresSettings,
    /// PostgreSQL's own programs.
    #[serde(default)]
    pub programs: ProgramSettings,
    /// Where other agents call this one.
    pub link: LinkSettings,
    /// Where the server's own subscription enters the link.
    #[serde(default)]
    pub tunnel: TunnelSettings,
    /// When a copy gives way to the server that it reads from.
    #[serde(default)]
    pub protection: ProtectionSettings,
    /// Logs, traces and metrics.
    #[serde(default)]
    pub telemetry: TelemetrySettings,
}

/// The coordinator that the agent dials.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CoordinatorSettings {
    /// `host:port`. Resolved again at every attempt.
    pub address: String,
    /// The name in the coordinator's certificate. The agent refuses a server with another name.
    pub name: String,
}

/// The server beside this agent.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct PostgresSettings {
    /// Directory of the Unix socket, or a host name. The socket is preferred:
    /// peer authentication needs no secret at all.
    pub host: String,
    /// The TCP port, or the number in the socket's name.
    pub port: u16,
    /// The role that the agent logs in as.
    pub user: String,
    /// A file that holds the role's password and nothing else, mode 0600.
    pub password_file: Option<PathBuf>,
    /// A passfile in libpq's format, mode 0600.
    pub passfile: Option<PathBuf>,
    /// Most sessions that the agent holds at a time, the barrier's included.
    pub max_sessions: u16,
    /// The database in which the agent reads what concerns the whole server.
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
            // act at work: several migrations at once fit in.
            max_sessions: 16,
            maintenance_database: "postgres".to_owned(),
            // By password even on the same machine: the other agent uses this login, and `peer` or `trust`
            // would prove nothing about it.
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

/// Where other agents call this one.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LinkSettings {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Destination: whether the source packs rows and the subscription's stream.
    #[serde(default)]
    pub compression: Compression,
}

/// When a copy gives way to the server that it reads from. The numbers limit what the copy may cost
/// applications and standbys; at half of them the copy speeds up again.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProtectionSettings {
    /// Whether fewer readers read while the server is under strain.
    pub enabled: bool,
    /// Longest time for a tiny commit on the server, without waiting for standbys.
    #[serde(with = "settings::duration")]
    pub max_commit_latency: Duration,
    /// How far the server's own standbys may fall behind while rows are read.
    #[serde(with = "settings::duration")]
    pub max_standby_lag: Duration,
}

impl Default for ProtectionSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            // A hundred times what a healthy disk takes. If it lasts for three seconds, applications feel
            // it too.
            max_commit_latency: Duration::from_millis(500),
            // A replay may pause for seconds by itself, but not for half a minute.
            max_standby_lag: Duration::from_secs(30),
        }
    }
}

impl Settings {
    /// Reads and checks the whole file before anything is opened or dialled.
    ///
    /// # Errors
    ///
    /// [`Reason::ConfigurationInvalid`]: every problem is in the detail, one a
    /// line, each with its key.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        settings::load(Some(path), PREFIX).map_err(|problems| settings::failure(&problems))
    }

    /// The path of the journal.
    pub fn journal_path(&self) -> PathBuf {
        self.state_dir.join("journal.db")
    }
}

impl Validate for Settings {
    fn validate(&self, problems: &mut Problems) {
        if !is_name(&self.name) {
            problems.add("name", NAME);
        }
        if !self.state_dir.is_absolute() {
            problems.add("state_dir", ABSOLUTE);
        }
        if !self.policy.is_absolute() {
            problems.add("policy", ABSOLUTE);
        }
        problems.section("coordinator", &self.coordinator);
        problems.section("identity", &self.identity);
        problems.section("postgres", &self.postgres);
        problems.section("programs", &self.programs);
        problems.section("tunnel", &self.tunnel);
        problems.section("protection", &self.protection);
        problems.section("telemetry", &self.telemetry);
    }
}

impl Validate for CoordinatorSettings {
    fn validate(&self, problems: &mut Problems) {
        if !is_address(&self.address) {
            problems.add("address", ADDRESS);
        }
        if !is_name(&self.name) {
            problems.add("name", NAME);
        }
    }
}

impl Validate for PostgresSettings {
    fn validate(&self, problems: &mut Problems) {
        for (key, value) in
            [("host", &self.host), ("user", &self.user), ("maintenance_database", &self.maintenance_database)]
        {
            if value.is_empty() || value.contains('\0') {
                problems.add(key, "must not be empty");
            }
        }
        if self.port == 0 {
            problems.add("port", "must not be 0");
        }
        if self.max_sessions < 6 {
            problems.add("max_sessions", "must be at least 6: a cutover needs them");
        }
        for (key, path) in [("password_file", &self.password_file), ("passfile", &self.passfile)] {
            if path.as_ref().is_some_and(|path| !path.is_absolute()) {
                problems.add(key, ABSOLUTE);
            }
        }
        if !is_address(&self.replication_address) {
            problems.add("replication_address", ADDRESS);
        }
    }
}

impl Validate for ProgramSettings {
    fn validate(&self, problems: &mut Problems) {
        for (key, path) in [("pg_dump", &self.pg_dump), ("pg_restore", &self.pg_restore)] {
            if path.as_ref().is_some_and(|path| !path.is_absolute()) {
                problems.add(key, ABSOLUTE);
            }
        }
    }
}

impl Validate for ProtectionSettings {
    fn validate(&self, problems: &mut Problems) {
        if self.max_commit_latency < Duration::from_millis(10) {
            problems.add("max_commit_latency", "must be at least 10ms: a healthy disk may take as long");
        }
        if self.max_standby_lag < Duration::from_secs(4) {
            problems.add("max_standby_lag", "must be at least 4s: it is looked at each second");
        }
    }
}

const NAME: &str = "use 1 to 63 characters of a-z, 0-9, - and .";
const ABSOLUTE: &str = "must be an absolute path";
const ADDRESS: &str = "must be host:port";

pub(crate) fn invalid(path: &Path, problems: &[String]) -> Failure {
    let count = problems.len();
    let noun = if count == 1 { "problem" } else { "problems" };
    Failure::new(Reason::ConfigurationInvalid, format!("{} has {count} {noun}", path.display()))
        .detail(problems.join("\n"))
        .effect(Effect::None)
}

/// Whether a text can be the name of an agent or a coordinator in a certificate.
pub(crate) fn is_name(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.'))
}

/// `host:port`, where the host may be a name, an address or a directory.
pub(crate) fn is_address(text: &str) -> bool {
    text.rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
name = "berlin"
state_dir = "/var/lib/pgportage-agent"
policy = "/etc/pgportage/policy.toml"
[coordinator]
address = "coordinator.internal:7420"
name = "main"
[identity]
certificate = "/etc/pgportage/agent.pem"
key = "/etc/pgportage/agent-key.pem"
authority = "/etc/pgportage/ca.pem"
[link]
listen = "0.0.0.0:7421"
"#;

    fn load(text: &str) -> Result<Settings, Failure> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.toml");
        std::fs::write(&path, text).unwrap();
        Settings::load(&path)
    }

    #[test]
    fn the_least_that_has_to_be_said() {
        let settings = load(GOOD).unwrap();
        assert_eq!(settings.postgres.host, "/var/run/postgresql");
        assert!(settings.tunnel.address.is_loopback());
        let printed = settings::print(&settings).unwrap();
        assert!(printed.contains("maintenance_database = \"postgres\""), "defaults are printed too:\n{printed}");
        assert!(load(&printed).is_ok(), "what is printed can be read again:\n{printed}");
    }

    #[test]
    fn five_mistakes_are_named_at_once() {
        let bad = GOOD
            .replace("\"berlin\"", "\"Berlin Mitte\"")
            .replace("coordinator.internal:7420", "coordinator.internal")
            .replace("\"/etc/pgportage/policy.toml\"", "\"policy.toml\"")
            .replace("0.0.0.0:7421", "everywhere");
        let failure = load(&format!("{bad}[tunnel]\nfirst_port = \"many\"\n[postgres]\nhoost = \"db\"\n")).unwrap_err();
        assert_eq!(failure.reason, Reason::ConfigurationInvalid);
        for key in ["name", "coordinator.address", "policy", "link.listen", "tunnel.first_port", "postgres.hoost"] {
            assert!(
                failure.detail.lines().any(|line| line.starts_with(key)),
                "{key} is missing in:\n{}",
                failure.detail
            );
        }
    }
}
