//! The file with the statements, on this machine alone: definitions hold literals,
//! which are nobody's business but the owner's of the server.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::mending::Mending;
use crate::migration::Participation;
use crate::reports;

/// Writes the statements, in the place of those before. Returns where.
///
/// # Errors
///
/// What the file system says.
pub(super) fn write(state: &Path, participation: &Participation, mending: &Mending) -> io::Result<PathBuf> {
    let path = reports::drift(state, &participation.migration);
    if let Some(directory) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    let next = reports::drift_in_the_making(state, &participation.migration);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
    file.write_all(text(participation, mending, &path).as_bytes())?;
    file.sync_all()?;
    fs::rename(&next, &path)?;
    Ok(path)
}

/// Takes the statements away once they are not needed.
pub(super) fn remove(state: &Path, participation: &Participation) {
    if let Err(error) = fs::remove_file(reports::drift(state, &participation.migration))
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(migration.id = %participation.migration, %error, "statements of yesterday could not be removed");
    }
}

/// The whole file.
fn text(participation: &Participation, mending: &Mending, path: &Path) -> String {
    let Participation { migration, side, database, .. } = participation;
    let other = side.other();
    let mut text = format!(
        "-- Makes the schema of the {side} that of the {other}, for migration {migration}.\n\
         -- Written anew whenever what differs changes, and gone when nothing does. Read it, then run it here as a\n\
         -- superuser, who can enter a closed database:\n\
         --   psql --set ON_ERROR_STOP=1 --dbname {database} --file {path}\n\
         -- A change that was made here first and is on its way to the {other} needs nothing: the drift ends when it\n\
         -- is there as well.\n\n\
         SET default_transaction_read_only = off;\n\
         SET check_function_bodies = off;\n\
         SET search_path = pg_catalog;\n",
        database = one_line(database),
        path = one_line(&path.display().to_string()),
    );
    let mut put = |statements: &[String]| {
        for statement in statements {
            text.push_str(statement);
            text.push_str(";\n");
        }
    };
    put(&mending.before);
    if !mending.together.is_empty() {
        put(&["\nBEGIN READ WRITE".to_owned()]);
        put(&mending.together);
        put(&["COMMIT".to_owned()]);
    }
    if !mending.after.is_empty() {
        text.push_str("\n-- These succeed once the rows that are on their way have arrived.\n");
        for statement in &mending.after {
            text.push_str(&format!("{statement};\n"));
        }
    }
    if !mending.remarks.is_empty() {
        text.push('\n');
    }
    for remark in &mending.remarks {
        text.push_str(&format!("-- {}\n", one_line(remark)));
    }
    text
}

/// A name may hold a line end, and what follows it must not become a statement.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use pgportage_proto::{MigrationId, Side};

    #[test]
    fn a_file_for_the_owner_alone_in_which_no_name_becomes_a_statement() {
        let home = tempfile::tempdir().unwrap();
        let participation = Participation {
            migration: MigrationId::new("shop").unwrap(),
            side: Side::Destination,
            database: "shop\nDROP TABLE t;".to_owned(),
            peer: "beta".to_owned(),
        };
        let mending = Mending {
            together: vec!["ALTER TABLE t ADD COLUMN c text".to_owned()],
            before: vec!["ALTER TYPE e ADD VALUE 'x'".to_owned()],
            remarks: vec!["table \"x\nDROP TABLE t;\" was created".to_owned()],
            ..Mending::default()
        };
        let path = write(home.path(), &participation, &mending).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let statements: Vec<_> = text
            .lines()
            .filter(|line| !line.starts_with("--") && !line.starts_with("SET") && !line.is_empty())
            .collect();
        assert_eq!(
            statements,
            ["ALTER TYPE e ADD VALUE 'x';", "BEGIN READ WRITE;", "ALTER TABLE t ADD COLUMN c text;", "COMMIT;"]
        );
        remove(home.path(), &participation);
        remove(home.path(), &participation);
        assert!(!path.exists());
    }
}
