//! The columns of a table that both sides have.

use super::order::Stage;
use crate::postgres::catalog::{Column, ObjectDefinition, same_definition};

/// What makes the columns the same.
#[derive(Debug, Default)]
pub(super) struct ColumnChanges {
    /// What differs, one clause each. Names and types, no expression of anybody's.
    pub(super) details: Vec<String>,
    pub(super) statements: Vec<(Stage, String)>,
    /// What rows that are on their way stand against.
    pub(super) after: Vec<String>,
    pub(super) remarks: Vec<String>,
}

const REWRITTEN: &str =
    "rows that were there before may have other values here: compare them with `pgportage verify` before the cutover.";

/// What of the columns differs, and what makes them the same. A column that a table
/// has from its parent changes with the parent.
pub(super) fn compare(theirs: &ObjectDefinition, ours: &ObjectDefinition) -> ColumnChanges {
    let mut changes = ColumnChanges::default();
    let table = &theirs.table_name;
    for (place, column) in theirs.columns.iter().enumerate() {
        match ours.columns.iter().find(|known| known.name == column.name) {
            None => match renamed(theirs, ours, place) {
                Some(old) => changes.rename(table, old, column, place + 1 == theirs.columns.len()),
                None => changes.add(table, column),
            },
            Some(known) => changes.alter(table, column, known),
        }
    }
    for (place, column) in ours.columns.iter().enumerate() {
        if !theirs.columns.iter().any(|known| known.name == column.name) && renamed(theirs, ours, place).is_none() {
            changes.details.push(format!("column {} is extra", column.name));
            if !column.inherited {
                let statement = format!("ALTER TABLE {table} DROP COLUMN {}", column.name);
                changes.statements.push((Stage::Shed, statement));
            }
        }
    }
    let names = |columns: &[Column]| columns.iter().map(|column| column.name.clone()).collect::<Vec<_>>();
    let (here, there) = (names(&ours.columns), names(&theirs.columns));
    if changes.details.is_empty() && here != there {
        changes.details.push("its columns stand in another order".to_owned());
        changes
            .remarks
            .push("its columns stand in another order: take those at the end away and add them again.".to_owned());
    }
    changes
}

/// The column of ours at a place where theirs has another name, and otherwise is the
/// same, while neither side has the other's name.
fn renamed<'a>(theirs: &ObjectDefinition, ours: &'a ObjectDefinition, place: usize) -> Option<&'a Column> {
    let (new, old) = (theirs.columns.get(place)?, ours.columns.get(place)?);
    let knows = |table: &ObjectDefinition, name: &str| table.columns.iter().any(|column| column.name == name);
    let same = Column { name: new.name.clone(), ..old.clone() } == *new;
    (theirs.columns.len() == ours.columns.len() && same && !knows(ours, &new.name) && !knows(theirs, &old.name))
        .then_some(old)
}

impl ColumnChanges {
    /// One that was taken away and added again stands at the end: there nobody can
    /// tell that from another name.
    fn rename(&mut self, table: &str, old: &Column, new: &Column, last: bool) {
        let (old, new) = (&old.name, new);
        self.details.push(format!("column {} seems to be {old}, renamed", new.name));
        if new.inherited {
            return;
        }
        let statement = format!("ALTER TABLE {table} RENAME COLUMN {old} TO {}", new.name);
        if !last {
            self.statements.push((Stage::Shape, statement));
            return;
        }
        let mut added = Self::default();
        added.add(table, new);
        let anew: Vec<_> = added.statements.into_iter().map(|(_, statement)| format!("{statement};")).collect();
        self.remarks.push(format!(
            "column {} was {old} and got another name, or {old} was dropped and {} added. Run the one that is true: \
             {statement}; or: ALTER TABLE {table} DROP COLUMN {old}; {}",
            new.name,
            new.name,
            anew.join(" ")
        ));
    }

