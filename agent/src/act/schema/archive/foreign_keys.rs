//! The foreign keys of an archive, which are made without checking the rows and validated afterwards.

use std::collections::BTreeMap;

use pgportage_postgres::{RelationName, quote_ident};

use super::Archive;

/// A foreign key that is made `NOT VALID` and was valid on the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::act) struct ForeignKey {
    pub(in crate::act) table: RelationName,
    pub(in crate::act) name: String,
}

/// How the definition of a constraint ends that needs no validation: it was not valid on the source either,
/// or is not enforced.
const UNPROVED: [&str; 2] = [" NOT VALID", " NOT ENFORCED"];

impl Archive {
    /// Makes foreign keys `NOT VALID`, and returns those that have to be validated afterwards. Keys of
    /// partitioned tables only where the server supports that; otherwise they stay as they are. So does
    /// every key that is not written as pg_dump writes it.
    pub(in crate::act::schema) fn defer_foreign_keys(&mut self, of_partitioned: bool) -> Vec<ForeignKey> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
        let tables: BTreeMap<i64, RelationName> = self
            .entries
            .iter()
            .filter(|entry| entry.kind == b"TABLE")
            .filter_map(|entry| {
                Some((entry.number, RelationName::new(text(entry.schema.as_deref()?)?, text(&entry.tag)?)))
            })
            .collect();
        let mut deferred = Vec::new();
        for entry in self.entries.iter_mut().filter(|entry| entry.kind == b"FK CONSTRAINT") {
            let defer = || {
                let (tag, definition) = (text(&entry.tag)?, text(entry.definition.as_deref()?)?);
                let statement = definition.strip_suffix(";\n")?;
                if UNPROVED.iter().any(|end| statement.ends_with(end)) {
                    return None;
                }
                // It depends on both of its tables. The tag alone does not say for sure which of them it
                // belongs to.
                let key = entry.depends_on.iter().filter_map(|number| tables.get(number)).find_map(|table| {
                    let name = tag.strip_prefix(&table.relation)?.strip_prefix(' ')?;
                    let rest = format!("{table}\n    ADD CONSTRAINT {} FOREIGN KEY (", quote_ident(name));
                    let plain = statement.starts_with(&format!("ALTER TABLE ONLY {rest}"));
                    let partitioned = of_partitioned && statement.starts_with(&format!("ALTER TABLE {rest}"));
                    (plain || partitioned).then(|| ForeignKey { table: table.clone(), name: name.to_owned() })
                })?;
                Some((key, format!("{statement} NOT VALID;\n")))
            };
            if let Some((key, definition)) = defer() {
                entry.definition = Some(definition.into_bytes());
                deferred.push(key);
            }
        }
        deferred
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::archive;
    use super::*;

    fn definitions(archive: &Archive) -> Vec<String> {
        let definition = |bytes: &Option<Vec<u8>>| String::from_utf8(bytes.clone().unwrap()).unwrap();
        archive.entries.iter().filter(|e| e.kind == b"FK CONSTRAINT").map(|e| definition(&e.definition)).collect()
    }

    fn key(table: &str, name: &str) -> ForeignKey {
        ForeignKey { table: RelationName::new("public", table), name: name.to_owned() }
    }

    #[test]
    fn valid_keys_of_plain_tables_are_proved_later() {
        let plain = "ALTER TABLE ONLY public.t\n    ADD CONSTRAINT \"t's fk\" FOREIGN KEY (a) REFERENCES public.t(b) \
                     DEFERRABLE INITIALLY DEFERRED";
        let unproved =
            "ALTER TABLE ONLY public.t\n    ADD CONSTRAINT old FOREIGN KEY (a) REFERENCES public.t(b) NOT VALID";
        let unenforced =
            "ALTER TABLE ONLY public.t\n    ADD CONSTRAINT lax FOREIGN KEY (a) REFERENCES public.t(b) NOT ENFORCED";
        let partitioned = "ALTER TABLE public.t\n    ADD CONSTRAINT parts FOREIGN KEY (a) REFERENCES public.t(b)";
        let foreign = "ALTER TABLE ONLY public.other\n    ADD CONSTRAINT x FOREIGN KEY (a) REFERENCES public.t(b)";
        let statements = [plain, unproved, unenforced, partitioned, foreign].map(|text| format!("{text};\n"));
        let [plain, unproved, unenforced, partitioned, foreign] = statements.each_ref().map(String::as_str);
        let bytes = archive(
            16,
            &[
                ("t", "TABLE", "CREATE TABLE public.t (a int);\n"),
                ("t t's fk", "FK CONSTRAINT", plain),
                ("t old", "FK CONSTRAINT", unproved),
                ("t lax", "FK CONSTRAINT", unenforced),
                ("t parts", "FK CONSTRAINT", partitioned),
                ("t x", "FK CONSTRAINT", foreign),
            ],
        );
        let proved_later = |statement: &str| statement.replace(";\n", " NOT VALID;\n");
        let mut parsed = Archive::parse(&bytes).unwrap();
        assert_eq!(parsed.defer_foreign_keys(false), [key("t", "t's fk")]);
        let left = [&proved_later(plain), unproved, unenforced, partitioned, foreign];
        assert_eq!(definitions(&parsed), left);
        assert_eq!(Archive::parse(&parsed.to_bytes()).unwrap(), parsed);
        assert_eq!(parsed.defer_foreign_keys(false), [], "once");

        let mut parsed = Archive::parse(&bytes).unwrap();
        assert_eq!(parsed.defer_foreign_keys(true), [key("t", "t's fk"), key("t", "parts")]);
        let left = [&proved_later(plain), unproved, unenforced, &proved_later(partitioned), foreign];
        assert_eq!(definitions(&parsed), left);
    }

    /// A table `t u` with a constraint `fk`, and a table `t` with one called `u fk`.
    #[test]
    fn a_blank_in_a_name_is_nobodys_end() {
        let statement =
            "ALTER TABLE ONLY public.\"t u\"\n    ADD CONSTRAINT fk FOREIGN KEY (a) REFERENCES public.t(b);\n";
        let tables = [("t", "TABLE", "CREATE …"), ("t u", "TABLE", "CREATE …"), ("t u fk", "FK CONSTRAINT", statement)];
        let mut parsed = Archive::parse(&archive(16, &tables)).unwrap();
        for (number, entry) in parsed.entries.iter_mut().enumerate() {
            entry.number = i64::try_from(number).unwrap();
            entry.depends_on = vec![0, 1];
        }
        assert_eq!(parsed.defer_foreign_keys(false), [key("t u", "fk")]);
    }
}
