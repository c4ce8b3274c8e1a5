//! Tables that have another name on the other side.

use super::Definitions;
use crate::drift::{Change, Differences};
use crate::postgres::catalog::ObjectDefinition;

/// Whether it is a table whose rows travel, so that making it anew would not bring
/// them.
pub(super) fn holds_rows(definition: &ObjectDefinition) -> bool {
    definition.drop.starts_with("DROP TABLE ") && definition.create.is_empty()
}

/// Tables that only we have and tables that only they have, of the same schema with
/// the same columns, where there is no second one like them: ours, theirs.
pub(super) fn tables<'a>(
    differences: &Differences,
    published: &'a Definitions,
    followed: &'a Definitions,
) -> Vec<(&'a ObjectDefinition, &'a ObjectDefinition)> {
    let of = |wanted: Change, all: &'a Definitions| {
        let named = differences.iter().filter(move |(_, change)| **change == wanted);
        named.filter_map(|(identity, _)| all.get(identity)).filter(|table| holds_rows(table)).collect::<Vec<_>>()
    };
    let (missing, extra) = (of(Change::Missing, published), of(Change::Extra, followed));
    let alike = |ours: &ObjectDefinition, theirs: &ObjectDefinition| {
        ours.columns == theirs.columns && schema(&ours.table_name) == schema(&theirs.table_name)
    };
    let only = |found: Vec<&'a ObjectDefinition>| if let [one] = found.as_slice() { Some(*one) } else { None };
    let pair = |theirs: &&'a ObjectDefinition| {
        let ours = only(extra.iter().copied().filter(|ours| alike(ours, theirs)).collect())?;
        only(missing.iter().copied().filter(|theirs| alike(ours, theirs)).collect()).map(|theirs| (ours, theirs))
    };
    missing.iter().filter_map(pair).collect()
}

/// The relation of a qualified name, quoted as it is.
pub(super) fn relation(name: &str) -> &str {
    split(name).map_or(name, |(_, relation)| relation)
}

fn schema(name: &str) -> &str {
    split(name).map_or("", |(schema, _)| schema)
}

/// At the first full stop that is in no quotes.
fn split(name: &str) -> Option<(&str, &str)> {
    let mut quoted = false;
    let stop = name.char_indices().find(|(_, c)| {
        quoted ^= *c == '"';
        *c == '.' && !quoted
    });
    stop.map(|(place, _)| (&name[..place], &name[place + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_qualified_name_is_split_where_it_is_in_no_quotes() {
        assert_eq!(split("public.orders"), Some(("public", "orders")));
        assert_eq!(split("\"a.b\".\"c.\"\"d\""), Some(("\"a.b\"", "\"c.\"\"d\"")));
        assert_eq!(split("orders"), None);
    }
}
