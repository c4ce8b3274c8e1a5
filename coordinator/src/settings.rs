//! What `coordinator.toml` says.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgportage_link::Failure;
use pgportage_link::settings::{self, IdentitySettings, Problems, TelemetrySettings, Validate};
use serde::{Deserialize, Serialize};

use crate::workflow::verb::LONGEST_OUTAGE;

/// What variables that override the file begin with, for example
/// `PGPORTAGE_COORDINATOR_LISTEN`.
const PREFIX: &str = "PGPORTAGE_COORDINATOR";

/// The whole of `coordinator.toml`, checked.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Where agents and operators call.
    pub listen: SocketAddr,
    /// Where the store lives. Must survive a crash of the machine; nobody else
    /// may write there.
    pub state_dir: PathBuf,
    /// The coordinator's certificate.
    pub identity: IdentitySettings,
    /// Sessions with agents.
    #[serde(default)]
    pub session: SessionSettings,
    /// Limits of migrations.
    #[serde(default)]
    pub migration: MigrationSettings,
    /// Bytes passed on between agents that cannot dial each other.
    #[serde(default)]
    pub relay: RelaySettings,
    /// Logs, traces and metrics.
    #[serde(default)]
    pub telemetry: TelemetrySettings,
}

/// Sessions with agents.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct SessionSettings {
    /// How often an agent must be heard from. Short, because a command names the
    /// newest beat and an agent refuses one that is old.
    #[serde(with = "settings::duration")]
    pub heartbeat_interval: Duration,
    /// After how much silence an agent counts as lost. Three beats and a little,
    /// so that one lost packet is not a lost agent.
    #[serde(with = "settings::duration")]
    pub heartbeat_timeout: Duration,
    /// How long agents wait before they dial again when the coordinator stops:
    /// about the time of a restart.
    #[serde(with = "settings::duration")]
    pub reconnect_delay: Duration,
}

impl Default for SessionSettings {
    fn default() -> Self {
        Self {
            heartbeat_interval: Duration::from_secs(2),
            heartbeat_timeout: Duration::from_secs(10),
            reconnect_delay: Duration::from_millis(500),
        }
    }
}

/// Limits of migrations.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct MigrationSettings {
    /// How long an agent may work at a step without progress before it gives up
    /// and says what it waited for. Long enough for one large index.
    #[serde(with = "settings::duration")]
    pub stall_timeout: Duration,
    /// The budget of a cutover when the operator names none.
    #[serde(with = "settings::duration")]
    pub max_outage: Duration,
    /// How long a switch that is asked for waits for the lag to fall under its limit.
    /// Right behind another switch that takes a second or two; what takes much longer is
    /// for the operator to know. Well below the time a caller waits for an answer.
    #[serde(with = "settings::duration")]
    pub lag_patience: Duration,
}

/// Longest that a switch may wait for the lag: callers give up after thirty seconds.
const LONGEST_LAG_PATIENCE: Duration = Duration::from_secs(20);

impl Default for MigrationSettings {
    fn default() -> Self {
        Self {
            stall_timeout: Duration::from_secs(600),
            max_outage: Duration::from_secs(10),
            lag_patience: Duration::from_secs(10),
        }
    }
}

/// Bytes passed on between agents that cannot dial each other.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RelaySettings {
    /// Most relays at a time, of all agents; 0 relays nothing. A migration needs
    /// about three, and one for each copying connection while it copies. Each can
    /// hold a window of the link in memory for either direction, when the way to
    /// one agent is slower than the way to the other.
    pub max_relays: usize,
}

impl Default for RelaySettings {
    fn default() -> Self {
        Self { max_relays: 64 }
    }
}

impl Settings {
    /// Reads the file and the environment.
    ///
    /// # Errors
    ///
    /// Every problem at once.
    pub fn load(file: &Path) -> Result<Self, Failure> {
        settings::load(Some(file), PREFIX).map_err(|problems| settings::failure(&problems))
    }
}

impl Validate for Settings {
    fn validate(&self, problems: &mut Problems) {
        if self.state_dir.as_os_str().is_empty() {
            problems.add("state_dir", "must be the path of a directory of ours alone");
        }
        problems.section("identity", &self.identity);
        problems.section("session", &self.session);
        problems.section("migration", &self.migration);
        problems.section("telemetry", &self.telemetry);
    }
}

impl Validate for SessionSettings {
    fn validate(&self, problems: &mut Problems) {
        if self.heartbeat_interval < Duration::from_millis(50) || self.heartbeat_interval > Duration::from_secs(60) {
            problems.add("heartbeat_interval", "must be 50ms to 60s");
        }
        if self.heartbeat_timeout < self.heartbeat_interval * 2 {
            problems.add("heartbeat_timeout", "must be at least twice heartbeat_interval");
        }
        if self.reconnect_delay > Duration::from_secs(60) {
            problems.add("reconnect_delay", "must be at most 60s");
        }
    }
}

impl Validate for MigrationSettings {
    fn validate(&self, problems: &mut Problems) {
        if self.stall_timeout < Duration::from_secs(1) {
            problems.add("stall_timeout", "must be at least 1s");
        }
        if self.max_outage.is_zero() || self.max_outage > LONGEST_OUTAGE {
            problems.add("max_outage", format!("must be above 0 and at most {}s", LONGEST_OUTAGE.as_secs()));
        }
        if self.lag_patience > LONGEST_LAG_PATIENCE {
            problems.add("lag_patience", format!("must be at most {}s", LONGEST_LAG_PATIENCE.as_secs()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn read(text: &str) -> Result<Settings, Vec<String>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        settings::load_from(Some(file.path()), PREFIX, HashMap::new())
            .map_err(|problems| problems.into_iter().map(|problem| problem.key).collect())
    }

    #[test]
    fn a_short_file_is_enough() {
        let text = "listen = \"127.0.0.1:7443\"\nstate_dir = \"/var/lib/x\"\n[identity]\ncertificate = \"c\"\nkey = \"k\"\nauthority = \"a\"\n";
        let settings = read(text).unwrap();
        assert_eq!(settings.session.heartbeat_interval, Duration::from_secs(2));
        assert!(settings::print(&settings).unwrap().contains("max_outage = \"10s\""));
    }

    #[test]
    fn five_mistakes_are_all_named() {
        let text = "listen = \"nowhere\"\nstate_dir = \"\"\ncolour = 1\n[identity]\ncertificate = \"c\"\nkey = \"k\"\nauthority = \"\"\n[session]\nheartbeat_interval = \"1h\"\n[migration]\nmax_outage = \"0s\"\nlag_patience = \"1h\"\n";
        let mut keys = read(text).unwrap_err();
        keys.sort();
        for key in [
            "colour",
            "identity.authority",
            "listen",
            "migration.lag_patience",
            "migration.max_outage",
            "session.heartbeat_interval",
            "state_dir",
        ] {
            assert!(keys.iter().any(|found| found == key), "{key} in {keys:?}");
        }
    }
}
