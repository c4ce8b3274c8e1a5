//! The entries of a pooler's configuration file, read and changed in place.
//!
//! Pure. Only the values of host and port of the named entries change; everything else stays, byte for
//! byte. An entry that is taken back is as it was before.
//!
//! The format is that of `[databases]` in `pgbouncer.ini`: one entry a line, a name that may stand in
//! double quotes, and a value of `key=value` pairs whose values may stand in single quotes. A file that is
//! included there has no section header of its own.

use std::ops::Range;

use crate::policy::ServerAddress;

/// The port of a server, unless the entry names one.
const USUAL_PORT: u16 = 5432;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Problem {
    /// The file has no such entry.
    #[error("it has no entry {0:?} under [databases]")]
    Missing(String),
    #[error("the entry {0:?} cannot be read")]
    Unreadable(String),
    /// The file was changed in such a way that an entry cannot be taken back.
    #[error("the entry {0:?} is there another number of times than before")]
    Changed(String),
}

/// An entry: its name, and the position of its value in the text.
struct Entry {
    name: String,
    value: Range<usize>,
}

/// One `key=value`: the key, the value without quotes, and the position of the value, quotes included.
struct Pair {
    key: String,
    value: String,
    span: Range<usize>,
}

/// The address that an entry leads to. Of several entries with this name the last one counts, as in the
/// pooler itself.
pub(super) fn address(text: &str, name: &str) -> Result<ServerAddress, Problem> {
    let entry = named(text, name).pop().ok_or_else(|| Problem::Missing(name.to_owned()))?;
    let pairs = pairs(text, &entry)?;
    let last = |key: &str| pairs.iter().rev().find(|pair| pair.key == key).map(|pair| pair.value.as_str());
    let port = match last("port") {
        Some(port) => port.parse().map_err(|_| Problem::Unreadable(name.to_owned()))?,
        None => USUAL_PORT,
    };
    Ok(ServerAddress { host: last("host").unwrap_or_default().to_owned(), port })
}

pub(super) fn lead_to(text: &str, names: &[String], destination: &ServerAddress) -> Result<String, Problem> {
    let mut edits: Vec<(Range<usize>, String)> = Vec::new();
    for name in names {
        let entries = named(text, name);
        if entries.is_empty() {
            return Err(Problem::Missing(name.clone()));
        }
        for entry in entries {
            let pairs = pairs(text, &entry)?;
            let mut added = String::new();
            let mut set = |key: &str, value: &str, unless: Option<&str>| {
                let mut found = pairs.iter().filter(|pair| pair.key == key).peekable();
                if found.peek().is_none() && unless != Some(value) {
                    added.push_str(&format!(" {key}={}", quoted(value)));
                }
                edits.extend(found.map(|pair| (pair.span.clone(), quoted(value))));
            };
            set("host", &destination.host, None);
            set("port", &destination.port.to_string(), Some(&USUAL_PORT.to_string()));
            edits.push((entry.value.end..entry.value.end, added));
        }
    }
    Ok(apply(text, edits))
}

/// Gives the named entries of `text` the values that they have in `original`.
pub(super) fn take_back(text: &str, original: &str, names: &[String]) -> Result<String, Problem> {
    let mut edits = Vec::new();
    for name in names {
        let (now, before) = (named(text, name), named(original, name));
        if before.is_empty() {
            return Err(Problem::Missing(name.clone()));
        }
        if now.len() != before.len() {
            return Err(Problem::Changed(name.clone()));
        }
        edits.extend(now.into_iter().zip(before).map(|(now, before)| (now.value, original[before.value].to_owned())));
    }
    Ok(apply(text, edits))
}

/// Applies edits from the end, so that no edit moves another.
fn apply(text: &str, mut edits: Vec<(Range<usize>, String)>) -> String {
    edits.sort_by_key(|(span, _)| (span.start, span.end));
    edits.dedup();
    let mut text = text.to_owned();
    for (span, replacement) in edits.into_iter().rev() {
        text.replace_range(span, &replacement);
    }
    text
}

fn named(text: &str, name: &str) -> Vec<Entry> {
    entries(text).into_iter().filter(|entry| entry.name == name).collect()
}

