//! Fetches the pinned PostgreSQL releases and unpacks them, once.
//!
//! `postgres.toml` is the only place that names packages, versions and digests.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::child::running_as_root;

/// The major versions that tests run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PostgresVersion {
    /// PostgreSQL 14.
    V14,
    /// PostgreSQL 15.
    V15,
    /// PostgreSQL 16.
    V16,
    /// PostgreSQL 17.
    V17,
    /// PostgreSQL 18.
    V18,
}

impl PostgresVersion {
    /// Every version, oldest first.
    pub const ALL: [Self; 5] = [Self::V14, Self::V15, Self::V16, Self::V17, Self::V18];

    /// The number, for example 18.
    #[must_use]
    pub fn major(self) -> u32 {
        match self {
            Self::V14 => 14,
            Self::V15 => 15,
            Self::V16 => 16,
            Self::V17 => 17,
            Self::V18 => 18,
        }
    }

    /// The version with this number, if tests run it.
    #[must_use]
    pub fn from_major(major: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.major() == major)
    }
}

impl std::fmt::Display for PostgresVersion {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}", self.major())
    }
}

/// The server programs of one version.
#[derive(Clone, Debug)]
pub struct Installation {
    /// What was asked for.
    pub version: PostgresVersion,
    /// Holds `initdb`, `pg_ctl` and `postgres`.
    pub bin_dir: PathBuf,
    /// Client programs at least as new as this server.
    pub tools: Tools,
}

/// The client programs of one version.
#[derive(Clone, Debug)]
pub struct Tools {
    /// Holds `pg_dump`, `pg_restore`, `pgbench` and `psql`.
    pub bin_dir: PathBuf,
}

impl Tools {
    /// Path of one program, for example `pg_dump`.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin_dir.join(name)
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Package {
    from: Registry,
    package: String,
    version: String,
    platform: Option<String>,
    python: Option<String>,
    file: String,
    sha256: String,
    directory: PathBuf,
}

/// Which ordinary client fetches a package.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Registry {
    Python,
    Npm,
}

/// The whole of `postgres.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pins {
    server: BTreeMap<String, Package>,
    tools: BTreeMap<String, Package>,
}

fn pins() -> Result<Pins> {
    toml::from_str(include_str!("../postgres.toml")).context("postgres.toml is not as expected")
}

/// Makes the programs of a version available.
///
/// The first caller fetches and unpacks; a lock file makes the others wait, also
/// those in other processes.
///
/// # Errors
///
/// When the package cannot be fetched or its digest is not the pinned one.
pub fn provision(version: PostgresVersion) -> Result<Installation> {
    let pins = pins()?;
    let package = pins.server.get(&version.to_string()).context("no such version in postgres.toml")?;
    let bin_dir = unpacked(package)?.join("bin");
    Ok(Installation { version, bin_dir, tools: tools_for(version)? })
}

/// The client programs of the oldest pinned release that is at least `version`.
pub fn tools_for(version: PostgresVersion) -> Result<Tools> {
    let pins = pins()?;
    let package = PostgresVersion::ALL
        .into_iter()
        .filter(|candidate| *candidate >= version)
        .find_map(|candidate| pins.tools.get(&candidate.to_string()))
        .context("no client programs of that version or a newer one in postgres.toml")?;
    Ok(Tools { bin_dir: unpacked(package)?.join("bin") })
}

/// Where builds go: `CARGO_TARGET_DIR`, or `target` beside `Cargo.lock`.
#[must_use]
pub fn target_directory() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(directory) => PathBuf::from(directory),
        None => workspace_directory().join("target"),
    }
}

/// The directory of `Cargo.lock`.
#[must_use]
pub fn workspace_directory() -> PathBuf {
    let crate_directory = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_directory.parent().unwrap_or(crate_directory).to_path_buf()
}

/// Where packages are unpacked: under the build directory, or under `/var/tmp`
/// if the server's unprivileged user could not get there.
fn root_directory() -> Result<PathBuf> {
    let target = target_directory();
    fs::create_dir_all(&target)?;
    let target = target.canonicalize()?;
    let open_to_all = |directory: &Path| fs::metadata(directory).is_ok_and(|metadata| metadata.mode() & 0o001 != 0);
    let root = if running_as_root() && !target.ancestors().all(open_to_all) {
        PathBuf::from("/var/tmp/pgportage-postgres")
    } else {
        target.join("postgres")
    };
    fs::create_dir_all(&root)?;
    Ok(root)
}

