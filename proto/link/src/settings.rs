//! Settings: a TOML file, overridden by `PGPORTAGE_…` variables with `__`
//! between levels; read once and checked whole before anything is bound.
//!
//! All problems are told at once, each with its key and where the value came
//! from. A program's settings are a struct that derives `Deserialize` with
//! `#[serde(deny_unknown_fields)]`, documents each default at the field, and says
//! in [`Validate`] what a value must be.

mod load;
mod units;

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use pgportage_proto::Reason;
use serde::{Deserialize, Serialize};

pub use load::{load, load_from};
pub use units::{ByteSize, MalformedSize, duration, optional_duration};

use crate::{Effect, Failure};

/// One thing that is wrong with the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key, with dots between levels. Empty when the whole file is meant.
    pub key: String,
    /// Where the value came from: a file, or the environment.
    pub origin: Option<String>,
    /// What is wrong, and what would be accepted.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.key.is_empty(), &self.origin) {
            (true, _) => f.write_str(&self.message),
            (false, None) => write!(f, "{}: {}", self.key, self.message),
            (false, Some(origin)) => write!(f, "{} (in {origin}): {}", self.key, self.message),
        }
    }
}

/// The problems found so far, and where in the settings we are.
#[derive(Debug, Default)]
pub struct Problems {
    found: Vec<Problem>,
    /// Keys that are known to be bad: what stands there now is a stand-in.
    known: BTreeSet<String>,
    prefix: String,
}

impl Problems {
    /// Adds a problem with `key`, relative to the section being checked.
    pub fn add(&mut self, key: &str, message: impl Into<String>) {
        let key = format!("{}{key}", self.prefix);
        let bad = |known: &String| key == *known || key.starts_with(&format!("{known}."));
        if !self.known.iter().any(bad) {
            self.found.push(Problem { key, origin: None, message: message.into() });
        }
    }

    /// Checks a section of its own.
    pub fn section(&mut self, key: &str, section: &impl Validate) {
        let outer = self.prefix.len();
        self.prefix.push_str(key);
        self.prefix.push('.');
        section.validate(self);
        self.prefix.truncate(outer);
    }
}

/// What a type cannot say about the values of its fields.
pub trait Validate {
    /// Adds every problem of these values.
    fn validate(&self, problems: &mut Problems);
}

/// The problems as one failure, for a program that has to give up.
pub fn failure(problems: &[Problem]) -> Failure {
    let lines: Vec<String> = problems.iter().map(Problem::to_string).collect();
    let keys: Vec<&str> = problems.iter().map(|problem| problem.key.as_str()).collect();
    let message = match problems.len() {
        1 => "the configuration has a problem".to_owned(),
        count => format!("the configuration has {count} problems"),
    };
    Failure::new(Reason::ConfigurationInvalid, message)
        .detail(lines.join("\n"))
        .hint("Mend the values, then start again. \"--print-config\" shows what is in force.")
        .effect(Effect::None)
        .with("keys", keys.join(","))
}

/// The settings in force as TOML, for `--print-config`. Secrets never are
/// settings: they stand in files of their own.
///
/// # Errors
///
/// [`Reason::Internal`] when a type has no form in TOML.
pub fn print<T: Serialize>(settings: &T) -> Result<String, Failure> {
    // By way of a value, so that tables come after plain keys.
    let value = toml::Value::try_from(settings);
    value.and_then(|value| toml::to_string_pretty(&value)).map_err(|error| {
        Failure::new(Reason::Internal, "the settings have no form in TOML").effect(Effect::None).because(&error)
    })
}

/// The three files that say who this process is.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct IdentitySettings {
    /// Our certificate in PEM form, followed by intermediates if there are any.
    pub certificate: PathBuf,
    /// Its private key in PEM form. Readable by its owner only.
    pub key: PathBuf,
    /// The certificate of the authority that signed all certificates of the fleet.
    pub authority: PathBuf,
}

impl Validate for IdentitySettings {
    /// Loading the files says what is wrong with them.
    fn validate(&self, problems: &mut Problems) {
        for (key, path) in [("certificate", &self.certificate), ("key", &self.key), ("authority", &self.authority)] {
            if path.as_os_str().is_empty() {
                problems.add(key, "must be the path of a file in PEM form");
            }
        }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object a line, for programs.
    Json,
}

/// Logs, traces and metrics. The standard `OTEL_…` variables are honoured too.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetrySettings {
    /// How log lines look. They go to standard error.
    pub log_format: LogFormat,
    /// Which log lines and spans there are, in the syntax of `RUST_LOG`.
    pub log_filter: String,
    /// Where traces go, for example `http://127.0.0.1:4317` (OTLP over gRPC).
    /// Without it and without `OTEL_EXPORTER_OTLP_ENDPOINT` none are exported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp_endpoint: Option<String>,
    /// Where Prometheus finds `/metrics` and probes find `/healthz`. Loopback by
    /// default, because it is neither encrypted nor authenticated.
    pub metrics_listen: SocketAddr,
}

impl Default for TelemetrySettings {
    fn default() -> Self {
        Self {
            log_format: LogFormat::Text,
            log_filter: "info".to_owned(),
            otlp_endpoint: None,
            // Any free port: two programs with the defaults must both start.
            metrics_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        }
    }
}

impl Validate for TelemetrySettings {
    fn validate(&self, problems: &mut Problems) {
        if let Err(error) = tracing_subscriber::EnvFilter::try_new(&self.log_filter) {
            problems.add("log_filter", format!("is no filter: {error}"));
        }
        if let Some(endpoint) = &self.otlp_endpoint
            && !endpoint.starts_with("http://")
        {
            problems.add("otlp_endpoint", "must begin with \"http://\": run a collector on this machine for more");
        }
    }
}
