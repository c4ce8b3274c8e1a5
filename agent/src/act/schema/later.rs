//! The part of the schema that is made when the rows are in.

use std::collections::BTreeSet;
use std::process::Stdio;

use pgportage_link::{Effect, Failure};
use pgportage_postgres::programs::{Program, Tool};
use pgportage_postgres::{Login, RelationName, Session, read_stderr, stderr_excerpt};
use pgportage_proto::Reason;

use super::archive::Archive;
pub(in crate::act) use super::archive::{Build, Built, ForeignKey};
use super::restore::{self, archive_path, write_private};
use super::rights;
use crate::act::Context;

/// What the first part of the schema has left out.
#[derive(Debug)]
pub(in crate::act) struct Later {
    /// Indexes and constraints of single tables.
    pub(in crate::act) builds: Vec<Build>,
    /// Everything else, in the order in which it has to be made: one script, run in one transaction.
    pub(in crate::act) script: String,
    /// Foreign keys that the script makes `NOT VALID`, to be validated after it.
    pub(in crate::act) foreign_keys: Vec<ForeignKey>,
}

/// From this version on, a foreign key of a partitioned table can be `NOT VALID`.
const PARTITIONED_NOT_VALID: i32 = 180_000;

/// Reads what is left of the kept archive. `tables` are those whose indexes are made one by one. An archive
/// that was lost is fetched again.
///
/// # Errors
///
/// [`Reason::PgDumpMissing`], [`Reason::PgRestoreFailed`], or what the source reports.
pub(in crate::act) async fn read(
    cx: &Context,
    session: &Session,
    tables: &BTreeSet<RelationName>,
) -> Result<Later, Failure> {
    let program = restore::choose(cx, session.version).await?;
    let path = archive_path(cx);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) => {
            tracing::warn!(%error, "the kept archive of the schema is gone; it is fetched again");
            let fetched = restore::fetch(cx, &program, &rights(&**session).await?).await?;
            std::fs::read(&fetched.path).map_err(|error| unreadable(&error))?
        }
    };
    // An archive of an unknown layout is made as a whole, at the end.
    let Ok(mut archive) = Archive::parse(&bytes) else {
        let script = script(cx, &program, &path).await?;
        return Ok(Later { builds: Vec::new(), script, foreign_keys: Vec::new() });
    };
    let builds = archive.take_builds(tables);
    let foreign_keys = archive.defer_foreign_keys(session.version.num() >= PARTITIONED_NOT_VALID);
    let rest = path.with_extension("rest");
    write_private(&rest, &archive.to_bytes()).map_err(|error| unreadable(&error))?;
    let script = script(cx, &program, &rest).await;
    if let Err(error) = std::fs::remove_file(&rest) {
        tracing::warn!(%error, "could not remove a part of the schema");
    }
    Ok(Later { builds, script: script?, foreign_keys })
}

/// Removes the kept archive, once everything is made.
pub(in crate::act) fn forget(cx: &Context) {
    restore::forget(cx);
}

/// The statements that `pg_restore` would run after the rows.
async fn script(cx: &Context, program: &Program, path: &std::path::Path) -> Result<String, Failure> {
    let login = Login::prepare(&cx.door, &cx.settings.state_dir, &cx.participation.database, "script")?;
    let mut command = login.program(&program.path);
    command
        .args(["--section=post-data", "--no-publications", "--no-subscriptions", "--no-tablespaces", "--file=-", "--"])
        .arg(path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let failed = |stderr: &str| {
        Failure::new(Reason::PgRestoreFailed, "pg_restore could not read the kept schema")
            .detail(format!(
                "{} {} said: {}",
                program.path.display(),
                program.version,
                stderr_excerpt(Tool::Restore.as_str(), stderr)
            ))
            .effect(Effect::None)
    };
    let mut child = command.spawn().map_err(|error| failed("").because(&error))?;
    let stderr = read_stderr(child.stderr.take(), |_| ());
    let (stderr, output) = tokio::join!(stderr, child.wait_with_output());
    let output = output.map_err(|error| failed("").because(&error))?;
    if !output.status.success() {
        return Err(failed(&stderr));
    }
    let text = String::from_utf8(output.stdout).map_err(|error| failed("").because(&error))?;
    Ok(without_psql_commands(&text))
}

/// Removes the lines with which newer releases keep psql from running commands that hide in a dump
/// (`\\restrict`, `\\unrestrict`): psql does not read this script. These lines stand outside of all
/// statements.
fn without_psql_commands(script: &str) -> String {
    let command = |line: &&str| line.starts_with("\\restrict ") || line.starts_with("\\unrestrict ");
    let mut lines: Vec<&str> = script.lines().collect();
    // Only the first and the last of them: such a line inside a function's body belongs to the function.
    for position in [lines.iter().position(&command), lines.iter().rposition(&command)] {
        if let Some(line) = position.and_then(|position| lines.get_mut(position)) {
            *line = "";
        }
    }
    lines.join("\n")
}

fn unreadable(error: &std::io::Error) -> Failure {
    Failure::new(Reason::StoreUnwritable, "could not keep the schema in the state directory")
        .effect(Effect::None)
        .because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_psql_knows_is_taken_out() {
        let script = "--\n\\restrict abc\nSET a = 1;\nAS 'x\n\\restrict me\n';\n\\unrestrict abc\n";
        assert_eq!(without_psql_commands(script), "--\n\nSET a = 1;\nAS 'x\n\\restrict me\n';\n");
        assert_eq!(without_psql_commands("SELECT 1;"), "SELECT 1;");
    }
}
