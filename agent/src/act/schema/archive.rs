//! The table of contents of a pg_dump archive, read and changed.
//!
//! A schema-only archive of the custom format is a header and a list of entries; each entry holds the
//! statements that make one object. Three things have to be changed before `pg_restore` gets it:
//!
//! - **`pg_attver`**: servers of November 2026 keep a private option of this name on every column. A
//!   `pg_dump` that does not know it writes `ALTER TABLE ONLY … ALTER COLUMN … SET (pg_attver=…)`, which no
//!   server accepts. The option is taken out of such statements, and out of nothing else: texts, function
//!   bodies and names that merely look like it stay.
//! - **Comments on extensions that another role has installed**: restoring them needs ownership of the
//!   extension, which a role without superuser does not have. The extension's own script has set them
//!   already.
//! - **The schema `public`, where the agent's role cannot act as its owner**: before version 15 it belongs
//!   to the bootstrap superuser, and only a superuser can give it to that role. The destination's own
//!   `public` stays with its owner.
//!
//! The layout is that of `pg_backup_archiver.c`, versions 1.12 (PostgreSQL 9.0) to 1.16 (17 and later).

mod builds;
mod foreign_keys;

use std::collections::BTreeSet;

pub(in crate::act) use self::builds::{Build, Built};
pub(in crate::act) use self::foreign_keys::ForeignKey;
use super::sql;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::act) struct Archive {
    /// Everything before the number of entries.
    header: Vec<u8>,
    integer_size: u8,
    entries: Vec<Entry>,
    /// The bytes after the entries. Empty in a schema-only archive.
    rest: Vec<u8>,
}

/// One entry, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    number: i64,
    /// The bytes up to the description.
    before: Vec<u8>,
    /// The object's name, as shown in listings.
    tag: Vec<u8>,
    /// Its kind, for example `TABLE`.
    kind: Vec<u8>,
    section: Vec<u8>,
    /// The statements that make the object. None for an entry without any.
    definition: Option<Vec<u8>>,
    schema: Option<Vec<u8>>,
    /// The bytes from the drop statement up to the owner.
    after: Vec<u8>,
    /// The owning role. None for an object without an owner.
    owner: Option<Vec<u8>>,
    /// Numbers of the entries that it depends on.
    depends_on: Vec<i64>,
    end: Vec<u8>,
}

/// What the restoring role may do on the destination.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rights {
    /// Extensions that it does not own.
    pub foreign_extensions: BTreeSet<String>,
    pub roles: BTreeSet<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// Statements from which `pg_attver` was taken.
    pub private_options: usize,
    /// Comments left out.
    pub comments: usize,
    /// Schemas left out, which stay as they are on the destination: `public` or none.
    pub schemas: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ArchiveError {
    /// It does not begin as an archive of the custom format does.
    NotAnArchive,
    /// Its layout is newer or older than those known here.
    UnknownVersion(u8, u8),
    /// It ends too early or contradicts itself.
    Broken,
}

impl std::fmt::Display for ArchiveError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotAnArchive => f.write_str("not an archive of pg_dump's custom format"),
            Self::UnknownVersion(major, minor) => write!(f, "archive version {major}.{minor} is not known"),
            Self::Broken => f.write_str("the archive is broken"),
        }
    }
}

impl std::error::Error for ArchiveError {}

