//! One agent beside one cluster, without a coordinator.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use pgportage_agent::daemon::Assembly;
use pgportage_agent::policy::Policy;
use pgportage_agent::settings::Settings;
use pgportage_link::Clock;
use pgportage_link::identity::Role;
use pgportage_link::issue::Authority;
use pgportage_link::tls::Identity;
use pgportage_migration::Participation;
use pgportage_migration::journal::Journal;
use pgportage_proto::{MigrationId, Side};
use pgportage_tests::cluster::{Cluster, SUPERUSER};
use tempfile::TempDir;

const DAY: Duration = Duration::from_secs(86_400);

/// What differs from one test to another.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Which side the agent has.
    pub(crate) side: Side,
    /// Lines under `[limits]` of the policy.
    pub(crate) limits: String,
    /// Further sections of the policy.
    pub(crate) policy: String,
    /// Role and password of the agent. Absent: the superuser.
    pub(crate) user: Option<(String, String)>,
}

impl Options {
    /// A superuser's agent that may do everything.
    pub(crate) fn new(side: Side) -> Self {
        Self {
            side,
            limits: String::new(),
            policy: "[destructive]\nfence = true\nopen = true\ndrop_slot = true\nterminate_sessions = true\n\
                     replica_identity_full = true\nway_back = true\n"
                .to_owned(),
            user: None,
        }
    }
}

/// An agent and the directory it lives in.
pub(crate) struct Lone {
    /// The agent.
    pub(crate) agent: Assembly,
    /// Its part.
    pub(crate) participation: Participation,
    _home: TempDir,
}

impl Lone {
    /// Puts an agent together beside a cluster, for the migration `shop` of the
    /// database `shop`.
    pub(crate) fn beside(cluster: &Cluster, options: &Options) -> Self {
        let home = tempfile::tempdir().unwrap();
        let agent = Self::start(&home, cluster, options);
        let participation = Participation {
            migration: MigrationId::new("shop").unwrap(),
            side: options.side,
            database: "shop".to_owned(),
            peer: "beta".to_owned(),
        };
        Self { agent, participation, _home: home }
    }

    fn start(home: &TempDir, cluster: &Cluster, options: &Options) -> Assembly {
        let authority = Authority::create(&home.path().join("authority"), "example.org", Clock).unwrap();
        let issued = authority.issue(Role::Agent, "alpha", DAY).unwrap();
        let identity = authority.write(&issued, &home.path().join("certs")).unwrap();
        let policy = home.path().join("policy.toml");
        let text = format!(
            "[databases.\"*\"]\nsides = [\"source\", \"destination\"]\n[peers]\nbeta = \"127.0.0.1:1\"\n\
             [limits]\nlock_timeout = \"2s\"\n{}\n{}",
            options.limits, options.policy
        );
        std::fs::write(&policy, text).unwrap();
        let (user, password) = match &options.user {
            Some((user, password)) => {
                let path = home.path().join("password");
                std::fs::write(&path, password).unwrap();
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
                (user.clone(), format!("password_file = {path:?}\n"))
            }
            None => (SUPERUSER.to_owned(), String::new()),
        };
        let settings = home.path().join("agent.toml");
        let text = format!(
            "name = \"alpha\"\nstate_dir = {state:?}\npolicy = {policy:?}\n\
             [coordinator]\naddress = \"127.0.0.1:1\"\nname = \"main\"\n\
             [identity]\ncertificate = {certificate:?}\nkey = {key:?}\nauthority = {authority_file:?}\n\
             [postgres]\nhost = {socket:?}\nport = {port}\nuser = {user:?}\n{password}\
             replication_address = \"127.0.0.1:{port}\"\n\
             [programs]\npg_dump = {pg_dump:?}\npg_restore = {pg_restore:?}\n\
             [link]\nlisten = \"127.0.0.1:1\"\n",
            state = home.path().join("state"),
            certificate = identity.certificate,
            key = identity.key,
            authority_file = identity.authority,
            socket = cluster.socket_directory(),
            port = cluster.port,
            pg_dump = cluster.installation.tools.program("pg_dump"),
            pg_restore = cluster.installation.tools.program("pg_restore"),
        );
        std::fs::write(&settings, text).unwrap();
        let settings = Settings::load(&settings).unwrap_or_else(|failure| panic!("{failure}: {}", failure.detail));
        let policy = Policy::load(&policy).unwrap_or_else(|failure| panic!("{failure}: {}", failure.detail));
        let journal = Journal::open(&settings.journal_path()).unwrap();
        Assembly::new(settings, policy, journal, Identity::load(&identity, Clock).unwrap())
    }
}
