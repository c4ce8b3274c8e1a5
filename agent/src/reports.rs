//! Files that an agent writes for people: which rows differ, what was compared
//! so far, and the statements that mend rows and schemas.
//!
//! They hold keys of rows, whole rows and definitions, so **they go with the
//! migration**: before the journal forgets it, and at every start those that the
//! journal does not know. A migration that comes later by the same name finds
//! nothing that it could take for its own.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use pgportage_proto::MigrationId;

/// Directory of comparisons below the state directory: one directory for each
/// migration.
const COMPARISON: &str = "comparison";
/// Directory of statements against schema drift: one file for each migration.
const DRIFT: &str = "drift";

/// Where a migration's comparison keeps its files.
pub(crate) fn comparison(state: &Path, migration: &MigrationId) -> PathBuf {
    state.join(COMPARISON).join(migration.as_str())
}

/// The file with the statements against a migration's schema drift.
pub(crate) fn drift(state: &Path, migration: &MigrationId) -> PathBuf {
    state.join(DRIFT).join(format!("{migration}.sql"))
}

/// What a file of [`drift`] is called while it is written.
pub(crate) fn drift_in_the_making(state: &Path, migration: &MigrationId) -> PathBuf {
    drift(state, migration).with_extension("sql.next")
}

/// Removes every file of a migration. What cannot be removed is said in the log,
/// and tried again at the next start.
pub(crate) fn remove(state: &Path, migration: &MigrationId) {
    let files = [drift(state, migration), drift_in_the_making(state, migration)];
    let gone = fs::remove_dir_all(comparison(state, migration));
    for gone in files.into_iter().map(fs::remove_file).chain([gone]) {
        tell(gone, migration.as_str());
    }
}

/// Removes the files of every migration that is not among the `known`.
pub(crate) fn sweep(state: &Path, known: &[MigrationId]) {
    let is_known = |name: &str| known.iter().any(|migration| migration.as_str() == name);
    for entry in entries(&state.join(COMPARISON)) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !is_known(&name) {
            tell(fs::remove_dir_all(entry.path()), &name);
        }
    }
    for entry in entries(&state.join(DRIFT)) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !is_known(name.split('.').next().unwrap_or_default()) {
            tell(fs::remove_file(entry.path()), &name);
        }
    }
}

fn entries(directory: &Path) -> impl Iterator<Item = fs::DirEntry> {
    fs::read_dir(directory).into_iter().flatten().flatten()
}

fn tell(gone: io::Result<()>, name: &str) {
    match gone {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::error!(migration.id = name, %error, "reports about rows or schemas could not be removed");
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
        fs::create_dir_all(state.join(DRIFT)).unwrap();
        fs::write(comparison(state, &migration).join("differences.jsonl"), "{}").unwrap();
        for path in [drift(state, &migration), drift_in_the_making(state, &migration)] {
            fs::write(path, "--").unwrap();
        }
        migration
    }

    fn left(state: &Path) -> Vec<String> {
        let mut left: Vec<_> = [COMPARISON, DRIFT]
            .into_iter()
            .flat_map(|directory| entries(&state.join(directory)).collect::<Vec<_>>())
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect();
        left.sort();
        left
    }

    #[test]
    fn they_go_with_the_migration_and_no_others_do() {
        let home = tempfile::tempdir().unwrap();
        let state = home.path();
        let [shop, shop_2, bank] = ["shop", "shop-2", "bank"].map(|name| written(state, name));
        remove(state, &shop);
        remove(state, &shop);
        assert_eq!(left(state), ["bank", "bank.sql", "bank.sql.next", "shop-2", "shop-2.sql", "shop-2.sql.next"]);
        sweep(state, &[bank, shop]);
        assert_eq!(left(state), ["bank", "bank.sql", "bank.sql.next"], "{shop_2} is unknown");
        sweep(&state.join("nowhere"), &[]);
    }
}
