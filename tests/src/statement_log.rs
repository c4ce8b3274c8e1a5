//! What a server was told: its log under `log_statement = all`, read back.

use std::collections::BTreeSet;

use anyhow::Result;

use crate::cluster::{Cluster, ClusterOptions};

/// Functions that change something, though they are called in a SELECT.
const CHANGING: &[&str] = &[
    "setval",
    "pg_terminate_backend",
    "pg_cancel_backend",
    "pg_create_logical_replication_slot",
    "pg_copy_logical_replication_slot",
    "pg_drop_replication_slot",
    "pg_replication_slot_advance",
    "pg_restore_relation_stats",
    "pg_restore_attribute_stats",
    "pg_clear_attribute_stats",
    "pg_logical_slot_get_binary_changes",
    "pg_logical_emit_message",
    "lo_",
];

/// Words that a statement without effect begins with: it reads, or concerns only its
/// session or transaction.
const WITHOUT_EFFECT: &[&str] = &[
    "SELECT",
    "SHOW",
    "SET",
    "RESET",
    "BEGIN",
    "START",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT",
    "RELEASE",
    "DECLARE",
    "FETCH",
    "CLOSE",
    "DISCARD",
    "DEALLOCATE",
    "PREPARE",
    "IDENTIFY_SYSTEM",
    "READ_REPLICATION_SLOT",
    "TIMELINE_HISTORY",
];

/// One statement as a server logged it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Logged {
    /// The session's `application_name`.
    pub application: String,
    /// Its role.
    pub role: String,
    /// What it said, parameters put in their places.
    pub statement: String,
}

/// A cluster that logs every statement and replication command.
#[must_use]
pub fn logging(options: ClusterOptions) -> ClusterOptions {
    options.setting("log_statement", "all").setting("log_replication_commands", "on")
}

/// Every statement that sessions of ours told a server, once each.
pub fn ours(cluster: &Cluster) -> Result<BTreeSet<Logged>> {
    let text = cluster.log_text()?;
    Ok(entries(&text)
        .filter(|logged| logged.application.starts_with("pgportage") || logged.role.starts_with("pgportage"))
        .flat_map(|logged| {
            let statements = split(&logged.statement).into_iter();
            let with_inner = statements.flat_map(|statement| [executed(&statement), Some(statement)]).flatten();
            with_inner.map(move |statement| Logged { statement, ..logged.clone() }).collect::<Vec<_>>()
        })
        .collect())
}

/// What a `DO` of ours executes inside the server, as if it had been sent: the
/// connection string comes from a table and stands for nothing here.
fn executed(statement: &str) -> Option<String> {
    let body = statement.strip_prefix("DO '")?.strip_suffix('\'')?.replace("''", "'");
    let (_, format) = body.split_once("EXECUTE format('")?;
    let (inner, _) = format.split_once("', line)")?;
    Some(inner.replace("''", "'").replace("%L", "'a connection'").replace("%%", "%"))
}

/// Whether a statement can have an effect beyond its session.
#[must_use]
pub fn changes_something(statement: &str) -> bool {
    let first = statement.split(|c: char| !c.is_ascii_alphabetic() && c != '_').next().unwrap_or_default();
    let word = first.to_ascii_uppercase();
    if word == "COPY" {
        return statement.contains(" FROM STDIN");
    }
    if word == "WITH" || WITHOUT_EFFECT.contains(&word.as_str()) {
        let writes =
            word == "WITH" && ["INSERT INTO ", "UPDATE ", "DELETE FROM "].iter().any(|it| statement.contains(it));
        return writes || CHANGING.iter().any(|name| statement.contains(&format!("{name}(")));
    }
    !word.is_empty()
}

/// The entries of a log that hold statements.
fn entries(text: &str) -> impl Iterator<Item = Logged> + '_ {
    let mut lines = text.lines().peekable();
    std::iter::from_fn(move || {
        loop {
            let line = lines.next()?;
            let Some((session, said)) = line.split_once(" LOG:  ") else { continue };
            let Some(statement) = statement_of(said) else { continue };
            let mut statement = statement.to_owned();
            let mut detail = String::new();
            let mut into_detail = false;
            while let Some(next) = lines.peek() {
                let target = if into_detail { &mut detail } else { &mut statement };
                if let Some(more) = next.strip_prefix('\t') {
                    target.push('\n');
                    target.push_str(more);
                } else if let Some((_, parameters)) = next.split_once(" DETAIL:  ")
                    && !into_detail
                {
                    detail = parameters.to_owned();
                    into_detail = true;
                } else {
                    break;
                }
                lines.next();
            }
            let (application, role) = session_of(session);
            return Some(Logged { application, role, statement: with_parameters(&statement, &detail) });
        }
    })
}

/// The statement of a message, if it holds one.
fn statement_of(said: &str) -> Option<&str> {
    if let Some(statement) = said.strip_prefix("statement: ") {
        return Some(statement);
    }
    if let Some(command) = said.strip_prefix("received replication command: ") {
        return Some(command);
    }
    said.strip_prefix("execute ").and_then(|prepared| prepared.split_once(": ")).map(|(_name, statement)| statement)
}

/// Application and role of a line's beginning: `time [pid] application role@database`.
fn session_of(prefix: &str) -> (String, String) {
    let session = prefix.split_once("] ").map_or("", |(_, session)| session).trim_end();
    let (application, account) = session.rsplit_once(' ').unwrap_or(("", session));
    let role = account.split_once('@').map_or(account, |(role, _)| role);
    (application.trim().to_owned(), role.to_owned())
}

