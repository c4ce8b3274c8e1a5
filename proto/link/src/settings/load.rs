//! Reading settings so that every problem is found in one go.
//!
//! serde stops at the first problem. So the value at fault is taken out, or a
//! stand-in put there, and the rest is read again, until nothing new turns up.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use config::{Config, ConfigError, Environment, File, FileFormat, Value, ValueKind};
use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;

use crate::settings::{Problem, Problems, Validate};

/// Variables with our prefix that are no settings.
const NOT_SETTINGS: [&str; 2] = ["CONFIG", "FAIL_POINT"];

/// How the `config` crate calls the source of variables.
const ENVIRONMENT: &str = "the environment";

/// Put where a value is missing or bad, to get at the problems after it. The
/// first that the type takes is used; nothing is ever made of it.
const STAND_INS: [&str; 8] = ["", "0", "false", "1s", "127.0.0.1:0", "127.0.0.1", "x", "[]"];

/// A file with more problems than this is no settings file: reading it ends there.
const MAX_ROUNDS: usize = 500;

/// Reads settings from `file`, if there is one, and from this process's
/// environment: `<prefix>_<KEY>`, with `__` between levels.
///
/// # Errors
///
/// Every problem found, never an empty list.
pub fn load<T: DeserializeOwned + Validate>(file: Option<&Path>, prefix: &str) -> Result<T, Vec<Problem>> {
    // Variables that are not Unicode cannot be ours.
    let environment = std::env::vars_os()
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    load_from(file, prefix, environment)
}

/// As [`load`], with an environment of the caller's.
///
/// # Errors
///
/// Every problem found, never an empty list.
pub fn load_from<T: DeserializeOwned + Validate>(
    file: Option<&Path>,
    prefix: &str,
    mut environment: HashMap<String, String>,
) -> Result<T, Vec<Problem>> {
    for name in NOT_SETTINGS {
        environment.remove(&format!("{prefix}_{name}"));
    }
    let mut sources = Config::builder();
    if let Some(file) = file {
        sources = sources.add_source(File::from(file).format(FileFormat::Toml));
    }
    // No `try_parsing`: it would turn the database name "007" into "7". Numbers
    // are read as numbers where the settings want one.
    let variables = Environment::with_prefix(prefix).prefix_separator("_").separator("__").source(Some(environment));
    let config = sources.add_source(variables).build().map_err(|error| vec![unreadable(file, &error)])?;

    let mut reader =
        Reader { root: config.cache, found: Vec::new(), known: BTreeSet::new(), stand_ins: HashMap::new() };
    let settings = reader.read::<T>();
    let mut problems = Problems { found: reader.found, known: reader.known, prefix: String::new() };
    if let Some(settings) = &settings {
        settings.validate(&mut problems);
    }
    for problem in &mut problems.found {
        if problem.origin.is_none() {
            problem.origin = origin(&reader.root, &problem.key);
        }
        // The crate tells files by their way from the working directory.
        if problem.origin.as_deref().is_some_and(|origin| origin != ENVIRONMENT) {
            problem.origin = file.map(|file| file.display().to_string());
        }
    }
    match settings {
        Some(settings) if problems.found.is_empty() => Ok(settings),
        _ => Err(problems.found),
    }
}

fn unreadable(file: Option<&Path>, error: &ConfigError) -> Problem {
    let file = file.map_or_else(String::new, |file| file.display().to_string());
    let message = match error {
        ConfigError::FileParse { cause, .. } => format!("\"{file}\" is not TOML: {cause}"),
        error => format!("\"{file}\" cannot be read: {error}"),
    };
    Problem { key: String::new(), origin: None, message: message.trim_end().to_owned() }
}

