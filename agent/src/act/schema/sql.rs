//! As much of SQL's lexical structure as it takes to change statements that pg_dump wrote, and nothing else
//! in them.

const PRIVATE_OPTION: &[u8] = b"pg_attver";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    /// Blanks and comments.
    Space,
    /// An unquoted word or number.
    Word(&'a [u8]),
    /// A quoted identifier, a string, or a dollar-quoted string.
    Quoted,
    /// Anything else, one byte at a time.
    Symbol(u8),
}

#[derive(Clone, Copy, Debug)]
struct Piece<'a> {
    token: Token<'a>,
    start: usize,
    end: usize,
}

/// Removes `pg_attver` from every `ALTER … ALTER COLUMN … SET (…)` statement, and removes the whole
/// statement when it sets nothing else. None when there is nothing to remove.
pub(super) fn without_private_option(definition: &[u8]) -> Option<(Vec<u8>, usize)> {
    // The common case costs one scan.
    if !definition.windows(PRIVATE_OPTION.len()).any(|window| window == PRIVATE_OPTION) {
        return None;
    }
    let pieces = pieces(definition);
    let mut cleaned = Vec::with_capacity(definition.len());
    let (mut copied, mut count) = (0, 0);
    for statement in statements(&pieces) {
        let Some(edit) = edit(statement) else { continue };
        count += 1;
        match edit {
            Edit::Whole => {
                // The line break after the statement goes with it.
                let start = statement.first().map_or(copied, |piece| piece.start);
                cleaned.extend_from_slice(definition.get(copied..start)?);
                copied = statement.last().map_or(start, |piece| piece.end);
                if definition.get(copied) == Some(&b'\n') {
                    copied += 1;
                }
            }
            Edit::Part(start, end) => {
                cleaned.extend_from_slice(definition.get(copied..start)?);
                copied = end;
            }
        }
    }
    if count == 0 {
        return None;
    }
    cleaned.extend_from_slice(definition.get(copied..)?);
    Some((cleaned, count))
}

/// What is removed from a statement.
enum Edit {
    Whole,
    Part(usize, usize),
}

/// Recognises `ALTER [FOREIGN] TABLE [ONLY] name ALTER COLUMN name SET ( options ) ;`
/// and finds the private option in it.
fn edit(statement: &[Piece<'_>]) -> Option<Edit> {
    let significant: Vec<&Piece<'_>> = statement.iter().filter(|piece| piece.token != Token::Space).collect();
    let word = |index: usize, text: &[u8]| {
        significant
            .get(index)
            .is_some_and(|piece| matches!(piece.token, Token::Word(word) if word.eq_ignore_ascii_case(text)))
    };
    let symbol =
        |index: usize, byte: u8| significant.get(index).is_some_and(|piece| piece.token == Token::Symbol(byte));
    let name = |index: usize| {
        significant.get(index).is_some_and(|piece| matches!(piece.token, Token::Word(_) | Token::Quoted))
    };
    if !word(0, b"ALTER") {
        return None;
    }
    // A relation's name has one or two parts. No statement of pg_dump has `ALTER COLUMN name SET (`
    // anywhere else outside quotes.
    let set = (1..significant.len()).find(|index| {
        word(*index, b"ALTER")
            && word(index + 1, b"COLUMN")
            && name(index + 2)
            && word(index + 3, b"SET")
            && symbol(index + 4, b'(')
    })?;
    let open = set + 4;
    let close = (open..significant.len()).find(|index| symbol(*index, b')'))?;
    if !symbol(close + 1, b';') || close + 2 != significant.len() {
        return None;
    }
    // Options, separated by commas.
    let mut options: Vec<(usize, usize)> = Vec::new();
    let mut first = open + 1;
    for index in open + 1..=close {
        if index == close || symbol(index, b',') {
            options.push((first, index));
            first = index + 1;
        }
    }
    let found = options.iter().position(|(first, _)| word(*first, PRIVATE_OPTION))?;
    if options.len() == 1 {
        return Some(Edit::Whole);
    }
    let (first, after) = *options.get(found)?;
    let start_of = |index: usize| significant.get(index).map(|piece| piece.start);
    let end_of = |index: usize| significant.get(index).map(|piece| piece.end);
    // Removed with the comma and the blank after it; the last one with those before it.
    Some(if symbol(after, b',') {
        Edit::Part(start_of(first)?, start_of(after + 1)?)
    } else {
        Edit::Part(end_of(first.checked_sub(2)?)?, end_of(after.checked_sub(1)?)?)
    })
}

/// The parts of a statement that makes a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyWords<'a> {
    /// The table, as it was written.
    pub(super) table: &'a str,
    /// The key, as it was written.
    pub(super) name: &'a str,
    /// `PRIMARY KEY` or `UNIQUE`.
    pub(super) kind: &'static str,
    /// Its columns, as they were written.
    pub(super) columns: &'a str,
    /// The text after the statement.
    pub(super) rest: &'a str,
}

