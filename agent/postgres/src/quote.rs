//! Names and texts inside SQL.
//!
//! **Invariant:** every name or text from outside reaches a statement through this module or as a
//! parameter.

pub use pgportage_proto::{RelationName, quote_ident};

/// A text as an SQL literal, correct under either value of `standard_conforming_strings`.
pub fn quote_literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!(" E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals() {
        assert_eq!(quote_literal("it's"), "'it''s'");
        assert_eq!(quote_literal(r"a\'b"), r" E'a\\''b'");
    }
}
