//! The configuration and policy files of a site. One place, so that a change of
//! a file's format is one change here.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::place::Place;

/// Everything an agent's two files say.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// The name in its certificate.
    pub name: String,
    /// The coordinator's address.
    pub coordinator: String,
    /// Where certificates are.
    pub certificates: PathBuf,
    /// Where it keeps its journal.
    pub state_directory: PathBuf,
    /// Its policy file.
    pub policy_path: PathBuf,
    /// Socket directory or address of its server.
    pub postgres_host: String,
    /// Port of its server.
    pub postgres_port: u16,
    /// The role it works as.
    pub postgres_user: String,
    /// A file with that role's password.
    pub password_file: Option<PathBuf>,
    /// Where `pg_dump` and `pg_restore` are.
    pub tools: PathBuf,
    /// Where it runs.
    pub place: Place,
    /// Where the other agent calls.
    pub link_port: u16,
    /// Whether the link packs what it carries: `auto`, `zstd` or `off`.
    pub compression: &'static str,
    /// Where the server's subscription enters the link.
    pub tunnel_port: u16,
    /// Where figures can be read.
    pub metrics_port: u16,
    /// What it may do.
    pub policy: PolicyConfig,
}

/// Everything a policy file says.
#[derive(Clone, Debug)]
pub struct PolicyConfig {
    /// The databases it may touch.
    pub databases: Vec<String>,
    /// `source`, `destination` or both.
    pub sides: Vec<&'static str>,
    /// The other agents with their addresses.
    pub peers: Vec<(String, String)>,
    /// Lines under `[limits]`.
    pub limits: Vec<(String, String)>,
    /// Lines under `[destructive]`.
    pub destructive: Vec<&'static str>,
    /// Premade roles, with the files that hold their passwords.
    pub roles: Vec<(&'static str, String, PathBuf)>,
    /// Whatever else the file says, at its end.
    pub more: String,
}

/// Every destructive act that a policy can allow.
pub const DESTRUCTIVE: [&str; 6] =
    ["fence", "open", "drop_slot", "terminate_sessions", "replica_identity_full", "way_back"];

/// A basic string: TOML escapes in it as JSON does, and takes it as a key too.
fn text(value: &str) -> String {
    serde_json::Value::String(value.to_owned()).to_string()
}

fn path(value: &Path) -> String {
    text(&value.to_string_lossy())
}

fn list<'a>(values: impl IntoIterator<Item = &'a str>) -> String {
    let values: Vec<String> = values.into_iter().map(text).collect();
    format!("[{}]", values.join(", "))
}

/// The section that says who a program is.
pub fn identity(certificates: &Path, role: &str, name: &str) -> String {
    format!(
        "[identity]\ncertificate = {}\nkey = {}\nauthority = {}\n",
        path(&certificates.join(format!("{role}-{name}.pem"))),
        path(&certificates.join(format!("{role}-{name}-key.pem"))),
        path(&certificates.join("ca.pem")),
    )
}

impl AgentConfig {
    /// `agent.toml`.
    #[must_use]
    pub fn settings_text(&self) -> String {
        let password =
            self.password_file.as_ref().map(|file| format!("password_file = {}\n", path(file))).unwrap_or_default();
        format!(
            "name = {name}\nstate_dir = {state}\npolicy = {policy}\n
[coordinator]\naddress = {coordinator}\nname = \"control\"\n
{identity}
[postgres]\nhost = {host}\nport = {port}\nuser = {user}\n{password}replication_address = \"127.0.0.1:{port}\"\n
[programs]\npg_dump = {dump}\npg_restore = {restore}\n
[link]\nlisten = \"{link}\"\ncompression = \"{compression}\"\n
[tunnel]\naddress = \"127.0.0.1\"\nfirst_port = {tunnel}\nlast_port = {tunnel_end}\n
[telemetry]\nmetrics_listen = \"{metrics}\"\n",
            name = text(&self.name),
            state = path(&self.state_directory),
            policy = path(&self.policy_path),
            coordinator = text(&self.coordinator),
            identity = identity(&self.certificates, "agent", &self.name),
            host = text(&self.postgres_host),
            port = self.postgres_port,
            user = text(&self.postgres_user),
            dump = path(&self.tools.join("pg_dump")),
            restore = path(&self.tools.join("pg_restore")),
            link = self.place.at(self.link_port),
            compression = self.compression,
            tunnel = self.tunnel_port,
            tunnel_end = self.tunnel_port + 3,
            metrics = self.place.at(self.metrics_port),
        )
    }
}

impl PolicyConfig {
    /// `policy.toml`.
    #[must_use]
    pub fn text(&self) -> String {
        let mut file = String::new();
        for database in &self.databases {
            // Writing to a string cannot fail.
            let _written =
                write!(file, "[databases.{}]\nsides = {}\n\n", text(database), list(self.sides.iter().copied()));
        }
        file.push_str("[peers]\n");
        for (name, address) in &self.peers {
            let _written = writeln!(file, "{name} = {}", text(address));
        }
        file.push_str("\n[limits]\n");
        for (key, value) in &self.limits {
            let _written = writeln!(file, "{key} = {value}");
        }
        file.push_str("\n[destructive]\n");
        for act in &self.destructive {
            let _written = writeln!(file, "{act} = true");
        }
        for (role, name, password_file) in &self.roles {
            let _written =
                write!(file, "\n[roles.{role}]\nname = {}\npassword_file = {}\n", text(name), path(password_file));
        }
        file.push_str(&self.more);
        file
    }
}

/// `coordinator.toml`.
pub fn coordinator(certificates: &Path, state_directory: &Path, place: &Place, port: u16, metrics_port: u16) -> String {
    let listen = place.at(port);
    format!(
        "listen = \"{listen}\"\nstate_dir = {}\n\n{}\n[telemetry]\nmetrics_listen = \"127.0.0.1:{metrics_port}\"\n",
        path(state_directory),
        identity(certificates, "coordinator", "control"),
    )
}

/// `pgportage.toml`, the operator's.
pub fn operator(certificates: &Path, place: &Place, port: u16) -> String {
    let address = place.at(port);
    format!(
        "[coordinator]\naddress = \"{address}\"\nname = \"control\"\n\n{}",
        identity(certificates, "operator", "olga")
    )
}
