//! Files that an agent writes for operators: which rows differ, what was compared so far, and the
//! statements that correct rows.
//!
//! They hold keys of rows and whole rows, so **they go with the migration**. The agent removes them before
//! the journal forgets the migration, and at every start removes those that the journal does not know. A
//! later migration of the same name finds no file that it could take for its own.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use pgportage_proto::MigrationId;

/// Directory of comparisons below the state directory: one directory for each
/// migration.
const COMPARISON: &str = "comparison";
/// Directory in which the previous release wrote statements about schemas.
const DRIFT: &str = "drift";

pub(crate) fn comparison(state: &Path, migration: &MigrationId) -> PathBuf {
    state.join(COMPARISON).join(migration.as_str())
}

/// Removes every file of a migration. A failure is logged, and the next start tries again.
pub(crate) fn remove(state: &Path, migration: &MigrationId) {
    tell(fs::remove_dir_all(comparison(state, migration)), migration.as_str());
}

/// Removes the files of every migration that is not among the `known`, and those that
/// this release does not write.
pub(crate) fn sweep(state: &Path, known: &[MigrationId]) {
    let is_known = |name: &str| known.iter().any(|migration| migration.as_str() == name);
    for entry in entries(&state.join(COMPARISON)) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !is_known(&name) {
            tell(fs::remove_dir_all(entry.path()), &name);
        }
    }
    tell(fs::remove_dir_all(state.join(DRIFT)), DRIFT);
}

fn entries(directory: &Path) -> impl Iterator<Item = fs::DirEntry> {
    fs::read_dir(directory).into_iter().flatten().flatten()
}

fn tell(gone: io::Result<()>, name: &str) {
    match gone {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::error!(migration.id = name, %error, "reports about rows could not be removed");
        }
        Ok(()) | Err(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(state: &Path, name: &str) -> MigrationId {
        let migration = MigrationId::new(name).unwrap();
        fs::create_dir_all(comparison(state, &migration)).unwrap();
        fs::write(comparison(state, &migration).join("differences.jsonl"), "{}").unwrap();
        migration
    }

    fn left(state: &Path) -> Vec<String> {
        let mut left: Vec<_> =
            entries(&state.join(COMPARISON)).map(|entry| entry.file_name().into_string().unwrap()).collect();
        left.sort();
        left
    }

    #[test]
    fn they_go_with_the_migration_and_no_others_do() {
        let home = tempfile::tempdir().unwrap();
        let state = home.path();
        let [shop, shop_2, bank] = ["shop", "shop-2", "bank"].map(|name| written(state, name));
        fs::create_dir(state.join(DRIFT)).unwrap();
        fs::write(state.join(DRIFT).join("bank.sql"), "--").unwrap();
        remove(state, &shop);
        remove(state, &shop);
        assert_eq!(left(state), ["bank", "shop-2"]);
        sweep(state, &[bank, shop]);
        assert_eq!(left(state), ["bank"], "{shop_2} is unknown");
        assert!(!state.join(DRIFT).exists());
        sweep(&state.join("nowhere"), &[]);
    }
}
