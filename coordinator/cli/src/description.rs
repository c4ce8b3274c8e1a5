//! A migration described in a file: what `create --file` reads, instead of the same
//! words on the command line.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use pgportage_link::Failure;
use pgportage_link::settings::{self, Problems, Validate};
use pgportage_proto::{ConnectionPath, CopyMethod};
use serde::Deserialize;

use crate::coordinator::Route;
use crate::view::{Chosen, MaxRate, Method};

/// The whole file. Its keys are the options of `create`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    from: String,
    to: String,
    database: String,
    method: Option<Method>,
    // As they were written before there was a method.
    connection: Option<ConnectionPath>,
    copy_method: Option<CopyMethod>,
    #[serde(default, with = "settings::optional_duration")]
    max_lag: Option<Duration>,
    #[serde(default)]
    max_rate: MaxRate,
    #[serde(default)]
    no_way_back: bool,
}

impl Validate for Description {
    fn validate(&self, problems: &mut Problems) {
        for (key, value) in [("from", &self.from), ("to", &self.to), ("database", &self.database)] {
            if value.is_empty() {
                problems.add(key, "must not be empty");
            }
        }
        if self.from == self.to {
            problems.add("to", "must be another agent than `from`");
        }
        if self.max_lag.is_some_and(|lag| lag.is_zero()) {
            problems.add("max_lag", "must be above 0");
        }
        for (key, written) in [("connection", self.connection.is_some()), ("copy_method", self.copy_method.is_some())] {
            if written && self.method.is_some() {
                problems.add(key, "says again what `method` says: leave it out");
            }
        }
        let way = self.chosen().way();
        if way.copy_method == CopyMethod::Native && self.max_rate != MaxRate::default() {
            problems
                .add("max_rate", "cannot limit what the subscription copies: leave it out, or set method = \"agents\"");
        }
    }
}

impl Description {
    fn chosen(&self) -> Chosen {
        Chosen { method: self.method, connection: self.connection, copy_method: self.copy_method }
    }
}

pub(crate) fn read(file: &Path) -> Result<Route, Failure> {
    // Of the file alone: variables belong to the program's own settings.
    let described = settings::load_from::<Description>(Some(file), "PGPORTAGE_MIGRATION", HashMap::new());
    let described = described.map_err(|problems| {
        settings::failure(&problems)
            .hint("Mend the file, then type it again; `pgportage create --help` lists the keys.")
    })?;
    let way = described.chosen().way();
    let Description { from, to, database, max_lag, max_rate, no_way_back, .. } = described;
    Ok(Route { source_agent: from, destination_agent: to, database, max_lag, way, max_rate, way_back: !no_way_back })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> Result<Route, Failure> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read(file.path())
    }

    #[test]
    fn three_keys_are_enough_and_the_rest_is_as_on_the_command_line() {
        let route = written("from = \"a\"\nto = \"b\"\ndatabase = \"shop\"\n").unwrap();
        assert_eq!((route.source_agent.as_str(), route.destination_agent.as_str()), ("a", "b"));
        assert_eq!((route.database.as_str(), route.max_lag, route.way_back), ("shop", None, true));
        assert_eq!(route.way, Method::Agents.into());
        assert_eq!(route.max_rate, MaxRate(None));
    }

    #[test]
    fn the_example_says_what_is_so_without_it() {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples/migration.toml");
        let text = std::fs::read_to_string(example).unwrap();
        let plain = format!("{:?}", written(&text).unwrap());
        // What is commented out are the defaults.
        let told: Vec<_> = text
            .lines()
            .map(|line| line.strip_prefix('#').filter(|key| !key.starts_with(' ')).unwrap_or(line))
            .collect();
        let told = format!("{:?}", written(&told.join("\n")).unwrap()).replace("max_lag: Some(1s)", "max_lag: None");
        assert_eq!(told, plain);
    }

    #[test]
    fn every_problem_is_told_at_once() {
        let text = "from = \"a\"\nto = \"a\"\ncolour = 1\nconnection = \"tunnle\"\nmax_lag = \"soon\"\n\
                    copy_method = \"native\"\nmax_rate = \"fast\"\n";
        let failure = written(text).unwrap_err();
        for key in ["to", "colour", "connection", "max_lag", "max_rate", "database"] {
            assert!(failure.detail.lines().any(|line| line.contains(key)), "{key}: {}", failure.detail);
        }
        for (choice, problem) in [
            ("copy_method = \"native\"\nmax_rate = \"5MB\"", "cannot limit"),
            ("method = \"postgresql\"\nmax_rate = \"5MB\"", "cannot limit"),
            ("method = \"agents\"\nconnection = \"direct\"", "says again"),
        ] {
            let failure = written(&format!("from = \"a\"\nto = \"b\"\ndatabase = \"x\"\n{choice}\n")).unwrap_err();
            assert!(failure.detail.contains(problem), "{}", failure.detail);
        }
        assert!(read(Path::new("/nonexistent/shop.toml")).unwrap_err().detail.contains("/nonexistent/shop.toml"));
    }
}
