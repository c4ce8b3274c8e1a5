//! Statements that make the subscriber's rows equal to the publisher's. Pure.
//!
//! Written for an operator, who reads them before running them: they hold rows as they were when the
//! difference was found.

use pgportage_data_plane::comparison::{ComparedTable, Difference, RowContent, RowKey};
use pgportage_postgres::{quote_ident, quote_literal};
use pgportage_proto::Side;

/// The comment above the statements for a side.
pub(super) fn header(side: Side) -> String {
    format!(
        "-- Makes the rows of the {side} those of the {other}, as they were when the\n\
         -- differences were found. Read it, run it on the {side} as a role that may\n\
         -- set session_replication_role, so that no trigger fires, then verify again.\n\
         SET session_replication_role = replica;\n\
         SET default_transaction_read_only = off;\n",
        other = side.other()
    )
}

/// The statement for one row. `content` is the publisher's row, if there is one. None when there is nothing
/// to correct any more.
pub(super) fn statement(
    table: &ComparedTable,
    difference: Difference,
    key: &RowKey,
    content: Option<&RowContent>,
) -> Option<String> {
    if table.key.is_empty() {
        let hash = key.0.join(" ");
        return Some(format!("-- {}: rows with hash {hash} are {difference}; no key says which.\n", table.name));
    }
    match difference {
        Difference::Extra => Some(format!("DELETE FROM ONLY {} WHERE {};\n", table.name, is(table, key))),
        Difference::Missing | Difference::Changed => content.map(|content| upsert(table, content)),
    }
}

fn is(table: &ComparedTable, key: &RowKey) -> String {
    let names: Vec<_> = table.key.iter().map(|name| quote_ident(name)).collect();
    let values: Vec<_> = key.0.iter().map(|value| quote_literal(value)).collect();
    format!("({}) = ({})", names.join(", "), values.join(", "))
}

fn upsert(table: &ComparedTable, content: &RowContent) -> String {
    let written: Vec<(String, String)> = table
        .columns
        .iter()
        .zip(&content.values)
        .filter(|(column, _)| !column.is_generated())
        .map(|(column, value)| {
            (column.name.clone(), value.as_ref().map_or_else(|| "NULL".to_owned(), |text| quote_literal(text)))
        })
        .collect();
    let names: Vec<_> = written.iter().map(|(name, _)| quote_ident(name)).collect();
    let values: Vec<_> = written.iter().map(|(_, value)| value.as_str()).collect();
    let key: Vec<_> = table.key.iter().map(|name| quote_ident(name)).collect();
    let set: Vec<_> = written
        .iter()
        .filter(|(name, _)| !table.key.contains(name))
        .map(|(name, _)| format!("{name} = excluded.{name}", name = quote_ident(name)))
        .collect();
    let otherwise = if set.is_empty() { "NOTHING".to_owned() } else { format!("UPDATE SET {}", set.join(", ")) };
    format!(
        "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE VALUES ({}) ON CONFLICT ({}) DO {otherwise};\n",
        table.name,
        names.join(", "),
        values.join(", "),
        key.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgportage_postgres::RelationName;

    fn table(key: &[&str]) -> ComparedTable {
        ComparedTable {
            name: RelationName::new("public", "order"),
            columns: crate::act::verify::columns(&["a", "b"], &["total"]),
            key: key.iter().map(|&name| name.to_owned()).collect(),
            size_bytes: 0,
        }
    }

    #[test]
    fn a_row_is_put_in_mended_or_taken_away() {
        let key = RowKey(vec!["it's".to_owned()]);
        let values = vec![Some("it's".to_owned()), None, Some("7".to_owned())];
        let content = RowContent { key: key.clone(), values };
        let table = table(&["a"]);
        let upsert = "INSERT INTO public.\"order\" (a, b) OVERRIDING SYSTEM VALUE VALUES ('it''s', NULL) \
                      ON CONFLICT (a) DO UPDATE SET b = excluded.b;\n";
        for difference in [Difference::Missing, Difference::Changed] {
            assert_eq!(statement(&table, difference, &key, Some(&content)).as_deref(), Some(upsert));
            assert_eq!(statement(&table, difference, &key, None), None, "the source has dropped it since");
        }
        let delete = "DELETE FROM ONLY public.\"order\" WHERE (a) = ('it''s');\n";
        assert_eq!(statement(&table, Difference::Extra, &key, None).as_deref(), Some(delete));
        let all = ComparedTable { key: vec!["a".to_owned(), "b".to_owned()], ..table.clone() };
        assert!(statement(&all, Difference::Missing, &key, Some(&content)).unwrap().ends_with("(a, b) DO NOTHING;\n"));
    }

    #[test]
    fn without_a_key_nobody_can_say_which_row() {
        let key = RowKey(vec!["1".to_owned(), "2".to_owned()]);
        let comment = statement(&table(&[]), Difference::Extra, &key, None).unwrap();
        assert!(comment.starts_with("-- public.\"order\": rows with hash 1 2 are extra"), "{comment}");
    }
}
