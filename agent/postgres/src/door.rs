//! The one door to the database.
//!
//! **Invariant:** every database session of the agent is opened here, or by [`super::replication`] on the
//! same terms.
//!
//! The settings that a session depends on are pinned at the login itself, in the startup message, so that
//! neither the role's nor the database's settings can change them. The few that older releases do not know
//! follow before the caller gets the session.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pgportage_link::{Clock, Effect, Failure, Remedy};
use pgportage_proto::Reason;
use tokio::sync::Semaphore;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Config, NoTls};

use super::error::login_failure;
use super::gather::Gathering;
use super::session::{OpenSessions, Session, SessionIdentity};
use super::socket::Address;
use super::{Secret, passfile};

/// Beginning of every `application_name` of ours.
pub const APPLICATION_PREFIX: &str = "pgportage";

/// How long a login may take, from the first packet to the pinned settings.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(15);
/// How long to wait for a session of the budget to become free.
const BUDGET_TIMEOUT: Duration = Duration::from_secs(30);
/// What a session is for. Decides its time limits and its `application_name`
/// (`pgportage <purpose>`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Catalog reads and short statements: `statement_timeout` 30 s,
    /// `lock_timeout` from the policy, idle in a transaction for at most 60 s.
    Control,
    /// Long reads (row counts): no `statement_timeout`, idle in a transaction
    /// for at most 10 minutes.
    Scan,
    /// The barrier and the fence. The cutover sets the limits itself; until then there is only
    /// `lock_timeout` from the policy.
    Cutover,
    /// Heartbeats and the watch: `statement_timeout` 5 s.
    Watch,
}

impl Purpose {
    fn as_str(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Scan => "scan",
            Self::Cutover => "cutover",
            Self::Watch => "watch",
        }
    }

    fn statement_timeout(self) -> Duration {
        match self {
            Self::Control => Duration::from_secs(30),
            Self::Watch => Duration::from_secs(5),
            Self::Scan | Self::Cutover => Duration::ZERO,
        }
    }

    fn idle_in_transaction_timeout(self) -> Duration {
        match self {
            Self::Control => Duration::from_secs(60),
            Self::Watch => Duration::from_secs(10),
            Self::Scan => Duration::from_secs(600),
            Self::Cutover => Duration::ZERO,
        }
    }
}

/// The address of the server, and the agent's login.
#[derive(Clone, Debug)]
pub struct DoorSettings {
    /// The directory of the Unix socket (begins with `/`), or a host name or
    /// address.
    pub host: String,
    /// The port; for a Unix socket the number in its name.
    pub port: u16,
    /// The role to log in as.
    pub user: String,
    /// A file of mode 0600 whose first line is the password. Read at every
    /// login, so that the password can change.
    pub password_file: Option<PathBuf>,
    /// A file in the form of `~/.pgpass`, asked when there is no
    /// `password_file`.
    pub passfile: Option<PathBuf>,
    /// How long a statement waits for one lock.
    pub lock_timeout: Duration,
    /// How many sessions the agent holds at most.
    pub max_sessions: usize,
}

/// Opens database sessions of the agent's own server.
#[derive(Clone)]
pub struct Door(Arc<Inner>);

struct Inner {
    settings: DoorSettings,
    clock: Clock,
    budget: Arc<Semaphore>,
    open: OpenSessions,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door").field("address", &self.address()).finish_non_exhaustive()
    }
}

impl Door {
    /// Keeps the settings. Opens no session.
    pub fn new(settings: DoorSettings, clock: Clock) -> Self {
        let budget = Arc::new(Semaphore::new(settings.max_sessions.max(1)));
        Self(Arc::new(Inner { settings, clock, budget, open: OpenSessions::default() }))
    }

    /// The agent's login, for PostgreSQL's own programs.
    pub(super) fn settings(&self) -> &DoorSettings {
        &self.0.settings
    }

    /// The server's address, for operators.
    pub fn address(&self) -> String {
        self.own_address().to_string()
    }

    /// The role that the agent logs in as.
    pub fn user(&self) -> &str {
        &self.0.settings.user
    }

    /// Every session of this agent that is open on its server. The fence tells our own backends from those
    /// of applications by this list, never by `application_name`.
    pub fn own_sessions(&self) -> BTreeSet<SessionIdentity> {
        self.0.open.list()
    }

    /// Opens a session in a database, with everything pinned.
    ///
    /// Waits for a free place in the connection budget. Dropping the future ends the login.
    ///
    /// # Errors
    ///
    /// [`Reason::ServerUnreachable`], [`Reason::LoginRefused`], [`Reason::DatabaseMissing`],
    /// [`Reason::ConfigurationInvalid`] for a password file, or [`Reason::Stalled`] when the budget stays
    /// used up.
    pub async fn open(&self, database: &str, purpose: Purpose) -> Result<Session, Failure> {
        let password = self.password(database)?;
        self.log_in(self.own_address(), database, self.user(), password.as_ref(), purpose).await
    }

