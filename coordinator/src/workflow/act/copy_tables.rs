//! *Destination*: the rows of the slot's snapshot, then what is made over them.

use pgportage_link::Failure;
use pgportage_proto::{ActKind, CopyMethod, Side, v1};
use serde::{Deserialize, Serialize};

use super::super::statement::{Basis, Line, Statements, only_if, remark, runs, size};
use super::kind::{Act, Given, Kind, Message, Produced, something_else};

/// From here on a server is told of statistics, and need not make them.
const STATISTICS_ARE_TOLD: i32 = 180_000;

pub(crate) static ACT: Act = Act::of::<CopyTables>();

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CopyTables {
    /// The agents, or the subscription.
    pub copy_method: CopyMethod,
}

/// The rows of the slot's snapshot are on the destination.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Copied {
    /// Tables copied. Zero when the subscription copies.
    pub table_count: i32,
    /// Rows written, those of abandoned attempts left out.
    pub row_count: i64,
    /// Bytes of COPY data written, before any compression.
    pub copied_bytes: i64,
    /// Bytes that were copied again, because the snapshot was lost.
    pub repeated_bytes: i64,
    /// Where the copy ends and the stream begins.
    pub consistent_point: String,
    /// Tables that were complete when a snapshot was lost and were not copied
    /// again.
    pub kept_table_count: i32,
    /// Those of them in which rows that had been touched since were exchanged.
    pub mended_table_count: i32,
}

impl Kind for CopyTables {
    const KIND: ActKind = ActKind::CopyTables;
    type Outcome = Copied;

    fn input(given: &Given<'_>) -> Option<Self> {
        Some(Self { copy_method: given.spec.copy_method })
    }

    fn send(&self) -> Message {
        Message::CopyTables(v1::CopyTables { copy_method: v1::CopyMethod::from(self.copy_method).into() })
    }

    fn receive(produced: Produced) -> Result<Self::Outcome, Failure> {
        let Produced::CopyTables(result) = produced else { return Err(something_else()) };
        Ok(Copied {
            table_count: result.table_count,
            row_count: result.row_count,
            copied_bytes: result.copied_bytes,
            repeated_bytes: result.repeated_bytes,
            consistent_point: result.consistent_point,
            kept_table_count: result.kept_table_count,
            mended_table_count: result.mended_table_count,
        })
    }

    fn statements(basis: &Basis<'_>) -> Statements {
        match basis.spec.copy_method {
            CopyMethod::Native => vec![remark("nothing: the subscription copies")].into(),
            CopyMethod::Snapshot => Statements {
                there: vec![
                    remark("read every table with COPY … TO STDOUT in the slot's snapshot, several at a time"),
                    only_if(
                        "the copy lasts longer than a second, to see how long a commit takes",
                        "UPDATE pgportage.heartbeat SET sequence = sequence WHERE id = 1",
                    ),
                ],
                here: copied(basis),
            },
        }
    }
}

fn copied(basis: &Basis<'_>) -> Vec<Line> {
    let mut lines: Vec<Line> = ["copy", "copied", "copied_table"]
        .map(|name| runs(format!("CREATE TABLE IF NOT EXISTS pgportage.{name} (…)")))
        .into();
    lines.extend(
        [
            "INSERT INTO pgportage.copy (id, consistent_point) VALUES (1, '') ON CONFLICT (id) DO NOTHING",
            "WITH thrown AS ( DELETE FROM pgportage.copied c …) SELECT …",
            "INSERT INTO pgportage.copied (schema, relation, first_block, row_count, copied_bytes) SELECT …",
            "DELETE FROM pgportage.copied WHERE first_block >= 0",
            "DELETE FROM pgportage.copied_table",
            "INSERT INTO pgportage.copied_table (…) SELECT …",
            "UPDATE pgportage.copy SET consistent_point = '…', …",
        ]
        .map(runs),
    );
    lines.extend(basis.ledger(ActKind::CopyTables, "perform"));
    lines.push(runs("INSERT INTO pgportage.copied (schema, relation, first_block) VALUES ('…', '…', '…')"));
    lines.extend(["heartbeat", "marker"].map(|own| runs(format!("COPY pgportage.{own} … FROM STDIN (FORMAT …)"))));
    match basis.tables() {
        None => lines.push(runs("COPY … FROM STDIN (FORMAT …)")),
        Some(tables) => lines.extend(tables.iter().map(|table| {
            runs(format!("COPY {} … FROM STDIN (FORMAT …) /* {} */", table.name, size(table.size_bytes)))
        })),
    }
    lines.push(only_if("a table is copied in one part", "TRUNCATE ONLY …"));
    lines.push(runs("UPDATE pgportage.copied SET row_count = '…', copied_bytes = '…' WHERE …"));
    lines.push(runs("UPDATE pgportage.copy SET rows_complete = true WHERE …"));
    lines.extend(made_over_rows(basis));
    lines.push(runs("UPDATE pgportage.copy SET complete = true WHERE id = 1"));
    lines
}

