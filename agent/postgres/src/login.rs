//! How PostgreSQL's own programs log in to the agent's server.
//!
//! **Invariant:** no secret stands in a child's arguments, and of a login its environment holds only the
//! path of a passfile.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use pgportage_link::{Effect, Failure};
use pgportage_proto::Reason;
use tempfile::TempDir;
use tokio::process::Command;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::Secret;
use super::door::{APPLICATION_PREFIX, Door};

/// Variables that a child may inherit. Any other could lead it to another server (`PGHOST`, `PGSERVICE`, …)
/// or is not needed.
const INHERITED: [&str; 3] = ["PATH", "LD_LIBRARY_PATH", "HOME"];

/// Settings that roles and databases may have changed. Both programs set the time limits and `search_path`
/// themselves; these are the rest.
const PINNED: &str = "-c default_transaction_read_only=off -c default_transaction_deferrable=off \
     -c default_transaction_isolation=read\\ committed -c row_security=off -c standard_conforming_strings=on \
     -c statement_timeout=0 -c idle_in_transaction_session_timeout=0";

/// A login for one child process. Dropping it removes the passfile.
#[derive(Debug)]
pub struct Login {
    connection: String,
    passfile: Option<PathBuf>,
    _directory: Option<TempDir>,
}

impl Login {
    /// Prepares a login to a database of the agent's own server, by the role and at
    /// the address of its door. `purpose` becomes part of `application_name`; a
    /// passfile that has to be made is made under `state_dir`.
    ///
    /// # Errors
    ///
    /// [`Reason::ConfigurationInvalid`] when the password file cannot be used,
    /// [`Reason::StoreUnwritable`] when the passfile cannot be written.
    pub fn prepare(door: &Door, state_dir: &Path, database: &str, purpose: &str) -> Result<Self, Failure> {
        let postgres = door.settings();
        let port = postgres.port.to_string();
        let application = application_name(purpose);
        let connection = [
            ("host", postgres.host.as_str()),
            ("port", &port),
            ("user", &postgres.user),
            ("dbname", database),
            ("application_name", &application),
            ("options", PINNED),
            ("sslmode", "disable"),
            ("gssencmode", "disable"),
            ("connect_timeout", "15"),
        ]
        .map(|(key, value)| format!("{key}={}", quote_value(value)))
        .join(" ");
        let (passfile, directory) = match (&postgres.password_file, &postgres.passfile) {
            (Some(path), _) => {
                let secret = Secret::from_file(path)?;
                let directory = private_directory(state_dir).map_err(|error| unwritable(&error))?;
                let passfile = directory.path().join("passfile");
                write_passfile(&passfile, &secret).map_err(|error| unwritable(&error))?;
                (Some(passfile), Some(directory))
            }
            (None, Some(path)) => (Some(path.clone()), None),
            (None, None) => (None, None),
        };
        Ok(Self { connection, passfile, _directory: directory })
    }

    /// A command that logs in by itself when it is run. The login must outlive
    /// the child.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = self.program(program);
        command.arg("--no-password").arg(format!("--dbname={}", self.connection));
        command
    }

    /// As [`Self::command`], for a program that does not log in.
    pub fn program(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear();
        for name in INHERITED {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.env("LC_ALL", "C");
        // Without a passfile of ours, libpq would read the one in the home directory. It ignores a path
        // that cannot exist.
        command.env("PGPASSFILE", self.passfile.as_deref().unwrap_or_else(|| Path::new("/dev/null/none")));
        command.kill_on_drop(true);
        command
    }
}

/// The `application_name` of a child's session.
pub fn application_name(purpose: &str) -> String {
    format!("{APPLICATION_PREFIX} {purpose}")
}

/// A value of a connection string. Database names may hold anything.
fn quote_value(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// Tells the directories of this process from those that a killed one has left. Not the process id: in a
/// container that is always the same.
static PROCESS: LazyLock<String> = LazyLock::new(|| format!("{}-", Uuid::new_v4()));

/// A directory that only the agent's user can enter, named after this process so that a later one
/// recognises what a killed one has left.
fn private_directory(state_dir: &Path) -> std::io::Result<TempDir> {
    let parent = state_dir.join("login");
    if !parent.is_dir() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&parent)?;
    }
    let own = PROCESS.as_str();
    for entry in fs::read_dir(&parent)?.flatten() {
        if entry.file_name().to_str().is_some_and(|name| !name.starts_with(own)) {
            // Left by a dead process: only one running agent can hold the journal of this state directory.
            fs::remove_dir_all(entry.path())?;
        }
    }
    tempfile::Builder::new().prefix(own).permissions(Permissions::from_mode(0o700)).tempdir_in(&parent)
}

fn write_passfile(path: &Path, secret: &Secret) -> std::io::Result<()> {
    // Wildcards in every field but the password: the file serves one child only, and names may hold
    // characters that this format cannot.
    let escaped = Zeroizing::new(secret.expose().replace('\\', "\\\\").replace(':', "\\:"));
    let line = Zeroizing::new(format!("*:*:*:*:{}\n", escaped.as_str()));
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(line.as_bytes())
}

fn unwritable(error: &std::io::Error) -> Failure {
    Failure::new(Reason::StoreUnwritable, "could not write a private passfile in the state directory")
        .effect(Effect::None)
        .because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted() {
        assert_eq!(quote_value("shop"), "'shop'");
        assert_eq!(quote_value(r"it's a=b\c"), r"'it\'s a=b\\c'");
    }

    #[test]
    fn the_passfile_is_private_and_goes_with_its_directory() {
        let state = tempfile::tempdir().unwrap();
        fs::create_dir_all(state.path().join("login/1-old")).unwrap();
        fs::write(state.path().join("login/1-old/passfile"), "*:*:*:*:left over").unwrap();
        let directory = private_directory(state.path()).unwrap();
        assert!(!state.path().join("login/1-old").exists(), "what a killed process left is gone");
        let path = directory.path().join("passfile");
        write_passfile(&path, &Secret::new(r"a:b\c".to_owned())).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "*:*:*:*:a\\:b\\\\c\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(directory.path()).unwrap().permissions().mode() & 0o777, 0o700);
        let second = private_directory(state.path()).unwrap();
        assert!(path.exists(), "our own are left alone");
        drop(directory);
        assert!(!path.exists());
        drop(second);
    }
}