/// Recognises `ALTER TABLE ONLY name ADD CONSTRAINT name PRIMARY KEY|UNIQUE (columns);` at the beginning of
/// a text. None for a key with any further clause: how its nulls compare, what its index includes, when it
/// is checked.
pub(super) fn plain_key(text: &str) -> Option<KeyWords<'_>> {
    let pieces = pieces(text.as_bytes());
    let statement = *statements(&pieces).first()?;
    let mut left = statement.iter().filter(|piece| piece.token != Token::Space).peekable();
    let is = |piece: &Piece<'_>, expected: &str| match piece.token {
        Token::Word(word) => word.eq_ignore_ascii_case(expected.as_bytes()),
        Token::Symbol(symbol) => expected.as_bytes() == [symbol],
        Token::Space | Token::Quoted => false,
    };
    let is_name = |piece: &Piece<'_>| match piece.token {
        Token::Word(_) => true,
        Token::Quoted => text.as_bytes().get(piece.start) == Some(&b'"'),
        Token::Space | Token::Symbol(_) => false,
    };
    for expected in ["ALTER", "TABLE", "ONLY"] {
        left.next().filter(|piece| is(piece, expected))?;
    }
    let table = left.next().filter(|piece| is_name(piece))?;
    let mut table = (table.start, table.end);
    if left.next_if(|piece| is(piece, ".")).is_some() {
        table.1 = left.next().filter(|piece| is_name(piece))?.end;
    }
    for expected in ["ADD", "CONSTRAINT"] {
        left.next().filter(|piece| is(piece, expected))?;
    }
    let name = left.next().filter(|piece| is_name(piece))?;
    let kind = match left.next()? {
        word if is(word, "UNIQUE") => "UNIQUE",
        word if is(word, "PRIMARY") => left.next().filter(|word| is(word, "KEY")).map(|_| "PRIMARY KEY")?,
        _ => return None,
    };
    let open = left.next().filter(|piece| is(piece, "("))?;
    let close = loop {
        left.next().filter(|piece| is_name(piece))?;
        match left.next()? {
            comma if is(comma, ",") => {}
            close if is(close, ")") => break close,
            _ => return None,
        }
    };
    let end = left.next().filter(|piece| is(piece, ";"))?;
    Some(KeyWords {
        table: text.get(table.0..table.1)?,
        name: text.get(name.start..name.end)?,
        kind,
        columns: text.get(open.end..close.start)?,
        rest: text.get(end.end..)?,
    })
}

/// Splits at semicolons outside quotes. Blanks before a statement belong to no statement; the semicolon
/// belongs to its statement.
fn statements<'a, 'b>(pieces: &'b [Piece<'a>]) -> Vec<&'b [Piece<'a>]> {
    let mut found = Vec::new();
    let mut start = None;
    for (index, piece) in pieces.iter().enumerate() {
        if start.is_none() && piece.token != Token::Space {
            start = Some(index);
        }
        if piece.token == Token::Symbol(b';')
            && let Some(start) = start.take()
            && let Some(statement) = pieces.get(start..=index)
        {
            found.push(statement);
        }
    }
    found
}

fn is_word_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

fn is_word(byte: u8) -> bool {
    is_word_start(byte) || byte.is_ascii_digit() || byte == b'$'
}

