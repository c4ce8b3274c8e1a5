//! A pooler's configuration file on disk: replaced whole, or not at all.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// Replaces a file by one with this content, and the same owner and mode. A reader at any moment, even
/// after a crash, sees the old file or the new one. On disk when it returns.
pub(super) fn replace(path: &Path, content: &str) -> io::Result<()> {
    // If the path is a link, the file behind it is replaced.
    let path = fs::canonicalize(path)?;
    let mut new = beside(&path)?;
    new.write_all(content.as_bytes())?;
    new.as_file().sync_all()?;
    new.persist(&path).map_err(|error| error.error)?;
    sync_directory(&path)
}

/// Whether [`replace`] would succeed. Changes nothing.
pub(super) fn prove_replaceable(path: &Path) -> io::Result<()> {
    beside(&fs::canonicalize(path)?).map(drop)
}

/// An empty file in the same directory, with the same owner and mode. Removed
/// when dropped.
fn beside(path: &Path) -> io::Result<NamedTempFile> {
    let metadata = fs::metadata(path)?;
    let new = tempfile::Builder::new().prefix(".pgportage-").tempfile_in(directory_of(path))?;
    let own = new.as_file().metadata()?;
    if (own.uid(), own.gid()) != (metadata.uid(), metadata.gid()) {
        fchown(new.as_file(), Some(metadata.uid()), Some(metadata.gid()))?;
    }
    new.as_file().set_permissions(Permissions::from_mode(metadata.mode() & 0o7777))?;
    Ok(new)
}

/// Keeps a copy with which the agent can lead the pooler back. Only the agent's user can read it: entries
/// may hold passwords. An existing copy stays.
pub(super) fn keep(copy: &Path, content: &str) -> io::Result<()> {
    if copy.exists() {
        return Ok(());
    }
    fs::create_dir_all(directory_of(copy))?;
    let mut new = tempfile::Builder::new().prefix(".pgportage-").tempfile_in(directory_of(copy))?;
    new.write_all(content.as_bytes())?;
    new.as_file().sync_all()?;
    new.persist(copy).map_err(|error| error.error)?;
    sync_directory(copy)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(directory_of(path))?.sync_all()
}

fn directory_of(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("/")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_new_file_has_the_mode_of_the_old_one_and_stands_behind_its_link() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("pgbouncer.ini"), directory.path().join("link.ini"));
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        prove_replaceable(&link).unwrap();
        replace(&link, "new").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o640);
        assert!(link.is_symlink());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn the_first_copy_stays() {
        let directory = tempfile::tempdir().unwrap();
        let copy = directory.path().join("pooler/copy.ini");
        keep(&copy, "first").unwrap();
        keep(&copy, "second").unwrap();
        assert_eq!(fs::read_to_string(&copy).unwrap(), "first");
        assert_eq!(fs::metadata(&copy).unwrap().mode() & 0o7777, 0o600);
    }
}