/// Every entry of `[databases]`, or of a file that has no section before them.
fn entries(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut in_databases = true;
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let content = line.trim();
        if let Some(header) = content.strip_prefix('[') {
            in_databases = header.split(']').next() == Some("databases");
        } else if in_databases && !content.starts_with([';', '#', '%']) {
            entries.extend(
                entry(line).map(|Entry { name, value }| Entry { name, value: start + value.start..start + value.end }),
            );
        }
        start += line.len();
    }
    entries
}

/// `name = value`, where the value goes to the end of the line.
fn entry(line: &str) -> Option<Entry> {
    let from = line.find(|character: char| !character.is_whitespace())?;
    let (name, after) = match line[from..].strip_prefix('"') {
        Some(_) => unquote(line, from, '"')?,
        None => {
            let length = line[from..].find(['=', ' ', '\t'])?;
            (line[from..from + length].to_owned(), from + length)
        }
    };
    let value = line[after..].trim_start_matches([' ', '\t']).strip_prefix('=')?.trim_start_matches([' ', '\t']);
    let start = line.len() - value.len();
    Some(Entry { name, value: start..start + value.trim_end().len() })
}

fn pairs(text: &str, entry: &Entry) -> Result<Vec<Pair>, Problem> {
    let mut pairs = Vec::new();
    let value = &text[..entry.value.end];
    let mut at = entry.value.start;
    while let Some(key_start) = skip_blank(value, at) {
        let pair = pair(value, key_start).ok_or_else(|| Problem::Unreadable(entry.name.clone()))?;
        at = pair.span.end;
        pairs.push(pair);
    }
    Ok(pairs)
}

fn pair(text: &str, key_start: usize) -> Option<Pair> {
    let key_end =
        key_start + text[key_start..].find(|character: char| character == '=' || character.is_whitespace())?;
    let equals = skip_blank(text, key_end)?;
    text[equals..].strip_prefix('=')?;
    // Nothing after the last `=` is an empty value.
    let start = skip_blank(text, equals + 1).unwrap_or(text.len());
    let (value, end) = if text[start..].starts_with('\'') {
        unquote(text, start, '\'')?
    } else {
        let length = text[start..].find(char::is_whitespace).unwrap_or(text.len() - start);
        (text[start..start + length].to_owned(), start + length)
    };
    Some(Pair { key: text[key_start..key_end].to_owned(), value, span: start..end })
}

fn skip_blank(text: &str, from: usize) -> Option<usize> {
    text[from..].find(|character: char| !character.is_whitespace()).map(|length| from + length)
}

/// The text in quotes from `start` on, where a doubled quote stands for one, and the position after it.
fn unquote(text: &str, start: usize, quote: char) -> Option<(String, usize)> {
    let mut value = String::new();
    let mut characters = text[start + 1..].char_indices().peekable();
    while let Some((offset, character)) = characters.next() {
        if character != quote {
            value.push(character);
        } else if characters.next_if(|(_, next)| *next == quote).is_some() {
            value.push(quote);
        } else {
            return Some((value, start + 1 + offset + 1));
        }
    }
    None
}