impl Archive {
    /// Takes an archive apart. Every length in it is checked against the bytes that are there.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ArchiveError> {
        let mut reader = Reader { bytes, position: 0, integer_size: 0 };
        if reader.take(5).map_err(|_| ArchiveError::NotAnArchive)? != b"PGDMP" {
            return Err(ArchiveError::NotAnArchive);
        }
        let (major, minor, _revision) = (reader.byte()?, reader.byte()?, reader.byte()?);
        if major != 1 || !(12..=16).contains(&minor) {
            return Err(ArchiveError::UnknownVersion(major, minor));
        }
        reader.integer_size = reader.byte()?;
        let offset_size = reader.byte()?;
        let format = reader.byte()?;
        if !(1..=8).contains(&reader.integer_size) || format != 1 {
            return Err(ArchiveError::NotAnArchive);
        }
        if minor >= 15 {
            reader.byte()?; // Compression algorithm.
        } else {
            reader.integer()?; // Compression level.
        }
        for _part_of_the_creation_time in 0..7 {
            reader.integer()?;
        }
        for _database_server_tool in 0..3 {
            reader.text()?;
        }
        let header = bytes.get(..reader.position).ok_or(ArchiveError::Broken)?.to_vec();
        let count = usize::try_from(reader.integer()?).map_err(|_| ArchiveError::Broken)?;
        // No memory reserved for them up front: the number comes from the source.
        let mut entries = Vec::new();
        for _ in 0..count {
            entries.push(reader.entry(minor, offset_size)?);
        }
        let rest = bytes.get(reader.position..).ok_or(ArchiveError::Broken)?.to_vec();
        Ok(Self { header, integer_size: reader.integer_size, entries, rest })
    }

    /// Removes what the restoring role cannot restore.
    pub(super) fn clean(&mut self, rights: &Rights) -> Changes {
        let mut changes = Changes::default();
        let foreign: BTreeSet<Vec<u8>> = rights
            .foreign_extensions
            .iter()
            .map(|name| [b"EXTENSION ", sql::quote_as_pg_dump(name).as_bytes()].concat())
            .collect();
        self.entries.retain(|entry| {
            let comment = entry.kind == b"COMMENT" && foreign.contains(&entry.tag);
            let owner = entry.owner.as_deref().and_then(|owner| std::str::from_utf8(owner).ok());
            let acts_as_owner = owner.is_some_and(|owner| rights.roles.contains(owner));
            let schema = entry.kind == b"SCHEMA" && entry.tag == b"public" && !acts_as_owner;
            changes.comments += usize::from(comment);
            changes.schemas += usize::from(schema);
            !comment && !schema
        });
        for entry in &mut self.entries {
            if !matches!(entry.kind.as_slice(), b"TABLE" | b"MATERIALIZED VIEW" | b"FOREIGN TABLE" | b"VIEW" | b"INDEX")
            {
                continue;
            }
            if let Some(definition) = &entry.definition
                && let Some((cleaned, count)) = sql::without_private_option(definition)
            {
                changes.private_options += count;
                entry.definition = Some(cleaned);
            }
        }
        changes
    }

    /// The number of objects that it would make.
    pub(super) fn entry_count(&self) -> usize {
        self.entries.len()
    }

    /// Puts the archive together again.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.header.clone();
        self.put_integer(&mut bytes, self.entries.len() as u64, false);
        for entry in &self.entries {
            bytes.extend_from_slice(&entry.before);
            self.put_text(&mut bytes, Some(&entry.tag));
            self.put_text(&mut bytes, Some(&entry.kind));
            bytes.extend_from_slice(&entry.section);
            self.put_text(&mut bytes, entry.definition.as_deref());
            bytes.extend_from_slice(&entry.after);
            self.put_text(&mut bytes, entry.owner.as_deref());
            bytes.extend_from_slice(&entry.end);
        }
        bytes.extend_from_slice(&self.rest);
        bytes
    }

    fn put_integer(&self, bytes: &mut Vec<u8>, magnitude: u64, negative: bool) {
        bytes.push(u8::from(negative));
        bytes.extend(magnitude.to_le_bytes().iter().take(usize::from(self.integer_size)));
    }

    fn put_text(&self, bytes: &mut Vec<u8>, text: Option<&[u8]>) {
        match text {
            Some(text) => {
                self.put_integer(bytes, text.len() as u64, false);
                bytes.extend_from_slice(text);
            }
            None => self.put_integer(bytes, 1, true),
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
    integer_size: u8,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], ArchiveError> {
        let end = self.position.checked_add(count).ok_or(ArchiveError::Broken)?;
        let taken = self.bytes.get(self.position..end).ok_or(ArchiveError::Broken)?;
        self.position = end;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, ArchiveError> {
        self.take(1)?.first().copied().ok_or(ArchiveError::Broken)
    }

    /// One byte for the sign, then the magnitude, least significant byte first.
    fn integer(&mut self) -> Result<i64, ArchiveError> {
        let negative = self.byte()? != 0;
        let magnitude = self
            .take(usize::from(self.integer_size))?
            .iter()
            .rev()
            .try_fold(0_i64, |value, byte| value.checked_mul(256)?.checked_add(i64::from(*byte)))
            .ok_or(ArchiveError::Broken)?;
        Ok(if negative { -magnitude } else { magnitude })
    }

    /// The length, or minus one for none; then the bytes.
    fn text(&mut self) -> Result<Option<&'a [u8]>, ArchiveError> {
        match self.integer()? {
            ..0 => Ok(None),
            length => self.take(usize::try_from(length).map_err(|_| ArchiveError::Broken)?).map(Some),
        }
    }

    fn entry(&mut self, minor: u8, offset_size: u8) -> Result<Entry, ArchiveError> {
        let start = self.position;
        let number = self.integer()?;
        self.integer()?; // Whether it has data.
        self.text()?; // Oid of its catalog.
        self.text()?; // Its oid.
        let before = self.since(start)?;
        let tag = self.text()?.ok_or(ArchiveError::Broken)?.to_vec();
        let kind = self.text()?.ok_or(ArchiveError::Broken)?.to_vec();
        let start = self.position;
        self.integer()?; // Section.
        let section = self.since(start)?;
        let definition = self.text()?.map(<[u8]>::to_vec);
        let start = self.position;
        self.text()?; // Statement that drops it.
        self.text()?; // COPY statement.
        let schema = self.text()?.map(<[u8]>::to_vec);
        self.text()?; // Tablespace.
        if minor >= 14 {
            self.text()?; // Table access method.
        }
        if minor >= 16 {
            self.integer()?; // relkind.
        }
        let after = self.since(start)?;
        let owner = self.text()?.map(<[u8]>::to_vec);
        let start = self.position;
        self.text()?; // Whether it has oids.
        let mut depends_on = Vec::new();
        while let Some(text) = self.text()? {
            depends_on.extend(std::str::from_utf8(text).ok().and_then(|text| text.parse::<i64>().ok()));
        }
        self.take(1 + usize::from(offset_size))?; // Where its data is.
        let end = self.since(start)?;
        Ok(Entry { number, before, tag, kind, section, definition, schema, after, owner, depends_on, end })
    }

    fn since(&self, start: usize) -> Result<Vec<u8>, ArchiveError> {
        self.bytes.get(start..self.position).map(<[u8]>::to_vec).ok_or(ArchiveError::Broken)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn integer(value: i64) -> Vec<u8> {
        let mut bytes = vec![u8::from(value < 0)];
        bytes.extend(&value.unsigned_abs().to_le_bytes()[..4]);
        bytes
    }

    fn text(text: Option<&str>) -> Vec<u8> {
        text.map_or_else(|| integer(-1), |text| [integer(text.len() as i64), text.as_bytes().to_vec()].concat())
    }

    pub(super) fn archive(minor: u8, entries: &[(&str, &str, &str)]) -> Vec<u8> {
        let mut bytes = b"PGDMP".to_vec();
        bytes.extend([1, minor, 0, 4, 8, 1]);
        bytes.extend(if minor >= 15 { vec![1] } else { integer(-1) });
        (0..7).for_each(|n| bytes.extend(integer(n)));
        ["app", "15.20", "18.6"].iter().for_each(|part| bytes.extend(text(Some(part))));
        bytes.extend(integer(entries.len() as i64));
        for (tag, kind, definition) in entries {
            bytes.extend([integer(7), integer(0), text(Some("1259")), text(Some("16384"))].concat());
            bytes.extend([text(Some(tag)), text(Some(kind)), integer(2), text(Some(definition))].concat());
            bytes.extend([text(Some("DROP")), text(None), text(Some("public")), text(Some(""))].concat());
            if minor >= 14 {
                bytes.extend(text(Some("heap")));
            }
            if minor >= 16 {
                bytes.extend(integer(114));
            }
            bytes.extend([text(Some("postgres")), text(Some("false")), text(Some("7")), text(None)].concat());
            bytes.extend([3; 9]);
        }
        bytes
    }

    #[test]
    fn an_archive_of_every_version_survives_the_round_trip() {
        for minor in 12..=16 {
            let bytes = archive(
                minor,
                &[("t", "TABLE", "CREATE TABLE t ();\n"), ("v", "VIEW", "CREATE VIEW v AS SELECT 1;\n")],
            );
            let parsed = Archive::parse(&bytes).unwrap();
            assert_eq!((parsed.entry_count(), parsed.rest.len()), (2, 0), "version 1.{minor}");
            assert_eq!(parsed.to_bytes(), bytes, "version 1.{minor}");
        }
    }

    #[test]
    fn private_options_and_foreign_comments_are_taken_out() {
        let statement =
            "CREATE TABLE public.t (\n    a integer\n);\nALTER TABLE ONLY public.t ALTER COLUMN a SET (pg_attver=7);\n";
        let bytes = archive(
            16,
            &[
                ("t", "TABLE", statement),
                ("f()", "FUNCTION", statement),
                ("EXTENSION citext", "COMMENT", "COMMENT ON EXTENSION citext IS 'x';\n"),
                ("EXTENSION \"uuid-ossp\"", "COMMENT", "COMMENT ON EXTENSION \"uuid-ossp\" IS 'x';\n"),
                ("EXTENSION hstore", "COMMENT", "COMMENT ON EXTENSION hstore IS 'x';\n"),
            ],
        );
        let mut parsed = Archive::parse(&bytes).unwrap();
        let rights = Rights {
            foreign_extensions: BTreeSet::from(["citext".to_owned(), "uuid-ossp".to_owned()]),
            roles: BTreeSet::new(),
        };
        assert_eq!(parsed.clean(&rights), Changes { private_options: 1, comments: 2, schemas: 0 });
        let cleaned = Archive::parse(&parsed.to_bytes()).unwrap();
        assert_eq!(cleaned, parsed);
        assert_eq!(cleaned.entry_count(), 3);
        let definition = |index: usize| String::from_utf8(cleaned.entries[index].definition.clone().unwrap()).unwrap();
        assert_eq!(definition(0).trim_end(), "CREATE TABLE public.t (\n    a integer\n);");
        assert_eq!(definition(1), statement, "a function's body is nobody's business");
    }

    #[test]
    fn public_goes_along_only_with_an_owner_that_can_be_acted_as() {
        let bytes = archive(
            16,
            &[
                ("public", "SCHEMA", "-- *not* creating schema, since initdb creates it\n"),
                ("shop", "SCHEMA", "CREATE SCHEMA shop;\n"),
            ],
        );
        let kept = |roles: &[&str]| {
            let roles = roles.iter().map(ToString::to_string).collect();
            let mut parsed = Archive::parse(&bytes).unwrap();
            parsed.clean(&Rights { roles, ..Rights::default() });
            parsed.entry_count()
        };
        assert_eq!(kept(&["postgres"]), 2);
        assert_eq!(kept(&["app"]), 1, "another schema goes along whoever owns it");
    }

    #[test]
    fn what_is_not_an_archive_is_refused() {
        assert_eq!(Archive::parse(b"CREATE TABLE t ();"), Err(ArchiveError::NotAnArchive));
        assert_eq!(Archive::parse(b""), Err(ArchiveError::NotAnArchive));
        assert_eq!(Archive::parse(&archive(17, &[])), Err(ArchiveError::UnknownVersion(1, 17)));
        let whole = archive(16, &[("t", "TABLE", "CREATE TABLE t ();\n")]);
        for length in 11..whole.len() {
            assert!(Archive::parse(&whole[..length]).is_err(), "cut at {length}");
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(tail in proptest::collection::vec(any::<u8>(), 0..400), minor in 11_u8..18) {
            let mut bytes = b"PGDMP".to_vec();
            bytes.extend([1, minor, 0, 4, 8, 1]);
            bytes.extend(tail);
            if let Ok(archive) = Archive::parse(&bytes) {
                prop_assert_eq!(Archive::parse(&archive.to_bytes()).map(|again| again.to_bytes()), Ok(archive.to_bytes()));
            }
        }
    }
}
