//! Names of relations, and names inside SQL: one quoting for findings, statements and
//! differences.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::v1;

/// Words that PostgreSQL 10 to 19 take for something else when they stand
/// unquoted where a name may stand (`pg_get_keywords()`, every category but
/// `U`). Those that begin with `json` or `xml` are recognised by that.
#[rustfmt::skip]
const KEYWORDS: &[&str] = &[
    "all", "analyse", "analyze", "and", "any", "array", "as", "asc", "asymmetric", "authorization", "between", "bigint",
    "binary", "bit", "boolean", "both", "case", "cast", "char", "character", "check", "coalesce", "collate", "collation",
    "column", "concurrently", "constraint", "create", "cross", "current_catalog", "current_date", "current_role",
    "current_schema", "current_time", "current_timestamp", "current_user", "dec", "decimal", "default", "deferrable",
    "desc", "distinct", "do", "else", "end", "except", "exists", "extract", "false", "fetch", "float", "for", "foreign",
    "freeze", "from", "full", "grant", "graph_table", "greatest", "group", "grouping", "having", "ilike", "in",
    "initially", "inner", "inout", "int", "integer", "intersect", "interval", "into", "is", "isnull", "join", "lateral",
    "leading", "least", "left", "like", "limit", "localtime", "localtimestamp", "merge_action", "national", "natural",
    "nchar", "none", "normalize", "not", "notnull", "null", "nullif", "numeric", "offset", "on", "only", "or", "order",
    "out", "outer", "overlaps", "overlay", "placing", "position", "precision", "primary", "real", "references",
    "returning", "right", "row", "select", "session_user", "setof", "similar", "smallint", "some", "substring",
    "symmetric", "system_user", "table", "tablesample", "then", "time", "timestamp", "to", "trailing", "treat", "trim",
    "true", "union", "unique", "user", "using", "values", "varchar", "variadic", "verbose", "when", "where", "window",
    "with",
];

/// A name as an SQL identifier. Names that need no quotes get none.
pub fn quote_ident(name: &str) -> String {
    let plain = name.starts_with(|first: char| first.is_ascii_lowercase() || first == '_')
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        && !name.starts_with("json")
        && !name.starts_with("xml")
        && KEYWORDS.binary_search(&name).is_err();
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// A table, sequence or other relation, by its names as PostgreSQL stores them.
/// `Display` gives the qualified SQL identifier.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RelationName {
    /// The schema, unquoted.
    pub schema: String,
    /// The relation, unquoted.
    pub relation: String,
}

impl RelationName {
    /// Takes two names, unquoted.
    pub fn new(schema: impl Into<String>, relation: impl Into<String>) -> Self {
        Self { schema: schema.into(), relation: relation.into() }
    }
}

impl fmt::Display for RelationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", quote_ident(&self.schema), quote_ident(&self.relation))
    }
}

impl From<v1::RelationName> for RelationName {
    fn from(name: v1::RelationName) -> Self {
        Self { schema: name.schema_name, relation: name.relation_name }
    }
}

impl From<RelationName> for v1::RelationName {
    fn from(name: RelationName) -> Self {
        Self { schema_name: name.schema, relation_name: name.relation }
    }
}

impl From<&RelationName> for v1::RelationName {
    fn from(name: &RelationName) -> Self {
        name.clone().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers() {
        for (name, quoted) in [
            ("orders", "orders"),
            ("_a1", "_a1"),
            ("Orders", "\"Orders\""),
            ("1a", "\"1a\""),
            ("", "\"\""),
            ("two words", "\"two words\""),
            ("say \"hi\"", "\"say \"\"hi\"\"\""),
            ("user", "\"user\""),
            ("json_value", "\"json_value\""),
            ("zeile\nzwei", "\"zeile\nzwei\""),
            ("größe", "\"größe\""),
        ] {
            assert_eq!(quote_ident(name), quoted);
        }
        assert!(KEYWORDS.is_sorted());
        assert_eq!(RelationName::new("public", "Order").to_string(), "public.\"Order\"");
    }
}
