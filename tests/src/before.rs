//! The release before this one: its programs, and what they left on disk in the middle
//! of a migration. `.ci/before` names it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::postgres_versions::workspace_directory;
use crate::site::{Site, program};

/// Where its migrations were stopped.
pub const STATES: [&str; 3] = ["copying", "ready", "cut-over"];

/// Every destructive act that its policies can allow, by the names that they know. Its
/// owners' files still say these, whatever they are called now.
pub const DESTRUCTIVE: [&str; 6] =
    ["fence", "open", "drop_slot", "terminate_sessions", "replica_identity_full", "way_back"];

/// What it left in each state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// The source agent's journal.
    SourceJournal,
    /// The destination agent's journal.
    DestinationJournal,
    /// The coordinator's store.
    Store,
    /// What `pgportage status --json` said last.
    Status,
}

impl Left {
    const ALL: [Self; 4] = [Self::SourceJournal, Self::DestinationJournal, Self::Store, Self::Status];

    fn fixture(self, state: &str) -> PathBuf {
        let name = match self {
            Self::SourceJournal => "source-journal.db.zst",
            Self::DestinationJournal => "destination-journal.db.zst",
            Self::Store => "coordinator.db.zst",
            Self::Status => "status.json.zst",
        };
        workspace_directory().join("tests/before").join(state).join(name)
    }

    /// What was left, as bytes.
    ///
    /// # Errors
    ///
    /// When the fixture cannot be read.
    pub fn read(self, state: &str) -> Result<Vec<u8>> {
        let path = self.fixture(state);
        let packed = fs::read(&path).with_context(|| path.display().to_string())?;
        Ok(zstd::decode_all(packed.as_slice())?)
    }

    /// Puts what was left where a program looks for it.
    ///
    /// # Errors
    ///
    /// When the fixture cannot be read or the file not be written.
    pub fn unpack(self, state: &str, path: &Path) -> Result<()> {
        fs::write(path, self.read(state)?)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        Ok(())
    }
}

/// The directory with its programs.
pub fn programs() -> Result<PathBuf> {
    let now = program("pgportage")?;
    let target = now.parent().and_then(Path::parent).context("a program without a target directory")?;
    let before = target.join("before");
    ensure!(before.join("pgportage").exists(), "{} is not there; run `.ci/before` first", before.display());
    Ok(before)
}

/// Writes the fixtures of a state anew, from a site of that release whose programs
/// have just been stopped.
///
/// # Errors
///
/// When a file cannot be read or written.
pub fn capture(site: &Site, state: &str, status: &str) -> Result<()> {
    for left in Left::ALL {
        let bytes = match left {
            Left::SourceJournal => fs::read(site.source_config.state_directory.join("journal.db"))?,
            Left::DestinationJournal => fs::read(site.destination_config.state_directory.join("journal.db"))?,
            Left::Store => fs::read(site.directory().join("coordinator-state/coordinator.db"))?,
            Left::Status => status.as_bytes().to_owned(),
        };
        let path = left.fixture(state);
        fs::create_dir_all(path.parent().context("a fixture without a directory")?)?;
        fs::write(path, zstd::encode_all(bytes.as_slice(), 19)?)?;
    }
    Ok(())
}