/// Indexes, constraints, triggers and statistics.
fn made_over_rows(basis: &Basis<'_>) -> Vec<Line> {
    let mut lines = Vec::new();
    match basis.material(Side::Source) {
        None => {
            lines.push(remark(
                "then the indexes, constraints and triggers of the source's schema, as pg_restore says them:",
            ));
            let builds =
                ["CREATE INDEX …", "CREATE UNIQUE INDEX …", "ALTER INDEX …", "ALTER TABLE …", "CREATE TRIGGER …"];
            lines.extend(builds.map(|statement| only_if("the source has one", statement)));
        }
        Some(material) => {
            lines.push(remark(format!(
                "then {} indexes, {} foreign keys and {} triggers of the source's schema, as pg_restore says them:",
                material.index_count, material.foreign_key_count, material.trigger_count
            )));
            let indexes = [
                ("an index is no constraint's", "CREATE INDEX …"),
                ("an index is unique and no constraint's", "CREATE UNIQUE INDEX …"),
                ("an index is a constraint's", "ALTER TABLE … ADD CONSTRAINT …"),
                ("a table has partitions", "ALTER INDEX … ATTACH PARTITION …"),
                ("the source's schema says so", "ALTER TABLE …"),
            ];
            if material.index_count > 0 {
                lines.extend(indexes.map(|(when, statement)| only_if(when, statement)));
            }
            if material.foreign_key_count > 0 {
                lines.push(runs("ALTER TABLE … ADD CONSTRAINT … FOREIGN KEY … NOT VALID"));
                lines.push(runs("ALTER TABLE … VALIDATE CONSTRAINT …"));
            }
            if material.trigger_count > 0 {
                lines.push(runs("CREATE TRIGGER …"));
            }
        }
    }
    lines.push(runs("UPDATE pgportage.copy SET id = id WHERE id = 1"));
    lines.push(runs("UPDATE pgportage.copy SET scripted = true WHERE id = 1"));
    let told = basis.version(Side::Destination).is_some_and(|version| version >= STATISTICS_ARE_TOLD);
    if told {
        lines.push(runs("CREATE TEMPORARY TABLE statistics (…)"));
        lines.push(only_if("the source has statistics", "TRUNCATE pg_temp.statistics"));
        lines.push(only_if("the source has statistics", "COPY pg_temp.statistics FROM STDIN (FORMAT binary)"));
        lines.push(only_if("the source has statistics", "WITH …pg_restore_attribute_stats(…) …"));
        lines.push(only_if("statistics cannot be carried", "WITH …pg_clear_attribute_stats(…) …"));
        lines.push(only_if("a table has none yet", "SELECT pg_restore_relation_stats(…) …"));
    }
    lines.push(only_if("statistics are not carried", "ANALYZE …"));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_taken_in_with_all_its_figures() {
        let produced = v1::CopyTablesResult {
            table_count: 3,
            row_count: 7_000_000_000,
            copied_bytes: 1 << 40,
            repeated_bytes: 5,
            consistent_point: "16/B374D848".to_owned(),
            kept_table_count: 2,
            mended_table_count: 1,
        };
        let expected = Copied {
            table_count: 3,
            row_count: 7_000_000_000,
            copied_bytes: 1 << 40,
            repeated_bytes: 5,
            consistent_point: "16/B374D848".to_owned(),
            kept_table_count: 2,
            mended_table_count: 1,
        };
        assert_eq!(CopyTables::receive(Produced::CopyTables(produced)).unwrap(), expected);
    }
}