fn quoted(value: &str) -> String {
    if value.is_empty() || value.contains(|character: char| character.is_whitespace() || character == '\'') {
        format!("'{}'", value.replace('\'', "''"))
    } else {
        value.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FILE: &str = "\
;; kept by hand
[databases]
; shop = host=commented
shop = host=10.0.0.1 port=5433 dbname=shop  \t
\"odd \"\"name\"\"\" =host = '/var/run/my socket'  user='it''s'
plain =
* = host=elsewhere

[pgbouncer]
shop = host=not-a-database
logfile = /var/log/shop.log ; host=1
%include /etc/pgbouncer/more.ini
";

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    fn destination() -> ServerAddress {
        ServerAddress { host: "10.9.9.9".to_owned(), port: 6543 }
    }

    #[test]
    fn only_host_and_port_of_the_named_entries_change() {
        let led = lead_to(FILE, &names(&["shop", "odd \"name\""]), &destination()).unwrap();
        let expected = FILE
            .replace("host=10.0.0.1 port=5433 dbname", "host=10.9.9.9 port=6543 dbname")
            .replace("host = '/var/run/my socket'  user='it''s'", "host = 10.9.9.9  user='it''s' port=6543");
        assert_eq!(led, expected);
        assert_eq!(address(&led, "shop").unwrap(), destination());
        assert_eq!(take_back(&led, FILE, &names(&["shop", "odd \"name\""])).unwrap(), FILE);
    }

    #[test]
    fn what_the_file_does_not_say_is_the_usual() {
        let usual = ServerAddress { host: String::new(), port: 5432 };
        assert_eq!(address(FILE, "plain").unwrap(), usual);
        let led = lead_to("shop =\n", &names(&["shop"]), &ServerAddress { host: "/a b".to_owned(), port: 5432 });
        assert_eq!(led.unwrap(), "shop = host='/a b'\n");
    }

    #[test]
    fn a_change_by_hand_since_then_stays() {
        let led = lead_to(FILE, &names(&["shop"]), &destination()).unwrap();
        let changed = led.replace("* = host=elsewhere", "* = host=elsewhere\nnew = host=more");
        let back = take_back(&changed, FILE, &names(&["shop"])).unwrap();
        assert_eq!(back, FILE.replace("* = host=elsewhere", "* = host=elsewhere\nnew = host=more"));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        assert_eq!(lead_to(FILE, &names(&["absent"]), &destination()), Err(Problem::Missing("absent".to_owned())));
        for broken in ["shop = host='10.0.0.1\n", "shop = host\n", "shop = host=a 'b'\n"] {
            let refused = lead_to(broken, &names(&["shop"]), &destination());
            assert_eq!(refused, Err(Problem::Unreadable("shop".to_owned())), "{broken}");
        }
        let twice = format!("shop = host=a\n{FILE}");
        assert_eq!(take_back(&twice, FILE, &names(&["shop"])), Err(Problem::Changed("shop".to_owned())));
    }

    /// Lines that may stand anywhere, some of them close to an entry.
    fn any_line() -> impl Strategy<Value = String> {
        prop_oneof![
            "[ \t]{0,3}",
            "[;#%][ -~]{0,20}",
            "[a-z_*]{1,8}[ \t]{0,2}=[ \t]{0,2}host=[a-z0-9.]{1,9}( port=[0-9]{1,4})?( user='[a-z ]{0,4}')?[ \t]{0,2}",
            "\\[[a-z]{1,9}\\]",
            "[ -~äß]{0,30}",
        ]
    }

    proptest! {
        #[test]
        fn leading_away_and_back_leaves_every_byte(
            before in prop::collection::vec(any_line(), 0..6),
            after in prop::collection::vec(any_line(), 0..6),
            gaps in prop::array::uniform4("[ \t]{0,2}"),
            host in "[a-z0-9./' ]{1,12}",
            port in 1_u16..,
            crlf: bool,
        ) {
            let [a, b, c, d] = gaps;
            let end = if crlf { "\r\n" } else { "\n" };
            // Upper case: no generated line has this name.
            let own = format!("[databases]{end}{a}SHOP{b}={c}pool_size=3 host=old{d}{end}");
            let lines = |lines: &[String]| lines.iter().map(|line| format!("{line}{end}")).collect::<String>();
            let text = format!("{}{own}{}", lines(&before), lines(&after));
            // A stray quote may make this name out of other characters.
            prop_assume!(text.matches("SHOP").count() == 1);
            let destination = ServerAddress { host, port };
            let led = lead_to(&text, &names(&["SHOP"]), &destination).unwrap();
            prop_assert_eq!(address(&led, "SHOP").unwrap(), destination);
            let (own_start, own_end) = (lines(&before).len(), text.len() - lines(&after).len());
            prop_assert_eq!(&led[..own_start], &text[..own_start]);
            prop_assert_eq!(&led[led.len() - (text.len() - own_end)..], &text[own_end..]);
            prop_assert_eq!(take_back(&led, &text, &names(&["SHOP"])).unwrap(), text);
        }
    }
}