    /// As [`Self::open`], as another role and at an address (`host:port`, where
    /// the host may be the directory of a Unix socket): the trial login of the
    /// canary, where a password is asked for.
    ///
    /// # Errors
    ///
    /// As [`Self::open`]. A login that the server refuses carries its SQLSTATE.
    pub async fn open_as(
        &self,
        address: &str,
        database: &str,
        user: &str,
        password: &Secret,
        purpose: Purpose,
    ) -> Result<Session, Failure> {
        self.log_in(Address::parse(address, self.port()), database, user, Some(password), purpose).await
    }

    async fn log_in(
        &self,
        address: Address,
        database: &str,
        user: &str,
        password: Option<&Secret>,
        purpose: Purpose,
    ) -> Result<Session, Failure> {
        let clock = self.0.clock;
        let permit = match clock.timeout(BUDGET_TIMEOUT, Arc::clone(&self.0.budget).acquire_owned()).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) | Err(_) => return Err(self.budget_spent()),
        };
        let settings = &self.0.settings;
        let mut config = configure(database, user, password, &options(purpose, settings.lock_timeout));
        config.application_name(format!("{APPLICATION_PREFIX} {}", purpose.as_str()));
        let place = address.to_string();
        let login = async {
            let mut socket = address.connect().await?;
            if purpose == Purpose::Scan {
                socket = Box::new(Gathering::new(socket));
            }
            let (client, connection) = config
                .connect_raw(socket, NoTls)
                .await
                .map_err(|error| login_failure(&error, user, database, &place))?;
            let mut session = Session::begin(client, connection, address, clock);
            session.permit = Some(permit);
            session.introduce().await?;
            session.listing = Some(self.0.open.enter(session.identity()));
            Ok(session)
        };
        // Boxed: the future of a login is large, and many callers hold it.
        match clock.timeout(LOGIN_TIMEOUT, Box::pin(login)).await {
            Ok(result) => result,
            Err(_) => Err(login_timeout(&place)),
        }
    }

    /// The password of the agent's own role, if it has one.
    pub(super) fn password(&self, database: &str) -> Result<Option<Secret>, Failure> {
        let settings = &self.0.settings;
        match (&settings.password_file, &settings.passfile) {
            (Some(path), _) => Secret::from_file(path).map(Some),
            (None, Some(path)) => passfile::find(path, &settings.host, settings.port, database, &settings.user),
            (None, None) => Ok(None),
        }
    }

    pub(super) fn port(&self) -> u16 {
        self.0.settings.port
    }

    pub(super) fn own_address(&self) -> Address {
        Address { host: self.0.settings.host.clone(), port: self.port() }
    }

    fn budget_spent(&self) -> Failure {
        Failure::new(
            Reason::Stalled,
            format!("none of the agent's {} database sessions became free", self.0.settings.max_sessions),
        )
        .hint("Raise the agent's limit of database sessions, or run fewer migrations at a time.")
        .remedy(Remedy::Wait)
        .effect(Effect::None)
    }

    pub(super) fn clock(&self) -> Clock {
        self.0.clock
    }
}

pub(super) fn login_timeout(address: &str) -> Failure {
    Failure::new(Reason::ServerUnreachable, format!("the server at {address} did not answer in time"))
        .detail(format!("A login took longer than {} s.", LOGIN_TIMEOUT.as_secs()))
        .remedy(Remedy::Wait)
        .effect(Effect::None)
}

pub(super) const fn login_limit() -> Duration {
    LOGIN_TIMEOUT
}

/// The configuration that all logins share.
pub(super) fn configure(database: &str, user: &str, password: Option<&Secret>, options: &str) -> Config {
    let mut config = Config::new();
    config.dbname(database).user(user).options(options).ssl_mode(SslMode::Disable);
    if let Some(password) = password {
        config.password(password.expose());
    }
    config
}

/// Settings that every supported release knows, for the startup message.
fn options(purpose: Purpose, lock_timeout: Duration) -> String {
    let limits = [
        ("statement_timeout", purpose.statement_timeout()),
        ("lock_timeout", lock_timeout),
        ("idle_in_transaction_session_timeout", purpose.idle_in_transaction_timeout()),
    ];
    let mut options = PINNED.iter().map(|(name, value)| format!("-c {name}={value}")).collect::<Vec<_>>();
    options.extend(limits.iter().map(|(name, limit)| format!("-c {name}={}", limit.as_millis())));
    options.join(" ")
}

const PINNED: &[(&str, &str)] = &[
    ("search_path", "pg_catalog"),
    ("row_security", "off"),
    ("default_transaction_read_only", "off"),
    ("default_transaction_isolation", r"read\ committed"),
    ("default_transaction_deferrable", "off"),
    ("standard_conforming_strings", "on"),
    ("DateStyle", r"ISO,\ YMD"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("quote_all_identifiers", "off"),
    ("tcp_keepalives_idle", "10"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "3"),
];