/// Cuts a text into pieces, by PostgreSQL's rules with
/// `standard_conforming_strings` on, as pg_dump sets it.
fn pieces(text: &[u8]) -> Vec<Piece<'_>> {
    let mut found = Vec::new();
    let mut position = 0;
    while let Some(&byte) = text.get(position) {
        let next = text.get(position + 1).copied();
        let (token, end) = match byte {
            b'\'' => (Token::Quoted, closing_quote(text, position + 1, b'\'', false)),
            b'"' => (Token::Quoted, closing_quote(text, position + 1, b'"', false)),
            b'E' | b'e' if next == Some(b'\'') => (Token::Quoted, closing_quote(text, position + 2, b'\'', true)),
            b'$' => match dollar_quote(text, position) {
                Some(end) => (Token::Quoted, end),
                None => (Token::Symbol(byte), position + 1),
            },
            b'-' if next == Some(b'-') => (Token::Space, run(text, position, |byte| byte != b'\n')),
            b'/' if next == Some(b'*') => (Token::Space, closing_comment(text, position)),
            _ if byte.is_ascii_whitespace() => (Token::Space, run(text, position, |byte| byte.is_ascii_whitespace())),
            _ if is_word_start(byte) || byte.is_ascii_digit() => {
                let end = run(text, position, is_word);
                (Token::Word(text.get(position..end).unwrap_or_default()), end)
            }
            _ => (Token::Symbol(byte), position + 1),
        };
        found.push(Piece { token, start: position, end });
        position = end;
    }
    found
}

fn run(text: &[u8], start: usize, belongs: impl Fn(u8) -> bool) -> usize {
    text.iter().skip(start).position(|byte| !belongs(*byte)).map_or(text.len(), |length| start + length)
}

/// The end of a quoted piece. Doubled quotes stay inside; with `escapes`, so does a character after a
/// backslash.
fn closing_quote(text: &[u8], mut position: usize, quote: u8, escapes: bool) -> usize {
    while let Some(&byte) = text.get(position) {
        if escapes && byte == b'\\' {
            position += 2;
        } else if byte == quote {
            if text.get(position + 1) != Some(&quote) {
                return position + 1;
            }
            position += 2;
        } else {
            position += 1;
        }
    }
    text.len()
}

/// The end of `$tag$ … $tag$`, if one begins here.
fn dollar_quote(text: &[u8], start: usize) -> Option<usize> {
    let tag_end = run(text, start + 1, |byte| is_word(byte) && byte != b'$');
    if text.get(tag_end) != Some(&b'$') || text.get(start + 1).is_some_and(u8::is_ascii_digit) {
        return None;
    }
    let tag = text.get(start..=tag_end)?;
    let body = text.get(tag_end + 1..)?;
    Some(body.windows(tag.len()).position(|window| window == tag).map_or(text.len(), |at| tag_end + 1 + at + tag.len()))
}

/// The end of a comment. Comments nest.
fn closing_comment(text: &[u8], start: usize) -> usize {
    let mut depth = 0_usize;
    let mut position = start;
    while position < text.len() {
        match text.get(position..position + 2) {
            Some(b"/*") => {
                depth += 1;
                position += 2;
            }
            Some(b"*/") => {
                depth -= 1;
                position += 2;
                if depth == 0 {
                    return position;
                }
            }
            _ => position += 1,
        }
    }
    text.len()
}

