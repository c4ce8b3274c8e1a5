//! `[[pooler]]`: a PgBouncer that applications reach the database through.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use pgportage_proto::Side;

use super::command::{LocalCommand, local_command};
use super::file::{Problems, check_private};
use super::{ANY, DatabaseRule};
use crate::settings::is_address;

/// Transactions of a pool end within milliseconds; longer ones would not fit into an outage anyway.
const PAUSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Applications wait meanwhile.
const REPOINT_TIMEOUT: Duration = Duration::from_secs(10);
/// The user that PgBouncer lets in on its socket without a password, if the client runs as the same user.
const USER: &str = "pgbouncer";

/// One PgBouncer of the policy, for one database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolerRule {
    /// The database that moves.
    pub database: String,
    /// The address of its admin console: `host:port`, or the socket's directory and port.
    pub console: String,
    /// The user that the agent logs in as there.
    pub user: String,
    /// A file that holds the password and nothing else, mode 0600.
    pub password_file: Option<PathBuf>,
    /// The pooler's own names for the database.
    pub entries: Vec<String>,
    /// How long transactions in the pool may take to end.
    pub pause_timeout: Duration,
    /// How the agent leads it to the other server.
    pub repoint: Repoint,
}

/// How the agent leads a pooler to the other server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repoint {
    /// The agent changes host and port of the entries in the pooler's file.
    File {
        /// The file with the entries.
        config: PathBuf,
        /// The address at which the pooler reaches the destination.
        destination: ServerAddress,
    },
    /// A command of the owner changes the pooler's configuration.
    Command {
        /// The owner's program.
        command: LocalCommand,
        /// The address at which the pooler reaches the destination, if the agent is to check that.
        destination: Option<ServerAddress>,
    },
}

/// The address of a server, as the pooler writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerAddress {
    /// A name, an address, or the directory of a socket. Empty: the pooler's own default for a socket.
    pub host: String,
    /// The TCP port, or the number in the socket's name.
    pub port: u16,
}

impl std::fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl ServerAddress {
    /// Reads `host:port`, `[address]:port` or `/directory:port`.
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let port = port.parse().ok()?;
        let host = host.trim_matches(['[', ']']);
        (!host.is_empty()).then(|| Self { host: host.to_owned(), port })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PoolerSection {
    database: String,
    console: String,
    user: Option<String>,
    password_file: Option<PathBuf>,
    entries: Option<Vec<String>>,
    pause_timeout: Option<String>,
    config: Option<PathBuf>,
    destination: Option<String>,
    repoint_command: Option<Vec<String>>,
    repoint_timeout: Option<String>,
}

pub(super) fn poolers(
    problems: &mut Problems,
    table: &mut toml::Table,
    databases: &BTreeMap<String, DatabaseRule>,
) -> Vec<PoolerRule> {
    let sections: Vec<PoolerSection> = problems.section(table, "pooler");
    let mut rules = Vec::new();
    for (index, section) in sections.into_iter().enumerate() {
        let key = |name: &str| format!("pooler[{index}].{name}");
        let known = databases.get(&section.database).or_else(|| databases.get(ANY));
        if !known.is_some_and(|rule| rule.sides.contains(&Side::Source)) {
            let database = &section.database;
            problems.add(
                &key("database"),
                format_args!("{database:?} is no source under [databases]: a pooler is led by the source's agent"),
            );
        }
        if !is_address(&section.console) {
            problems
                .add(&key("console"), "must be host:port, or the socket's directory and port like /run/pgbouncer:6432");
        }
        if let Some(path) = &section.password_file {
            check_private(problems, &key("password_file"), path);
        }
        let entries = section.entries.unwrap_or_else(|| vec![section.database.clone()]);
        if entries.is_empty() {
            problems.add(&key("entries"), "is empty; leave it out where the pooler's name of the database is the same");
        }
        let pause_timeout = problems.duration(&key("pause_timeout"), section.pause_timeout, PAUSE_TIMEOUT);
        let repoint_timeout = problems.duration(&key("repoint_timeout"), section.repoint_timeout, REPOINT_TIMEOUT);
        let destination = section.destination.and_then(|text| {
            let address = ServerAddress::parse(&text);
            if address.is_none() {
                problems.add(&key("destination"), format_args!("{text:?} must be host:port"));
            }
            address
        });
        let repoint = match (section.config, section.repoint_command) {
            (Some(config), None) => {
                if !config.is_absolute() {
                    problems.add(&key("config"), "must be an absolute path");
                }
                if destination.is_none() {
                    problems.add(&key("destination"), "say where the pooler reaches the destination, as host:port");
                }
                destination.map(|destination| Repoint::File { config, destination })
            }
            (None, Some(words)) => local_command(problems, &key("repoint_command"), words, repoint_timeout)
                .map(|command| Repoint::Command { command, destination }),
            (Some(_), Some(_)) | (None, None) => {
                problems.add(&key("config"), "give either config or repoint_command: how is the pooler led elsewhere?");
                None
            }
        };
        rules.extend(repoint.map(|repoint| PoolerRule {
            database: section.database,
            console: section.console,
            user: section.user.unwrap_or_else(|| USER.to_owned()),
            password_file: section.password_file,
            entries,
            pause_timeout,
            repoint,
        }));
    }
    rules
}