/// Fetches and unpacks a package unless that has been done.
fn unpacked(package: &Package) -> Result<PathBuf> {
    let root = root_directory()?;
    let name = package.file.trim_end_matches(".whl").trim_end_matches(".tgz");
    let home = root.join(name);
    let lock = File::create(root.join(format!("{name}.lock")))?;
    lock.lock()?;
    if !home.exists() {
        let scratch = tempfile::Builder::new().prefix("unpack-").tempdir_in(&root)?;
        let archive = fetch(package, scratch.path())?;
        check_digest(package, &archive)?;
        let contents = scratch.path().join("contents");
        fs::create_dir(&contents)?;
        unpack(package, &archive, &contents)?;
        open_up(&contents)?;
        // The rename is the last act: a directory of this name is complete.
        fs::rename(&contents, &home)?;
    }
    Ok(home.join(&package.directory))
}

fn fetch(package: &Package, into: &Path) -> Result<PathBuf> {
    let mut command;
    match package.from {
        Registry::Python => {
            command = Command::new("python3");
            command.args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]);
            command.arg("--disable-pip-version-check");
            if let Some(platform) = &package.platform {
                command.args(["--platform", platform]);
            }
            if let Some(python) = &package.python {
                command.args(["--implementation", "cp", "--python-version", python, "--abi", &format!("cp{python}")]);
            }
            command.arg("--dest").arg(into).arg(format!("{}=={}", package.package, package.version));
        }
        Registry::Npm => {
            command = Command::new("npm");
            command.args(["pack", "--silent", "--pack-destination"]).arg(into);
            command.arg(format!("{}@{}", package.package, package.version));
        }
    }
    run(command)?;
    Ok(into.join(&package.file))
}

fn check_digest(package: &Package, archive: &Path) -> Result<()> {
    let bytes = fs::read(archive).with_context(|| format!("{} was not fetched", archive.display()))?;
    let digest: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!(
        digest == package.sha256,
        "{} has the digest {digest}, and {} is pinned: it is not what it was",
        package.file,
        package.sha256
    );
    Ok(())
}

fn unpack(package: &Package, archive: &Path, into: &Path) -> Result<()> {
    match package.from {
        Registry::Python => {
            let mut command = Command::new("python3");
            command.args(["-m", "zipfile", "-e"]).arg(archive).arg(into);
            run(command)
        }
        Registry::Npm => {
            let mut command = Command::new("tar");
            command.arg("-xzf").arg(archive).arg("-C").arg(into);
            run(command)?;
            restore_links(&into.join("package"))
        }
    }
}

/// A link that the npm package lists because npm drops links.
#[derive(Debug, Deserialize)]
struct Link {
    source: PathBuf,
    target: PathBuf,
}

/// Makes the links listed in `native/pg-symlinks.json`.
fn restore_links(package: &Path) -> Result<()> {
    let links: Vec<Link> = serde_json::from_slice(&fs::read(package.join("native/pg-symlinks.json"))?)?;
    for link in links {
        ensure!(link.source.parent() == link.target.parent(), "a link out of its directory: {}", link.target.display());
        let name = link.source.file_name().context("a link to nothing")?;
        match symlink(name, package.join(&link.target)) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error.into()),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// Lets every user read everything and run the programs: archives keep no modes.
fn open_up(directory: &Path) -> Result<()> {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            open_up(&entry.path())?;
        } else if kind.is_file() {
            let mode = if directory.ends_with("bin") { 0o755 } else { 0o644 };
            fs::set_permissions(entry.path(), fs::Permissions::from_mode(mode))?;
        }
    }
    Ok(())
}

fn run(mut command: Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed ({}):\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_is_pinned() {
        let pins = pins().unwrap();
        for version in PostgresVersion::ALL {
            assert!(pins.server.contains_key(&version.to_string()), "{version}");
        }
    }

    #[test]
    fn tools_are_at_least_as_new() {
        assert!(pins().unwrap().tools.contains_key("18"));
        let newest = tools_for(PostgresVersion::V18).unwrap();
        let output = Command::new(newest.program("pg_dump")).arg("--version").output().unwrap();
        assert!(String::from_utf8_lossy(&output.stdout).contains("18."));
    }
}