/// Puts each parameter, as it was logged, where its number stands.
fn with_parameters(statement: &str, detail: &str) -> String {
    let mut statement = statement.to_owned();
    let parameters = detail.split_once("arameters: ").map_or("", |(_, parameters)| parameters);
    // The last number first: $1 is a part of $12.
    for (number, value) in parameters_of(parameters).into_iter().rev() {
        statement = statement.replace(&format!("${number}"), &value);
    }
    statement
}

/// Number and text of `$1 = 'a', $2 = NULL`, a quote within a value doubled.
fn parameters_of(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(begin) = rest.strip_prefix('$') {
        let Some((number, after)) = begin.split_once(" = ") else { break };
        let Ok(number) = number.parse() else { break };
        let end = match after.strip_prefix('\'') {
            Some(quoted) => {
                let mut end = None;
                let mut letters = quoted.char_indices().peekable();
                while let Some((at, letter)) = letters.next() {
                    if letter == '\'' && letters.next_if(|(_, next)| *next == '\'').is_none() {
                        end = Some(at + 2);
                        break;
                    }
                }
                end.unwrap_or(after.len())
            }
            None => after.find(',').unwrap_or(after.len()),
        };
        found.push((number, after[..end].to_owned()));
        rest = after[end..].trim_start_matches([',', ' ']);
    }
    found
}

/// One blank between any two words.
#[must_use]
pub fn collapsed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The statements of a message, comments left out.
fn split(text: &str) -> Vec<String> {
    let (mut statements, mut statement) = (Vec::new(), String::new());
    let mut quote = None;
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match (quote, letter) {
            (None, '-') if letters.peek() == Some(&'-') => {
                for _comment in letters.by_ref().take_while(|letter| *letter != '\n') {}
                statement.push(' ');
                continue;
            }
            (None, '\'' | '"') => quote = Some(letter),
            (Some(open), _) if open == letter => quote = None,
            (None, ';') => {
                statements.push(std::mem::take(&mut statement));
                continue;
            }
            (None | Some(_), _) => {}
        }
        statement.push(letter);
    }
    statements.push(statement);
    statements.iter().map(|statement| collapsed(statement)).filter(|statement| !statement.is_empty()).collect()
}

/// Whether a line of a plan stands for a statement: `…` is anything.
#[must_use]
pub fn matches(pattern: &str, statement: &str) -> bool {
    let pattern = collapsed(pattern);
    let mut pieces = pattern.split('…');
    let Some(mut rest) = pieces.next().and_then(|first| statement.strip_prefix(first)) else { return false };
    let pieces: Vec<&str> = pieces.collect();
    let Some((last, middle)) = pieces.split_last() else { return rest.is_empty() };
    for piece in middle {
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
2026-01-01 00:00:00.000 UTC [7] LOG:  starting
2026-01-01 00:00:00.000 UTC [8] pgportage control porter@shop LOG:  statement: BEGIN; DELETE
\tFROM a WHERE b = 'x;''y'; COMMIT
2026-01-01 00:00:00.000 UTC [8] pgportage control porter@shop LOG:  execute s0: SELECT setval($1, $2)
2026-01-01 00:00:00.000 UTC [8] pgportage control porter@shop DETAIL:  Parameters: $1 = 'it''s, $2', $2 = '5'
2026-01-01 00:00:00.000 UTC [9] psql app@shop LOG:  statement: DROP TABLE a
2026-01-01 00:00:00.000 UTC [9] a name pgportage_m@shop LOG:  received replication command: START_REPLICATION SLOT s
";

    #[test]
    fn entries_are_read_with_their_parameters() {
        let all: Vec<_> = entries(LOG).collect();
        assert_eq!(all.len(), 4);
        assert_eq!((all[0].application.as_str(), all[0].role.as_str()), ("pgportage control", "porter"));
        assert_eq!(split(&all[0].statement), ["BEGIN", "DELETE FROM a WHERE b = 'x;''y'", "COMMIT"]);
        assert_eq!((all[3].application.as_str(), all[3].role.as_str()), ("a name", "pgportage_m"));
        assert_eq!(parameters_of("$1 = 'it''s', $2 = NULL, $3 = '5'").len(), 3);
    }

    #[test]
    fn what_runs_inside_another_is_seen() {
        let inner = "EXECUTE format(''CREATE SUBSCRIPTION s CONNECTION %L WITH (slot_name = ''''a'''')'', line); END";
        let statement = format!("DO 'DECLARE line text; BEGIN {inner}'");
        assert_eq!(
            executed(&statement).as_deref(),
            Some("CREATE SUBSCRIPTION s CONNECTION 'a connection' WITH (slot_name = 'a')")
        );
        assert_eq!(executed("DO 'BEGIN END'"), None);
    }

    #[test]
    fn what_reads_changes_nothing() {
        for reads in ["SELECT 1", "BEGIN", "set a = 1", "COPY t TO STDOUT", "WITH a AS (SELECT 1) SELECT", "SHOW x"] {
            assert!(!changes_something(reads), "{reads}");
        }
        for writes in ["SELECT setval('a', 1)", "LOCK TABLE a", "COPY t FROM STDIN", "DO 'x'", "CREATE TABLE a ()"] {
            assert!(changes_something(writes), "{writes}");
        }
    }

    #[test]
    fn an_ellipsis_is_anything() {
        assert!(matches("CREATE ROLE a PASSWORD '…'", "CREATE ROLE a PASSWORD 'x y'"));
        assert!(matches("GRANT … TO …", "GRANT SELECT TO a"));
        assert!(!matches("GRANT … TO b", "GRANT SELECT TO a"));
        assert!(matches("DROP ROLE a", "DROP ROLE a"));
        assert!(!matches("DROP ROLE a", "DROP ROLE ab"));
    }
}
