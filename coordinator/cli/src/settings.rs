//! Where the coordinator is and who the operator is: a TOML file, overridden by
//! `PGPORTAGE_CLI_…` variables, overridden by options on the command line.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgportage_link::Failure;
use pgportage_link::settings::{self, IdentitySettings, Problems, TelemetrySettings, Validate};
use serde::{Deserialize, Serialize};

use crate::arguments::Global;

/// What variables begin with, for example `PGPORTAGE_CLI_COORDINATOR__ADDRESS`.
/// Not `PGPORTAGE` alone: an agent's variables may be set in the same shell.
const PREFIX: &str = "PGPORTAGE_CLI";

/// Below the home directory, and below `/etc`.
const FILE: &str = "pgportage/pgportage.toml";

#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    pub coordinator: CoordinatorSettings,
    /// Who the operator is.
    pub identity: IdentitySettings,
    /// What this program says about itself.
    #[serde(default)]
    pub telemetry: Telemetry,
}

/// Where the coordinator is.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(crate) struct CoordinatorSettings {
    /// `host:port`.
    pub address: String,
    /// The name in its certificate.
    #[serde(default = "coordinator_name")]
    pub name: String,
    /// How long a coordinator that goes away while a migration is watched is
    /// waited for. Two minutes: long enough for a restart, short enough for a
    /// script to notice.
    #[serde(default = "patience", with = "settings::duration")]
    pub patience: Duration,
}

fn coordinator_name() -> String {
    "main".to_owned()
}

fn patience() -> Duration {
    Duration::from_secs(120)
}

/// What this program says about itself. A program that lives for a moment and
/// speaks to a person serves no metrics and logs only what went wrong.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Telemetry {
    /// Which log lines there are, in the syntax of `RUST_LOG`.
    pub log_filter: String,
    /// Where traces go, for example `http://127.0.0.1:4317` (OTLP over gRPC).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp_endpoint: Option<String>,
}

impl Default for Telemetry {
    fn default() -> Self {
        // What the exporter says about a collector that is away does not
        // concern the operator.
        Self { log_filter: "warn,opentelemetry_sdk=off,opentelemetry_otlp=off".to_owned(), otlp_endpoint: None }
    }
}

impl Telemetry {
    /// As [`pgportage_link::telemetry::init`] takes them.
    pub(crate) fn for_link(&self) -> TelemetrySettings {
        TelemetrySettings {
            log_filter: self.log_filter.clone(),
            otlp_endpoint: self.otlp_endpoint.clone(),
            ..TelemetrySettings::default()
        }
    }
}

impl Validate for Settings {
    fn validate(&self, problems: &mut Problems) {
        problems.section("coordinator", &self.coordinator);
        problems.section("identity", &self.identity);
        problems.section("telemetry", &self.telemetry.for_link());
    }
}

impl Validate for CoordinatorSettings {
    fn validate(&self, problems: &mut Problems) {
        let port = self.address.rsplit_once(':').map(|(host, port)| (!host.is_empty(), port.parse::<u16>().is_ok()));
        if port != Some((true, true)) {
            problems.add("address", "must be HOST:PORT, for example \"coordinator.example.com:7443\"");
        }
        if self.name.is_empty() {
            problems.add("name", "must not be empty");
        }
    }
}

pub(crate) fn load(global: &Global) -> Result<Settings, Failure> {
    let environment: HashMap<String, String> = std::env::vars_os()
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    load_from(global, environment)
}

fn load_from(global: &Global, mut environment: HashMap<String, String>) -> Result<Settings, Failure> {
    let file = match &global.config {
        Some(file) => Some(file.clone()),
        None => default_files(&environment).into_iter().find(|file| file.is_file()),
    };
    let looked = if file.is_none() { looked_for(&environment) } else { String::new() };
    let mut set = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            environment.insert(format!("{PREFIX}_{key}"), value);
        }
    };
    set("COORDINATOR__ADDRESS", global.coordinator.clone());
    set("COORDINATOR__NAME", global.coordinator_name.clone());
    set("IDENTITY__CERTIFICATE", text(global.certificate.as_deref()));
    set("IDENTITY__KEY", text(global.key.as_deref()));
    set("IDENTITY__AUTHORITY", text(global.authority.as_deref()));
    settings::load_from(file.as_deref(), PREFIX, environment).map_err(|problems| {
        let failure = settings::failure(&problems);
        let hint = "Give the values in a file (--config FILE), or as options: --coordinator, --certificate, --key, \
                    --authority.";
        let detail = format!("{}\n{looked}", failure.detail).trim_end().to_owned();
        failure.detail(detail).hint(hint)
    })
}