fn origin(root: &Value, key: &str) -> Option<String> {
    let mut value = root;
    for step in key.split('.') {
        let ValueKind::Table(table) = &value.kind else { break };
        value = table.get(step)?;
    }
    value.origin().map(str::to_owned)
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Step {
    Key(String),
    Index(usize),
}

struct Reader {
    root: Value,
    found: Vec<Problem>,
    /// Keys whose problem has been told.
    known: BTreeSet<String>,
    /// How many stand-ins have been tried at a place.
    stand_ins: HashMap<Vec<Step>, usize>,
}

impl Reader {
    /// The settings, as far as they could be made from what was good.
    fn read<T: DeserializeOwned>(&mut self) -> Option<T> {
        for _ in 0..MAX_ROUNDS {
            let error = match serde_path_to_error::deserialize::<_, T>(self.root.clone()) {
                Ok(settings) => return Some(settings),
                Err(error) => error,
            };
            let mut steps: Vec<Step> = error
                .path()
                .iter()
                .filter_map(|segment| match segment {
                    Segment::Map { key } => Some(Step::Key(key.clone())),
                    Segment::Seq { index } => Some(Step::Index(*index)),
                    Segment::Enum { .. } | Segment::Unknown => None,
                })
                .collect();
            let missing = missing_key(error.inner());
            if let Some(leaf) = &missing {
                steps.push(Step::Key(leaf.clone()));
            }
            if steps.is_empty() {
                self.tell(String::new(), None, words(error.inner()));
                return None;
            }
            let key = written(&steps);
            let first = self.known.insert(key.clone());
            if first {
                let message = if missing.is_some() { "is required".to_owned() } else { words(error.inner()) };
                self.tell(key, origin_at(&self.root, &steps), message);
            }
            let done = match steps.last() {
                // What is unknown or malformed goes; a default may take its place.
                Some(Step::Key(_)) if first && missing.is_none() => remove(&mut self.root, &steps),
                _ => self.stand_in(steps),
            };
            if !done {
                return None;
            }
        }
        None
    }

    fn tell(&mut self, key: String, origin: Option<String>, message: String) {
        self.found.push(Problem { key, origin, message });
    }

    /// Puts the next stand-in at a place. False when there are none left.
    fn stand_in(&mut self, steps: Vec<Step>) -> bool {
        let tried = self.stand_ins.entry(steps.clone()).or_default();
        let Some(text) = STAND_INS.get(*tried) else { return false };
        *tried += 1;
        let kind = match *text {
            "[]" => ValueKind::Array(Vec::new()),
            text => ValueKind::String(text.to_owned()),
        };
        put(&mut self.root, &steps, Value::new(None, kind))
    }
}

fn missing_key(error: &ConfigError) -> Option<String> {
    match error {
        ConfigError::NotFound(key) => key.rsplit(['.', ']']).next().map(str::to_owned),
        ConfigError::At { error, .. } => missing_key(error),
        _ => None,
    }
}

/// The error without its key and origin: those are told apart.
fn words(error: &ConfigError) -> String {
    match error {
        ConfigError::At { error, .. } => words(error),
        ConfigError::Type { unexpected, expected, .. } => format!("invalid type: {unexpected}, expected {expected}"),
        error => error.to_string(),
    }
}

fn written(steps: &[Step]) -> String {
    let mut key = String::new();
    for step in steps {
        match step {
            Step::Key(name) if key.is_empty() => key.push_str(name),
            Step::Key(name) => {
                key.push('.');
                key.push_str(name);
            }
            Step::Index(index) => key.push_str(&format!("[{index}]")),
        }
    }
    key
}

fn origin_at(root: &Value, steps: &[Step]) -> Option<String> {
    let mut value = root;
    let mut origin = None;
    for step in steps {
        let next = match (&value.kind, step) {
            (ValueKind::Table(table), Step::Key(key)) => table.get(key),
            (ValueKind::Array(array), Step::Index(index)) => array.get(*index),
            _ => None,
        };
        let Some(next) = next else { break };
        origin = next.origin().or(origin);
        value = next;
    }
    origin.map(str::to_owned)
}

fn parent<'a>(root: &'a mut Value, steps: &[Step]) -> Option<&'a mut Value> {
    let mut value = root;
    for step in steps {
        value = match (&mut value.kind, step) {
            (ValueKind::Table(table), Step::Key(key)) => table.get_mut(key)?,
            (ValueKind::Array(array), Step::Index(index)) => array.get_mut(*index)?,
            _ => return None,
        };
    }
    Some(value)
}

fn remove(root: &mut Value, steps: &[Step]) -> bool {
    let Some((Step::Key(leaf), above)) = steps.split_last() else { return false };
    match parent(root, above).map(|value| &mut value.kind) {
        Some(ValueKind::Table(table)) => table.remove(leaf).is_some(),
        _ => false,
    }
}

