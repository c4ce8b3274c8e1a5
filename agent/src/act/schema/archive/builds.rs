//! The indexes and constraints of an archive that are made table by table when the rows are in.

use std::collections::{BTreeMap, BTreeSet};

use pgportage_postgres::RelationName;

use super::super::sql::{KeyWords, plain_key};
use super::{Archive, Entry};

/// An index or a constraint of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::act) struct Build {
    pub(in crate::act) table: RelationName,
    pub(in crate::act) object: Built,
    /// The statements that make it, and those that mark the table as clustered by it or identified by it.
    pub(in crate::act) statements: String,
    /// How to make it in two steps, if it is a key for which that is possible.
    pub(in crate::act) key: Option<Key>,
}

/// A key whose index is made like any other, and which then takes that index over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::act) struct Key {
    /// The name of its index, and of the key afterwards.
    pub(in crate::act) index: RelationName,
    /// Makes the index. Other indexes of the table may be made at the same time.
    pub(in crate::act) build: String,
    /// Makes the index the key, with everything that belongs to the key. Locks the table for a moment.
    pub(in crate::act) promotion: String,
}

/// The name by which an object is found again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::act) enum Built {
    Index(RelationName),
    Constraint(String),
}

impl Archive {
    /// Takes out the indexes and constraints of single tables, to be made when the table's rows are in.
    /// `tables` are those tables. Indexes of others (partitioned tables, materialised views) stay in the
    /// archive, and so does everything that involves two tables.
    pub(in crate::act::schema) fn take_builds(&mut self, tables: &BTreeSet<RelationName>) -> Vec<Build> {
        let name = |entry: &Entry| {
            let schema = String::from_utf8(entry.schema.clone()?).ok()?;
            Some(RelationName::new(schema, String::from_utf8(entry.tag.clone()).ok()?))
        };
        let known: BTreeMap<i64, RelationName> = self
            .entries
            .iter()
            .filter(|entry| entry.kind == b"TABLE")
            .filter_map(|entry| Some((entry.number, name(entry).filter(|name| tables.contains(name))?)))
            .collect();
        let mut builds = Vec::new();
        self.entries.retain(|entry| {
            let build = || {
                let table = entry.depends_on.iter().find_map(|number| known.get(number))?.clone();
                let statements = String::from_utf8(entry.definition.clone()?).ok()?;
                let RelationName { schema, relation: tag } = name(entry)?;
                let object = match entry.kind.as_slice() {
                    b"INDEX" => Built::Index(RelationName::new(schema, tag)),
                    // Its tag is the table's name, a space, its own name.
                    b"CONSTRAINT" => {
                        Built::Constraint(tag.strip_prefix(&table.relation)?.strip_prefix(' ')?.to_owned())
                    }
                    _ => return None,
                };
                Some(Build::new(table, object, statements))
            };
            match build() {
                Some(build) => {
                    builds.push(build);
                    false
                }
                None => true,
            }
        });
        builds
    }
}

impl Build {
    /// A build from statements as pg_dump writes them.
    pub(in crate::act) fn new(table: RelationName, object: Built, statements: String) -> Self {
        let key = match &object {
            Built::Constraint(name) => Key::of(&table, name, &statements),
            Built::Index(_) => None,
        };
        Self { table, object, statements, key }
    }
}

impl Key {
    fn of(table: &RelationName, name: &str, statements: &str) -> Option<Self> {
        let KeyWords { table: table_word, name: name_word, kind, columns, rest } = plain_key(statements)?;
        Some(Self {
            index: RelationName::new(table.schema.clone(), name),
            build: format!("CREATE UNIQUE INDEX {name_word} ON {table_word} USING btree ({columns});"),
            promotion: format!(
                "ALTER TABLE ONLY {table_word} ADD CONSTRAINT {name_word} {kind} USING INDEX {name_word};{rest}"
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::archive;
    use super::*;

    #[test]
    fn indexes_and_keys_of_the_tables_meant_are_taken_out() {
        let index = "CREATE INDEX by_a ON public.t USING btree (a);\n";
        let key = "ALTER TABLE ONLY public.t\n    ADD CONSTRAINT \"t pk\" PRIMARY KEY (a);\n";
        let bytes = archive(
            16,
            &[
                ("t", "TABLE", "CREATE TABLE public.t (a int);\n"),
                ("by_a", "INDEX", index),
                ("t t pk", "CONSTRAINT", key),
                ("t t fk", "FK CONSTRAINT", "ALTER TABLE ONLY public.t ADD CONSTRAINT …;\n"),
            ],
        );
        let mut parsed = Archive::parse(&bytes).unwrap();
        assert_eq!(parsed.clone().take_builds(&BTreeSet::new()), [], "nothing was meant");
        let table = RelationName::new("public", "t");
        let builds = parsed.take_builds(&BTreeSet::from([table.clone()]));
        assert_eq!(builds.len(), 2);
        assert_eq!(builds[0].object, Built::Index(RelationName::new("public", "by_a")));
        assert_eq!((&builds[1].object, &builds[1].table), (&Built::Constraint("t pk".to_owned()), &table));
        assert_eq!(builds[1].statements, key);
        let key = builds[1].key.as_ref().unwrap();
        assert_eq!(key.index, RelationName::new("public", "t pk"));
        assert_eq!(key.build, "CREATE UNIQUE INDEX \"t pk\" ON public.t USING btree (a);");
        assert_eq!(
            key.promotion,
            "ALTER TABLE ONLY public.t ADD CONSTRAINT \"t pk\" PRIMARY KEY USING INDEX \"t pk\";\n"
        );
        assert_eq!(builds[0].key, None);
        assert_eq!(parsed.entry_count(), 2, "a foreign key needs two tables");
    }
}
