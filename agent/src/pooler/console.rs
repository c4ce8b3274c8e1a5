//! PgBouncer's admin console.
//!
//! It speaks the simple query protocol only, one command a message. The caller drives the connection
//! itself, without a task. So commands that are sent together leave in one packet, and the pooler carries
//! them out in one turn of its loop.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::{Either, join_all, select};
use pgportage_link::{Clock, Effect, Failure, Remedy};
use pgportage_postgres::{APPLICATION_PREFIX, Secret};
use pgportage_proto::Reason;
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::NoTlsStream;
use tokio_postgres::{Client, Config, Connection, NoTls, SimpleQueryMessage, Socket};

use crate::policy::{PoolerRule, ServerAddress};

/// The name of the console among the pooler's databases.
const DATABASE: &str = "pgbouncer";
/// How long a login, or a question about the pooler itself, may take.
const LIMIT: Duration = Duration::from_secs(5);

/// A row of the console: values by the names of their columns.
pub(super) type Shown = BTreeMap<String, String>;

pub(super) struct Console {
    address: String,
    client: Client,
    connection: Connection<Socket, NoTlsStream>,
    clock: Clock,
    ended: bool,
}

impl std::fmt::Debug for Console {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Console").field("address", &self.address).finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EntryState {
    pub(super) address: ServerAddress,
    /// The name of the database at that address.
    pub(super) database: String,
    /// Whether its clients wait.
    pub(super) paused: bool,
    /// Whether it refuses all clients.
    pub(super) disabled: bool,
}

impl Console {
    /// Logs in.
    ///
    /// # Errors
    ///
    /// [`Reason::PoolerUnreachable`]; [`Reason::ConfigurationInvalid`] for the
    /// password file.
    pub(super) async fn open(rule: &PoolerRule, clock: Clock) -> Result<Self, Failure> {
        let mut config = Config::new();
        config
            .dbname(DATABASE)
            .user(&rule.user)
            .application_name(format!("{APPLICATION_PREFIX} pooler"))
            .ssl_mode(SslMode::Disable)
            .connect_timeout(LIMIT);
        let ServerAddress { host, port } = ServerAddress::parse(&rule.console)
            .ok_or_else(|| unreachable_console(&rule.console, "the address cannot be read"))?;
        if host.starts_with('/') { config.host_path(&host) } else { config.host(&host) }.port(port);
        if let Some(path) = &rule.password_file {
            config.password(Secret::from_file(path)?.expose());
        }
        match clock.timeout(LIMIT, Box::pin(config.connect(NoTls))).await {
            Ok(Ok((client, connection))) => {
                Ok(Self { address: rule.console.clone(), client, connection, clock, ended: false })
            }
            Ok(Err(error)) => Err(unreachable_console(&rule.console, &told(&error)).because(&error)),
            Err(_) => Err(unreachable_console(&rule.console, "it did not answer in time")),
        }
    }

    /// The state of every entry, by name.
    pub(super) async fn entries(&mut self) -> Result<BTreeMap<String, EntryState>, Failure> {
        let field = |row: &Shown, key: &str| row.get(key).cloned().unwrap_or_default();
        Ok(self
            .show("DATABASES")
            .await?
            .iter()
            .map(|row| {
                let port = field(row, "port").parse().unwrap_or_default();
                let state = EntryState {
                    address: ServerAddress { host: field(row, "host"), port },
                    database: field(row, "database"),
                    paused: field(row, "paused") != "0",
                    disabled: field(row, "disabled") != "0",
                };
                (field(row, "name"), state)
            })
            .collect())
    }

    pub(super) async fn show(&mut self, what: &str) -> Result<Vec<Shown>, Failure> {
        let messages = self.ask(&[format!("SHOW {what}")], LIMIT).await?.remove(0);
        let messages = messages.map_err(|error| unreachable_console(&self.address, &error))?;
        let rows = messages.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let values = |row: tokio_postgres::SimpleQueryRow| {
            let names = row.columns().iter().map(|column| column.name().to_owned());
            names.enumerate().filter_map(|(index, name)| Some((name, row.get(index)?.to_owned()))).collect()
        };
        Ok(rows.map(values).collect())
    }

    /// Sends commands in one packet, in this order. Returns the pooler's answers in the same order; an
    /// error of one does not stop the next.
    pub(super) async fn command(
        &mut self,
        commands: &[String],
        limit: Duration,
    ) -> Result<Vec<Result<(), String>>, Failure> {
        let answers = self.ask(commands, limit).await?;
        Ok(answers.into_iter().map(|answer| answer.map(|_| ())).collect())
    }

    async fn ask(
        &mut self,
        commands: &[String],
        limit: Duration,
    ) -> Result<Vec<Result<Vec<SimpleQueryMessage>, String>>, Failure> {
        let Self { address, client, connection, clock, ended } = self;
        if *ended {
            return Err(unreachable_console(address, "its connection is closed"));
        }
        // Polled before the connection: all commands are queued when the connection begins to write.
        let answers = std::pin::pin!(join_all(commands.iter().map(|command| client.simple_query(command))));
        let outcome = match clock.timeout(limit, select(answers, connection)).await {
            Ok(Either::Left((answers, _))) => Ok(answers),
            Ok(Either::Right((Err(error), _))) => Err(told(&error)),
            Ok(Either::Right((Ok(()), _))) => Err("it closed the connection".to_owned()),
            Err(_) => Err(format!("it did not answer within {}", humantime::format_duration(limit))),
        };
        match outcome {
            Ok(answers) => Ok(answers.into_iter().map(|answer| answer.map_err(|error| told(&error))).collect()),
            Err(why) => {
                *ended = true;
                Err(unreachable_console(address, &why))
            }
        }
    }
}

pub(super) fn command(verb: &str, entry: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if entry.bytes().all(plain) {
        format!("{verb} {entry}")
    } else {
        format!("{verb} \"{}\"", entry.replace('"', "\"\""))
    }
}

/// The pooler's own message, if there is one.
fn told(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_owned())
}

fn unreachable_console(address: &str, why: &str) -> Failure {
    Failure::new(Reason::PoolerUnreachable, "the pooler's console does not answer")
        .detail(format!("Console {address}: {why}."))
        .hint(
            "Look at the pooler, and at `console`, `user` and `password_file` under [[pooler]] in the agent's policy.",
        )
        .remedy(Remedy::Wait)
        .effect(Effect::None)
}