fn put(root: &mut Value, steps: &[Step], value: Value) -> bool {
    let Some((leaf, above)) = steps.split_last() else { return false };
    match (parent(root, above).map(|value| &mut value.kind), leaf) {
        (Some(ValueKind::Table(table)), Step::Key(leaf)) => {
            table.insert(leaf.clone(), value);
            true
        }
        (Some(ValueKind::Array(array)), Step::Index(index)) => {
            let slot = array.get_mut(*index);
            slot.map(|slot| *slot = value).is_some()
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::settings::{ByteSize, IdentitySettings, TelemetrySettings, print};

    #[derive(Debug, Deserialize, Serialize)]
    #[serde(deny_unknown_fields)]
    struct Settings {
        name: String,
        listen: SocketAddr,
        #[serde(with = "crate::settings::duration")]
        patience: Duration,
        #[serde(default)]
        limits: Limits,
        identity: IdentitySettings,
        #[serde(default)]
        telemetry: TelemetrySettings,
        #[serde(default)]
        peer: Vec<Peer>,
    }

    #[derive(Debug, Deserialize, Serialize)]
    #[serde(deny_unknown_fields, default)]
    struct Limits {
        connections: u16,
        wal: ByteSize,
    }

    impl Default for Limits {
        fn default() -> Self {
            Self { connections: 4, wal: ByteSize::megabytes(256) }
        }
    }

    #[derive(Debug, Deserialize, Serialize)]
    #[serde(deny_unknown_fields)]
    struct Peer {
        name: String,
        port: u16,
    }

    impl Validate for Settings {
        fn validate(&self, problems: &mut Problems) {
            if self.name.is_empty() {
                problems.add("name", "must not be empty");
            }
            if self.limits.connections == 0 {
                problems.add("limits.connections", "must be at least 1");
            }
            problems.section("identity", &self.identity);
            problems.section("telemetry", &self.telemetry);
        }
    }

    const GOOD: &str = r#"
        name = "db-7"
        listen = "127.0.0.1:7000"
        patience = "1m 30s"
        [identity]
        certificate = "a.pem"
        key = "a-key.pem"
        authority = "ca.pem"
        [[peer]]
        name = "db-8"
        port = 1
    "#;

    fn read(text: &str, variables: &[(&str, &str)]) -> Result<Settings, Vec<Problem>> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("agent.toml");
        std::fs::write(&file, text).unwrap();
        let variables = variables.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        load_from(Some(&file), "PGPORTAGE", variables)
    }

    fn keys(problems: &[Problem]) -> Vec<&str> {
        problems.iter().map(|problem| problem.key.as_str()).collect()
    }

    #[test]
    fn good_settings_are_read_and_printed() {
        let settings = read(GOOD, &[]).unwrap();
        assert_eq!(settings.patience, Duration::from_secs(90));
        assert_eq!(settings.limits.wal.as_bytes(), 256 << 20);
        let printed = print(&settings).unwrap();
        assert!(printed.contains("patience = \"1m 30s\"") && printed.contains("wal = \"256 MB\""), "{printed}");
        read(&printed, &[]).unwrap();
    }

    #[test]
    fn variables_override_the_file() {
        let settings = read(
            GOOD,
            &[
                ("PGPORTAGE_NAME", "007"),
                ("PGPORTAGE_LIMITS__CONNECTIONS", "9"),
                ("PGPORTAGE_LIMITS__WAL", "1 GB"),
                ("PGPORTAGE_FAIL_POINT", "x"),
                ("OTHER_NAME", "y"),
            ],
        )
        .unwrap();
        assert_eq!((settings.name.as_str(), settings.limits.connections), ("007", 9));
        assert_eq!(settings.limits.wal.as_bytes(), 1 << 30);
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let text = r#"
            nmae = "db-7"
            listen = "here"
            patience = "soon"
            [limits]
            connections = 0
            wal = "lots"
            [identity]
            key = "a-key.pem"
            authority = ""
            [telemetry]
            log_format = "xml"
            otlp_endpoint = "ftp://x"
            [[peer]]
            name = "db-8"
            port = "many"
            [[peer]]
            port = 2
        "#;
        let problems = read(text, &[("PGPORTAGE_LIMITS__CONECTIONS", "1")]).unwrap_err();
        let mut found = keys(&problems);
        found.sort_unstable();
        assert_eq!(
            found,
            [
                "identity.authority",
                "identity.certificate",
                "limits.conections",
                "limits.connections",
                "limits.wal",
                "listen",
                "name",
                "nmae",
                "patience",
                "peer[0].port",
                "peer[1].name",
                "telemetry.log_format",
                "telemetry.otlp_endpoint",
            ],
            "{problems:#?}"
        );
        let shown: Vec<String> = problems.iter().map(Problem::to_string).collect();
        let has = |start: &str, end: &str| shown.iter().any(|line| line.starts_with(start) && line.contains(end));
        assert!(has("limits.conections (in the environment)", "expected `connections` or `wal`"), "{shown:#?}");
        assert!(has("name: ", "is required"), "{shown:#?}");
        assert!(has("limits.wal (in ", "\"lots\" is no size"), "{shown:#?}");
    }

    #[test]
    fn a_file_that_is_missing_or_malformed_is_named() {
        let missing = load_from::<Settings>(Some(Path::new("/nowhere/agent.toml")), "X", HashMap::new()).unwrap_err();
        assert!(missing[0].message.contains("/nowhere/agent.toml"), "{missing:?}");
        let malformed = read("name = \n", &[]).unwrap_err();
        assert!(malformed[0].message.contains("is not TOML"), "{malformed:?}");
    }
}