fn text(path: Option<&Path>) -> Option<String> {
    path.map(|path| path.to_string_lossy().into_owned())
}

/// Where the configuration file is looked for, first one first.
fn default_files(environment: &HashMap<String, String>) -> Vec<PathBuf> {
    let variable = |name: &str| environment.get(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let personal = variable("XDG_CONFIG_HOME").or_else(|| variable("HOME").map(|home| home.join(".config")));
    personal.into_iter().chain([PathBuf::from("/etc")]).map(|directory| directory.join(FILE)).collect()
}

fn looked_for(environment: &HashMap<String, String>) -> String {
    let files: Vec<_> = default_files(environment).iter().map(|file| file.display().to_string()).collect();
    format!("There is no configuration file: looked for {}.", files.join(" and "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(home: &Path) -> HashMap<String, String> {
        HashMap::from([("HOME".to_owned(), home.display().to_string())])
    }

    const FULL: &str = r#"
        [coordinator]
        address = "127.0.0.1:7443"
        [identity]
        certificate = "a.pem"
        key = "a-key.pem"
        authority = "ca.pem"
    "#;

    #[test]
    fn options_come_before_variables_and_these_before_the_file() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join(".config/pgportage");
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("pgportage.toml"), FULL).unwrap();
        let mut environment = environment(home.path());
        environment.insert("PGPORTAGE_CLI_COORDINATOR__NAME".to_owned(), "other".to_owned());
        environment.insert("PGPORTAGE_CLI_IDENTITY__KEY".to_owned(), "b-key.pem".to_owned());
        let global = Global { key: Some("c-key.pem".into()), ..Global::default() };
        let settings = load_from(&global, environment).unwrap();
        assert_eq!(settings.coordinator.address, "127.0.0.1:7443");
        assert_eq!(settings.coordinator.name, "other");
        assert_eq!(settings.coordinator.patience, Duration::from_secs(120));
        assert_eq!(settings.identity.key, Path::new("c-key.pem"));
        assert_eq!(settings.telemetry, Telemetry::default());
    }

    #[test]
    fn the_example_is_good() {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples/pgportage.toml");
        let global = Global { config: Some(example), ..Global::default() };
        let settings = load_from(&global, HashMap::new()).unwrap();
        // What is commented out there are the defaults.
        let defaults = (coordinator_name(), patience(), Telemetry::default());
        assert_eq!((settings.coordinator.name, settings.coordinator.patience, settings.telemetry), defaults);
    }

    #[test]
    fn options_alone_are_enough() {
        let home = tempfile::tempdir().unwrap();
        let global = Global {
            coordinator: Some("localhost:1".to_owned()),
            certificate: Some("a.pem".into()),
            key: Some("a-key.pem".into()),
            authority: Some("ca.pem".into()),
            ..Global::default()
        };
        assert_eq!(load_from(&global, environment(home.path())).unwrap().coordinator.name, "main");
    }

    #[test]
    fn all_problems_are_told_with_their_keys() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("wrong.toml");
        let text = "[coordinator]\naddress = \"nowhere\"\npatience = \"soon\"\n[identity]\nkey = \"k\"\n[colour]\n";
        std::fs::write(&file, text).unwrap();
        let global = Global { config: Some(file), ..Global::default() };
        let failure = load_from(&global, environment(home.path())).unwrap_err();
        let keys =
            ["coordinator.address", "coordinator.patience", "identity.certificate", "identity.authority", "colour"];
        for key in keys {
            assert!(failure.detail.contains(key), "{key}: {}", failure.detail);
        }
    }

    #[test]
    fn a_missing_file_is_told_with_the_places_looked_at() {
        let home = tempfile::tempdir().unwrap();
        if Path::new("/etc").join(FILE).exists() {
            return;
        }
        let failure = load_from(&Global::default(), environment(home.path())).unwrap_err();
        assert!(failure.detail.contains("looked for"), "{}", failure.detail);
        assert!(failure.hint.contains("--coordinator"), "{}", failure.hint);
    }
}
