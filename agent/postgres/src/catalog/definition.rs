//! Definitions as different versions print them.
//!
//! The server prints expressions, views and rules from their parse trees, and versions differ in
//! parentheses and in whether a column is qualified with its table. Without both, the text is the same in
//! every version that was tried (14 to 18).

/// Brings a printed definition into a form in which equal definitions from different versions are equal
/// texts.
pub(super) fn normalise(definition: &str) -> String {
    let tokens = tokens(definition);
    let mut kept = Vec::with_capacity(tokens.len());
    let mut rest = tokens.as_slice();
    while let [token, tail @ ..] = rest {
        rest = match (*token, tail) {
            // The qualifier before a name.
            (_, [".", after @ ..]) if is_name(token) => after,
            ("(" | ")" | "." | ";", _) => tail,
            // Version 10 says PROCEDURE.
            ("EXECUTE", ["PROCEDURE", after @ ..]) => {
                kept.extend(["EXECUTE", "FUNCTION"]);
                after
            }
            _ => {
                kept.push(*token);
                tail
            }
        };
    }
    kept.join(" ")
}

fn is_name(token: &str) -> bool {
    token.starts_with(|first: char| first == '"' || first == '_' || first.is_alphabetic())
}

/// Splits at everything that separates words; quoted names and strings stay
/// whole.
fn tokens(definition: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = definition.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' | '\'' => quoted_length(rest, first),
            c if c == '_' || c.is_alphanumeric() => {
                rest.find(|c: char| !(c == '_' || c == '$' || c.is_alphanumeric())).unwrap_or(rest.len())
            }
            c => c.len_utf8(),
        };
        let (token, tail) = rest.split_at(length);
        tokens.push(token);
        rest = tail.trim_start();
    }
    tokens
}

/// Length of a quoted token, the quotes included. A doubled quote inside comes out as two tokens side by
/// side, which does not matter for a comparison.
fn quoted_length(text: &str, quote: char) -> usize {
    text.get(1..).and_then(|inner| inner.find(quote)).map_or(text.len(), |end| end + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_versions_print_differently() {
        // A view as 15 and 18 print it.
        assert_eq!(
            normalise(
                " SELECT orders.id,\n    orders.total\n   FROM shop.orders\n  WHERE (orders.total > (0)::numeric);"
            ),
            normalise(" SELECT id,\n    total\n   FROM shop.orders\n  WHERE total > 0::numeric;"),
        );
        assert_eq!(
            normalise("CREATE TRIGGER t EXECUTE PROCEDURE shop.f()"),
            normalise("CREATE TRIGGER t EXECUTE FUNCTION shop.f()"),
        );
    }

    #[test]
    fn what_makes_a_difference() {
        assert_ne!(normalise("a > 1"), normalise("a > 2"));
        assert_ne!(normalise("'a b'"), normalise("'a  b'"));
        assert_ne!(normalise("\"A b\".x"), normalise("\"A b\".y"));
        assert_eq!(normalise("\"A.b\".x"), "x");
        assert_eq!(normalise("'it''s (so)'"), "'it' 's (so)'");
        assert_eq!(normalise("0.5"), "0 5");
    }
}