    fn add(&mut self, table: &str, column: &Column) {
        let Column { name, type_name, default, .. } = column;
        self.details.push(format!("column {name} is missing"));
        if column.inherited {
            return;
        }
        let mut statement = format!("ALTER TABLE {table} ADD COLUMN {name} {type_name}");
        if !column.collation.is_empty() {
            statement.push_str(&format!(" COLLATE {}", column.collation));
        }
        let filled = if let Some(clause) = generation(column) {
            statement.push_str(&clause);
            true
        } else if default.is_empty() {
            false
        } else {
            statement.push_str(&format!(" DEFAULT {default}"));
            true
        };
        if column.not_null && filled {
            statement.push_str(" NOT NULL");
        } else if column.not_null {
            self.after.push(format!("ALTER TABLE {table} ALTER COLUMN {name} SET NOT NULL"));
        }
        self.statements.push((Stage::Shape, statement));
        // Whatever is called may say something else here.
        if filled && (default.contains('(') || !column.identity.is_empty()) && column.generated.is_empty() {
            self.remarks.push(format!("column {name}: {REWRITTEN}"));
        }
    }

    fn alter(&mut self, table: &str, theirs: &Column, ours: &Column) {
        let name = &theirs.name;
        let retyped = (&theirs.type_name, &theirs.collation) != (&ours.type_name, &ours.collation);
        let redefined = !same_definition(&theirs.default, &ours.default);
        let mut alter = |statement: String| {
            if !theirs.inherited {
                self.statements.push((Stage::Shape, format!("ALTER TABLE {table} ALTER COLUMN {name} {statement}")));
            }
        };
        if theirs.generated != ours.generated || (redefined && !theirs.generated.is_empty()) {
            self.details.push(format!("column {name} is generated otherwise"));
            self.remarks.push(format!("column {name} is generated otherwise: make the same change by hand."));
            return;
        }
        if retyped {
            self.details.push(if theirs.type_name == ours.type_name {
                format!("column {name} has another collation")
            } else {
                format!("column {name} is of type {}, not {}", ours.type_name, theirs.type_name)
            });
            let collation = match theirs.collation.as_str() {
                "" => String::new(),
                collation => format!(" COLLATE {collation}"),
            };
            if !ours.default.is_empty() {
                alter("DROP DEFAULT".to_owned());
            }
            alter(format!("TYPE {0}{collation} USING {name}::{0}", theirs.type_name));
            if !theirs.inherited {
                self.remarks.push(format!("column {name}: {REWRITTEN}"));
            }
        }
        if redefined {
            self.details.push(format!("column {name} has another default"));
        }
        if redefined || (retyped && !ours.default.is_empty()) {
            match theirs.default.as_str() {
                "" => alter("DROP DEFAULT".to_owned()),
                default => alter(format!("SET DEFAULT {default}")),
            }
        }
        if theirs.not_null && !ours.not_null {
            self.details.push(format!("column {name} takes NULL"));
            alter("SET NOT NULL".to_owned());
        }
        if theirs.identity != ours.identity {
            self.details.push(format!("column {name} is an identity otherwise"));
            match (theirs.identity.as_str(), ours.identity.as_str()) {
                ("", _) => alter("DROP IDENTITY".to_owned()),
                (kind, "") => alter(format!("ADD GENERATED {} AS IDENTITY", identity(kind))),
                (kind, _) => alter(format!("SET GENERATED {}", identity(kind))),
            }
        }
        if !theirs.not_null && ours.not_null {
            self.details.push(format!("column {name} takes no NULL"));
            alter("DROP NOT NULL".to_owned());
        }
    }
}

fn identity(kind: &str) -> &'static str {
    if kind == "a" { "ALWAYS" } else { "BY DEFAULT" }
}

fn generation(column: &Column) -> Option<String> {
    match (column.generated.as_str(), column.identity.as_str()) {
        ("v", _) => Some(format!(" GENERATED ALWAYS AS ({}) VIRTUAL", column.default)),
        ("", "") => None,
        ("", kind) => Some(format!(" GENERATED {} AS IDENTITY", identity(kind))),
        (_stored, _) => Some(format!(" GENERATED ALWAYS AS ({}) STORED", column.default)),
    }
}