/// A name as pg_dump writes it in a tag. Quoting a name that pg_dump leaves plain would do no harm
/// elsewhere, but a tag is compared as text. So lowercase words stay plain, as in `fmtId`.
pub(super) fn quote_as_pg_dump(name: &str) -> String {
    pgportage_postgres::quote_ident(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cleaned(text: &str) -> Option<String> {
        without_private_option(text.as_bytes()).map(|(bytes, _)| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn the_option_goes_and_its_neighbours_stay() {
        for (text, expected) in [
            ("ALTER TABLE ONLY public.w ALTER COLUMN a SET (pg_attver=26578936);\n", ""),
            (
                "ALTER TABLE ONLY public.w ALTER COLUMN b SET (pg_attver=26578936, n_distinct=-0.5);\n",
                "ALTER TABLE ONLY public.w ALTER COLUMN b SET (n_distinct=-0.5);\n",
            ),
            (
                "ALTER TABLE ONLY public.w ALTER COLUMN b SET (n_distinct=-0.5, pg_attver=26578936);\n",
                "ALTER TABLE ONLY public.w ALTER COLUMN b SET (n_distinct=-0.5);\n",
            ),
            (
                "ALTER TABLE ONLY public.w ALTER COLUMN b SET (n_distinct=-0.5, pg_attver=2, n_distinct_inherited='7');\n",
                "ALTER TABLE ONLY public.w ALTER COLUMN b SET (n_distinct=-0.5, n_distinct_inherited='7');\n",
            ),
            (
                "CREATE TABLE public.w (\n    a integer\n);\nALTER TABLE ONLY \"odd \"\" schema\".\"new\nline t\" ALTER COLUMN \"q\"\"c\" SET (pg_attver=2);\nALTER TABLE ONLY public.w ALTER COLUMN a SET STATISTICS 500;\n",
                "CREATE TABLE public.w (\n    a integer\n);\nALTER TABLE ONLY public.w ALTER COLUMN a SET STATISTICS 500;\n",
            ),
            ("ALTER FOREIGN TABLE ONLY public.w ALTER COLUMN a SET (pg_attver=1);\nx", "x"),
        ] {
            assert_eq!(cleaned(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_only_looks_like_it_stays() {
        for text in [
            "CREATE TABLE t (a text DEFAULT 'x;\nALTER TABLE ONLY t ALTER COLUMN a SET (pg_attver=7);');\n",
            "CREATE TABLE t (a text DEFAULT $q$;ALTER TABLE ONLY t ALTER COLUMN a SET (pg_attver=7);$q$);\n",
            "CREATE TABLE t (a text DEFAULT E'\\';ALTER TABLE ONLY t ALTER COLUMN a SET (pg_attver=7);');\n",
            "CREATE TABLE \";ALTER TABLE ONLY t ALTER COLUMN a SET (pg_attver=7);\" ();\n",
            "-- ;ALTER TABLE ONLY t ALTER COLUMN a SET (pg_attver=7);\nSELECT 1;\n",
            "/* /* */ ;ALTER TABLE ONLY t ALTER COLUMN a SET (pg_attver=7); */ SELECT 1;\n",
            "CREATE TABLE t (pg_attver integer);\nALTER TABLE ONLY t ALTER COLUMN pg_attver SET (n_distinct=1);\n",
            "ALTER TABLE ONLY t ALTER COLUMN a SET (n_distinct='pg_attver');\n",
            "ALTER TABLE ONLY t ALTER COLUMN a SET DEFAULT ('pg_attver');\n",
        ] {
            assert_eq!(cleaned(text), None, "{text}");
        }
    }

    #[test]
    fn plain_keys_are_recognised() {
        let text = "ALTER TABLE ONLY \"my s\".\"t;\"\n    ADD CONSTRAINT \"t (pk\" PRIMARY KEY (a, \"B,)\");\n\n\
                    ALTER TABLE \"my s\".\"t;\" CLUSTER ON \"t (pk\";\n";
        assert_eq!(
            plain_key(text),
            Some(KeyWords {
                table: "\"my s\".\"t;\"",
                name: "\"t (pk\"",
                kind: "PRIMARY KEY",
                columns: "a, \"B,)\"",
                rest: "\n\nALTER TABLE \"my s\".\"t;\" CLUSTER ON \"t (pk\";\n",
            })
        );
        assert_eq!(plain_key("ALTER TABLE ONLY t ADD CONSTRAINT u UNIQUE (a);").unwrap().kind, "UNIQUE");
    }

    #[test]
    fn keys_that_say_more_are_left_alone() {
        for key in [
            "UNIQUE NULLS NOT DISTINCT (a)",
            "UNIQUE (a) INCLUDE (b)",
            "PRIMARY KEY (a) WITH (fillfactor='70')",
            "PRIMARY KEY (a) DEFERRABLE INITIALLY DEFERRED",
            "PRIMARY KEY (a, b WITHOUT OVERLAPS)",
            "PRIMARY KEY USING INDEX i",
            "EXCLUDE USING gist (a WITH &&)",
            "CHECK ((a > 0))",
            "NOT NULL a",
            "PRIMARY KEY ()",
            "PRIMARY KEY (a,)",
            "PRIMARY KEY ('a')",
        ] {
            assert_eq!(plain_key(&format!("ALTER TABLE ONLY public.t\n    ADD CONSTRAINT k {key};\n")), None, "{key}");
        }
        assert_eq!(plain_key("ALTER TABLE public.t ADD CONSTRAINT k UNIQUE (a);"), None, "pg_dump says ONLY");
        assert_eq!(plain_key("ALTER TABLE ONLY t ADD CONSTRAINT k UNIQUE (a)"), None, "cut off");
        assert_eq!(plain_key(""), None);
    }

    proptest! {
        #[test]
        fn any_text_is_cut_without_gaps(text in "[a-zE$'\"\\\\;/*() \n-]{0,80}") {
            let mut position = 0;
            for piece in pieces(text.as_bytes()) {
                prop_assert_eq!(piece.start, position);
                prop_assert!(piece.end > piece.start);
                position = piece.end;
            }
            prop_assert!(position >= text.len());
        }
    }
}
