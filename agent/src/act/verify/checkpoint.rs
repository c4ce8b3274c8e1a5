//! The state of a comparison, in a file of the agent's own.
//!
//! Written every few seconds and when the comparison stops, so that an interrupted comparison goes on where
//! it was. The file is the source of truth about the length of the report beside it: text after that length
//! is written again. **Both hold keys of rows**, so only the agent's user may read them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgportage_data_plane::comparison::{ComparedTable, Difference, Digest, RowKey};
use pgportage_link::{Effect, Failure};
use pgportage_postgres::RelationName;
use pgportage_proto::{MigrationId, Reason};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::reports;

/// Form of the file. A file of another form is not read: the comparison begins anew.
const FORMAT: u32 = 1;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TableNote {
    pub(super) digest: Digest,
    pub(super) missing: i64,
    pub(super) extra: i64,
    pub(super) changed: i64,
    pub(super) unsettled: i64,
    pub(super) obstacle: String,
    pub(super) complete: bool,
    /// Everything before this key is compared.
    pub(super) position: Option<RowKey>,
}

impl TableNote {
    pub(super) fn differs(&mut self, difference: Difference) {
        match difference {
            Difference::Missing => self.missing += 1,
            Difference::Extra => self.extra += 1,
            Difference::Changed => self.changed += 1,
        }
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Saved {
    format: u32,
    comparison_id: i64,
    /// The server on which it began, by its history. Empty where an older release began it.
    #[serde(default)]
    server: String,
    elapsed: Duration,
    range_count: i64,
    recheck_count: i64,
    report_bytes: u64,
    repair_bytes: u64,
    /// Schema, name, and the state of each table.
    tables: Vec<(String, String, TableNote)>,
}

/// The checkpoint of one migration.
#[derive(Debug)]
pub(super) struct Checkpoint {
    directory: PathBuf,
    saved: Saved,
    report: File,
    repair: File,
}

impl Checkpoint {
    /// Opens the checkpoint of a migration. A checkpoint of another comparison is thrown away. `server` is
    /// where one begins now.
    pub(super) fn open(
        state: &Path,
        migration: &MigrationId,
        comparison_id: i64,
        server: &str,
    ) -> Result<Self, Failure> {
        let directory = reports::comparison(state, migration);
        let unwritable = |error: io::Error| unwritable(&directory, &error);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(unwritable)?;
        let stored = fs::read(directory.join("progress.json")).unwrap_or_default();
        let mut saved = serde_json::from_slice(&stored)
            .ok()
            .filter(|saved: &Saved| saved.format == FORMAT && saved.comparison_id == comparison_id)
            .unwrap_or_else(|| Saved { format: FORMAT, comparison_id, server: server.to_owned(), ..Saved::default() });
        // What prevented the comparison of a table may be gone.
        saved.tables.retain(|(_, _, note)| note.obstacle.is_empty());
        let report = open_at(&directory.join("differences.jsonl"), saved.report_bytes).map_err(unwritable)?;
        let repair = open_at(&directory.join("repair.sql"), saved.repair_bytes).map_err(unwritable)?;
        Ok(Self { directory, saved, report, repair })
    }

    /// The server on which the comparison began.
    pub(super) fn server(&self) -> &str {
        &self.saved.server
    }

    pub(super) fn table(&self, name: &RelationName) -> Option<&TableNote> {
        let named =
            |(schema, relation, _): &&(String, String, TableNote)| *schema == name.schema && *relation == name.relation;
        self.saved.tables.iter().find(named).map(|(_, _, note)| note)
    }

    pub(super) fn note(&mut self, name: &RelationName, note: TableNote) {
        let place = self.saved.tables.iter().position(|(s, r, _)| *s == name.schema && *r == name.relation);
        match place {
            Some(place) => self.saved.tables[place].2 = note,
            None => self.saved.tables.push((name.schema.clone(), name.relation.clone(), note)),
        }
    }

    /// Counts a part that was compared.
    pub(super) fn count_range(&mut self) {
        self.saved.range_count += 1;
    }

    /// Counts rows that were compared once more.
    pub(super) fn count_rechecks(&mut self, rows: usize) {
        self.saved.recheck_count += i64::try_from(rows).unwrap_or(i64::MAX);
    }

    pub(super) fn range_count(&self) -> i64 {
        self.saved.range_count
    }

    pub(super) fn recheck_count(&self) -> i64 {
        self.saved.recheck_count
    }

    /// Time spent before this attempt.
    pub(super) fn elapsed(&self) -> Duration {
        self.saved.elapsed
    }

    /// Writes a row that differs, and how, into the report.
    pub(super) fn report(
        &mut self,
        table: &ComparedTable,
        difference: Difference,
        key: &RowKey,
    ) -> Result<(), Failure> {
        let key = if table.key.is_empty() {
            json!({ "row_hash": key.0 })
        } else {
            table
                .key
                .iter()
                .cloned()
                .zip(key.0.iter().cloned().map(Into::into))
                .collect::<serde_json::Map<_, _>>()
                .into()
        };
        let line = json!({ "table": table.name.to_string(), "difference": difference, "key": key });
        let written = writeln!(self.report, "{line}");
        written.map_err(|error| unwritable(&self.directory, &error))
    }

    /// Writes a statement that corrects a difference.
    pub(super) fn mend(&mut self, statement: &str) -> Result<(), Failure> {
        self.repair.write_all(statement.as_bytes()).map_err(|error| unwritable(&self.directory, &error))
    }

    /// Makes the present state survive the process.
    pub(super) fn save(&mut self, elapsed: Duration) -> Result<(), Failure> {
        self.write(elapsed).map_err(|error| unwritable(&self.directory, &error))
    }

    fn write(&mut self, elapsed: Duration) -> io::Result<()> {
        for file in [&mut self.report, &mut self.repair] {
            file.sync_data()?;
        }
        self.saved.report_bytes = self.report.stream_position()?;
        self.saved.repair_bytes = self.repair.stream_position()?;
        self.saved.elapsed = elapsed;
        let written = serde_json::to_vec(&self.saved).map_err(io::Error::from);
        let mut file = tempfile::NamedTempFile::new_in(&self.directory)?;
        file.write_all(&written?)?;
        file.as_file().sync_data()?;
        file.persist(self.directory.join("progress.json")).map_err(|error| error.error)?;
        Ok(())
    }

    /// The paths of the report, unless it is empty, and of the statements.
    pub(super) fn paths(&mut self) -> Result<[String; 2], Failure> {
        let path = |file: &mut File, name: &str| -> io::Result<String> {
            let written = file.stream_position()? > 0;
            Ok(if written { self.directory.join(name).display().to_string() } else { String::new() })
        };
        let paths = path(&mut self.report, "differences.jsonl")
            .and_then(|report| Ok([report, path(&mut self.repair, "repair.sql")?]));
        paths.map_err(|error| unwritable(&self.directory, &error))
    }
}

/// Opens a file that only the agent's user can read, cuts it to a length and continues there.
fn open_at(path: &Path, length: u64) -> io::Result<File> {
    let mut file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
    file.set_len(length)?;
    file.seek(SeekFrom::Start(length))?;
    Ok(file)
}

fn unwritable(directory: &Path, error: &io::Error) -> Failure {
    Failure::new(Reason::StoreUnwritable, format!("cannot write into {}", directory.display()))
        .effect(Effect::None)
        .because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(state: &Path, comparison_id: i64) -> Checkpoint {
        Checkpoint::open(state, &MigrationId::new("shop").unwrap(), comparison_id, "").unwrap()
    }

    fn table() -> ComparedTable {
        ComparedTable {
            name: RelationName::new("public", "t"),
            columns: Vec::new(),
            key: vec!["id".to_owned()],
            size_bytes: 0,
        }
    }

    #[test]
    fn what_was_saved_is_gone_on_with_and_what_was_not_is_found_again() {
        let state = tempfile::tempdir().unwrap();
        let key = RowKey(vec!["7".to_owned()]);
        let mut checkpoint = open(state.path(), 1);
        let note = TableNote {
            digest: Digest { row_count: 3, sums: [i128::MIN, 5] },
            position: Some(key.clone()),
            ..TableNote::default()
        };
        checkpoint.note(&table().name, note.clone());
        checkpoint.report(&table(), Difference::Missing, &key).unwrap();
        checkpoint.count_range();
        checkpoint.save(Duration::from_secs(5)).unwrap();
        checkpoint.report(&table(), Difference::Extra, &key).unwrap();
        drop(checkpoint);

        let mut again = open(state.path(), 1);
        assert_eq!(again.table(&table().name), Some(&note));
        assert_eq!((again.elapsed(), again.range_count()), (Duration::from_secs(5), 1));
        let [report, repair] = again.paths().unwrap();
        let expected = "{\"difference\":\"missing\",\"key\":{\"id\":\"7\"},\"table\":\"public.t\"}\n";
        assert_eq!((fs::read_to_string(&report).unwrap().as_str(), repair.as_str()), (expected, ""));
        drop(again);

        let mut other = open(state.path(), 2);
        assert_eq!((other.table(&table().name), other.range_count()), (None, 0));
        assert_eq!(other.paths().unwrap(), ["", ""], "another comparison begins anew");
    }
}
